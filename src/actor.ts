/** Actors, as the host's program sees them. */

import { realpathSync } from "node:fs";
import { basename, relative } from "node:path";
import type { Static, TSchema } from "typebox";
import {
  type Confined,
  type Enforcement,
  type Policy,
  platform,
  type SupervisedCall,
  type Supervision,
} from "../platform/index.ts";
import { Descriptor } from "../syscalls/descriptor.ts";
import { self } from "../syscalls/kernel.ts";
import { SOCK } from "../syscalls/linux/constants.ts";
import { open } from "../syscalls/linux/file.ts";
import { O } from "../syscalls/linux/numbers.ts";
import { setSendBuffer, socketPair } from "../syscalls/linux/socket.ts";
import type { BootOptions } from "./boot.ts";
import { bootText, bundle, modulePath, scopeOf, scriptScope } from "./bundle.ts";
import { type Call, type CallOptions, callsOf, NO_OPTIONS } from "./call.ts";
import { type Channel, connect } from "./channel.ts";
import { type Denial, explain, isDenied, type Situation } from "./denial.ts";
import { type DenialEvent, Denials } from "./denials.ts";
import { ActorExit, LimitExceeded } from "./error.ts";
import { describeExit, type Exit, exitOf } from "./exit.ts";
import { grantsOf, type Start, startFrom } from "./grant.ts";
import { DescriptorLane } from "./lane.ts";
import { looker } from "./look.ts";
import { listen, passOn, streamOf } from "./output.ts";
import { policyOf, type Sandbox } from "./sandbox.ts";
import { checkerOf } from "./schema.ts";
import { denialOfCall, denialOfLandlock } from "./verdict.ts";
import { policyWithin } from "./within.ts";

export interface SpawnOptions<Message extends TSchema = TSchema> {
  /** What it may do. Nothing, where this is left out. */
  readonly sandbox?: Sandbox;
  /** What it may do at most: with a sandbox that asks for more, nothing is started. */
  readonly within?: Sandbox;
  /** What it is called in lines and errors: the file's name where nothing is said. */
  readonly name?: string;
  /** `"inherit"` passes its lines on with its name, made harmless; `"pipe"` gives a stream. `"inherit"` where nothing is said. */
  readonly stdout?: Output;
  readonly stderr?: Output;
  /** Kills the actor. */
  readonly signal?: AbortSignal;
  /** How long it may take from start until the module is loaded; 10,000 ms where nothing is said. */
  readonly loadTimeoutMs?: number;
  /** Directories from which its files may be bundled, besides the package that the module belongs to and all of node_modules. */
  readonly sources?: readonly string[];
  /**
   * Whether `denials` has what its filter refuses as well, by the filter's own word: each refused call then waits until that is told. Where this
   * process may read the audit log, and that is on, it has what Landlock refuses, too.
   */
  readonly observe?: boolean;
  /** What each message must be; anything else ends the iteration with `SchemaMismatch`. */
  readonly messages?: Message;
}
export type Output = "inherit" | "pipe" | "ignore";

/** What a script gets beside what an actor gets. */
export interface ScriptOptions {
  readonly argv: readonly string[];
  /** The host's descriptor that becomes its standard input. */
  readonly stdin: number;
}

/**
 * Starts a module as an actor: in a process of its own, which can reach nothing but what the sandbox grants and what messages bring.
 *
 * Resolves when the module is loaded. Rejects with `NotEnforced` when this machine cannot keep what was asked for, with what the module
 * threw while loading, with `ActorExit` when it ended before it was loaded, and with `LimitExceeded` when it takes too long.
 *
 * @example await using parser = await spawn<typeof import("./parse.ts")>(new URL("./parse.ts", import.meta.url));
 */
export async function spawn<Module, Message extends TSchema = TSchema>(
  module: string | URL,
  options: SpawnOptions<Message> = {},
): Promise<Actor<Module, Static<Message>>> {
  return start<Module, Static<Message>>(module, options);
}

