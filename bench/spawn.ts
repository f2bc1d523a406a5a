/** How long until an actor has answered, a cold one and one from a reserve? Beside `Bun.spawn` of the same code, bare and within bubblewrap; and where the time goes. */
import { readdirSync, readFileSync, realpathSync } from "node:fs";
import { runtime } from "../platform/linux/runtime.ts";
import { reserve, spawn } from "../src/index.ts";
import { type Contest, compare, digits, median, quantile, type Sample, table } from "./measure.ts";
import { steps } from "./steps.ts";

const AIM = 1.5;
/** Of one from a reserve, in milliseconds. */
const WARM_AIM = 0.5;
const module = new URL("peers/sum.ts", import.meta.url);
const adder = new URL("peers/adder.ts", import.meta.url).pathname;

/** Processor time of a process so far, all its threads counted, in milliseconds. */
function processorTime(pid: number): number {
  const nanoseconds = readdirSync(`/proc/${pid}/task`).map((thread) =>
    Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8").split(" ")[0]),
  );
  return nanoseconds.reduce((sum, each) => sum + each, 0) / 1e6;
}

function check(sum: unknown): void {
  if (sum !== 5) throw new Error(`Expected 5, got ${sum}`);
}

/** Runs one to its first answer and, off the clock, to its end. Notes what its process used by then. */
async function actor(used: number[]): Promise<number> {
  const start = performance.now();
  await using actor = await spawn<typeof import("./peers/sum.ts")>(module);
  check(await actor.call.add(2, 3));
  const time = performance.now() - start;
  used.push(processorTime(actor.pid));
  return time;
}

await using ready = await reserve({ size: 2 });

/** The same with one that waited; off the clock until the next two do, and as long as nobody is to have come for one. */
async function warm(idleMs: number): Promise<number> {
  while (ready.ready < 2) await Bun.sleep(1);
  if (idleMs > 0) await Bun.sleep(idleMs);
  const start = performance.now();
  await using actor = await ready.spawn<typeof import("./peers/sum.ts")>(module);
  check(await actor.call.add(2, 3));
  return performance.now() - start;
}

async function child(before: readonly string[], used: number[]): Promise<number> {
  const start = performance.now();
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const child = Bun.spawn([...before, process.execPath, adder], {
    env: {},
    stdio: ["ignore", "inherit", "inherit"],
    serialization: "json",
    ipc: (message, from) => (message === "ready" ? from.send([2, 3]) : resolve(message)),
    onExit: (_, code) => reject(new Error(`${before[0] ?? "The child"} ended with ${code} before it answered`)),
  });
  check(await promise);
  const time = performance.now() - start;
  used.push(processorTime(child.pid));
  child.kill("SIGKILL");
  await child.exited;
  return time;
}

/** bubblewrap with as little inside as Bun needs: the link of IPC is a descriptor and a variable, which both get through. */
function bubblewrap(): string[] | undefined {
  const program = Bun.which("bwrap");
  if (program === null) return undefined;
  const { loader, libraries } = runtime();
  const peers = new URL("peers", import.meta.url).pathname;
  const files = [loader, ...libraries].flatMap(({ source, target }) => ["--ro-bind", source, target]);
  const bun = realpathSync(process.execPath);
  const binds = [...files, "--ro-bind", bun, process.execPath, "--ro-bind", peers, peers];
  return [program, "--unshare-all", "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev", ...binds];
}

async function fromReserve(title: string, idleMs: number, rounds: number): Promise<Sample> {
  const [sample] = await compare([{ title, run: () => warm(idleMs) }], { rounds, warm: 3 });
  return sample!;
}

const used = { actor: [] as number[], bare: [] as number[], wrapped: [] as number[] };
const first = await actor([]);
const contests: Contest[] = [
  { title: "caisson, spawn", run: () => actor(used.actor) },
  { title: "Bun.spawn, IPC json", run: () => child([], used.bare) },
];
const wrapper = bubblewrap();
if (wrapper !== undefined) contests.push({ title: "bubblewrap, Bun.spawn", run: () => child(wrapper, used.wrapped) });
else console.log("bubblewrap: left out, it is not installed\n");

const samples = await compare(contests, { rounds: 60, warm: 5 });
// By itself: what a reserve makes in the background would slow the others down.
const kept = await fromReserve("caisson, from a reserve", 0, 60);
const idle = await fromReserve("the same, after a second", 1000, 15);
const [ours, bare, wrapped] = samples as [Sample, Sample, Sample | undefined];
const row = (sample: Sample) => [
  sample.title,
  ...[median(sample), quantile(sample, 0), quantile(sample, 0.9)].map(digits),
];
console.log(table([["start to first answer, ms", "median", "min", "p90"], ...[...samples, kept, idle].map(row)]));
console.log(`from a reserve: ${digits(median(kept))} ms at the median (aim: at most ${WARM_AIM})`);
console.log(
  `ratio to Bun.spawn: ${digits(median(ours) / median(bare))} of medians, ${digits(quantile(ours, 0) / quantile(bare, 0))} of minima (aim: at most ${AIM})`,
);
if (wrapped !== undefined)
  console.log(`bubblewrap's ratio to Bun.spawn: ${digits(median(wrapped) / median(bare))} of medians`);
console.log(`the first spawn of this host process: ${digits(first)} ms\n`);

// bubblewrap's own process is not the one that runs Bun, so it is left out here.
const times: Sample[] = [
  { title: "caisson, spawn", values: used.actor.toSorted((a, b) => a - b) },
  { title: "Bun.spawn, IPC json", values: used.bare.toSorted((a, b) => a - b) },
];
console.log(`${table([["processor time of the process by then, ms", "median", "min", "p90"], ...times.map(row)])}\n`);

const parts = await steps(module.pathname, { rounds: 40, warm: 5 });
console.log(table([["a cold spawn by step, ms", "median", "min", "p90"], ...parts.map(row)]));
