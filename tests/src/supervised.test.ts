// Supervisors of real actors, programs and containers: what ends them, what is started again, and that nothing is left.
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { type Actor, exec, type SandboxedProcess, type SupervisorEvent, spawn, supervise } from "../../src/index.ts";
import { openDescriptors, until } from "../attacks/arena.ts";
import { box, holdings, settled, testBox } from "./box.ts";

setDefaultTimeout(120_000); // whole processes, on machines that may be busy

type Mortal = typeof import("./fixtures/mortal.ts");
const actor = (signal: AbortSignal): Promise<Actor<Mortal>> =>
  spawn<Mortal>(new URL("./fixtures/mortal.ts", import.meta.url), { signal, stderr: "ignore" });
const program = (signal: AbortSignal): Promise<SandboxedProcess> =>
  exec(["sleep", "1000"], { signal, stdout: "ignore", stderr: "ignore" });
// What actors are forked from stays, and is none of what a test leaves.
beforeAll(async () => await (await actor(new AbortController().signal))[Symbol.asyncDispose]());

/** A program that says when it has its handler of SIGTERM. */
const trapping = (handler: string) => (signal: AbortSignal) =>
  exec(["sh", "-c", `trap '${handler}' TERM; echo ready; while :; do read line; done`], { signal, stdin: "pipe" });

/** All events, and those of a kind. */
function noted(supervisor: { readonly events: AsyncIterable<SupervisorEvent> }) {
  const events: SupervisorEvent[] = [];
  const end = (async () => {
    for await (const event of supervisor.events) events.push(event);
  })();
  const of = <Kind extends SupervisorEvent["kind"]>(kind: Kind) =>
    events.filter((event): event is Extract<SupervisorEvent, { kind: Kind }> => event.kind === kind);
  return { events, of, end };
}

describe("actors", () => {
  test("are started again after a crash, an error that nobody caught, kill(), and an exit; child() gives the new one", async () => {
    await using supervisor = await supervise({ intensity: 10, children: [{ id: "mortal", start: actor }] });
    const { of } = noted(supervisor);
    const ends: ((it: Actor<Mortal>) => void)[] = [
      (it) => void process.kill(it.pid, "SIGKILL"),
      (it) => void it.call.fail("not today").catch(() => {}),
      (it) => it.kill(),
      (it) => void it.call.exit(0).catch(() => {}),
    ];
    for (const end of ends) {
      const before = supervisor.child("mortal")!;
      end(before);
      await until(() => supervisor.child("mortal") !== undefined && supervisor.child("mortal") !== before);
      expect(supervisor.child("mortal")!.pid).not.toBe(before.pid);
    }
    expect(of("ended").map(({ exit }) => exit)).toEqual([
      { reason: "signal", signal: "SIGKILL" },
      { reason: "threw", error: new RangeError("not today") },
      { reason: "killed", by: "kill" },
      { reason: "returned", code: 0 },
    ]);
    expect(supervisor.children()[0]!.restarts).toBe(4);
  });

  test("one that cannot load is tried again until the intensity is reached, and nothing is left", async () => {
    const before = holdings();
    let starts = 0;
    const supervisor = await supervise({
      intensity: 3,
      period: "1 h", // however long its starts take
      children: [
        {
          id: "breaks",
          start: (signal) =>
            starts++ === 0
              ? actor(signal)
              : spawn(new URL("./fixtures/throws.ts", import.meta.url), { signal, stderr: "ignore" }),
        },
      ],
    });
    const { of } = noted(supervisor);
    supervisor.child("breaks")!.kill();
    expect(await supervisor.exited).toEqual({ reason: "shutdown", because: "reached intensity", child: "breaks" });
    expect(starts).toBe(1 + 3);
    expect(of("failed")).toHaveLength(3);
    expect(of("failed")[0]!.error).toMatchObject({ message: "not today" });
    await settled(before);
  });

  test("are asked to end by closing their link, and killed where they go on", async () => {
    const supervisor = await supervise({
      children: [
        { id: "obeys", start: actor, shutdown: "infinity" },
        { id: "stays", start: actor, shutdown: "50 ms" },
      ],
    });
    const { of, end } = noted(supervisor);
    await supervisor.child("stays")!.call.stay();
    await supervisor.shutdown();
    await end;
    // The first cause counts: both lost their link. How long the one was waited for, fakes test.
    expect(of("ended").map(({ id, asked }) => `${id} ${asked}`)).toEqual(["stays true", "obeys true"]);
    expect(of("ended")[1]!.exit).toEqual({ reason: "host gone" });
  });
});

test("of an actor whose kill() throws is told; its neighbours are ended, and who hears of it ends it otherwise", async () => {
  const before = holdings();
  const locked = async (signal: AbortSignal) => {
    const { exited, pid } = await actor(signal);
    const kill = () => {
      throw new Error("Not by this");
    };
    return { exited, kill, pid };
  };
  const supervisor = await supervise({
    children: [
      { id: "first", start: actor },
      { id: "locked", start: locked, shutdown: "brutal_kill" },
      { id: "last", start: actor },
    ],
  });
  const { pid } = supervisor.child("locked")!;
  const ended: string[] = [];
  const reading = (async () => {
    for await (const event of supervisor.events) {
      if (event.kind === "not killed") process.kill(pid, "SIGKILL");
      if (event.kind === "ended") ended.push(`${event.id}: ${event.exit.reason}`);
    }
  })();
  expect(await supervisor.shutdown()).toEqual({ reason: "shutdown", because: "asked" });
  await reading;
  expect(ended).toEqual(["last: host gone", "locked: signal", "first: host gone"]);
  await settled(before);
});

