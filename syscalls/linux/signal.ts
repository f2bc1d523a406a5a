/** Signals: what a process inherits of them, and sending one without a chance to hit another process. */
import type { Kernel } from "../kernel.ts";
import { SFD, SIG, SIG_HOW } from "./numbers.ts";

const LAST_SIGNAL = 64;
const SET_SIZE = 8;

/** `sigset_t` as the kernel has it: a bit each, that of signal 1 the lowest. */
function setOf(signals: readonly number[]): Uint8Array {
  const set = new Uint8Array(SET_SIZE);
  for (const signal of signals) {
    if (!Number.isInteger(signal) || signal < 1 || signal > LAST_SIGNAL)
      throw new RangeError(`Cannot put signal ${signal} into a set: it is no number from 1 to ${LAST_SIGNAL}`);
    set[(signal - 1) >> 3]! |= 1 << ((signal - 1) & 7);
  }
  return set;
}

/** Gives every signal its default disposition; an ignored one would stay ignored over `execve`. */
export function resetSignals(kernel: Kernel): void {
  const defaults = new Uint8Array(32); // struct kernel_sigaction: SIG_DFL, no flags, empty mask
  for (let signal = 1; signal <= LAST_SIGNAL; signal++) {
    if (signal === SIG.KILL || signal === SIG.STOP) continue;
    kernel.call("rt_sigaction", signal, defaults, null, SET_SIZE);
  }
}

/** Blocks signals beside those that are blocked already. SIGKILL and SIGSTOP never are. `rt_sigprocmask(2)` @param signals SIG */
export function blockSignals(kernel: Kernel, signals: readonly number[] | "all"): void {
  const set = signals === "all" ? new Uint8Array(SET_SIZE).fill(0xff) : setOf(signals);
  kernel.call("rt_sigprocmask", SIG_HOW.BLOCK, set, null, SET_SIZE);
}

/** Unblocks every signal. */
export function unblockSignals(kernel: Kernel): void {
  kernel.call("rt_sigprocmask", SIG_HOW.SETMASK, new Uint8Array(SET_SIZE), null, SET_SIZE);
}

/** Sends a signal to the process that a pidfd names, never to a later one with its number. `pidfd_send_signal(2)` */
export function signalProcess(kernel: Kernel, pidfd: number, signal: number): void {
  kernel.call("pidfd_send_signal", pidfd, signal, null, 0);
}

/** A descriptor from which these signals are read, once they are blocked. `signalfd4(2)` @param signals SIG @param flags SFD */
export function openSignals(kernel: Kernel, signals: readonly number[], flags: number = SFD.CLOEXEC): number {
  return kernel.call("signalfd4", -1, setOf(signals), SET_SIZE, flags);
}
