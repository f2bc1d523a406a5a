/** Containers that a program builds and drives. */
import {
  type Contained,
  type ContainerPlan,
  type Ended,
  type IdRequest,
  type Mount,
  NAMESPACES,
  type Namespace,
  platform,
} from "../platform/index.ts";
import { Descriptor } from "../syscalls/descriptor.ts";
import { SystemError } from "../syscalls/error.ts";
import { type Kernel, self } from "../syscalls/kernel.ts";
import { SOCK } from "../syscalls/linux/constants.ts";
import { connectTo, listenOn, openSocket, takeError } from "../syscalls/linux/network.ts";
import { ready } from "../syscalls/ready.ts";
import type { Allowance } from "./allowance.ts";
import { type Connection, connection } from "./connection.ts";
import { type Exit, exitBy } from "./exit.ts";
import { KILL, type Killer } from "./killer.ts";
import { type SandboxLimits, writtenOf } from "./limits.ts";
import { Client, Listener } from "./listener.ts";
import { bind } from "./mounts.ts";
import {
  ABORT,
  checkArgument,
  checkOptions,
  DESCRIPTOR,
  either,
  FLAG,
  FUNCTION,
  ID,
  instance,
  type Kinds,
  list,
  MOUNT,
  OBJECT,
  PATH,
  TEXT,
  word,
} from "./option.ts";
import { checkProcess, Launch, mustCount, Process, type ProcessOptions } from "./process.ts";
import { limitsOf } from "./sandbox.ts";
import { type Usage, usageOf } from "./usage.ts";

export interface ContainerOptions {
  /** Which namespaces it has of its own; all but time where nothing is said. */
  readonly namespaces?: readonly Namespace[];
  /** A directory of the host that is its root, read-only unless `write`. */
  readonly root?: string | { readonly path: string; readonly write?: boolean };
  /**
   * What its root holds, in this order. Without a `root` that starts empty. With neither, its mounts are those of the host, and its calls can
   * change them.
   */
  readonly files?: readonly Mount[];
  /** Who its first process is inside: our own ids where nothing is said, and 0 for root. */
  readonly user?: number;
  readonly group?: number;
  readonly groups?: readonly number[];
  /** Which ids there are inside: one where nothing is said. */
  readonly ids?: IdRequest;
  readonly hostname?: string;
  readonly domainname?: string;
  /** Whether its loopback interface is up; it is, where nothing is said and it has a network namespace. */
  readonly loopback?: boolean;
  /** What its clocks are ahead by, in seconds; needs the namespace `"time"`. */
  readonly clocks?: { readonly monotonic?: number; readonly boottime?: number };
  /** Namespaces that are there already, by descriptors of ours, as `/proc/<pid>/ns/net` opened. */
  readonly join?: readonly number[];
  /**
   * How much all that runs in it may use, and for how long. Nothing is limited where this is left out; where it is not, what it leaves out is what a program
   * in a sandbox has.
   */
  readonly limits?: SandboxLimits;
  /** Called once, when all that runs in it use more memory than `limits.memoryWarning`. */
  readonly onMemoryWarning?: (usage: Usage) => void;
  /** Kills it. */
  readonly signal?: AbortSignal;
}

const KINDS: Kinds<Required<ContainerOptions>> = {
  namespaces: list(TEXT),
  root: either(PATH, OBJECT),
  files: list(MOUNT),
  user: ID,
  group: ID,
  groups: list(ID),
  ids: either(word("ranges"), OBJECT),
  hostname: TEXT,
  domainname: TEXT,
  loopback: FLAG,
  clocks: OBJECT,
  join: list(DESCRIPTOR),
  limits: OBJECT,
  onMemoryWarning: FUNCTION,
  signal: ABORT,
};

/**
 * Starts a container: a puppet in namespaces of its own, which makes the system calls that this program tells it to make.
 *
 * Rejects with the SystemError of the call that failed; nothing is left then.
 *
 * @example
 * await using box = await container({ files: [bind("/usr"), symlink("/lib", "usr/lib"), proc(), dev()] });
 * const shell = await box.exec(["/usr/bin/env"]);
 */
export async function container(options: ContainerOptions = {}): Promise<Container> {
  const plan = containerPlan(options);
  options.signal?.throwIfAborted();
  try {
    const { signal, onMemoryWarning } = options;
    const { wallTime, output } = plan.limits ?? {};
    return new Container(await platform.contain(plan), { signal, onMemoryWarning, wallTime, output });
  } catch (error) {
    throw advised(error);
  }
}

