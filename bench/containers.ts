/** How long until /bin/true has run in all namespaces, with a root, proc and dev? Beside bubblewrap, crun, runc, unshare, and a floor in C. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bind, dev, proc, run, symlink } from "../src/index.ts";
import { Floor } from "./floor.ts";
import { type Contest, compare, digits, median, quantile, type Sample, table } from "./measure.ts";

const TRUE = ["/bin/true"];
const TITLES = {
  caisson: "caisson, run() in a container",
  caissonSharing: "caisson, run() in a sandbox, sharing an empty network",
  bubblewrap: "bubblewrap",
  floor: "floor, as a loop",
  sharing: "floor, as a loop, sharing an empty network",
  alone: "/bin/true alone",
} as const;
const LOOPS = [
  { title: TITLES.floor, flags: [] },
  { title: TITLES.sharing, flags: ["--share-network"] },
];
const AT_ONCE = 100;
/** Starts of one program in a row, before it is the next one's turn; of those that the floor times, the median counts once. */
const BATCH = 5;
/** What `/usr` alone lacks of a root, where the programs are in `/usr`. */
const LINKS = ["bin", "sbin", "lib", "lib64"].map((name) => ({ target: `usr/${name}`, path: `/${name}` }));
/** From nothing to a whole container, one part more at a time. The first does without any: two processes, of which one waits. */
const PARTS = "none user mount root dev pid proc ipc uts cgroup network loopback".split(" ");

/** A way to start the container. */
interface Runner {
  readonly title: string;
  /** Runs it once, and returns the exit code. */
  run(): Promise<number | null>;
  /** Where it is a command. Each run has an argv of its own, as some give names to containers. */
  argv?(): readonly string[];
}

const files = () => [bind("/usr"), ...LINKS.map(({ target, path }) => symlink(path, target)), proc(), dev()];
const quiet = { stdout: "ignore", stderr: "ignore" } as const;

/** The same container as the others make. */
function caisson(): Runner {
  const container = { files: files() };
  return { title: TITLES.caisson, run: async () => (await run(TRUE, { container, ...quiet })).exitCode };
}

/** What `run()` does without further words: no more than the program needs is there, and Landlock and a filter are around it. */
function caissonSharing(): Runner {
  return { title: TITLES.caissonSharing, run: async () => (await run(TRUE, quiet)).exitCode };
}

function command(title: string, argv: () => readonly string[]): Runner {
  const run = () => Bun.spawn([...argv()], { env: {}, stdio: ["ignore", "ignore", "ignore"] }).exited;
  return { title, run, argv };
}

/** The path of a program. Some live where only root's PATH goes. */
function program(name: string, from = name): string {
  const path = Bun.which(name, { PATH: `${process.env.PATH}:/usr/sbin:/sbin` });
  if (path === null) throw new Error(`Cannot find ${name}: install the package ${from}`);
  return path;
}

function bubblewrap(): Runner {
  const links = LINKS.flatMap(({ target, path }) => ["--symlink", target, path]);
  const root = ["--proc", "/proc", "--dev", "/dev", "--ro-bind", "/usr", "/usr", ...links];
  const argv = [program("bwrap", "bubblewrap"), "--unshare-all", ...root, ...TRUE];
  return command(TITLES.bubblewrap, () => argv);
}

function unshare(): Runner {
  const namespaces = [
    "--user",
    "--map-current-user",
    "--mount",
    "--pid",
    "--fork",
    "--net",
    "--ipc",
    "--uts",
    "--cgroup",
  ];
  const argv = [program("unshare", "util-linux"), ...namespaces, "--mount-proc", ...TRUE];
  return command("unshare, which makes no root and no dev", () => argv);
}

/** crun or runc, without cgroups: those of the others have none either. */
function engine(name: string, options: readonly string[], directory: string): Runner {
  const path = program(name);
  const bundle = join(directory, name);
  makeBundle(bundle);
  let count = 0;
  return command(name, () => [
    ...[path, "--root", join(bundle, "state"), ...options],
    ...["run", "--bundle", bundle, `caisson-${process.pid}-${count++}`],
  ]);
}

