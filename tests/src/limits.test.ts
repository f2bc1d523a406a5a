// Limits as people write them: what is read, what is refused and with which words, and that comparing and joining never widens one.
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { Compile } from "typebox/compile";
import type { Limits } from "../../platform/index.ts";
import { containerPlan } from "../../src/container.ts";
import { LIMITS, type LimitKey, type SandboxLimits } from "../../src/limits.ts";
import { LIMITS as CHANNEL } from "../../src/link.ts";
import { equals, excess, extend, intersection, isWithin, print, union } from "../../src/policy.ts";
import { checked, limitsOf, policyOf, SCHEMA } from "../../src/sandbox.ts";

// Random cases by the hundred, on machines that may be busy.
setDefaultTimeout(120_000);

const MIB = 2 ** 20;

describe("limitsOf()", () => {
  const READ: readonly (readonly [SandboxLimits, Partial<Limits>])[] = [
    [{ memory: "256 MiB" }, { memory: 256 * MIB }],
    [{ memory: "0.5GiB" }, { memory: 512 * MIB }],
    [{ memoryBytes: 2 ** 28 + 0.5 }, { memory: 2 ** 28 }],
    [{ memoryWarning: "500 MB" }, { memoryWarning: 5e8 }],
    [{ swap: "0 B" }, { swap: 0 }],
    [{ swapBytes: 0 }, { swap: 0 }],
    [{ cpu: "0.5 cpu" }, { cpu: 0.5 }],
    [{ cpu: 2 }, { cpu: 2 }],
    [{ cpuTime: "300 ms" }, { cpuTime: 0.3 }],
    [{ cpuTime: "700 ms" }, { cpuTime: 0.7 }],
    [{ cpuTime: "2 min" }, { cpuTime: 120 }],
    [{ cpuTimeSeconds: 1.5 }, { cpuTime: 1.5 }],
    [{ wallTime: "1.5 s" }, { wallTime: 1500 }],
    [{ wallTimeMs: 20 }, { wallTime: 20 }],
    [{ tmpfs: "1 MiB" }, { tmpfs: MIB }],
    [{ disk: "1 GB" }, { disk: 1e9 }],
    [{ diskRead: "10 MiB/s" }, { diskRead: 10 * MIB }],
    [{ diskWriteBytesPerSecond: 1000 }, { diskWrite: 1000 }],
    [{ output: "1kB" }, { output: 1000 }],
  ];
  test.each(READ)("reads %j as %j", (limits, amounts) => {
    expect(limitsOf(limits)).toEqual({ ...limitsOf({}), ...amounts });
  });

  test("has what holds where nothing is said, and no number where nothing does", () => {
    const usual = { memory: 512 * MIB, files: 256, fileSize: 64 * MIB, tmpfs: 64 * MIB };
    expect(limitsOf(undefined)).toEqual({ ...usual, processes: 64 });
    expect(limitsOf({}, "actor")).toEqual({ ...usual, processes: 1 });
  });

  test("of an actor has its messages, of which a program has none", () => {
    expect(limitsOf({ messages: 8, inFlight: "1 MiB" }, "actor")).toMatchObject({ messages: 8, inFlight: MIB });
    for (const limits of [{ messages: 8 }, { inFlight: "1 MiB" }, { inFlightBytes: 1 }])
      expect(() => limitsOf(limits)).toThrow(`Cannot use limits.${Object.keys(limits)[0]} for a program`);
  });

  test("wants of an actor as much memory as Bun needs, and less of a program", () => {
    expect(limitsOf({ memory: "16 MiB" }).memory).toBe(16 * MIB);
    for (const memory of ["16 MiB", "1 MiB"])
      expect(() => limitsOf({ memory }, "actor")).toThrow(
        new RangeError(`Cannot use "${memory}" as limits.memory: 64 MiB at least is expected`),
      );
  });

  const REFUSED: readonly (readonly [unknown, ErrorConstructor, string])[] = [
    [
      { cpuTime: 5 },
      TypeError,
      'Cannot use 5 as limits.cpuTime: a number and one of ms, s, min, h is expected, as in "5 s"; or say limits.cpuTimeSeconds',
    ],
    [
      { memory: 1e9 },
      TypeError,
      'Cannot use 1000000000 as limits.memory: a number and one of B, kB, KiB, MB, MiB, GB, GiB is expected, as in "256 MiB"; or say limits.memoryBytes',
    ],
    [{ diskRead: 5 }, TypeError, 'as in "10 MiB/s"; or say limits.diskReadBytesPerSecond'],
    [{ wallTime: null }, TypeError, "Cannot use null as limits.wallTime: a number and one of"],
    [{ memory: ["1 GiB"] }, TypeError, "as limits.memory: a number and one of"],
    [{ memoryBytes: "1 GiB" }, TypeError, 'Cannot use "1 GiB" as limits.memoryBytes: a number of bytes is expected'],
    [{ wallTimeMs: true }, TypeError, "Cannot use true as limits.wallTimeMs: a number of milliseconds is expected"],
    [{ memory: "1 parsec" }, RangeError, 'Cannot use "1 parsec" as limits.memory: a number and one of'],
    [{ memory: "1 constructor" }, RangeError, "as limits.memory"],
    [{ memory: "1 MiB/s" }, RangeError, "as limits.memory"],
    [{ diskRead: "1 MiB" }, RangeError, "as limits.diskRead: a number and one of B/s"],
    [{ cpuTime: "5" }, RangeError, "as limits.cpuTime"],
    [{ cpuTime: "-5 s" }, RangeError, "as limits.cpuTime"],
    [{ cpuTime: "1e3 s" }, RangeError, "as limits.cpuTime"],
    [{ cpuTime: "5  s" }, RangeError, "as limits.cpuTime"],
    [{ cpuTime: "5 s\n" }, RangeError, "as limits.cpuTime"],
    [{ cpuTime: "" }, RangeError, "as limits.cpuTime"],
    [{ memoryBytes: Number.NaN }, RangeError, "Cannot use NaN as limits.memoryBytes"],
    [{ wallTimeMs: Number.POSITIVE_INFINITY }, RangeError, "Cannot use Infinity as limits.wallTimeMs"],
    [{ wallTimeMs: -1 }, RangeError, "Cannot use -1 as limits.wallTimeMs"],
    [{ wallTimeMs: 0 }, RangeError, "Cannot use 0 as limits.wallTimeMs"],
    [{ wallTime: "25 d" }, RangeError, "as limits.wallTime"],
    [{ wallTime: "1000 h" }, RangeError, "2147483.647 s at most is expected"],
    [{ memory: "99999999999 GiB" }, RangeError, "at most is expected"],
    [{ fileSize: "0 B" }, RangeError, 'Cannot use "0 B" as limits.fileSize: 1 B at least is expected'],
    [{ fileSize: "0.5 B" }, RangeError, "1 B at least is expected"],
    [{ outputBytes: 0 }, RangeError, "1 B at least is expected"],
    [{ cpu: 0 }, RangeError, "Cannot use 0 as limits.cpu: 0.01 cpu at least is expected"],
    [{ cpu: "0.001 cpu" }, RangeError, "0.01 cpu at least is expected"],
    [{ cpu: 1025 }, RangeError, "1024 cpu at most is expected"],
    [{ cpu: "half" }, RangeError, 'a number of processors is expected, as in "0.5 cpu" or 0.5'],
    [{ cpu: true }, TypeError, "a number of processors is expected"],
    [
      { processes: 1.5 },
      RangeError,
      "Cannot use 1.5 as limits.processes: a whole number from 1 to 4194304 is expected",
    ],
    [{ processes: "4" }, RangeError, 'Cannot use "4" as limits.processes: a whole number from 1'],
    [{ files: 3 }, RangeError, "Cannot use 3 as limits.files: a whole number from 32 to 65536 is expected"],
    [{ memory: "1 GiB", memoryBytes: 2 ** 30 }, TypeError, "Cannot use limits.memory and limits.memoryBytes at once"],
    [{ memory: "64 MiB", memoryWarning: "64 MiB" }, RangeError, "Cannot warn at 64 MiB: less than limits.memory"],
    [{ memoryWarning: "1 GiB" }, RangeError, "less than limits.memory is expected, which is 512 MiB"],
  ];
  const schema = Compile(JSON.parse(JSON.stringify(SCHEMA)));
  /** Of what the schema of editors has no words for. */
  const beyondWords = /at once|Cannot warn|at most|0\.5 B|0\.001|GiB" as limits\.memory: 64/;
  test.each(REFUSED)("refuses %j", (limits, Refusal, told) => {
    let refusal: unknown;
    try {
      checked({ limits });
    } catch (error) {
      refusal = error;
    }
    expect(refusal).toBeInstanceOf(Refusal);
    expect((refusal as Error).message).toContain(told);
    if (!beyondWords.test(`${(refusal as Error).message} ${JSON.stringify(limits)}`))
      expect(schema.Check({ limits })).toBe(false);
  });

  test("takes from nobody's prototype", () => {
    const polluted = Object.prototype as { memoryBytes?: unknown; swap?: unknown };
    try {
      polluted.memoryBytes = 2 ** 40;
      polluted.swap = "1 GiB";
      const limits = limitsOf({ files: 40 });
      expect([limits.memory, Object.hasOwn(limits, "swap")]).toEqual([512 * MIB, false]);
    } finally {
      delete polluted.memoryBytes;
      delete polluted.swap;
    }
  });
});

