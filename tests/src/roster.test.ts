// Who is alive, in which order, and what is heard of those who leave.
import { describe, expect, test } from "bun:test";
import type { Exit } from "../../src/exit.ts";
import type { Inspection } from "../../src/inspection.ts";
import { inspections, isAlive, onDeparture } from "../../src/roster.ts";
import { Made } from "./member.ts";

/** Those of this test: other test files may have left some alive. */
const ours = async () => [...(await inspections())].filter(([member]) => member instanceof Made);
const told = async () => (await ours()).map(([, inspection]) => inspection);
const names = async () => (await told()).map(({ name }) => name);

describe("enter()", () => {
  test("has a member among those that are alive until it leaves", async () => {
    using one = new Made("one");
    {
      using _ = new Made("two");
      expect(await names()).toEqual(["one", "two"]);
    }
    expect(await names()).toEqual(["one"]);
    one.leave();
    expect(await names()).toEqual([]);
  });

  test("gives what a member tells now, not what it told before", async () => {
    using one = new Made("one");
    await told();
    one.now = { ...one.now, state: "ending" };
    expect((await told())[0]?.state).toBe("ending");
  });
});

describe("onDeparture()", () => {
  test("tells once of each member that leaves, with its last words", () => {
    const seen: [Inspection, Exit | undefined][] = [];
    const one = new Made("one");
    using _ = onDeparture((last, exit) => void seen.push([last, exit]));
    one.now = { ...one.now, denials: 7 };
    one.leave({ reason: "returned", code: 0 });
    one.leave({ reason: "returned", code: 1 });
    expect(seen).toEqual([[one.now, { reason: "returned", code: 0 }]]);
  });

  test("tells no more when it is disposed of, and nobody is looked at for it", () => {
    const seen: string[] = [];
    const departures = onDeparture(({ name }) => void seen.push(name));
    departures[Symbol.dispose]();
    const one = new Made("one");
    one.leave();
    expect({ seen, looks: one.looks }).toEqual({ seen: [], looks: 0 });
  });
});

describe("inspections()", () => {
  /** A member that takes a while to look at. */
  function slow(): Made {
    const member = new Made("slow");
    const { inspect } = Made.prototype;
    member.inspect = () => {
      for (const until = performance.now() + 2; performance.now() < until; );
      return inspect.call(member);
    };
    return member;
  }

  test("lets others have their turn between members", async () => {
    using members = new DisposableStack();
    for (let made = 0; made < 50; made++) members.use(slow());
    let turns = 0;
    const timer = setInterval(() => turns++, 0);
    expect((await ours()).length).toBe(50);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(5);
  });

  test("skips who has left before its turn, and looks at no more than are asked for", async () => {
    using members = new DisposableStack();
    for (let made = 0; made < 10; made++) members.use(slow());
    const last = new Made("last");
    const seen = ours();
    last.leave();
    expect((await seen).length).toBe(10);
    expect((await inspections(3)).size).toBe(3);
    expect({ last: isAlive(last), looks: last.looks }).toEqual({ last: false, looks: 0 });
  });
});
