/** Programs in sandboxes: one call each. */
import {
  type Answer,
  type Contained,
  type ContainerPlan,
  type Enforcement,
  type Mount,
  type Policy,
  platform,
  type Running,
  type SupervisedCall,
  type Supervision,
} from "../platform/index.ts";
import { type SyscallName, self } from "../syscalls/kernel.ts";
import { listenOn } from "../syscalls/linux/network.ts";
import { ptyNumber } from "../syscalls/linux/terminal.ts";
import { allowanceOf } from "./allowance.ts";
import { type Broker, brokerage } from "./broker.ts";
import { type ContainerOptions, containerPlan } from "./container.ts";
import type { Decision } from "./decision.ts";
import type { Situation } from "./denial.ts";
import { type DenialEvent, Denials } from "./denials.ts";
import { type Egress, egress } from "./egress.ts";
import { LimitExceeded } from "./error.ts";
import type { Inspection } from "./inspection.ts";
import { Listener } from "./listener.ts";
import { looker } from "./look.ts";
import { bind } from "./mounts.ts";
import { checkOptions, FLAG, FUNCTION, list, MOUNT, OBJECT, TEXT } from "./option.ts";
import type { Pipe } from "./pipe.ts";
import { checkProcess, Launch, type Life, mustCount, Process, type ProcessOptions } from "./process.ts";
import { enter } from "./roster.ts";
import { parseRule } from "./rule.ts";
import { policyOf, type Sandbox } from "./sandbox.ts";
import type { Usage } from "./usage.ts";
import { denialOf, denialOfCall, denialOfLandlock } from "./verdict.ts";
import { policyWithin } from "./within.ts";

export interface ExecOptions extends ProcessOptions {
  /** What it may do. Nothing, where this is left out, but to run the program that was named. */
  readonly sandbox?: Sandbox;
  /** What it may do at most: with a sandbox that asks for more, nothing is started. The program's own name has to be among its `run`. */
  readonly within?: Sandbox;
  /** What it sees beside that: `tmpfs("/tmp")`. */
  readonly files?: readonly Mount[];
  /** A container of its own instead of a sandbox: what it may do is then what that leaves open. */
  readonly container?: Omit<ContainerOptions, "signal">;
  /** Is told of each attempt to connect to a host, where `net` grants any. */
  readonly onDecision?: (decision: Decision) => void;
  /** Called once, when it and all that it started use more memory than `limits.memoryWarning`. */
  readonly onMemoryWarning?: (usage: Usage) => void;
  /**
   * Whether `denials` has what its filter refuses as well, from its start: each refused call then waits until that is told. Where this process may
   * read the audit log, and that is on, it has what Landlock refuses, too. What mounts hide (ENOENT) or keep from being written (EROFS) no program's
   * `denials` have.
   */
  readonly observe?: boolean;
  /** Has some of its calls answered here. */
  readonly supervise?: Supervise;
  /** Has what it opens, connects to and looks up served here. Not together with `supervise`, or with `net`. */
  readonly broker?: Broker;
}

/** Calls that are answered by this process, and whoever made them waits. What the walls refuse stays refused, unless an answer is given here. */
export interface Supervise {
  /** Names of calls: `["openat", "connect"]`. */
  readonly asked: readonly SyscallName[];
  /** Answers each of them. Where it throws or rejects, the call fails with EPERM, and the first time a warning says why. */
  answer(call: SupervisedCall): Answer | Promise<Answer>;
}
type Answering = Pick<Supervision, "asked" | "answer" | "sockets">;

export type RunOptions = Omit<ExecOptions, "terminal">;

export interface RunResult {
  /** Null after a signal. */
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly usage: Usage;
}

/** What `run` keeps of what is printed where no limit says it, in bytes. */
const MOST_OUTPUT = 16 * 2 ** 20;

