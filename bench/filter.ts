/** What does a filter cost a call? Ours beside libseccomp's, as a list and as a tree, and beside the same rules laid out as a list. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { filtersOf } from "../platform/linux/filters.ts";
import { assemble, encode } from "../platform/linux/seccomp/bpf.ts";
import { type Filter, normalized } from "../platform/linux/seccomp/filter.ts";
import { compile, fromOci, toOci } from "../platform/linux/seccomp/index.ts";
import { ARCH, DATA, type Decision, treeOf } from "../platform/linux/seccomp/tree.ts";
import { policyOf } from "../src/sandbox.ts";
import { IOCTL, MACHINE, NUMBERS, PR } from "../syscalls/linux/numbers.ts";
import { interpret } from "../tests/platform/interpreter.ts";
import { compiledByLibseccomp, present } from "../tests/platform/seccomp/libseccomp.ts";
import { digits, median, table } from "./measure.ts";

const PROFILE = process.env.CAISSON_CONTAINERS_PROFILE ?? "/usr/share/containers/seccomp.json";
/** So few in a row that they are rarely interrupted. */
const COUNT = 1000;
const ROUNDS = 20;
const PLACINGS = 10;
const OURS = "caisson";

/** All on one core, so that none has a better one. */
const PLACE = Bun.which("taskset") === null ? [] : ["taskset", "-c", "0"];

/** Each is answered at once, whether it is made or refused: by arguments that nothing can be done with. */
const CALLS = [
  { title: "read", args: [-1] },
  { title: "futex", args: [-1, 1] },
  { title: "mmap", args: [0, 0, 3, 0x22, -1, 0] },
  { title: "mprotect", args: [0, 0, 3] },
  { title: "madvise", args: [0, 0, 4] },
  { title: "openat", args: [-1, -1, 0, 0] },
  { title: "fcntl", args: [-1, 1] },
  { title: "ioctl", args: [-1, IOCTL.TCGETS] },
  { title: "prctl", args: [PR.GET_NAME, -1] },
  { title: "clone", args: [0x10000] },
  { title: "personality", args: [0xffffffff] },
  { title: "mount", args: [-1, -1, -1] },
  { title: "io_uring_setup", args: [1, -1] },
] as const;

interface Layout {
  readonly title: string;
  readonly program: Uint8Array;
}

/** The same tests of arguments, but each number is asked for in turn, in the order of the rules. */
function listed(filter: Filter): Uint8Array {
  const { root, calls } = treeOf(normalized(filter));
  if ("result" in root) throw new Error("Cannot lay out a filter that asks for nothing");
  const bare = treeOf(normalized({ ...filter, rules: [] })).root;
  if ("result" in bare) throw new Error("Cannot lay out a filter that asks for nothing");
  let next: Decision = bare.yes; // x32's numbers, then the default
  let id = Math.max(root.id, bare.id) + 1;
  const ask = (word: number, value: number, yes: Decision): Decision => {
    return { id: id++, word, mask: 0xffffffff, op: "eq", value, yes, no: next };
  };
  for (const [number, decision] of [...calls].toReversed()) next = ask(DATA.nr, number, decision);
  const no = bare.no;
  return encode(
    assemble({ id, word: DATA.arch, mask: 0xffffffff, op: "eq", value: ARCH[filter.machine], yes: next, no }),
  );
}

function layoutsOf(filter: Filter): Layout[] {
  const layouts: Layout[] = [{ title: OURS, program: compile(filter) }];
  if (present) {
    // In the form that libseccomp takes: of the rules for one call no two hold at once.
    const parted = fromOci(toOci(filter), { machine: filter.machine });
    layouts.push(
      { title: "libseccomp", program: compiledByLibseccomp(parted) },
      { title: "libseccomp, tree", program: compiledByLibseccomp(parted, true) },
    );
  }
  return [...layouts, { title: "the rules as a list", program: listed(filter) }];
}

/** Instructions that run for each call. Throws where the layouts do not agree on what becomes of it. */
function countSteps(policy: string, layouts: readonly Layout[]): void {
  const rows = CALLS.map(({ title, args }) => {
    const words = args.map((arg) => BigInt.asUintN(64, BigInt(arg)));
    const call = { nr: NUMBERS[MACHINE][title], arch: ARCH[MACHINE], args: words };
    const outcomes = layouts.map(({ program }) => interpret(program, call));
    const results = new Set(outcomes.map(({ result }) => result));
    if (results.size > 1)
      throw new Error(`Cannot compare: ${policy} answers ${[...results].join(" and ")} to ${title}`);
    return [title, ...outcomes.map(({ steps }) => steps)] as const;
  });
  const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
  const together = layouts.map((_, index) => sum(rows.map((row) => row[index + 1] as number)));
  const sizes = ["the program's length", ...layouts.map(({ program }) => program.length / 8)] as const;
  const titles = layouts.map(({ title }) => title);
  const cells = [...rows, ["together", ...together], sizes].map((row) => row.map(String));
  console.log(table([[`${policy}: instructions that run`, ...titles], ...cells]));
  const [ours, ...others] = together as [number, ...number[]];
  console.log(`together, ratio to the best of the others: ${digits(Math.min(...others) / ours)} (aim: above 1)\n`);
}

