/** What processes used so far, as /proc tells it. `proc_pid_stat(5)`, `proc_pid_status(5)`, `proc_pid_io(5)` */
import { readdirSync, readFileSync } from "node:fs";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { sharesMemory } from "../../syscalls/linux/process.ts";
import type { Counters } from "../platform.ts";
import type { Counts } from "./cgroup/counts.ts";
import { finish } from "./leisure.ts";

/** How often a second the kernel counts for what users read, whatever its own clock does: USER_HZ. */
const TICKS = 100;

/** A process, and the children that it has waited for. */
export interface Stat {
  readonly parent: number;
  readonly threads: number;
  readonly minorFaults: number;
  readonly majorFaults: number;
  readonly userMicroseconds: number;
  readonly systemMicroseconds: number;
  /** Its own time, without those children. */
  readonly ownMicroseconds: number;
  /** When it began, in ticks: that and its number name it for good. */
  readonly startTicks: number;
}

/** Reads `stat`. The name in it is the process's own word, and can have spaces, parentheses and ends of lines in it. */
export function parseStat(text: string): Stat {
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  // proc_pid_stat(5) numbers them from 1; two stand before.
  const field = (number: number) => Number(fields[number - 3]);
  const microseconds = (ticks: number) => (ticks * 1e6) / TICKS;
  return {
    parent: field(4),
    threads: field(20),
    minorFaults: field(10) + field(11),
    majorFaults: field(12) + field(13),
    userMicroseconds: microseconds(field(14) + field(16)),
    systemMicroseconds: microseconds(field(15) + field(17)),
    ownMicroseconds: microseconds(field(14) + field(15)),
    startTicks: field(22),
  };
}

/** A process, or one of its threads; the switches are those of one thread. */
export interface Status {
  /** Resident, with the tables for it and for what is not. */
  readonly memoryKib: number;
  readonly tablesKib: number;
  readonly peakKib: number;
  readonly threads: number;
  readonly voluntarySwitches: number;
  readonly involuntarySwitches: number;
  /** Its process ids: that of this proc's namespace first, its own innermost last. */
  readonly pids: readonly number[];
}

/** Reads `status`. Who has ended and is not reaped has no memory any more: nor has a process whose first thread has, by what that says. */
export function parseStatus(text: string): Status {
  // In here the kernel escapes the ends of lines in names.
  const value = (name: string) => {
    const at = text.indexOf(`\n${name}:\t`); // the name is the first line
    return at < 0 ? "" : text.slice(at + name.length + 3, text.indexOf("\n", at + 1));
  };
  const number = (name: string) => Number.parseInt(value(name) || "0", 10);
  return {
    // Tables of pages are memory too: a program that touches one page here and there has more of them than of pages.
    memoryKib: number("VmRSS") + number("VmPTE"),
    tablesKib: number("VmPTE"),
    peakKib: number("VmHWM") + number("VmPTE"),
    threads: number("Threads"),
    voluntarySwitches: number("voluntary_ctxt_switches"),
    involuntarySwitches: number("nonvoluntary_ctxt_switches"),
    pids: value("NSpid").split("\t").map(Number),
  };
}

/** Reads `io`: storage, of a process and the children that it has waited for. */
export function parseIo(text: string): { readonly readBytes: number; readonly writtenBytes: number } {
  const number = (name: string) => Number(new RegExp(`^${name}: (\\d+)$`, "m").exec(text)?.[1]);
  return { readBytes: number("read_bytes"), writtenBytes: number("write_bytes") };
}

/**
 * What one process used, with the children that it has waited for. Undefined where there is no such process any more; throws where nothing can be
 * opened just now, as all do that read here.
 */
export function countersOf(pid: number): Counters | undefined {
  const stat = statOf(pid);
  return stat && finish(lookAtCounters(pid, stat));
}

function statOf(pid: number): Stat | undefined {
  const text = contentOf(`/proc/${pid}/stat`);
  return text === undefined ? undefined : parseStat(text);
}