/** The same container as the others make, in the words of the OCI, but the user is 0 inside: runc wants it so. */
function makeBundle(directory: string): void {
  for (const name of ["usr", "proc", "dev"]) mkdirSync(join(directory, "root", name), { recursive: true });
  for (const { target, path } of LINKS) symlinkSync(target, join(directory, "root", path));
  const [uid, gid] = [process.geteuid!(), process.getegid!()];
  const mount = (destination: string, type: string, source: string, options: readonly string[]) => ({
    destination,
    type,
    source,
    options,
  });
  const config = {
    ociVersion: "1.0.2",
    process: { user: { uid: 0, gid: 0 }, args: TRUE, cwd: "/", noNewPrivileges: true, capabilities: {} },
    root: { path: "root" },
    mounts: [
      mount("/usr", "none", "/usr", ["rbind", "ro", "nosuid", "nodev"]),
      mount("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
      mount("/dev", "tmpfs", "tmpfs", ["nosuid", "mode=755"]),
      mount("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
      mount("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev"]),
    ],
    linux: {
      namespaces: ["user", "mount", "pid", "network", "ipc", "uts", "cgroup"].map((type) => ({ type })),
      uidMappings: [{ containerID: 0, hostID: uid, size: 1 }],
      gidMappings: [{ containerID: 0, hostID: gid, size: 1 }],
    },
  };
  writeFileSync(join(directory, "config.json"), JSON.stringify(config));
}

/** The floor, where it can be compiled. */
function compiled(): Floor | undefined {
  try {
    return new Floor();
  } catch (error) {
    leaveOut(error);
    return undefined;
  }
}

function leaveOut(error: unknown): void {
  console.log(`left out: ${error instanceof Error ? error.message : error}`);
}

/** Those that run here. Of the others it prints why they are left out. */
async function present(makers: readonly (() => Runner | Promise<Runner>)[]): Promise<Runner[]> {
  const runners: Runner[] = [];
  for (const maker of makers) {
    try {
      const runner = await maker();
      await runOnce(runner);
      runners.push(runner);
    } catch (error) {
      leaveOut(error);
    }
  }
  console.log();
  return runners;
}

/** Runs it where it may say what is wrong. */
async function runOnce({ title, run, argv }: Runner): Promise<void> {
  if (argv === undefined) {
    const code = await run();
    if (code !== 0) throw new Error(`Cannot run ${title}: it ended with ${code}`);
    return;
  }
  const child = Bun.spawn([...argv()], { env: {}, stdio: ["ignore", "ignore", "pipe"] });
  const [error, code] = await Promise.all([child.stderr.text(), child.exited]);
  if (code !== 0) throw new Error(`Cannot run ${title}: it ended with ${code}: ${error.trim()}`);
}

const row = (sample: Sample) => [
  sample.title,
  ...[median(sample), quantile(sample, 0), quantile(sample, 0.9)].map(digits),
];

/** From Bun, in turns; and from C by the floor, where nothing is counted but the command itself. */
async function race(runners: readonly Runner[], floor: Floor | undefined): Promise<void> {
  const fromBun: Contest[] = runners.map(({ title, run }) => ({
    title,
    async run() {
      const code = await run();
      if (code !== 0) throw new Error(`Cannot go on: ${title} ended with ${code}`);
    },
  }));
  const samples = await compare([...fromBun, ...(floor ? inC(runners, floor) : [])], {
    rounds: 20,
    runs: BATCH,
    warm: 2,
  });
  const first = samples.slice(0, fromBun.length + (floor ? LOOPS.length : 0));
  print("start to exit, from Bun, ms", first);
  if (floor) print("start to exit, from C, ms", samples.slice(first.length));
  printRatio(TITLES.caisson, TITLES.bubblewrap, { aim: 1 / 2, samples: first });
  printRatio(TITLES.caisson, TITLES.floor, { aim: 1.3, samples: first });
  printRatio(TITLES.caissonSharing, TITLES.bubblewrap, { aim: 1 / 3, samples: first });
  printRatio(TITLES.caissonSharing, TITLES.sharing, { aim: 1.3, samples: first });
  printRatio(TITLES.floor, TITLES.bubblewrap, { samples: first });
  printRatio(TITLES.sharing, TITLES.bubblewrap, { samples: first });
  console.log();
}

/** What the floor times by itself: its own containers, as a library would start them, and the commands. */
function inC(runners: readonly Runner[], floor: Floor): Contest[] {
  const loops = LOOPS.map(({ title, flags }) => ({ title, run: () => floor.median(...flags, "--repeat", `${BATCH}`) }));
  const commands = runners.flatMap(({ title, argv }) =>
    argv === undefined ? [] : [{ title, run: () => floor.median("--spawn", `${BATCH}`, ...argv()) }],
  );
  return [...loops, ...commands];
}

function print(title: string, samples: readonly Sample[]): void {
  console.log(`${table([[title, "median", "min", "p90"], ...samples.map(row)])}\n`);
}

/** Prints nothing where one of them was left out. */
function printRatio(
  one: string,
  other: string,
  { aim, samples }: { readonly aim?: number; readonly samples: readonly Sample[] },
): void {
  const [ours, theirs] = [one, other].map((title) => samples.find((sample) => sample.title === title));
  if (ours === undefined || theirs === undefined) return;
  const [medians, minima] = [median(ours) / median(theirs), quantile(ours, 0) / quantile(theirs, 0)].map(digits);
  const limit = aim === undefined ? "" : ` (aim: at most ${digits(aim)})`;
  console.log(`ratio of ${one} to ${other}: ${medians} of medians, ${minima} of minima${limit}`);
}

/** What each part adds, by adding one after the other. */
async function parts(floor: Floor): Promise<void> {
  const samples = await compare(
    PARTS.map((title, index) => ({
      title,
      run: () => floor.median("--repeat", `${BATCH}`, "--parts", PARTS.slice(index && 1, index + 1).join(",")),
      figure: (milliseconds: number) => milliseconds * 1e3,
    })),
    { rounds: 60, warm: 3 },
  );
  const least = (sample: Sample) => quantile(sample, 0);
  const rows = samples.map((sample, index) => {
    const before = samples[index - 1];
    const added = (of: typeof least) => (before === undefined ? "" : digits(of(sample) - of(before)));
    const title = before === undefined ? "no namespace" : `+ ${sample.title}`;
    return [title, digits(median(sample)), added(median), digits(least(sample)), added(least)];
  });
  console.log(`${table([["the floor by part, µs", "median", "added", "min", "added"], ...rows])}\n`);
}

/** Many at once: the time until the last has ended, and how many did not end well. */
async function crowd(runners: readonly Runner[]): Promise<void> {
  const failures = runners.map(() => 0);
  const samples = await compare(
    runners.map(({ title, run }, index) => ({
      title,
      async run() {
        const codes = await Promise.allSettled(Array.from({ length: AT_ONCE }, run));
        failures[index]! += codes.filter((code) => code.status === "rejected" || code.value !== 0).length;
      },
    })),
    { rounds: 3, warm: 0 },
  );
  const rows = samples.map((sample, index) => [...row(sample).slice(0, 3), `${failures[index]}`]);
  console.log(table([[`${AT_ONCE} at once, ms`, "median", "min", "failures"], ...rows]));
}

const directory = mkdtempSync(join(tmpdir(), "caisson-bundles-"));
try {
  using floor = compiled();
  const runners = await present([
    caisson,
    caissonSharing,
    ...(floor ? [() => command("floor, as a command", () => [floor.path])] : []),
    bubblewrap,
    () => engine("crun", ["--cgroup-manager=disabled"], directory),
    () => engine("runc", ["--rootless", "true"], directory),
    unshare,
    () => command(TITLES.alone, () => TRUE),
  ]);
  await race(runners, floor);
  if (floor) await parts(floor);
  await crowd(runners.filter(({ title }) => title !== TITLES.alone));
} finally {
  rmSync(directory, { recursive: true, force: true });
}
