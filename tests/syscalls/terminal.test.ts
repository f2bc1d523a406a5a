import { cc, dlopen, type Pointer, toArrayBuffer } from "bun:ffi";
import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isatty } from "node:tty";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { type Kernel, self } from "../../syscalls/kernel.ts";
import { F, FD, IOCTL } from "../../syscalls/linux/numbers.ts";
import { createSession } from "../../syscalls/linux/process.ts";
import {
  CFLAG,
  IFLAG,
  LFLAG,
  OFLAG,
  openPeer,
  openPty,
  ptyNumber,
  rawModes,
  setControllingTerminal,
  setForegroundGroup,
  setTerminalModes,
  setWindowSize,
  terminalModes,
  windowSize,
} from "../../syscalls/linux/terminal.ts";
import type { Memory } from "../../syscalls/struct.ts";
import { descriptorsOf, hold, testPuppet } from "../platform/strings.ts";
import { Recorder, reporting } from "./recorder.ts";
import { testIf } from "./requirement.ts";

function pair(): Disposable & { readonly master: number; readonly peer: number } {
  const master = new Descriptor(openPty(self));
  const peer = new Descriptor(openPeer(self, master.number));
  return {
    master: master.number,
    peer: peer.number,
    [Symbol.dispose]() {
      peer.close();
      master.close();
    },
  };
}

test("openPty() and openPeer() give the two ends of one terminal, close-on-exec and controlling nobody", () => {
  using ends = pair();
  expect(isatty(ends.peer)).toBe(true);
  expect(readlinkSync(`/proc/self/fd/${ends.peer}`)).toEndWith(`/${ptyNumber(self, ends.master)}`);
  for (const end of [ends.master, ends.peer]) expect(self.call("fcntl", end, F.GETFD, 0)).toBe(FD.CLOEXEC);
  expect(() => self.call("ioctl", ends.peer, IOCTL.TIOCGSID, new Uint8Array(4))).toThrow("ENOTTY: ioctl");
  self.call("write", ends.peer, "out", 3);
  const bytes = new Uint8Array(16);
  expect(Buffer.from(bytes.subarray(0, self.call("read", ends.master, bytes, 16))).toString()).toBe("out");
});

test("openPty() throws ENOENT where there is no such file, and openPeer() ENOTTY for what is no terminal", () => {
  expect(() => openPty(self, "/nowhere/ptmx")).toThrow("ENOENT: openat");
  const pipe = new Int32Array(2);
  self.call("pipe2", new Uint8Array(pipe.buffer), 0);
  using from = new Descriptor(pipe[0]!);
  using to = new Descriptor(pipe[1]!);
  expect(() => openPeer(self, from.number)).toThrow("ENOTTY: ioctl");
  expect(() => terminalModes(self, to.number)).toThrow("ENOTTY: ioctl");
});

test("a size is seen at the other end", () => {
  using ends = pair();
  expect(windowSize(self, ends.peer)).toEqual({ columns: 0, rows: 0 });
  setWindowSize(self, ends.master, { columns: 132, rows: 50 });
  expect(windowSize(self, ends.peer)).toEqual({ columns: 132, rows: 50 });
});

test("rawModes() stops echo, lines and signals; the modes before come back whole", () => {
  using ends = pair();
  const before = terminalModes(self, ends.peer);
  expect(before.lflag & LFLAG.ICANON).toBe(LFLAG.ICANON);
  expect(before.intr).toBe(3);
  setTerminalModes(self, ends.peer, rawModes(before));
  self.call("write", ends.master, "\x03\r", 2);
  const bytes = new Uint8Array(16);
  expect([...bytes.subarray(0, self.call("read", ends.peer, bytes, 16))]).toEqual([3, 13]);
  const echoed = new Uint8Array(4);
  self.call("ioctl", ends.master, IOCTL.FIONREAD, echoed);
  expect([...echoed]).toEqual([0, 0, 0, 0]);
  setTerminalModes(self, ends.master, before);
  expect(terminalModes(self, ends.peer)).toEqual(before);
});

testPuppet(
  "setControllingTerminal() is for leaders of a session without one, setForegroundGroup() for its groups",
  () => {
    using ends = pair();
    using puppet = hold(0n, [ends.peer]);
    const terminal = Object.values(descriptorsOf(puppet.pid)).findIndex((path) => path.startsWith("/dev/pts/"));
    const foreground = () => {
      const group = new Int32Array(1);
      self.call("ioctl", ends.master, IOCTL.TIOCGPGRP, new Uint8Array(group.buffer));
      return group[0];
    };
    expect(() => setControllingTerminal(puppet.kernel, terminal)).toThrow("EPERM: ioctl");
    createSession(puppet.kernel);
    expect(() => setForegroundGroup(puppet.kernel, terminal, puppet.pid)).toThrow("ENOTTY: ioctl");
    setControllingTerminal(puppet.kernel, terminal);
    expect(foreground()).toBe(puppet.pid);
    expect(() => setForegroundGroup(puppet.kernel, terminal, process.pid)).toThrow("EPERM: ioctl");
    setForegroundGroup(puppet.kernel, terminal, puppet.pid);
    setForegroundGroup(puppet.kernel, terminal, new Uint8Array(Int32Array.of(puppet.pid).buffer));
    expect(foreground()).toBe(puppet.pid);
  },
);

