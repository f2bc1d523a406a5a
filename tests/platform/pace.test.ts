import { describe, expect, test } from "bun:test";
import { Pace } from "../../platform/pace.ts";

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** A clock that goes on while somebody works, and no faster where the machine has other things to do. */
let time = 0;
const clock = () => time;
function busy(milliseconds: number): void {
  time += milliseconds;
}

describe("Pace", () => {
  /** So many pieces of work that come at once; notes which are done, and how many in each turn. */
  function flood(
    pace: Pace,
    count: number,
    work: () => void,
  ): { readonly done: number[]; readonly over: Promise<void> } {
    const done: number[] = [];
    const { promise, resolve } = Promise.withResolvers<void>();
    for (let index = 0; index < count; index++) {
      const piece = () => {
        work();
        if (done.push(index) === count) resolve();
      };
      if (pace.admits()) piece();
      else pace.wait(piece);
    }
    return { done, over: promise };
  }

  test("does all that is little at once", () => {
    expect(flood(new Pace(clock), 100, () => {}).done).toHaveLength(100);
  });

  test("does what takes long over several turns, in the order in which it came", async () => {
    const { done, over } = flood(new Pace(clock), 20, () => busy(2));
    expect(done.length).toBeLessThan(20);
    await over;
    expect(done).toEqual(Array.from({ length: 20 }, (_, index) => index));
  });

  test("lets a timer go off between, however much work there is", async () => {
    const pace = new Pace(clock);
    const { promise, resolve } = Promise.withResolvers<void>();
    let fired = false;
    setTimeout(() => {
      fired = true;
    }, 1);
    let left = 100_000; // takes many milliseconds. Without an end only the timer could end it
    const more = () => {
      busy(2);
      if (fired || --left === 0) resolve();
      else pace.wait(more);
    };
    more();
    await promise;
    expect(fired).toBeTrue();
  });

  test("counts what those do who waited for it", async () => {
    const pace = new Pace(clock);
    const { promise, resolve } = Promise.withResolvers<void>();
    flood(pace, 5, () => busy(2)); // the turn is used up
    const waited = promise.then(() => busy(10));
    pace.wait(() => resolve());
    let done = false;
    pace.wait(() => {
      done = true;
    });
    await waited;
    expect(done).toBeFalse(); // although the work itself took nothing
    while (!done) await turn();
  });

  test("has what comes later wait behind what waits", async () => {
    const pace = new Pace(clock);
    const { over } = flood(pace, 10, () => busy(2));
    expect(pace.admits()).toBeFalse();
    await over;
    await turn();
    expect(pace.admits()).toBeTrue();
  });
});
