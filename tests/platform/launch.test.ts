import { describe, expect } from "bun:test";
import { existsSync, readFileSync, readlinkSync } from "node:fs";
import { abilities, NAMESPACES } from "../../platform/linux/abilities.ts";
import { holdChild, startPuppet } from "../../platform/linux/launch.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { createMemoryFile } from "../../syscalls/linux/file.ts";
import { WALL } from "../../syscalls/linux/process.ts";
import { holdings, settled } from "../src/box.ts";
import { awaitEnd, descriptorsOf, hold, statusOf, testPuppet, testRoot } from "./strings.ts";

const NAMES: Readonly<Record<string, string>> = { mount: "mnt", network: "net" };

describe("startPuppet()", () => {
  testPuppet("starts one without namespaces, with no descriptor but its strings", () => {
    using puppet = hold();
    expect(puppet.kernel.call("getpid")).toBe(puppet.pid);
    const strings = descriptorsOf(puppet.pid);
    expect(Object.keys(strings)).toEqual(["0", "1", "2", "3"]);
    expect(new Set(Object.values(strings)).size).toBe(1);
    expect(strings[3]).toStartWith("socket:");
    for (const name of Object.keys(NAMESPACES)) {
      const file = NAMES[name] ?? name;
      expect(readlinkSync(`/proc/${puppet.pid}/ns/${file}`)).toBe(readlinkSync(`/proc/self/ns/${file}`));
    }
  });

  testRoot("starts one in every namespace that can be made", () => {
    const { namespaces } = abilities();
    using puppet = hold(namespaces);
    for (const [name, bit] of Object.entries(NAMESPACES)) {
      const file = NAMES[name] ?? name;
      const shared = readlinkSync(`/proc/${puppet.pid}/ns/${file}`) === readlinkSync(`/proc/self/ns/${file}`);
      expect([name, shared]).toEqual([name, (namespaces & bit) === 0n]);
    }
    if ((namespaces & NAMESPACES.pid) !== 0n) expect(puppet.kernel.call("getpid")).toBe(1);
  });

  testPuppet("gives it these descriptors and no others, whatever their numbers are here", () => {
    const files = Array.from(
      { length: 8 },
      (_, index) => new Descriptor(createMemoryFile(self, `caisson-test-${index}`)),
    );
    try {
      // Backwards, so that each would overwrite another that is still to be moved.
      const numbers = files.map(({ number }) => number).toReversed();
      const ours = descriptorsOf("self");
      using puppet = hold(0n, numbers);
      const theirs = descriptorsOf(puppet.pid);
      expect(Object.keys(theirs).map(Number)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
      expect([0, 1, 2, 4, 5, 6, 7, 8].map((number) => theirs[number])).toEqual(numbers.map((number) => ours[number]!));
    } finally {
      for (const file of files) file.close();
    }
  });

  testPuppet("throws the SystemError of the call that failed in the child, and leaves nothing", async () => {
    hold()[Symbol.dispose](); // what is made once and kept is made now
    const before = holdings();
    let error: unknown;
    try {
      startPuppet({ namespaces: 0n, descriptors: [0, 65535] });
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(SystemError);
    expect(error).toMatchObject({ code: "EBADF", syscall: "dup3" });
    expect((error as Error).message).toContain("65535");
    await settled(before);
  });

  testPuppet(
    "throws the SystemError of clone3 for namespaces that the kernel refuses, and leaves nothing",
    async () => {
      const before = holdings();
      expect(() => startPuppet({ namespaces: 1n << 63n, descriptors: [] })).toThrow("EINVAL: clone3");
      await settled(before);
    },
  );

  testPuppet("makes one that returns 0 when the host closes its strings", () => {
    using puppet = hold();
    puppet.socket.close();
    expect(awaitEnd(puppet)).toMatchObject({ code: 0 });
    expect(existsSync(`/proc/${puppet.pid}`)).toBe(false);
  });

  testPuppet("restores the signal mask of the calling thread", () => {
    const before = statusOf("thread-self").SigBlk;
    using _ = hold();
    expect(statusOf("thread-self").SigBlk).toBe(before!);
    expect(() => startPuppet({ namespaces: 0n, descriptors: [65535] })).toThrow();
    expect(statusOf("thread-self").SigBlk).toBe(before!);
  });

  testPuppet("makes a process of one thread, under its own name", () => {
    using puppet = hold();
    expect(statusOf(puppet.pid)).toMatchObject({ Threads: "1", PPid: `${process.pid}` });
    expect(readFileSync(`/proc/${puppet.pid}/cmdline`, "utf8")).toBe("puppet\0");
    expect(readlinkSync(`/proc/${puppet.pid}/exe`)).toBe("/memfd:caisson-puppet (deleted)");
  });
});

describe("holdChild()", () => {
  testPuppet(
    "throws the ESRCH of pidfd_open for a child that another realm has reaped, and sends nothing to its number",
    () => {
      using puppet = hold();
      puppet.socket.close();
      self.call("wait4", puppet.pid, null, WALL, null);
      puppet.pidfd.close();
      expect(() => holdChild(puppet.pid)).toThrow("ESRCH: pidfd_open");
    },
  );
});
