import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import type { ReadableStreamDefaultReader } from "node:stream/web";
import { Pty } from "../../src/pty.ts";
import { self } from "../../syscalls/kernel.ts";
import { openPeer, openPty, rawModes, setTerminalModes, terminalModes } from "../../syscalls/linux/terminal.ts";
import { testIf } from "../syscalls/requirement.ts";

const open = () => readdirSync("/proc/self/fd").length;
const testSession = testIf("setsid", Bun.which("setsid") !== null, "there is no setsid(1) (Debian: util-linux)");

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await Bun.sleep(1);
}

/** Reads until it has said this: a terminal hands a line and its end over one after the other. */
async function sees(reader: ReadableStreamDefaultReader<Uint8Array>, text: string): Promise<void> {
  for (let seen = ""; !seen.includes(text); ) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`The terminal ended behind ${JSON.stringify(seen)}, before ${JSON.stringify(text)}`);
    seen += Buffer.from(value).toString();
  }
}

/** A program on a terminal of its own. */
function start(...argv: string[]) {
  const pty = new Pty(openPty(self));
  const peer = openPeer(self, pty.number);
  const child = Bun.spawn(argv, { stdio: [peer, peer, peer] });
  self.call("close", peer);
  return { pty, child };
}

test("readable has all that a program prints, then the end, and its descriptor is closed", async () => {
  const before = open();
  const { pty, child } = start("sh", "-c", "seq 1 100000; echo the end");
  const text = await pty.readable.text();
  const lines = text.split("\r\n");
  expect(lines.length).toBe(100_002);
  expect(lines.slice(-3)).toEqual(["100000", "the end", ""]);
  expect(pty.closed).toBe(true);
  expect(await child.exited).toBe(0);
  await until(() => open() <= before);
});

test("readable has what was printed before anybody read it, from a program that is gone", async () => {
  const { pty, child } = start("echo", "early");
  await child.exited;
  expect(await pty.readable.text()).toBe("early\r\n");
});

test("a program waits while nobody reads", async () => {
  const { pty, child } = start("sh", "-c", "seq 1 1000000");
  const reader = pty.readable.getReader();
  await reader.read();
  const state = await Promise.race([child.exited, Bun.sleep(100).then(() => "waits")]);
  expect(state).toBe("waits");
  let last = "";
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    last = (last + Buffer.from(piece.value).toString()).slice(-16); // a piece ends anywhere
  }
  expect(last).toEndWith("1000000\r\n");
});

test("write() delivers more than the terminal holds, and waits for the program with the event loop free", async () => {
  const pty = new Pty(openPty(self));
  const peer = openPeer(self, pty.number);
  setTerminalModes(self, peer, rawModes(terminalModes(self, peer)));
  const sent = new Uint8Array(1_000_000).map((_, index) => index % 251);
  let settled = false;
  const written = pty.write(sent).finally(() => {
    settled = true;
  });
  let turns = 0;
  await until(() => ++turns > 20);
  expect(settled).toBe(false);
  const child = Bun.spawn(["sh", "-c", "head -c 1000000 | sha256sum"], { stdio: [peer, peer, "inherit"] });
  self.call("close", peer);
  await written;
  expect((await pty.readable.text()).split(" ")[0]).toBe(new Bun.CryptoHasher("sha256").update(sent).digest("hex"));
  await child.exited;
});

test("what a person types comes as lines, echoed", async () => {
  const { pty } = start("sh", "-c", "read -r line; echo got $line");
  await pty.write(Buffer.from("hello\r"));
  expect(await pty.readable.text()).toBe("hello\r\ngot hello\r\n");
});

testSession("Ctrl-C interrupts the program in front", async () => {
  const { pty, child } = start("setsid", "--ctty", "--wait", "sh", "-c", "echo up; exec sleep 1000");
  await sees(pty.readable.getReader(), "up\r\n");
  await pty.write(Uint8Array.of(3));
  expect(await child.exited).toBe(130);
});

testSession("resize() is told to the program in front", async () => {
  const script = `trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.01; done`;
  const { pty } = start("setsid", "--ctty", "--wait", "sh", "-c", script);
  const reader = pty.readable.getReader();
  await sees(reader, "up");
  pty.resize({ columns: 132, rows: 50 });
  await sees(reader, "50 132");
});

testSession("close() hangs up, and resize() does nothing then", async () => {
  const { pty, child } = start("setsid", "--ctty", "--wait", "sh", "-c", "echo up; exec sleep 1000");
  const reader = pty.readable.getReader();
  await sees(reader, "up\r\n");
  const rest = reader.read();
  pty.close();
  pty.resize({ columns: 1, rows: 1 });
  expect((await rest).done).toBe(true);
  expect(await child.exited).toBe(129);
  await expect(pty.write(Uint8Array.of(1))).rejects.toThrow("Cannot use a descriptor that is closed");
});
