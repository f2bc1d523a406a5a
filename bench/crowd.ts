/** What do 200 actors cost that are alive at once: memory each, time to start all, and how late the host's timers are meanwhile? Beside 200 of `Bun.spawn`. */
import { readFileSync } from "node:fs";
import { spawn } from "../src/index.ts";
import { digits, median, quantile, type Sample, table } from "./measure.ts";
import { shareOf } from "./pss.ts";

const COUNT = 200;
const TIMER_MS = 5;
const ANSWERS = 10;
const module = new URL("peers/sum.ts", import.meta.url);
const adder = new URL("peers/adder.ts", import.meta.url).pathname;

interface Running {
  readonly pid: number;
  add(a: number, b: number): Promise<unknown>;
  end(): Promise<unknown>;
}

async function startActor(): Promise<Running> {
  const actor = await spawn<typeof import("./peers/sum.ts")>(module);
  await actor.call.add(2, 3);
  return {
    pid: actor.pid,
    add: (a, b) => actor.call.add(a, b),
    end() {
      actor.kill();
      return actor.exited;
    },
  };
}

async function startChild(): Promise<Running> {
  let resolve: (message: unknown) => void;
  const answer = () => new Promise<unknown>((take) => (resolve = take));
  const child = Bun.spawn([process.execPath, adder], {
    env: {},
    stdio: ["ignore", "inherit", "inherit"],
    serialization: "json",
    ipc: (message) => resolve(message),
  });
  const add = (a: number, b: number) => {
    const answered = answer();
    child.send([a, b]);
    return answered;
  };
  await answer();
  await add(2, 3);
  return {
    pid: child.pid,
    add,
    end() {
      child.kill("SIGKILL");
      return child.exited;
    },
  };
}

/** What this process's main thread has had of processors so far, in milliseconds. */
function processorTime(): number {
  return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, "utf8").split(" ")[0]) / 1e6;
}

/** By how much timers of this process were late while something went on, its own part in that, and how long that took, in milliseconds. */
async function during(
  title: string,
  act: () => Promise<unknown>,
): Promise<{ late: Sample; own: number; time: number }> {
  const values: number[] = [];
  let own = 0;
  let over = false;
  const start = performance.now();
  const acting = act().finally(() => {
    over = true;
  });
  while (!over) {
    const [before, used] = [performance.now(), processorTime()];
    await new Promise((resolve) => setTimeout(resolve, TIMER_MS));
    values.push(performance.now() - before - TIMER_MS);
    own = Math.max(own, processorTime() - used);
  }
  await acting;
  return { late: { title, values: values.toSorted((a, b) => a - b) }, own, time: performance.now() - start };
}

const rows: (readonly string[])[] = [];
const lates: { late: Sample; own: number }[] = [await during("nothing", () => Bun.sleep(2000))];
for (const { title, start } of [
  { title: "caisson", start: startActor },
  { title: "Bun.spawn, IPC json", start: startChild },
]) {
  const first = await start(); // the host has started one before
  Bun.gc(true);
  const host = shareOf("self");
  const running: Running[] = [];
  try {
    const starting = await during(`${title}: starting`, () =>
      Promise.all(Array.from({ length: COUNT }, async () => running.push(await start()))),
    );
    const answering = await during(`${title}: ${ANSWERS} calls of each`, async () => {
      for (let left = ANSWERS; left > 0; left--) await Promise.all(running.map(({ add }) => add(2, 3)));
    });
    const idle = await during(`${title}: idle`, () => Bun.sleep(2000));
    Bun.gc(true);
    const shares: Sample = { title, values: running.map(({ pid }) => shareOf(pid)).toSorted((a, b) => a - b) };
    const inHost = (shareOf("self") - host) / COUNT;
    const ending = await during(`${title}: ending`, () => Promise.all(running.splice(0).map(({ end }) => end())));
    rows.push([title, ...[starting.time, ending.time, median(shares), quantile(shares, 1), inHost].map(digits)]);
    lates.push(starting, answering, idle, ending);
  } finally {
    await Promise.all([first, ...running].map(({ end }) => end()));
  }
}

const headings = [
  `${COUNT} at once`,
  "all answered, ms",
  "all ended, ms",
  "MiB each, median",
  "most",
  "more in the host, each",
];
console.log(`${table([headings, ...rows])}\n`);
// The rest of it this process waited for a processor, as one of so many.
const row = ({ late, own }: (typeof lates)[number]) => [
  late.title,
  ...[0.5, 0.9, 1].map((share) => digits(quantile(late, share))),
  digits(own),
];
const timers = [`a timer of ${TIMER_MS} ms is late by, ms`, "median", "p90", "max", "own work, most"];
console.log(table([timers, ...lates.map(row)]));