/** How a process is looked at. */
interface Look {
  /** Whether what it read and wrote is looked up, too. */
  readonly storage?: boolean;
  /** Whether time is up: what a look has not come to by then is left out. */
  readonly late?: () => boolean;
}

/** What one process used, looking at one of its threads in each step. */
function* lookAtCounters(
  pid: number,
  stat: Stat,
  { storage = true, late = never }: Look = {},
): Generator<void, Counters | undefined> {
  const status = contentOf(`/proc/${pid}/status`);
  if (status === undefined) return undefined;
  const main = parseStatus(status);
  const io = storage ? contentOf(`/proc/${pid}/io`) : undefined;
  const each = [main];
  for (const tid of main.threads > 1 ? threadsOf(pid) : []) {
    if (tid === `${pid}`) continue;
    if (late()) break;
    yield;
    const text = contentOf(`/proc/${pid}/task/${tid}/status`);
    if (text !== undefined) each.push(parseStatus(text));
  }
  const { minorFaults, majorFaults, userMicroseconds, systemMicroseconds } = stat;
  const { memoryKib, peakKib } = each.find(hasMemory) ?? main;
  return {
    cpuMicroseconds: userMicroseconds + systemMicroseconds,
    userMicroseconds,
    systemMicroseconds,
    memoryKib,
    peakKib,
    minorFaults,
    majorFaults,
    voluntarySwitches: sum(each, "voluntarySwitches"),
    involuntarySwitches: sum(each, "involuntarySwitches"),
    ...(io === undefined ? {} : parseIo(io)),
    processes: main.threads,
  };
}

const never = () => false;

const hasMemory = ({ memoryKib }: Status) => memoryKib > 0;

/**
 * A thread of a process that has memory still, and what it says. Undefined where there is none; and where that memory is its parent's, as it is of a child
 * of `vfork` until it executes something.
 * @param parent such a thread of the parent: without memory they would be the same
 */
function livingThreadOf(pid: number, parent?: string): Living | undefined {
  const living = threadWithMemory(pid);
  if (living === undefined || parent === undefined) return living;
  // It may have executed something since it was looked at.
  return isIn(Number(parent), Number(living.tid)) ? undefined : threadWithMemory(pid);
}

type Living = Status & { readonly tid: string };

function threadWithMemory(pid: number): Living | undefined {
  const text = contentOf(`/proc/${pid}/status`);
  if (text === undefined) return undefined;
  const main = parseStatus(text);
  if (hasMemory(main)) return { ...main, tid: `${pid}` };
  for (const tid of main.threads > 1 ? threadsOf(pid) : []) {
    const status = parseStatus(contentOf(`/proc/${pid}/task/${tid}/status`) ?? "");
    if (hasMemory(status)) return { ...status, tid };
  }
}

/** So many processes are looked at beside the first one: each takes some 50 µs. */
export const MOST_LOOKED_AT = 1024;

/** Looks at a process and at all beneath it, one or one of its threads in each step: parents before their children. Undefined where it is not there. */
function* walk<Seen>(
  pid: number,
  look: (pid: number, stat: Stat, late: () => boolean) => Generator<void, Seen | undefined>,
  { childrenOf, mostMs = Number.POSITIVE_INFINITY }: Pick<TreeLook, "childrenOf" | "mostMs"> = {},
): Generator<void, Seen[] | undefined> {
  const began = performance.now();
  const late = () => performance.now() - began > mostMs;
  const all: Seen[] = [];
  // What is added to a set while it is walked is walked as well.
  const family = new Set([pid]);
  for (const each of family) {
    if (all.length > MOST_LOOKED_AT || (all.length > 0 && late())) break;
    if (all.length > 0) yield;
    const stat = statOf(each);
    // Its number may be somebody else's by now, whose parent is elsewhere. Who lost theirs has the first one, or one in between.
    const isOurs = stat !== undefined && (each === pid || family.has(stat.parent));
    const seen = isOurs ? yield* look(each, stat, late) : undefined;
    if (seen !== undefined) {
      all.push(seen);
      const children = childrenOf === undefined ? yield* lookAtChildren(each, stat, late) : childrenOf(each, stat);
      for (const child of children) family.add(child);
    } else if (each === pid) return undefined;
  }
  return all;
}

