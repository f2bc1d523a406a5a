/** The main thread's side of supervision: one thread for all filters that hand over calls. */
import { Descriptor } from "../../../syscalls/descriptor.ts";
import { self } from "../../../syscalls/kernel.ts";
import { MSG, SOCK } from "../../../syscalls/linux/constants.ts";
import { encodeAddress } from "../../../syscalls/linux/network.ts";
import { ERRNO } from "../../../syscalls/linux/numbers.ts";
import { socketPair } from "../../../syscalls/linux/socket.ts";
import type { Answer, SupervisedCall } from "../../platform.ts";
import { ORDER_SIZE, type Order, type Orders, type Settled, type Told } from "./orders.ts";

const MOST_ERRNO = 4095;

/** Who is told of the calls of one filter. */
export interface Audience {
  /** Answers a call that the orders say to ask about. Where it throws or rejects, the call fails with EPERM. */
  answer?(call: SupervisedCall): Answer | Promise<Answer>;
  /** Takes a call that was refused, or that was let through because somebody only watches. @param exists whether its first path was there */
  tell?(call: SupervisedCall, exists: boolean): void;
  /** Is told how many calls it was not told of. */
  more?(count: number): void;
}

/** A filter that is watched. */
export interface Watch {
  /** Settles when nobody has the filter any more and all that was to be told is told. */
  readonly over: Promise<void>;
}

interface Watched {
  readonly listener: Descriptor;
  readonly audience: Audience;
  over(): void;
  complained: boolean;
}

/** Says once for each filter why its calls fail: who made them is told EPERM, and nothing else. */
function complain(watched: Watched, error: Error): void {
  if (watched.complained) return;
  watched.complained = true;
  process.emitWarning(`A supervised call failed with EPERM, for nobody could answer it: ${error?.stack ?? error}`);
}

/** The thread, and what it watches: by the listeners' numbers. */
class Supervisor {
  readonly #worker: Worker;
  readonly #control: Descriptor;
  readonly #its: Descriptor;
  readonly #taken = new Int32Array(new SharedArrayBuffer(4));
  readonly #watched = new Map<number, Watched>();
  /** Descriptors on their way into a caller, by the call's id. */
  readonly #lent = new Map<string, DisposableStack>();
  /** Whether it takes no more: the thread is ending, or has ended. */
  lost = false;

  constructor() {
    const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
    this.#control = new Descriptor(ours);
    this.#its = new Descriptor(theirs);
    this.#worker = new Worker(new URL("./notifier.ts", import.meta.url).href, { smol: true });
    (this.#worker as unknown as { unref(): void }).unref(); // which the types of the DOM do not know, in a project that has those
    this.#worker.onmessage = ({ data }: MessageEvent<Told>) => this.#take(data);
    this.#worker.onerror = () => this.end();
    this.#worker.addEventListener("close", () => this.#release());
    this.#worker.postMessage({ control: theirs, taken: this.#taken.buffer });
  }

  watch(listener: Descriptor, orders: Orders, audience: Audience): Watch {
    const { promise, resolve } = Promise.withResolvers<void>();
    const { number } = listener;
    const order = encode({ order: "watch", listener: number, orders });
    this.#watched.set(number, { listener, audience, over: resolve, complained: false });
    this.#send(order);
    return { over: promise };
  }

  #send(order: Uint8Array): void {
    try {
      self.call("sendto", this.#control.number, order, order.length, MSG.NOSIGNAL, null, 0);
    } catch {
      this.end(); // EPIPE: the thread is gone, which was not told yet
    }
  }

  #take(told: Told): void {
    const watched = this.#watched.get(told.listener);
    switch (told.told) {
      case "call":
        Atomics.add(this.#taken, 0, 1);
        watched?.audience.tell?.(told.call, told.exists);
        return;
      case "failed":
        if (watched !== undefined) complain(watched, told.error);
        return;
      case "more":
        watched?.audience.more?.(told.count);
        return;
      case "asked":
        if (watched !== undefined) void this.#ask(watched, told.id, told.call);
        return;
      case "settled":
        this.#lent.get(told.id)?.dispose();
        this.#lent.delete(told.id);
        return;
      case "over":
        this.#watched.delete(told.listener);
        watched?.listener.close();
        watched?.over();
    }
  }

  async #ask(watched: Watched, id: string, call: SupervisedCall): Promise<void> {
    const { listener, audience } = watched;
    using given = new DisposableStack();
    let settled: Settled;
    try {
      settled = settledBy(await audience.answer!(call), call, given);
    } catch (error) {
      complain(watched, error as Error);
      settled = { errno: ERRNO.EPERM };
    }
    if (this.lost || listener.closed) return;
    const order = encode({ order: "answer", listener: listener.number, id, answer: settled });
    this.#lent.set(id, given.move());
    this.#send(order);
  }

  /**
   * What the thread uses by its number is closed when that is gone: by then the number could be another file's. Once nobody has the listeners, the
   * kernel answers: ENOSYS, to all that wait and all that come.
   */
  #release(): void {
    this.end();
    for (const { listener, over } of this.#watched.values()) {
      listener.close();
      over();
    }
    this.#watched.clear();
    for (const lent of this.#lent.values()) lent.dispose();
    this.#lent.clear();
    this.#its.close();
  }

  /** Ends the thread, which sees its orders end. It is not terminated: what it has open for a call, it closes itself. */
  end(): void {
    this.lost = true;
    this.#control.close();
  }
}

function encode(order: Order): Uint8Array {
  const bytes = new TextEncoder().encode(JSON.stringify(order));
  if (bytes.length > ORDER_SIZE)
    throw new RangeError(`Cannot supervise by orders of ${bytes.length} bytes: expected ${ORDER_SIZE} at most`);
  return bytes;
}

/** Whoever made an answer may have made a mistake: what is none is not sent. A descriptor is this function's, whatever becomes of it. */
function settledBy(answer: Answer, { args }: SupervisedCall, given: DisposableStack): Settled {
  if (answer === "end" || answer === "pass") return answer;
  if ("value" in answer) return { value: `${BigInt(answer.value)}` };
  if ("connect" in answer)
    return { connect: Number(BigInt.asIntN(32, args[0]!)), to: [...encodeAddress(answer.connect)] };
  if ("errno" in answer) {
    const { errno } = answer;
    if (Number.isInteger(errno) && errno > 0 && errno <= MOST_ERRNO) return { errno };
    throw new RangeError(`Cannot answer with errno ${errno}: expected a whole number from 1 to ${MOST_ERRNO}`);
  }
  const descriptor = given.use(new Descriptor(answer.descriptor.take()));
  return { descriptor: descriptor.number, flags: answer.flags, ...(answer.at === undefined ? {} : { at: answer.at }) };
}

let supervisor: Supervisor | undefined;

/** Has the calls that a filter hands over answered, from now on. The listener is the supervisor's to close. */
export function superviseListener(listener: Descriptor, orders: Orders, audience: Audience): Watch {
  using owned = new DisposableStack();
  owned.use(listener);
  if (supervisor === undefined || supervisor.lost) supervisor = new Supervisor();
  const watch = supervisor.watch(listener, orders, audience);
  owned.move();
  return watch;
}

/** Ends the supervisor's thread. Programs that it watches go on, and each call that their filters hand over fails with ENOSYS. */
export function endSupervision(): void {
  supervisor?.end();
}