describe("programs", () => {
  testBox("are asked to end by SIGTERM, and killed where they mind none", async () => {
    const supervisor = await supervise({
      children: [
        { id: "obeys", start: trapping("exit 0"), shutdown: "infinity" },
        { id: "ends", start: program, shutdown: "infinity" },
        { id: "stays", start: trapping(""), shutdown: "50 ms" },
      ],
    });
    const { of, end } = noted(supervisor);
    for (const id of ["obeys", "stays"] as const) {
      const reader = supervisor.child(id)!.stdout!.getReader();
      await reader.read();
      reader.releaseLock();
    }
    await supervisor.shutdown();
    await end;
    expect(of("ended").map(({ exit }) => exit)).toEqual([
      { reason: "killed", by: "supervisor" },
      { reason: "killed", by: "supervisor" },
      { reason: "returned", code: 0 },
    ]);
  });

  testBox("that nobody reads give their descriptors back, however often they are started again", async () => {
    await using supervisor = await supervise({
      intensity: 1000,
      backoff: { first: "10 ms", most: "10 ms" },
      children: [{ id: "false", start: (signal) => exec(["false"], { signal, stdin: "pipe" }) }],
    });
    const status = () => supervisor.children()[0]!;
    await until(() => status().restarts >= 3);
    const before = openDescriptors();
    await until(() => status().restarts >= 30);
    // Those that are there in passing, and two of the three streams of the one that ended last. Of what is kept there would only be more.
    await until(() => openDescriptors() < before + 27);
  });

  testBox("that nobody reads give the last descriptors back when the supervisor ends", async () => {
    const streams = { stdin: "pipe", stdout: "pipe", stderr: "pipe" } as const;
    const children = Array.from({ length: 8 }, (_, index) => ({
      id: `${index}`,
      start: (signal: AbortSignal) => exec(["sleep", "1000"], { signal, ...streams }),
    }));
    await (await supervise({ children })).shutdown();
    const before = openDescriptors();
    const supervisor = await supervise({ children });
    expect(openDescriptors()).toBeGreaterThan(before + 8);
    await supervisor.shutdown();
    await until(() => openDescriptors() <= before);
  });
});

describe("a tree", () => {
  testBox("of an actor, a program and a container is restarted by strategy, and leaves nothing", async () => {
    // What they are forked from stays.
    for (const made of [await box(), await program(new AbortController().signal)]) await made[Symbol.asyncDispose]();
    const before = holdings();
    {
      await using supervisor = await supervise({
        strategy: "rest_for_one",
        intensity: 5,
        children: [
          { id: "box", start: () => box(), shutdown: "brutal_kill" },
          {
            id: "pair",
            type: "supervisor",
            start: (signal) =>
              supervise({
                strategy: "one_for_all",
                intensity: 5,
                signal,
                children: [
                  { id: "actor", start: actor },
                  { id: "program", start: program },
                ],
              }),
          },
        ],
      });
      const pair = supervisor.child("pair")!;
      const { actor: first, program: second } = { actor: pair.child("actor")!, program: pair.child("program")! };
      second.kill();
      await until(() => pair.children().every(({ state, restarts }) => state === "running" && restarts === 1));
      expect(pair.child("actor")).not.toBe(first);
      // What is behind the container in the order of starts goes with it.
      supervisor.child("box")!.kill();
      await until(() => supervisor.children().every(({ state, restarts }) => state === "running" && restarts === 1));
      expect((await pair.exited).reason).toBe("shutdown");
      expect(supervisor.child("pair")).not.toBe(pair);
    }
    await settled(before);
  });

  test("killed while it starts leaves nothing", async () => {
    const before = holdings();
    for (let after = 0; after < 6; after++) {
      const abort = new AbortController();
      let starts = 0;
      const start = (signal: AbortSignal) => {
        if (starts++ === after) queueMicrotask(() => abort.abort());
        return actor(signal);
      };
      const starting = supervise({
        signal: abort.signal,
        children: ["a", "b", "c", "d"].map((id) => ({ id, start })),
      });
      const supervisor = await starting.catch(() => undefined);
      if (supervisor !== undefined) {
        abort.abort();
        await supervisor.exited;
      }
    }
    await settled(before);
  });
});

testBox("a host that is killed leaves none of a supervisor's children", async () => {
  const seconds = `4242.${process.pid}`; // nobody else's
  const script = `
    import { exec, supervise } from "${new URL("../../src/index.ts", import.meta.url).pathname}";
    await supervise({ children: [{ id: "sleeper", start: () => exec(["sleep", "${seconds}"]) }] });
    console.log("up");
  `;
  const host = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "inherit" });
  await host.stdout.getReader().read();
  const count = () => Number(spawnSync("pgrep", ["-cf", `^sleep ${seconds}`], { encoding: "utf8" }).stdout);
  await until(() => count() === 1); // in the middle of its execve it has no name yet
  host.kill("SIGKILL");
  await until(() => count() === 0);
});
