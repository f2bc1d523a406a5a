/** What is granted of the file system, as one table: paths, and the letters of `rwxc` that hold there and beneath, up to the next path. */
import type { Policy } from "../platform/index.ts";

/** A bit for each letter. Real paths. */
export type Grants = ReadonlyMap<string, number>;

const LETTERS = "rwxc";
export const READ = bitsOf("r");
export const WRITE = bitsOf("rwc");

export function bitsOf(permissions: string): number {
  return [...permissions].reduce((bits, letter) => bits | (1 << LETTERS.indexOf(letter)), 0);
}

export function lettersOf(bits: number): string {
  return [...LETTERS].filter((_, index) => (bits & (1 << index)) !== 0).join("");
}

/** The path is the directory, or beneath it. */
export function covers(directory: string, path: string): boolean {
  return path === directory || path.startsWith(directory === "/" ? "/" : `${directory}/`);
}

/** A working directory, and whether no grant shows it: inside, it is then not there unless it is made. */
export interface Start {
  readonly directory: string;
  readonly made: boolean;
}

/**
 * Where something starts that is to find what was granted by the relative paths that lead there from `here`. Undefined where none can lead there
 * but through the root, as from the root itself: then nobody needs to know where we are.
 */
export function startFrom(here: string, granted: readonly string[]): Start | undefined {
  const top = here.split("/", 2).join("/");
  if (here === "/" || !granted.some((path) => covers(top, path))) return undefined;
  return { directory: here, made: !granted.some((path) => covers(here, path) || covers(path, here)) };
}

/** Where this process is: the root, where nobody can be any more. */
export function hereOrRoot(): string {
  try {
    return process.cwd();
  } catch {
    return "/"; // it was removed
  }
}

/** What a policy says of each path that it names: all of it together. */
export function grantsOf({ read, write, unveil }: Pick<Policy, "read" | "write" | "unveil">): Grants {
  const grants = new Map<string, number>();
  const add = (path: string, bits: number) => grants.set(path, (grants.get(path) ?? 0) | bits);
  for (const path of read) add(path, READ);
  for (const path of write) add(path, WRITE);
  for (const { path, permissions } of unveil) add(path, bitsOf(permissions));
  return grants;
}

/** What may be done at a path: what the nearest one says that is it or above it, as of mounts the last one counts. */
export function grantAt(grants: Grants, path: string): number {
  return grants.get(nearest(grants, path) ?? "") ?? 0;
}

function nearest(grants: Grants, path: string, itself = true): string | undefined {
  let found: string | undefined;
  for (const each of grants.keys()) {
    if (covers(each, path) && (itself || each !== path) && (found === undefined || covers(found, each))) found = each;
  }
  return found;
}

/**
 * Whether a path can have less than what is above it. A mount takes: what is `read` there is mounted read-only, and nothing that is `read` or
 * `write` can be executed. Landlock alone keeps other letters apart, and to it what holds above holds beneath.
 */
const separable = (bits: number, above: number) => bits === READ || bits === WRITE || (bits & above) === above;

/** Throws TypeError where a path was unveiled for less than what is granted above it: it would be no wall. */
export function refuseTaking(policy: Policy): void {
  const grants = grantsOf(policy);
  for (const { path } of policy.unveil) {
    const bits = grants.get(path)!;
    const above = nearest(grants, path, false);
    if (above === undefined || separable(bits, grants.get(above)!)) continue;
    throw new TypeError(
      `Cannot unveil ${path} for "${lettersOf(bits)}": ${above} is granted for "${lettersOf(grants.get(above)!)}", and so is what is beneath it`,
    );
  }
}

/** What either grants, and where that cannot be kept apart from what is above it, that too. */
export function united(one: Grants, other: Grants): Grants {
  const grants = merged(one, other, (a, b) => a | b);
  for (const path of byDepth(grants)) {
    const bits = grants.get(path)!;
    const above = grants.get(nearest(grants, path, false) ?? "") ?? 0;
    if (!separable(bits, above)) grants.set(path, bits | above);
  }
  return minimal(grants);
}

/** What both grant; and where that cannot be kept apart from what is above it, what is above gives way. */
export function common(one: Grants, other: Grants): Grants {
  const grants = merged(one, other, (a, b) => a & b);
  for (const path of byDepth(grants).toReversed()) {
    const bits = grants.get(path)!;
    const above = nearest(grants, path, false);
    if (above !== undefined && !separable(bits, grants.get(above)!)) grants.set(above, grants.get(above)! & bits);
  }
  return minimal(grants);
}

/** The first path where more is granted than `bound` grants, and what either does. Each may say something else at any path that it names. */
export function excessive(grants: Grants, bound: Grants): Excessive | undefined {
  for (const path of byDepth(merged(grants, bound, () => 0))) {
    const [asked, granted] = [grantAt(grants, path), grantAt(bound, path)];
    if ((asked & ~granted) !== 0) return { path, asked, granted };
  }
  return undefined;
}

interface Excessive {
  readonly path: string;
  readonly asked: number;
  readonly granted: number;
}

function merged(one: Grants, other: Grants, bits: (a: number, b: number) => number): Map<string, number> {
  const paths = new Set([...one.keys(), ...other.keys()]);
  return new Map([...paths].map((path) => [path, bits(grantAt(one, path), grantAt(other, path))]));
}

/** What is above comes before what is beneath it. */
const byDepth = (grants: Grants) => [...grants.keys()].toSorted((a, b) => a.length - b.length || (a < b ? -1 : 1));

/** Without paths that say what is said above them. */
function minimal(grants: Grants): Grants {
  const least = new Map<string, number>();
  for (const path of byDepth(grants)) {
    const bits = grants.get(path)!;
    if (grantAt(least, path) !== bits) least.set(path, bits);
  }
  return least;
}
