/** What does one more cost in memory? Ten actors, ten processes of the same code and ten workers, each beside one that runs already. */
import { type Actor, spawn } from "../src/index.ts";
import { compare, digits, median, quantile, type Sample, table } from "./measure.ts";
import { shareOf } from "./pss.ts";

const COUNT = 10;
const ROUNDS = 3;
const module = new URL("peers/sum.ts", import.meta.url);
const adder = new URL("peers/adder.ts", import.meta.url).pathname;
const worker = new URL("peers/summer.ts", import.meta.url);

/** Something that runs, and its process where it has one of its own. */
interface Running {
  readonly pid?: number;
  end(): Promise<unknown>;
}

async function startActor(): Promise<Running> {
  const actor: Actor<typeof import("./peers/sum.ts")> = await spawn<typeof import("./peers/sum.ts")>(module);
  await actor.call.add(2, 3);
  return {
    pid: actor.pid,
    end() {
      actor.kill();
      return actor.exited;
    },
  };
}

async function startChild(): Promise<Running> {
  const { promise, resolve } = Promise.withResolvers<unknown>();
  const child = Bun.spawn([process.execPath, adder], {
    env: {},
    stdio: ["ignore", "inherit", "inherit"],
    serialization: "json",
    ipc: (message, from) => (message === "ready" ? from.send([2, 3]) : resolve(message)),
  });
  await promise;
  return {
    pid: child.pid,
    end() {
      child.kill("SIGKILL");
      return child.exited;
    },
  };
}

async function startWorker(): Promise<Running> {
  const running = new Worker(worker);
  const { promise, resolve } = Promise.withResolvers<unknown>();
  const closed = new Promise((resolve) => running.addEventListener("close", resolve));
  running.onmessage = ({ data }: MessageEvent) => (data === "ready" ? running.postMessage([2, 3]) : resolve(data));
  await promise;
  return {
    end() {
      running.terminate();
      return closed;
    },
  };
}

const CONTESTANTS = [
  { title: "caisson", start: startActor },
  { title: "Bun.spawn, IPC json", start: startChild },
  { title: "Worker", start: startWorker },
];

/** What the processes have, and what the host has, for one of ten more. */
async function oneMore(start: () => Promise<Running>): Promise<{ processes: number; host: number }> {
  const running = [await start()];
  const processes = () => running.reduce((sum, { pid }) => sum + (pid === undefined ? 0 : shareOf(pid)), 0);
  try {
    Bun.gc(true);
    const before = { processes: processes(), host: shareOf("self") };
    for (let left = COUNT; left > 0; left--) running.push(await start());
    Bun.gc(true);
    return { processes: (processes() - before.processes) / COUNT, host: (shareOf("self") - before.host) / COUNT };
  } finally {
    await Promise.all(running.map((each) => each.end()));
  }
}

const hosts = CONTESTANTS.map((): number[] => []);
const samples = await compare(
  CONTESTANTS.map(({ title, start }, index) => ({
    title,
    async run() {
      const { processes, host } = await oneMore(start);
      hosts[index]!.push(host);
      return processes + host;
    },
  })),
  { rounds: ROUNDS, warm: 1 },
);
const row = (sample: Sample, index: number) => {
  const host: Sample = { title: "", values: hosts[index]!.slice(1).toSorted((a, b) => a - b) }; // the first round is to warm up
  return [sample.title, ...[median(sample), quantile(sample, 0), median(host)].map(digits)];
};
console.log(table([["memory for one more, MiB", "median", "min", "of it in the host"], ...samples.map(row)]));
console.log(`ratio to Bun.spawn: ${digits(median(samples[0]!) / median(samples[1]!))}`);
