/** Who the confined process is, inside and on the host. */
import { readFileSync, writeFileSync } from "node:fs";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { capget } from "../../syscalls/linux/capability.ts";
import { CAP } from "../../syscalls/linux/numbers.ts";

/** Ids of the confined process: inside, and of which user on the host those are. */
export interface Ids {
  readonly inside: { readonly uid: number; readonly gid: number };
  readonly outside: { readonly uid: number; readonly gid: number };
  /** Whether the supplementary groups can be given up. An ordinary user may not: a group may also be what keeps someone out. */
  readonly dropGroups: boolean;
}

/** The user that owns nothing, by convention on every Linux. */
const NOBODY = 65534;

/**
 * An ordinary user stays who it is. Root becomes nobody, for files and kernel settings of root's would be the actor's own; inside, it is
 * still called root, which means nothing there.
 */
export function idsOf(root: boolean): Ids {
  const [uid, gid] = [process.geteuid!(), process.getegid!()];
  if (!root) return { inside: { uid, gid }, outside: { uid, gid }, dropGroups: false };
  return { inside: { uid: 0, gid: 0 }, outside: { uid: NOBODY, gid: NOBODY }, dropGroups: true };
}

/** Writes the id maps of a new user namespace. `user_namespaces(7)` */
export function writeIdMaps(pid: number, { inside, outside, dropGroups }: Ids): void {
  const write = (name: string, text: string) => {
    try {
      writeFileSync(`/proc/${pid}/${name}`, text);
    } catch (error) {
      throw new SystemError(
        "write",
        (error as { errno?: number }).errno ? Math.abs((error as { errno: number }).errno) : 1,
        `(/proc/<pid>/${name}, ${JSON.stringify(text)})`,
      );
    }
  };
  if (!dropGroups) write("setgroups", "deny");
  write("uid_map", `${inside.uid} ${outside.uid} 1`);
  write("gid_map", `${inside.gid} ${outside.gid} 1`);
}

/** Root that may become any user, not only the one id that a user namespace mapped. */
export function isRoot(): boolean {
  if (process.geteuid!() !== 0) return false;
  const wanted = (1n << BigInt(CAP.SETUID)) | (1n << BigInt(CAP.SETGID));
  if ((capget(self).effective & wanted) !== wanted) return false;
  const mapped = (map: string) =>
    readFileSync(map, "utf8")
      .trim()
      .split("\n")
      .map((line) => line.trim().split(/\s+/).map(Number))
      .some(([first, , count]) => NOBODY >= first! && NOBODY < first! + count!);
  return mapped("/proc/self/uid_map") && mapped("/proc/self/gid_map");
}