describe("containerPlan()", () => {
  test("has the limits that were asked for, completed, and none otherwise", () => {
    expect(containerPlan({}).limits).toBeUndefined();
    expect(containerPlan({ limits: { memory: "64 MiB" } }).limits).toEqual(limitsOf({ memory: "64 MiB" }));
    expect(() => containerPlan({ limits: { memory: 64 as never } })).toThrow("or say limits.memoryBytes");
    expect(() => containerPlan({ limits: { messages: 1 } })).toThrow(TypeError);
  });
});

describe("LIMITS", () => {
  test("takes for the channel's own windows what these are", () => {
    const nothing = policyOf().limits;
    expect(LIMITS.messages.unsaid()).toBe(CHANNEL.window.messages);
    expect(LIMITS.inFlight.unsaid()).toBe(CHANNEL.window.bytes);
    expect([nothing.messages, nothing.inFlight]).toEqual([undefined, undefined]);
  });
});

describe("isWithin()", () => {
  const COMPARED: readonly (readonly [string, SandboxLimits, SandboxLimits, boolean])[] = [
    ["half of a processor within one", { cpu: 0.5 }, { cpu: "1 cpu" }, true],
    ["any processor beyond one", {}, { cpu: 1 }, false],
    ["no swap within what is usual", { swap: "0 B" }, {}, true],
    ["what is usual beyond no swap", {}, { swap: "0 B" }, false],
    ["swap beyond what is usual", { swap: "1 B" }, {}, false],
    ["what is usual within some swap", {}, { swap: "1 B" }, true],
    ["a warning within none", { memoryWarning: "100 MiB" }, {}, true],
    ["no warning beyond one", {}, { memoryWarning: "100 MiB" }, false],
    ["no warning, and an end before it", { memory: "64 MiB" }, { memoryWarning: "100 MiB" }, true],
    ["a rate beyond a slower one", { diskRead: "2 kB/s" }, { diskReadBytesPerSecond: 1000 }, false],
    ["more messages than the channel's window", { messages: 1025 }, {}, false],
    ["fewer messages than the channel's window", { messages: 1023 }, {}, true],
    ["more to print", { output: "2 B" }, { output: "1 B" }, false],
    ["a larger tmpfs than usual", { tmpfs: "1 GiB" }, {}, false],
  ];
  test.each(COMPARED)("%s: %j and %j: %p", (_, limits, parent, within) => {
    expect(isWithin({ limits }, { limits: parent })).toBe(within);
  });

  test("says of a limit that was left out what that means", () => {
    expect(excess({ limits: { swap: "1 MiB" } }, {})).toEqual({
      key: "limits.swap",
      value: "1 MiB",
      bound: "nothing said of it",
    });
    expect(excess({}, { limits: { cpu: 2 } })).toEqual({ key: "limits.cpu", value: "no limit", bound: "2 cpu" });
  });
});

