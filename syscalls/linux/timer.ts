/** Timers that are descriptors. */
import type { Kernel } from "../kernel.ts";
import { Struct } from "../struct.ts";
import { O } from "./numbers.ts";

/** `clockid_t`: time since the machine started, without what it slept. */
const CLOCK_MONOTONIC = 1;
/** `struct itimerspec`: seconds and nanoseconds of the time between two expirations, none for one alone, and until the first. */
const ITIMERSPEC = new Struct({ everySec: "u64", everyNsec: "u64", sec: "u64", nsec: "u64" });

/** A descriptor that becomes readable when so many milliseconds are over. `timerfd_create(2)`, `timerfd_settime(2)` */
export function openTimer(kernel: Kernel, ms: number): number {
  const timer = kernel.call("timerfd_create", CLOCK_MONOTONIC, O.CLOEXEC);
  const nsec = BigInt(Math.ceil(ms * 1e6));
  const when = { everySec: 0n, everyNsec: 0n, sec: nsec / 1_000_000_000n, nsec: nsec % 1_000_000_000n };
  kernel.call("timerfd_settime", timer, 0, ITIMERSPEC.encode(when), null);
  return timer;
}
