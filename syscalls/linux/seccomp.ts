/** System call filters, seccomp(2). */

import { SystemError } from "../error.ts";
import { type Kernel, self } from "../kernel.ts";
import { Struct } from "../struct.ts";
import { ERRNO, SECCOMP, SECCOMP_FILTER_FLAG, SECCOMP_RET } from "./numbers.ts";

const SOCK_FPROG = new Struct({ len: "u16", filter: "pointer" });
const INSTRUCTION = 8;
const { TSYNC, SPEC_ALLOW, NEW_LISTENER, TSYNC_ESRCH, WAIT_KILLABLE_RECV } = SECCOMP_FILTER_FLAG;

/** SECCOMP_FILTER_FLAG with one that no filter gets by accident: SPEC_ALLOW gives up the kernel's guard against reading by speculation. */
export interface SpeculativeFlags {
  readonly flags: number;
  readonly allowSpeculation: true;
}

/**
 * Adds a filter to the calling thread, for good, and returns 0; with NEW_LISTENER the descriptor that the filter's `notify` calls come to.
 * Needs no-new-privileges or `CAP_SYS_ADMIN`. Throws EBUSY for a second listener, with TSYNC ESRCH where a thread has another filter.
 * @param program struct sock_filter[] @param how SECCOMP_FILTER_FLAG
 */
export function setFilter(kernel: Kernel, program: Uint8Array, how: number | SpeculativeFlags = 0): number {
  const flags = checked(how);
  if (program.length % INSTRUCTION !== 0) {
    throw new RangeError(`Cannot set a filter of ${program.length} bytes: expected a multiple of ${INSTRUCTION}`);
  }
  const prog = SOCK_FPROG.encode({ len: program.length / INSTRUCTION, filter: program });
  try {
    return kernel.call("seccomp", SECCOMP.SET_MODE_FILTER, flags, prog);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    const advice = adviceOn(kernel, error.errno, flags);
    throw advice === undefined
      ? error
      : new SystemError("seccomp", error.errno, `(${namesOf(flags)}): ${advice}`, { cause: error });
  }
}

/** Adds a filter to all threads of the process at once, or to none. Throws ESRCH where one of them has another filter already. Linux 5.7 */
export function setFilterOnAllThreads(kernel: Kernel, program: Uint8Array): void {
  setFilter(kernel, program, TSYNC | TSYNC_ESRCH);
}

/** Combinations that the kernel refuses without a reason, or that say what they do not mean. */
function checked(how: number | SpeculativeFlags): number {
  const { flags, allowSpeculation } = typeof how === "number" ? { flags: how, allowSpeculation: false } : how;
  const has = (flag: number) => (flags & flag) !== 0;
  const unknown = Object.values(SECCOMP_FILTER_FLAG).reduce((rest, flag) => rest & ~flag, flags);
  const wrong = (why: string) => new TypeError(`Cannot set a filter with the flags ${namesOf(flags)}: ${why}`);
  if (unknown !== 0) throw wrong(`expected SECCOMP_FILTER_FLAG, which ${unknown} is not`);
  if (has(TSYNC) !== has(TSYNC_ESRCH)) {
    // Without it the answer is the number of a thread that is not bound, which looks like success, or like a listener.
    throw wrong("expected TSYNC and TSYNC_ESRCH together");
  }
  if (has(WAIT_KILLABLE_RECV) && !has(NEW_LISTENER))
    throw wrong("WAIT_KILLABLE_RECV is for a filter with NEW_LISTENER");
  if (has(SPEC_ALLOW) && allowSpeculation !== true) throw wrong("SPEC_ALLOW is expected with allowSpeculation: true");
  return flags;
}

/** The Linux that brought each flag. */
const SINCE: Readonly<Record<keyof typeof SECCOMP_FILTER_FLAG, string>> = {
  TSYNC: "3.17",
  LOG: "4.14",
  SPEC_ALLOW: "4.17",
  NEW_LISTENER: "5.0",
  TSYNC_ESRCH: "5.7",
  WAIT_KILLABLE_RECV: "5.19",
};

function namesOf(flags: number): string {
  const names = Object.entries(SECCOMP_FILTER_FLAG).flatMap(([name, flag]) => ((flags & flag) !== 0 ? [name] : []));
  return names.length === 0 ? `${flags}` : names.join("|");
}

function adviceOn(kernel: Kernel, errno: number, flags: number): string | undefined {
  if (errno === ERRNO.EACCES) return "expected no-new-privileges, or CAP_SYS_ADMIN";
  if (errno === ERRNO.EBUSY) return "a filter of this process has a listener already, and there can be one";
  // Counted as they are translated for the processor, so there is no telling how many of struct sock_filter that is.
  if (errno === ERRNO.ENOMEM)
    return "the filters of a process can have 32768 instructions of the kernel's own together";
  if (errno !== ERRNO.EINVAL) return undefined;
  for (const [name, flag] of Object.entries(SECCOMP_FILTER_FLAG)) {
    const beside = name === "WAIT_KILLABLE_RECV" ? NEW_LISTENER : 0;
    if ((flags & flag) === 0 || knowsFilterFlags(kernel, flag | beside)) continue;
    return `this kernel does not know the flag ${name}, Linux ${SINCE[name as keyof typeof SINCE]} is needed`;
  }
  return "the program is none that the kernel takes";
}

/** Whether this kernel knows all of these flags. It looks at them first, and then finds no filter. */
export function knowsFilterFlags(kernel: Kernel, flags: number): boolean {
  try {
    kernel.call("seccomp", SECCOMP.SET_MODE_FILTER, flags, null);
    return false;
  } catch (error) {
    return error instanceof SystemError && error.errno === ERRNO.EFAULT;
  }
}

/** Whether this kernel takes filters that can end a process. Linux 4.14 */
export function hasFilters(kernel: Kernel = self): boolean {
  try {
    const action = new Uint8Array(new Uint32Array([SECCOMP_RET.KILL_PROCESS]).buffer);
    kernel.call("seccomp", SECCOMP.GET_ACTION_AVAIL, 0, action);
    return true;
  } catch (error) {
    if (error instanceof SystemError) return false;
    throw error;
  }
}
