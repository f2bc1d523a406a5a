/** Namespaces, namespaces(7): leaving those of the calling thread, and joining others. */
import type { Kernel } from "../kernel.ts";

/** Moves the calling thread into new namespaces; new ones for processes and for clocks are its children's. `unshare(2)` @param flags CLONE.NEW* */
export function unshare(kernel: Kernel, flags: bigint): void {
  kernel.call("unshare", flags);
}

/**
 * Joins the namespace that a descriptor of /proc/<pid>/ns names, or those of `flags` of the process that a pidfd names (Linux 5.8).
 * `setns(2)` @param flags CLONE.NEW*; with the descriptor of a namespace they may be 0, for whichever kind it is
 */
export function setNamespace(kernel: Kernel, descriptor: number, flags: bigint | number): void {
  kernel.call("setns", descriptor, flags);
}
