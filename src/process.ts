/** Programs that run in a container: their streams, and how they end. */
import { constants } from "node:os";
import type { Ended, ProcessPlan, Running } from "../platform/index.ts";
import { Descriptor } from "../syscalls/descriptor.ts";
import { self } from "../syscalls/kernel.ts";
import { allCapabilities, capabilitiesFromText, type Securebit, securebitsOf } from "../syscalls/linux/capability.ts";
import { changeMode, createMemoryFile, fillForGood, makePipe, open } from "../syscalls/linux/file.ts";
import { O, RLIMIT } from "../syscalls/linux/numbers.ts";
import type { IoPriority, Schedule } from "../syscalls/linux/schedule.ts";
import { openPeer, openPty, type WindowSize } from "../syscalls/linux/terminal.ts";
import { type Allowance, spend } from "./allowance.ts";
import { type Exit, exitBy, type LimitName } from "./exit.ts";
import { KILL, type Killer } from "./killer.ts";
import {
  ABORT,
  checkArgument,
  checkOptions,
  DESCRIPTOR,
  DESCRIPTORS,
  ENVIRONMENT,
  either,
  FLAG,
  ID,
  instance,
  type Kinds,
  LIMITS,
  list,
  NICE,
  OBJECT,
  PATH,
  SIGNAL,
  SIGNAL_NUMBER,
  TEXT,
  UMASK,
  WINDOW,
  word,
} from "./option.ts";
import { Pipe } from "./pipe.ts";
import { Pty } from "./pty.ts";
import { type Usage, usageOf } from "./usage.ts";

/** A stream that the program writes: to us, to where ours goes, to nowhere, or to a descriptor of ours. */
export type Outlet = "pipe" | "inherit" | "ignore" | number;
/** What the program reads: from us, what we read, nothing, a descriptor of ours, these bytes, or a stream. */
export type Inlet = Outlet | string | Uint8Array | ReadableStream<Uint8Array>;

/** How a program starts. Paths, ids and numbers are those of the inside. */
export interface ProcessOptions {
  /** Its first argument, by which many programs tell what they are called; the program's name where nothing is said. */
  readonly argv0?: string;
  /** Its program, by a descriptor of ours, instead of the name; no script, whose interpreter would have to open it. */
  readonly program?: number;
  /** Its environment, whole. */
  readonly env?: Readonly<Record<string, string>>;
  /** Where it starts: a path, or a directory by a descriptor of ours. `/` where nothing is said. */
  readonly cwd?: string | number;
  /** `"ignore"` where nothing is said. */
  readonly stdin?: Inlet;
  /** `"pipe"` where nothing is said. */
  readonly stdout?: Outlet;
  readonly stderr?: Outlet;
  /** A terminal of its own instead of the three streams, of this size. */
  readonly terminal?: WindowSize;
  /** More descriptors: the number inside, and ours. */
  readonly descriptors?: Readonly<Record<number, number>>;
  readonly user?: number;
  readonly group?: number;
  readonly groups?: readonly number[];
  /** Capabilities that it keeps, in its container: `"all"` that are to be had there, or a text such as `"cap_net_admin,cap_kill=eip"`. None where nothing is said. */
  readonly capabilities?: string;
  readonly securebits?: readonly Securebit[];
  /** Whether set-user-id programs give it nothing; they do not, where nothing is said. */
  readonly noNewPrivileges?: boolean;
  readonly umask?: number;
  /** A session of its own (where nothing is said), a process group of its own, or neither. */
  readonly session?: "new" | "group" | "keep";
  /** What it is sent when its puppet ends, which is when this process does. `"SIGKILL"` where nothing is said. */
  readonly parentDeathSignal?: NodeJS.Signals;
  readonly nice?: number;
  readonly scheduler?: Schedule;
  readonly affinity?: readonly number[];
  readonly ioPriority?: IoPriority;
  /** Limits as the kernel counts them, each for one process, by their names in getrlimit(2): `{ NOFILE: 64, CPU: 5 }`. */
  readonly rlimits?: Readonly<Partial<Record<keyof typeof RLIMIT, number>>>;
  /** seccomp filters, as arrays of `struct sock_filter`; installed in this order. */
  readonly seccomp?: readonly Uint8Array[];
  /** `false`: the program is the first process of its container itself, and has to reap the others. */
  readonly init?: boolean;
  /** Kills it. */
  readonly signal?: AbortSignal;
}

const STREAM = either(word("pipe", "inherit", "ignore"), DESCRIPTOR);

const SENT = either(SIGNAL_NUMBER, SIGNAL);
const RECEIVER = word("group");

