/** Actors, as the host's program sees them. */

import { realpathSync } from "node:fs";
import { basename, relative } from "node:path";
import type { Static, TSchema } from "typebox";
import { type Ended, type Enforcement, type Policy, platform, type SupervisedCall } from "../platform/index.ts";
import type { BootOptions } from "./boot.ts";
import { bundle, modulePath, scopeOf, scriptScope } from "./bundle.ts";
import { type Call, type CallOptions, callsOf, NO_OPTIONS } from "./call.ts";
import { checkTimeout } from "./calls.ts";
import type { Channel, Hooks } from "./channel.ts";
import { type Denial, explain, isDenied, type Situation } from "./denial.ts";
import { type DenialEvent, Denials } from "./denials.ts";
import { ActorExit, LimitExceeded } from "./error.ts";
import { describeExit, type Exit, exitBy } from "./exit.ts";
import { grantsOf, hereOrRoot, type Start, startFrom } from "./grant.ts";
import type { Inspection, State } from "./inspection.ts";
import { KILL, type Killer } from "./killer.ts";
import { type Cell, launch, type Output } from "./launch.ts";
import { looker } from "./look.ts";
import {
  ABORT,
  ANY,
  checkOptions,
  FLAG,
  FUNCTION,
  instance,
  type Kinds,
  list,
  OBJECT,
  PATH,
  TEXT,
  word,
} from "./option.ts";
import { enter } from "./roster.ts";
import { policyOf, type Sandbox } from "./sandbox.ts";
import { defaultScheduler, type Priority, Scheduler } from "./scheduler.ts";
import { checkerOf } from "./schema.ts";
import { type Usage, usageOf } from "./usage.ts";
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
  /** Called once, when it uses more memory than `limits.memoryWarning`. */
  readonly onMemoryWarning?: (usage: Usage) => void;
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
  /** Has it wait until it may start: the one that all share where nothing is said. */
  readonly scheduler?: Scheduler;
  /** Who starts first of those that wait; `"normal"` where nothing is said. */
  readonly priority?: Priority;
}

const OUTPUT = word("inherit", "pipe", "ignore");
/** What may be said of an actor. */
export const SPAWNING: Kinds<Required<SpawnOptions>> = {
  sandbox: ANY,
  within: ANY,
  name: TEXT,
  stdout: OUTPUT,
  stderr: OUTPUT,
  signal: ABORT,
  onMemoryWarning: FUNCTION,
  loadTimeoutMs: ANY,
  sources: list(PATH),
  observe: FLAG,
  messages: OBJECT,
  scheduler: instance(Scheduler),
  priority: ANY,
};

/** What a script gets beside what an actor gets. */
export interface ScriptOptions {
  readonly argv: readonly string[];
  /** The host's descriptor that becomes its standard input. */
  readonly stdin: number;
}

/**
 * Starts a module as an actor: in a process of its own, which can reach nothing but what the sandbox grants and what messages bring.
 *
 * Resolves when the module is loaded; waits while its scheduler has too many starting. Rejects with `NotEnforced` when this machine cannot keep what was asked for, with what the module
 * threw while loading, with `ActorExit` when it ended before it was loaded, with `LimitExceeded` when it takes too long, and with `SchedulerRefused`
 * when too many wait already.
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
  checkOptions(options, SPAWNING);
  options.signal?.throwIfAborted();
  checkTimeout(options.loadTimeoutMs);
  const policy = policyWithin(policyOf(options.sandbox), options.within);
  platform.enforcement(policy); // throws before anything is done
  const code = codeOf(module, policy, { ...options, script });
  const source = bundle(code.path, code.scope);
  source.catch(() => {}); // it is awaited later, when the walls stand
  const name = options.name ?? code.called;
  const { scheduler = defaultScheduler, priority, signal } = options;
  const place = await scheduler.enter({ name, limits: policy.limits, priority, signal });
  const { stdout, stderr, observe = false } = options;
  const cell = await launch(name, { policy, stdout, stderr, stdin: script?.stdin, observe, start: code.start, place });
  return bring<Module, Message>({ source, boot: code.boot }, { cell, policy, name, options });
}

/** What is known of a module before it is read. */
export interface Code {
  readonly path: string;
  /** What its file is called. */
  readonly called: string;
  /** Where its files may come from. */
  readonly scope: readonly string[];
  readonly boot: BootOptions;
  readonly start: Start | undefined;
}

