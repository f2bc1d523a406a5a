import { describe, expect } from "bun:test";
import { closeSync, openSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import type { Container } from "../../src/container.ts";
import { bind } from "../../src/mounts.ts";
import type { ProcessOptions } from "../../src/process.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { LOCKED_SECUREBITS, lastCapability } from "../../syscalls/linux/capability.ts";
import { makePipe } from "../../syscalls/linux/file.ts";
import { failure, openDescriptors, scratch, until } from "../attacks/arena.ts";
import { box, ending, PYTHON, root, said, shell, testBox, testPython } from "./box.ts";

/** Opens a file for the length of a block. */
const opened = (path: string, flags = "r") => new Descriptor(openSync(path, flags));

/** What a program finds in /proc/self/status. */
async function status(made: Container, options: ProcessOptions = {}): Promise<Record<string, string>> {
  const lines = (await said(made, "exec cat /proc/self/status", options)).split("\n");
  return Object.fromEntries(lines.map((line) => line.split(":\t").map((part) => part.trim()) as [string, string]));
}

/** The fields of /proc/self/stat from the third on, by their numbers in proc(5). */
async function stat(made: Container, options: ProcessOptions = {}): Promise<(field: number) => number> {
  const line = await said(made, "exec cat /proc/self/stat", options);
  const fields = line.slice(line.lastIndexOf(")") + 2).split(" ");
  return (field) => Number(fields[field - 3]);
}

describe("a program starts with", () => {
  testBox("its arguments, and the first of them as it is said", async () => {
    await using made = await box();
    const args = ["", "two words", "new\nline", "ünï", "'\"\\$`"];
    await using program = await made.exec(["/bin/cat", "/proc/self/cmdline"], { argv0: "kitten" });
    expect((await ending(program)).said).toBe("kitten\0/proc/self/cmdline\0");
    await using printing = await made.exec(["/usr/bin/printf", "%s\\0", ...args]);
    expect((await ending(printing)).said).toBe(args.map((each) => `${each}\0`).join(""));
    expect(await failure(made.exec(["/bin/true", "a\0b"]))).toBeInstanceOf(TypeError);
  });

  testBox("the environment that it is given, and nothing of ours", async () => {
    await using made = await box();
    await using program = await made.exec(["/usr/bin/env"], { env: { A: "1", EMPTY: "", "WITH SPACE": "a=b\nc" } });
    expect((await ending(program)).said).toBe("A=1\nEMPTY=\nWITH SPACE=a=b\nc");
    await using none = await made.exec(["/usr/bin/env"]);
    expect((await ending(none)).said).toBe("");
  });

  testBox("a directory by path or by descriptor, of which nothing else is left to it", async () => {
    using place = scratch();
    const path = place.directory("shown");
    writeFileSync(join(path, "file"), "");
    await using made = await box([bind(path, "/shown")]);
    expect(await said(made, "pwd")).toBe("/");
    expect(await said(made, "pwd; ls", { cwd: "/shown" })).toBe("/shown\nfile");
    expect(await failure(made.exec(["/bin/true"], { cwd: "/none" }))).toMatchObject({
      code: "ENOENT",
      syscall: "chdir",
    });
    using directory = opened(path);
    await using listing = await made.exec(["/bin/ls", ".", "/proc/self/fd"], { cwd: directory.number });
    expect((await ending(listing)).said).toBe(".:\nfile\n\n/proc/self/fd:\n0\n1\n2\n3");
    using file = opened(join(path, "file"));
    expect(await failure(made.exec(["/bin/true"], { cwd: file.number }))).toMatchObject({
      code: "ENOTDIR",
      syscall: "fchdir",
    });
  });

  testBox("its program by descriptor, which need not be inside and is not left to it", async () => {
    using place = scratch();
    writeFileSync(join(place.path, "list"), readFileSync(realpathSync("/bin/ls")), { mode: 0o755 });
    await using made = await box();
    using program = opened(join(place.path, "list"));
    await using listing = await made.exec(["ls", "/proc/self/fd"], { program: program.number });
    expect(await ending(listing)).toEqual({ said: "0\n1\n2\n3", complained: "", code: 0 });
    expect(await said(made, `test ! -e ${place.path}`)).toBe("");
    using text = opened("/proc/self/maps");
    expect(await failure(made.exec(["maps"], { program: text.number }))).toMatchObject({ code: "EACCES" });
  });

  testBox(
    "more descriptors at the numbers that it asks for, wherever ours and the puppet's stand, and no others",
    async () => {
      await using made = await box();
      using ours = opened("/proc/self/comm");
      const before = openDescriptors();
      for (const number of [3, 4, 5, 6, 7, 48, 49, 60, 61, 99, 100, 101, 150, 199, 200, 201, 210, 999]) {
        const script = `cat /proc/self/fd/${number}; ls /proc/self/fd`;
        const [name, ...numbers] = (await said(made, script, { descriptors: { [number]: ours.number } })).split("\n");
        expect([number, name]).toEqual([number, readFileSync("/proc/self/comm", "utf8").trim()]);
        const free = [0, 1, 2, number];
        const listing = [3, 4].find((each) => !free.includes(each))!;
        expect(numbers.map(Number).sort((a, b) => a - b)).toEqual([...free, listing].sort((a, b) => a - b));
        self.call("lseek", ours.number, 0, 0);
      }
      const many = Object.fromEntries(Array.from({ length: 45 }, (_, index) => [3 + index, ours.number]));
      const all = (await said(made, "ls /proc/self/fd", { descriptors: many })).split("\n");
      expect(all.length).toBe(49);
      expect(await failure(made.exec(["/bin/true"], { descriptors: { ...many, 60: ours.number } }))).toBeInstanceOf(
        RangeError,
      );
      expect(await failure(made.exec(["/bin/true"], { descriptors: { 5: 65000 } }))).toMatchObject({ code: "EBADF" });
      expect(await said(made, "echo on")).toBe("on");
      await until(() => openDescriptors() <= before);
    },
  );

  testBox("descriptors that cross: each where it is asked for", async () => {
    await using made = await box();
    using place = scratch();
    for (const name of ["a", "b", "c"]) writeFileSync(join(place.path, name), name);
    using a = opened(join(place.path, "a"));
    using b = opened(join(place.path, "b"));
    using c = opened(join(place.path, "c"));
    for (const order of [
      [a, b, c],
      [c, b, a],
      [b, c, a],
    ] as const) {
      const descriptors = { 5: order[0].number, 6: order[1].number, 7: order[2].number };
      const names = new Map([
        [a, "a"],
        [b, "b"],
        [c, "c"],
      ]);
      expect(await said(made, "cat <&5; cat <&6; cat <&7", { descriptors })).toBe(
        order.map((each) => names.get(each)).join(""),
      );
      for (const each of [a, b, c]) self.call("lseek", each.number, 0, 0);
    }
  });

  testBox("the umask that it is given, 022 where nothing is said", async () => {
    await using made = await box();
    expect(await said(made, "umask")).toBe("0022");
    expect(await said(made, "umask; : > /tmp/x; stat -c %a /tmp/x", { umask: 0o077 })).toBe("0077\n600");
  });

  testBox("limits that it is given", async () => {
    await using made = await box();
    const limits = async (options: ProcessOptions) => {
      const lines = (await said(made, "exec cat /proc/self/limits", options)).split("\n");
      return (name: string) =>
        lines
          .find((line) => line.startsWith(name))!
          .slice(26)
          .trim()
          .split(/\s+/)
          .slice(0, 2);
    };
    const given = await limits({
      rlimits: {
        NOFILE: 40,
        CPU: 7,
        FSIZE: 12345,
        DATA: 2 ** 30,
        STACK: 2 ** 20,
        CORE: 0,
        NPROC: 99,
        MSGQUEUE: 0,
        AS: 2 ** 40,
      },
    });
    expect(given("Max open files")).toEqual(["40", "40"]);
    expect(given("Max cpu time")).toEqual(["7", "7"]);
    expect(given("Max file size")).toEqual(["12345", "12345"]);
    expect(given("Max data size")).toEqual([`${2 ** 30}`, `${2 ** 30}`]);
    expect(given("Max stack size")).toEqual([`${2 ** 20}`, `${2 ** 20}`]);
    expect(given("Max processes")).toEqual(["99", "99"]);
    expect(given("Max msgqueue size")).toEqual(["0", "0"]);
    expect(given("Max address space")).toEqual([`${2 ** 40}`, `${2 ** 40}`]);
    expect(await failure(made.exec(["/bin/true"], { rlimits: { FILES: 1 } as never }))).toBeInstanceOf(TypeError);
    const large = await shell(made, "exec head -c 5000 /dev/zero > /tmp/x", { rlimits: { FSIZE: 4096 } });
    expect(large.code).toBe(128 + constants.signals.SIGXFSZ);
  });

  testBox("niceness, policy, processors and a turn at disks as they are said", async () => {
    await using made = await box();
    expect((await stat(made, { nice: 7 }))(19)).toBe(7);
    expect((await stat(made, { scheduler: { policy: "batch" } }))(41)).toBe(3);
    expect((await stat(made, { scheduler: { policy: "idle" } }))(41)).toBe(5);
    expect((await status(made, { affinity: [0] })).Cpus_allowed_list).toBe("0");
    await using program = await made.exec(["/bin/sleep", "1000"], { ioPriority: { class: "idle" } });
    // A class in three bits, behind thirteen of its level.
    expect(made.kernel.call("ioprio_get", 1, program.pid) >> 13).toBe(3);
    expect(await failure(made.exec(["/bin/true"], { affinity: [1000] }))).toMatchObject({ code: "EINVAL" });
  });

  testBox("a session of its own, a group of its own, or those of the puppet", async () => {
    await using made = await box();
    const of = async (session: "new" | "group" | "keep") => {
      const line = (await said(made, "read line < /proc/self/stat; echo $line", { session })).split(" ");
      return { pid: Number(line[0]), group: Number(line[4]), session: Number(line[5]), terminal: Number(line[6]) };
    };
    const fresh = await of("new");
    expect(fresh).toEqual({ pid: fresh.pid, group: fresh.pid, session: fresh.pid, terminal: 0 });
    const group = await of("group");
    expect(group).toEqual({ pid: group.pid, group: group.pid, session: 1, terminal: 0 });
    const kept = await of("keep");
    expect(kept).toEqual({ pid: kept.pid, group: 1, session: 1, terminal: 0 });
  });

  testBox("no signal ignored, blocked or caught", async () => {
    await using made = await box();
    const { SigBlk, SigIgn, SigCgt, ShdPnd } = await status(made);
    expect([SigBlk, SigIgn, SigCgt, ShdPnd]).toEqual(Array.from({ length: 4 }, () => "0".repeat(16)));
  });

  testPython("what its parent's end brings it: SIGKILL, or what is said", async () => {
    await using made = await box();
    const ask = "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)";
    const told = async (options: ProcessOptions) => {
      await using program = await made.exec([PYTHON, "-c", ask], options);
      return (await ending(program)).said;
    };
    expect(await told({})).toBe("9");
    expect(await told({ parentDeathSignal: "SIGTERM" })).toBe("15");
  });
});

describe("privileges", () => {
  const NONE = "0".repeat(16);
  const CAPS = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] as const;

  testBox("are none where nothing is said, in every set, also for user 0", async () => {
    for (const user of [0, 1000]) {
      await using made = await box([], { user });
      const found = await status(made);
      expect(CAPS.map((each) => found[each])).toEqual(CAPS.map(() => NONE));
      expect(found.NoNewPrivs).toBe("1");
    }
  });

  testBox("are those that are said, and stay over execve", async () => {
    await using made = await box();
    const full = ((1n << BigInt(lastCapability() + 1)) - 1n).toString(16).padStart(16, "0");
    const all = await status(made, { capabilities: "all" });
    expect(CAPS.map((each) => all[each])).toEqual(CAPS.map(() => full));
    const some = await status(made, { capabilities: "cap_kill,cap_net_admin=eip" });
    expect(CAPS.map((each) => some[each])).toEqual(CAPS.map(() => (0x1020).toString(16).padStart(16, "0")));
    // What they are good for, and what is refused without them.
    const mount = "mount -t tmpfs none /tmp && echo mounted";
    expect(await said(made, mount, { capabilities: "cap_sys_admin=eip" })).toBe("mounted");
    expect((await shell(made, mount)).complained).toMatch(/permission denied|must be superuser/i);
    expect(await failure(made.exec(["/bin/true"], { capabilities: "cap_kill=p" }))).toBeInstanceOf(TypeError);
  });

  testBox("may be gained by programs only where that is said", async () => {
    await using made = await box();
    expect((await status(made, { noNewPrivileges: false })).NoNewPrivs).toBe("0");
  });

  testPython("securebits are those that are said, and locked ones where nothing is kept", async () => {
    await using made = await box();
    const told = async (options: ProcessOptions) => {
      const argv = [PYTHON, "-c", "import ctypes; print(ctypes.CDLL(None).prctl(27, 0, 0, 0, 0))"];
      await using program = await made.exec(argv, options);
      return Number((await ending(program)).said);
    };
    expect(await told({})).toBe(LOCKED_SECUREBITS);
    expect(await told({ capabilities: "all" })).toBe(0);
    expect(await told({ capabilities: "all", securebits: ["noroot", "noroot_locked"] })).toBe(3);
    expect(await failure(made.exec(["/bin/true"], { securebits: ["nothing"] as never }))).toBeInstanceOf(TypeError);
  });

  testBox("user and group other than the first process's need ids that are mapped: EINVAL", async () => {
    await using made = await box();
    expect(await failure(made.exec(["/bin/true"], { user: 4242 }))).toMatchObject({
      code: "EINVAL",
      syscall: "setresuid",
    });
    expect(await failure(made.exec(["/bin/true"], { group: 4242 }))).toMatchObject({
      code: "EINVAL",
      syscall: "setresgid",
    });
    if (root) expect(await said(made, "id -G", { groups: [0] })).toBe("0");
  });

  testBox("seccomp filters are installed in their order, the last one asked first", async () => {
    await using made = await box();
    /** Answers one call with an errno: load its number, compare, return. */
    const refuses = (call: number, errno: number) => {
      const filter = new Uint8Array(32);
      const view = new DataView(filter.buffer);
      const put = (index: number, [code, jt, jf, k]: readonly [number, number, number, number]) => {
        view.setUint16(8 * index, code, true);
        view.setUint8(8 * index + 2, jt);
        view.setUint8(8 * index + 3, jf);
        view.setUint32(8 * index + 4, k, true);
      };
      put(0, [0x20, 0, 0, 0]);
      put(1, [0x15, 0, 1, call]);
      put(2, [0x06, 0, 0, 0x00050000 | errno]);
      put(3, [0x06, 0, 0, 0x7fff0000]);
      return filter;
    };
    const MKDIR = 83;
    expect((await shell(made, "mkdir /tmp/a")).code).toBe(0);
    const one = await shell(made, "mkdir /tmp/b", { seccomp: [refuses(MKDIR, constants.errno.EXDEV)] });
    expect(one.complained).toContain("Invalid cross-device link");
    const two = { seccomp: [refuses(MKDIR, constants.errno.EXDEV), refuses(MKDIR, constants.errno.ENOSPC)] };
    expect((await shell(made, "mkdir /tmp/b", two)).complained).toContain("No space left");
    expect((await status(made, two)).Seccomp_filters).toBe("2");
    expect(await failure(made.exec(["/bin/true"], { seccomp: [new Uint8Array(8)] }))).toMatchObject({ code: "EINVAL" });
  });
});