/** The kernel says alike of all that keeps namespaces from being made; what it was, the doctor finds out. */
function advised(error: unknown): unknown {
  if (!(error instanceof SystemError) || !["clone", "clone3"].includes(error.syscall)) return error;
  if (!["EPERM", "EACCES", "ENOSPC", "EINVAL"].includes(error.code)) return error;
  const detail = error.message.slice(error.message.indexOf("("));
  return new SystemError(error.syscall, error.errno, `${detail}: \`caisson doctor\` tells what is in the way`, {
    cause: error,
  });
}

/** The plan of a container, complete. Throws TypeError or RangeError, before anything exists. */
export function containerPlan(options: ContainerOptions): ContainerPlan {
  checkOptions(options, KINDS);
  const namespaces = options.namespaces ?? NAMESPACES.filter((name) => name !== "time");
  for (const name of namespaces)
    if (!NAMESPACES.includes(name))
      throw new TypeError(`Cannot make a namespace ${name}: expected ${NAMESPACES.join(", ")}`);
  const has = (name: Namespace) => namespaces.includes(name);
  if (options.clocks !== undefined && !has("time"))
    throw new TypeError(
      'Cannot set clocks ahead without a namespace for them: "time" is expected among the namespaces',
    );
  if ((options.root !== undefined || options.files !== undefined) && !has("mount"))
    throw new TypeError('Cannot build a root without a namespace for it: "mount" is expected among the namespaces');
  const { user, group, root, files } = options;
  const request = options.ids ?? {
    ...(user === undefined ? {} : { user }),
    ...(group === undefined ? {} : { group }),
  };
  const maps = has("user") ? platform.mapsFor(request) : undefined;
  const tree = typeof root === "string" ? { path: root } : root;
  const base = tree === undefined ? [] : [bind(tree.path, "/", { write: tree.write ?? false })];
  // What is there already can still be changed.
  const late = (files ?? []).findIndex(
    ({ kind, target }, index) => target === "/" && index + base.length > 0 && kind !== "readonly" && kind !== "chmod",
  );
  if (late >= 0)
    throw new TypeError("Cannot mount on /: only the first of the files can be the root, and only without a root");
  return {
    namespaces,
    ...(tree === undefined && files === undefined
      ? {}
      : {
          root: {
            mounts: [...base, ...(files ?? [])].map((each) => idmapped(each, maps !== undefined, options)),
            readonly: false,
          },
        }),
    user: user ?? maps?.uids[0]?.inside ?? process.getuid!(),
    group: group ?? maps?.gids[0]?.inside ?? process.getgid!(),
    groups: options.groups,
    maps,
    hostname: options.hostname,
    domainname: options.domainname,
    loopback: options.loopback ?? has("network"),
    clocks: options.clocks === undefined ? undefined : { monotonic: 0, boottime: 0, ...options.clocks },
    join: options.join ?? [],
    ...(options.limits === undefined
      ? {}
      : {
          limits: limitsOf(options.limits),
          memoryAsked: Object.keys(writtenOf(options.limits, "memory")).length > 0,
        }),
  };
}

/** For root that is nobody inside, files of root's are the inner user's, unless ids were spelled out. */
function idmapped(each: Mount, user: boolean, { ids }: ContainerOptions): Mount {
  if ((each.kind !== "bind" && each.kind !== "overlay") || each.idmap !== "auto") return each;
  const spelled = typeof ids === "object" && "uids" in ids;
  return { ...each, idmap: user && !spelled && process.getuid!() === 0 ? "auto" : undefined };
}

/**
 * Puts a puppet into the namespaces of a process that runs, named by its process id, or of a container. It runs no program from in there,
 * and what is in there cannot look into it.
 */
export async function attach(target: number | Container): Promise<Container> {
  checkArgument(target, "what is attached to", either(ID, instance(Container)));
  return new Container(await platform.attach(typeof target === "number" ? target : target.pid));
}

interface ContainerLife {
  readonly signal?: AbortSignal | undefined;
  readonly onMemoryWarning?: ContainerOptions["onMemoryWarning"] | undefined;
  /** In milliseconds. */
  readonly wallTime?: number | undefined;
  /** In bytes, of all its programs together. */
  readonly output?: number | undefined;
}

/** A container, and the hand of this program in it. It ends when it is killed, when its block does, and when this process does. */
export class Container implements AsyncDisposable {
  /** The process id of its puppet on the host. */
  readonly pid: number;
  /**
   * Makes system calls inside, with the functions of `caisson/syscalls`; each waits in place for its answer, some 15 µs. One that fails ends the container,
   * and throws: nothing goes on with half of what it was to be. `attempt` is for those that may fail.
   */
  readonly kernel: Kernel;
  /** Settles when it has ended, and with it all that ran inside. */
  readonly exited: Promise<void>;
  /** How it ended: by a limit, by us, or by a signal from elsewhere. Undefined while it runs. */
  exit: Exit | undefined;
  readonly #contained: Contained;
  readonly #listeners = new Set<Listener>();