/**
 * Starts a program in a sandbox of its own, in the manner of `Bun.spawn`: it sees itself, what it needs in order to start, and what the sandbox
 * grants. All that it started ends with it.
 *
 * Rejects with `NotRunnable` for a program that is not there, `NotEnforced` when this machine cannot keep what was asked for, and
 * the SystemError of what could not be done.
 *
 * @example await using convert = await exec(["ffmpeg", "-i", "in.avi", "out.webm"], { sandbox: { read: ["in.avi"], write: ["."] }, cwd: process.cwd() });
 */
export async function exec(argv: readonly string[], options: ExecOptions = {}): Promise<SandboxedProcess> {
  return (await start(argv, options)).program;
}

/** A program, with what `run` waits for. */
interface Started {
  readonly program: SandboxedProcess;
  /** In milliseconds. */
  readonly wallTime: number | undefined;
  readonly printed: readonly Pipe[];
}

/** @param output what it may print where its limits do not say */
async function start(argv: readonly string[], options: ExecOptions, output?: number): Promise<Started> {
  const {
    sandbox = {},
    within,
    files = [],
    container,
    onDecision,
    onMemoryWarning,
    observe,
    supervise,
    broker,
    signal,
    ...process
  } = options;
  checkOptions(
    { sandbox, within, files, onDecision, onMemoryWarning, observe, supervise, broker },
    {
      sandbox: OBJECT,
      within: OBJECT,
      files: list(MOUNT),
      onDecision: FUNCTION,
      onMemoryWarning: FUNCTION,
      observe: FLAG,
      supervise: OBJECT,
      broker: OBJECT,
    },
  );
  // What is misspelt would leave calls unanswered without a word.
  if (supervise !== undefined) checkOptions(supervise, { asked: list(TEXT), answer: FUNCTION });
  if (supervise !== undefined && typeof supervise.answer !== "function")
    throw new TypeError("Cannot supervise a program without an answer: a function is expected");
  if (broker !== undefined) checkOptions(broker, { open: FUNCTION, connect: FUNCTION, lookup: FUNCTION });
  checkProcess(argv, { ...process, ...(signal === undefined ? {} : { signal }) });
  signal?.throwIfAborted();
  const [name] = argv;
  if (name === undefined) throw new TypeError("Cannot run nothing: a program is expected");
  if (container !== undefined) {
    for (const option of ["sandbox", "within", "files", "onDecision", "observe", "supervise", "broker"] as const)
      if (options[option] !== undefined)
        throw new TypeError(`Cannot use ${option} with a container: it has files of its own, and no sandbox`);
    const plan = containerPlan(container);
    mustCount(process, plan.limits?.output);
    using launch = new Launch(argv, process);
    const running = await platform.execute(withConsole(plan, launch), launch.plan);
    launch.started();
    const wallTime = plan.limits?.wallTime;
    const program = new SandboxedProcess(running, launch, {
      name,
      signal,
      onMemoryWarning: onMemoryWarning ?? container.onMemoryWarning,
      wallTime,
      output: allowanceOf(plan.limits?.output ?? output),
    });
    return { program, wallTime, printed: printedBy(launch) };
  }
  // What a sandbox decides is refused here, not ignored.
  for (const option of ["rlimits", "capabilities", "securebits", "noNewPrivileges", "user", "group", "groups"] as const)
    if (process[option] !== undefined)
      throw new TypeError(`Cannot use ${option} in a sandbox, which decides that: use its limits, or a container`);
  const named = process.program === undefined ? [name] : [];
  const policy = policyWithin(
    policyOf({ ...sandbox, run: [...named, ...(sandbox.run ?? [])] }, "program"),
    within,
    "program",
  );
  if (broker !== undefined && supervise !== undefined)
    throw new TypeError("Cannot use broker and supervise at once: a call has one answer");
  if (broker !== undefined && policy.net.length > 0)
    throw new TypeError("Cannot use a broker with net: its connect is asked about every connection");
  mustCount(process, policy.limits.output);
  using launch = new Launch(argv, { ...process, env: { ...policy.env, ...process.env } });
  using ends = new DisposableStack();
  const denials = new Denials(name, { observed: observe === true });
  const brokered = broker === undefined ? undefined : brokerage(broker, ends);
  const supervision = supervisionOf(policy, { observe, supervise: supervise ?? brokered?.supervision, denials });
  const gate =
    policy.net.length === 0
      ? undefined
      : ends.use(egress(policy.net, { onDecision: telling(denials, policy.net, onDecision) }));
  const running = await platform.sandbox(policy, launch.plan, {
    mounts: [...files, ...consoleOf(launch), ...(brokered?.files ?? [])],
    ...(supervision === undefined ? {} : { supervision }),
    ...(gate === undefined ? {} : { prepare: async (container: Contained) => openGate(container, gate, ends) }),
    ...(brokered?.prepare === undefined ? {} : { prepare: brokered.prepare }),
  });
  launch.started();
  const { wallTime } = policy.limits;
  const program = new SandboxedProcess(running, launch, {
    name,
    signal,
    onMemoryWarning,
    wallTime,
    output: allowanceOf(policy.limits.output ?? output),
    enforcement: running.enforcement,
    ends: ends.move(),
    denials,
    told: running.told,
  });
  return { program, wallTime, printed: printedBy(launch) };
}

