/** The peer's calls: each is answered once, with what a function returns, throws or resolves to (docs/wire.md, Calls). */
import { ProtocolViolation } from "./error.ts";
import { FRAMES, type Kind, readU32 } from "./frame.ts";
import { type Link, toError } from "./link.ts";
import type { Around } from "./outbox.ts";

/** What the callee may know of the call it answers. */
export interface Incoming {
  /** Aborts when the caller no longer waits, or the link is gone. */
  readonly signal: AbortSignal;
}

export type Callee = (name: string, args: readonly unknown[], call: Incoming) => unknown;

/** A call until it is answered. The signal is made when somebody looks. */
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

/** The head of an answer: room for the number. */
const NUMBERED: Around = { head: new Uint8Array(FRAMES.RESULT.fields) };

export class Answers {
  readonly #link: Link;
  readonly #callee: Callee;
  readonly #inFlight = new Map<number, Answering>();

  constructor(link: Link, callee: Callee) {
    this.#link = link;
    this.#callee = callee;
  }

  /** Takes a CALL. What is returned by then is answered now, without a promise. */
  accept(bytes: Buffer, body: number, end: number): void {
    const id = readU32(bytes, body);
    const payload = body + FRAMES.CALL.fields + bytes[body + 4]!;
    if (payload + 2 > end) throw new ProtocolViolation("Cannot read CALL: its name is longer than the frame");
    if (this.#inFlight.has(id)) throw new ProtocolViolation(`Cannot read CALL: ${id} is in flight already`);
    const name = bytes.toString("utf8", body + FRAMES.CALL.fields, payload);
    const args = this.#link.read(bytes, payload, end);
    if (!Array.isArray(args)) throw new ProtocolViolation("Cannot read CALL: its arguments are no array");
    const call = new Answering();
    let result: unknown;
    try {
      result = this.#callee(name, args, call);
    } catch (error) {
      this.#answer(id, "THREW", error);
      return;
    }
    if (!isThenable(result)) {
      this.#answer(id, "RESULT", result);
      return;
    }
    this.#inFlight.set(id, call);
    Promise.resolve(result).then(
      (value) => this.#answer(id, "RESULT", value),
      (error) => this.#answer(id, "THREW", error),
    );
  }

  /** Nobody waits for this answer any more. */
  cancel(id: number): void {
    this.#inFlight.get(id)?.abort();
  }

  stop(): void {
    for (const call of this.#inFlight.values()) call.abort();
    this.#inFlight.clear();
  }

  #answer(id: number, kind: "RESULT" | "THREW", value: unknown): void {
    this.#inFlight.delete(id);
    if (!this.#link.active) return;
    try {
      this.#commit(id, this.#link.outbox.append(kind, value, NUMBERED));
    } catch (error) {
      // It is nothing that can be sent, or the kernel lets no descriptors leave.
      this.#commit(id, appendError(this.#link, "THREW", error, NUMBERED));
    }
  }

  #commit(id: number, start: number): void {
    const { outbox } = this.#link;
    outbox.number(start, id);
    outbox.commit(start);
  }
}

/** Appends an error, or else why it cannot be sent. */
export function appendError({ outbox }: Link, kind: Kind, error: unknown, around?: Around): number {
  try {
    return outbox.append(kind, error, around);
  } catch (refusal) {
    return outbox.append(kind, new TypeError(toError(refusal).message), around);
  }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
}