describe("streams", () => {
  testBox("stdin is nothing, bytes, a text, a stream, a pipe of ours, or a descriptor", async () => {
    await using made = await box();
    const cat = async (stdin: NonNullable<ProcessOptions["stdin"]>) => {
      await using program = await made.exec(["/bin/cat"], { stdin });
      return (await ending(program)).said;
    };
    expect(await cat("ignore")).toBe("");
    expect(await cat("a text with ünï")).toBe("a text with ünï");
    expect(await cat(new Uint8Array([104, 105]))).toBe("hi");
    expect(await cat(new Blob(["streamed ", "in pieces"]).stream())).toBe("streamed in pieces");
    using file = opened("/proc/self/comm");
    expect(`${await cat(file.number)}\n`).toBe(readFileSync("/proc/self/comm", "utf8"));
    await using program = await made.exec(["/bin/cat"], { stdin: "pipe" });
    const writer = program.stdin!.getWriter();
    for (const word of ["one ", "two ", "three"]) await writer.write(Buffer.from(word));
    await writer.close();
    expect((await ending(program)).said).toBe("one two three");
  });

  testBox("a program cannot write to the bytes that are its stdin, nor make them longer", async () => {
    await using made = await box();
    const writing = await shell(made, "echo x >&0 || echo refused", { stdin: "bytes" });
    expect(writing.said).toBe("refused");
    expect((await shell(made, "echo x > /proc/self/fd/0 || cat", { stdin: "bytes" })).said).toBe("bytes");
  });

  testBox("much goes in and out at once, whole", async () => {
    await using made = await box();
    const much = new Uint8Array(3_000_000).map((_, index) => (index * 7) % 253);
    await using program = await made.exec(["/bin/cat"], { stdin: new Blob([much]).stream() });
    const out = new Uint8Array(await new Response(program.stdout).arrayBuffer());
    expect(Bun.hash(out)).toBe(Bun.hash(much));
    expect(await program.exited).toBe(0);
  });

  testBox("a program that does not read to the end of a stream ends all the same", async () => {
    await using made = await box();
    const endless = new ReadableStream<Uint8Array>({ pull: (controller) => controller.enqueue(new Uint8Array(65536)) });
    await using program = await made.exec(["/usr/bin/head", "-c", "3"], { stdin: endless });
    expect(await ending(program)).toMatchObject({ said: "\0\0\0", code: 0 });
  });

  testBox("stdout and stderr are apart, and go to a descriptor, or nowhere", async () => {
    await using made = await box();
    expect(await shell(made, "echo out; echo err >&2")).toEqual({ said: "out", complained: "err", code: 0 });
    expect(await shell(made, "echo out; echo err >&2", { stdout: "ignore" })).toEqual({
      said: "",
      complained: "err",
      code: 0,
    });
    const { read, write } = makePipe(self);
    const to = new Descriptor(write);
    await using program = await made.exec(["/bin/echo", "into a pipe"], { stdout: to.number, stderr: to.number });
    to.close();
    expect(await Bun.file(read).text()).toBe("into a pipe\n");
    closeSync(read);
    expect(program.stdout).toBeUndefined();
    expect(await program.exited).toBe(0);
  });

  testBox('"inherit" is where ours goes', async () => {
    const script = `
      import { box } from ${JSON.stringify(join(import.meta.dir, "box.ts"))};
      await using made = await box();
      await using program = await made.exec(["/bin/cat"], { stdin: "inherit", stdout: "inherit", stderr: "inherit" });
      process.exitCode = await program.exited;
    `;
    const child = Bun.spawnSync([process.execPath, "-e", script], { stdin: Buffer.from("through both") });
    expect(child.stdout.toString()).toEndWith("through both");
    expect(child.exitCode).toBe(0);
  });

  testBox("the end of a stream is seen when the program ends, though its puppet goes on", async () => {
    await using made = await box();
    await using program = await made.exec(["/bin/sh", "-c", "echo x; exec sleep 0"]);
    expect(await new Response(program.stdout).text()).toBe("x\n");
  });
});

