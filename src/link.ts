/** What the parts of a channel share: whose end it is, where the actor's life is, the limits, and the way out. */
import { LimitExceeded, ProtocolViolation } from "./error.ts";
import type { Descriptors, Transport } from "./frame.ts";
import { type Frame, Outbox } from "./outbox.ts";
import { NO_CAPABILITIES, open } from "./payload.ts";
import type { WindowSize } from "./window.ts";

/** What an actor returns whose link is gone: the host closed it without ending the process. */
export const HOST_GONE = 70;

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

/** The window of an actor of which its policy says how many messages, or how much of them, may be under way. */
export function windowOf({
  messages,
  inFlight,
}: {
  readonly messages?: number;
  readonly inFlight?: number;
}): WindowSize {
  const { window } = LIMITS;
  const word = (amount: number) => Math.min(amount, 2 ** 32 - 1);
  return { ...window, messages: word(messages ?? window.messages), bytes: word(inFlight ?? window.bytes) };
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

export type Role = "host" | "actor";
export type Phase = "opening" | "greeted" | "loading" | "ready" | "over";

export class Link {
  readonly role: Role;
  readonly descriptors: Descriptors;
  readonly limits: Limits;
  readonly outbox: Outbox;
  phase: Phase = "opening";
  /** Lost: the lane is closed, and why is being found out. */
  state: "open" | "lost" | "closed" = "open";
  /** Why it is closed, if something went wrong. */
  reason: Error | undefined;
  /** What went through so far: messages, and bytes of all frames. */
  readonly traffic = { sent: { messages: 0, bytes: 0 }, received: { messages: 0, bytes: 0 } };

  constructor(transport: Transport, options: { role: Role; descriptors: Descriptors; limits?: Partial<Limits> }) {
    this.role = options.role;
    this.descriptors = options.descriptors;
    this.limits = { ...LIMITS, ...options.limits };
    const { window, descriptors } = this.limits;
    if (descriptors * 2 > window.descriptors) {
      throw new RangeError(`Cannot pass ${descriptors} descriptors in a window of ${window.descriptors}: half at most`);
    }
    this.outbox = new Outbox(transport, options.descriptors, this.limits);
  }

  /** This end may say something. */
  get active(): boolean {
    return this.state === "open" && this.phase !== "over";
  }

  /** Messages may pass. */
  get flows(): boolean {
    return this.state === "open" && (this.phase === "ready" || this.phase === "loading");
  }

  /** What is refused now rejects with this. */
  get rejection(): Error {
    return this.reason ?? new Error("The channel is closed");
  }

  /** Has something wait its turn. */
  wait<T>(queue: Set<T>, item: T, what: "call" | "message"): void {
    const { waiting } = this.limits;
    if (queue.size >= waiting)
      throw new LimitExceeded(`Cannot send another ${what}: ${waiting} are waiting`, `${what}s`);
    queue.add(item);
  }

  /** Commits a frame that waited; where its descriptors cannot be sent, its promise rejects, and this is false. */
  resume(frame: Frame, reject: (reason: Error) => void): boolean {
    try {
      this.outbox.put(frame);
      return true;
    } catch (error) {
      reject(toError(error));
      return false;
    }
  }

  /** The capabilities that the payload at `at` names. */
  take(bytes: Buffer, at: number): readonly object[] {
    const count = bytes[at]!;
    if (count === 0) return NO_CAPABILITIES;
    if (count > this.limits.descriptors) {
      throw new ProtocolViolation(
        `Cannot take ${count} descriptors with one frame: ${this.limits.descriptors} are allowed`,
      );
    }
    return this.descriptors.take(count);
  }

  /** The value of the payload at `at`. */
  read(bytes: Buffer, at: number, end: number): unknown {
    return open(bytes, at + 1, end, this.take(bytes, at));
  }
}

export function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error("Something was thrown that is no error", { cause: thrown });
}