/** How a tree is looked at. */
export interface TreeLook {
  readonly childrenOf?: ChildrenOf;
  /** Is told of each process. */
  readonly tally?: Tally;
  /** For how long, where a part is better than to wait: what of the tree it has not come to by then is left out. */
  readonly mostMs?: number;
}

/**
 * What a process and all beneath it used, looking at one of them, or of their threads, in each step. Processes come and go meanwhile: one that ends
 * between two looks may count nowhere this time, and never twice, for parents are looked at before their children.
 */
export function* lookAtTree(pid: number, how: TreeLook = {}): Generator<void, Counters | undefined> {
  const { tally, mostMs } = how;
  let storage = true;
  const look = function* (each: number, stat: Stat, late: () => boolean) {
    const counters = yield* lookAtCounters(each, stat, { storage, late });
    if (counters === undefined) return;
    tally?.see(each, stat);
    storage = counters.readBytes !== undefined; // where one does not tell, there is no sum
    return counters;
  };
  const all = yield* walk(pid, look, how);
  if (mostMs === undefined) tally?.settle();
  return all && sumOf(all, tally?.total());
}

function sumOf(all: readonly Counters[], tallied = 0): Counters {
  const readBytes = total(all, "readBytes");
  const writtenBytes = total(all, "writtenBytes");
  return {
    cpuMicroseconds: Math.max(sum(all, "cpuMicroseconds"), tallied),
    userMicroseconds: sum(all, "userMicroseconds"),
    systemMicroseconds: sum(all, "systemMicroseconds"),
    memoryKib: sum(all, "memoryKib"),
    peakKib: Math.max(...all.map(({ peakKib }) => peakKib)),
    minorFaults: sum(all, "minorFaults"),
    majorFaults: sum(all, "majorFaults"),
    voluntarySwitches: sum(all, "voluntarySwitches"),
    involuntarySwitches: sum(all, "involuntarySwitches"),
    ...(readBytes === undefined ? {} : { readBytes }),
    ...(writtenBytes === undefined ? {} : { writtenBytes }),
    processes: sum(all, "processes"),
  };
}

/** The same in one go. */
export const countersOfTree = (pid: number, how?: TreeLook): Counters | undefined => finish(lookAtTree(pid, how));

/**
 * How much is walked through to count each page once, in parts of what is enough: that takes the kernel 30 ms for a GiB and more, and this process waits.
 * One program of several that share all they may have stays far below that.
 */
const RESIDENT_OF_ONE = 2;
const RESIDENT_OF_ALL = 32;
/** Tables are walked through as well, with what was only read and is nowhere. */
const TABLES_OF_ONE = 1 / 64;
const USUAL_TABLES_KIB = 1024;

/**
 * What a process and all beneath it hold of memory, in KiB, each page counted once: `Pss`, looking at one of them in each step. Takes far longer than
 * to read what is resident. Undefined where there is no such process. Of who cannot be looked into all that is resident counts, with each mapping of a
 * page; and of who would take long: one that has a file mapped over and over, say.
 * @param enough behind which it does not look further
 */
export function* lookAtShares(pid: number, enough: number): Generator<void, number | undefined> {
  let amount = 0;
  let walkedKib = 0;
  const counted = new Map<number, string>();
  // biome-ignore lint/correctness/useYield: it takes one step
  const look = function* (each: number, { parent }: Stat) {
    if (amount >= enough) return;
    const living = livingThreadOf(each, counted.get(parent));
    if (living === undefined) return true;
    counted.set(each, living.tid);
    const { memoryKib, tablesKib } = living;
    const isWalked =
      memoryKib <= RESIDENT_OF_ONE * enough &&
      walkedKib + memoryKib <= RESIDENT_OF_ALL * enough &&
      tablesKib <= Math.max(TABLES_OF_ONE * enough, USUAL_TABLES_KIB);
    const rollup = isWalked ? contentOf(`/proc/${living.tid}/smaps_rollup`) : undefined;
    if (isWalked) walkedKib += memoryKib;
    amount += rollup === undefined ? memoryKib : tablesKib + Number(/^Pss: +(\d+) kB$/m.exec(rollup)?.[1] ?? 0);
    return true;
  };
  return (yield* walk(pid, look)) && amount;
}

