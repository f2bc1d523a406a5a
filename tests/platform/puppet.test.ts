import { describe, expect, test } from "bun:test";
import { Batch, FRAME_SIZE, layOut } from "../../platform/linux/frame.ts";
import { SystemError } from "../../syscalls/error.ts";
import { close, createMemoryFile, open, writeAll } from "../../syscalls/linux/file.ts";
import { O } from "../../syscalls/linux/numbers.ts";
import { socketPair } from "../../syscalls/linux/socket.ts";
import { Memory } from "../../syscalls/struct.ts";
import { awaitEnd, descriptorsOf, hold, testPuppet } from "./strings.ts";

describe("Batch", () => {
  testPuppet("lets later calls take what earlier ones will return", () => {
    using puppet = hold();
    const batch = new Batch();
    const file = createMemoryFile(batch, "caisson-test");
    writeAll(batch, file, Uint8Array.of(1, 2, 3));
    const copy = batch.call("dup", file);
    batch.call("lseek", copy, 0, 2);
    close(batch, file);
    close(batch, copy);
    const results = puppet.kernel.carryOut(batch);
    expect(results.length).toBe(6);
    expect(results[3]).toBe(3);
    expect([results[4], results[5]]).toEqual([0, 0]);
    expect(Object.keys(descriptorsOf(puppet.pid))).toEqual(["0", "1", "2", "3"]);
  });

  testPuppet("copies what the kernel wrote into the memory that was given", () => {
    using puppet = hold();
    const batch = new Batch();
    const names = new Uint8Array(390); // struct utsname
    const untouched = Uint8Array.of(7, 7);
    const behind = new Uint8Array(3);
    const file = createMemoryFile(batch, "caisson-test");
    writeAll(batch, file, Buffer.from("abc"));
    batch.call("lseek", file, 0, 0);
    const vector = new Memory(new Uint8Array(16), [{ offset: 0, to: behind }]);
    vector.bytes[8] = 3;
    batch.call("readv", file, vector, 1);
    batch.call("uname", names);
    batch.call("write", file, untouched, 2);
    puppet.kernel.carryOut(batch);
    expect(Buffer.from(names).toString()).toStartWith("Linux\0");
    expect(Buffer.from(behind).toString()).toBe("abc");
    expect([...untouched]).toEqual([7, 7]);
  });

  testPuppet("stops at the first call that fails, and throws its name, arguments and errno", () => {
    using puppet = hold();
    const batch = new Batch();
    batch.call("umask", 0o001);
    open(batch, "/no/such/file", O.RDONLY);
    batch.call("umask", 0o002);
    let error: unknown;
    try {
      puppet.kernel.carryOut(batch);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(SystemError);
    expect(error).toMatchObject({ code: "ENOENT", syscall: "openat" });
    expect((error as Error).message).toContain('"/no/such/file"');
    expect(puppet.kernel.call("umask", 0)).toBe(0o001);
  });

  testPuppet("goes on behind a call that attempt() allows to fail, and gives its errno", () => {
    using puppet = hold();
    const batch = new Batch();
    batch.attempt(() => batch.call("close", 99));
    batch.call("getpid");
    expect(puppet.kernel.carryOut(batch)).toEqual([-9, puppet.pid]);
  });

  test("attempt() allows it for the calls inside alone, even where one throws", () => {
    const batch = new Batch();
    const broken = () =>
      batch.attempt(() => {
        batch.call("getpid");
        throw new Error("broken");
      });
    expect(broken).toThrow("broken");
    batch.call("getpid");
    expect(batch.entries.map(({ flags }) => flags)).toEqual([1, 0]);
  });

  testPuppet("carries hundreds of calls in one round trip", () => {
    using puppet = hold();
    const batch = new Batch();
    for (let index = 0; index < 1000; index++) batch.call("getpid");
    expect(new Set(puppet.kernel.carryOut(batch))).toEqual(new Set([puppet.pid]));
  });

  testPuppet("with nothing in it is answered", () => {
    using puppet = hold();
    expect(puppet.kernel.carryOut(new Batch())).toEqual([]);
  });
});

describe("layOut()", () => {
  const entry = (...args: (number | bigint | null | string | Uint8Array | Memory)[]) => ({
    name: "read" as const,
    args,
    flags: 0,
  });

  test("throws a RangeError for what does not fit, before anything is sent", () => {
    const length = (entries: Parameters<typeof layOut>[0]) => layOut(entries, 0, 16, FRAME_SIZE).bytes.length;
    const calls = (count: number) => Array.from({ length: count }, () => entry());
    expect(length([entry(0, new Uint8Array(FRAME_SIZE - 80))])).toBe(FRAME_SIZE);
    expect(() => length([entry(0, new Uint8Array(FRAME_SIZE - 79))])).toThrow(RangeError);
    expect(length(calls(FRAME_SIZE / 64 - 1))).toBe(FRAME_SIZE - 48);
    expect(() => length(calls(FRAME_SIZE / 64))).toThrow(RangeError);
  });

  test("places each memory once, on 8 bytes, and strings behind what the kernel may write to", () => {
    const shared = new Uint8Array(3);
    const frame = layOut([entry(1, "name", shared), entry(2, shared)], 0x1000, 16, 4096);
    const word = (call: number, position: number) =>
      Number(new DataView(frame.bytes.buffer).getBigUint64(16 + 64 * call + 8 + 8 * position, true));
    expect(word(0, 2)).toBe(word(1, 1));
    expect(word(0, 2)).toBe(0x1000 + 16 + 128);
    expect(word(0, 1)).toBe(0x1000 + frame.answerLength);
    expect(frame.answerLength).toBe(16 + 128 + 8);
    expect(Buffer.from(frame.bytes.subarray(frame.answerLength)).toString()).toStartWith("name\0");
  });

  test("writes negative numbers, NULL and 64-bit words as the kernel takes them", () => {
    const { bytes } = layOut([entry(-100, null, 2n ** 64n - 1n, 0xffffffff)], 0, 16, 4096);
    const words = Array.from({ length: 4 }, (_, position) =>
      new DataView(bytes.buffer).getBigUint64(24 + 8 * position, true),
    );
    expect(words).toEqual([2n ** 64n - 100n, 0n, 2n ** 64n - 1n, 0xffffffffn]);
  });

  test("refuses text with a NUL", () => {
    expect(() => layOut([entry(0, "a\0b")], 0, 16, 4096)).toThrow(TypeError);
  });
});

describe("PuppetKernel", () => {
  testPuppet("call() throws the SystemError that the puppet met", () => {
    using puppet = hold();
    expect(() => puppet.kernel.call("close", 99)).toThrow("EBADF: close (99)");
    expect(puppet.kernel.call("getpid")).toBe(puppet.pid); // and it lives on
  });

  testPuppet("call() throws when the puppet has ended", () => {
    using puppet = hold();
    expect(() => puppet.kernel.call("exit_group", 3)).toThrow("The puppet ended before it answered");
    expect(awaitEnd(puppet)).toMatchObject({ code: 3 });
    expect(() => puppet.kernel.call("getpid")).toThrow("EPIPE");
  });

  testPuppet("makes descriptors over there, not here", () => {
    using puppet = hold();
    const ours = descriptorsOf("self");
    const pair = socketPair(puppet.kernel, 1);
    expect(pair).toEqual([4, 5]);
    expect(descriptorsOf("self")).toEqual(ours);
  });
});
