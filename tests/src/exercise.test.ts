// What is loaded and called before the real module: that it goes through, and what is said where it does not.
import { afterEach, expect, test } from "bun:test";
import type { Hooks } from "../../src/channel.ts";
import { exercise } from "../../src/exercise.ts";
import type { Cell } from "../../src/launch.ts";
import { cleanUp, link } from "./wire.ts";

afterEach(cleanUp);

/** A process that is nothing but a link. It closes that once it has answered so many calls, and returned 3 by the time that it is ended. */
async function cell(closesBehind: number, onCall = () => {}): Promise<{ cell: Cell; killed: () => boolean }> {
  const hooks: Hooks = {};
  let calls = 0;
  const ends = await link(
    { hooks: { onReady: (names) => hooks.onReady?.(names), onLost: (seen) => hooks.onLost?.(seen) } },
    {
      hooks: {
        onCall(_, [value]) {
          onCall();
          if (++calls === closesBehind) setImmediate(() => ends.actor.close());
          return value;
        },
      },
    },
  );
  ends.host.exercised();
  const { promise: ended, resolve } = Promise.withResolvers<{ code: number }>();
  let killed = false;
  const kill = () => {
    killed = true;
    resolve({ code: 3 });
  };
  const made = { name: "made", hooks, verified: Promise.resolve(ends.host), confined: { ended, kill } };
  return { cell: made as unknown as Cell, killed: () => killed };
}

test("exercise() gives the link of one that has answered", async () => {
  const { cell: made, killed } = await cell(Number.POSITIVE_INFINITY);
  expect(await exercise(made)).toBe(await made.verified);
  expect(killed()).toBeFalse();
});

/** By a clock on which each call takes so long. */
async function exercisedAt(callMs: number): Promise<unknown> {
  const { setTimeout } = globalThis;
  let nowMs = 0;
  let look = () => {};
  globalThis.setTimeout = ((act: () => void, afterMs: number) => {
    if (afterMs < 10_000) return setTimeout(act, afterMs);
    let beganMs = nowMs;
    look = () => {
      if (nowMs - beganMs >= afterMs) act();
    };
    return {
      refresh() {
        beganMs = nowMs;
      },
    };
  }) as typeof setTimeout;
  try {
    const { cell: made } = await cell(Number.POSITIVE_INFINITY, () => {
      nowMs += callMs;
      look();
    });
    return await exercise(made).then(
      () => "through",
      ({ message }) => message,
    );
  } finally {
    globalThis.setTimeout = setTimeout;
  }
}

test("exercise() gives 10 s to each load, for this process may be held up, and no more", async () => {
  expect(await exercisedAt(900)).toBe("through");
  expect(await exercisedAt(1100)).toBe("Cannot exercise an actor: 10000 ms are over");
});

test.each([
  ["in the middle of its calls", 5],
  ["between two loads", 10],
  ["while it rests", 190],
])("exercise() ends one whose link closes %s, and rejects with how it ended", async (_, calls) => {
  const { cell: made, killed } = await cell(calls);
  const error = await exercise(made).catch((thrown) => thrown);
  expect(error).toMatchObject({
    name: "ActorExit",
    message: "Actor made ended: it returned 3",
    exit: { reason: "returned", code: 3 },
  });
  expect(killed()).toBeTrue();
});

test("exercise() rejects with how it ended where that is before its walls stand", async () => {
  const confined = { ended: Promise.resolve({ limit: "cpuTime" }), kill() {} };
  const made = { name: "made", hooks: {}, verified: new Promise(() => {}), confined } as unknown as Cell;
  expect(await exercise(made).catch((thrown) => thrown)).toMatchObject({
    name: "LimitExceeded",
    limit: "cpuTime",
    message: "Actor made was ended: it reached its limit cpuTime",
  });
});
