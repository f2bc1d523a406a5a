/** What the host has at a path that somebody else chose: asked so that the path can do nothing here but be looked at. */
import { accessSync, constants, lstatSync, readFileSync, readlinkSync, type Stats } from "node:fs";
import { join } from "node:path";

/** What a path is on the host. */
export interface Entry {
  /** The same without symbolic links. */
  readonly path: string;
  readonly directory: boolean;
  /** Whether its own permissions let the user read it, and write to it, whom the actor is on the host. */
  readonly readable: boolean;
  readonly writable: boolean;
}

/** Steps of one walk, through links and all: no path that people use takes more. */
const MOST_STEPS = 256;

const mounted = () => readFileSync("/proc/self/mountinfo", "utf8");

/** Looks at paths. What is mounted is read once, by the first look: for the time of one denial. */
export function looker(mountinfo = mounted): (path: string) => Entry | undefined {
  let automatic: ReadonlySet<string> | undefined;
  return (path) => {
    try {
      automatic ??= automounts(mountinfo());
      return walk(path, automatic);
    } catch {
      return undefined; // nothing that we may see
    }
  };
}

/**
 * Follows a path step by step, and never beneath an automounter: there, to look for a name is to ask a server of that name, which would be a way out
 * for whoever chooses it.
 */
function walk(path: string, automatic: ReadonlySet<string>): Entry | undefined {
  if (!path.startsWith("/") || path.includes("\0")) return undefined;
  const steps = path.split("/").reverse();
  let here = "/";
  let found = lstatSync(here);
  for (let count = 0; steps.length > 0; count++) {
    if (count === MOST_STEPS) return undefined;
    const next = join(here, steps.pop()!);
    if (automatic.has(next)) return undefined;
    const entry = lstatSync(next, { throwIfNoEntry: false });
    if (entry === undefined) return undefined;
    found = entry;
    if (!found.isSymbolicLink()) {
      here = next;
      continue;
    }
    const target = readlinkSync(next);
    if (target.startsWith("/")) here = "/";
    steps.push(...target.split("/").reverse());
  }
  return { path: here, directory: found.isDirectory(), ...permissions(here, found) };
}

/** The files of root are those of root's sandboxes, which have no power over the files of others. */
function permissions(path: string, stat: Stats): Pick<Entry, "readable" | "writable"> {
  if (process.geteuid!() === 0) {
    const mode = stat.uid === 0 ? stat.mode >> 6 : stat.mode;
    return { readable: (mode & 4) !== 0, writable: (mode & 2) !== 0 };
  }
  return { readable: may(path, constants.R_OK), writable: may(path, constants.W_OK) };
}

function may(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}

/** The mount points of automounters, from proc_pid_mountinfo(5). */
export function automounts(mountinfo: string): ReadonlySet<string> {
  const points = new Set<string>();
  for (const line of mountinfo.split("\n")) {
    const [mount = "", rest = ""] = line.split(" - ");
    if (!rest.startsWith("autofs ")) continue;
    const point = mount.split(" ")[4]!;
    points.add(point.replace(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))));
  }
  return points;
}