  /** What ended it, as far as that was us. The first cause counts. */
  #cause: Exit | undefined;
  #ended: Ended | undefined;

  readonly #output: Allowance | undefined;

  constructor(contained: Contained, { signal, onMemoryWarning, wallTime, output }: ContainerLife = {}) {
    this.#contained = contained;
    if (output !== undefined)
      this.#output = { left: output, exceeded: () => this.#stop({ reason: "limit", limit: "output" }) };
    this.pid = contained.pid;
    const abort = () => this[KILL]("signal");
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
    const late = () => this.#stop({ reason: "limit", limit: "wallTime" });
    const timer = wallTime === undefined ? undefined : setTimeout(late, wallTime);
    if (onMemoryWarning !== undefined) contained.onMemoryWarning(() => onMemoryWarning(this.usage()));
    this.exited = contained.ended.then((ended) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      this.#ended = ended;
      this.exit = exitBy([this.#cause], ended);
      for (const listener of this.#listeners) listener.close();
    });
    this.kernel = {
      call: (name, ...args) => {
        try {
          return contained.kernel.call(name, ...args);
        } catch (error) {
          this.kill();
          throw error;
        }
      },
    };
  }

  /** What `act` returns, or the SystemError of the call in it that failed. */
  attempt<Result>(act: (kernel: Kernel) => Result): Result | SystemError {
    try {
      return act(this.#contained.kernel);
    } catch (error) {
      if (error instanceof SystemError) return error;
      this.kill();
      throw error;
    }
  }

  /** Gives the puppet a copy of a descriptor of ours, and returns the number that it has there. */
  pass(descriptor: number): number {
    return this.#contained.pass([descriptor])[0]!;
  }

  /** A copy of one of the puppet's descriptors, which is the caller's to close. */
  take(descriptor: number): number {
    return this.#contained.take(descriptor);
  }

  /** Starts a program inside. Rejects with the SystemError of what could not be done, and the container goes on. */
  async exec(argv: readonly string[], options: ProcessOptions = {}): Promise<Process> {
    checkProcess(argv, options);
    if (options.init === false)
      throw new TypeError("Cannot make a program the first process of a container that has one");
    options.signal?.throwIfAborted();
    mustCount(options, this.#output?.left);
    using launch = new Launch(argv, options);
    const running = await this.#contained.execute(launch.plan);
    launch.started();
    return new Process(running, launch, {
      signal: options.signal,
      output: this.#output,
      cause: () => this.#cause,
    });
  }

  /** Listens inside, and hands the socket out: this process serves who connects in there, until the container ends. @param port 0 for any that is free */
  listen(port = 0, options: { readonly hostname?: string } = {}): Listener {
    const { kernel } = this.#contained;
    const listener = new Listener(this.#handOut(listenOn(kernel, addressOf(options.hostname, port))));
    this.#listeners.add(listener);
    return listener;
  }

  /** Connects to a server inside. */
  async connect(port: number, options: { readonly hostname?: string } = {}): Promise<Connection> {
    const address = addressOf(options.hostname, port);
    // A socket belongs to the network that it was made in, whoever connects it.
    using socket = new Descriptor(this.#handOut(openSocket(this.#contained.kernel, address.family, SOCK.NONBLOCK)));
    if (!connectTo(self, socket.number, address)) await ready(socket.number, "write").done;
    const errno = takeError(self, socket.number);
    if (errno !== 0) throw new SystemError("connect", errno, `(${address.address}, ${port}) inside`);
    return await connection(socket.take());
  }

  /** HTTP to a server inside, over connections made there. */
  client(port: number, options: { readonly hostname?: string } = {}): Client {
    return new Client(() => this.connect(port, options));
  }

  /** What all that runs in it used so far, or in all once it has ended. */
  usage(): Usage {
    return usageOf(this.#ended ?? this.#contained.usage());
  }

  kill(): void {
    this[KILL]("kill");
  }

  /** Ends it on behalf of another. */
  [KILL](by: Killer): void {
    this.#stop({ reason: "killed", by });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this[KILL]("dispose");
    await this.exited;
  }

  #stop(cause: Exit): void {
    this.#cause ??= cause;
    this.#contained.kill();
  }

  /** A copy of a descriptor of the puppet's, which closes its own. */
  #handOut(descriptor: number): number {
    try {
      return this.#contained.take(descriptor);
    } finally {
      this.#contained.kernel.call("close", descriptor);
    }
  }
}

function addressOf(hostname: string | undefined, port: number, address = hostname ?? "127.0.0.1") {
  return { family: address.includes(":") ? "INET6" : "INET", address, port } as const;
}
