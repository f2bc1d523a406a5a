// One end of a link: messages with back-pressure, calls and their answers, and the watch over what a hostile peer sends (docs/wire.md).
import { LimitExceeded, ProtocolViolation } from "./error.ts";
import {
  type Around,
  checkFrame,
  type Descriptors,
  Fifo,
  FRAMES,
  type Frame,
  GREETING,
  HEADER_BYTES,
  handled,
  type Kind,
  LENGTH_BYTES,
  Outbox,
  readU32,
  Splitter,
  setOf,
  type Transport,
  VERSION,
  Window,
  type WindowSize,
  writeU32,
} from "./frame.ts";
import { decode, type Unpacker } from "./message.ts";

export interface Limits {
  /** Bytes of a frame, without its length. */
  readonly frameBytes: number;
  /** Descriptors that one frame may name. */
  readonly descriptors: number;
  /** Calls that have not been answered; more wait at the caller. */
  readonly calls: number;
  /** Calls, and messages, that may wait at this end; more are rejected. */
  readonly waiting: number;
  /** Bytes kept for a kernel that takes no more, before what can wait has to. */
  readonly outboxBytes: number;
  /** Messages under way in each direction: sent and not taken by the application at the other end. */
  readonly window: WindowSize;
}

/** Both ends must have the same, save `waiting` and `outboxBytes`. */
export const LIMITS: Limits = {
  frameBytes: 64 * 1024 * 1024,
  descriptors: 16,
  calls: 1024,
  waiting: 65_536,
  outboxBytes: 1024 * 1024,
  window: { messages: 1024, bytes: 4 * 1024 * 1024, descriptors: 64 },
};
/** Bytes of a function's name. */
const NAME_BYTES = 255;
/** The longest delay that `setTimeout` does not cut to nothing. */
const TIMEOUT_MS = 2 ** 31 - 1;

/** What the callee may know of the call it answers. */
export interface Incoming {
  /** Aborts when the caller no longer waits, or the link is gone. */
  readonly signal: AbortSignal;
}

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
  /** Actor: the code to load. */
  onStart?(options: unknown, source: Uint8Array): void;
  /** Actor: answers a call with what this returns, throws or resolves to. */
  onCall?(name: string, args: readonly unknown[], call: Incoming): unknown;
  /** The peer broke the protocol; the channel is closed already. */
  onViolation?(violation: ProtocolViolation): void;
  /** The data lane is closed. Returns what everything pending is to reject with, in place of what the channel could see itself. */
  onLost?(seen: Error | undefined): Error | undefined | Promise<Error | undefined>;
}

export interface Options {
  readonly role: "host" | "actor";
  readonly descriptors: Descriptors;
  readonly hooks?: Hooks;
  readonly limits?: Partial<Limits>;
}

export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  /** Rejects with a `TimeoutError` after so long. */
  readonly timeoutMs?: number | undefined;
  /** Checks the result and returns what the call resolves to; what it throws rejects the call. */
  readonly result?: ((value: unknown) => unknown) | undefined;
}

const FLOW = setOf("MESSAGE", "CREDIT", "END");
const LAST_FLOW = setOf("MESSAGE", "END");
const WORK = FLOW | setOf("CALL", "CANCEL");

/** The kinds that may arrive, by who receives and the phase of the actor's life. */
const ACCEPTED = {
  host: {
    opening: setOf("HELLO", "FAILED"),
    greeted: setOf("FAILED"),
    loading: setOf("READY", "FAILED") | FLOW,
    ready: setOf("RESULT", "THREW", "UNCAUGHT") | FLOW,
    over: 0,
  },
  actor: { opening: 0, greeted: setOf("START"), loading: FLOW, ready: WORK, over: WORK },
} as const;
type Phase = keyof typeof ACCEPTED.host;

/** A call of ours, until it is answered. */
interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (reason: unknown) => void;
  readonly check: CallOptions["result"];
  id: number;
  /** While it waits for its turn. */
  frame: Frame | undefined;
  /** Takes back the timer and the listener. */
  disarm: (() => void) | undefined;
}

