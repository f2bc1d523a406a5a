/** Our end of a pipe, or of what is read and written like one. */
import { Descriptor } from "../syscalls/descriptor.ts";
import { SystemError } from "../syscalls/error.ts";
import { self } from "../syscalls/kernel.ts";
import { statusFlags } from "../syscalls/linux/file.ts";
import { F, O } from "../syscalls/linux/numbers.ts";
import { ready, type Wait } from "../syscalls/ready.ts";

/** What one read takes at most, which is what a pipe holds; between two calls it is nobody's. */
const TAKEN = new Uint8Array(64 * 1024);

/** What all pipes together read in one turn of the event loop, so that who prints without end keeps it neither from its timers nor from its sockets. */
const RATION = 2 ** 20;
let taken = 0;
let turn: Promise<void> | undefined;

/** Settles in the next turn, when there is a ration again. */
function nextTurn(): Promise<void> {
  turn ??= new Promise((resolve) => {
    setImmediate(() => {
      taken = 0;
      turn = undefined;
      resolve();
    });
  });
  return turn;
}

/** Owns its descriptor, which must share its open file with nobody: it is made one that never blocks. */
export class Pipe implements Disposable {
  readonly #descriptor: Descriptor;
  readonly #waits = new Set<Wait>();
  /** How many bytes of those that were read may be given to who reads. Where that is not all, the pipe is closed: nothing behind them comes. */
  allow: (length: number) => number = (length) => length;
  /** Whether somebody still had its other end when it was not waited for any longer. */
  cut = false;
  #hurried = false;
  #written = Promise.resolve();
  #readable: ReadableStream<Uint8Array> | undefined;
  #writable: WritableStream<Uint8Array> | undefined;

  constructor(descriptor: number) {
    this.#descriptor = new Descriptor(descriptor);
    self.call("fcntl", descriptor, F.SETFL, statusFlags(self, descriptor) | O.NONBLOCK);
  }

  get closed(): boolean {
    return this.#descriptor.closed;
  }

  /** The descriptor, for a call. Throws once it is closed. */
  get number(): number {
    return this.#descriptor.number;
  }

  /** What comes, at most a read ahead of who reads it. Closes the pipe at its end, and when it is cancelled. */
  get readable(): ReadableStream<Uint8Array> {
    this.#readable ??= new ReadableStream({
      pull: async (controller) => {
        const bytes = await this.read();
        if (bytes !== undefined) return controller.enqueue(bytes);
        this.close();
        controller.close();
      },
      cancel: () => this.close(),
    });
    return this.#readable;
  }

  /** Takes bytes as the kernel does. Closing it closes the pipe when all is written, aborting it at once. */
  get writable(): WritableStream<Uint8Array> {
    this.#writable ??= new WritableStream({
      write: (bytes) => this.write(bytes),
      close: () => this.end(),
      abort: () => this.close(),
    });
    return this.#writable;
  }

  /** Some bytes, as soon as there are any; undefined at the end, or once the pipe is closed. */
  async read(): Promise<Uint8Array | undefined> {
    while (!this.closed) {
      if (taken >= RATION) {
        await nextTurn();
        continue; // others may have been quicker, and it may be closed
      }
      const length = this.#take();
      if (length === 0) return undefined;
      void nextTurn(); // from where on what is taken counts anew
      taken += length ?? 0;
      if (length !== undefined) return this.#give(TAKEN.slice(0, this.allow(length)), length);
      if (this.#hurried) {
        this.cut = true;
        return undefined;
      }
      await this.#ready("read");
    }
    return undefined;
  }

  /** Resolves when the kernel has all bytes, which must stay as they are until then. Rejects with EPIPE when nobody will read them. */
  write(bytes: Uint8Array): Promise<void> {
    const done = this.#written.then(() => this.#put(bytes));
    this.#written = done.catch(() => {}); // each write rejects for itself
    return done;
  }

  /** Closes the pipe when all that was to be written is with the kernel, or can never be. */
  async end(): Promise<void> {
    await this.#written;
    this.close();
  }

  /** Waits for nobody who could write more: who reads gets what is there, and the end. */
  hurry(): void {
    this.#hurried = true;
    for (const wait of this.#waits) wait.cancel();
  }

  /** Closes the pipe at once. Who reads sees the end, what waits to be written rejects. */
  close(): void {
    for (const wait of this.#waits) wait.cancel();
    this.#descriptor.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #take(): number | undefined {
    try {
      return attempt("read", this.number, TAKEN);
    } catch (error) {
      // So a terminal says that no program has its other end open.
      if (error instanceof SystemError && error.code === "EIO") return 0;
      throw error;
    }
  }

  #give(bytes: Uint8Array, length: number): Uint8Array | undefined {
    if (bytes.length < length) this.close();
    return bytes.length === 0 ? undefined : bytes;
  }

  async #put(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const length = attempt("write", this.number, bytes.subarray(at));
      if (length === undefined) await this.#ready("write");
      else at += length;
    }
  }

  async #ready(to: "read" | "write"): Promise<void> {
    const wait = ready(this.number, to);
    this.#waits.add(wait);
    await wait.done;
    this.#waits.delete(wait);
  }
}

/** One call on a descriptor that does not block: the bytes it took, or undefined where it would have to wait. */
function attempt(call: "read" | "write", descriptor: number, bytes: Uint8Array): number | undefined {
  try {
    return self.call(call, descriptor, bytes, bytes.length);
  } catch (error) {
    if (error instanceof SystemError && error.code === "EAGAIN") return undefined;
    throw error;
  }
}
