/** Attacks on what is said of ends: reasons that are not true, that are made up by who ended, and that are missing. */
import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { countersOf } from "../../platform/linux/usage.ts";
import { type Actor, ActorExit, exec, type SpawnOptions, spawn } from "../../src/index.ts";
import type { SandboxLimits } from "../../src/limits.ts";
import { box, testAsRoot, testBox } from "../src/box.ts";
import { busyUntil, failure, isZombie, until } from "./arena.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

type Liar = typeof import("./fixtures/liar.ts");
const module = fileURLToPath(new URL("./fixtures/liar.ts", import.meta.url));
const start = (limits: SandboxLimits = {}, options: SpawnOptions = {}) =>
  spawn<Liar>(module, { stdout: "ignore", stderr: "ignore", ...options, sandbox: { limits } });

/** A directory on a disk: /tmp can be in memory. */
function disk(): Disposable & { readonly path: string } {
  const path = mkdtempSync("/var/tmp/caisson-reasons-");
  chmodSync(path, 0o777);
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true }) };
}

/** In which something of the kind is started for sure, and called: much more than that takes here, and what a machine that is busy may take beside. */
async function enoughMs(begin: () => Promise<AsyncDisposable>): Promise<number> {
  const before = performance.now();
  await using _ = await begin();
  return 2000 + 5 * (performance.now() - before);
}

describe("an actor that has ended by itself did so, whatever this process does before it hears of that:", () => {
  for (const [what, end, wanted] of [
    ["kill()", (actor: Actor<Liar>) => actor.kill(), { reason: "killed", by: "kill" }],
    ["disconnect()", (actor: Actor<Liar>) => actor.disconnect(), { reason: "host gone" }],
  ] as const)
    test(what, async () => {
      await using actor = await start();
      await actor.call.leave(3);
      process.kill(actor.pid, "SIGTERM");
      busyUntil(() => isZombie(actor.pid));
      end(actor);
      expect(await actor.exited).toEqual({ reason: "returned", code: 3 });
      await using control = await start();
      end(control);
      expect(await control.exited).toEqual(wanted);
    });

  test("wallTime", async () => {
    const wallTimeMs = await enoughMs(start);
    await using actor = await start({ wallTimeMs });
    const before = performance.now();
    await actor.call.leave(3);
    process.kill(actor.pid, "SIGTERM");
    busyUntil(() => isZombie(actor.pid) && performance.now() - before > wallTimeMs);
    expect(await actor.exited).toEqual({ reason: "returned", code: 3 });
    await using control = await start({ wallTimeMs });
    expect(await control.exited).toEqual({ reason: "limit", limit: "wallTime" });
  });
});

describe("an actor that says that it fell, and does not go,", () => {
  test("is ended all the same, and its calls with it", async () => {
    await using actor = await start();
    const pending = failure(actor.call.hang());
    await actor.call.fall("stay");
    expect((await actor.exited).reason).toBe("threw");
    expect(await pending).toBeInstanceOf(ActorExit);
  });

  const { setTimeout } = globalThis;
  /** The clocks that this process has set. */
  let clocks: { readonly act: () => void; readonly afterMs: number }[];
  beforeEach(() => {
    clocks = [];
    globalThis.setTimeout = ((act: () => void, afterMs: number) => {
      clocks.push({ act, afterMs });
      return setTimeout(act, afterMs);
    }) as typeof setTimeout;
  });
  afterEach(() => {
    globalThis.setTimeout = setTimeout;
  });

  /** Has it fall, and waits until that is heard: it has some seconds from then on. */
  async function fell(actor: Actor<Liar>, then: "stay" | "burn"): Promise<void> {
    const before = clocks.length;
    await actor.call.fall(then);
    await until(() => clocks.slice(before).some(({ afterMs }) => afterMs >= 1000));
  }

  // It comes to its limit before those are over, however long all takes here.
  const WAYS = {
    wallTime: async () => {
      const wallTimeMs = 86_400_000;
      await using actor = await start({ wallTimeMs });
      await fell(actor, "stay");
      clocks.find(({ afterMs }) => afterMs === wallTimeMs)!.act();
      return actor.exited;
    },
    cpuTime: async () => {
      await using other = await start();
      const cpuTimeSeconds = 1 + (2 * other.usage().cpuMs) / 1000;
      await using actor = await start({ cpuTimeSeconds });
      await fell(actor, "burn");
      const used = () => countersOf(actor.pid)?.cpuMicroseconds ?? Number.POSITIVE_INFINITY;
      busyUntil(() => used() > cpuTimeSeconds * 1e6);
      return actor.exited;
    },
  } as const;
  for (const [limit, outcome] of Object.entries(WAYS))
    test(`does not hide that it came to its ${limit}`, async () => {
      expect<unknown>(await outcome()).toEqual({ reason: "limit", limit });
    });
});