const printedBy = ({ stdout, stderr }: Launch): Pipe[] => [stdout, stderr].filter((pipe) => pipe !== undefined);

/** What the program's filter hands over, and who takes it: calls that are answered here, and those that it refuses. */
function supervisionOf(
  policy: Policy,
  {
    observe,
    supervise,
    denials,
  }: {
    readonly observe: boolean | undefined;
    readonly supervise: Answering | undefined;
    readonly denials: Denials;
  },
): Supervision | undefined {
  if (supervise === undefined && observe !== true && policy.promises === undefined) return undefined;
  const enforcement = platform.enforcement(policy);
  const situation = (): Situation => ({
    actor: denials.actor,
    kind: "program",
    policy,
    enforcement,
    directory: "/",
    look: looker(),
  });
  return {
    tell(call) {
      if (!denials.wanted) return;
      const denial = denialOfCall(call, situation(), call.promise);
      if (denial !== undefined) denials.report(denial);
    },
    ...(observe === true && {
      refused(access) {
        if (denials.wanted) denials.report(denialOfLandlock(access, situation()));
      },
    }),
    more: (count) => denials.lose(count),
    ...supervise,
  };
}

/** Takes what a proxy decides: what it refuses is a denial. */
function telling(
  denials: Denials,
  net: readonly string[],
  onDecision: ExecOptions["onDecision"],
): (decision: Decision) => void {
  const rules = net.map(parseRule);
  return (decision) => {
    if (!decision.allowed && denials.wanted)
      denials.report(denialOf(decision, { actor: denials.actor, kind: "program", rules }));
    onDecision?.(decision);
  };
}

/** The program's terminal by a name: it comes from the host, and programs ask what theirs is called. */
function consoleOf({ terminal }: Launch): Mount[] {
  if (terminal === undefined) return [];
  const options = { write: true, devices: true, execute: false };
  return [
    { ...bind(`/dev/pts/${ptyNumber(self, terminal.number)}`, "/dev/console", options), idmap: undefined } as Mount,
  ];
}

function withConsole(plan: ContainerPlan, launch: Launch): ContainerPlan {
  if (plan.root?.mounts.some(({ kind, target }) => kind === "dev" && target === "/dev") !== true) return plan;
  return { ...plan, root: { ...plan.root, mounts: [...plan.root.mounts, ...consoleOf(launch)] } };
}

/** Has a proxy listen inside, and says in the environment where. */
function openGate(container: Contained, gate: Egress, ends: DisposableStack): Record<string, string> {
  const socket = listenOn(container.kernel, { family: "INET", address: "127.0.0.1", port: 0 });
  const listener = ends.use(new Listener(container.take(socket)));
  container.kernel.call("close", socket);
  gate.serve(listener);
  const [http, socks] = ["http", "socks5h"].map((scheme) => `${scheme}://127.0.0.1:${listener.port}`) as [
    string,
    string,
  ];
  return {
    http_proxy: http,
    https_proxy: http,
    all_proxy: socks,
    HTTP_PROXY: http,
    HTTPS_PROXY: http,
    ALL_PROXY: socks,
  };
}

