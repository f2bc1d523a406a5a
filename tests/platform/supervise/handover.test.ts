import { describe, expect, test } from "bun:test";
import { handoverOf, permits, refusing, watching } from "../../../platform/linux/supervise/handover.ts";
import { ORDER_SIZE } from "../../../platform/linux/supervise/orders.ts";
import type { Policy, SupervisedCall } from "../../../platform/platform.ts";
import { policyOf } from "../../../src/sandbox.ts";
import { MACHINE, NUMBERS, RLIMIT, SECCOMP_RET, type SyscallName } from "../../../syscalls/linux/numbers.ts";
import { interpret } from "../interpreter.ts";

const ARCH = { x64: 0xc000_003e, arm64: 0xc000_00b7 } as const;
const STRINGS = 64;
const policy = (sandbox: Parameters<typeof policyOf>[0] = {}): Policy =>
  policyOf({ run: ["/bin/true"], ...sandbox }, "program");
const handover = (supervision: Parameters<typeof handoverOf>[1], given = policy(), lent: readonly string[] = []) =>
  handoverOf(given, supervision, { machine: MACHINE, lent, strings: STRINGS, begins: "execve" });

const { ALLOW, USER_NOTIF, ERRNO: REFUSE } = SECCOMP_RET;
/** What the filter does with a call. */
function verdict(filter: Uint8Array, call: SyscallName, ...args: readonly (number | bigint)[]): string {
  const words = Array.from({ length: 6 }, (_, index) => BigInt.asUintN(64, BigInt(args[index] ?? 0)));
  const numbers: Partial<Record<SyscallName, number>> = NUMBERS[MACHINE];
  const { result } = interpret(filter, { nr: numbers[call]!, arch: ARCH[MACHINE], args: words });
  if (result === ALLOW) return "allow";
  if (result === USER_NOTIF) return "notify";
  return (result & 0xffff_0000) === REFUSE ? `errno ${result & 0xffff}` : "end";
}

