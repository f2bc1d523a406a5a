/** What does a call cost that is handed over? Beside the kernel's own floor, strace, and the same call where nobody asks; and what being watched costs a start. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { platform } from "../platform/index.ts";
import { type ExecOptions, run, spawn } from "../src/index.ts";
import { observe } from "../src/observe.ts";
import { Descriptor } from "../syscalls/descriptor.ts";
import { self } from "../syscalls/kernel.ts";
import { open } from "../syscalls/linux/file.ts";
import { O } from "../syscalls/linux/numbers.ts";
import { type Contest, compare, digits, median, quantile, type Sample, table } from "./measure.ts";

/** So few in a row that all the contestants' turns are close to each other. */
const COUNT = 300;
const module = new URL("peers/sum.ts", import.meta.url);
const TRUE = ["/bin/true"];
const READING = O.RDONLY | O.CLOEXEC;
const quiet = { stdout: "ignore", stderr: "ignore" } as const;

/** A call, and who answers it. */
interface Act {
  readonly title: string;
  readonly act: "value" | "refused" | "named" | "opened";
  readonly path: string;
  /** Where nothing hands the call over. */
  readonly plain: ExecOptions;
  /** Where it waits for an answer. */
  readonly asked: ExecOptions;
}

function actsFor(program: string, file: string): Act[] {
  const libc = platform.programOf(program).files.find(({ target }) => target.includes("/libc."))!.target;
  return [
    {
      title: "refused by the thread: io_uring_setup",
      ...{ act: "refused", path: "-" },
      ...{ plain: {}, asked: { observe: true } },
    },
    {
      title: "refused by the thread, with a path: chroot",
      ...{ act: "named", path: "/nowhere" },
      ...{ plain: {}, asked: { observe: true } },
    },
    {
      title: "lent by the thread: openat, close",
      ...{ act: "opened", path: libc },
      ...{ plain: {}, asked: { sandbox: { promises: "stdio" } } },
    },
    {
      title: "answered by the main thread: getppid",
      ...{ act: "value", path: "-" },
      ...{ plain: {}, asked: { supervise: { asked: ["getppid"], answer: () => ({ value: 1n }) } } },
    },
    {
      title: "opened by the main thread: openat, close",
      ...{ act: "opened", path: file, plain: { sandbox: { read: [file] } } },
      asked: {
        broker: { open: ({ path }) => (path === file ? new Descriptor(open(self, file, READING)) : undefined) },
      },
    },
  ];
}

const microseconds = (nanoseconds: string): number => Number(nanoseconds) / 1e3;

/** What `notify` prints when it runs in a sandbox, in microseconds. */
async function sandboxed(argv: readonly string[], options: ExecOptions): Promise<number> {
  const { stdout, stderr, exitCode } = await run(argv, options);
  if (exitCode !== 0) throw new Error(`Cannot time ${argv.join(" ")}: it ended with ${exitCode}, ${stderr}`);
  return microseconds(stdout.toString());
}

/** The same outside of any. */
async function bare(argv: readonly string[]): Promise<number> {
  const child = Bun.spawn([...argv], { stdio: ["ignore", "pipe", "inherit"] });
  const [output, code] = await Promise.all([child.stdout.text(), child.exited]);
  if (code !== 0) throw new Error(`Cannot time ${argv.join(" ")}: it ended with ${code}`);
  return microseconds(output);
}

/** The same with each path noted that it names, as `caisson learn` has it. */
async function learned(argv: readonly string[], output: string): Promise<number> {
  writeFileSync(output, "");
  const { observations, exited } = await observe([...argv, output]);
  let count = 0;
  for await (const { target } of observations) if (target === argv[2]) count++;
  if ((await exited) !== 0 || count < COUNT) throw new Error(`Cannot time ${argv.join(" ")}: ${count} calls were seen`);
  return microseconds(readFileSync(output, "utf8"));
}

const figure = (sample: Sample) => digits(median(sample));

