import { describe, expect, test } from "bun:test";
import {
  actorAccess,
  ERRATA,
  handledBy,
  LIBRARY_ACCESS,
  logFlags,
  PROC_ACCESS,
  PROGRAM_ACCESS,
  portRules,
  RESTRICT_SINCE,
  RIGHTS,
  unveilAccess,
  usableAbi,
} from "../../platform/linux/landlock.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { type Kernel, self } from "../../syscalls/kernel.ts";
import { createRuleset, landlockAbi, type Rights } from "../../syscalls/linux/landlock.ts";
import {
  ERRNO,
  LANDLOCK_ACCESS_FS as FS,
  LANDLOCK_ACCESS_NET as NET,
  LANDLOCK_RESTRICT_SELF as RESTRICT,
  LANDLOCK_SCOPE as SCOPE,
} from "../../syscalls/linux/numbers.ts";
import { Memory } from "../../syscalls/struct.ts";
import { testIf } from "../syscalls/requirement.ts";

const testLandlock = testIf("landlock", landlockAbi() > 0, "this kernel has no Landlock, or something refuses it");
const FIXED = Object.values(ERRATA).reduce((all, bit) => all | bit, 0);

test("RIGHTS has each right of the kernel's headers once", () => {
  const names = (kind: string, bits: Record<string, bigint>) =>
    Object.entries(bits).map(([name, bit]) => `${kind}.${name.toLowerCase()} ${bit}`);
  const known = [...names("fs", FS), ...names("net", NET), ...names("scope", SCOPE)];
  expect(Object.entries(RIGHTS).map(([name, { bit }]) => `${name} ${bit}`)).toEqual(known);
});

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
    [11, 0x1ffffn, 15n, 3n],
  ];
  for (const [abi, fs, net, scoped] of table) {
    test(`ABI ${abi}`, () => expect(handledBy(abi, FIXED)).toEqual({ fs, net, scoped }));
    test(`ABI ${abi}, but for REFER where erratum 3 is not fixed`, () => {
      expect(handledBy(abi).fs).toBe(fs & ~FS.REFER);
      expect(handledBy(abi, FIXED & ~ERRATA.DISCONNECTED).fs).toBe(fs & ~FS.REFER);
    });
  }
});

testLandlock("handledBy() names all that this kernel knows: one bit more is EINVAL", () => {
  const handled = handledBy(landlockAbi(), FIXED);
  new Descriptor(createRuleset(self, handled)).close();
  for (const set of ["fs", "net", "scoped"] as const) {
    const next = { ...handled, [set]: (handled[set] << 1n) | 1n };
    expect(() => createRuleset(self, next)).toThrow("EINVAL: landlock_create_ruleset");
  }
});

describe("usableAbi()", () => {
  /** A kernel of an ABI that takes some rights alone. */
  const kernel = (abi: number, takes: (fs: bigint, scoped: bigint) => boolean): Kernel => ({
    call(name, attr, ...more) {
      if (attr === null) return abi;
      if (!(attr instanceof Memory)) return 0;
      const view = new DataView(attr.bytes.buffer);
      if (takes(view.getBigUint64(0, true), view.getBigUint64(16, true))) return 9;
      throw new SystemError(name, ERRNO.EINVAL, `${more}`);
    },
  });

  testLandlock("is what a kernel says, where it takes all of that", () => expect(usableAbi()).toBe(landlockAbi()));

  test("is less, where the kernel claims more than it takes: RHEL 9 says 6, without scopes for signals", () => {
    expect(usableAbi(kernel(6, (_, scoped) => (scoped & SCOPE.SIGNAL) === 0n))).toBe(5);
    expect(usableAbi(kernel(6, () => true))).toBe(6);
    expect(usableAbi(kernel(6, () => false))).toBe(0);
    expect(usableAbi(kernel(0, () => true))).toBe(0);
  });
});