describe("handoverOf()", () => {
  test("hands over what is asked about and what the walls refuse, and lets the rest through", () => {
    const { filter, orders } = handover({ asked: ["openat", "connect"], tell() {} });
    expect(
      ["openat", "connect", "mount", "socket", "ptrace"].map((call) => verdict(filter, call as SyscallName)),
    ).toEqual(Array(5).fill("notify"));
    expect(["read", "close", "execve", "getpid"].map((call) => verdict(filter, call as SyscallName))).toEqual(
      Array(4).fill("allow"),
    );
    expect(orders.verdicts).toEqual({
      [NUMBERS[MACHINE].openat]: { act: "ask" },
      [NUMBERS[MACHINE].connect]: { act: "ask" },
    });
    expect(orders.otherwise).toEqual({ act: "refuse", errno: 1, told: true });
  });

  test("what libraries can do without is absent, as it is in every sandbox", () => {
    const { filter } = handover({});
    expect([verdict(filter, "clone3"), verdict(filter, "openat2")]).toEqual(["errno 38", "errno 38"]);
  });

  test("who has a limit of disk takes no space that nothing counts, whoever came before", () => {
    const EOPNOTSUPP = "errno 95";
    const limited = policy({ limits: { disk: "16 MiB" } });
    // Filters are kept: each pair has a key of its own.
    const orders = [
      ["getppid", [limited, policy()]],
      ["getpgrp", [policy(), limited]],
    ] as const;
    for (const [asked, pair] of orders)
      for (const each of pair) {
        const { filter } = handover({ asked: [asked] }, each);
        expect(verdict(filter, "fallocate", 3, 0)).toBe(each === limited ? EOPNOTSUPP : "allow");
      }
  });

  test("sendmsg goes through by the number of the strings alone, where promises forbid it", () => {
    const { filter } = handover({}, policy({ promises: "stdio" }));
    expect(verdict(filter, "sendmsg", STRINGS)).toBe("allow");
    for (const other of [0, 3, STRINGS - 1, STRINGS + 1, 2n ** 32n + BigInt(STRINGS)])
      expect(verdict(filter, "sendmsg", other)).toBe("notify");
    expect(verdict(filter, "sendmmsg", STRINGS)).toBe("notify");
  });

  test("open files are limited by a call that is marked with the number of the strings, where promises forbid it", () => {
    const { filter } = handover({ asked: ["prlimit64"] }, policy({ promises: "stdio" }));
    const { NOFILE, NPROC } = RLIMIT;
    expect(verdict(filter, "prlimit64", 0, NOFILE, 1, 0, STRINGS)).toBe("allow");
    for (const [pid, resource, mark] of [
      [0, NOFILE, 0],
      [0, NOFILE, STRINGS + 1],
      [0, NPROC, STRINGS],
      [1, NOFILE, STRINGS],
    ] as const)
      expect(verdict(filter, "prlimit64", pid, resource, 1, 0, mark)).toBe("notify");
  });

  test("promises narrow what the walls allow, and what is asked about widens neither", () => {
    const { filter } = handover({ asked: ["getpid"] }, policy({ promises: "stdio" }));
    expect(["openat", "execve", "mount", "getpid"].map((call) => verdict(filter, call as SyscallName, -100))).toEqual(
      Array(4).fill("notify"),
    );
    expect(verdict(filter, "read")).toBe("allow");
    expect(verdict(filter, "getuid")).toBe("allow");
  });

  test("sockets come with questions about connect, or not at all", () => {
    expect(() => handover({ sockets: true })).toThrow(TypeError);
    const { filter } = handover({ sockets: true, asked: ["connect"] });
    const [UNIX, INET, INET6, NETLINK, PACKET] = [1, 2, 10, 16, 17];
    const [STREAM, DGRAM, RAW] = [1, 2, 3];
    for (const family of [INET, INET6])
      for (const type of [STREAM, DGRAM]) expect(verdict(filter, "socket", family, type)).toBe("allow");
    expect(verdict(filter, "socket", UNIX, STREAM)).toBe("allow");
    for (const [family, type] of [
      [UNIX, DGRAM],
      [UNIX, RAW],
      [INET, RAW],
      [NETLINK, RAW],
      [PACKET, RAW],
    ])
      expect(verdict(filter, "socket", family!, type!)).toBe("notify");
    expect(verdict(filter, "connect")).toBe("notify");
  });

  test("who breaks a promise is ended, or refused, as its policy says", () => {
    const breach = (sandbox: Parameters<typeof policyOf>[0]) => handover({}, policy(sandbox)).orders.promised?.breach;
    expect(breach({})).toBeUndefined();
    expect(breach({ promises: "stdio" })).toEqual({ act: "refuse", errno: 1, told: true });
    expect(breach({ promises: "stdio", onBreak: "kill" })).toEqual({ act: "end" });
    expect(breach({ promises: "stdio error", onBreak: "kill" })).toEqual({ act: "refuse", errno: 38, told: true });
  });

  test("orders of all promises and many files are JSON that fits", () => {
    const promises =
      "stdio rpath wpath cpath dpath tmppath inet fattr chown flock unix dns getpw sendfd recvfd tty proc exec prot_exec id";
    const { orders } = handover({}, policy({ promises }), Array(1000).fill("/bin/true"));
    const text = JSON.stringify(orders);
    expect(JSON.parse(text)).toEqual(orders);
    expect(text.length).toBeLessThan(ORDER_SIZE);
  });
});

describe("permits()", () => {
  const call = (call: SyscallName, ...args: readonly bigint[]): SupervisedCall => ({
    ...{ call, pid: 1, tid: 1, program: "", paths: [] },
    args: Array.from({ length: 6 }, (_, index) => args[index] ?? 0n),
  });
  test("only what the walls of the policy let through by itself", () => {
    const may = (sandbox: Parameters<typeof policyOf>[0], ...given: Parameters<typeof call>) =>
      permits(policy(sandbox), MACHINE, call(...given));
    expect(may({}, "openat")).toBe(true);
    expect(may({}, "mount")).toBe(false);
    expect(may({}, "connect")).toBe(false);
    expect(may({ net: ["a.example:443"] }, "connect")).toBe(true);
    expect(may({}, "socket", 2n, 1n)).toBe(false);
    expect(may({ promises: "stdio" }, "openat")).toBe(false);
    expect(may({ promises: "stdio rpath" }, "openat")).toBe(true);
    expect(may({ promises: "stdio rpath" }, "openat", 0n, 0n, 1n)).toBe(false);
    expect(may({}, "clone3")).toBe(false);
  });
});

test("refusing() tells of all and lends nothing; watching() refuses nothing and never sees how its listener comes", () => {
  expect(refusing(policyOf({}), 1)).toMatchObject({
    verdicts: {},
    otherwise: { act: "refuse", errno: 1, told: true },
    begins: [],
    lent: [],
  });
  const { filter, orders } = watching(MACHINE);
  expect(orders.otherwise).toEqual({ act: "pass" });
  expect(["openat", "connect", "execve", "sendto"].map((call) => verdict(filter, call as SyscallName))).toEqual(
    Array(4).fill("notify"),
  );
  expect(["sendmsg", "read", "ptrace"].map((call) => verdict(filter, call as SyscallName))).toEqual(
    Array(3).fill("allow"),
  );
});
