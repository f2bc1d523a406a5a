/** What system calls do with the paths that they name, and whether a policy grants that. */
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { type Policy, platform, SIGNATURES } from "../platform/index.ts";
import type { SyscallName } from "../syscalls/kernel.ts";
import { O } from "../syscalls/linux/numbers.ts";
import type { Arguments } from "./argument.ts";
import { bitsOf, covers, grantAt, grantsOf, lettersOf } from "./grant.ts";
import { type Kind, located } from "./sandbox.ts";

/** A call as it is asked about. */
export interface Asked extends Arguments {
  readonly call: SyscallName | number;
}

export interface Access {
  /** Where something is granted or not: a path without links, or the directory that has its entry. */
  readonly path: string;
  /** Letters of `rwxc`; none for what is but looked at. */
  readonly needs: string;
}

export function accessesOf({ call, words, paths }: Asked): Access[] {
  const places = SIGNATURES[call as SyscallName]?.paths ?? [];
  return [...paths].map(([argument, written]) => {
    const path = located(written);
    switch (places.find((place) => place.path === argument)?.does) {
      case "change":
        return { path, needs: "w" };
      case "make":
      case "remove":
        return { path: dirname(path), needs: "c" };
      case "read":
        return { path, needs: "r" };
      case "start":
        return { path, needs: "x" };
      case "open": {
        const flags = call === "creat" ? O.WRONLY | O.CREAT | O.TRUNC : Number(words[call === "open" ? 1 : 2] ?? 0n);
        const missing = !existsSync(path) && (flags & O.CREAT) !== 0;
        return missing ? { path: dirname(path), needs: `${modeOf(flags)}c` } : { path, needs: modeOf(flags) };
      }
      default:
        return { path, needs: "" };
    }
  });
}

/** What an open file may be used for, as its flags say. */
function modeOf(flags: number): string {
  const [read, write] = [(flags & 3) !== O.WRONLY, (flags & 3) !== O.RDONLY || (flags & O.TRUNC) !== 0];
  return `${read ? "r" : ""}${write ? "w" : ""}`;
}

/** What the grants say of a path. */
export interface Answer {
  readonly granted: boolean;
  readonly because: string;
  /** What a call that is refused ends with. */
  readonly errno: string;
}

export function answerFor({ path, needs }: Access, policy: Policy, of: Kind): Answer {
  const grants = new Map(grantsOf(policy));
  for (const program of policy.run) {
    for (const { source } of platform.programOf(program).files)
      grants.set(source, (grants.get(source) ?? 0) | bitsOf("rx"));
  }
  const has = grantAt(grants, path);
  // A directory above what is granted is there, too.
  const seen = has !== 0 || (needs === "" && [...grants.keys()].some((grant) => covers(path, grant)));
  const lacks = lettersOf(bitsOf(needs) & ~has);
  const errno = has === 0 ? "ENOENT or EACCES" : needs === "x" ? "EACCES" : "EROFS or EACCES";
  if (seen && lacks === "")
    return { granted: true, errno, because: `${path} is granted${needs === "" ? "" : ` for "${needs}"`}` };
  const own = ["/proc", "/dev"].find((directory) => covers(directory, path));
  if (own !== undefined && of === "program")
    return { granted: true, errno, because: `${own} is the sandbox's own, with nothing of the host's` };
  if (has === 0) return { granted: false, errno, because: `${path} is not granted` };
  return { granted: false, errno, because: `${path} is granted for "${lettersOf(has)}", not for "${lacks}"` };
}
