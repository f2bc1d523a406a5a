/** File descriptors that have an owner. */
import { type Kernel, self } from "./kernel.ts";

/** Who writes down which descriptors of this process have an owner in this realm. */
export interface Ledger {
  opened(number: number): void;
  /** Told before it is closed or has another owner. */
  closed(number: number): void;
}

let ledger: Ledger | undefined;

/** From here on `kept` is told of every owner. */
export function keepLedger(kept: Ledger): void {
  ledger = kept;
}

/** A descriptor that is closed exactly once: by `using`, by `close`, or by whoever takes it over. */
export class Descriptor implements Disposable {
  readonly #kernel: Kernel;
  #number: number;

  constructor(number: number, kernel: Kernel = self) {
    this.#kernel = kernel;
    this.#number = number;
    if (kernel === self) ledger?.opened(number);
  }

  /** The number, for a call. Throws once the descriptor is closed or taken. */
  get number(): number {
    if (this.#number < 0) throw new Error("Cannot use a descriptor that is closed");
    return this.#number;
  }

  /** Gives the number away, with the duty to close it. */
  take(): number {
    const number = this.number;
    if (this.#kernel === self) ledger?.closed(number);
    this.#number = -1;
    return number;
  }

  get closed(): boolean {
    return this.#number < 0;
  }

  /** Closes it; a second time does nothing. */
  close(): void {
    // close(2) frees the descriptor even when it reports an error, so there is nothing to try again.
    if (this.#number >= 0) this.#kernel.call("close", this.take());
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
