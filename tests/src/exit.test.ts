import { describe, expect, test } from "bun:test";
import { describeExit, type Exit, exitBy, exitOf } from "../../src/exit.ts";

describe("exitOf()", () => {
  test.each<[string, Parameters<typeof exitOf>[0], Exit]>([
    ["a code", { code: 3 }, { reason: "returned", code: 3 }],
    ["a signal", { signal: 11 }, { reason: "signal", signal: "SIGSEGV" }],
    ["a signal without a name", { signal: 40 }, { reason: "signal", signal: "signal 40" }],
    ["a limit, whatever it ended by", { signal: 9, limit: "cpuTime" }, { reason: "limit", limit: "cpuTime" }],
    ["nothing but SIGKILL, which says nothing", { signal: 9 }, { reason: "signal", signal: "SIGKILL" }],
  ])("tells from %s", (_, how, exit) => {
    expect(exitOf(how)).toEqual(exit);
  });
});

describe("exitBy()", () => {
  const killed: Exit = { reason: "killed", by: "kill" };
  const late: Exit = { reason: "limit", limit: "wallTime" };
  const fell: Exit = { reason: "threw", error: "it says" };
  const loud: Exit = { reason: "limit", limit: "output" };
  test.each<[string, Parameters<typeof exitBy>[0], Parameters<typeof exitBy>[1], Exit]>([
    ["the cause, where SIGKILL ended it", [killed], { signal: 9 }, killed],
    ["the first of two", [late, killed], { signal: 9 }, late],
    ["the code of one that ended by itself just then", [late], { code: 0 }, { reason: "returned", code: 0 }],
    ["what it returned, though its time was over", [late], { code: 124 }, { reason: "returned", code: 124 }],
    ["another's signal", [killed], { signal: 11 }, { reason: "signal", signal: "SIGSEGV" }],
    ["a limit that counts prove", [killed], { signal: 9, limit: "memory" }, { reason: "limit", limit: "memory" }],
    ["what it said of itself, whatever its handlers return", [fell], { code: 5 }, fell],
    ["no word of its own where it crashed", [fell], { signal: 11 }, { reason: "signal", signal: "SIGSEGV" }],
    ["that it was let go, by its code", [{ reason: "host gone" }], { code: 70 }, { reason: "host gone" }],
    ["another code, though it was let go", [{ reason: "host gone" }], { code: 3 }, { reason: "returned", code: 3 }],
    ["what was read, however it ended", [loud], { code: 0 }, loud],
  ])("tells %s", (_, causes, ended, exit) => {
    expect(exitBy(causes, ended)).toEqual(exit);
  });
});

test("describeExit() quotes what was thrown in short, and harmless", () => {
  const told = (error: unknown) => describeExit({ reason: "threw", error });
  expect(told(new TypeError("\x1b[2Jgone"))).toBe("it threw TypeError: \\x1b[2Jgone");
  expect(told("x".repeat(10_000))).toHaveLength("it threw ".length + 1024);
  expect(told({ toString: 1, valueOf: 1 })).toBe("it threw an object");
  expect(told(["a"])).toBe("it threw an array");
  expect(told(undefined)).toBe("it threw undefined");
  expect(told(1n << 1_000_000n)).toBe("it threw a bigint");
});