const KINDS: Kinds<Required<ProcessOptions>> = {
  argv0: TEXT,
  program: DESCRIPTOR,
  env: ENVIRONMENT,
  cwd: either(PATH, DESCRIPTOR),
  stdin: either(TEXT, DESCRIPTOR, instance(Uint8Array), instance(ReadableStream)),
  stdout: STREAM,
  stderr: STREAM,
  terminal: WINDOW,
  descriptors: DESCRIPTORS,
  user: ID,
  group: ID,
  groups: list(ID),
  capabilities: TEXT,
  securebits: list(TEXT),
  noNewPrivileges: FLAG,
  umask: UMASK,
  session: word("new", "group", "keep"),
  parentDeathSignal: SIGNAL,
  nice: NICE,
  scheduler: OBJECT,
  affinity: list(DESCRIPTOR),
  ioPriority: OBJECT,
  rlimits: LIMITS,
  seccomp: list(instance(Uint8Array)),
  init: FLAG,
  signal: ABORT,
};

/** Throws a TypeError for what is no program with its arguments, and for an option that there is not or that makes no sense. */
export function checkProcess(argv: readonly string[], options: ProcessOptions): void {
  if (!Array.isArray(argv) || !argv.every((each) => typeof each === "string"))
    throw new TypeError(`Cannot run ${Bun.inspect(argv)}: an array of strings is expected, the program first`);
  checkOptions(options, KINDS);
}

/** A program's plan, and what of the host goes with it. */
export class Launch implements Disposable {
  readonly plan: ProcessPlan;
  /** Our ends of its streams. */
  readonly stdin: Pipe | undefined;
  readonly stdout: Pipe | undefined;
  readonly stderr: Pipe | undefined;
  readonly terminal: Pty | undefined;
  /** What is to be written to its standard input. */
  readonly input: ReadableStream<Uint8Array> | undefined;
  /** Its ends, which are the program's once it has started. */
  readonly #theirs = new DisposableStack();
  readonly #ours = new DisposableStack();

  constructor(argv: readonly string[], options: ProcessOptions) {
    if (argv.length === 0) throw new TypeError("Cannot run nothing: a program is expected");
    const { stdin = "ignore", stdout = "pipe", stderr = "pipe", terminal } = options;
    const descriptors = new Map<number, number>();
    try {
      if (terminal !== undefined) {
        this.terminal = this.#ours.use(new Pty(openPty(self)));
        this.terminal.resize(terminal);
        const peer = this.#theirs.use(new Descriptor(openPeer(self, this.terminal.number))).number;
        for (const number of [0, 1, 2]) descriptors.set(number, peer);
      } else {
        this.stdin = stdin === "pipe" || stdin instanceof ReadableStream ? this.#pipe(descriptors, 0) : undefined;
        if (this.stdin === undefined) descriptors.set(0, this.#inlet(stdin as Exclude<Inlet, ReadableStream>));
        this.stdout = this.#outlet(descriptors, 1, stdout);
        this.stderr = this.#outlet(descriptors, 2, stderr);
        if (stdin instanceof ReadableStream) this.input = stdin;
      }
      for (const [number, ours] of Object.entries(options.descriptors ?? {})) descriptors.set(Number(number), ours);
      this.plan = planOf(argv, options, descriptors);
    } catch (error) {
      this.#theirs.dispose();
      this.#ours.dispose();
      throw error;
    }
  }

  /** Closes the program's ends, which it has copies of; and where it did not start, ours. */
  started(): void {
    this.#theirs.dispose();
    this.#ours.move();
  }

  [Symbol.dispose](): void {
    this.#theirs.dispose();
    this.#ours.dispose();
  }

  #outlet(descriptors: Map<number, number>, number: 1 | 2, outlet: Outlet): Pipe | undefined {
    if (outlet === "pipe") return this.#pipe(descriptors, number);
    descriptors.set(number, outlet === "inherit" ? number : outlet === "ignore" ? this.#nothing() : outlet);
    return undefined;
  }

  #pipe(descriptors: Map<number, number>, number: number): Pipe {
    const { read, write } = makePipe(self);
    changeMode(self, write, 0o666); // both ends: who opens /dev/stdout inside is another user there
    const [theirs, ours] = number === 0 ? [read, write] : [write, read];
    descriptors.set(number, this.#theirs.use(new Descriptor(theirs)).number);
    return this.#ours.use(new Pipe(ours));
  }

  #inlet(inlet: Exclude<Inlet, ReadableStream>): number {
    if (inlet === "ignore") return this.#nothing();
    if (inlet === "inherit") return 0;
    if (typeof inlet === "number") return inlet;
    // A file in memory: nobody has to write while the program reads.
    using file = new Descriptor(createMemoryFile(self, "caisson-input"));
    fillForGood(self, file.number, typeof inlet === "string" ? new TextEncoder().encode(inlet) : inlet);
    const read = open(self, `/proc/self/fd/${file.number}`, O.RDONLY | O.CLOEXEC);
    return this.#theirs.use(new Descriptor(read)).number;
  }

