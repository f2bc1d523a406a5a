/** Waiting in place for descriptors. */
import { SystemError } from "../error.ts";
import type { Kernel } from "../kernel.ts";

/** The size of a `struct pollfd`: the descriptor, what is waited for, and at 6 what has come. */
export const POLLFD = 8;
export const POLLIN = 1;

/** What `poll` takes for one descriptor that is to be read. */
export function readable(descriptor: number): Uint8Array {
  const polled = new Uint8Array(POLLFD);
  new DataView(polled.buffer).setInt32(0, descriptor, true);
  polled[4] = POLLIN;
  return polled;
}

/**
 * How many are ready, none when the time is over; undefined when a signal's handler came in between, for the kernel never restarts it. `poll(2)`
 * @param polled a `struct pollfd` for each
 * @param timeoutMs -1 to wait for ever
 */
export function poll(kernel: Kernel, polled: Uint8Array, timeoutMs: number): number | undefined {
  try {
    return kernel.call("poll", polled, polled.length / POLLFD, timeoutMs);
  } catch (error) {
    if (error instanceof SystemError && error.code === "EINTR") return undefined;
    throw error;
  }
}
