import { afterEach, describe, expect, test } from "bun:test";
import { LimitExceeded } from "../../src/error.ts";
import {
  CALL,
  cleanUp,
  frame,
  hello,
  link,
  MESSAGE,
  payload,
  RESULT,
  refusal,
  Script,
  START,
  small,
  Token,
  take,
  u32,
} from "./wire.ts";

afterEach(cleanUp);

describe("send()", () => {
  test("keeps the order of messages in both directions, with values of every codec", async () => {
    const { host, actor } = await link();
    const values = Array.from({ length: 3000 }, (_, n) => (n % 7 === 0 ? new Set([n]) : { n }));
    const both = [host, actor].map(async (from) => {
      for (const value of values) void from.send(value);
      from.end();
    });
    const received = await Promise.all([host, actor].map((to) => Array.fromAsync(to)));
    await Promise.all(both);
    expect(received[0]).toEqual(values);
    expect(received[1]).toEqual(values);
  });

  test("passes a message larger than the window, and one after another", async () => {
    const { host, actor } = await link({ limits: small }, { limits: small });
    const large = new Uint8Array(1 << 20).fill(7);
    for (let n = 0; n < 4; n++) void host.send(large);
    expect(await take(actor, 4)).toEqual([large, large, large, large]);
  });

  test("lets no small message overtake a large one that waits", async () => {
    const { host, actor } = await link({ limits: small }, { limits: small });
    const values = ["a".repeat(3000), "b".repeat(3000), "c"];
    for (const value of values) void host.send(value);
    await host.call("echo", []);
    expect(await take(actor, 3)).toEqual(values);
  });

  test("waits while the peer's application takes nothing", async () => {
    const { host, actor } = await link({ limits: small }, { limits: small });
    const done: number[] = [];
    const sends = Array.from({ length: 12 }, (_, n) => host.send(n).then(() => done.push(n)));
    // The answer comes after everything that was sent before the call.
    await host.call("echo", []);
    await Promise.all(sends.slice(0, 8));
    expect(done).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(await take(actor, 3)).toEqual([0, 1, 2]);
    await host.call("echo", []);
    expect(done).toHaveLength(8);
    expect(await take(actor, 1)).toEqual([3]);
    await Promise.all(sends);
    expect(await take(actor, 8)).toEqual([4, 5, 6, 7, 8, 9, 10, 11]);
  });

  test("waits while the kernel takes nothing, and no longer", async () => {
    const script = await Script.ready({ limits: { outboxBytes: 64 * 1024 } });
    script.pause();
    const large = "x".repeat(1 << 20);
    let sent = 0;
    const sends = [0, 1, 2].map(() => script.host.send(large).then(() => sent++));
    const call = script.host.call("f", []);
    await Bun.sleep(0);
    expect(sent).toBe(0);
    script.resume();
    await Promise.all(sends);
    await script.until(MESSAGE, 3);
    await script.until(CALL);
    script.write(frame(RESULT, u32(0), payload(1)));
    expect(await call).toBe(1);
  });

  test("before START waits for it", async () => {
    const script = await Script.start();
    const sent = script.host.send("early");
    script.write(hello);
    await script.until(MESSAGE);
    await sent;
    expect(script.seen.map((seen) => seen.kind)).toEqual([START, MESSAGE]);
  });

  test("rejects with LimitExceeded beyond the messages that may wait", async () => {
    const { host } = await link({ limits: { ...small, waiting: 2 } }, { limits: small });
    for (let n = 0; n < 10; n++) void host.send(n);
    expect(await refusal(host.send(10))).toBeInstanceOf(LimitExceeded);
  });

  test("rejects after end(), and end() waits for the messages before it", async () => {
    const { host, actor } = await link({ limits: small }, { limits: small });
    for (let n = 0; n < 20; n++) void host.send(n);
    host.end();
    expect(await refusal(host.send(20))).toBeInstanceOf(TypeError);
    expect(await Array.fromAsync(actor)).toEqual(Array.from({ length: 20 }, (_, n) => n));
    expect(await host.call("echo", ["calls go on"])).toBe("calls go on");
  });

  test("passes capabilities, no more of them than the window holds", async () => {
    const { host, actor, lanes } = await link({ limits: small }, { limits: small });
    const tokens = Array.from({ length: 8 }, (_, n) => new Token(`t${n}`));
    for (let n = 0; n < 8; n += 2) void host.send([tokens[n], tokens[n + 1]]);
    await host.call("echo", []);
    expect(lanes[1].arrived).toEqual([]);
    const received = await take(actor, 4);
    expect(received.flat()).toEqual(tokens);
    expect(await refusal(host.send(tokens.slice(0, 3)))).toBeInstanceOf(RangeError);
  });
});