/** A program in a sandbox of its own. */
export class SandboxedProcess extends Process {
  /** Which mechanisms keep each guarantee of its sandbox; a container has none. */
  readonly enforcement: Enforcement | undefined;
  /**
   * What its walls refuse from here on, for each reader; it ends with the program. Where nobody reads, nothing is gathered. None of a program in a
   * container.
   */
  readonly denials: AsyncIterable<DenialEvent>;
  readonly #denials: Denials;
  readonly #name: string;
  /** On the host. */
  readonly #pid: number;
  readonly #startedAt = Date.now();

  constructor(
    running: Running,
    launch: Launch,
    life: Life & {
      readonly name: string;
      readonly onMemoryWarning?: ExecOptions["onMemoryWarning"] | undefined;
      readonly enforcement?: Enforcement;
      readonly ends?: DisposableStack;
      readonly denials?: Denials;
      readonly told?: () => Promise<void>;
    },
  ) {
    super(running, launch, life);
    this.enforcement = life.enforcement;
    this.#name = life.name;
    const { onMemoryWarning } = life;
    if (onMemoryWarning !== undefined) running.onMemoryWarning(() => onMemoryWarning(this.usage()));
    this.#pid = running.hostPid;
    this.#denials = life.denials ?? new Denials("");
    this.denials = this.#denials;
    const leave = enter(this);
    void this.exited.then(async () => {
      leave(this.exit);
      life.ends?.dispose();
      await life.told?.();
      this.#denials.end();
    });
  }

  /** What it is and does right now, as plain data. */
  inspect(): Inspection {
    return {
      kind: "program",
      name: this.#name,
      pid: this.#pid,
      state: this.exit === undefined ? "running" : "ended",
      startedAt: this.#startedAt,
      usage: this.usage(),
      callsPending: 0,
      denials: this.#denials.count,
    };
  }
}

/**
 * Runs a program in a sandbox of its own to its end, and gives what it printed, 16 MiB at most where its limits do not say. As `exec`, and rejects
 * with `LimitExceeded` when a limit ended it, or what it started in a container still could print when its `wallTime` was over.
 *
 * @example const { stdout } = await run(["pdftotext", "-", "-"], { stdin: pdf });
 */
export async function run(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const started = await start(argv, options, MOST_OUTPUT);
  await using program = started.program;
  const all = async (stream: ReadableStream<Uint8Array> | undefined) => {
    const pieces: Uint8Array[] = [];
    for await (const piece of stream ?? []) pieces.push(piece);
    return Buffer.concat(pieces);
  };
  using _ = boundBy(started);
  const [stdout, stderr] = await Promise.all([all(program.stdout), all(program.stderr)]);
  await program.exited;
  const { exit, exitCode, signalCode } = program;
  if (exit?.reason === "limit")
    throw new LimitExceeded(`Program ${argv[0]} was ended: it reached its limit ${exit.limit}`, exit.limit);
  if (exit?.reason !== "killed" && started.printed.some(({ cut }) => cut))
    throw new LimitExceeded(
      `Program ${argv[0]} has ended, and what it started reached its limit wallTime: it can print still`,
      "wallTime",
    );
  return { exitCode, signal: signalCode, stdout, stderr, usage: program.usage() };
}

/**
 * Bounds how long is waited for what is printed. In a container without a PID namespace others outlive the program, and whoever of them can print would
 * keep us waiting: until its time is over, and not at all where the program was ended.
 */
function boundBy({ program, wallTime, printed }: Started): Disposable {
  const hurry = () => {
    for (const pipe of printed) pipe.hurry();
  };
  void program.exited.then(() => {
    const reason = program.exit?.reason;
    if (reason === "killed" || reason === "limit") hurry();
  });
  // While the program runs, that it ends is for its own clock.
  const late = () => void program.exited.then(hurry);
  const timer = wallTime === undefined ? undefined : setTimeout(late, wallTime);
  return { [Symbol.dispose]: () => clearTimeout(timer) };
}
