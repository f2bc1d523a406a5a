/** Looking paths up while others rename and mount. */
import { SystemError } from "../../syscalls/error.ts";

/**
 * Whether `openat2(2)` gave up on a path with `..` in it or in a link, because anything at all on the machine was mounted or renamed meanwhile: it
 * cannot tell whether that led out, and says that one should try again.
 */
export function isUnsettled(error: unknown): boolean {
  return error instanceof SystemError && error.syscall === "openat2" && error.code === "EAGAIN";
}

/** Somebody who does nothing but rename leaves room for one look-up in two or three. */
const MOST_TIMES = 100;

/** What `look` returns, which does nothing before it has looked up a path. */
export function settled<Result>(look: () => Result): Result {
  for (let times = 1; ; times++) {
    try {
      return look();
    } catch (error) {
      if (!isUnsettled(error) || times === MOST_TIMES) throw error;
    }
  }
}