interface WaitingMessage extends Frame {
  readonly resolve: (value: Promise<void>) => void;
  readonly reject: (reason: Error) => void;
}

/** A message that nobody has taken. It stays bytes until then: decoded, it may be many times larger. */
interface Received {
  bytes: Buffer;
  start: number;
  end: number;
  /** What it takes of the window. */
  readonly size: number;
  readonly capabilities: readonly object[];
}

interface Reader {
  readonly resolve: (result: IteratorResult<unknown>) => void;
  readonly reject: (reason: Error) => void;
}

/** A call of the peer, until we answer. The signal is made when somebody looks. */
class Answering implements Incoming {
  #controller: AbortController | undefined;
  #aborted = false;

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#aborted) this.#controller.abort();
    }
    return this.#controller.signal;
  }

  abort(): void {
    this.#aborted = true;
    this.#controller?.abort();
  }
}

const NONE: readonly object[] = [];

/** One end of a link. Host and actor run the same code. */
export class Channel {
  /** Resolves when nothing more will happen, with what went wrong, if anything did. */
  readonly closed: Promise<Error | undefined>;
  readonly #resolveClosed: (reason: Error | undefined) => void;

  readonly #role: Options["role"];
  readonly #descriptors: Descriptors;
  readonly #hooks: Hooks;
  readonly #limits: Limits;
  readonly #transport: Transport;
  readonly #outbox: Outbox;
  readonly #splitter: Splitter;

  #phase: Phase = "opening";
  /** Lost: the lane is closed, and why is being found out. */
  #state: "open" | "lost" | "closed" = "open";
  #reason: Error | undefined;

  /** Our calls in flight; null for a cancelled one. */
  readonly #calls = new Map<number, Pending | null>();
  readonly #waitingCalls = new Set<Pending>();
  #nextCall = 0;
  /** The peer's calls in flight. */
  readonly #answering = new Map<number, Answering>();

  /** What counts in the window to the peer, and in the one to us. */
  readonly #sent: Window;
  readonly #received: Window;
  /** The part of `#received` that was taken and awaits being credited. */
  readonly #owed: Window;
  readonly #waitingMessages = new Set<WaitingMessage>();
  readonly #inbox = new Fifo<Received>();
  readonly #readers = new Fifo<Reader>();
  /** What the chunk at hand added to the inbox. */
  #added: Received[] = [];
  /** `end()` was called; END was sent; END was received. */
  #ending = false;
  #sentEnd = false;
  #ended = false;

  constructor(transport: Transport, options: Options) {
    this.#role = options.role;
    this.#descriptors = options.descriptors;
    this.#hooks = options.hooks ?? {};
    this.#limits = { ...LIMITS, ...options.limits };
    const { window, descriptors, frameBytes } = this.#limits;
    if (descriptors * 2 > window.descriptors) {
      throw new RangeError(`Cannot pass ${descriptors} descriptors in a window of ${window.descriptors}: half at most`);
    }
    this.#transport = transport;
    this.#outbox = new Outbox(transport, options.descriptors, this.#limits);
    this.#splitter = new Splitter(frameBytes, (bytes, start, end) => this.#accept(bytes, start, end));
    this.#sent = new Window(window);
    this.#received = new Window(window);
    this.#owed = new Window(window);
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    this.closed = promise;
    this.#resolveClosed = resolve;
  }

  // The life of an actor.

  /** Actor: reports that the last doors are closed. */
  hello(report: unknown): void {
    this.#expect("actor", "opening", "hello()");
    this.#outbox.commit(this.#outbox.append("HELLO", report, { head: GREETING }));
    this.#phase = "greeted";
  }

  /** Host: sends the code, after which messages flow. */
  start(options: unknown, source: string | Uint8Array): void {
    this.#expect("host", "greeted", "start()");
    const tail = typeof source === "string" ? new TextEncoder().encode(source) : source;
    this.#outbox.commit(this.#outbox.append("START", options, { head: new Uint8Array(FRAMES.START.fields), tail }));
    this.#phase = "loading";
    this.#release();
  }

  /** Actor: reports that the module is loaded, after which calls come. */
  ready(names: readonly string[]): void {
    this.#expect("actor", "loading", "ready()");
    for (const name of names) encodeName(name);
    this.#outbox.commit(this.#outbox.append("READY", names));
    this.#phase = "ready";
  }

