import { afterEach, describe, expect, test } from "bun:test";
import { cleanUp, frame, link, MESSAGE, payload, refusal, Script, take } from "./wire.ts";

afterEach(cleanUp);

describe("the iterator", () => {
  test("gives each message to one reader", async () => {
    const { host, actor } = await link();
    const readers = [take(actor, 2), take(actor, 2)];
    for (let n = 0; n < 4; n++) void host.send(n);
    expect((await Promise.all(readers)).flat().toSorted()).toEqual([0, 1, 2, 3]);
  });

  test("goes on after a loop that broke off", async () => {
    const { host, actor } = await link();
    for (let n = 0; n < 3; n++) void host.send(n);
    host.end();
    for await (const first of actor) {
      expect(first).toBe(0);
      break;
    }
    expect(await Array.fromAsync(actor)).toEqual([1, 2]);
  });

  test("gives what arrived before the link was lost, then throws why", async () => {
    const exit = new Error("exit 1");
    const script = await Script.ready({ hooks: { onLost: () => exit } });
    script.write(frame(MESSAGE, payload(1)), frame(MESSAGE, payload(2)));
    script.hangUp();
    expect(await script.host.closed).toBe(exit);
    expect(await take(script.host, 2)).toEqual([1, 2]);
    expect(await refusal(take(script.host, 1))).toBe(exit);
  });
});
