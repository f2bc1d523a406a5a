import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import { Allowance, finish, Leisure } from "../../platform/linux/leisure.ts";

describe("Leisure", () => {
  let nowMs = 0;
  beforeEach(() => {
    nowMs = 0;
    jest.useFakeTimers();
  });
  afterEach(() => {
    jest.useRealTimers();
  });

  /** Steps that take so long each, and write down when they began. */
  function* steps(count: number, eachMs: number, began: number[]): Generator<void, string> {
    for (let left = count; left > 0; left--) {
      began.push(nowMs);
      nowMs += eachMs;
      yield;
    }
    return "done";
  }

  /** Lets time go by, and who waits go on. */
  async function pass(milliseconds: number): Promise<void> {
    for (const until = nowMs + milliseconds; nowMs < until; ) {
      nowMs++;
      jest.advanceTimersByTime(1);
      for (let turns = 0; turns < 20; turns++) await undefined;
    }
  }

  test("takes what is short at once", () => {
    const began: number[] = [];
    void new Leisure(() => nowMs).through(steps(5, 1, began));
    expect(began).toEqual([0, 1, 2, 3, 4]);
  });

  test("rests for as long as it worked, and has all steps taken", async () => {
    const began: number[] = [];
    const result = new Leisure(() => nowMs).through(steps(100, 2, began));
    await pass(600);
    expect(await result).toBe("done");
    expect(began).toHaveLength(100);
    for (const [index, at] of began.entries()) {
      // 2 ms of work each, and 6 in a row.
      expect(at).toBeGreaterThanOrEqual(2 * 2 * index - 6);
      if (index >= 3) expect(at - began[index - 3]!).toBeGreaterThanOrEqual(2 * 3 + 5);
    }
  });

  test("rests behind a step that takes long, too", async () => {
    const began: number[] = [];
    void new Leisure(() => nowMs).through(steps(3, 100, began));
    await pass(1000);
    expect(began).toEqual([0, 200, 400]);
  });

  test("is one for several, who take turns", async () => {
    const leisure = new Leisure(() => nowMs);
    const [long, short, shorter]: number[][] = [[], [], []];
    const ends: string[] = [];
    const all = Object.entries({
      long: steps(40, 3, long!),
      short: steps(10, 3, short!),
      shorter: steps(2, 3, shorter!),
    });
    for (const [name, each] of all) void leisure.through(each).then(() => ends.push(name));
    await pass(400);
    expect(ends).toEqual(["shorter", "short", "long"]);
    expect([long, short, shorter].map((began) => began!.length)).toEqual([40, 10, 2]);
    expect(long!.at(-1)).toBeGreaterThanOrEqual(2 * 3 * 52 - 12);
  });

  test("has who takes long wait for who does not", async () => {
    const leisure = new Leisure(() => nowMs);
    const [long, short]: number[][] = [[], []];
    const ends: string[] = [];
    void leisure.through(steps(3, 100, long!)).then(() => ends.push("long"));
    await pass(50);
    expect(long).toEqual([0]);
    // It comes while the other one rests, and has all steps in a row but for its own rests.
    void leisure.through(steps(10, 2, short!)).then(() => ends.push("short"));
    await pass(800);
    expect(ends).toEqual(["short", "long"]);
    expect(long![1]!).toBeGreaterThan(short!.at(-1)!);
  });

  test("remembers of who comes again that they took long", async () => {
    for (const [share, later] of [
      [{ workedMs: 0 }, true],
      [undefined, false],
    ] as const) {
      const leisure = new Leisure(() => nowMs);
      const [long, other]: number[][] = [[], []];
      void leisure.through(steps(1, 100, long!), share);
      await pass(50); // it rests now
      void leisure.through(steps(1, 100, long!), share);
      void leisure.through(steps(1, 100, other!));
      await pass(400);
      expect(long![1]! > other![0]!).toBe(later);
    }
  });

  test("lets nobody save up while they do not come", async () => {
    const leisure = new Leisure(() => nowMs);
    const [busy, idle]: number[][] = [[], []];
    const [always, seldom] = [{ workedMs: 0 }, { workedMs: 0 }];
    void leisure.through(steps(1, 1, idle!), seldom);
    await pass(50);
    void leisure.through(steps(10, 50, busy!), always);
    await pass(1000);
    void leisure.through(steps(5, 50, busy!), always);
    await pass(50);
    void leisure.through(steps(5, 50, idle!), seldom);
    await pass(1000);
    expect([busy!.length, idle!.length]).toEqual([15, 6]);
    // They take turns.
    expect(busy![12]!).toBeLessThan(idle![3]!);
  });

  test("rejects with what a step throws, and goes on with others", async () => {
    const leisure = new Leisure(() => nowMs);
    function* failing(): Generator<void, void> {
      yield;
      throw new Error("Failed");
    }
    const failed = leisure.through(failing()).catch((error) => error.message);
    expect(await failed).toBe("Failed");
    expect(await leisure.through(steps(2, 1, []))).toBe("done");
  });
});

describe("Allowance", () => {
  const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

  test("is for all of a turn of the event loop, and there is one for each turn", async () => {
    let nowMs = 0;
    const allowance = new Allowance(10, () => nowMs);
    const spend = (ms: number) =>
      allowance.spend((mostMs) => {
        nowMs += ms;
        return mostMs;
      });
    expect([4, 0, 20, 1].map(spend)).toEqual([10, 6, 6, 0]);
    await undefined;
    expect(spend(1)).toBe(0);
    await turn();
    await turn();
    expect([3, 0].map(spend)).toEqual([10, 7]);
  });

  test("counts what fails, too", () => {
    let nowMs = 0;
    const allowance = new Allowance(10, () => nowMs);
    const fail = () =>
      allowance.spend(() => {
        nowMs += 8;
        throw new Error("Failed");
      });
    expect(fail).toThrow("Failed");
    expect(allowance.spend((mostMs) => mostMs)).toBe(2);
  });
});

test("finish() takes all steps", () => {
  const taken: number[] = [];
  function* steps(): Generator<void, string> {
    for (const step of [1, 2, 3]) {
      taken.push(step);
      yield;
    }
    return "done";
  }
  expect(finish(steps())).toBe("done");
  expect(taken).toEqual([1, 2, 3]);
});
