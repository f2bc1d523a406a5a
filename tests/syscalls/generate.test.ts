import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { evaluate, generate } from "../../syscalls/generate.ts";
import * as constants from "../../syscalls/linux/constants.ts";
import * as tables from "../../syscalls/linux/numbers.ts";
import {
  AT_FD,
  CAP,
  CLONE,
  ERRNO,
  FLAGS,
  KERNEL,
  LANDLOCK_ACCESS_FS,
  NUMBERS,
  SECCOMP_RET,
  SIG,
} from "../../syscalls/linux/numbers.ts";

const required = new Set((process.env.CAISSON_REQUIRE ?? "").split(","));

/** Whether to run what needs this feature. Where it is required, the test runs and fails by itself. */
function has(feature: string, missing: string | undefined): boolean {
  if (missing === undefined || required.has(feature)) return true;
  console.log(`generate.test.ts: skips what needs ${feature}: ${missing}`);
  return false;
}

const headers = process.env.CAISSON_HEADERS;

/** Why these are not the headers that linux/numbers.ts was written from. */
function mismatch(directory: string | undefined): string | undefined {
  if (directory === undefined) return "CAISSON_HEADERS names no include directory";
  const path = `${directory}/linux/version.h`;
  if (!existsSync(path)) return `there is no ${path}`;
  const text = readFileSync(path, "utf8");
  const part = (name: string) => new RegExp(`LINUX_VERSION_${name} (\\d+)`).exec(text)?.[1];
  const version = `${part("MAJOR")}.${part("PATCHLEVEL")}`;
  return version === KERNEL ? undefined : `the headers are of Linux ${version}, the tables of ${KERNEL}`;
}

describe("generate()", () => {
  test.skipIf(!has("headers", mismatch(headers)))(
    "regenerates linux/numbers.ts from the headers of its version",
    () => {
      expect(mismatch(headers)).toBeUndefined();
      const written = readFileSync(new URL("../../syscalls/linux/numbers.ts", import.meta.url), "utf8");
      expect(generate(headers!)).toBe(written);
    },
  );

  test("throws for a directory without headers", () => {
    expect(() => generate("/nonexistent")).toThrow("Cannot generate: no kernel headers in /nonexistent");
  });
});

const system = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h";

describe("NUMBERS", () => {
  test.skipIf(!has("unistd", existsSync(system) ? undefined : `there is no ${system}`))(
    "has every call of the system's own unistd_64.h with the same number",
    () => {
      const lines = readFileSync(system, "utf8").matchAll(/^#define __NR_(\w+) (\d+)$/gm);
      const theirs = Object.fromEntries([...lines].map(([, name, number]) => [name, Number(number)]));
      expect(Object.keys(theirs).length).toBeGreaterThan(300);
      expect(NUMBERS.x64).toMatchObject(theirs);
    },
  );

  test("gives no number to two calls", () => {
    for (const table of Object.values(NUMBERS)) {
      expect(new Set(Object.values(table)).size).toBe(Object.keys(table).length);
    }
  });

  test("keeps the machines apart, and agrees from 424 on, where all machines count alike", () => {
    expect(NUMBERS.x64).toMatchObject({ read: 0, open: 2, execve: 59, openat: 257 });
    expect(NUMBERS.arm64).toMatchObject({ read: 63, execve: 221, openat: 56 });
    expect(NUMBERS.arm64).not.toHaveProperty("open");
    const recent = (table: Record<string, number>) => Object.entries(table).filter(([, number]) => number >= 424);
    expect(Object.fromEntries(recent(NUMBERS.arm64))).toEqual(Object.fromEntries(recent(NUMBERS.x64)));
  });
});

describe("the tables of flags", () => {
  test("hold what the manual pages say", () => {
    expect(CLONE).toMatchObject({ NEWUSER: 0x10000000n, INTO_CGROUP: 0x200000000n });
    expect(LANDLOCK_ACCESS_FS).toMatchObject({
      EXECUTE: 1n,
      REFER: 1n << 13n,
      TRUNCATE: 1n << 14n,
      IOCTL_DEV: 1n << 15n,
    });
    expect(SECCOMP_RET).toMatchObject({ KILL_PROCESS: 0x80000000, ERRNO: 0x50000, ALLOW: 0x7fff0000 });
    expect([AT_FD.CWD, ERRNO.EPERM, ERRNO.ENOSYS, SIG.KILL, SIG.SYS, CAP.SYS_ADMIN]).toEqual([-100, 1, 38, 9, 31, 21]);
  });

  test("differ between the machines where C does", () => {
    expect(FLAGS.x64.O).toMatchObject({
      DIRECT: 0o40000,
      DIRECTORY: 0o200000,
      NOFOLLOW: 0o400000,
      LARGEFILE: 0o100000,
    });
    expect(FLAGS.arm64.O).toMatchObject({
      DIRECT: 0o200000,
      DIRECTORY: 0o40000,
      NOFOLLOW: 0o100000,
      LARGEFILE: 0o400000,
    });
    expect(FLAGS.arm64.O.CLOEXEC).toBe(FLAGS.x64.O.CLOEXEC);
  });

  test("hold words of one width each", () => {
    const { KERNEL: _, MACHINE: __, NUMBERS: ___, FLAGS: machines, ...flags } = tables;
    for (const [name, table] of [flags, machines.x64, machines.arm64].flatMap((group) => Object.entries(group))) {
      const kinds = new Set(Object.values(table).map((value) => typeof value));
      expect({ name, kinds: [...kinds] }).toEqual({ name, kinds: [kinds.has("bigint") ? "bigint" : "number"] });
    }
  });
});

const libc =
  Bun.which("cc") !== null &&
  Bun.spawnSync(["cc", "-E", "-include", "sys/socket.h", "-x", "c", "/dev/null"], { stdout: "ignore" }).exitCode === 0;

describe("constants.ts", () => {
  test.skipIf(!has("libc", libc ? undefined : "there is no C compiler with the headers of libc"))(
    "agrees with libc",
    () => {
      const ours = Object.entries(constants).flatMap(([table, values]) =>
        Object.entries(values).map(([key, value]) => ({ name: `${table}_${key}`, value: BigInt(value) })),
      );
      const names = ours.map(({ name }) => name);
      const theirs = evaluate(["-D_GNU_SOURCE"], ["sys/socket.h", "sys/mount.h"], names);
      expect(ours).toEqual(names.map((name, index) => ({ name, value: theirs[index]! })));
    },
  );
});
