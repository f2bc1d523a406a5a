/** System call filters, seccomp(2). */

import { SystemError } from "../error.ts";
import { type Kernel, self } from "../kernel.ts";
import { Struct } from "../struct.ts";
import { SECCOMP, SECCOMP_FILTER_FLAG, SECCOMP_RET } from "./numbers.ts";

const SOCK_FPROG = new Struct({ len: "u16", filter: "pointer" });
const INSTRUCTION = 8;

/** Adds a filter to the calling thread, for good. Needs no-new-privileges or `CAP_SYS_ADMIN`. @param program struct sock_filter[] */
export function setFilter(kernel: Kernel, program: Uint8Array, flags = 0): void {
  const prog = SOCK_FPROG.encode({ len: program.length / INSTRUCTION, filter: program });
  kernel.call("seccomp", SECCOMP.SET_MODE_FILTER, flags, prog);
}

/** Adds a filter to all threads of the process at once, or to none. Throws ESRCH where one of them has another filter already. */
export function setFilterOnAllThreads(kernel: Kernel, program: Uint8Array): void {
  const flags = SECCOMP_FILTER_FLAG.TSYNC | SECCOMP_FILTER_FLAG.TSYNC_ESRCH;
  setFilter(kernel, program, flags);
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
