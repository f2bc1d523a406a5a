/** The kernel's refusal of one call. */
import { ERRNO } from "./linux/numbers.ts";

const NAMES = new Map<number, string>(Object.entries(ERRNO).map(([name, number]) => [number, name]));
// Two numbers have two names each; the table keeps both, the printed one is the one that manual pages use.
NAMES.set(ERRNO.EAGAIN, "EAGAIN");
NAMES.set(ERRNO.EDEADLK, "EDEADLK");

/** The name of an errno, `"EPERM"` for 1. */
export function errnoName(errno: number): string {
  return NAMES.get(errno) ?? `errno ${errno}`;
}

/** A system call failed. Has the fields of `node:fs` errors, so that `error.code === "ENOENT"` works as people expect. */
export class SystemError extends Error {
  override readonly name = "SystemError";
  /** The errno's name, such as `"EPERM"`. */
  readonly code: string;
  /** The errno, positive. */
  readonly errno: number;
  /** The call's name, such as `"mount"`. */
  readonly syscall: string;

  constructor(syscall: string, errno: number, detail = "", options?: ErrorOptions) {
    super(`${errnoName(errno)}: ${syscall}${detail === "" ? "" : ` ${detail}`}`, options);
    this.code = errnoName(errno);
    this.errno = errno;
    this.syscall = syscall;
  }
}
