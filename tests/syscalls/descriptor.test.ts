import { describe, expect, test } from "bun:test";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { createMemoryFile, statusFlags } from "../../syscalls/linux/file.ts";
import { Recorder } from "./recorder.ts";

describe("Descriptor", () => {
  test("closes once, by using, by close(), or not at all", () => {
    const recorder = new Recorder();
    {
      using descriptor = new Descriptor(7, recorder);
      expect(descriptor.number).toBe(7);
      descriptor.close();
      expect(descriptor.closed).toBe(true);
    }
    expect(recorder.lines).toEqual(["close (7)"]);
  });

  test("take() hands the duty to close on", () => {
    const recorder = new Recorder();
    {
      using descriptor = new Descriptor(7, recorder);
      expect(descriptor.take()).toBe(7);
    }
    expect(recorder.lines).toEqual([]);
  });

  test("throws when it is used after its end", () => {
    const descriptor = new Descriptor(7, new Recorder());
    descriptor.close();
    expect(() => descriptor.number).toThrow("closed");
    expect(() => descriptor.take()).toThrow("closed");
  });

  test("really closes", () => {
    const number = createMemoryFile(self, "caisson-test");
    new Descriptor(number).close();
    expect(() => statusFlags(self, number)).toThrow("EBADF");
  });
});
