/** One end of a link: an actor's life, messages and calls, and the watch over what a hostile peer sends (docs/wire.md). */
import type { Pace } from "../platform/pace.ts";
import { Answers, appendError, type Callee } from "./answers.ts";
import { type CallOptions, Calls } from "./calls.ts";
import { ProtocolViolation } from "./error.ts";
import { checkFrame, type Descriptors, FRAMES, GREETING, readU32, setOf, type Transport, VERSION } from "./frame.ts";
import { type Limits, Link, type Phase, type Role, toError } from "./link.ts";
import { encodeName, isName } from "./name.ts";
import { surplus } from "./payload.ts";
import { Receiver } from "./receiver.ts";
import { Sender } from "./sender.ts";
import { Splitter } from "./splitter.ts";
import type { Turns } from "./turns.ts";

/** What the owner of a channel is told. What a hook throws closes the channel. */
export interface Hooks {
  /** Host: the actor's last doors are closed; it waits for `start`. */
  onHello?(report: unknown): void;
  /** Host: the module is loaded and exports these functions. */
  onReady?(names: readonly string[]): void;
  /** Host: the actor will never be ready. */
  onFailed?(error: unknown): void;
  /** Host: the actor ends because of this error. */
  onUncaught?(error: unknown): void;
  /** Host: a call rejects with this, which the actor answered. */
  onThrew?(error: unknown): void;
  /** Actor: the code to load. */
  onStart?(options: unknown, source: Uint8Array): void;
  /** Actor: answers a call with what this returns, throws or resolves to. */
  onCall?: Callee;
  /** The peer broke the protocol; the channel is closed already. */
  onViolation?(violation: ProtocolViolation): void;
  /** The data lane is closed. Returns what everything pending is to reject with, in place of what the channel could see itself. */
  onLost?(seen: Error | undefined): Error | undefined | Promise<Error | undefined>;
}

export interface Options {
  readonly role: Role;
  readonly descriptors: Descriptors;
  readonly hooks?: Hooks;
  readonly limits?: Partial<Limits>;
  /** By which messages are handed out; without them, all that came at once. */
  readonly turns?: Turns;
  /** By which what arrives is looked at; without it, as it comes. */
  readonly pace?: Pace;
}

const FLOW = setOf("MESSAGE", "CREDIT", "END");
const LAST_FLOW = setOf("MESSAGE", "END");
const WORK = FLOW | setOf("CALL", "CANCEL");

/** The kinds that may arrive, by who receives and the phase of the actor's life. */
const ACCEPTED: Record<Role, Record<Phase, number>> = {
  host: {
    opening: setOf("HELLO", "FAILED"),
    greeted: setOf("FAILED"),
    loading: setOf("READY", "FAILED") | FLOW,
    ready: setOf("RESULT", "THREW", "UNCAUGHT") | FLOW,
    over: 0,
  },
  actor: { opening: 0, greeted: setOf("START"), loading: FLOW, ready: WORK | setOf("START"), over: WORK },
};

/** Host and actor run the same code. */
export class Channel {
  /** Resolves when nothing more will happen, with what went wrong, if anything did. */
  readonly closed: Promise<Error | undefined>;
  readonly #resolveClosed: (reason: Error | undefined) => void;

  readonly #hooks: Hooks;
  readonly #transport: Transport;
  readonly #link: Link;
  readonly #splitter: Splitter;
  readonly #calls: Calls;
  readonly #answers: Answers;
  readonly #sender: Sender;
  readonly #receiver: Receiver;

  constructor(transport: Transport, options: Options) {
    this.#hooks = options.hooks ?? {};
    this.#transport = transport;
    this.#link = new Link(transport, options);
    this.#splitter = new Splitter(this.#link.limits.frameBytes, (bytes, start, end) => this.#accept(bytes, start, end));
    this.#calls = new Calls(this.#link, (error) => this.#hooks.onThrew?.(error));
    this.#answers = new Answers(this.#link, (name, args, call) => this.#hooks.onCall?.(name, args, call));
    this.#sender = new Sender(this.#link);
    this.#receiver = new Receiver(this.#link, (error) => this.#fail(error), options.turns);
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    this.closed = promise;
    this.#resolveClosed = resolve;
  }

