/** What a puppet is refused by an errno that misleads: in its words, and in what they mean. */
import { SystemError } from "../../syscalls/error.ts";
import { type Argument, describe, type SyscallName, self } from "../../syscalls/kernel.ts";
import { ERRNO, RLIMIT } from "../../syscalls/linux/numbers.ts";
import { getLimit, RLIMIT_STRUCT } from "../../syscalls/linux/process.ts";
import { Memory } from "../../syscalls/struct.ts";

/** As many open files as a sandbox has by default, and more than the highest number at which a puppet places something. */
const FILES = 256;

const NO_LIMIT = 2n ** 64n - 1n;

/** The error of a call. Puppets have the limits of this process until they are given their own. */
export function refusalOf(name: SyscallName, errno: number, args: readonly Argument[]): SystemError {
  if (name === "clone" || name === "clone3") return forkRefusal(name, errno, describe(args));
  const plain = new SystemError(name, errno, describe(args));
  if (name === "dup3" && errno === ERRNO.EBADF) return outOfNumbers(plain, args) ?? plain;
  if (name === "prlimit64" && errno === ERRNO.EPERM) return aboveHard(plain, args) ?? plain;
  return plain;
}

/** The error of a fork. Where there is no room, the kernel does not say which of its counts is full. */
export function forkRefusal(name: string, errno: number, detail: string): SystemError {
  if (errno !== ERRNO.EAGAIN) return new SystemError(name, errno, detail);
  const { soft } = getLimit(self, "NPROC");
  const most = soft === NO_LIMIT ? "" : `this user may have ${soft} processes and threads (ulimit -u), or `;
  const why = `there is no room for another process: ${most}a control group has no more, or the machine`;
  return new SystemError(name, errno, `${detail}: ${why}`);
}

function outOfNumbers(cause: SystemError, [, to]: readonly Argument[]): SystemError | undefined {
  const { soft } = getLimit(self, "NOFILE");
  if (typeof to !== "number" || to < soft) return undefined;
  const detail = `to ${to}: this process may have ${soft} open files, at least ${FILES} are expected (ulimit -n)`;
  return new SystemError(cause.syscall, ERRNO.EMFILE, detail, { cause });
}

function aboveHard(cause: SystemError, [, resource, limit]: readonly Argument[]): SystemError | undefined {
  const found = Object.entries(RLIMIT).find(([, number]) => number === resource);
  if (found === undefined || !(limit instanceof Memory)) return undefined;
  const name = found[0] as keyof typeof RLIMIT; // the names are the table's
  const wanted = RLIMIT_STRUCT.decode(limit.bytes).hard;
  const { hard } = getLimit(self, name);
  if (wanted <= hard) return undefined;
  const detail = `RLIMIT_${name} to ${wanted}: that of this process is ${hard} at most, at least ${wanted} is expected`;
  return new SystemError(cause.syscall, cause.errno, detail, { cause });
}
