/** Our calls: sent while few are in flight, answered in any order, given up by their callers (docs/wire.md, Calls). */
import { ProtocolViolation } from "./error.ts";
import { FRAMES, HEADER_BYTES, readU32, writeU32 } from "./frame.ts";
import type { Link } from "./link.ts";
import { encodeName } from "./name.ts";
import type { Around, Frame } from "./outbox.ts";
import { dispose, open } from "./payload.ts";

export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  /** Rejects with a `TimeoutError` after so long. */
  readonly timeoutMs?: number | undefined;
  /** Checks the result and returns what the call resolves to; what it throws rejects the call. */
  readonly result?: ((value: unknown) => unknown) | undefined;
}

/** A call until it is answered. */
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

/** The longest delay that `setTimeout` does not cut to nothing. */
const TIMEOUT_MS = 2 ** 31 - 1;
const NO_OPTIONS: CallOptions = {};

export class Calls {
  readonly #link: Link;
  /** Null for a call that was given up: its number stays taken until the actor answers. */
  readonly #inFlight = new Map<number, Pending | null>();
  readonly #waiting = new Set<Pending>();
  readonly #onThrew: ((error: unknown) => void) | undefined;
  #next = 0;

  /** @param onThrew is told what a call rejects with that the actor answered so, before it does */
  constructor(link: Link, onThrew?: (error: unknown) => void) {
    this.#link = link;
    this.#onThrew = onThrew;
  }

  get inFlight(): number {
    return this.#inFlight.size;
  }

  /** Those in flight, and those that wait for that. */
  get pending(): number {
    return this.#inFlight.size + this.#waiting.size;
  }

  /** See `Channel.call`. */
  make(name: string, args: readonly unknown[], options: CallOptions = NO_OPTIONS): Promise<unknown> {
    const { signal, timeoutMs } = options;
    if (signal?.aborted) return Promise.reject(signal.reason);
    return new Promise((resolve, reject) => {
      checkTimeout(timeoutMs);
      const pending: Pending = { resolve, reject, check: options.result, id: 0, frame: undefined, disarm: undefined };
      this.#send(pending, name, args);
      if (signal !== undefined || timeoutMs !== undefined) this.#arm(pending, name, options);
    });
  }

  #send(pending: Pending, name: string, args: readonly unknown[]): void {
    const { outbox } = this.#link;
    const start = outbox.append("CALL", args, headOf(name));
    if (this.#waiting.size > 0 || !this.#mayPass) {
      pending.frame = outbox.cut(start);
      this.#link.wait(this.#waiting, pending, "call");
      return;
    }
    const id = this.#freeNumber();
    outbox.number(start, id);
    // Most callers await one call after another: nothing else would share its write. Where more follow, they share the next one.
    outbox.commit(start, this.#inFlight.size === 0 ? "now" : "soon");
    this.#enlist(pending, id);
  }

  /** Sends those that waited, as far as calls in flight and the kernel allow. */
  release(): void {
    if (this.#waiting.size === 0) return;
    for (const pending of this.#waiting) {
      if (!this.#mayPass) break;
      this.#waiting.delete(pending);
      const frame = pending.frame!;
      pending.frame = undefined;
      const id = this.#freeNumber();
      writeU32(frame.bytes, HEADER_BYTES, id);
      if (this.#link.resume(frame, pending.reject)) this.#enlist(pending, id);
      else pending.disarm?.();
    }
  }

  /** Settles the call that RESULT or THREW is for. */
  accept(kind: "RESULT" | "THREW", bytes: Buffer, body: number, end: number): void {
    const id = readU32(bytes, body);
    const pending = this.#inFlight.get(id);
    if (pending === undefined) throw new ProtocolViolation(`Cannot read ${kind}: no call ${id} is in flight`);
    const capabilities = this.#link.take(bytes, body + 4);
    if (pending === null) dispose(capabilities);
    else {
      const value = open(bytes, body + 5, end, capabilities);
      pending.disarm?.();
      if (kind === "THREW") {
        this.#onThrew?.(value);
        pending.reject(value);
      } else settle(pending, value, capabilities);
    }
    this.#inFlight.delete(id);
  }

  /** Rejects all. */
  stop(reason: Error): void {
    const all = [...this.#inFlight.values(), ...this.#waiting];
    this.#inFlight.clear();
    this.#waiting.clear();
    for (const pending of all) {
      pending?.disarm?.();
      pending?.reject(reason);
    }
  }

  get #mayPass(): boolean {
    const { state, phase, limits, outbox } = this.#link;
    return state === "open" && phase === "ready" && this.#inFlight.size < limits.calls && !outbox.full;
  }

  /** A number that no call in flight has. */
  #freeNumber(): number {
    while (this.#inFlight.has(this.#next)) this.#next = (this.#next + 1) >>> 0;
    return this.#next;
  }

  #enlist(pending: Pending, id: number): void {
    pending.id = id;
    this.#next = (id + 1) >>> 0;
    this.#inFlight.set(id, pending);
  }

  #arm(pending: Pending, name: string, { signal, timeoutMs }: CallOptions): void {
    const abort = () => this.#cancel(pending, signal?.reason);
    // Reading the arguments may have aborted it.
    if (signal?.aborted) {
      abort();
      return;
    }
    const timer =
      timeoutMs === undefined
        ? undefined
        : setTimeout(() => this.#cancel(pending, timeoutError(name, timeoutMs)), timeoutMs);
    signal?.addEventListener("abort", abort, { once: true });
    pending.disarm = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    };
  }

  #cancel(pending: Pending, reason: unknown): void {
    pending.disarm?.();
    pending.reject(reason);
    if (this.#waiting.delete(pending)) return;
    this.#inFlight.set(pending.id, null);
    if (this.#link.active) this.#link.outbox.signal("CANCEL", pending.id);
  }
}

/** Throws TypeError for what is no number, and RangeError for a time that no timer can wait. */
export function checkTimeout(timeoutMs: number | undefined): void {
  if (timeoutMs === undefined) return;
  if (typeof timeoutMs !== "number")
    throw new TypeError(`Cannot wait ${Bun.inspect(timeoutMs)}: a number of milliseconds is expected`);
  if (timeoutMs >= 0 && timeoutMs <= TIMEOUT_MS) return;
  throw new RangeError(`Cannot wait ${timeoutMs} ms: 0 to ${TIMEOUT_MS} is expected`);
}

/** What a call rejects with that took too long. */
export function timeoutError(name: string, timeoutMs: number): DOMException {
  return new DOMException(`Cannot wait longer for ${name}(): ${timeoutMs} ms are over`, "TimeoutError");
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
function headOf(name: string): Around {
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