/** A process under a filter that makes calls for us. */
class Caller implements Disposable {
  readonly #child;
  readonly #lines;

  constructor(path: string, program: string) {
    this.#child = Bun.spawn([...PLACE, path, program], { stdin: "pipe", stdout: "pipe", stderr: "inherit" });
    this.#lines = this.#child.stdout.getReader();
  }

  /** Nanoseconds that the call takes. */
  async time(number: number, args: readonly number[]): Promise<number> {
    const words = [number, ...Array.from({ length: 6 }, (_, index) => args[index] ?? 0), COUNT];
    this.#child.stdin.write(`${words.join(" ")}\n`);
    this.#child.stdin.flush();
    const { value } = await this.#lines.read();
    if (value === undefined) throw new Error(`Cannot time call ${number}: the process ended`);
    return Number(new TextDecoder().decode(value));
  }

  [Symbol.dispose](): void {
    this.#child.stdin.end();
  }
}

const middle = (values: readonly number[]) => median({ title: "", values: values.toSorted((a, b) => a - b) });

/**
 * Nanoseconds that a filter adds to each call. Where the kernel puts a program in memory counts as well, so that each is put there several
 * times.
 */
async function time(policy: string, layouts: readonly Layout[], directory: string): Promise<void> {
  const files = ["-", ...layouts.map((_, index) => join(directory, `${index}`))];
  for (const [index, { program }] of layouts.entries()) writeFileSync(files[index + 1]!, program);
  const figures = CALLS.map(() => files.map((): number[] => []));
  for (let placing = 0; placing < PLACINGS; placing++) {
    using stack = new DisposableStack();
    const callers = files.map((file) => stack.use(new Caller(join(directory, "filter"), file)));
    for (const [index, { title, args }] of CALLS.entries()) {
      for (let round = 0; round < ROUNDS; round++) {
        let without = 0;
        for (const [which, caller] of callers.entries()) {
          const taken = await caller.time(NUMBERS[MACHINE][title], args);
          // What else the machine does lasts longer than a round, so it is in both and not in the difference.
          figures[index]![which]!.push(taken - without);
          if (which === 0) without = taken;
        }
      }
    }
  }
  const rows = CALLS.map(({ title }, index) => [title, ...figures[index]!.map((values) => digits(middle(values)))]);
  const titles = layouts.map(({ title }) => title);
  console.log(`${table([[`${policy}: ns added`, "without", ...titles], ...rows])}\n`);
}

const REMEMBERED =
  "Since Linux 5.11 the kernel remembers which numbers a filter allows whatever the arguments, and does not run it for those: " +
  "there every layout adds the same, which is the way into seccomp itself. What is refused is faster than without a filter.";

function policies(): { readonly title: string; readonly filter: Filter }[] {
  const inside = { pid: process.pid, ownRoot: true };
  const granted = { read: ["/usr"], write: [tmpdir()] };
  const [actor] = filtersOf(policyOf(granted), "actor", MACHINE, inside);
  const [program] = filtersOf(
    policyOf({ ...granted, net: ["example.com:443"] }, "program"),
    "program",
    MACHINE,
    inside,
  );
  const own = [
    { title: "actor", filter: actor! },
    { title: "program", filter: program! },
  ];
  if (!existsSync(PROFILE)) {
    console.log(`containers' profile: left out, ${PROFILE} is not there (Debian: golang-github-containers-common)\n`);
    return own;
  }
  const profile = fromOci(readFileSync(PROFILE, "utf8"), { machine: MACHINE });
  return [...own, { title: "containers' profile", filter: profile }];
}

function compileCaller(directory: string): boolean {
  const source = new URL("filter.c", import.meta.url).pathname;
  const flags = ["-O2", "-Wall", "-Wextra", "-o", join(directory, "filter")];
  const done = Bun.which("cc") === null ? undefined : Bun.spawnSync(["cc", ...flags, source], { stderr: "inherit" });
  if (done?.exitCode !== 0) console.log("times: left out, there is no cc that compiles filter.c; install gcc");
  return done?.exitCode === 0;
}

if (!present) console.log("libseccomp: left out, it is not installed (Debian: libseccomp2)\n");
const directory = mkdtempSync(join(tmpdir(), "caisson-filter-"));
try {
  const timed = compileCaller(directory);
  for (const { title, filter } of policies()) {
    const layouts = layoutsOf(filter);
    countSteps(title, layouts);
    if (timed) await time(title, layouts, directory);
  }
  console.log(REMEMBERED);
} finally {
  rmSync(directory, { recursive: true, force: true });
}