/** Starts a module as an actor or, with `script`, as a program that ends when it is through. */
export async function start<Module, Message>(
  module: string | URL,
  options: SpawnOptions,
  script?: ScriptOptions,
): Promise<Actor<Module, Message>> {
  options.signal?.throwIfAborted();
  const policy = policyWithin(policyOf(options.sandbox), options.within);
  platform.enforcement(policy); // throws before anything is done
  const path = modulePath(module);
  const name = options.name ?? basename(path).replace(/\.[cm]?[jt]sx?$/, "");
  const granted = [...grantsOf(policy).keys()];
  const here = hereOrRoot();
  const place = startFrom(here, granted);
  const further = [...granted, ...(options.sources ?? []).map((directory) => realpathSync(directory))];
  const source = bundle(path, script === undefined ? scopeOf(path, further) : scriptScope(path, further));
  source.catch(() => {}); // it is awaited later, when the walls stand
  const stdin = script?.stdin;
  const launched = await launch(policy, name, { ...options, stdin, place });
  const kind = script === undefined ? "actor" : "script";
  const actor = new Actor<Module, Message>(launched, { policy, name, kind, options });
  try {
    await actor.load(await source, {
      name: relative(here, path),
      env: policy.env,
      argv: script?.argv ?? [],
      directory: place?.directory ?? null,
      script: script !== undefined,
    });
  } catch (error) {
    actor.kill();
    await actor.exited;
    throw error;
  }
  return actor;
}

/** What a started process gives the host. */
interface Launched {
  readonly confined: Confined;
  readonly observer: Observer | undefined;
  readonly link: { readonly data: number; readonly lane: DescriptorLane };
  readonly stdout: ReadableStream<Uint8Array> | undefined;
  readonly stderr: ReadableStream<Uint8Array> | undefined;
}

/** Takes the refused calls of an observed actor. */
type Observer = { -readonly [Name in "tell" | "more" | "refused"]-?: NonNullable<Supervision[Name]> };

/** What the kernel takes of a data lane at once: with less, large bytes stop and go. */
const LANE_BYTES = 1024 * 1024;

interface LaunchOptions extends SpawnOptions {
  readonly stdin: number | undefined;
  readonly place: Start | undefined;
}

async function launch(policy: Policy, name: string, options: LaunchOptions): Promise<Launched> {
  const boot = await bootText();
  using theirs = new DisposableStack();
  using ours = new DisposableStack();
  const pair = (type: number): [Descriptor, Descriptor] => {
    const [mine, other] = socketPair(self, type);
    return [ours.use(new Descriptor(mine)), theirs.use(new Descriptor(other))];
  };
  const nothing = theirs.use(new Descriptor(open(self, "/dev/null", O.RDWR | O.CLOEXEC)));
  const [data, theirData] = pair(SOCK.STREAM);
  for (const end of [data, theirData]) setSendBuffer(self, end.number, LANE_BYTES);
  const [lane, theirLane] = pair(SOCK.SEQPACKET);
  const output = (how: Output = "inherit") => (how === "ignore" ? ([undefined, nothing] as const) : pair(SOCK.STREAM));
  const [stdout, theirStdout] = output(options.stdout);
  const [stderr, theirStderr] = output(options.stderr);

  const observer: Observer | undefined = options.observe === true ? { tell() {}, more() {}, refused() {} } : undefined;
  const program = {
    boot,
    stdio: [options.stdin ?? nothing.number, theirStdout.number, theirStderr.number] as const,
    lanes: [theirData.number, theirLane.number] as const,
    ...(options.place?.made === true ? { directory: options.place.directory } : {}),
  };
  const confined = platform.confine(policy, program, observer);
  const result: Launched = {
    confined,
    observer,
    link: { data: data.take(), lane: new DescriptorLane(lane.take()) },
    stdout: receive(stdout, options.stdout, name, console.log),
    stderr: receive(stderr, options.stderr, name, console.error),
  };
  return result;
}

function receive(
  socket: Descriptor | undefined,
  how: Output | undefined,
  name: string,
  print: (line: string) => void,
): ReadableStream<Uint8Array> | undefined {
  if (socket === undefined) return undefined;
  if (how === "pipe") return streamOf(socket.take());
  const lines = passOn(name, print);
  listen(socket.take(), { data: (bytes) => lines.push(bytes), close: () => lines.end() });
  return undefined;
}

/** How long a process may outlive its link. */
const LINGER_MS = 2000;

/** A running actor. */
export class Actor<Module = unknown, Message = unknown> implements AsyncDisposable {
  readonly name: string;
  /** The process id on the host. */
  readonly pid: number;
  /** Which mechanisms keep each guarantee. */
  readonly enforcement: Enforcement;
  /** Calls the functions that the module exports. What one rejects with has a `denial` where a wall caused it: `isDenied(error)`. */
  readonly call: Call<Module>;
  /** Settles once, when the process has ended and nothing of it is left. Never rejects. */
  readonly exited: Promise<Exit>;
  /** What it prints, where `"pipe"` was asked for. */
  readonly stdout: ReadableStream<Uint8Array> | undefined;
  readonly stderr: ReadableStream<Uint8Array> | undefined;

