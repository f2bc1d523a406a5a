/** The peer's messages: kept as bytes until the application takes them, which is what returns credit (docs/wire.md, Flow of messages). */
import { ProtocolViolation } from "./error.ts";
import { Fifo } from "./fifo.ts";
import { type Link, toError } from "./link.ts";
import { dispose, open } from "./payload.ts";
import type { Party, Share, Turns } from "./turns.ts";
import { Window } from "./window.ts";

/** A message that nobody has taken. Decoded, it may be many times larger. */
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

const FINISHED: IteratorResult<never> = { done: true, value: undefined };

export class Receiver implements Party {
  readonly #link: Link;
  readonly #fail: (error: unknown) => void;
  /** What the peer was not credited for, and the part of it that was taken. */
  readonly #received: Window;
  readonly #owed: Window;
  readonly #inbox = new Fifo<Received>();
  readonly #readers = new Fifo<Reader>();
  /** What the chunk at hand added to the inbox. */
  #added: Received[] = [];
  #ended = false;
  #stopped = false;
  readonly #turns: Turns | undefined;
  readonly #share: Share = { turn: -1, messages: 0, bytes: 0 };

  /** `fail` is told of a message that does not decode when it is taken. Without `turns`, all is handed out as soon as it is there. */
  constructor(link: Link, fail: (error: unknown) => void, turns?: Turns) {
    this.#link = link;
    this.#fail = fail;
    this.#turns = turns;
    this.#received = new Window(link.limits.window);
    this.#owed = new Window(link.limits.window);
  }

  /** END was received. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Takes a MESSAGE. False when it waits, and its bytes with it. */
  accept(bytes: Buffer, body: number, end: number): boolean {
    const size = end - body + 1;
    const descriptors = bytes[body]!;
    if (!this.#received.admits(size, descriptors)) {
      throw new ProtocolViolation(
        `Cannot take a message of ${size} bytes and ${descriptors} descriptors: the window is full`,
      );
    }
    const message = { bytes, start: body + 1, end, size, capabilities: this.#link.take(bytes, body) };
    this.#received.add(1, size, descriptors);
    this.#link.traffic.received.messages++;
    if (this.#readers.length === 0 || !this.#mayTake(size)) {
      this.#inbox.push(message);
      this.#added.push(message);
      return false;
    }
    const reader = this.#readers.shift()!;
    try {
      reader.resolve({ done: false, value: this.#open(message) });
      return true;
    } catch (error) {
      reader.reject(toError(error));
      throw error;
    }
  }

  /** Takes an END. */
  end(): void {
    this.#ended = true;
    this.#conclude();
  }

  /** The next message, for one reader. */
  next(): Promise<IteratorResult<unknown>> {
    const first = this.#inbox.peek();
    if (first !== undefined) {
      if (this.#readers.length > 0 || !this.#mayTake(first.size)) return this.#read();
      this.#inbox.shift();
      try {
        return Promise.resolve({ done: false, value: this.#open(first) });
      } catch (error) {
        this.#fail(error);
        return Promise.reject(error);
      }
    }
    const { state, reason } = this.#link;
    if (reason instanceof ProtocolViolation) return Promise.reject(reason);
    if (this.#ended) return Promise.resolve(FINISHED);
    if (state === "closed") return reason === undefined ? Promise.resolve(FINISHED) : Promise.reject(reason);
    return this.#read();
  }

  /** Hands out messages to those who wait, as many as are its share. */
  serve(): boolean {
    for (let first = this.#inbox.peek(); first !== undefined && this.#readers.length > 0; first = this.#inbox.peek()) {
      if (this.#turns?.admits(this.#share, first.size) === false) return true;
      this.#inbox.shift();
      const reader = this.#readers.shift()!;
      try {
        reader.resolve({ done: false, value: this.#open(first) });
      } catch (error) {
        reader.reject(toError(error));
        this.#fail(error);
      }
    }
    this.#conclude();
    return false;
  }

  /** Returns the credit that is owed, when it is worth a frame. While the peer reads nothing it adds up, and nothing is queued. */
  credit(): void {
    const { active, outbox } = this.#link;
    if (!this.#owed.isHalf || !active || this.#ended || outbox.blocked) return;
    const { messages, bytes, descriptors } = this.#owed;
    this.#owed.remove(messages, bytes, descriptors);
    this.#received.remove(messages, bytes, descriptors);
    outbox.signal("CREDIT", messages, bytes, descriptors);
  }

  /** Copies what the inbox keeps of a chunk when that is little, so that small messages do not hold on to much memory. */
  unpin(chunk: Buffer): void {
    if (this.#added.length === 0) return;
    const kept = this.#added.filter((message) => message.bytes === chunk);
    this.#added = [];
    if (kept.reduce((sum, message) => sum + message.size, 0) * 4 >= chunk.length) return;
    for (const message of kept) {
      message.bytes = Buffer.from(message.bytes.subarray(message.start, message.end));
      message.start = 0;
      message.end = message.bytes.length;
    }
  }

  /** Ends those who wait for a message. What arrived can still be taken. */
  stop(): void {
    this.#stopped = true;
    this.#conclude();
  }

  /** Drops what arrived. */
  drop(): void {
    for (const message of this.#inbox.drain()) dispose(message.capabilities);
    this.#conclude();
  }

  #read(): Promise<IteratorResult<unknown>> {
    return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }));
  }

  /** Whether a message may be handed out now; otherwise it is in a later turn. */
  #mayTake(size: number): boolean {
    if (this.#turns === undefined) return true;
    const isNext = this.#inbox.length === 0 || this.#readers.length === 0;
    if (isNext && this.#turns.admits(this.#share, size)) return true;
    this.#turns.wait(this);
    return false;
  }

  /** Ends those who wait for what will not come, when what came is taken. */
  #conclude(): void {
    if (this.#inbox.length > 0 || !(this.#ended || this.#stopped)) return;
    const { reason } = this.#link;
    const failed = this.#ended && !(reason instanceof ProtocolViolation) ? undefined : reason;
    for (const reader of this.#readers.drain()) {
      if (failed === undefined) reader.resolve(FINISHED);
      else reader.reject(failed);
    }
  }

  /** Decodes a message that the application takes. */
  #open({ bytes, start, end, size, capabilities }: Received): unknown {
    this.#owed.add(1, size, capabilities.length);
    this.credit();
    return open(bytes, start, end, capabilities);
  }
}
