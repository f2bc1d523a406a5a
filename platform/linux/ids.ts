/** Who the confined process is, inside and on the host. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { capget } from "../../syscalls/linux/capability.ts";
import { CAP } from "../../syscalls/linux/numbers.ts";
import type { IdMaps, IdRange, IdRequest } from "../platform.ts";
import { type Kind, lentTo, type Read, readText } from "./subids.ts";

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
export function idsOf(root: boolean, { uid, gid } = { uid: process.geteuid!(), gid: process.getegid!() }): Ids {
  if (!root) return { inside: { uid, gid }, outside: { uid, gid }, dropGroups: false };
  return { inside: { uid: 0, gid: 0 }, outside: { uid: NOBODY, gid: NOBODY }, dropGroups: true };
}

/** Writes the id maps of a new user namespace. `user_namespaces(7)` */
export function writeIdMaps(pid: number, ids: Ids): void {
  const { uids, gids, setgroups } = oneId(ids);
  if (setgroups === "deny") write(pid, "setgroups", "deny");
  write(pid, "uid_map", textOf(uids));
  write(pid, "gid_map", textOf(gids));
}

/** Who asks. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
  /** As `isRoot` says. */
  readonly root: boolean;
}

/**
 * The maps for a request. Root is nobody here as well, also as the 0 of ranges: that its container should own root's
 * files takes maps that say so. Throws a RangeError for maps that no kernel takes, and an Error where no ranges are lent.
 */
export function mapsFor(request: IdRequest, caller: Caller = currentCaller(), read: Read = readText): IdMaps {
  const ids = idsOf(caller.root, caller);
  const lent = (kind: Kind, outside: number): IdRange[] => {
    const { user, ranges, command } = lentTo(caller.uid, kind, read);
    if (ranges.length === 0)
      throw new Error(`Cannot map ranges of ids: /etc/sub${kind} lends none to ${user}, lend some with \`${command}\``);
    let inside = 1;
    const behind = ranges.map(({ first, count }) => {
      inside += count;
      return { inside: inside - count, outside: first, count };
    });
    return [{ inside: 0, outside, count: 1 }, ...behind];
  };
  const maps = (): IdMaps => {
    if (request === undefined) return oneId(ids);
    if (request === "ranges")
      return { uids: lent("uid", ids.outside.uid), gids: lent("gid", ids.outside.gid), setgroups: "allow" };
    if ("uids" in request) return request;
    const inside = { uid: request.user ?? ids.inside.uid, gid: request.group ?? ids.inside.gid };
    return oneId({ ...ids, inside });
  };
  return checked(maps());
}

/**
 * Writes these maps, once, for a new user namespace that a process of the caller's is in. The process has to be held, so
 * that its number cannot become another's. Root writes any map, an ordinary user its own id; all others are written by
 * newuidmap(1) and newgidmap(1), which know whom ids are lent to. Throws a RangeError before anything is written, a
 * SystemError of the kernel's, or an Error that says what the administrator has to do.
 */
export function writeMaps(pid: number, maps: IdMaps): void {
  const { uids, gids, setgroups } = checked(maps);
  const { uid, gid, root } = currentCaller();
  const direct = (ranges: readonly IdRange[], own: number) =>
    root || (ranges.length === 1 && ranges[0]!.outside === own && ranges[0]!.count === 1);
  // Who could give up its own group without having been lent one would get past files that keep this group out.
  if (setgroups === "allow" && !root && direct(gids, gid))
    throw new RangeError(`Cannot allow setgroups: only group ${gid} is mapped, ranges or "deny" are expected`);
  if (setgroups === "deny") write(pid, "setgroups", "deny");
  if (direct(uids, uid)) write(pid, "uid_map", textOf(uids));
  else writeLent(pid, "uid", uids);
  if (direct(gids, gid)) write(pid, "gid_map", textOf(gids));
  else writeLent(pid, "gid", gids);
}

/** The program that writes maps of one kind. Not looked for by PATH, which may have been set by anyone. */
export const mapper = (kind: Kind): string => `/usr/bin/new${kind}map`;