describe("spawn() of what ended while its walls were looked at", () => {
  test("rejects with that end", async () => {
    await using _ = await start(); // what follows is as quick as can be
    for (let delayMs = 0; delayMs < 10; delayMs += 0.5) {
      const controller = new AbortController();
      // By then it has said that its doors are closed, and nobody has read that.
      setTimeout(() => {
        const began = performance.now();
        busyUntil(() => performance.now() - began > 60);
        controller.abort();
        busyUntil(() => performance.now() - began > 65);
      }, delayMs);
      const outcome = await start({}, { signal: controller.signal }).then(
        (actor) => actor.exited,
        (error) => (error as ActorExit).exit ?? error,
      );
      expect(outcome).toEqual({ reason: "killed", by: "signal" });
    }
  }, 60_000);

  for (const loadTimeoutMs of [Number.POSITIVE_INFINITY, Number.NaN, -1, 2 ** 31])
    test(`refuses a loadTimeoutMs of ${loadTimeoutMs}, before anything is started`, async () => {
      expect(await failure(start({}, { loadTimeoutMs }))).toBeInstanceOf(RangeError);
    });
});

describe("a program that wrote more than its limit", () => {
  testAsRoot("reached it, also where it ended quicker than anybody looked", async () => {
    using place = disk();
    const write = async (disk: string) => {
      const of = join(mkdtempSync(join(place.path, "written-")), "file");
      chmodSync(dirname(of), 0o777);
      await using program = await exec(["dd", "if=/dev/zero", `of=${of}`, "bs=1M", "count=3"], {
        sandbox: { write: [place.path], limits: { disk, processes: 1 } },
        stdout: "ignore",
        stderr: "ignore",
      });
      await program.exited;
      return program.exit;
    };
    expect(await write("1 MiB")).toEqual({ reason: "limit", limit: "disk" });
    expect(await write("100 MiB")).toEqual({ reason: "returned", code: 0 });
  });
});

describe("a program of a container says who ended it,", () => {
  const sleeper = async (limits: SandboxLimits) => {
    const held = await box([], { limits });
    return { held, program: await held.exec(["/bin/sleep", "1000"], { stdout: "ignore", stderr: "ignore" }) };
  };

  testBox("where the container came to its wallTime", async () => {
    const wallTimeMs = await enoughMs(async () => (await sleeper({})).held);
    const { held, program } = await sleeper({ wallTimeMs });
    await program.exited;
    expect(program.exit).toEqual({ reason: "limit", limit: "wallTime" });
    await held.exited;
    expect(held.exit).toEqual({ reason: "limit", limit: "wallTime" });
  });

  testBox("where the container was killed", async () => {
    const { held, program } = await sleeper({});
    held.kill();
    await program.exited;
    expect(program.exit).toEqual({ reason: "killed", by: "kill" });
  });

  testBox("unless that was nobody here", async () => {
    const { held, program } = await sleeper({});
    await using _ = held;
    const { pid } = program;
    const killer = await held.exec(["/bin/sh", "-c", `kill -9 ${pid}`]);
    await killer.exited;
    await program.exited;
    expect(program.exit).toEqual({ reason: "signal", signal: "SIGKILL" });
  });
});
