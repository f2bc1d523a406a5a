import { describe, expect, test } from "bun:test";
import { accessTo, handledBy, LIBRARY_ACCESS, PROC_ACCESS, PROGRAM_ACCESS } from "../../platform/linux/landlock.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { createRuleset, landlockAbi } from "../../syscalls/linux/landlock.ts";
import { LANDLOCK_ACCESS_FS as FS } from "../../syscalls/linux/numbers.ts";
import { testIf } from "../syscalls/requirement.ts";

const testLandlock = testIf("landlock", landlockAbi() > 0, "this kernel has no Landlock, or something refuses it");

describe("handledBy() is every right that the documentation gives an ABI", () => {
  // Documentation/userspace-api/landlock.rst, "Previous limitations", and include/uapi/linux/landlock.h.
  const table: readonly (readonly [abi: number, fs: bigint, net: bigint, scoped: bigint])[] = [
    [0, 0n, 0n, 0n],
    [1, 0x1fffn, 0n, 0n],
    [2, 0x3fffn, 0n, 0n],
    [3, 0x7fffn, 0n, 0n],
    [4, 0x7fffn, 3n, 0n],
    [5, 0xffffn, 3n, 0n],
    [6, 0xffffn, 3n, 3n],
    [7, 0xffffn, 3n, 3n],
    [8, 0xffffn, 3n, 3n],
    [9, 0x1ffffn, 3n, 3n],
    [10, 0x1ffffn, 15n, 3n],
  ];
  for (const [abi, fs, net, scoped] of table) {
    test(`ABI ${abi}`, () => expect(handledBy(abi)).toEqual({ fs, net, scoped }));
  }
});

testLandlock("handledBy() names all that this kernel knows: one bit more is EINVAL", () => {
  const handled = handledBy(landlockAbi());
  new Descriptor(createRuleset(self, handled)).close();
  for (const set of ["fs", "net", "scoped"] as const) {
    const next = { ...handled, [set]: (handled[set] << 1n) | 1n };
    expect(() => createRuleset(self, next)).toThrow("EINVAL: landlock_create_ruleset");
  }
});

describe("accessTo()", () => {
  const all = handledBy(10);
  const names = (access: bigint) =>
    (Object.keys(FS) as (keyof typeof FS)[]).filter((name) => (access & FS[name]) !== 0n).sort();

  test("a file to read", () => {
    expect(names(accessTo({ writable: false, directory: false }, all))).toEqual(["READ_FILE"]);
  });

  test("a directory to read", () => {
    expect(names(accessTo({ writable: false, directory: true }, all))).toEqual(["READ_DIR", "READ_FILE"]);
  });

  test("a file to write", () => {
    expect(names(accessTo({ writable: true, directory: false }, all))).toEqual(["READ_FILE", "TRUNCATE", "WRITE_FILE"]);
  });

  test("a directory to write, in which no socket, device, FIFO or symbolic link can be made", () => {
    expect(names(accessTo({ writable: true, directory: true }, all))).toEqual([
      "MAKE_DIR",
      "MAKE_REG",
      "READ_DIR",
      "READ_FILE",
      "REFER",
      "REMOVE_DIR",
      "REMOVE_FILE",
      "TRUNCATE",
      "WRITE_FILE",
    ]);
  });

  test("names no right that the kernel does not know, which would be EINVAL", () => {
    for (let abi = 0; abi <= 10; abi++) {
      const handled = handledBy(abi);
      expect(accessTo({ writable: true, directory: true }, handled) & ~handled.fs).toBe(0n);
    }
  });

  test("rights of directories do not go with files", () => {
    const ofFiles = FS.EXECUTE | FS.WRITE_FILE | FS.READ_FILE | FS.TRUNCATE | FS.IOCTL_DEV;
    for (const writable of [false, true]) expect(accessTo({ writable, directory: false }, all) & ~ofFiles).toBe(0n);
    expect((PROGRAM_ACCESS | LIBRARY_ACCESS) & ~ofFiles).toBe(0n);
  });

  test("nothing of Bun's own may be written", () => {
    const reading = FS.EXECUTE | FS.READ_FILE | FS.READ_DIR;
    expect((PROGRAM_ACCESS | LIBRARY_ACCESS | PROC_ACCESS) & ~reading).toBe(0n);
    expect((LIBRARY_ACCESS | PROC_ACCESS) & FS.EXECUTE).toBe(0n);
  });
});