describe("union(), intersection() and extend()", () => {
  test("keep a limit as it was written", () => {
    expect(intersection({ limits: { memoryBytes: 2 ** 28 } }, { limits: { memory: "1 GiB" } })).toEqual({
      limits: { memoryBytes: 2 ** 28 },
    });
    expect(extend({ limits: { memory: "1 GiB" } }, { limits: { memoryBytes: 2 ** 28 } })).toEqual({
      limits: { memoryBytes: 2 ** 28 },
    });
  });

  test("leave out a warning that would come no sooner than the end", () => {
    const warned: SandboxLimits = { memory: "1 GiB", memoryWarning: "256 MiB" };
    expect(intersection({ limits: warned }, { limits: { memory: "256 MiB" } })).toEqual({
      limits: { memory: "256 MiB" },
    });
    expect(extend({ limits: warned }, { limits: { memory: "128 MiB" } })).toEqual({ limits: { memory: "128 MiB" } });
    expect(extend({ limits: warned }, { limits: { memory: "512 MiB" } })).toEqual({
      limits: { ...warned, memory: "512 MiB" },
    });
  });
});

describe("union() of who is warned and who is not", () => {
  const warned: SandboxLimits = { memory: "1 GiB", memoryWarning: "256 MiB" };

  test.each([
    ["warns where the other one ends", { memory: "300 MiB" }, { memory: "1 GiB", memoryWarningBytes: 300 * 2 ** 20 }],
    [
      "warns where the other one ends, who says nothing of it",
      {},
      { memory: "1 GiB", memoryWarningBytes: 512 * 2 ** 20 },
    ],
    ["warns where one ends and the other is warned", { memory: "256 MiB" }, warned],
    ["does not warn where the other one has no less and is not warned", { memory: "2 GiB" }, { memory: "2 GiB" }],
  ] as const)("%s", (_, limits, expected) => {
    for (const [a, b] of [
      [warned, limits],
      [limits, warned],
    ] as const)
      expect(equals(union({ limits: a }, { limits: b }), { limits: expected })).toBe(true);
  });
});