export function codeOf(
  module: string | URL,
  policy: Policy,
  { sources, script }: Pick<SpawnOptions, "sources"> & { readonly script?: ScriptOptions | undefined },
): Code {
  const path = modulePath(module);
  const granted = [...grantsOf(policy).keys()];
  const here = hereOrRoot();
  const start = startFrom(here, granted);
  const further = [...granted, ...(sources ?? []).map((directory) => realpathSync(directory))];
  return {
    path,
    called: basename(path).replace(/\.[cm]?[jt]sx?$/, ""),
    scope: script === undefined ? scopeOf(path, further) : scriptScope(path, further),
    boot: {
      name: relative(here, path),
      env: policy.env,
      argv: script?.argv ?? [],
      directory: start?.directory ?? null,
      script: script !== undefined,
      exercise: false,
    },
    start,
  };
}

/** What becomes an actor. */
export interface Making {
  readonly cell: Cell;
  readonly policy: Policy;
  readonly name: string;
  readonly options: SpawnOptions;
}

/** Brings code into a process inside its walls. What goes wrong ends that. */
export async function bring<Module, Message>(
  { source, boot }: { readonly source: string | Promise<string>; readonly boot: BootOptions },
  making: Making,
): Promise<Actor<Module, Message>> {
  const actor = new Actor<Module, Message>({ ...making, kind: boot.script ? "script" : "actor" });
  try {
    await actor.load(await source, boot);
  } catch (error) {
    actor.kill();
    await actor.exited;
    throw error;
  }
  return actor;
}

/** The same for one that waits for it: all that can be done while the code is on its way is. */
export function deliver<Module, Message>(
  { source, boot }: { readonly source: string; readonly boot: BootOptions },
  { channel, ...making }: Making & { readonly channel: Channel },
): Promise<Actor<Module, Message>> {
  let actor: Actor<Module, Message>;
  try {
    channel.start(boot, source);
    actor = new Actor({ ...making, kind: "actor" });
  } catch (error) {
    making.cell.confined.kill(); // the code is longer than a frame may be, say
    throw error;
  }
  return actor.loaded(channel).then(
    () => actor,
    async (error) => {
      actor.kill();
      await actor.exited;
      throw error;
    },
  );
}

const NO_TRAFFIC = { sent: { messages: 0, bytes: 0 }, received: { messages: 0, bytes: 0 } };