test("logFlags() is quiet unless somebody listens, and names no flag that the kernel does not know", () => {
  const { LOG_SAME_EXEC_OFF, LOG_NEW_EXEC_ON, LOG_SUBDOMAINS_OFF } = RESTRICT;
  expect(logFlags(7, false)).toBe(LOG_SAME_EXEC_OFF | LOG_SUBDOMAINS_OFF);
  expect(logFlags(7, true)).toBe(LOG_NEW_EXEC_ON | LOG_SUBDOMAINS_OFF);
  for (const heard of [false, true]) expect(logFlags(RESTRICT_SINCE.LOG_NEW_EXEC_ON - 1, heard)).toBe(0);
});

describe("unveilAccess()", () => {
  const all = handledBy(10, FIXED);
  const names = (access: bigint) =>
    (Object.keys(FS) as (keyof typeof FS)[]).filter((name) => (access & FS[name]) !== 0n).sort();
  const C = "MAKE_DIR MAKE_FIFO MAKE_REG MAKE_SOCK MAKE_SYM REFER REMOVE_DIR REMOVE_FILE";
  const table: readonly (readonly [permissions: string, directory: string, file: string])[] = [
    ["", "", ""],
    ["r", "READ_DIR READ_FILE", "READ_FILE"],
    ["w", "RESOLVE_UNIX TRUNCATE WRITE_FILE", "RESOLVE_UNIX TRUNCATE WRITE_FILE"],
    ["x", "EXECUTE READ_FILE", "EXECUTE READ_FILE"],
    ["c", C, ""],
    [
      "rw",
      "READ_DIR READ_FILE RESOLVE_UNIX TRUNCATE WRITE_FILE",
      "IOCTL_DEV READ_FILE RESOLVE_UNIX TRUNCATE WRITE_FILE",
    ],
    ["rx", "EXECUTE READ_DIR READ_FILE", "EXECUTE READ_FILE"],
    ["wc", `${C} RESOLVE_UNIX TRUNCATE WRITE_FILE`, "RESOLVE_UNIX TRUNCATE WRITE_FILE"],
  ];
  for (const [permissions, directory, file] of table) {
    test(JSON.stringify(permissions), () => {
      expect(names(unveilAccess(permissions, true, all)).join(" ")).toBe(directory.split(" ").toSorted().join(" "));
      expect(names(unveilAccess(permissions, false, all)).join(" ")).toBe(file);
    });
  }

  test("never lets devices be made, and names no right that the kernel does not know", () => {
    expect(unveilAccess("rwxc", true, all) & (FS.MAKE_CHAR | FS.MAKE_BLOCK)).toBe(0n);
    for (let abi = 0; abi <= 10; abi++)
      for (const directory of [false, true])
        expect(unveilAccess("rwxc", directory, handledBy(abi)) & ~handledBy(abi).fs).toBe(0n);
  });

  for (const permissions of ["z", "R", "r w", "rwz", "constructor"])
    test(`throws for ${permissions}`, () =>
      expect(() => unveilAccess(permissions, true, all)).toThrow("expected letters of r, w, x and c"));
});

describe("portRules()", () => {
  const all = handledBy(10);

  test("is one rule a port", () => {
    const rules = portRules({ tcp: { bind: [0, 80], connect: [80] }, udp: { bind: [], connect: [53, 80] } }, all);
    expect(rules).toEqual([
      { port: 0, access: NET.BIND_TCP },
      { port: 80, access: NET.BIND_TCP | NET.CONNECT_TCP | NET.CONNECT_SEND_UDP },
      { port: 53, access: NET.CONNECT_SEND_UDP },
    ]);
  });

  test("has none without a right, which would be ENOMSG", () => {
    expect(portRules({ udp: { bind: [53], connect: [] } }, handledBy(9))).toEqual([]);
    expect(portRules({}, all)).toEqual([]);
  });

  for (const port of [-1, 65_536, 1.5, Number.NaN])
    test(`throws for ${port}`, () =>
      expect(() => portRules({ tcp: { bind: [], connect: [port] } }, all)).toThrow("up to 65535 is expected"));
});

describe("actorAccess()", () => {
  const accessTo = (grant: { writable: boolean; directory: boolean }, handled: Rights) =>
    actorAccess(grant.writable ? "rwc" : "r", grant.directory, handled);
  const all = handledBy(10, FIXED);
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