test("print() tells of each limit that holds", () => {
  const limits: SandboxLimits = { swap: "0 B", cpu: 0.5, wallTimeMs: 1500, diskWrite: "10 MiB/s", output: "1 MiB" };
  const told = print({ limits }, "actor").split("\n");
  const held = told.slice(
    told.findIndex((line) => line.startsWith("Is held to")),
    told.findIndex((line) => line.startsWith("May not")),
  );
  expect(held.map((line) => line.replace("Is held to", "").trim())).toEqual([
    "512 MiB of memory",
    "0 B of swap",
    "0.5 cpu at a time",
    "1.5 s from start to end",
    "1 process",
    "256 open files",
    "64 MiB in one file",
    "64 MiB in each tmpfs that says no size",
    "10 MiB/s written to each disk",
    "1 MiB printed",
  ]);
});

describe("of random limits", () => {
  const amounts = fc.integer({ min: 64 * MIB, max: 2 ** 31 - 1 });
  /** An amount in one of its spellings. */
  const spelled = (words: LimitKey, number: string, unit: string): fc.Arbitrary<SandboxLimits> =>
    fc
      .tuple(amounts, fc.boolean())
      .map(([amount, inWords]) => (inWords ? { [words]: `${amount} ${unit}` } : { [number]: amount }));
  const one = fc.oneof(
    spelled("memory", "memoryBytes", "B"),
    spelled("memoryWarning", "memoryWarningBytes", "B"),
    spelled("swap", "swapBytes", "B"),
    fc.constant({ swap: "0 B" }),
    fc.double({ min: 0.01, max: 1024, noNaN: true }).map((cpu) => ({ cpu })),
    spelled("cpuTime", "cpuTimeSeconds", "s"),
    spelled("wallTime", "wallTimeMs", "ms"),
    fc.integer({ min: 1, max: 100 }).map((processes) => ({ processes })),
    spelled("tmpfs", "tmpfsBytes", "B"),
    spelled("disk", "diskBytes", "B"),
    spelled("diskRead", "diskReadBytesPerSecond", "B/s"),
    spelled("output", "outputBytes", "B"),
    fc.integer({ min: 1, max: 2048 }).map((messages) => ({ messages })),
    spelled("inFlight", "inFlightBytes", "B"),
  );
  const sandboxes = fc
    .array(one, { maxLength: 6 })
    .map((parts) => ({ limits: Object.assign({}, ...parts) as SandboxLimits }))
    .filter((sandbox) => {
      try {
        return checked(sandbox) !== undefined; // each said once, and warned in time
      } catch {
        return false;
      }
    });
  const hold = (law: (...sandboxes: [typeof A, typeof A, typeof A]) => void) =>
    fc.assert(
      fc.property(sandboxes, sandboxes, sandboxes, (a, b, c) => law(a, b, c)),
      { numRuns: 500 },
    );
  const A = { limits: {} as SandboxLimits };

  test("being within is an order", () => {
    hold((a, b, c) => {
      expect(isWithin(a, a)).toBe(true);
      if (isWithin(a, b) && isWithin(b, c)) expect(isWithin(a, c)).toBe(true);
      expect(equals(a, b)).toBe(isWithin(a, b) && isWithin(b, a));
    });
  });

  test("an intersection is the most that is within both, a union the least that both are within", () => {
    hold((a, b, c) => {
      const [shared, either] = [intersection(a, b), union(a, b)];
      expect([excess(shared, a), excess(shared, b), excess(a, either), excess(b, either)]).toEqual(Array(4).fill(undefined)); // biome-ignore format: one line
      if (isWithin(c, a) && isWithin(c, b)) expect(isWithin(c, shared)).toBe(true);
      if (isWithin(a, c) && isWithin(b, c)) expect(isWithin(either, c)).toBe(true);
      expect(equals(union(b, a), either) && equals(intersection(b, a), shared)).toBe(true);
    });
  });

  test("what is extended can be used, and says what was added", () => {
    hold((a, b) => {
      const [more, added] = [checked(extend(a, b)), b.limits];
      for (const [key, amount] of Object.entries(added))
        if (!key.startsWith("memoryWarning")) expect(more.limits?.[key as LimitKey]).toBe(amount as never);
    });
  });

  test("both spellings of an amount are the same", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 31 - 1 }), (amount) => {
        const worded = limitsOf({ output: `${amount} B`, cpuTime: `${amount} s`, wallTime: `${amount} ms` });
        expect(limitsOf({ outputBytes: amount, cpuTimeSeconds: amount, wallTimeMs: amount })).toEqual(worded);
      }),
    );
  });
});
