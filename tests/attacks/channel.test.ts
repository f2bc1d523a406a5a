/** Attacks on the host by its link to the actor: what does not belong there ends the actor, and nothing that came stays open. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Actor, file } from "../../src/index.ts";
import { failure, inside, openDescriptors, scratch, until } from "./arena.ts";
import type { Kind } from "./fixtures/lanes.ts";

type Lanes = typeof import("./fixtures/lanes.ts");

setDefaultTimeout(30_000); // the machine may have other things to do

const base = scratch();
const granted = base.directory("granted");
const plain = join(base.path, "plain.txt");
writeFileSync(plain, "plain");
afterAll(() => base[Symbol.dispose]());

// The first actor leaves the boot file and the puppet's image open in the host, for those that follow, and root's first with a grant
// the user namespace that maps ids.
await (await inside<Lanes>("lanes", { read: [granted] }))[Symbol.asyncDispose]();

/** Runs a hostile act, and expects that the host ends the actor for it and holds no descriptor more than before. */
async function expectEnded(act: (call: Actor<Lanes>["call"]) => Promise<unknown>, sandbox = {}): Promise<void> {
  const before = openDescriptors();
  const actor = await inside<Lanes>("lanes", sandbox);
  const rejected = failure(act(actor.call));
  const exit = await actor.exited;
  expect(await rejected).toMatchObject({ name: "ProtocolViolation" });
  expect(exit).toMatchObject({ reason: "protocol", violation: { name: "ProtocolViolation" } });
  await until(() => openDescriptors() <= before);
}

describe("bytes that are no frames", () => {
  const GARBAGE = {
    "a length of 4 GiB": Uint8Array.of(0xff, 0xff, 0xff, 0xff, 16, 0),
    "a length of nothing": Uint8Array.of(0, 0, 0, 0),
    "an unknown kind": Uint8Array.of(2, 0, 0, 0, 99, 0),
    "a frame that only the host may send": Uint8Array.of(6, 0, 0, 0, 10, 0, 0, 0, 0, 0),
    "a second HELLO": Uint8Array.of(12, 0, 0, 0, 1, ...new TextEncoder().encode("caisson"), 1, 0, 1, 0xf6),
    "an answer to a call that nobody made": Uint8Array.of(8, 0, 0, 0, 4, 0xff, 0, 0, 0, 0, 1, 0xf6),
    text: new TextEncoder().encode("HTTP/1.1 200 OK\r\n\r\n"),
  };
  for (const [name, bytes] of Object.entries(GARBAGE)) {
    test(`${name} end the actor`, () => expectEnded((call) => call.garble(bytes)));
  }
});

describe("a descriptor of the wrong kind ends the actor:", () => {
  const KINDS: readonly Kind[] = ["pipe", "eventfd", "epoll", "timer", "socket", "lane"];
  for (const kind of KINDS) {
    test(kind, () => expectEnded((call) => call.plant(file(plain), kind, granted)));
  }

  test("directory", () => expectEnded((call) => call.plant(file(plain), "directory", granted), { read: [granted] }));
  test("a file open for reading and writing", () =>
    expectEnded((call) => call.plant(file(plain), "both", granted), { write: [granted] }));
});

describe("tags that do not match", () => {
  test("the mode that a file is open for end the actor", () =>
    expectEnded((call) => call.mismatch(file(plain), [1], 1)));
  for (const tag of [3, 255]) {
    test(`any mode (${tag}) end the actor`, () => expectEnded((call) => call.mismatch(file(plain), [tag], 1)));
  }
  test("their descriptors, of which there are more, end the actor", () =>
    expectEnded((call) => call.mismatch(file(plain), [0], 3)));
  test("their descriptors, of which there are less, end the actor", () =>
    expectEnded((call) => call.mismatch(file(plain), [0, 0, 0], 1)));
  test("anything, for there is no descriptor, end the actor", () =>
    expectEnded((call) => call.mismatch(file(plain), [0], 0)));
  test("how many one packet may hold end the actor", () =>
    expectEnded((call) => call.mismatch(file(plain), new Array<number>(17).fill(0), 17)));
  test("how many one packet may hold, by far, end the actor", () =>
    expectEnded((call) => call.mismatch(file(plain), new Array<number>(200).fill(0), 200)));
});

describe("a flood of descriptors", () => {
  test("stays in the kernel, and is gone with the actor", async () => {
    const before = openDescriptors();
    {
      await using actor = await inside<Lanes>("lanes");
      const during = openDescriptors();
      expect(await actor.call.flood(file(plain))).toBeGreaterThan(0);
      expect(openDescriptors()).toBeLessThanOrEqual(during); // of its start some may have been open still
      expect(await actor.call.echo("still there")).toBe("still there");
    }
    await until(() => openDescriptors() <= before);
  });

  test("of which an answer names one brings the host no more than a packet", async () => {
    const before = openDescriptors();
    {
      await using actor = await inside<Lanes>("lanes");
      const during = openDescriptors();
      // With the lane full the actor may have no way to answer at all, which is its own loss.
      await actor.call.floodAndAnswer(file(plain)).catch(() => {});
      expect(openDescriptors() - during).toBeLessThanOrEqual(16);
    }
    await until(() => openDescriptors() <= before);
  });
});

describe("hanging up", () => {
  const ACTS = {
    "the data lane": (call) => call.hangUp(["data"]),
    "both lanes": (call) => call.hangUp(["data", "descriptors"]),
    "by shutdown(2), and living on": (call) => call.shutdown(),
  } satisfies Record<string, (call: Actor<Lanes>["call"]) => Promise<unknown>>;
  for (const [name, act] of Object.entries(ACTS) as [string, (call: Actor<Lanes>["call"]) => Promise<unknown>][]) {
    test(`${name} ends the actor, rejects what is pending, and leaves nothing`, async () => {
      const before = openDescriptors();
      const actor = await inside<Lanes>("lanes");
      const rejected = failure(act(actor.call));
      await actor.exited;
      expect(await rejected).toBeInstanceOf(Error);
      await until(() => openDescriptors() <= before);
    });
  }

  test("by changing one lane for the other makes the actor dumb, and the host can still end it", async () => {
    const before = openDescriptors();
    const actor = await inside<Lanes>("lanes");
    void actor.call.swap().catch(() => {});
    await expect(actor.call({ timeoutMs: 100 }).echo("is anyone there?")).rejects.toMatchObject({
      name: "TimeoutError",
    });
    await actor[Symbol.asyncDispose]();
    await until(() => openDescriptors() <= before);
  });

  test("the descriptor lane alone fails what needs it, and nothing else", async () => {
    const before = openDescriptors();
    {
      await using actor = await inside<Lanes>("lanes");
      await actor.call.hangUp(["descriptors"]);
      expect(await actor.call.echo("still there")).toBe("still there");
      await expect(actor.call.echo(file(plain))).rejects.toBeInstanceOf(Error);
    }
    await until(() => openDescriptors() <= before);
  });
});
