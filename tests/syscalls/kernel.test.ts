import { describe, expect, test } from "bun:test";
import { Batch } from "../../platform/linux/frame.ts";
import { SystemError } from "../../syscalls/error.ts";
import { type Kernel, numberOf, self, describe as text } from "../../syscalls/kernel.ts";
import { close, createMemoryFile, open, statusFlags, writeAll } from "../../syscalls/linux/file.ts";
import { O } from "../../syscalls/linux/numbers.ts";
import { getLimit, setLimit } from "../../syscalls/linux/process.ts";
import { Memory } from "../../syscalls/struct.ts";
import { hold, testPuppet } from "../platform/strings.ts";
import { Recorder } from "./recorder.ts";

function thrown(act: () => unknown): SystemError {
  try {
    act();
  } catch (error) {
    if (error instanceof SystemError) return error;
    throw error;
  }
  throw new Error("Nothing was thrown");
}

describe("self.call()", () => {
  test("returns the kernel's result", () => {
    expect(self.call("getpid")).toBe(process.pid);
    expect(self.call("getppid")).toBe(process.ppid);
  });

  test("throws a SystemError with the call, its arguments and the errno", () => {
    const error = thrown(() => open(self, "/no/such/file", O.RDONLY));
    expect(error.message).toBe(`ENOENT: openat (-100, "/no/such/file", ${O.RDONLY}, 0)`);
    expect([error.code, error.errno, error.syscall]).toEqual(["ENOENT", 2, "openat"]);
  });

  test("takes -1 and 64-bit words as they are", () => {
    expect(thrown(() => self.call("close", -1)).code).toBe("EBADF");
    const descriptor = createMemoryFile(self, "caisson-test");
    try {
      expect(self.call("lseek", descriptor, 2 ** 40, 0)).toBe(2 ** 40);
      expect(self.call("lseek", descriptor, -(2n ** 39n), 1)).toBe(2 ** 39);
      expect(thrown(() => self.call("lseek", descriptor, -(2 ** 40), 0)).code).toBe("EINVAL");
    } finally {
      close(self, descriptor);
    }
  });

  test("passes all six arguments", () => {
    // mmap is the call that takes six; the last is the offset, which must be a multiple of the page size.
    const descriptor = createMemoryFile(self, "caisson-test");
    try {
      self.call("ftruncate", descriptor, 8192);
      const address = self.call("mmap", 0, 4096, 1, 2, descriptor, 4096);
      self.call("munmap", address, 4096);
      expect(thrown(() => self.call("mmap", 0, 4096, 1, 2, descriptor, 1)).code).toBe("EINVAL");
    } finally {
      close(self, descriptor);
    }
  });

  test("follows pointers in memory, and pointers behind them", () => {
    const descriptor = createMemoryFile(self, "caisson-test");
    try {
      const vector = new Memory(new Uint8Array(32), [
        { offset: 0, to: Uint8Array.of(1, 2) },
        { offset: 16, to: Uint8Array.of(3) },
      ]);
      vector.bytes[8] = 2;
      vector.bytes[24] = 1;
      expect(self.call("writev", descriptor, vector, 2)).toBe(3);
      const back = new Uint8Array(3);
      self.call("pread64", descriptor, back, 3, 0);
      expect([...back]).toEqual([1, 2, 3]);
    } finally {
      close(self, descriptor);
    }
  });

  test("throws a TypeError for a string with a NUL, before any call", () => {
    expect(() => open(self, "/dev/null\0/etc/passwd", O.RDONLY)).toThrow(TypeError);
  });
});

describe("the functions of syscalls/", () => {
  /** Works with descriptors, text, memory that is written and memory that is read. */
  function exercise(kernel: Kernel): unknown {
    const descriptor = createMemoryFile(kernel, "caisson-test");
    writeAll(kernel, descriptor, Uint8Array.of(104, 105));
    const back = new Uint8Array(2);
    kernel.call("pread64", descriptor, back, 2, 0);
    const flags = statusFlags(kernel, descriptor) & O.ACCMODE;
    close(kernel, descriptor);
    return [Buffer.from(back).toString(), flags, thrown(() => close(kernel, descriptor)).code];
  }

  test("work on this process", () => {
    expect(exercise(self)).toEqual(["hi", O.RDWR, "EBADF"]);
  });

  testPuppet("work on a puppet, in the same way", () => {
    using puppet = hold();
    expect(exercise(puppet.kernel)).toEqual(["hi", O.RDWR, "EBADF"]);
    setLimit(puppet.kernel, "CORE", 0n);
    expect(getLimit(puppet.kernel, "CORE")).toEqual({ soft: 0n, hard: 0n });
    expect(puppet.kernel.call("getpid")).toBe(puppet.pid);
  });

  test("work on a recorder of three lines", () => {
    const recorder = new Recorder();
    const descriptor = createMemoryFile(recorder, "name", 3);
    close(recorder, descriptor);
    expect(recorder.lines).toEqual(['memfd_create ("name", 3)', "close (1000)"]);
  });

  test("work on a batch, whose results are still to come", () => {
    const batch = new Batch();
    close(batch, createMemoryFile(batch, "name", 3));
    expect(batch.entries.map(({ name }) => name)).toEqual(["memfd_create", "close"]);
  });
});

test("numberOf() throws ENOSYS for a call that a machine never had", () => {
  expect(numberOf("open", "x64")).toBe(2);
  expect(thrown(() => numberOf("open", "arm64")).code).toBe("ENOSYS");
});

test("describe() shows numbers and text as they are, memory by its size", () => {
  expect(text([-100, "a\n", null, 2n ** 63n, new Uint8Array(3), new Memory(new Uint8Array(8), [])])).toBe(
    '(-100, "a\\n", null, 9223372036854775808, [3 bytes], [8 bytes])',
  );
});