describe("the end of a program", () => {
  testBox("is its exit code, or the signal", async () => {
    await using made = await box();
    for (const code of [0, 1, 77, 255]) {
      await using program = await made.exec(["/bin/sh", "-c", `exit ${code}`]);
      expect([await program.exited, program.exitCode, program.signalCode]).toEqual([code, code, null]);
    }
    for (const signal of ["SIGTERM", "SIGINT", "SIGKILL", "SIGUSR1", "SIGSEGV"] as const) {
      await using program = await made.exec(["/bin/sleep", "1000"]);
      program.kill(signal);
      expect([await program.exited, program.exitCode, program.signalCode]).toEqual([
        128 + constants.signals[signal],
        null,
        signal,
      ]);
      program.kill(signal); // and again does nothing
    }
  });

  testBox("comes by an AbortSignal, and by the end of its block", async () => {
    await using made = await box();
    const controller = new AbortController();
    await using program = await made.exec(["/bin/sleep", "1000"], { signal: controller.signal });
    controller.abort();
    expect(await program.exited).toBe(137);
    expect(await failure(made.exec(["/bin/true"], { signal: AbortSignal.abort(new Error("never")) }))).toMatchObject({
      message: "never",
    });
    let ended: Promise<number>;
    {
      await using short = await made.exec(["/bin/sleep", "1000"]);
      ended = short.exited;
    }
    expect(await ended).toBe(137);
    expect(await said(made, "set -- /proc/[0-9]*; echo $#")).toBe("2");
  });

  testBox("kill() of one whose end was not yet told does nothing", async () => {
    await using made = await box();
    await using program = await made.exec(["/bin/true"]);
    await until(() => made.attempt((kernel) => kernel.call("kill", program.pid, 0)) instanceof Error);
    program.kill("SIGTERM");
    expect(await program.exited).toBe(0);
  });

  testBox("kill() refuses what is no signal, and sends nothing", async () => {
    await using made = await box();
    await using program = await made.exec(["/bin/sleep", "1000"]);
    const expected = "a number from 1 to 64 or a signal's name, such as SIGTERM is expected";
    for (const signal of ["SIGBOGUS", "TERM", "15", "toString", ["SIGTERM"], Number.NaN, -1, 0, 65, 1.5, {}, null])
      expect(() => program.kill(signal as never)).toThrow(
        new TypeError(
          `Cannot use ${typeof signal === "number" ? signal : Bun.inspect(signal)} as a signal: ${expected}`,
        ),
      );
    expect(() => program.kill("SIGTERM", "grup" as never)).toThrow(
      new TypeError('Cannot use "grup" as who is sent it: "group" is expected'),
    );
    expect(program.exit).toBeUndefined();
    program.kill(constants.signals.SIGUSR1);
    expect([await program.exited, program.exit]).toEqual([
      128 + constants.signals.SIGUSR1,
      { reason: "killed", by: "kill" },
    ]);
  });

  testBox("tells what it used: its processor time and its peak", async () => {
    await using made = await box();
    await using idle = await made.exec(["/bin/true"]);
    await idle.exited;
    const script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    await using busy = await made.exec(["/bin/sh", "-c", script]);
    await busy.exited;
    expect(busy.usage().cpuMs).toBeGreaterThan(idle.usage().cpuMs);
    expect(idle.usage().peakBytes).toBeWithin(2 ** 18, 2 ** 25);
    await using sorting = await made.exec(
      ["/bin/sh", "-c", "x=$(head -c 30000000 /dev/zero | tr '\\0' x); printf %s $x | wc -c"],
      {
        env: { PATH: "/usr/bin:/bin" },
      },
    );
    expect((await ending(sorting)).said).toBe("30000000");
    expect(sorting.usage().peakBytes).toBeGreaterThan(30_000_000);
  });
});