  #nothing(): number {
    return this.#theirs.use(new Descriptor(open(self, "/dev/null", O.RDWR | O.CLOEXEC))).number;
  }
}

/** The most descriptors that a program starts with: they travel in one message, and stand in the puppet beside its own. */
const MOST_DESCRIPTORS = 48;

function planOf(argv: readonly string[], options: ProcessOptions, descriptors: Map<number, number>): ProcessPlan {
  const { cwd = "/", program } = options;
  const limits = Object.entries(options.rlimits ?? {}).map(([name, value]) => {
    if (!Object.hasOwn(RLIMIT, name))
      throw new TypeError(`Cannot limit ${name}: expected one of ${Object.keys(RLIMIT).join(", ")}`);
    return [name, BigInt(value)] as const;
  });
  // What only the start needs is closed by then, and stands where the program asks for nothing.
  const forStart = (descriptor: number) => {
    let number = MOST_DESCRIPTORS;
    while (descriptors.has(number)) number++;
    descriptors.set(number, descriptor);
    return number;
  };
  const directory = typeof cwd === "number" ? forStart(cwd) : cwd;
  const started = program === undefined ? argv[0]! : forStart(program);
  if (descriptors.size > MOST_DESCRIPTORS)
    throw new RangeError(`Cannot start with ${descriptors.size} descriptors: at most ${MOST_DESCRIPTORS} are expected`);
  return {
    program: started,
    argv: [options.argv0 ?? argv[0]!, ...argv.slice(1)],
    env: options.env ?? {},
    directory,
    descriptors,
    user: options.user,
    group: options.group,
    groups: options.groups,
    capabilities: capabilitiesOf(options.capabilities),
    securebits: options.securebits === undefined ? undefined : securebitsOf(options.securebits),
    noNewPrivileges: options.noNewPrivileges ?? true,
    umask: options.umask ?? 0o022,
    session: options.session ?? "new",
    terminal: options.terminal !== undefined,
    parentDeathSignal: constants.signals[options.parentDeathSignal ?? "SIGKILL"],
    limits: Object.fromEntries(limits),
    nice: options.nice,
    schedule: options.scheduler,
    affinity: options.affinity,
    ioPriority: options.ioPriority,
    filters: options.seccomp ?? [],
    supervised: undefined,
    keys: true,
    init: options.init ?? true,
  };
}

/** The capabilities of a text, which must be the same in all three sets: kept over execve, they are effective. */
function capabilitiesOf(text: string | undefined): bigint {
  if (text === undefined) return 0n;
  if (text === "all") return allCapabilities();
  const { effective, permitted, inheritable } = capabilitiesFromText(text);
  if (effective !== permitted || permitted !== inheritable)
    throw new TypeError(
      `Cannot keep the capabilities ${text}: the same ones in all sets are expected, as in cap_kill=eip`,
    );
  return effective;
}

/** Throws a TypeError where what a program prints is limited, and goes where it cannot be counted. */
export function mustCount({ stdout, stderr, terminal }: ProcessOptions, output: number | undefined): void {
  if (output === undefined || terminal !== undefined) return;
  for (const [name, outlet] of Object.entries({ stdout, stderr }))
    if (outlet === "inherit" || typeof outlet === "number")
      throw new TypeError(
        `Cannot limit what is printed to ${name}: it goes past this process, and "pipe" or "ignore" is expected with limits.output`,
      );
}

/** What ends a program, beside itself. */
export interface Life {
  readonly signal?: AbortSignal | undefined;
  /** From now to its end, in milliseconds. */
  readonly wallTime?: number | undefined;
  /** What it may print. */
  readonly output?: Allowance | undefined;
  /** Why its container was ended, if it was. */
  readonly cause?: (() => Exit | undefined) | undefined;
}

const SIGKILL = constants.signals.SIGKILL;
const OVERFLOW: Exit = { reason: "limit", limit: "output" };

/** A program that runs in a container. */
export class Process implements AsyncDisposable {
  /** Its process id, as the container sees it. */
  readonly pid: number;
  /** What it reads, where `"pipe"` was asked for. */
  readonly stdin: WritableStream<Uint8Array> | undefined;
  readonly stdout: ReadableStream<Uint8Array> | undefined;
  readonly stderr: ReadableStream<Uint8Array> | undefined;
  readonly terminal: Pty | undefined;
  /** Settles when it has ended: with its exit code or, after a signal, 128 and that one's number. Never rejects. */
  readonly exited: Promise<number>;
  /** What it was told by its exit code; null while it runs, and after a signal. */
  exitCode: number | null = null;
  /** The signal that ended it. */
  signalCode: NodeJS.Signals | null = null;
  /**
   * How it ended: by itself, by a signal, by a limit, or by us. Undefined while it runs. What it printed before its end can prove too much when it is
   * read behind that.
   */
  exit: Exit | undefined;
  readonly #running: Running;
  readonly #launch: Launch;
  /** Signals that we sent, each with what that was for. */
  readonly #sent = new Map<number, Exit>();
  readonly #cause: (() => Exit | undefined) | undefined;
  #ended: Ended | undefined;
  #overflowed = false;

