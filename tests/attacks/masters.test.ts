/** Hosts that are killed while their programs have daemons: nobody is left, and no group. */
import { afterAll, describe, expect, setDefaultTimeout } from "bun:test";
import { existsSync, linkSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { sweep } from "../../platform/linux/cgroup/claim.ts";
import { hierarchiesOf } from "../../platform/linux/cgroup/hierarchy.ts";
import { findTrees } from "../../platform/linux/cgroup/home.ts";
import { testGroups } from "../platform/cgroup/groups.ts";
import { until } from "./arena.ts";
import { arsenal, survivors, testAttempt } from "./attempt.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const KILLS = 200;
const AT_ONCE = 4;
/** In that a host begins, or starts and ends its programs some times. */
const LONGEST_MS = 80;

const base = arsenal("exhaust");
afterAll(() => base[Symbol.dispose]());
const script = fileURLToPath(new URL("./fixtures/master.ts", import.meta.url));

/** The directories of hosts in which these processes are. */
function mastersOf(pids: readonly string[]): string[] {
  const mountinfo = readFileSync("/proc/self/mountinfo", "utf8");
  const groups = pids.flatMap((pid) => hierarchiesOf({ mountinfo, cgroup: groupsOf(pid) }).map(({ own }) => own));
  return groups.map(dirname).filter((directory) => basename(directory).startsWith("caisson."));
}

function groupsOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, "utf8");
  } catch {
    return ""; // it ended meanwhile
  }
}

/** What was seen when a host was killed, and how long it took until nothing was left of that. */
interface Killed {
  readonly daemons: number;
  readonly groups: readonly string[];
  readonly goneMs: number;
}

/** Kills one some time after it said so many lines: it begins, all are there, all are there again. */
async function killOne(program: string, env: Readonly<Record<string, string>>, lines: number): Promise<Killed> {
  const host = Bun.spawn([process.execPath, script, program], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const reader = host.stdout.getReader();
  for (let line = 0; line < lines; line++) await reader.read();
  await Bun.sleep(Math.random() * LONGEST_MS);
  const running = survivors(program).filter((pid) => pid !== `${host.pid}`);
  const groups = mastersOf(running);
  const start = performance.now();
  host.kill("SIGKILL");
  await until(() => survivors(program).length === 0);
  const goneMs = performance.now() - start;
  await host.exited;
  return { daemons: running.length, groups, goneMs };
}

/** Each works with a name of its own for the program, by which its hosts' daemons are told from those of others. */
async function killAll(env: Readonly<Record<string, string>>): Promise<Killed[]> {
  const all: Killed[] = [];
  let left = KILLS;
  const work = async (_: unknown, number: number) => {
    const program = join(base.path, `exhaust-${env.CAISSON_CGROUP ?? "grouped"}-${number}`);
    linkSync(base.program, program);
    while (left-- > 0) all.push(await killOne(program, env, 1 + (left % 2)));
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  const worst = Math.max(...all.map(({ goneMs }) => goneMs));
  console.log(`${all.filter(({ daemons }) => daemons > 0).length} of ${KILLS} hosts had daemons when they were killed`);
  console.log(`The last of them was gone ${worst.toFixed(0)} ms later at worst`);
  return all;
}

describe(`${KILLS} hosts that are killed at random moments`, () => {
  testGroups("kill", "memory")(
    "leave no daemon of their programs, and the next ones remove their groups",
    async () => {
      const all = await killAll({});
      expect(all.filter(({ daemons }) => daemons > 0).length).toBeGreaterThan(KILLS / 10);
      const groups = new Set(all.flatMap(({ groups }) => groups));
      expect(groups.size).toBeGreaterThan(KILLS / 10);
      for (const { parent } of findTrees().trees) await sweep(parent);
      expect([...groups].filter((group) => existsSync(group))).toEqual([]);
    },
    480_000,
  );

  testAttempt(
    "leave no daemon where there are no groups",
    async () => {
      const all = await killAll({ CAISSON_CGROUP: "nowhere" });
      expect(all.filter(({ daemons }) => daemons > 0).length).toBeGreaterThan(KILLS / 10);
      expect(all.flatMap(({ groups }) => groups)).toEqual([]);
    },
    480_000,
  );
});

testAttempt("control: daemons of a host that lives are seen", async () => {
  const program = join(base.path, "exhaust-control");
  linkSync(base.program, program);
  const host = Bun.spawn([process.execPath, script, program, "patient"], { stdio: ["ignore", "pipe", "inherit"] });
  // Of both programs: itself, one that waits, one that is stopped, and one that hangs in vfork(2) with its child.
  await until(() => survivors(program).length === 10);
  host.kill("SIGKILL");
  await until(() => survivors(program).length === 0);
  await host.exited;
});
