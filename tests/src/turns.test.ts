import { afterEach, describe, expect, test } from "bun:test";
import { Pace } from "../../platform/pace.ts";
import { spawn } from "../../src/index.ts";
import { type Party, Turns } from "../../src/turns.ts";
import { cleanUp, link } from "./wire.ts";

type Pooled = typeof import("./fixtures/pooled.ts");
const module = new URL("fixtures/pooled.ts", import.meta.url);
const turn = () => new Promise((resolve) => setImmediate(resolve));
afterEach(cleanUp);

/** One with so many messages of a size. */
class Flood implements Party {
  readonly share = { turn: -1, messages: 0, bytes: 0 };
  served = 0;
  readonly turns: Turns;
  left: number;
  readonly size: number;
  constructor(turns: Turns, left: number, size: number) {
    this.turns = turns;
    this.left = left;
    this.size = size;
  }
  serve(): boolean {
    while (this.left > 0) {
      if (!this.turns.admits(this.share, this.size)) return true;
      this.left--;
      this.served++;
    }
    return false;
  }
  start(): void {
    if (this.serve()) this.turns.wait(this);
  }
}

describe("Turns", () => {
  test("gives one party its share of a turn, and the rest in those that follow", async () => {
    const flood = new Flood(new Turns(), 1000, 10);
    flood.start();
    const first = flood.served;
    expect(first).toBeGreaterThan(0);
    expect(first).toBeLessThan(1000);
    await turn();
    await turn();
    expect(flood.served).toBeGreaterThan(first);
    while (flood.left > 0) await turn();
    expect(flood.served).toBe(1000);
  });

  test("counts bytes as well, and lets one message pass however large it is", async () => {
    const flood = new Flood(new Turns(), 3, 64 * 2 ** 20);
    flood.start();
    expect(flood.served).toBe(1);
    while (flood.left > 0) await turn();
    expect(flood.served).toBe(3);
  });

  test("gives one party 256 KiB of a turn, and another one what is left", async () => {
    const turns = new Turns();
    const [one, other] = [new Flood(turns, 10, 100 * 1024), new Flood(turns, 1, 1024)];
    one.start();
    other.start();
    expect([one.served, other.served]).toEqual([2, 1]);
    while (one.left > 0) await turn();
    expect(one.served).toBe(10);
  });

  test("passes nobody over: who got nothing comes first in the next turn", async () => {
    const turns = new Turns();
    const floods = Array.from({ length: 12 }, () => new Flood(turns, 100_000, 10));
    for (const flood of floods) flood.start();
    const late = new Flood(turns, 1, 10);
    late.start();
    expect(floods.at(-1)!.served).toBe(0);
    let turnsWaited = 0;
    for (; late.served === 0; turnsWaited++) await turn();
    expect(turnsWaited).toBeLessThan(12);
    const served = floods.map((flood) => flood.served);
    expect(Math.min(...served)).toBeGreaterThan(0);
    for (const flood of floods) flood.left = 0;
    await turn();
  });
});

describe("a channel with turns", () => {
  test("hands out all messages in order, over many turns, and then the end", async () => {
    const { host, actor } = await link({ turns: new Turns() });
    const sent = (async () => {
      for (let index = 0; index < 5000; index++) await actor.send(index);
      actor.end();
    })();
    let expected = 0;
    for await (const message of host) expect(message).toBe(expected++);
    expect(expected).toBe(5000);
    await sent;
  });

  test("lets a timer go off between the messages of a flood", async () => {
    const { host, actor } = await link({ turns: new Turns() });
    for (let index = 0; index < 1000; index++) void actor.send(index).catch(() => {});
    const messages = host[Symbol.asyncIterator]();
    await messages.next();
    let fired = false;
    setImmediate(() => {
      fired = true;
    });
    let taken = 1;
    for (; !fired; taken++) await messages.next();
    expect(taken).toBeLessThan(1000);
  });

  test("several readers who wait get what comes, each in its turn, and the end", async () => {
    const { host, actor } = await link({ turns: new Turns() });
    const readers = Array.from({ length: 600 }, () => host[Symbol.asyncIterator]().next());
    for (let index = 0; index < 500; index++) void actor.send(index);
    actor.end();
    const results = await Promise.all(readers);
    expect(results.slice(0, 500).map(({ value }) => value)).toEqual(Array.from({ length: 500 }, (_, index) => index));
    expect(results.slice(500).every(({ done }) => done)).toBe(true);
  });

  test("what waits when the channel closes ends, and is dropped", async () => {
    const { host, actor } = await link({ turns: new Turns() });
    const readers = Array.from({ length: 600 }, () => host[Symbol.asyncIterator]().next());
    for (let index = 0; index < 500; index++) void actor.send(index).catch(() => {});
    await readers[0];
    host.close();
    expect((await Promise.all(readers)).at(-1)).toEqual({ done: true, value: undefined });
  });
});

describe("a channel with a pace", () => {
  /** Takes so long that no other answer is looked at in the same turn. */
  function busy(): void {
    for (const start = performance.now(); performance.now() - start < 10; );
  }

  test("spreads answers that come at once over turns, so that timers go off between", async () => {
    const pace = new Pace();
    const links = await Promise.all(Array.from({ length: 20 }, () => link({ pace })));
    let answered = 0;
    const calls = links.map(async ({ host }) => {
      await host.call("echo", [1]);
      answered++;
      busy();
    });
    const { promise: fired, resolve } = Promise.withResolvers<number>();
    setTimeout(() => resolve(answered), 1);
    expect(await fired).toBeLessThan(20);
    await Promise.all(calls);
  });

  test("without one, what comes at once is looked at in one turn", async () => {
    const links = await Promise.all(Array.from({ length: 20 }, () => link()));
    let answered = 0;
    const { promise: fired, resolve } = Promise.withResolvers<number>();
    const calls = links.map(async ({ host }) => {
      await host.call("echo", [1]);
      if (answered++ === 0) setImmediate(() => resolve(answered));
      busy();
    });
    expect(await fired).toBe(20);
    await Promise.all(calls);
  });

  test("what waits is delivered whole and in order, and the peer's end behind it", async () => {
    const pace = new (class extends Pace {
      override admits(): boolean {
        return false;
      }
    })();
    const { host, actor } = await link({ pace });
    const text = "x".repeat(100_000); // more than the kernel hands over at once, in all
    const sent = (async () => {
      for (let index = 0; index < 100; index++) await actor.send({ index, text });
      actor.end();
      actor.close();
    })();
    let expected = 0;
    for await (const message of host) {
      expect((message as { index: number }).index).toBe(expected++);
    }
    expect(expected).toBe(100);
    await sent;
    expect(await host.closed).toBeUndefined();
  });
});

test("ten actors that flood delay neither another's answers nor each other", async () => {
  const floods = await Promise.all(Array.from({ length: 10 }, () => spawn<Pooled>(module)));
  const quiet = await spawn<Pooled>(module);
  const taken = floods.map(() => 0);
  const reading = floods.map(async (actor, index) => {
    void actor.call.flood(1e9, { text: "x".repeat(20), list: [1, 2, 3] }).catch(() => {});
    try {
      for await (const _ of actor) taken[index]!++;
    } catch {
      // It was ended.
    }
  });
  for (let round = 0; round < 20; round++) expect(await quiet.call.add(round, 1)).toBe(round + 1);
  while (taken.some((count) => count < 1000)) await turn();
  for (const actor of [...floods, quiet]) actor.kill();
  await Promise.all([...reading, ...floods.map(({ exited }) => exited), quiet.exited]);
});