const OVERFLOW: Exit = { reason: "limit", limit: "output" };

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
  /** What it prints, where `"pipe"` was asked for. Fails with `LimitExceeded` where it is read behind the end, and proves too much for `limits.output`. */
  readonly stdout: ReadableStream<Uint8Array> | undefined;
  readonly stderr: ReadableStream<Uint8Array> | undefined;

  readonly #cell: Cell;
  readonly #policy: Policy;
  readonly #kind: "actor" | "script";
  readonly #options: SpawnOptions;
  readonly #denials: Denials;
  #channel: Channel | undefined;
  /** What the kernel told of its end. */
  #ended: Ended | undefined;
  readonly #startedAt = Date.now();
  /** Of its load. */
  #settle: { resolve(): void; reject(error: unknown): void } | undefined;
  /** Why the host ended it, before the kernel tells of the end. The first cause counts. */
  #cause: Exit | undefined;
  /** That its link was closed, which ends nothing at once: what does end it later counts for more. */
  #letGo: Exit | undefined;
  /** What it said of its end before. */
  #fell: Exit | undefined;

  constructor({ cell, policy, name, kind, options }: Making & { readonly kind: "actor" | "script" }) {
    this.#cell = cell;
    this.#policy = policy;
    this.#kind = kind;
    this.#options = options;
    this.#denials = new Denials(name, { observed: cell.observer !== undefined });
    this.name = name;
    this.pid = cell.confined.pid;
    this.enforcement = cell.confined.enforcement;
    this.stdout = cell.stdout;
    this.stderr = cell.stderr;
    this.call = callsOf<Module>((called, args, how) => this.#call(called, args, how));
    const { onMemoryWarning } = options;
    if (onMemoryWarning !== undefined) cell.confined.onMemoryWarning(() => onMemoryWarning(this.usage()));
    this.#moveIn();
    this.exited = this.#end();
    void this.exited.then(async () => {
      await cell.told;
      this.#denials.end();
    });
    void this.exited.then(enter(this));
  }

  /** Brings the actor to life: called once by `spawn`, when nothing but the boot file runs inside. */
  async load(source: string, boot: BootOptions): Promise<void> {
    const ready = this.#live();
    ready.catch(() => {}); // where the walls do not stand nobody awaits it
    // Before code is sent nothing is ready: all that `ready` can do is reject.
    const channel = await Promise.race([this.#cell.verified, ready as Promise<never>]);
    this.#join(channel);
    channel.start(boot, source);
    if (boot.script) this.#settle?.resolve(); // it runs while it loads
    await ready;
  }

  /** The same where the code was sent: called once by `deliver`, before anything can have come of that. */
  loaded(channel: Channel): Promise<void> {
    const ready = this.#live();
    this.#join(channel);
    return ready;
  }

  /** Has its clocks run, and what ends it heard. Settles when it is loaded, or will not be. */
  #live(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const { signal, loadTimeoutMs = 10_000 } = this.#options;
    const { wallTime } = this.#policy.limits;
    const endBy = (limit: "loadTime" | "wallTime") => () => this.#stop({ reason: "limit", limit });
    const timer = setTimeout(endBy("loadTime"), loadTimeoutMs);
    const clock = wallTime === undefined ? undefined : setTimeout(endBy("wallTime"), wallTime);
    let loaded = false;
    this.#settle = {
      resolve() {
        loaded = true;
        resolve();
        clearTimeout(timer);
      },
      reject,
    };
    const abort = () => this[KILL]("signal");
    signal?.addEventListener("abort", abort);
    void this.exited.then((exit) => {
      clearTimeout(timer);
      clearTimeout(clock);
      signal?.removeEventListener("abort", abort);
      if (!loaded) reject(exitError(this.name, exit));
    });
    if (signal?.aborted) abort(); // while it was launched
    return promise;
  }

  #join(channel: Channel): void {
    this.#channel = channel;
    void channel.closed.then(() => this.#linger());
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

  /** What it used up to now, or in all once it has ended. */
  usage(): Usage {
    const { sent, received } = this.#channel?.traffic ?? NO_TRAFFIC;
    return usageOf(this.#ended ?? this.#cell.confined.usage(), {
      messagesIn: sent.messages,
      messagesOut: received.messages,
      bytesIn: sent.bytes,
      bytesOut: received.bytes,
    });
  }

  /** What it is and does right now, as plain data. */
  inspect(): Inspection {
    return {
      kind: this.#kind,
      name: this.name,
      pid: this.pid,
      state: this.#state,
      startedAt: this.#startedAt,
      usage: this.usage(),
      callsPending: this.#channel?.pendingCalls ?? 0,
      denials: this.#denials.count,
    };
  }

  get #state(): State {
    if (this.#ended !== undefined) return "ended";
    if ((this.#cause ?? this.#fell ?? this.#letGo) !== undefined) return "ending";
    return this.#channel === undefined ? "starting" : "running";
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
    const channel = this.#connected();
    this.#letGo ??= { reason: "host gone" };
    channel.close();
  }

  /** Ends the actor at once, with everything in it. */
  kill(): void {
    this[KILL]("kill");
  }

  /** Ends it likewise, and has its exit tell on whose behalf. */
  [KILL](by: Killer): void {
    this.#stop({ reason: "killed", by });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this[KILL]("dispose");
    await this.exited;
  }

  #connected(): Channel {
    if (this.#channel === undefined) throw new TypeError(`Cannot use actor ${this.name} before it is loaded`);
    return this.#channel;
  }

  #stop(cause: Exit): void {
    this.#cause ??= cause;
    this.#cell.confined.kill();
  }

  /** Ends it, for it printed more than it may. Where it has ended, and its exit says nothing of that, who reads is told. */
  #overflow(): LimitExceeded | undefined {
    if (this.#ended === undefined) this.#stop(OVERFLOW);
    else if (this.#cause !== OVERFLOW)
      return new LimitExceeded(
        `Cannot read all that actor ${this.name} printed: it reached its limit output`,
        "output",
      );
    return undefined;
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

  /** Has what the process says told to this actor. */
  #moveIn(): void {
    const { observer, lane } = this.#cell;
    this.#cell.name = this.name;
    this.#cell.onOverflow = () => this.#overflow();
    lane.denials = this.#denials;
    if (observer !== undefined) {
      observer.tell = (call) => this.#tell(call);
      observer.more = (count) => this.#denials.lose(count);
      observer.refused = (access) => {
        if (this.#denials.wanted) this.#denials.report(denialOfLandlock(access, this.#situation()));
      };
    }
    Object.assign(this.#cell.hooks, {
      onReady: () => this.#settle?.resolve(),
      onThrew: (error) => this.#explain(error),
      onFailed: (error) => {
        this.#fall(error);
        this.#settle?.reject(error);
      },
      onUncaught: (error) => {
        this.#fall(error);
        this.#linger();
      },
      onViolation: (violation) => this.#stop({ reason: "protocol", violation }),
      // What is pending rejects with how the actor ended; messages that came before can still be read.
      onLost: async (seen) => {
        this.#linger();
        return exitError(this.name, await this.exited, seen);
      },
    } satisfies Hooks);
  }

  #fall(error: unknown): void {
    this.#explain(error);
    if ((this.#cause ?? this.#letGo) === undefined) this.#fell ??= { reason: "threw", error };
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

  /** Without a link an actor is of no use, nor behind an error that nobody caught: if it does not end by itself soon, it is ended. */
  #linger(): void {
    const timer = setTimeout(() => this.#cell.confined.kill(), LINGER_MS);
    void this.exited.then(() => clearTimeout(timer));
  }

  async #end(): Promise<Exit> {
    const ended = await this.#cell.confined.ended;
    this.#ended = ended;
    // That it fell is its own word, which hides no limit.
    const causes = [this.#fell, this.#cause];
    if (this.#cause?.reason === "limit") causes.reverse();
    return exitBy([...causes, this.#letGo], ended);
  }
}

/** What rejects that waited for an actor which has ended. */
export function exitError(name: string, exit: Exit, seen?: Error): Error {
  if (exit.reason === "protocol") return exit.violation;
  if (exit.reason === "limit")
    return new LimitExceeded(`Actor ${name} was ended: it reached its limit ${exit.limit}`, exit.limit);
  const cause = exit.reason === "threw" ? exit.error : seen;
  const error = new ActorExit(`Actor ${name} ended: ${describeExit(exit)}`, exit, { cause });
  if (isDenied(cause)) carry(error, cause.denial);
  return error;
}

/** Has an error carry what a wall refused. */
function carry(error: Error, denial: Denial): void {
  Object.defineProperty(error, "denial", { value: denial, enumerable: true, configurable: true });
}