/** Whether one thread is in the memory of another. Of who cannot be asked about, or where the kernel has no CONFIG_KCMP, nobody knows. */
function isIn(one: number, another: number): boolean {
  try {
    return sharesMemory(self, one, another);
  } catch (error) {
    if (error instanceof SystemError) return false;
    throw error;
  }
}

/** The children of a process, by all of its threads; `stat` saves to look for those. */
export type ChildrenOf = (pid: number, stat?: Stat) => readonly number[];

/** `proc_tid_children(5)`, where the kernel has it: CONFIG_PROC_CHILDREN. */
export const readChildren: ChildrenOf = (pid, stat) => finish(lookAtChildren(pid, stat));

/** The same, looking at one thread in each step. */
function* lookAtChildren(pid: number, stat?: Stat, late = never): Generator<void, readonly number[]> {
  const threads = stat?.threads === 1 ? [`${pid}`] : threadsOf(pid);
  const children: (string | undefined)[] = [];
  for (const tid of threads) {
    if (children.length > 0) {
      if (late()) break;
      yield;
    }
    children.push(contentOf(`/proc/${pid}/task/${tid}/children`));
  }
  // Meanwhile its number may have become another's, whose children are none of ours.
  if (stat !== undefined && children.length > 1 && statOf(pid)?.startTicks !== stat.startTicks) return [];
  if (
    children.length > 0 &&
    children.every((each) => each === undefined) &&
    contentOf("/proc/thread-self/children") === undefined
  )
    return searchChildren(pid);
  return children.flatMap((text) => text?.split(" ").filter(Boolean).map(Number) ?? []);
}

