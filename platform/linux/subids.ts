/** The ids that the administrator lends to users beside their own: `subuid(5)`, `subgid(5)`. */
import { readFileSync } from "node:fs";

export type Kind = "uid" | "gid";

/** What one user is lent of one kind. */
export interface Lent {
  readonly user: string;
  /** In the order of the file, which is the order in which rootless engines map them. */
  readonly ranges: readonly { readonly first: number; readonly count: number }[];
  /** The command by which the administrator lends some that nobody else has. */
  readonly command: string;
}

/** The text of a file, empty where it cannot be read. */
export type Read = (path: string) => string;

export const readText: Read = (path) => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
};

/** How many a user is lent by custom: as many as a Debian system has for itself. */
const COUNT = 65536;
/** The first that are lent by custom, `SUB_UID_MIN` of `login.defs(5)`. */
const FIRST = 100_000;
/** No id, but what the kernel says where there is none. */
const NONE = 2 ** 32 - 1;

/** What the files lend to a user. Both go by users: /etc/subgid has no names of groups. */
export function lentTo(uid: number, kind: Kind, read: Read = readText): Lent {
  const names = namesOf(uid, read("/etc/passwd"));
  const lines = parse(read(`/etc/sub${kind}`));
  const ranges: { first: number; count: number }[] = [];
  for (const { owner, first, count } of lines) {
    // Twice the same id is in no map.
    const again = ranges.some((range) => first < range.first + range.count && range.first < first + count);
    if ((names.includes(owner) || owner === `${uid}`) && !again) ranges.push({ first, count });
  }
  const free = Math.max(FIRST, ...lines.map(({ first, count }) => first + count));
  const user = names[0] ?? `${uid}`;
  return { user, ranges, command: `usermod --add-sub${kind}s ${free}-${free + COUNT - 1} ${user}` };
}

/** The lines that are ranges. What else stands there lends nothing. */
function parse(text: string): { readonly owner: string; readonly first: number; readonly count: number }[] {
  return text.split("\n").flatMap((line) => {
    const [, owner, start, length] = /^([^#:][^:]*):(\d{1,10}):(\d{1,10})$/.exec(line) ?? [];
    const [first, count] = [Number(start), Number(length)];
    return owner !== undefined && count > 0 && first + count <= NONE ? [{ owner, first, count }] : [];
  });
}

/** A user may have several names; the lines may use any of them. */
function namesOf(uid: number, passwd: string): string[] {
  const entries = passwd.split("\n").map((line) => line.split(":"));
  return entries.flatMap(([name, , id]) => (name && id === `${uid}` ? [name] : []));
}
