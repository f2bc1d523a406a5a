import { describe, expect, test } from "bun:test";
import { fileURLToPath } from "node:url";
import { refusalOf } from "../../platform/linux/advice.ts";
import { self } from "../../syscalls/kernel.ts";
import { ERRNO, RLIMIT } from "../../syscalls/linux/numbers.ts";
import { getLimit, RLIMIT_STRUCT } from "../../syscalls/linux/process.ts";
import { testPuppet } from "./strings.ts";

const { soft, hard } = getLimit(self, "NOFILE");
const tasks = getLimit(self, "NPROC").soft;
const own = tasks === 2n ** 64n - 1n ? "" : `this user may have ${tasks} processes and threads (ulimit -u), or `;
const toLimit = (value: bigint) => [0, RLIMIT.NOFILE, RLIMIT_STRUCT.encode({ soft: value, hard: value }), null];

describe("refusalOf()", () => {
  for (const { what, call, errno, args, message } of [
    {
      what: "a number above the limit is said to be too many open files",
      call: "dup3",
      errno: ERRNO.EBADF,
      args: [7, Number(soft), 0],
      message: `EMFILE: dup3 to ${soft}: this process may have ${soft} open files, at least 256 are expected (ulimit -n)`,
    },
    {
      what: "a number below it is a descriptor that is not open",
      call: "dup3",
      errno: ERRNO.EBADF,
      args: [7, Number(soft) - 1, 0],
      message: `EBADF: dup3 (7, ${soft - 1n}, 0)`,
    },
    {
      what: "a limit above our own is named with both",
      call: "prlimit64",
      errno: ERRNO.EPERM,
      args: toLimit(hard + 1n),
      message: `EPERM: prlimit64 RLIMIT_NOFILE to ${hard + 1n}: that of this process is ${hard} at most, at least ${hard + 1n} is expected`,
    },
    {
      what: "a limit that we have is refused for another reason",
      call: "prlimit64",
      errno: ERRNO.EPERM,
      args: toLimit(hard),
      message: `EPERM: prlimit64 (0, ${RLIMIT.NOFILE}, [16 bytes], null)`,
    },
    {
      what: "no room for another process is said to be one of several limits, and what ours is",
      call: "clone",
      errno: ERRNO.EAGAIN,
      args: [17, 0],
      message: `EAGAIN: clone (17, 0): there is no room for another process: ${own}a control group has no more, or the machine`,
    },
  ] as const) {
    test(what, () => expect(refusalOf(call, errno, args).message).toBe(message));
  }
});

describe("a host that may have too few open files", () => {
  for (const what of ["an actor", "a program"]) {
    testPuppet(`is told so by the start of ${what}`, async () => {
      const fixture = fileURLToPath(new URL("../attacks/fixtures/lives.ts", import.meta.url));
      const command = ["/bin/sh", "-c", 'ulimit -n 240; exec "$@"', "sh", process.execPath, fixture, what];
      const shell = Bun.spawn(command, { cwd: "/", stdio: ["ignore", "pipe", "inherit"] });
      const message =
        "EPERM: prlimit64 RLIMIT_NOFILE to 256: that of this process is 240 at most, at least 256 is expected";
      expect(await shell.stdout.json()).toEqual([message, message]);
    });
  }
});