  /** What went through so far, as this end sees it. */
  get traffic(): Readonly<Link["traffic"]> {
    return this.#link.traffic;
  }

  /** Whether anything can be sent. */
  get open(): boolean {
    return this.#link.state === "open";
  }

  /** Host: calls that wait for an answer. */
  get pendingCalls(): number {
    return this.#calls.pending;
  }

  // The life of an actor.

  /** Actor: reports that the last doors are closed. */
  hello(report: unknown): void {
    const { outbox } = this.#expect("actor", "opening", "hello()");
    outbox.commit(outbox.append("HELLO", report, { head: GREETING }));
    this.#link.phase = "greeted";
  }

  /** Host: sends the code, after which messages flow. */
  start(options: unknown, source: string | Uint8Array): void {
    const { outbox } = this.#expect("host", "greeted", "start()");
    const tail = typeof source === "string" ? Buffer.from(source) : source;
    outbox.commit(outbox.append("START", options, { head: new Uint8Array(FRAMES.START.fields), tail }), "now");
    this.#link.phase = "loading";
    this.#release();
  }

  /** Host: what was loaded was an exercise, and nothing of it is under way. Code can be sent once more. */
  exercised(): void {
    this.#expect("host", "ready", "exercised()");
    if (this.#calls.inFlight > 0) throw new TypeError("Cannot end the exercise: calls are in flight");
    this.#link.phase = "greeted";
  }

  /** Actor: reports that the module is loaded, after which calls come. */
  ready(names: readonly string[]): void {
    const { outbox } = this.#expect("actor", "loading", "ready()");
    for (const name of names) encodeName(name);
    outbox.commit(outbox.append("READY", names), "now");
    this.#link.phase = "ready";
  }

  /** Actor: reports what ends it, while loading or later. Nothing is sent after it; resolves when the kernel has it. */
  failed(error: unknown): Promise<void> {
    const link = this.#link;
    if (link.role !== "actor") throw new TypeError("Cannot report a failure from the host's end");
    if (!link.active) return Promise.resolve();
    link.outbox.commit(appendError(link, link.phase === "ready" ? "UNCAUGHT" : "FAILED", error));
    link.phase = "over";
    return link.outbox.flushed;
  }

  // Calls and messages.

  /**
   * Calls a function of the actor. The arguments are read before this returns. Rejects with what the function threw; at once with the
   * signal's reason, or a `TimeoutError`; with `LimitExceeded` when too many calls wait already; with the reason when the channel closes.
   */
  call(name: string, args: readonly unknown[], options?: CallOptions): Promise<unknown> {
    if (this.#link.role !== "host") return Promise.reject(new TypeError("Cannot call from the actor's end"));
    if (this.#link.state === "closed") return Promise.reject(this.#link.rejection);
    return this.#calls.make(name, args, options);
  }

  /**
   * Sends a message. The value is read before this returns; the promise resolves when there is room for more, which may wait for the peer's
   * application to take earlier ones. Messages of one tick leave together. They keep their order; a call may overtake one that waits.
   */
  send(value: unknown): Promise<void> {
    if (this.#link.state === "closed") return Promise.reject(this.#link.rejection);
    return this.#sender.send(value);
  }

  /**
   * The messages received; each goes to one reader, and counts as taken when it does. Ends after the peer's `end()` or when the channel
   * closes; throws what the channel failed with.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<unknown> {
    const iterator = { next: () => this.#receiver.next(), [Symbol.asyncIterator]: () => iterator };
    return iterator;
  }

  /** Sends no more messages after those that wait. Calls go on. */
  end(): void {
    this.#sender.end();
  }

  /** Closes the link at once. What is pending rejects with the reason; messages that nobody took are dropped. */
  close(reason?: Error): void {
    if (this.#link.state === "closed") return;
    if (this.#link.state === "open") this.#link.outbox.flush();
    this.#finish(reason);
    this.#receiver.drop();
  }

  /** Hands the kernel what this tick has gathered, for a process that ends before the tick does. */
  flush(): void {
    if (this.#link.state === "open") this.#link.outbox.flush();
  }

  /** Lets the process end although the link is open. */
  unref(): void {
    this.#transport.unref?.();
  }

  // What the transport does.

  /** Takes bytes that arrived. Nobody may write to them afterwards. */
  receive(chunk: Buffer): void {
    if (this.#link.state !== "open") return;
    this.#link.traffic.received.bytes += chunk.length;
    try {
      // What answers this chunk leaves in one write.
      this.#link.outbox.gather();
      this.#splitter.push(chunk);
      this.#receiver.unpin(chunk);
      this.#link.outbox.flush();
    } catch (error) {
      this.#fail(error);
    }
  }

  /** The kernel takes bytes again. */
  drain(): void {
    if (this.#link.state !== "open") return;
    this.#link.outbox.drain();
    this.#receiver.credit();
    this.#release();
  }

  /** The data lane is closed. */
  lost(error?: Error): void {
    if (this.#link.state !== "open") return;
    const seen = this.#seenAtLoss(error);
    this.#link.state = "lost";
    this.#splitter.stop();
    if (this.#hooks.onLost === undefined) this.#finish(seen);
    else {
      Promise.try(() => this.#hooks.onLost?.(seen)).then(
        (reason) => this.#finish(reason),
        (thrown) => this.#finish(toError(thrown)),
      );
    }
  }

  // Frames from the peer.

  /** True when nothing refers to the bytes any more, as `Splitter` wants to know. */
  #accept(bytes: Buffer, start: number, end: number): boolean {
    const ended = this.#receiver.ended ? LAST_FLOW : 0;
    const kind = checkFrame(bytes, start, end, ACCEPTED[this.#link.role][this.#link.phase] & ~ended);
    const body = start + 1;
    switch (kind) {
      case "HELLO":
        this.#acceptHello(bytes, body, end);
        break;
      case "READY":
        this.#acceptReady(bytes, body, end);
        break;
      case "FAILED":
        this.#acceptFailure("onFailed", bytes, body, end);
        break;
      case "UNCAUGHT":
        this.#acceptFailure("onUncaught", bytes, body, end);
        break;
      case "START":
        this.#acceptStart(bytes, body, end);
        return false;
      case "CALL":
        this.#answers.accept(bytes, body, end);
        break;
      case "CANCEL":
        this.#answers.cancel(readU32(bytes, body));
        break;
      case "RESULT":
      case "THREW":
        this.#calls.accept(kind, bytes, body, end);
        if (this.#receiver.ended) this.#checkSurplus();
        this.#calls.release();
        break;
      case "MESSAGE":
        return this.#receiver.accept(bytes, body, end);
      case "CREDIT":
        this.#sender.accept(readU32(bytes, body), readU32(bytes, body + 4), readU32(bytes, body + 8));
        this.#release();
        break;
      case "END":
        this.#checkSurplus();
        this.#receiver.end();
        break;
    }
    return true;
  }

  #acceptHello(bytes: Buffer, body: number, end: number): void {
    const payload = body + GREETING.length;
    if (GREETING.some((byte, index) => byte !== bytes[body + index])) {
      throw new ProtocolViolation(`Cannot read HELLO: the actor does not speak version ${VERSION} of the protocol`);
    }
    const report = this.#link.read(bytes, payload, end);
    this.#link.phase = "greeted";
    this.#hooks.onHello?.(report);
  }

  #acceptReady(bytes: Buffer, body: number, end: number): void {
    const names = this.#link.read(bytes, body, end);
    if (!Array.isArray(names) || !names.every(isName))
      throw new ProtocolViolation("Cannot read READY: its value is no list of names");
    this.#link.phase = "ready";
    this.#hooks.onReady?.(names);
    this.#release();
  }

  #acceptFailure(hook: "onFailed" | "onUncaught", bytes: Buffer, body: number, end: number): void {
    const error = this.#link.read(bytes, body, end);
    this.#link.phase = "over";
    this.#hooks[hook]?.(error);
  }

  #acceptStart(bytes: Buffer, body: number, end: number): void {
    const payload = body + FRAMES.START.fields;
    const source = payload + readU32(bytes, body);
    if (source > end || source < payload + 2)
      throw new ProtocolViolation("Cannot read START: its payload has a wrong length");
    const options = this.#link.read(bytes, payload, source);
    this.#link.phase = "loading";
    this.#hooks.onStart?.(options, bytes.subarray(source, end));
    this.#release();
  }

  /** After its END an actor that owes no answer has nothing more to say, so no frame can name what is left. */
  #checkSurplus(): void {
    if (this.#link.role === "host" && this.#calls.inFlight === 0 && this.#link.descriptors.surplus) throw surplus();
  }

  // The rest.

  #expect(role: Role, phase: Phase, what: string): Link {
    const link = this.#link;
    if (link.role === role && link.phase === phase && link.state === "open") return link;
    throw new TypeError(
      `Cannot ${what}: the ${link.role}'s channel is ${link.phase}, ${link.state}; ${role}, ${phase} is expected`,
    );
  }

  /** Sends what waited. */
  #release(): void {
    this.#sender.release();
    this.#calls.release();
  }

  #fail(error: unknown): void {
    const reason = toError(error);
    this.#finish(reason);
    this.#receiver.drop();
    if (reason instanceof ProtocolViolation) this.#hooks.onViolation?.(reason);
  }

  /** What the lane's end looks like from here. */
  #seenAtLoss(error: Error | undefined): Error | undefined {
    if (this.#splitter.held > 0) return new ProtocolViolation("Cannot read on: the link closed inside a frame");
    try {
      if (this.#link.descriptors.surplus) return surplus();
    } catch (thrown) {
      return toError(thrown);
    }
    if (error === undefined && this.#receiver.ended && this.#calls.inFlight === 0) return undefined;
    return new Error("The peer closed the link", { cause: error });
  }

  #finish(reason: Error | undefined): void {
    const link = this.#link;
    if (link.state === "closed") return;
    link.state = "closed";
    link.reason = reason;
    const { rejection } = link;
    this.#splitter.stop();
    link.outbox.stop(rejection);
    this.#transport.close();
    this.#calls.stop(rejection);
    this.#sender.stop(rejection);
    this.#answers.stop();
    this.#receiver.stop();
    this.#resolveClosed(reason);
  }
}

/** Opens the channel on a socket of its own, which it closes. */
export async function connect(fd: number, options: Options): Promise<Channel> {
  let channel!: Channel;
  const { pace } = options;
  const handlers: Bun.SocketHandler = {
    open(socket) {
      const transport: Transport = {
        write(bytes, offset, length) {
          const taken = socket.write(bytes, offset, length);
          channel.traffic.sent.bytes += Math.max(0, taken);
          return taken;
        },
        close: () => socket.terminate(),
        unref: () => socket.unref(),
      };
      channel = new Channel(transport, options);
    },
    data(socket, chunk) {
      if (pace === undefined || pace.admits()) channel.receive(chunk);
      else {
        socket.pause(); // the kernel keeps the rest
        pace.wait(() => {
          socket.resume();
          channel.receive(chunk);
        });
      }
    },
    drain: () => channel.drain(),
    close(_, error) {
      if (pace === undefined || pace.admits()) channel.lost(error);
      else pace.wait(() => channel.lost(error)); // behind what came before
    },
    error: (_, error) => channel.lost(error),
  };
  // The types of Bun.connect do not know `fd`.
  await Bun.connect({ fd, socket: handlers } as unknown as Parameters<typeof Bun.connect>[0]);
  return channel;
}