describe("a terminal", () => {
  const SIZE = { columns: 101, rows: 33 };
  /** What it prints until the end. */
  async function printed(program: {
    terminal: { readonly readable: ReadableStream<Uint8Array> } | undefined;
  }): Promise<string> {
    return (await new Response(program.terminal!.readable).text()).replaceAll("\r\n", "\n");
  }

  testBox("is the program's own, of the size that is said, and follows", async () => {
    await using made = await box();
    const script = "stty size; tty; trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done";
    await using program = await made.exec(["/bin/sh", "-c", script], {
      terminal: SIZE,
      env: { PATH: "/usr/bin:/bin" },
    });
    let text = "";
    const decoder = new TextDecoder();
    const reader = program.terminal!.readable.getReader();
    const read = async (end: string) => {
      while (!text.includes(end)) {
        const { value, done } = await reader.read();
        if (done) break;
        text += decoder.decode(value);
      }
    };
    await read("ready");
    expect(text).toStartWith("33 101\r\n");
    program.terminal!.resize({ columns: 55, rows: 22 });
    await read("22 55");
    expect(text).toContain("22 55");
    expect(await program.exited).toBe(0);
  });

  testBox("takes what is typed, and its keys are signals", async () => {
    await using made = await box();
    await using program = await made.exec(["/bin/cat"], { terminal: SIZE });
    await program.terminal!.write(Buffer.from("typed\n\x04"));
    expect(await printed(program)).toBe("typed\ntyped\n");
    expect(await program.exited).toBe(0);
    await using sleeping = await made.exec(["/bin/sleep", "1000"], { terminal: SIZE });
    await sleeping.terminal!.write(Buffer.from("\x03"));
    expect(await sleeping.exited).toBe(130);
    expect(sleeping.signalCode).toBe("SIGINT");
  });

  testBox("one after the other is had by programs of one container", async () => {
    await using made = await box();
    for (let round = 0; round < 5; round++) {
      await using program = await made.exec(["/bin/echo", `${round}`], { terminal: SIZE });
      expect(await printed(program)).toBe(`${round}\n`);
      expect(await program.exited).toBe(0);
    }
  });

  testBox("Ctrl-Z stops the program, that is told, and it goes on", async () => {
    await using made = await box();
    await using program = await made.exec(["/bin/cat"], { terminal: SIZE });
    const stopped = Promise.withResolvers<number>();
    program.onStop(stopped.resolve);
    await program.terminal!.write(Buffer.from("\x1a"));
    expect(await stopped.promise).toBe(constants.signals.SIGTSTP);
    expect(program.exitCode).toBeNull();
    program.kill("SIGCONT");
    await program.terminal!.write(Buffer.from("on\n\x04"));
    expect(await printed(program)).toContain("on\non\n");
    expect(await program.exited).toBe(0);
  });

  testBox("SIGSTOP is told as well", async () => {
    await using made = await box();
    await using program = await made.exec(["/bin/sleep", "1000"]);
    const stopped = Promise.withResolvers<number>();
    program.onStop(stopped.resolve);
    program.kill("SIGSTOP");
    expect(await stopped.promise).toBe(constants.signals.SIGSTOP);
    program.kill("SIGTERM");
    program.kill("SIGCONT");
    expect(await program.exited).toBe(143);
  });
});
