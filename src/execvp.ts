/** Finding a program inside, as execvp(3) does. */
import type { Driven } from "../platform/index.ts";
import { SystemError } from "../syscalls/error.ts";
import { close, decodeStatus, open, STAT_SIZE } from "../syscalls/linux/file.ts";
import { AT_FD, ERRNO, O } from "../syscalls/linux/numbers.ts";

const X_OK = 1;
const HEAD = 4;

/** Finds a program as execvp(3) does, inside; and whether the kernel may not know its format. */
export function programOf(puppet: Driven, name: string, path: string | undefined): { path: string; foreign: boolean } {
  if (name === "") throw new SystemError("execve", ERRNO.ENOENT, '("")');
  if (name.includes("/")) return { path: name, foreign: isForeign(puppet, name) };
  let denied: SystemError | undefined;
  for (const directory of (path ?? "/bin:/usr/bin").split(":")) {
    const candidate = directory === "" ? name : `${directory}/${name}`;
    const status = new Uint8Array(STAT_SIZE);
    try {
      puppet.together((kernel) => {
        const file = open(kernel, candidate, O.PATH | O.CLOEXEC);
        kernel.call("fstat", file, status);
        close(kernel, file);
        kernel.call("faccessat", AT_FD.CWD, candidate, X_OK);
      });
      if (decodeStatus(status).regular) return { path: candidate, foreign: isForeign(puppet, candidate) };
      denied = new SystemError("execve", ERRNO.EACCES, `(${candidate})`);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      if (error.code === "EACCES") denied = error;
    }
  }
  throw denied ?? new SystemError("execve", ERRNO.ENOENT, `(${name})`);
}

function isForeign(puppet: Driven, path: string): boolean {
  const head = new Uint8Array(HEAD);
  try {
    puppet.together((kernel) => {
      const file = open(kernel, path, O.RDONLY | O.NONBLOCK | O.NOCTTY | O.CLOEXEC);
      kernel.call("read", file, head, head.length);
      close(kernel, file);
      kernel.call("faccessat", AT_FD.CWD, path, X_OK);
    });
  } catch (error) {
    if (error instanceof SystemError) return false;
    throw error;
  }
  const text = Buffer.from(head).toString("latin1");
  return text !== "\x7fELF" && !text.startsWith("#!");
}
