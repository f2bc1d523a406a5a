import { describe, expect, test } from "bun:test";
import { describeExit, type Exit, exitOf } from "../../src/exit.ts";

describe("exitOf()", () => {
  const ended = (how: { code?: number; signal?: number }, cpuMicroseconds = 0) => ({
    ...how,
    cpuMicroseconds,
    peakKib: 0,
  });

  test.each<[string, ReturnType<typeof ended>, number | undefined, Exit]>([
    ["a code", ended({ code: 3 }), undefined, { reason: "returned", code: 3 }],
    ["a signal", ended({ signal: 11 }), 1, { reason: "signal", signal: "SIGSEGV" }],
    ["a signal without a name", ended({ signal: 40 }), undefined, { reason: "signal", signal: "signal 40" }],
    ["SIGKILL with the time used up", ended({ signal: 9 }, 1_000_000), 1, { reason: "limit", limit: "cpuTime" }],
    ["SIGKILL with time left", ended({ signal: 9 }, 400_000), 1, { reason: "signal", signal: "SIGKILL" }],
    ["SIGKILL without a limit", ended({ signal: 9 }, 9_000_000), undefined, { reason: "signal", signal: "SIGKILL" }],
    [
      "another signal with the time used up",
      ended({ signal: 6 }, 1_000_000),
      1,
      { reason: "signal", signal: "SIGABRT" },
    ],
  ])("tells from %s", (_, how, cpuTime, exit) => {
    expect(exitOf(how, cpuTime)).toEqual(exit);
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
