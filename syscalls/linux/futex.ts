/** Words in memory that threads wait on. */
import { SystemError } from "../error.ts";
import type { Kernel } from "../kernel.ts";
import { Struct } from "../struct.ts";
import { ERRNO } from "./numbers.ts";

/** Commands of `futex(2)`, for words that no other process shares. */
export const FUTEX = { WAIT_PRIVATE: 128, WAKE_PRIVATE: 129 } as const;

const TIMESPEC = new Struct({ seconds: "i64", nanoseconds: "i64" });
/** What ends a wait without the word having changed, or before anyone waited. */
const PASSING: readonly number[] = [ERRNO.EAGAIN, ERRNO.EINTR, ERRNO.ETIMEDOUT];

/** Waits in place while the word at an address is zero, and for `nanoseconds` at most, below a second; it may return early. `futex(2)` */
export function waitWhileZero(kernel: Kernel, address: number, nanoseconds: bigint): void {
  try {
    kernel.call("futex", address, FUTEX.WAIT_PRIVATE, 0, TIMESPEC.encode({ nanoseconds }));
  } catch (error) {
    if (!(error instanceof SystemError && PASSING.includes(error.errno))) throw error;
  }
}
