/** The kernel's refusal of one call. */
import { ERRNO } from "./linux/numbers.ts";

let names: ReadonlyMap<number, string> | undefined;

/** The name of an errno, `"EPERM"` for 1; of two names for one number, the one that stands first in the kernel's headers. */
export function errnoName(errno: number): string {
  // Where paths are looked up, errors are made by the thousand.
  names ??= new Map(
    Object.entries(ERRNO)
      .map(([name, number]) => [number, name] as const)
      .reverse(),
  );
  return names.get(errno) ?? `errno ${errno}`;
}

/** The Linux that brought a call, of those that caisson makes and a kernel still in use may lack. */
const SINCE: Readonly<Record<string, string>> = {
  clone3: "5.3",
  pidfd_open: "5.3",
  openat2: "5.6",
  close_range: "5.9",
  mount_setattr: "5.12",
  landlock_create_ruleset: "5.13",
};

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
    const since =
      errno === ERRNO.ENOSYS && Object.hasOwn(SINCE, syscall) ? `, which needs Linux ${SINCE[syscall]}` : "";
    super(`${errnoName(errno)}: ${syscall}${detail === "" ? "" : ` ${detail}`}${since}`, options);
    this.code = errnoName(errno);
    this.errno = errno;
    this.syscall = syscall;
  }
}
