/** Payloads that arrived: a value, and the capabilities that it names, each once. */
import { ProtocolViolation } from "./error.ts";
import { decodeRange, type Unpacker } from "./message.ts";

export const NO_CAPABILITIES: readonly object[] = [];

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
const NOTHING = new Unpacking(NO_CAPABILITIES);

/** Decodes the value between `start` and `end`. When that fails, nothing of the capabilities stays open. */
export function open(bytes: Buffer, start: number, end: number, capabilities: readonly object[]): unknown {
  const unpacking = capabilities.length === 0 ? NOTHING : new Unpacking(capabilities);
  try {
    const value = decodeRange(bytes, start, end, unpacking);
    if (unpacking.left > 0) throw surplus();
    return value;
  } catch (error) {
    dispose(capabilities);
    if (error instanceof ProtocolViolation) throw error;
    throw new ProtocolViolation("Cannot read a value", { cause: error });
  }
}

/** Lets go of capabilities that nobody will see. */
export function dispose(capabilities: readonly Partial<Disposable>[]): void {
  for (const capability of capabilities) capability[Symbol.dispose]?.();
}

export function surplus(): ProtocolViolation {
  return new ProtocolViolation("Cannot accept descriptors that no value names");
}
