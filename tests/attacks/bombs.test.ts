/** Attacks by more and more: processes, threads and output without end, while the host goes on with its own. */
import { afterAll, describe, expect, setDefaultTimeout } from "bun:test";
import { cpus } from "node:os";
import { type ExecOptions, exec } from "../../src/exec.ts";
import type { SandboxLimits } from "../../src/limits.ts";
import { bind, dev, proc } from "../../src/mounts.ts";
import type { Process } from "../../src/process.ts";
import { testGroups } from "../platform/cgroup/groups.ts";
import { until } from "./arena.ts";
import { arsenal, survivors, testAttempt } from "./attempt.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const base = arsenal("exhaust");
afterAll(() => base[Symbol.dispose]());

/** A timer of the host that never rests: how often it rang, and how late it was at the worst. */
class Timer implements Disposable {
  rings = 0;
  worstMs = 0;
  #due = performance.now() + 1;
  #timer = setTimeout(() => this.#ring(), 1);

  #ring(): void {
    this.rings++;
    this.worstMs = Math.max(this.worstMs, performance.now() - this.#due);
    this.#due = performance.now() + 1;
    this.#timer = setTimeout(() => this.#ring(), 1);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

const WAYS: Readonly<Record<string, (limits: SandboxLimits) => ExecOptions>> = {
  sandbox: (limits) => ({ sandbox: { limits } }),
  container: (limits) => ({ container: { files: [bind(base.program), proc(), dev()], limits } }),
};
const PROCESSES = 32;

const full = (program: Process) => program.usage().processes >= PROCESSES;

const testPids = testGroups("pids");
testPids("usage().refusedProcesses tells how many more a bomb wanted, where a group refused them", async () => {
  await using program = await exec([base.program, "forks"], { sandbox: { limits: { processes: PROCESSES } } });
  await until(() => (program.usage().refusedProcesses ?? 0) > 0);
  await using modest = await exec([base.program, "forks", "8"], { sandbox: { limits: { processes: PROCESSES } } });
  await modest.exited;
  expect(modest.usage().refusedProcesses).toBe(0);
});

for (const [where, optionsFor] of Object.entries(WAYS))
  describe(`in a ${where}`, () => {
    for (const way of ["forks", "threads"]) {
      testAttempt(`a bomb of ${way} is held, ends with kill(), and the host's timers go on`, async () => {
        using timer = new Timer();
        await using program = await exec([base.program, way], optionsFor({ processes: PROCESSES }));
        await until(() => full(program));
        const { rings } = timer;
        await until(() => timer.rings > rings + 100);
        expect(program.exit).toBeUndefined();
        // A group counts one that each processor is just about to refuse.
        expect(program.usage().processes).toBeLessThanOrEqual(PROCESSES + cpus().length);
        program.kill();
        await program.exited;
        expect(program.exit).toEqual({ reason: "killed", by: "kill" });
        expect(survivors(base.program)).toEqual([]);
        console.log(`${way} in a ${where}: a timer of the host was ${timer.worstMs.toFixed(1)} ms late at worst`);
      });

      testAttempt(`a bomb of ${way} ends when its time is over`, async () => {
        await using program = await exec([base.program, way], optionsFor({ processes: PROCESSES, wallTime: "300 ms" }));
        await program.exited;
        expect(program.exit).toEqual({ reason: "limit", limit: "wallTime" });
        expect(survivors(base.program)).toEqual([]);
      });

      testAttempt(`as many ${way} as it may have are there`, async () => {
        await using program = await exec([base.program, way, `${PROCESSES - 1}`], optionsFor({ processes: PROCESSES }));
        expect((await new Response(program.stdout).text()).trim()).toBe("done");
      });
    }

    for (const [who, options] of Object.entries({ "the first process": { init: false }, "another's child": {} }))
      testAttempt(`no more than it may have are there, where it is ${who}`, async () => {
        const asked = [base.program, "forks", `${PROCESSES + 2}`];
        await using program = await exec(asked, { ...options, ...optionsFor({ processes: PROCESSES }) });
        const { value } = await program.stdout!.getReader().read();
        expect(new TextDecoder().decode(value).trim()).toBe("refused 3"); // it is one itself
      });

    testAttempt("output that nobody reads is held back, and the host's timers go on", async () => {
      using timer = new Timer();
      await using program = await exec([base.program, "both"], optionsFor({}));
      const { rings } = timer;
      await until(() => timer.rings > rings + 100);
      const before = process.memoryUsage.rss();
      await until(() => timer.rings > rings + 300);
      // What it could have printed meanwhile is more by far.
      expect(process.memoryUsage.rss() - before).toBeLessThan(64 * 2 ** 20);
      expect(program.exit).toBeUndefined();
    });
  });
