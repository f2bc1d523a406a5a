/** Where this process may make control groups, found by looking and by trying; and why not, where it may not. */
import { accessSync, constants, existsSync, mkdirSync, readFileSync, rmdirSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { self } from "../../../syscalls/kernel.ts";
import { type Claim, claim, membersOf, removed, sweep, writeGroup } from "./claim.ts";
import { CONTROLLERS, type Controller, type Hierarchy, hierarchiesOf } from "./hierarchy.ts";

/** A tree in which this process may make groups. */
export interface Tree {
  readonly version: 1 | 2;
  /** The group beneath which its own directory is to be. */
  readonly parent: string;
  readonly controllers: readonly Controller[];
}

/** What was found. */
export interface Found {
  readonly trees: readonly Tree[];
  /** Why there is none for a controller, in words for people. */
  readonly lacks: Readonly<Partial<Record<Controller, string>>>;
}

/** The group to which the processes go that stand where groups with controllers are to be: v2 wants them in leaves. */
const REST = "caisson.rest";

/** Names a group that was delegated, by its path in every tree. */
const SETTING = "CAISSON_CGROUP";

let found: Found | undefined;

/** Where groups can be made. Looked for once. */
export function findTrees(): Found {
  found ??= look();
  return found;
}

function look(): Found {
  const trees: Tree[] = [];
  const lacks: Partial<Record<Controller, string>> = {};
  for (const hierarchy of readHierarchies()) {
    const parent = parentOf(hierarchy);
    const all = hierarchy.version === 1 ? hierarchy.controllers : [...hierarchy.controllers, ...offered(parent)];
    const controllers = all.filter((each) => !trees.some((tree) => tree.controllers.includes(each)));
    if (controllers.length === 0) continue;
    const refusal = refusalOf(hierarchy, parent, controllers);
    if (refusal === undefined) trees.push({ version: hierarchy.version, parent, controllers });
    else for (const each of controllers) lacks[each] ??= refusal;
  }
  for (const each of CONTROLLERS) {
    if (trees.some(({ controllers }) => controllers.includes(each))) delete lacks[each];
    else lacks[each] ??= "no control group of this machine governs it";
  }
  return { trees, lacks };
}

/** Those of v2 first: a group there can be ended whole, and counts time without a directory more. */
function readHierarchies(): Hierarchy[] {
  const [mountinfo, cgroup] = ["mountinfo", "cgroup"].map((name) => read(`/proc/self/${name}`)) as [string, string];
  return hierarchiesOf({ mountinfo, cgroup }).toSorted((a, b) => b.version - a.version);
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function parentOf({ mount, own }: Hierarchy): string {
  const setting = process.env[SETTING];
  if (setting !== undefined && setting !== "") return join(mount, setting);
  return basename(own) === REST ? dirname(own) : own;
}

const OFFERED: readonly Controller[] = ["memory", "pids", "cpu", "io"];

/** The controllers that a group of v2 can hand on. */
function offered(parent: string): Controller[] {
  const names = read(join(parent, "cgroup.controllers")).split(/\s/);
  return OFFERED.filter((each) => names.includes(each));
}

/** Whether the group is the top of its tree, which may have processes and hand controllers on. */
const isTop = (parent: string) => !existsSync(join(parent, "cgroup.events"));

/** Why no group can be made there; undefined where one was. */
function refusalOf(
  { version, own }: Hierarchy,
  parent: string,
  controllers: readonly Controller[],
): string | undefined {
  if (process.env[SETTING]?.split("/").includes("..")) return `${SETTING} leads out of the tree`;
  // In v2 a process is moved by who may write where both of its groups are.
  if (version === 2 && process.geteuid!() !== 0 && own !== parent && !own.startsWith(`${parent}/`))
    return `this program was started outside of ${parent}`;
  try {
    const files = [
      "",
      "cgroup.procs",
      ...(version === 2 && controllers.some(isOffered) ? ["cgroup.subtree_control"] : []),
    ];
    for (const file of files) accessSync(join(parent, file), constants.W_OK);
    if (version === 2 && !isDelegated(parent))
      return `${parent} belongs to systemd: start this program with \`systemd-run ${process.geteuid!() === 0 ? "" : "--user "}--scope -p Delegate=yes\``;
    const trial = join(parent, `caisson-trial-${process.pid}`);
    mkdirSync(trial);
    rmdirSync(trial);
    return undefined;
  } catch (error) {
    return `${parent} was not delegated to this user (${(error as NodeJS.ErrnoException).code})`;
  }
}

const isOffered = (controller: Controller) => OFFERED.includes(controller);

/** Whether nobody else governs what is beneath. Where systemd runs, it has given it to a user, or marked it as given away (version 251). */
function isDelegated(parent: string): boolean {
  if (!existsSync("/run/systemd/system") || process.env[SETTING] !== undefined) return true;
  const { uid } = statSync(parent);
  return uid === 0
    ? ["trusted.delegate", "user.delegate"].some((mark) => hasMark(parent, mark))
    : uid === process.geteuid!();
}

function hasMark(path: string, name: string): boolean {
  try {
    const value = new Uint8Array(1);
    return self.call("getxattr", path, name, value, value.length) === 1 && value[0] === "1".charCodeAt(0);
  } catch {
    return false;
  }
}

const claims = new Map<Tree, Claim>();

/** This process's own directory in a tree, whose groups may have its controllers. Made when it is first needed. */
export function directoryIn(tree: Tree): string {
  const known = claims.get(tree);
  if (known !== undefined && existsSync(known.directory)) return known.directory;
  known?.lock.close(); // somebody removed it
  const controllers = tree.version === 2 ? tree.controllers.filter(isOffered) : [];
  if (controllers.length > 0) {
    const missing = controllers.filter((each) => !handsOn(tree.parent, each));
    if (missing.length > 0 && !isTop(tree.parent)) evacuate(tree.parent);
    handOn(tree.parent, missing);
  }
  const made = claim(tree.parent);
  handOn(made.directory, controllers);
  if (claims.size === 0) process.on("exit", leave);
  claims.set(tree, made);
  void sweep(tree.parent);
  return made.directory;
}

const handsOn = (group: string, controller: Controller) =>
  read(join(group, "cgroup.subtree_control")).split(/\s/).includes(controller);

function handOn(group: string, controllers: readonly Controller[]): void {
  for (const each of controllers) writeGroup(group, "cgroup.subtree_control", `+${each}`);
}

/** Moves the processes of a group into a leaf of it. Others can come in meanwhile. */
function evacuate(group: string): void {
  const leaf = join(group, REST);
  mkdirSync(leaf, { recursive: true });
  for (let pids = membersOf(group); pids.length > 0; pids = membersOf(group)) {
    for (const pid of pids) {
      try {
        writeGroup(leaf, "cgroup.procs", `${pid}`);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
      }
    }
  }
}

/** Removes what is empty. What is not, the next one does that starts. */
function leave(): void {
  for (const { directory } of claims.values()) removed(directory);
}