  readonly #confined: Confined;
  readonly #policy: Policy;
  readonly #kind: "actor" | "script";
  readonly #options: SpawnOptions;
  readonly #link: Launched["link"];
  readonly #denials: Denials;
  #channel: Channel | undefined;
  /** Settles when all is told of what was refused. */
  #told: Promise<void> = Promise.resolve();
  /** What the host knows of the end before the kernel tells of it. The first cause counts. */
  #cause: Exit | undefined;

  constructor(
    launched: Launched,
    { policy, name, kind, options }: { policy: Policy; name: string; kind: "actor" | "script"; options: SpawnOptions },
  ) {
    this.#confined = launched.confined;
    this.#policy = policy;
    this.#kind = kind;
    this.#denials = new Denials(name, { observed: options.observe === true });
    launched.link.lane.denials = this.#denials;
    if (launched.observer !== undefined) {
      launched.observer.tell = (call) => this.#tell(call);
      launched.observer.more = (count) => this.#denials.lose(count);
      launched.observer.refused = (access) => {
        if (this.#denials.wanted) this.#denials.report(denialOfLandlock(access, this.#situation()));
      };
    }
    this.#options = options;
    this.#link = launched.link;
    this.name = name;
    this.pid = launched.confined.pid;
    this.enforcement = launched.confined.enforcement;
    this.stdout = launched.stdout;
    this.stderr = launched.stderr;
    this.call = callsOf<Module>((called, args, how) => this.#call(called, args, how));
    this.exited = this.#end();
    void this.exited.then(async () => {
      await this.#told;
      this.#denials.end();
    });
    launched.confined.started.catch(() => {}); // load() awaits it, when the bundle is there
  }

  /** Brings the actor to life: called once by `spawn`, when nothing but the boot file runs inside. */
  async load(source: string, boot: BootOptions): Promise<void> {
    const { promise: ready, resolve, reject } = Promise.withResolvers<void>();
    const abort = () => this.kill();
    this.#options.signal?.addEventListener("abort", abort);
    const timeout = this.#options.loadTimeoutMs ?? 10_000;
    const timer = setTimeout(() => this.#stop({ reason: "limit", limit: "loadTime" }), timeout);
    const wall = this.#policy.limits.wallTime;
    const clock =
      wall === undefined ? undefined : setTimeout(() => this.#stop({ reason: "limit", limit: "wallTime" }), wall);
    void this.exited.then((exit) => {
      clearTimeout(clock);
      this.#options.signal?.removeEventListener("abort", abort);
      reject(this.#exitError(exit));
    });
    try {
      await Promise.race([this.#confined.started, ready]);
      this.#channel = await this.#open({ source, boot, resolve, reject });
      await ready;
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * What its walls refuse from here on, for each reader; it ends with the actor. What is `claimed` there the actor may have made up. Where nobody
   * reads, nothing is gathered.
   *
   * @example for await (const { call, target, fix } of actor.denials) console.warn(`${call} ${target}: ${fix}`);
   */
  get denials(): AsyncIterable<DenialEvent> {
    return this.#denials;
  }

  /** Sends a message to the actor's `inbox`. Resolves when there is room for more. */
  send(message: unknown): Promise<void> {
    return this.#connected().send(message);
  }

  /** The messages that the actor sends. Ends when it sends no more, and throws what ended the actor. */
  [Symbol.asyncIterator](): AsyncIterator<Message> {
    const messages = this.#connected()[Symbol.asyncIterator]() as AsyncIterator<Message>;
    const check = this.#options.messages === undefined ? undefined : checkerOf(this.#options.messages);
    if (check === undefined) return messages;
    return {
      async next() {
        const result = await messages.next();
        return result.done ? result : { done: false, value: check(result.value) as Message };
      },
    };
  }

  /** Ends the actor's `inbox`: no more messages come. */
  end(): void {
    this.#connected().end();
  }

  /** Closes the link. The actor ends by itself then, with its exit handlers run, or is ended if it does not. */
  disconnect(): void {
    this.#cause ??= { reason: "host gone" };
    this.#connected().close();
  }

  /** Ends the actor at once, with everything in it. */
  kill(): void {
    this.#stop({ reason: "killed" });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill();
    await this.exited;
  }

  #connected(): Channel {
    if (this.#channel === undefined) throw new TypeError(`Cannot use actor ${this.name} before it is loaded`);
    return this.#channel;
  }

  #stop(cause: Exit): void {
    this.#cause ??= cause;
    this.#confined.kill();
  }

  #call(name: string, args: readonly unknown[], options: CallOptions): Promise<unknown> {
    if (options === NO_OPTIONS) return this.#connected().call(name, args);
    const { signal, timeoutMs, result } = options;
    return this.#connected().call(name, args, {
      signal,
      timeoutMs,
      result: result === undefined ? undefined : checkerOf(result),
    });
  }

  /** Opens the link. Code goes over it only when the host has seen that the walls stand. */
  async #open(life: {
    source: string;
    boot: BootOptions;
    resolve(): void;
    reject(error: unknown): void;
  }): Promise<Channel> {
    const { data, lane } = this.#link;
    const filter = this.#confined.closingFilter;
    const head = Uint32Array.of(filter.length, this.#confined.closingFlags);
    const prologue = Buffer.concat([new Uint8Array(head.buffer), filter]);
    self.call("write", data, prologue, prologue.length);
    const channel = await connect(data, {
      role: "host",
      descriptors: lane,
      hooks: {
        onHello: (listener) => {
          try {
            this.#confined.verify();
            if (this.#options.observe === true) this.#observe(listener);
            channel.start(life.boot, life.source);
            if (life.boot.script) life.resolve(); // a script runs while it loads
          } catch (error) {
            life.reject(error);
            this.kill();
          }
        },
        onReady: () => life.resolve(),
        onThrew: (error) => this.#explain(error),
        onFailed: (error) => {
          this.#explain(error);
          this.#cause ??= { reason: "threw", error };
          life.reject(error);
        },
        onUncaught: (error) => {
          this.#explain(error);
          this.#cause ??= { reason: "threw", error };
        },
        onViolation: (violation) => this.#stop({ reason: "protocol", violation }),
        // What is pending rejects with how the actor ended; messages that came before can still be read.
        onLost: async (seen) => {
          this.#linger();
          return this.#exitError(await this.exited, seen);
        },
      },
    });
    void channel.closed.then(() => {
      lane.close();
      this.#linger();
    });
    return channel;
  }

  #situation(): Situation {
    return {
      actor: this.name,
      kind: this.#kind,
      policy: this.#policy,
      enforcement: this.enforcement,
      directory: hereOrRoot(),
      look: looker(),
    };
  }

  /** Says in an error which wall caused it, if one did. */
  #explain(error: unknown): void {
    if (!(error instanceof Error)) return;
    const denial = explain(error, this.#situation());
    if (denial === undefined) return;
    carry(error, denial);
    // The proxy has told of this itself, and knows it better.
    if (error.name !== "EgressDenied") this.#denials.claim(denial);
  }

  /** Takes a call that the filter refused. */
  #tell(call: SupervisedCall): void {
    if (!this.#denials.wanted) return;
    const denial = denialOfCall(call, this.#situation(), call.promise);
    if (denial !== undefined) this.#denials.report(denial);
  }

  #observe(listener: unknown): void {
    if (typeof listener !== "number") throw new Error(`Cannot observe actor ${this.name}: it has no filter to tell of`);
    this.#told = this.#confined.supervise(listener);
  }

  /** Without a link an actor is of no use: if it does not end by itself soon, it is ended. */
  #linger(): void {
    const timer = setTimeout(() => this.#confined.kill(), LINGER_MS);
    void this.exited.then(() => clearTimeout(timer));
  }

  async #end(): Promise<Exit> {
    const ended = await this.#confined.ended;
    return this.#cause ?? exitOf(ended, this.#policy.limits.cpuTime);
  }

  #exitError(exit: Exit, seen?: Error): Error {
    if (exit.reason === "protocol") return exit.violation;
    if (exit.reason === "limit")
      return new LimitExceeded(`Actor ${this.name} was ended: it reached its limit ${exit.limit}`, exit.limit);
    const cause = exit.reason === "threw" ? exit.error : seen;
    const error = new ActorExit(`Actor ${this.name} ended: ${describeExit(exit)}`, exit, { cause });
    if (isDenied(cause)) carry(error, cause.denial);
    return error;
  }
}

function hereOrRoot(): string {
  try {
    return process.cwd();
  } catch {
    return "/"; // it was removed
  }
}

/** Has an error carry what a wall refused. */
function carry(error: Error, denial: Denial): void {
  Object.defineProperty(error, "denial", { value: denial, enumerable: true, configurable: true });
}
