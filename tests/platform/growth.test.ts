import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import { watchGrowth } from "../../platform/linux/growth.ts";

describe("watchGrowth()", () => {
  beforeEach(() => {
    jest.useFakeTimers();
  });
  afterEach(() => {
    jest.useRealTimers();
  });

  /** Something that grows by so much in a second, and what its watch does in a time. */
  function watched(limit: number, { by, atMost }: { readonly by: number; readonly atMost: number }) {
    let now = 0;
    const looks: number[] = [];
    const ends: number[] = [];
    const watch = watchGrowth({
      limit,
      perSecond: atMost,
      used() {
        looks.push(now);
        return (now / 1000) * by;
      },
      reached: () => ends.push(now),
    });
    const pass = (milliseconds: number) => {
      for (const until = now + milliseconds; now < until; ) {
        now++;
        jest.advanceTimersByTime(1);
      }
    };
    return { watch, looks, ends, pass };
  }

  test("does not look before the limit can have been reached", () => {
    const { looks, pass } = watched(8, { by: 0, atMost: 4 });
    pass(1999);
    expect(looks).toEqual([]);
    pass(1);
    expect(looks).toEqual([2000]);
    pass(8000);
    // It did not grow: the next looks are as far apart.
    expect(looks).toEqual([2000, 4000, 6000, 8000, 10_000]);
  });

  test.each([1, 2, 4])("sees what grows by %d where it could by 4 within 10 ms, once", (by) => {
    const { looks, ends, pass } = watched(8, { by, atMost: 4 });
    pass(20_000);
    expect(ends).toHaveLength(1);
    expect(ends[0]).toBeWithin(8000 / by, 8000 / by + 11);
    expect(looks.at(-1)).toBe(ends[0]!);
    expect(looks.length).toBeLessThan(40);
  });

  test("looks no more when it is stopped", () => {
    const { watch, looks, pass } = watched(1, { by: 0, atMost: 1 });
    pass(1500);
    watch.stop();
    pass(5000);
    expect(looks).toEqual([1000]);
  });

  test("looks again soon where nobody can tell, and ends what has come to the limit by then", () => {
    const told: (number | undefined)[] = [undefined, undefined, 0, undefined, 9];
    let ends = 0;
    let asked = 0;
    watchGrowth({ limit: 8, perSecond: 8, used: () => told[asked++], reached: () => ends++ });
    jest.advanceTimersByTime(1000 + 20);
    expect([asked, ends]).toEqual([3, 0]);
    jest.advanceTimersByTime(1000 + 10);
    expect([asked, ends]).toEqual([5, 1]);
  });

  test("does not look anew while a look goes on, and heeds none that was stopped", async () => {
    const looks: PromiseWithResolvers<number>[] = [];
    let ends = 0;
    const used = () => {
      looks.push(Promise.withResolvers());
      return looks.at(-1)!.promise;
    };
    const watch = watchGrowth({ limit: 8, perSecond: 8, used, reached: () => ends++ });
    jest.advanceTimersByTime(1000 + 500);
    expect(looks).toHaveLength(1);
    looks[0]!.resolve(4);
    await undefined;
    jest.advanceTimersByTime(499);
    expect(looks).toHaveLength(1);
    jest.advanceTimersByTime(1);
    expect(looks).toHaveLength(2);
    watch.stop();
    looks[1]!.resolve(9);
    await undefined;
    jest.advanceTimersByTime(10_000);
    expect([looks.length, ends]).toEqual([2, 0]);
  });

  test("takes limits for which no timer is long enough", () => {
    const { looks, pass } = watched(2 ** 31, { by: 0, atMost: 1 });
    pass(10_000);
    expect(looks).toEqual([]);
  });
});
