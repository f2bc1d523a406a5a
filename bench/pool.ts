/** What does a call of a pool cost? Beside tinypool and a hand-written pool of `Worker`, which keep nothing apart, and `Bun.spawn` for each call. */
import Tinypool from "tinypool";
import { pool } from "../src/index.ts";
import { type Contest, compare, digits, median, quantile, type Sample, table } from "./measure.ts";
import { SMALL } from "./peers/work.ts";
import { worker } from "./peers.ts";

const SIZE = 2;
const CALLS = 100;
/** To start a process takes a hundred times as long as a call does. */
const STARTS = 4;
const at = (name: string) => new URL(`peers/${name}.ts`, import.meta.url);

/** Something that answers calls. */
interface Contestant extends AsyncDisposable {
  readonly title: string;
  /** Calls of one run. */
  readonly calls: number;
  echo(value: unknown): Promise<unknown>;
}

async function ofActors(concurrency: number): Promise<Contestant> {
  type Module = typeof import("./peers/actor.ts");
  const actors = await pool<Module>(at("actor"), { size: SIZE, concurrency });
  return {
    title: `caisson, ${concurrency === 1 ? "a call" : `${concurrency} calls`} at a time each`,
    calls: CALLS,
    echo: (value) => actors.call.echo(value),
    [Symbol.asyncDispose]: () => actors[Symbol.asyncDispose](),
  };
}

function ofThreads(): Contestant {
  const threads = new Tinypool({ filename: at("task").href, minThreads: SIZE, maxThreads: SIZE });
  return {
    title: "tinypool",
    calls: CALLS,
    echo: (value) => threads.run(["echo", value]),
    [Symbol.asyncDispose]: () => threads.destroy(),
  };
}

/** Workers that have calls in turns, and answer in order. */
async function ofWorkers(): Promise<Contestant> {
  const workers = await Promise.all(Array.from({ length: SIZE }, worker));
  let next = 0;
  return {
    title: "Worker, in turns",
    calls: CALLS,
    echo: (value) => workers[next++ % SIZE]!.call("echo", value),
    async [Symbol.asyncDispose]() {
      for (const each of workers) await each.close();
    },
  };
}

/** A process for each call, which keeps calls apart, and nothing else. */
function ofProcesses(): Contestant {
  return {
    title: "Bun.spawn for each call, IPC json",
    calls: STARTS,
    async echo(value) {
      const { promise, resolve, reject } = Promise.withResolvers<unknown>();
      const child = Bun.spawn([process.execPath, at("once").pathname], {
        env: {},
        stdio: ["ignore", "inherit", "inherit"],
        serialization: "json",
        ipc: resolve,
        onExit: (_, code) => reject(new Error(`The child ended with ${code} before it answered`)),
      });
      child.send(["echo", value]);
      return promise;
    },
    async [Symbol.asyncDispose]() {},
  };
}

/** Prints a table with the ratio of ours, the first, to each. */
function print(title: string, samples: readonly Sample[], [best, slow]: readonly [number, number]): void {
  const row = (sample: Sample) => [
    sample.title,
    ...[median(sample), quantile(sample, best), quantile(sample, slow)].map(digits),
    digits(median(samples[0]!) / median(sample)),
  ];
  const headings = [title, "median", "best", "slow end", "ours to it"];
  console.log(`${table([headings, ...samples.map(row)])}\n`);
}

await using ours = await ofActors(1);
await using deep = await ofActors(16);
await using threads = ofThreads();
await using workers = await ofWorkers();
await using processes = ofProcesses();
const contestants = [ours, deep, threads, workers, processes];

const inTurn = contestants.map(
  ({ title, echo, calls }): Contest => ({
    title,
    async run() {
      for (let left = calls; left > 0; left--) await echo(SMALL);
    },
    figure: (milliseconds) => (milliseconds / calls) * 1e3,
  }),
);
print("100 bytes there and back, µs", await compare(inTurn, { rounds: 40, warm: 5 }), [0, 0.9]);

const atOnce = contestants.map(
  ({ title, echo, calls }): Contest => ({
    title,
    run: async () => void (await Promise.all(Array.from({ length: calls }, () => echo(SMALL)))),
    figure: (milliseconds) => calls / milliseconds,
  }),
);
print(
  `${CALLS} at once (${STARTS} processes), thousand calls/s`,
  await compare(atOnce, { rounds: 40, warm: 5 }),
  [1, 0.1],
);
