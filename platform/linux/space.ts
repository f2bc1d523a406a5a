/** Space on disks that is taken without being written to: nobody counts it as written, and where it is to keep a file's size, no limit on sizes holds it back. */
import { FALLOC_FL } from "../../syscalls/linux/requests.ts";
import type { Limits } from "../platform.ts";
import type { Action, Rule, Test } from "./seccomp/filter.ts";

/** As a file system answers that cannot do it: `posix_fallocate(3)` writes instead. */
const UNABLE: Action = { errno: "EOPNOTSUPP" };

const mode = (flags: number): Test => ({ arg: 1, op: "eq", value: flags });

/** FS_IOC_RESVSP, FS_IOC_RESVSP64 and FS_IOC_ZERO_RANGE do the same for regular files of any file system. No header for users has them; `fs/ioctl.c` does. */
const REQUESTS = [0x40305828, 0x4030582a, 0x40305839];

/** What a program may not take, in front of what it may do. What it gives back it may, and what RLIMIT_FSIZE holds as long as nobody limits the whole. */
export function spaceRules({ disk }: Pick<Limits, "disk">): Rule[] {
  const modes = [FALLOC_FL.PUNCH_HOLE | FALLOC_FL.KEEP_SIZE, ...(disk === undefined ? [0] : [])];
  return [
    ...modes.map((flags): Rule => ({ call: "fallocate", action: "allow", when: [mode(flags)] })),
    { call: "fallocate", action: UNABLE },
    ...REQUESTS.map(
      (value): Rule => ({
        call: "ioctl",
        action: UNABLE,
        when: [{ arg: 1, op: "masked", mask: 0xffff_ffff, value }],
      }),
    ),
  ];
}