const HEADER = "/usr/include/asm-generic/termbits.h";
const testC = testIf("cc", existsSync(HEADER), "there are no headers of the kernel (Debian: linux-libc-dev)");

/** What C makes of structs and constants, as 64-bit numbers or as bytes. */
function compiled(body: string): (name: string) => bigint {
  const directory = mkdtempSync(join(tmpdir(), "caisson-terminal-"));
  try {
    const source = join(directory, "terminal.c");
    writeFileSync(source, `#include <linux/termios.h>\n#include <string.h>\n${body}`);
    const names = [...body.matchAll(/unsigned long (\w+)\(void\)/g)].map(([, name]) => name!);
    const { symbols } = cc({
      source,
      symbols: Object.fromEntries(names.map((name) => [name, { args: [], returns: "u64" as const }])),
    });
    // The types of cc() read a table that is written out, not one that is made.
    const call = symbols as unknown as Record<string, () => bigint>;
    return (name) => call[name]!();
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function written(act: (kernel: Kernel) => void): Uint8Array {
  const recorder = new Recorder();
  act(recorder);
  return (recorder.calls[0]![3] as Memory).bytes;
}

/** The control characters by their names in C, with the value that C is to write at each. */
const CHARACTERS = [
  ["intr", "VINTR"], ["quit", "VQUIT"], ["erase", "VERASE"], ["kill", "VKILL"], ["eof", "VEOF"], ["time", "VTIME"],
  ["min", "VMIN"], ["swtc", "VSWTC"], ["start", "VSTART"], ["stop", "VSTOP"], ["susp", "VSUSP"], ["eol", "VEOL"],
  ["reprint", "VREPRINT"], ["discard", "VDISCARD"], ["werase", "VWERASE"], ["lnext", "VLNEXT"], ["eol2", "VEOL2"],
] as const; // biome-ignore format: a table

testC("structs and flags are those of C", () => {
  const flags = Object.entries({ ...IFLAG, ...OFLAG, ...CFLAG, ...LFLAG });
  const call = compiled(`
    static struct termios2 t; static struct winsize w;
    unsigned long termios2_size(void) { return sizeof t; }
    unsigned long winsize_size(void) { return sizeof w; }
    unsigned long termios2(void) {
      memset(&t, 0, sizeof t);
      t.c_iflag = 0x80000001; t.c_oflag = 2; t.c_cflag = 3; t.c_lflag = 4; t.c_line = 5; t.c_ispeed = 38400; t.c_ospeed = 115200;
      ${CHARACTERS.map(([, name], index) => `t.c_cc[${name}] = ${100 + index};`).join(" ")}
      return (unsigned long)&t;
    }
    unsigned long winsize(void) { w.ws_row = 50; w.ws_col = 132; return (unsigned long)&w; }
    ${flags.map(([name]) => `unsigned long flag_${name}(void) { return ${name}; }`).join("\n")}`);
  const bytes = (name: string) =>
    new Uint8Array(toArrayBuffer(Number(call(name)) as Pointer, 0, Number(call(`${name}_size`)))).slice();

  const characters = Object.fromEntries(CHARACTERS.map(([name], index) => [name, 100 + index]));
  const modes = terminalModes(reporting(2, bytes("termios2")), 3);
  expect(modes).toMatchObject({
    iflag: 0x80000001,
    oflag: 2,
    cflag: 3,
    lflag: 4,
    line: 5,
    ispeed: 38400,
    ospeed: 115200,
    ...characters,
  });
  expect(written((kernel) => setTerminalModes(kernel, 3, modes))).toEqual(bytes("termios2"));
  expect(written((kernel) => setWindowSize(kernel, 3, { columns: 132, rows: 50 }))).toEqual(bytes("winsize"));
  for (const [name, value] of flags) expect([name, call(`flag_${name}`)]).toEqual([name, BigInt(value)]);
});

test("rawModes() is what cfmakeraw(3) makes of every flag", () => {
  const libc = dlopen("libc.so.6", { cfmakeraw: { args: ["ptr"], returns: "void" } });
  // The libc's struct begins as the kernel's does: flags, line, and the control characters up to eol2.
  const HEAD = 17 + 17;
  const full = new Uint8Array(60).fill(0xff);
  const modes = rawModes(terminalModes(reporting(2, full.slice(0, 44)), 3));
  libc.symbols.cfmakeraw(full);
  const ours = written((kernel) => setTerminalModes(kernel, 3, modes));
  expect(Buffer.from(ours.subarray(0, HEAD))).toEqual(Buffer.from(full.subarray(0, HEAD)));
});
