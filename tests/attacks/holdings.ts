/** What a host holds of the machine, counted from outside of caisson: nothing of it may stay behind what was started. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { children } from "../platform/strings.ts";

/** What there is, and how often. Numbers and names that are made up are left out, so that those of several hosts can be compared. */
export type Holdings = Readonly<Record<string, number>>;

/** The directories of a host that is looked at, in which nobody else leaves anything. */
const PLACES = ["TMPDIR", "XDG_RUNTIME_DIR"] as const;

export function holdings(): Holdings {
  const counts: Record<string, number> = {};
  const names = [
    ...openFiles(),
    ...children().map(({ pid, state }) => `child ${read(`/proc/${pid}/comm`).trim()}${state === "Z" ? ", dead" : ""}`),
    ...namelessThreads().map(() => "thread"),
    ...lines("/proc/self/mountinfo").map(() => "mount"),
    ...links()
      .filter((path) => OWN.test(path))
      .flatMap(directories)
      .map((path) => `group ${path}`),
    ...PLACES.flatMap((place) => files(process.env[place]).map((path) => `file ${path}`)),
  ];
  for (const name of names.toSorted()) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

/** Of what there is more than before. */
export function surplus(before: Holdings, after: Holdings): string[] {
  return Object.entries(after).flatMap(([name, count]) => {
    const had = before[name] ?? 0;
    return count > had ? [`${name}: ${had}, then ${count}`] : [];
  });
}

/** Those that are nobody's but ours: Bun names its own, which come and go as there is work. */
function namelessThreads(): string[] {
  const names = readdirSync("/proc/self/task").map((task) => read(`/proc/self/task/${task}/comm`));
  return names.filter((name) => name === read("/proc/self/comm"));
}

/** This process's own directory in a tree of control groups, on which it has a lock. */
const OWN = /caisson\.[0-9a-f]{16}$/;
const GONE = / \(deleted\)$/;

const openFiles = () =>
  links().map((path) =>
    path
      .replace(/:\[\d+\]$/, "")
      .replace(GONE, "")
      .replace(OWN, "caisson"),
  );

function links(): string[] {
  return readdirSync("/proc/self/fd").flatMap((number) => {
    try {
      return [readlinkSync(`/proc/self/fd/${number}`)];
    } catch {
      return []; // the directory itself was open while it was read
    }
  });
}

/** The groups beneath one. */
function directories(group: string): string[] {
  const entries = readdirSync(group, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return entries.flatMap(({ name }) => [name, ...directories(join(group, name))]);
}

function files(directory: string | undefined): string[] {
  return directory === undefined ? [] : (readdirSync(directory, { recursive: true }) as string[]);
}

const lines = (path: string) => read(path).trimEnd().split("\n");

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // it ended meanwhile
  }
}

const LOOK_MS = 5;
const PATIENCE = 4000;

/** What is held when nothing changes any more. */
export async function calm(): Promise<Holdings> {
  for (let before = holdings(); ; ) {
    await Bun.sleep(LOOK_MS);
    const now = holdings();
    if (surplus(before, now).length + surplus(now, before).length === 0) return now;
    before = now;
  }
}

/** What is held once that is no more than before, or will not become so: what was about to end has had its time. */
export async function settled(before: Holdings): Promise<Holdings> {
  let now = holdings();
  for (let tries = 0; tries < PATIENCE && surplus(before, now).length > 0; tries++) {
    await Bun.sleep(LOOK_MS);
    now = holdings();
  }
  return now;
}

/** This process's share of memory, behind a collection: `smaps_rollup` of proc(5). */
export function proportionKib(): number {
  Bun.gc(true);
  return Number(/^Pss:\s+(\d+)/m.exec(read("/proc/self/smaps_rollup"))?.[1]);
}
