/** What does each limit cost at the start? `run()` of /bin/true and an actor's first answer with each, beside the same without. */
import { bind, dev, proc, run, type Sandbox, spawn, symlink } from "../src/index.ts";
import { type Contest, compare, digits, median, quantile, type Sample, table } from "./measure.ts";

type Limits = NonNullable<Sandbox["limits"]>;

const TRUE = ["/bin/true"];
const module = new URL("peers/sum.ts", import.meta.url);
/** One row each. What has a limit where nothing is said (memory, processes, files, sizes) is in all of them, and so in the first. */
const LIMITS = {
  "nothing said": {},
  memory: { memory: "256 MiB" },
  memoryWarning: { memoryWarning: "100 MiB" },
  swap: { swap: "0 B" },
  cpu: { cpu: 0.9 },
  cpuTime: { cpuTime: "1 min" },
  wallTime: { wallTime: "1 min" },
  disk: { disk: "1 GiB" },
  diskRead: { diskRead: "1 GiB/s" },
  diskWrite: { diskWrite: "1 GiB/s" },
  processes: { processes: 8 },
  output: { output: "1 MiB" },
  messages: { messages: 100, inFlight: "1 MiB" },
} as const satisfies Record<string, Limits>;

const { messages, processes, output, ...both } = LIMITS;
const together = { "all of these": Object.assign({}, ...Object.values(both)) as Limits };

/** A container has no limit where none is asked for, so what the usual ones cost is seen there. */
const CONTAINERS = { "no limits": undefined, "the usual ones": {}, "cpuTime too": { cpuTime: "1 min" } } as const;

async function program(limits: Limits): Promise<void> {
  const { exitCode } = await run(TRUE, {
    sandbox: { limits, allowUnenforced: ["disk"] },
    stdout: "pipe",
    stderr: "ignore",
  });
  if (exitCode !== 0) throw new Error(`/bin/true ended with ${exitCode}`);
}

const links = ["bin", "sbin", "lib", "lib64"].map((name) => symlink(`/${name}`, `usr/${name}`));
const files = () => [bind("/usr"), ...links, proc(), dev()];

async function contained(limits: Limits | undefined): Promise<void> {
  const container = { files: files(), ...(limits === undefined ? {} : { limits }) };
  const { exitCode } = await run(TRUE, { container, stdout: "ignore", stderr: "ignore" });
  if (exitCode !== 0) throw new Error(`/bin/true ended with ${exitCode}`);
}

/** To the first answer; its end is off the clock. */
async function actor(limits: Limits): Promise<number> {
  const start = performance.now();
  await using actor = await spawn<typeof import("./peers/sum.ts")>(module, { sandbox: { limits } });
  await actor.call.add(2, 3);
  return performance.now() - start;
}

/** Runs all that start with their limits here, in turns; of the others it prints why they do not. */
async function race<L>(
  title: string,
  all: Readonly<Record<string, L>>,
  { start, rounds }: { readonly start: (limits: L) => Promise<unknown>; readonly rounds: number },
): Promise<void> {
  const contests: Contest[] = [];
  for (const [name, limits] of Object.entries(all)) {
    const run = () => start(limits);
    await run().then(
      () => contests.push({ title: name, run }),
      (error: Error) => console.log(`${title} with ${name}: left out, ${error.message.split("\n")[0]}`),
    );
  }
  const samples = await compare(contests, { rounds, warm: 5 });
  const [first] = samples as [Sample];
  const row = (sample: Sample) => [
    sample.title,
    ...[median(sample), quantile(sample, 0), quantile(sample, 0.9)].map(digits),
    ...[median(sample) / median(first), quantile(sample, 0) / quantile(first, 0)].map(digits),
  ];
  const headings = [`${title}, ms`, "median", "min", "p90", "ratio of medians", "of minima"];
  console.log(`${table([headings, ...samples.map(row)])}\n`);
}

await race("/bin/true in a container", CONTAINERS, { start: contained, rounds: 60 });
await race("/bin/true in a sandbox", { ...both, ...together, processes, output }, { start: program, rounds: 60 });
await race("an actor to its first answer", { ...both, ...together, messages }, { start: actor, rounds: 40 });
