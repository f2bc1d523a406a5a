/** Signals: what a process inherits of them, and sending one without a chance to hit another process. */
import type { Kernel } from "../kernel.ts";

const SIGKILL = 9;
const SIGSTOP = 19;
const LAST_SIGNAL = 64;
const SIG_SETMASK = 2;
const SET_SIZE = 8;

/** Gives every signal its default disposition; an ignored one would stay ignored over `execve`. */
export function resetSignals(kernel: Kernel): void {
  const defaults = new Uint8Array(32); // struct kernel_sigaction: SIG_DFL, no flags, empty mask
  for (let signal = 1; signal <= LAST_SIGNAL; signal++) {
    if (signal === SIGKILL || signal === SIGSTOP) continue;
    kernel.call("rt_sigaction", signal, defaults, null, SET_SIZE);
  }
}

/** Unblocks every signal. */
export function unblockSignals(kernel: Kernel): void {
  kernel.call("rt_sigprocmask", SIG_SETMASK, new Uint8Array(SET_SIZE), null, SET_SIZE);
}

/** Sends a signal to the process that a pidfd names, never to a later one with its number. `pidfd_send_signal(2)` */
export function signalProcess(kernel: Kernel, pidfd: number, signal: number): void {
  kernel.call("pidfd_send_signal", pidfd, signal, null, 0);
}