  /** Actor: reports what ends it, while loading or later. Nothing is sent after it; resolves when the kernel has it. */
  failed(error: unknown): Promise<void> {
    if (this.#role !== "actor") throw new TypeError("Cannot report a failure from the host's end");
    if (!this.#active) return Promise.resolve();
    this.#outbox.commit(this.#appendError(this.#phase === "ready" ? "UNCAUGHT" : "FAILED", error));
    this.#phase = "over";
    return this.#outbox.flushed;
  }

  // Calls and messages.

  /**
   * Calls a function of the actor. The arguments are read before this returns. Rejects with what the function threw; at once with the
   * signal's reason, or a `TimeoutError`; with `LimitExceeded` when too many calls wait already; with the reason when the channel closes.
   */
  call(name: string, args: readonly unknown[], options?: CallOptions): Promise<unknown> {
    if (this.#role !== "host") return Promise.reject(new TypeError("Cannot call from the actor's end"));
    if (this.#state === "closed") return Promise.reject(this.#closedError());
    const signal = options?.signal;
    const timeoutMs = options?.timeoutMs;
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (timeoutMs !== undefined && !(timeoutMs >= 0 && timeoutMs <= TIMEOUT_MS)) {
      return Promise.reject(new RangeError(`Cannot wait ${timeoutMs} ms: 0 to ${TIMEOUT_MS} is expected`));
    }
    return new Promise((resolve, reject) => {
      const pending: Pending = { resolve, reject, check: options?.result, id: 0, frame: undefined, disarm: undefined };
      const start = this.#outbox.append("CALL", args, callHead(name));
      if (this.#waitingCalls.size === 0 && this.#mayCall) {
        const id = this.#freeNumber();
        this.#outbox.number(start, id);
        this.#outbox.commit(start);
        this.#enlist(pending, id);
      } else {
        pending.frame = this.#outbox.cut(start);
        this.#wait(this.#waitingCalls, pending, "call");
      }
      if (signal !== undefined || timeoutMs !== undefined) this.#arm(pending, name, signal, timeoutMs);
    });
  }

  /**
   * Sends a message. The value is read before this returns; the promise resolves when the kernel has it, which may wait for the peer's
   * application to take earlier ones. Messages keep their order; a call may overtake one that waits.
   */
  send(value: unknown): Promise<void> {
    if (this.#state === "closed") return Promise.reject(this.#closedError());
    if (this.#ending) return Promise.reject(new TypeError("Cannot send a message after end()"));
    try {
      const start = this.#outbox.append("MESSAGE", value);
      const size = this.#outbox.sizeOf(start);
      const { descriptors } = this.#outbox;
      if (this.#waitingMessages.size === 0 && this.#maySend(size, descriptors)) {
        this.#outbox.commit(start);
        this.#sent.add(1, size, descriptors);
        return this.#outbox.flushed;
      }
      const { promise, resolve, reject } = handled();
      this.#wait(this.#waitingMessages, { ...this.#outbox.cut(start), resolve, reject }, "message");
      return promise;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * The messages received; each goes to one reader, and counts as taken when it does. Ends after the peer's `end()` or when the channel
   * closes; throws what the channel failed with.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<unknown> {
    const iterator = { next: () => this.#next(), [Symbol.asyncIterator]: () => iterator };
    return iterator;
  }

  /** Sends no more messages after those that wait. Calls go on. */
  end(): void {
    this.#ending = true;
    this.#release();
  }

  /** Closes the link at once. What is pending rejects with the reason; messages that nobody took are dropped. */
  close(reason?: Error): void {
    if (this.#state === "closed") return;
    if (this.#state === "open") this.#outbox.flush();
    this.#finish(reason);
    this.#dropInbox();
  }

  /** Lets the process end although the link is open. */
  unref(): void {
    this.#transport.unref?.();
  }

  // What the transport does.

  /** Takes bytes that arrived. Nobody may write to them afterwards. */
  receive(chunk: Buffer): void {
    if (this.#state !== "open") return;
    try {
      this.#splitter.push(chunk);
      if (this.#added.length > 0) this.#unpin(chunk);
    } catch (error) {
      this.#fail(error);
    }
  }

  /** The kernel takes bytes again. */
  drain(): void {
    if (this.#state !== "open") return;
    this.#outbox.drain();
    this.#credit();
    this.#release();
  }

  /** The data lane is closed. */
  lost(error?: Error): void {
    if (this.#state !== "open") return;
    const seen = this.#seenAtLoss(error);
    this.#state = "lost";
    this.#splitter.stop();
    if (this.#hooks.onLost === undefined) this.#finish(seen);
    else {
      Promise.try(() => this.#hooks.onLost?.(seen)).then(
        (reason) => this.#finish(reason),
        (thrown) => this.#finish(toError(thrown)),
      );
    }
  }

  // Frames to the peer.

  get #active(): boolean {
    return this.#state === "open" && this.#phase !== "over";
  }

  get #mayCall(): boolean {
    return (
      this.#state === "open" && this.#phase === "ready" && this.#calls.size < this.#limits.calls && !this.#outbox.full
    );
  }

  /** Messages may pass. */
  get #flows(): boolean {
    return this.#state === "open" && (this.#phase === "ready" || this.#phase === "loading");
  }

  #maySend(size: number, descriptors: number): boolean {
    return this.#flows && !this.#outbox.full && this.#sent.admits(size, descriptors);
  }

  #expect(role: Options["role"], phase: Phase, what: string): void {
    if (this.#role === role && this.#phase === phase && this.#state === "open") return;
    throw new TypeError(
      `Cannot ${what}: the ${this.#role}'s channel is ${this.#phase}, ${this.#state}; ${role}, ${phase} is expected`,
    );
  }

  /** Sends what waited, as far as phase, credit, calls in flight and the kernel allow. */
  #release(): void {
    for (const message of this.#waitingMessages) {
      const size = message.bytes.length - LENGTH_BYTES;
      if (!this.#maySend(size, message.capabilities.length)) break;
      this.#waitingMessages.delete(message);
      if (!this.#resume(message, message)) continue;
      this.#sent.add(1, size, message.capabilities.length);
      message.resolve(this.#outbox.flushed);
    }
    if (this.#ending && !this.#sentEnd && this.#flows && this.#waitingMessages.size === 0) {
      this.#sentEnd = true;
      this.#outbox.signal("END");
    }
    for (const pending of this.#waitingCalls) {
      if (!this.#mayCall) break;
      this.#waitingCalls.delete(pending);
      const frame = pending.frame!;
      pending.frame = undefined;
      const id = this.#freeNumber();
      writeU32(frame.bytes, HEADER_BYTES, id);
      if (this.#resume(frame, pending)) this.#enlist(pending, id);
      else pending.disarm?.();
    }
  }

  /** Commits a frame that waited; false, when its descriptors could not be sent. */
  #resume(frame: Frame, waiting: Pick<WaitingMessage, "reject">): boolean {
    try {
      this.#outbox.put(frame);
      return true;
    } catch (error) {
      waiting.reject(toError(error));
      return false;
    }
  }

  #wait<T>(queue: Set<T>, item: T, what: string): void {
    const { waiting } = this.#limits;
    if (queue.size >= waiting)
      throw new LimitExceeded(`Cannot send another ${what}: ${waiting} are waiting`, `${what}s`);
    queue.add(item);
  }

  /** A number that no call in flight has. */
  #freeNumber(): number {
    while (this.#calls.has(this.#nextCall)) this.#nextCall = (this.#nextCall + 1) >>> 0;
    return this.#nextCall;
  }

  #enlist(pending: Pending, id: number): void {
    pending.id = id;
    this.#nextCall = (id + 1) >>> 0;
    this.#calls.set(id, pending);
  }

  #arm(pending: Pending, name: string, signal: AbortSignal | undefined, timeoutMs: number | undefined): void {
    const abort = () => this.#cancel(pending, signal?.reason);
    // Reading the arguments may have aborted it.
    if (signal?.aborted) {
      abort();
      return;
    }
    const expire = () =>
      this.#cancel(
        pending,
        new DOMException(`Cannot wait longer for ${name}(): ${timeoutMs} ms are over`, "TimeoutError"),
      );
    const timer = timeoutMs === undefined ? undefined : setTimeout(expire, timeoutMs);
    signal?.addEventListener("abort", abort, { once: true });
    pending.disarm = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    };
  }

  #cancel(pending: Pending, reason: unknown): void {
    pending.disarm?.();
    pending.reject(reason);
    if (this.#waitingCalls.delete(pending)) return;
    // The number stays taken until the actor answers.
    this.#calls.set(pending.id, null);
    if (this.#active) this.#outbox.signal("CANCEL", pending.id);
  }

  #answer(id: number, kind: "RESULT" | "THREW", value: unknown): void {
    this.#answering.delete(id);
    if (!this.#active) return;
    let start: number;
    try {
      start = this.#outbox.append(kind, value, NUMBERED);
    } catch (error) {
      start = this.#appendError("THREW", error, NUMBERED);
    }
    this.#outbox.number(start, id);
    this.#outbox.commit(start);
  }

  /** Appends an error, or else why it cannot be sent. */
  #appendError(kind: Kind, error: unknown, around?: Around): number {
    try {
      return this.#outbox.append(kind, error, around);
    } catch (refusal) {
      return this.#outbox.append(kind, new TypeError(toError(refusal).message), around);
    }
  }

  // Frames from the peer.

  #accept(bytes: Buffer, start: number, end: number): void {
    const ended = this.#ended ? LAST_FLOW : 0;
    const kind = checkFrame(bytes, start, end, ACCEPTED[this.#role][this.#phase] & ~ended);
    this.#handlers[kind](bytes, start + 1, end);
  }

  readonly #handlers: Record<Kind, (bytes: Buffer, body: number, end: number) => void> = {
    HELLO: (bytes, body, end) => this.#acceptHello(bytes, body, end),
    READY: (bytes, body, end) => this.#acceptReady(bytes, body, end),
    FAILED: (bytes, body, end) => this.#acceptFailure("onFailed", bytes, body, end),
    RESULT: (bytes, body, end) => this.#acceptAnswer("RESULT", bytes, body, end),
    THREW: (bytes, body, end) => this.#acceptAnswer("THREW", bytes, body, end),
    UNCAUGHT: (bytes, body, end) => this.#acceptFailure("onUncaught", bytes, body, end),
    START: (bytes, body, end) => this.#acceptStart(bytes, body, end),
    CALL: (bytes, body, end) => this.#acceptCall(bytes, body, end),
    CANCEL: (bytes, body) => this.#answering.get(readU32(bytes, body))?.abort(),
    MESSAGE: (bytes, body, end) => this.#acceptMessage(bytes, body, end),
    CREDIT: (bytes, body) =>
      this.#acceptCredit(readU32(bytes, body), readU32(bytes, body + 4), readU32(bytes, body + 8)),
    END: () => this.#acceptEnd(),
  };

  #acceptHello(bytes: Buffer, body: number, end: number): void {
    const payload = body + GREETING.length;
    if (GREETING.some((byte, index) => byte !== bytes[body + index])) {
      throw new ProtocolViolation(`Cannot read HELLO: the actor does not speak version ${VERSION} of the protocol`);
    }
    const report = this.#read(bytes, payload, end);
    this.#phase = "greeted";
    this.#hooks.onHello?.(report);
  }

  #acceptReady(bytes: Buffer, body: number, end: number): void {
    const names = this.#read(bytes, body, end);
    if (!Array.isArray(names) || !names.every(isName))
      throw new ProtocolViolation("Cannot read READY: its value is no list of names");
    this.#phase = "ready";
    this.#hooks.onReady?.(names);
    this.#release();
  }

  #acceptFailure(hook: "onFailed" | "onUncaught", bytes: Buffer, body: number, end: number): void {
    const error = this.#read(bytes, body, end);
    this.#phase = "over";
    this.#hooks[hook]?.(error);
  }

  #acceptAnswer(kind: "RESULT" | "THREW", bytes: Buffer, body: number, end: number): void {
    const id = readU32(bytes, body);
    const pending = this.#calls.get(id);
    if (pending === undefined) throw new ProtocolViolation(`Cannot read ${kind}: no call ${id} is in flight`);
    const capabilities = this.#take(bytes, body + 4);
    if (pending === null) dispose(capabilities);
    else {
      const value = decodeValue(bytes.subarray(body + 5, end), capabilities);
      pending.disarm?.();
      if (kind === "THREW") pending.reject(value);
      else settle(pending, value, capabilities);
    }
    this.#calls.delete(id);
    if (this.#ended) this.#checkSurplus();
    if (this.#waitingCalls.size > 0) this.#release();
  }

  #acceptStart(bytes: Buffer, body: number, end: number): void {
    const payload = body + FRAMES.START.fields;
    const source = payload + readU32(bytes, body);
    if (source > end || source < payload + 2)
      throw new ProtocolViolation("Cannot read START: its payload has a wrong length");
    const options = this.#read(bytes, payload, source);
    this.#phase = "loading";
    this.#hooks.onStart?.(options, bytes.subarray(source, end));
    this.#release();
  }

  #acceptCall(bytes: Buffer, body: number, end: number): void {
    const id = readU32(bytes, body);
    const payload = body + FRAMES.CALL.fields + bytes[body + 4]!;
    if (payload + 2 > end) throw new ProtocolViolation("Cannot read CALL: its name is longer than the frame");
    if (this.#answering.has(id)) throw new ProtocolViolation(`Cannot read CALL: ${id} is in flight already`);
    const name = bytes.toString("utf8", body + FRAMES.CALL.fields, payload);
    const args = this.#read(bytes, payload, end);
    if (!Array.isArray(args)) throw new ProtocolViolation("Cannot read CALL: its arguments are no array");
    const call = new Answering();
    let result: unknown;
    try {
      result = this.#hooks.onCall?.(name, args, call);
    } catch (error) {
      this.#answer(id, "THREW", error);
      return;
    }
    if (!isThenable(result)) {
      this.#answer(id, "RESULT", result);
      return;
    }
    this.#answering.set(id, call);
    Promise.resolve(result).then(
      (value) => this.#answer(id, "RESULT", value),
      (error) => this.#answer(id, "THREW", error),
    );
  }

  #acceptMessage(bytes: Buffer, body: number, end: number): void {
    const size = end - body + 1;
    const descriptors = bytes[body]!;
    if (!this.#received.admits(size, descriptors)) {
      throw new ProtocolViolation(
        `Cannot take a message of ${size} bytes and ${descriptors} descriptors: the window is full`,
      );
    }
    const message = { bytes, start: body + 1, end, size, capabilities: this.#take(bytes, body) };
    this.#received.add(1, size, descriptors);
    const reader = this.#readers.shift();
    if (reader === undefined) {
      this.#inbox.push(message);
      this.#added.push(message);
      return;
    }
    try {
      reader.resolve({ done: false, value: this.#open(message) });
    } catch (error) {
      reader.reject(toError(error));
      throw error;
    }
  }

  #acceptCredit(messages: number, bytes: number, descriptors: number): void {
    if (messages === 0 || !this.#sent.remove(messages, bytes, descriptors)) {
      throw new ProtocolViolation(
        `Cannot take credit for ${messages} messages, ${bytes} bytes, ${descriptors} descriptors: not so much was sent`,
      );
    }
    this.#release();
  }

  #acceptEnd(): void {
    this.#ended = true;
    this.#checkSurplus();
    for (let reader = this.#readers.shift(); reader !== undefined; reader = this.#readers.shift())
      reader.resolve(FINISHED);
  }

  /** The actor has nothing more to say, so no frame can name what is left. */
  #checkSurplus(): void {
    if (this.#role === "host" && this.#calls.size === 0 && this.#descriptors.surplus) throw surplus();
  }

  /** The capabilities that the payload at `at` names. */
  #take(bytes: Buffer, at: number): readonly object[] {
    const count = bytes[at]!;
    if (count === 0) return NONE;
    if (count > this.#limits.descriptors) {
      throw new ProtocolViolation(
        `Cannot take ${count} descriptors with one frame: ${this.#limits.descriptors} are allowed`,
      );
    }
    return this.#descriptors.take(count);
  }

  /** The value of the payload at `at`. */
  #read(bytes: Buffer, at: number, end: number): unknown {
    return decodeValue(bytes.subarray(at + 1, end), this.#take(bytes, at));
  }

  // Messages that arrived.

  #next(): Promise<IteratorResult<unknown>> {
    const message = this.#inbox.shift();
    if (message !== undefined) {
      try {
        return Promise.resolve({ done: false, value: this.#open(message) });
      } catch (error) {
        this.#fail(error);
        return Promise.reject(error);
      }
    }
    if (this.#reason instanceof ProtocolViolation) return Promise.reject(this.#reason);
    if (this.#ended) return Promise.resolve(FINISHED);
    if (this.#state === "closed")
      return this.#reason === undefined ? Promise.resolve(FINISHED) : Promise.reject(this.#reason);
    const { promise, resolve, reject } = Promise.withResolvers<IteratorResult<unknown>>();
    this.#readers.push({ resolve, reject });
    return promise;
  }

  /** Decodes a message that the application takes. */
  #open(message: Received): unknown {
    this.#owed.add(1, message.size, message.capabilities.length);
    this.#credit();
    return decodeValue(message.bytes.subarray(message.start, message.end), message.capabilities);
  }

  /** Returns the credit that is owed, when it is worth a frame. While the peer reads nothing it adds up, and nothing is queued. */
  #credit(): void {
    if (!this.#owed.isHalf || !this.#active || this.#ended || this.#outbox.blocked) return;
    const { messages, bytes, descriptors } = this.#owed;
    this.#owed.remove(messages, bytes, descriptors);
    this.#received.remove(messages, bytes, descriptors);
    this.#outbox.signal("CREDIT", messages, bytes, descriptors);
  }

  /** Copies what the inbox keeps of a chunk when that is little, so that small messages do not hold on to much memory. */
  #unpin(chunk: Buffer): void {
    const kept = this.#added.filter((message) => message.bytes === chunk);
    this.#added = [];
    if (kept.reduce((sum, message) => sum + message.size, 0) * 4 >= chunk.length) return;
    for (const message of kept) {
      message.bytes = Buffer.from(message.bytes.subarray(message.start, message.end));
      message.start = 0;
      message.end = message.bytes.length;
    }
  }

  #dropInbox(): void {
    for (let message = this.#inbox.shift(); message !== undefined; message = this.#inbox.shift())
      dispose(message.capabilities);
  }

  // The end.

  #fail(error: unknown): void {
    const reason = toError(error);
    this.#finish(reason);
    this.#dropInbox();
    if (reason instanceof ProtocolViolation) this.#hooks.onViolation?.(reason);
  }

  /** What the lane's end looks like from here. */
  #seenAtLoss(error: Error | undefined): Error | undefined {
    if (this.#splitter.held > 0) return new ProtocolViolation("Cannot read on: the link closed inside a frame");
    try {
      if (this.#descriptors.surplus) return surplus();
    } catch (thrown) {
      return toError(thrown);
    }
    if (error === undefined && this.#ended && this.#calls.size === 0) return undefined;
    return new Error("The peer closed the link", { cause: error });
  }

  #closedError(): Error {
    return this.#reason ?? new Error("The channel is closed");
  }

  #finish(reason: Error | undefined): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#reason = reason;
    const rejection = this.#closedError();
    this.#splitter.stop();
    this.#outbox.stop(rejection);
    this.#transport.close();
    for (const pending of [...this.#calls.values(), ...this.#waitingCalls]) {
      pending?.disarm?.();
      pending?.reject(rejection);
    }
    this.#calls.clear();
    this.#waitingCalls.clear();
    for (const message of this.#waitingMessages) message.reject(rejection);
    this.#waitingMessages.clear();
    for (const call of this.#answering.values()) call.abort();
    this.#answering.clear();
    for (let reader = this.#readers.shift(); reader !== undefined; reader = this.#readers.shift()) {
      if (reason === undefined) reader.resolve(FINISHED);
      else reader.reject(reason);
    }
    this.#resolveClosed(reason);
  }
}

/** Opens the channel on a socket of its own, which it closes. */
export async function connect(fd: number, options: Options): Promise<Channel> {
  let channel!: Channel;
  const handlers: Bun.SocketHandler = {
    open(socket) {
      const transport: Transport = {
        write: (bytes, offset, length) => socket.write(bytes, offset, length),
        close: () => socket.terminate(),
        unref: () => socket.unref(),
      };
      channel = new Channel(transport, options);
    },
    data: (_, chunk) => channel.receive(chunk),
    drain: () => channel.drain(),
    close: (_, error) => channel.lost(error),
    error: (_, error) => channel.lost(error),
  };
  // The types of Bun.connect do not know `fd`.
  await Bun.connect({ fd, socket: handlers } as unknown as Parameters<typeof Bun.connect>[0]);
  return channel;
}

/** The capabilities of one frame, as its value names them. */
class Unpacking implements Unpacker {
  readonly #capabilities: (object | undefined)[];
  /** How many were not named. */
  left: number;

  constructor(capabilities: readonly object[]) {
    this.#capabilities = [...capabilities];
    this.left = capabilities.length;
  }

  capability(index: number): object {
    const capability = this.#capabilities[index];
    if (capability === undefined) {
      throw new ProtocolViolation(`Cannot read a value: descriptor ${index} was not sent, or is named twice`);
    }
    this.#capabilities[index] = undefined;
    this.left--;
    return capability;
  }
}
const NO_CAPABILITIES = new Unpacking(NONE);

/** The head of an answer: room for the number. */
const NUMBERED: Around = { head: new Uint8Array(FRAMES.RESULT.fields) };
const FINISHED: IteratorResult<never> = { done: true, value: undefined };

/** Decodes a value, which names each of its frame's capabilities once. */
function decodeValue(bytes: Uint8Array, capabilities: readonly object[]): unknown {
  const unpacking = capabilities.length === 0 ? NO_CAPABILITIES : new Unpacking(capabilities);
  try {
    const value = decode(bytes, unpacking);
    if (unpacking.left > 0) throw surplus();
    return value;
  } catch (error) {
    dispose(capabilities);
    if (error instanceof ProtocolViolation) throw error;
    throw new ProtocolViolation("Cannot read a value", { cause: error });
  }
}

function settle({ check, resolve, reject }: Pending, value: unknown, capabilities: readonly object[]): void {
  try {
    resolve(check === undefined ? value : check(value));
  } catch (error) {
    dispose(capabilities);
    reject(error);
  }
}

/** The head of CALL: room for the number, and the name. */
function callHead(name: string): Around {
  let around = HEADS.get(name);
  if (around === undefined) {
    const bytes = encodeName(name);
    const head = new Uint8Array(FRAMES.CALL.fields + bytes.length);
    head[FRAMES.CALL.fields - 1] = bytes.length;
    head.set(bytes, FRAMES.CALL.fields);
    around = { head };
    if (HEADS.size === KEPT_HEADS) HEADS.clear();
    HEADS.set(name, around);
  }
  return around;
}
const HEADS = new Map<string, Around>();
const KEPT_HEADS = 1024;

function encodeName(name: string): Uint8Array {
  const bytes = new TextEncoder().encode(name);
  if (bytes.length >= 1 && bytes.length <= NAME_BYTES) return bytes;
  throw new RangeError(`Cannot use a name of ${bytes.length} bytes: 1 to ${NAME_BYTES} are expected`);
}

function isName(value: unknown): boolean {
  // A character takes 1 to 3 bytes of UTF-8 for each unit of UTF-16.
  if (typeof value !== "string" || value.length === 0 || value.length > NAME_BYTES) return false;
  return new TextEncoder().encode(value).length <= NAME_BYTES;
}

function dispose(capabilities: readonly Partial<Disposable>[]): void {
  for (const capability of capabilities) capability[Symbol.dispose]?.();
}

function surplus(): ProtocolViolation {
  return new ProtocolViolation("Cannot accept descriptors that no value names");
}

function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error("Something was thrown that is no error", { cause: thrown });
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
}