  constructor(running: Running, launch: Launch, { signal, wallTime, output, cause }: Life) {
    this.#running = running;
    this.#cause = cause;
    this.#launch = launch;
    this.pid = running.pid;
    if (output !== undefined) this.#allow(output);
    this.stdin = launch.input === undefined ? launch.stdin?.writable : undefined;
    this.stdout = launch.stdout?.readable;
    this.stderr = launch.stderr?.readable;
    this.terminal = launch.terminal;
    // A program need not read to the end, and we need not give it all.
    if (launch.input !== undefined) void launch.input.pipeTo(launch.stdin!.writable).catch(() => launch.stdin!.close());
    const abort = () => this[KILL]("signal");
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
    const timer = wallTime === undefined ? undefined : setTimeout(() => this.#stop("wallTime"), wallTime);
    this.exited = running.ended.then((how) => {
      signal?.removeEventListener("abort", abort);
      clearTimeout(timer);
      return this.#end(how);
    });
  }

  /** What it and all that it started used so far, or in all once it has ended. Reads some files of /proc for each of its processes. */
  usage(): Usage {
    return usageOf(this.#ended ?? this.#running.usage());
  }

  /**
   * Sends it a signal, `"SIGKILL"` where nothing is said: a program in a sandbox of its own ends with all that it started.
   * @param to `"group"`: all processes of the group that it leads, as a terminal does
   */
  kill(signal: NodeJS.Signals | number = "SIGKILL", to?: "group"): void {
    checkArgument(signal, "a signal", SENT);
    if (to !== undefined) checkArgument(to, "who is sent it", RECEIVER);
    this.#send(typeof signal === "number" ? signal : constants.signals[signal], { reason: "killed", by: "kill" }, to);
  }

  /** Ends it on behalf of another, or asks it to end by a signal. */
  [KILL](by: Killer, signal: NodeJS.Signals = "SIGKILL"): void {
    this.#send(constants.signals[signal], { reason: "killed", by });
  }

  /** Has `take` called when a signal stops it. */
  onStop(take: (signal: number) => void): void {
    this.#running.onStop(take);
  }

  /** Ends it, and closes the streams that nobody read. */
  async [Symbol.asyncDispose](): Promise<void> {
    this[KILL]("dispose");
    await this.exited;
    for (const stream of [this.#launch.stdin, this.#launch.stdout, this.#launch.stderr, this.#launch.terminal])
      stream?.close();
  }

  #send(signal: number, cause: Exit, to?: "group"): void {
    this.#running.signal(signal, to);
    if (!this.#sent.has(signal)) this.#sent.set(signal, cause);
  }

  #stop(limit: LimitName): void {
    this.#send(SIGKILL, { reason: "limit", limit });
  }

  /** Counts what is read of what it prints, and ends it for more than is left. That much is given to who reads, and no more. */
  #allow(allowance: Allowance): void {
    for (const stream of [this.#launch.stdout, this.#launch.stderr, this.#launch.terminal]) {
      if (stream === undefined) continue;
      stream.allow = (length) => {
        const allowed = spend(allowance, length);
        if (allowed < length) {
          this.#overflow();
          allowance.exceeded?.();
        }
        return allowed;
      };
    }
  }

  #overflow(): void {
    this.#overflowed = true;
    if (this.#ended === undefined) this.#stop("output");
    else this.exit = OVERFLOW;
  }

  /** Takes how it ended, and gives what a shell would. */
  #end(how: Ended): number {
    const { code, signal } = how;
    this.#ended = how;
    // What counts prove comes first; then that it was a signal of ours that ended it, or the end of all in its container.
    const sent = how.limit === undefined && signal !== undefined ? this.#sent.get(signal) : undefined;
    this.exit = this.#overflowed ? OVERFLOW : (sent ?? exitBy([this.#sent.get(SIGKILL), this.#cause?.()], how));
    if (code !== undefined) {
      this.exitCode = code;
      return code;
    }
    this.signalCode = (Object.entries(constants.signals).find(([, number]) => number === signal)?.[0] ??
      "SIGKILL") as NodeJS.Signals;
    return 128 + signal!;
  }
}
