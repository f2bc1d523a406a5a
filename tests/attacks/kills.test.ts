/** Kills that cannot miss: whatever hides from its end comes to it, in a sandbox and in a container. */
import { afterAll, describe, expect, setDefaultTimeout } from "bun:test";
import { NAMESPACES } from "../../platform/platform.ts";
import { type ContainerOptions, container } from "../../src/container.ts";
import { exec } from "../../src/exec.ts";
import { bind, dev, proc } from "../../src/mounts.ts";
import type { Process } from "../../src/process.ts";
import { testGroups } from "../platform/cgroup/groups.ts";
import { until } from "./arena.ts";
import { arsenal, survivors, testAttempt } from "./attempt.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const base = arsenal("exhaust");
afterAll(() => base[Symbol.dispose]());

/** Itself; one that waits, one that is stopped, and two that hang in vfork(2), each with its child. All but itself are daemons that block all signals. */
const ALL = 7;
const hidden = () => survivors(base.program).length;
const files = [bind(base.program), proc(), dev()];

/** Waits until all of them are there. */
async function hide(program: Process): Promise<void> {
  await program.stdout!.getReader().read();
  await until(() => hidden() === ALL);
}

type Starts = (signal?: AbortSignal) => Promise<Process>;
const boxed =
  (options: ContainerOptions): Starts =>
  (signal) =>
    exec([base.program, "daemons"], { container: options, ...(signal && { signal }) });

const PLACES: Readonly<Record<string, Starts>> = {
  "a sandbox": (signal) => exec([base.program, "daemons"], signal && { signal }),
  "a container": boxed({ files }),
};

for (const [where, start] of Object.entries(PLACES))
  describe(`daemons in ${where} end`, () => {
    testAttempt("with kill()", async () => {
      await using program = await start();
      await hide(program);
      program.kill();
      await program.exited;
      expect(program.exit).toEqual({ reason: "killed", by: "kill" });
      expect(survivors(base.program)).toEqual([]);
    });

    testAttempt("with an AbortSignal", async () => {
      const controller = new AbortController();
      await using program = await start(controller.signal);
      await hide(program);
      controller.abort();
      await program.exited;
      expect(program.exit).toEqual({ reason: "killed", by: "signal" });
      expect(survivors(base.program)).toEqual([]);
    });

    testAttempt("with the block that has the program", async () => {
      {
        await using program = await start();
        await hide(program);
      }
      expect(survivors(base.program)).toEqual([]);
    });

    testAttempt("with a main process that is stopped", async () => {
      await using program = await start();
      await hide(program);
      program.kill("SIGSTOP");
      program.kill();
      await program.exited;
      expect(survivors(base.program)).toEqual([]);
    });
  });

testAttempt("daemons end with the program that left them", async () => {
  await using program = await exec([base.program, "daemons-alone"]);
  await program.exited;
  expect(program.exit).toEqual({ reason: "returned", code: 0 });
  expect(survivors(base.program)).toEqual([]);
});

testAttempt("daemons of a program in a container live until that ends", async () => {
  const made = await container({ files });
  try {
    const program = await made.exec([base.program, "daemons-alone"]);
    await program.exited;
    await until(() => hidden() === ALL - 1); // each says that it has begun before it hides
  } finally {
    await made[Symbol.asyncDispose]();
  }
  expect(survivors(base.program)).toEqual([]);
});

const testKill = testGroups("kill", "memory");
testKill("daemons end without a PID namespace, where there are limits and a group keeps them", async () => {
  const namespaces = NAMESPACES.filter((name) => name !== "pid" && name !== "time");
  await using program = await boxed({ namespaces, files: [bind(base.program), dev()], limits: { processes: 64 } })();
  await hide(program);
  program.kill();
  await program.exited;
  await until(() => hidden() === 0);
});