function writeLent(pid: number, kind: Kind, ranges: readonly IdRange[]): void {
  const program = mapper(kind);
  const what = `${kind}s ${textOf(ranges).replaceAll("\n", ", ")}`;
  if (!existsSync(program))
    throw new Error(`Cannot map ${what}: there is no ${program}, install uidmap (shadow-utils on some systems)`);
  const words = ranges.flatMap(({ inside, outside, count }) => [`${inside}`, `${outside}`, `${count}`]);
  const options = { env: {}, cwd: "/", stdin: "ignore", stdout: "ignore", stderr: "pipe" } as const;
  const { exitCode, stderr } = Bun.spawnSync([program, `${pid}`, ...words], options);
  if (exitCode === 0) return;
  const said = stderr.toString().trim();
  const { user, ranges: lent, command } = lentTo(process.getuid!(), kind);
  const those = lent.map(({ first, count }) => `${first}-${first + count - 1}`).join(", ") || "none";
  const advice = /^NoNewPrivs:\s*1$/m.test(readText("/proc/self/status"))
    ? `; ${program} has no rights where no_new_privs is set, as it is here`
    : said.includes("not allowed")
      ? `; /etc/sub${kind} lends ${those} to ${user}, lend more with \`${command}\``
      : "";
  throw new Error(`Cannot map ${what}: ${said || `${program} ended with ${exitCode}`}${advice}`);
}

function oneId({ inside, outside, dropGroups }: Ids): IdMaps {
  return {
    uids: [{ inside: inside.uid, outside: outside.uid, count: 1 }],
    gids: [{ inside: inside.gid, outside: outside.gid, count: 1 }],
    setgroups: dropGroups ? "allow" : "deny",
  };
}

const textOf = (ranges: readonly IdRange[]): string =>
  ranges.map(({ inside, outside, count }) => `${inside} ${outside} ${count}`).join("\n");

/** How many lines a map may have, since Linux 4.15. */
const LINES = 340;
/** A map is written at once, and the kernel takes less than a page. */
const PAGE = 4096;
/** No id, but what the kernel says where there is none. */
const NONE = 2 ** 32 - 1;

/** The maps, if a kernel takes them: it would say EINVAL to each of these mistakes. */
function checked(maps: IdMaps): IdMaps {
  for (const [kind, ranges] of [
    ["uids", maps.uids],
    ["gids", maps.gids],
  ] as const) {
    const refuse = (what: string, expected: string) => {
      throw new RangeError(`Cannot map ${kind}: ${what}, ${expected} expected`);
    };
    if (ranges.length === 0 || ranges.length > LINES) refuse(`${ranges.length} ranges`, `1 to ${LINES} are`);
    for (const [index, range] of ranges.entries()) {
      const { inside, outside, count } = range;
      const fits = [inside, outside].every((first) => Number.isInteger(first) && first >= 0 && first + count <= NONE);
      if (!(fits && Number.isInteger(count) && count > 0))
        refuse(`${inside} ${outside} ${count}`, `a count of at least 1 and ids below ${NONE} are`);
      for (const side of ["inside", "outside"] as const) {
        const other = ranges
          .slice(0, index)
          .find((earlier) => earlier[side] < range[side] + count && range[side] < earlier[side] + earlier.count);
        if (other !== undefined) refuse(`${textOf([range])} and ${textOf([other])} overlap ${side}`, "each id once is");
      }
    }
    const { length } = textOf(ranges);
    if (length >= PAGE) refuse(`a text of ${length} bytes`, `less than ${PAGE} is`);
  }
  return maps;
}

function write(pid: number, name: string, text: string): void {
  try {
    writeFileSync(`/proc/${pid}/${name}`, text);
  } catch (error) {
    throw new SystemError(
      "write",
      (error as { errno?: number }).errno ? Math.abs((error as { errno: number }).errno) : 1,
      `(/proc/<pid>/${name}, ${JSON.stringify(text)})`,
    );
  }
}

const currentCaller = (): Caller => ({ uid: process.geteuid!(), gid: process.getegid!(), root: isRoot() });

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
