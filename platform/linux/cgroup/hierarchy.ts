/** Where this machine has its control groups, and which one this process is in: from what /proc says. Pure. `cgroups(7)` */

/** What a group can govern or count, in the words of cgroup v2. Whoever asks for `cpuacct`, `blkio` or `freezer` of v1 asks for these. */
export const CONTROLLERS = ["memory", "pids", "cpu", "usage", "io", "kill"] as const;
export type Controller = (typeof CONTROLLERS)[number];

/** One tree of groups. */
export interface Hierarchy {
  readonly version: 1 | 2;
  /** Where it is mounted. */
  readonly mount: string;
  /** The directory of the group that this process is in. */
  readonly own: string;
  /** What it governs: of v1 what it was mounted for; of v2 what is not known before the files of a group are read. */
  readonly controllers: readonly Controller[];
}

/** What v1 calls the controllers. Time is counted apart there, and to stop is how one ends a group. */
const LEGACY: Readonly<Record<string, Controller>> = {
  memory: "memory",
  pids: "pids",
  cpu: "cpu",
  cpuacct: "usage",
  blkio: "io",
  freezer: "kill",
};

/** What every group of v2 does, whichever controllers it has: `cpu.stat`, and `cgroup.kill` since Linux 5.14. */
const CORE: readonly Controller[] = ["usage", "kill"];

/** The trees that this process sees, and its place in each. Those of v1 that govern nothing of ours are left out. */
export function hierarchiesOf({
  mountinfo,
  cgroup,
}: {
  readonly mountinfo: string;
  readonly cgroup: string;
}): Hierarchy[] {
  const places = cgroup
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [, id, names, path] = /^(\d+):([^:]*):(.*)$/.exec(line) ?? [];
      return { id: Number(id), names: (names ?? "").split(",").filter(Boolean), path: path ?? "/" };
    });
  const seen = new Set<string>();
  return mountinfo.split("\n").flatMap((line): Hierarchy[] => {
    const found = mountOf(line);
    if (found === undefined) return [];
    const { version, names, root, mount } = found;
    const controllers = version === 2 ? CORE : names.flatMap((name) => LEGACY[name] ?? []);
    const place = places.find((each) =>
      version === 2 ? each.id === 0 : each.names.some((name) => names.includes(name)),
    );
    const key = `${version} ${controllers}`;
    if (controllers.length === 0 || place === undefined || seen.has(key)) return [];
    const own = within(place.path, root);
    if (own === undefined) return [];
    seen.add(key);
    return [{ version, mount, own: `${mount}${own}`.replace(/\/$/, ""), controllers }];
  });
}

/** A line of mountinfo, if it is of a tree of groups. `proc_pid_mountinfo(5)` */
export function mountOf(line: string): { version: 1 | 2; names: string[]; root: string; mount: string } | undefined {
  const [before, after] = line.split(" - ", 2);
  const [type, , options] = (after ?? "").split(" ");
  if (type !== "cgroup" && type !== "cgroup2") return undefined;
  const [, , , root, mount] = (before ?? "").split(" ");
  if (root === undefined || mount === undefined) return undefined;
  return {
    version: type === "cgroup" ? 1 : 2,
    names: (options ?? "").split(","),
    root: unescaped(root),
    mount: unescaped(mount),
  };
}

/** A path seen from the root of a mount, with a slash in front; undefined where it is not beneath, as of a process outside of a cgroup namespace. */
function within(path: string, root: string): string | undefined {
  if (path.split("/").includes("..") || root.split("/").includes("..")) return undefined;
  if (root === "/") return path;
  return path === root || path.startsWith(`${root}/`) ? path.slice(root.length) || "/" : undefined;
}

/** Marks in paths are octal there. */
function unescaped(path: string): string {
  return path.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}