async function calls(program: string, directory: string): Promise<void> {
  const file = join(directory, "file");
  writeFileSync(file, "");
  const acts = actsFor(program, file);
  const contests = acts.flatMap(({ title, act, path, plain, asked }): Contest[] => {
    const words = [act, path, `${COUNT}`];
    return [
      { title, run: () => bare([program, ...words]) },
      { title, run: () => sandboxed([program, ...words], plain) },
      { title, run: () => bare([program, "floor", ...words]) },
      { title, run: () => sandboxed([program, ...words], asked) },
    ];
  });
  const samples = await compare(contests, { rounds: 15, warm: 2 });
  const rows = acts.map(({ title }) => {
    const own = samples.filter((sample) => sample.title === title);
    return [title, ...own.map(figure), digits(quantile(own.at(-1)!, 0))];
  });
  const heads = ["one call, µs", "bare", "in a sandbox", "handed over, C", "handed over, caisson", "min"];
  console.log(`${table([heads, ...rows])}\n`);
}

/** What it takes to see which files are opened. */
async function watchers(program: string, directory: string): Promise<void> {
  const file = join(directory, "file");
  const argv = [program, "opened", file, `${COUNT}`];
  const contests: Contest[] = [
    { title: "nobody", run: () => bare(argv) },
    { title: "caisson learn", run: () => learned(argv, join(directory, "output")) },
  ];
  const strace = Bun.which("strace");
  if (strace === null) console.log("strace: left out, it is not installed\n");
  else {
    const options = ["-f", "--seccomp-bpf", "-e", "trace=openat", "-o", "/dev/null"];
    contests.push({ title: "strace", run: () => bare([strace, ...options, ...argv]) });
  }
  const samples = await compare(contests, { rounds: 15, warm: 2 });
  const rows = samples.map((sample) => [sample.title, figure(sample), digits(quantile(sample, 0))]);
  console.log(`${table([["openat and close, watched by, µs", "median", "min"], ...rows])}\n`);
}

async function answered(observe: boolean): Promise<number> {
  const start = performance.now();
  await using actor = await spawn<typeof import("./peers/sum.ts")>(module, { observe });
  if ((await actor.call.add(2, 3)) !== 5) throw new Error("Expected 5");
  return performance.now() - start;
}

/** What a start costs of what will be watched. */
async function starts(): Promise<void> {
  const program = (options: ExecOptions) => () => run(TRUE, { ...options, ...quiet });
  const contests: Contest[] = [
    { title: "run /bin/true", run: program({}) },
    { title: "  with promises", run: program({ sandbox: { promises: "stdio rpath" } }) },
    { title: "  observed", run: program({ observe: true }) },
    { title: "spawn to the first answer", run: () => answered(false) },
    { title: "  observed", run: () => answered(true) },
  ];
  const samples = await compare(contests, { rounds: 30, warm: 5 });
  const rows = samples.map((sample) => [
    sample.title,
    ...[median(sample), quantile(sample, 0), quantile(sample, 0.9)].map(digits),
  ]);
  console.log(table([["a start, ms", "median", "min", "p90"], ...rows]));
}

/** Proportional set size of this process, in MiB. */
function memory(): number {
  Bun.gc(true);
  return Number(/^Pss:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/smaps_rollup", "utf8"))![1]) / 1024;
}

/** The thread that all share: made for the first one that is watched. */
async function thread(): Promise<void> {
  const watch = async () => {
    const start = performance.now();
    await run(TRUE, { observe: true, ...quiet });
    return performance.now() - start;
  };
  for (let left = 5; left > 0; left--) await run(TRUE, quiet);
  const before = memory();
  const first = await watch();
  const after = memory();
  console.log(
    `the supervisor's thread: the first start that is watched takes ${digits(first)} ms; with it this process has ${digits(after - before)} MiB more\n`,
  );
}

function compiled(directory: string): string {
  const source = new URL("notify.c", import.meta.url).pathname;
  const program = join(directory, "notify");
  const flags = ["-O2", "-Wall", "-Wextra", "-o", program, source];
  if (Bun.which("cc") === null) throw new Error("Cannot compile notify.c: there is no cc, install gcc");
  if (Bun.spawnSync(["cc", ...flags], { stderr: "inherit" }).exitCode !== 0)
    throw new Error("Cannot compile notify.c: see above");
  return program;
}

const directory = mkdtempSync(join(tmpdir(), "caisson-notify-"));
try {
  const program = compiled(directory);
  await thread();
  await calls(program, directory);
  await watchers(program, directory);
  await starts();
} finally {
  rmSync(directory, { recursive: true, force: true });
}
