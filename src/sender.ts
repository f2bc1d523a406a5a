/** Our messages: they leave in order, as far as the peer's application takes them (docs/wire.md, Flow of messages). */
import { ProtocolViolation } from "./error.ts";
import { LENGTH_BYTES } from "./frame.ts";
import type { Link } from "./link.ts";
import { type Frame, handled } from "./outbox.ts";
import { Window } from "./window.ts";

interface Waiting extends Frame {
  readonly resolve: (value: Promise<void>) => void;
  readonly reject: (reason: Error) => void;
}

export class Sender {
  readonly #link: Link;
  /** What was sent and not credited. */
  readonly #sent: Window;
  readonly #waiting = new Set<Waiting>();
  /** `end()` was called; END was sent. */
  #ending = false;
  #ended = false;

  constructor(link: Link) {
    this.#link = link;
    this.#sent = new Window(link.limits.window);
  }

  /** See `Channel.send`. */
  send(value: unknown): Promise<void> {
    if (this.#ending) return Promise.reject(new TypeError("Cannot send a message after end()"));
    const { outbox } = this.#link;
    try {
      const start = outbox.append("MESSAGE", value);
      const size = outbox.sizeOf(start);
      const { descriptors } = outbox;
      if (this.#waiting.size === 0 && this.#mayPass(size, descriptors)) {
        outbox.commit(start);
        this.#count(size, descriptors);
        return outbox.roomy;
      }
      const { promise, resolve, reject } = handled();
      this.#link.wait(this.#waiting, { ...outbox.cut(start), resolve, reject }, "message");
      return promise;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** Sends END after the messages that wait. */
  end(): void {
    this.#ending = true;
    this.release();
  }

  /** Sends what waited, as far as phase, credit and the kernel allow. */
  release(): void {
    for (const message of this.#waiting) {
      const size = message.bytes.length - LENGTH_BYTES;
      const descriptors = message.capabilities.length;
      if (!this.#mayPass(size, descriptors)) break;
      this.#waiting.delete(message);
      if (!this.#link.resume(message, message.reject)) continue;
      this.#count(size, descriptors);
      message.resolve(this.#link.outbox.roomy);
    }
    if (this.#ending && !this.#ended && this.#link.flows && this.#waiting.size === 0) {
      this.#ended = true;
      this.#link.outbox.signal("END");
    }
  }

  /** Takes a CREDIT. */
  accept(messages: number, bytes: number, descriptors: number): void {
    if (messages === 0 || !this.#sent.remove(messages, bytes, descriptors)) {
      throw new ProtocolViolation(
        `Cannot take credit for ${messages} messages, ${bytes} bytes, ${descriptors} descriptors: not so much was sent`,
      );
    }
  }

  stop(reason: Error): void {
    for (const message of this.#waiting) message.reject(reason);
    this.#waiting.clear();
  }

  #count(size: number, descriptors: number): void {
    this.#sent.add(1, size, descriptors);
    this.#link.traffic.sent.messages++;
  }

  #mayPass(size: number, descriptors: number): boolean {
    return this.#link.flows && !this.#link.outbox.full && this.#sent.admits(size, descriptors);
  }
}