/** The same by asking every process for its parent. */
export const searchChildren: ChildrenOf = (pid) =>
  entriesOf("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => statOf(Number(name))?.parent === pid)
    .map(Number);

/**
 * The time of processes by themselves, those included that have ended. Of who ended and was waited for, the parent has the time; of children that
 * nobody waits for, as `SIGCHLD` ignored has it, nobody does: they count as they were seen last.
 */
export class Tally {
  readonly #seen = new Map<number, Stat>();
  /** Who was seen since it was settled. */
  readonly #here = new Set<number>();
  #gone = 0;

  see(pid: number, stat: Stat): void {
    const before = this.#seen.get(pid);
    if (before !== undefined && before.startTicks !== stat.startTicks) this.#gone += before.ownMicroseconds;
    this.#seen.set(pid, stat);
    this.#here.add(pid);
  }

  /** Asks for those who were not seen any more, and remembers but the sum of who has ended. */
  settle(): void {
    for (const [pid, { startTicks, ownMicroseconds }] of this.#seen) {
      // Who is only missed in the tree, because it just got another parent, is seen again.
      if (this.#here.has(pid) || statOf(pid)?.startTicks === startTicks) continue;
      this.#seen.delete(pid);
      this.#gone += ownMicroseconds;
    }
    this.#here.clear();
  }

  /** In microseconds. */
  total(): number {
    return this.#seen.values().reduce((amount, { ownMicroseconds }) => amount + ownMicroseconds, this.#gone);
  }
}

/** Counters that never fall, and stay when there are no more. */
export class Rising {
  #last: Counters = NOTHING;

  /** What is known with this look, which found nobody where it is undefined. */
  with(now: Counters | undefined): Counters {
    this.#last = now === undefined ? { ...this.#last, memoryKib: 0, processes: 0 } : risen(this.#last, now);
    return this.#last;
  }
}

/** The same of what `read` gives. Throws what that does. */
export function rising(read: () => Counters | undefined): () => Counters {
  const known = new Rising();
  return () => known.with(read());
}

/** The same where nothing can be opened just now: what was known last. That this process has no descriptor left says nothing about another. */
export function lasting(read: () => Counters): () => Counters {
  let last: Counters = NOTHING;
  return () => {
    try {
      last = read();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === undefined) throw error;
    }
    return last;
  };
}

/** What is known by two looks. Who ended between them can be missing in the later one: for a moment, or for good where nobody waited for it. */
export function risen(before: Counters, now: Counters): Counters {
  const higher = Object.entries(now).map(([name, value]) => [
    name,
    typeof value !== "number" || FALLING.has(name)
      ? value
      : Math.max(value, Number(before[name as keyof Counters] ?? 0)),
  ]);
  const all: Counters = { ...before, ...Object.fromEntries(higher) };
  return { ...all, cpuMicroseconds: Math.max(all.cpuMicroseconds, all.userMicroseconds + all.systemMicroseconds) };
}

const FALLING: ReadonlySet<string> = new Set<keyof Counters>(["memoryKib", "processes"]);

const NOTHING: Counters = {
  cpuMicroseconds: 0,
  userMicroseconds: 0,
  systemMicroseconds: 0,
  memoryKib: 0,
  peakKib: 0,
  minorFaults: 0,
  majorFaults: 0,
  voluntarySwitches: 0,
  involuntarySwitches: 0,
  processes: 0,
};

/** With what a control group counts, which knows of those too whom nobody waited for. */
export function grouped(counters: Counters, counts: Counts): Counters {
  const { cpuMicroseconds = 0, memory, memoryPeak, processes, processesRefused, readBytes, writtenBytes } = counts;
  const { stalls } = counts;
  return {
    ...(readBytes === undefined ? {} : { readBytes }),
    ...(writtenBytes === undefined ? {} : { writtenBytes }),
    ...counters,
    cpuMicroseconds: Math.max(counters.cpuMicroseconds, cpuMicroseconds),
    ...(memory === undefined ? {} : { memoryKib: memory / 1024 }),
    ...(memoryPeak === undefined ? {} : { peakKib: memoryPeak / 1024 }),
    ...(processes === undefined ? {} : { processes }),
    ...(processesRefused === undefined ? {} : { refusedProcesses: processesRefused }),
    ...(stalls === undefined ? {} : { stalls }),
  };
}

/** The child of a process that it knows by a number of its own namespace, by the number here. */
export function childByInnerPid(parent: number, inner: number): number | undefined {
  const pidsOf = (pid: number) => parseStatus(contentOf(`/proc/${pid}/status`) ?? "").pids;
  const depth = pidsOf(parent).length - 1;
  return readChildren(parent).find((pid) => pidsOf(pid)[depth] === inner);
}

function sum<Name extends string>(all: readonly Readonly<Record<Name, number>>[], name: Name): number {
  return all.reduce((amount, each) => amount + each[name], 0);
}

/** Undefined where one of them does not tell: a part would look like the whole. */
function total(all: readonly Counters[], name: "readBytes" | "writtenBytes"): number | undefined {
  return all.reduce<number | undefined>((amount, { [name]: each }) => {
    return amount === undefined || each === undefined ? undefined : amount + each;
  }, 0);
}

const threadsOf = (pid: number) => entriesOf(`/proc/${pid}/task`);

/** None where it has ended meanwhile. */
function entriesOf(directory: string): string[] {
  return unlessGone(() => readdirSync(directory)) ?? [];
}

/** Undefined where it has ended meanwhile, or is not for this user. Names in it need not be text. */
function contentOf(path: string): string | undefined {
  return unlessGone(() => readFileSync(path, "latin1"));
}

/**
 * `io` and `smaps_rollup` are for those who may trace the process: of a program that is, of its first process not, for an ordinary user. Anything else,
 * as that no descriptor is left, does not mean that nobody is there.
 */
const GONE: ReadonlySet<string | undefined> = new Set(["ENOENT", "ESRCH", "EACCES", "EPERM"]);

function unlessGone<Result>(read: () => Result): Result | undefined {
  try {
    return read();
  } catch (error) {
    if (GONE.has((error as NodeJS.ErrnoException).code)) return undefined;
    throw error;
  }
}
