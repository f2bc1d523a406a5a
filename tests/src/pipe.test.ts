import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { Pipe } from "../../src/pipe.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { writeAll } from "../../syscalls/linux/file.ts";
import { O } from "../../syscalls/linux/numbers.ts";

const open = () => readdirSync("/proc/self/fd").length;

function pipe(): { readonly from: number; readonly to: number } {
  const pair = new Int32Array(2);
  self.call("pipe2", new Uint8Array(pair.buffer), O.CLOEXEC);
  return { from: pair[0]!, to: pair[1]! };
}

/** Bytes that do not repeat at any size a buffer has. */
const noise = (length: number) => new Uint8Array(length).map((_, index) => index % 251);

/** Lets the event loop run until `condition` holds. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await Bun.sleep(1);
}

test("readable has all that was written, then the end, and its descriptor is closed", async () => {
  const before = open();
  const { from, to } = pipe();
  const child = Bun.spawn(["head", "-c", "3000000", "/dev/zero"], { stdout: to });
  self.call("close", to);
  const source = new Pipe(from);
  let length = 0;
  for await (const bytes of source.readable) length += bytes.length;
  expect(length).toBe(3_000_000);
  expect(source.closed).toBe(true);
  expect(await child.exited).toBe(0);
  await until(() => open() <= before);
});

test("readable takes no more than one read ahead", async () => {
  const { from, to } = pipe();
  using source = new Pipe(from);
  using sink = new Pipe(to);
  const reader = source.readable.getReader();
  const sent = noise(1_000_000);
  let written = false;
  const done = sink.write(sent).then(() => {
    written = true;
  });
  await reader.read();
  for (let turns = 0; turns < 100; turns++) await Bun.sleep(0);
  expect(written).toBe(false);
  void done.then(() => sink.close());
  let length = 0;
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) length += piece.value.length;
  expect(length).toBeGreaterThan(sent.length - 65537);
  expect(written).toBe(true);
});

test("write() delivers bytes in order to a reader that is slower", async () => {
  const { from, to } = pipe();
  const child = Bun.spawn(["cat"], { stdin: from, stdout: "pipe" });
  self.call("close", from);
  const sink = new Pipe(to);
  const sent = noise(2_000_000);
  const writes = [0, 1, 2, 3].map((part) => sink.write(sent.subarray(part * 500_000, (part + 1) * 500_000)));
  const ended = sink.end();
  expect(Buffer.from(await child.stdout.bytes()).equals(Buffer.from(sent))).toBe(true);
  await Promise.all([...writes, ended]);
});

test("writable closes the pipe when it is closed, after what was written", async () => {
  const { from, to } = pipe();
  const child = Bun.spawn(["wc", "-c"], { stdin: from, stdout: "pipe" });
  self.call("close", from);
  await new Response(noise(500_000)).body!.pipeTo(new Pipe(to).writable);
  expect((await child.stdout.text()).trim()).toBe("500000");
});

test("write() rejects with EPIPE when the reader is gone, also while it waits", async () => {
  const { from, to } = pipe();
  using sink = new Pipe(to);
  let settled = false;
  const blocked = sink.write(noise(200_000)).finally(() => {
    settled = true;
  });
  blocked.catch(() => {});
  for (let turns = 0; turns < 20; turns++) await Bun.sleep(0);
  expect(settled).toBe(false);
  self.call("close", from);
  await expect(blocked).rejects.toThrow("EPIPE: write");
  await expect(sink.write(Uint8Array.of(1))).rejects.toThrow("EPIPE: write");
});

test("close() ends a read that waits, and rejects a write that waits", async () => {
  const before = open();
  const { from, to } = pipe();
  const other = pipe();
  const source = new Pipe(from);
  const sink = new Pipe(other.to);
  const read = source.read();
  const written = sink.write(noise(200_000)).catch((error: Error) => error.message);
  await Bun.sleep(0);
  source.close();
  sink.close();
  expect(await read).toBeUndefined();
  expect(await written).toBe("Cannot use a descriptor that is closed");
  for (const descriptor of [to, other.from]) self.call("close", descriptor);
  await until(() => open() <= before);
});

test("cancelling readable closes the pipe, and the writer sees EPIPE", async () => {
  const { from, to } = pipe();
  using writer = new Descriptor(to);
  const source = new Pipe(from);
  const reader = source.readable.getReader();
  const read = reader.read();
  writeAll(self, writer.number, Uint8Array.of(1));
  expect((await read).value).toEqual(Uint8Array.of(1));
  await reader.cancel();
  expect(source.closed).toBe(true);
  expect(() => writeAll(self, writer.number, Uint8Array.of(1))).toThrow("EPIPE: write");
});

test("a thousand pipes leave no descriptor", async () => {
  const before = open();
  const turn = async () => {
    const { from, to } = pipe();
    const [source, sink] = [new Pipe(from), new Pipe(to)];
    const read = source.readable.bytes();
    await sink.write(noise(100));
    await sink.end();
    return (await read).length;
  };
  for (let round = 0; round < 10; round++) {
    const lengths = await Promise.all(Array.from({ length: 100 }, turn));
    expect(new Set(lengths)).toEqual(new Set([100]));
  }
  await until(() => open() <= before);
});

test("a read that waits leaves the event loop free", async () => {
  const { from, to } = pipe();
  using source = new Pipe(from);
  using writer = new Descriptor(to);
  const read = source.read();
  let turns = 0;
  const counting = setInterval(() => turns++, 1);
  await until(() => turns >= 20);
  clearInterval(counting);
  writeAll(self, writer.number, Uint8Array.of(7));
  expect(await read).toEqual(Uint8Array.of(7));
});

test("hurry() gives who reads what is there and then the end, and tells whether somebody could have written more", async () => {
  for (const held of [true, false]) {
    const before = open();
    const { from, to } = pipe();
    const source = new Pipe(from);
    const reader = source.readable.getReader();
    const first = reader.read();
    writeAll(self, to, noise(10));
    expect((await first).value).toEqual(noise(10));
    const waiting = reader.read();
    if (held) {
      source.hurry(); // while it waits
    } else {
      writeAll(self, to, noise(65_536));
      self.call("close", to);
      source.hurry();
      expect((await waiting).value).toHaveLength(65_536);
    }
    expect((await (held ? waiting : reader.read())).done).toBe(true);
    expect({ cut: source.cut, closed: source.closed }).toEqual({ cut: held, closed: true });
    if (held) self.call("close", to);
    await until(() => open() <= before);
  }
});
