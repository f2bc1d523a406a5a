import { describe, expect, test } from "bun:test";
import { describeExit, type Exit, exitOf } from "../../src/exit.ts";

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

test("describeExit() quotes what was thrown in short, and harmless", () => {
  const told = (error: unknown) => describeExit({ reason: "threw", error });
  expect(told(new TypeError("\x1b[2Jgone"))).toBe("it threw TypeError: \\x1b[2Jgone");
  expect(told("x".repeat(10_000))).toHaveLength("it threw ".length + 1024);
  expect(told({ toString: 1, valueOf: 1 })).toBe("it threw an object");
  expect(told(["a"])).toBe("it threw an array");
  expect(told(undefined)).toBe("it threw undefined");
});
