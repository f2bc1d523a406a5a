/** What a puppet is refused by an errno that misleads: in its words, and in what they mean. */
import { SystemError } from "../../syscalls/error.ts";
import { type Argument, describe, type SyscallName, self } from "../../syscalls/kernel.ts";
import { ERRNO, RLIMIT } from "../../syscalls/linux/numbers.ts";
import { getLimit, RLIMIT_STRUCT } from "../../syscalls/linux/process.ts";
import { Memory } from "../../syscalls/struct.ts";

/** As many open files as a sandbox has by default, and more than the highest number at which a puppet places something. */
const FILES = 256;

/** The error of a call. Puppets have the limits of this process until they are given their own. */
export function refusalOf(name: SyscallName, errno: number, args: readonly Argument[]): SystemError {
  const plain = new SystemError(name, errno, describe(args));
  if (name === "dup3" && errno === ERRNO.EBADF) return outOfNumbers(plain, args) ?? plain;
  if (name === "prlimit64" && errno === ERRNO.EPERM) return aboveHard(plain, args) ?? plain;
  return plain;
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
