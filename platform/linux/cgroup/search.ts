/** A search for the trees in which this process may make control groups. Nothing but a trial is made. */
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { claim, removed } from "./claim.ts";
import { isDelegated } from "./delegation.ts";
import { CONTROLLERS, type Controller, type Hierarchy, hierarchiesOf } from "./hierarchy.ts";
import { type Obstacle, type Place, SETTING, SYSTEMD } from "./obstacle.ts";
import { RUNS } from "./scope.ts";

/** The group to which the processes go that stand where groups with controllers are to be: v2 wants them in leaves. */
export const REST = "caisson.rest";

/** A tree in which this process may make groups. */
export interface Tree {
  readonly version: 1 | 2;
  /** The group beneath which its own directory is to be. */
  readonly parent: string;
  readonly controllers: readonly Controller[];
}

export interface Searched {
  readonly hierarchies: readonly Hierarchy[];
  readonly trees: readonly Tree[];
  readonly obstacles: Readonly<Partial<Record<Controller, Obstacle>>>;
}

export function searchTrees(): Searched {
  const trees: Tree[] = [];
  const obstacles: Partial<Record<Controller, Obstacle>> = {};
  const hierarchies = readHierarchies();
  const has = (controller: Controller) => trees.some(({ controllers }) => controllers.includes(controller));
  for (const hierarchy of hierarchies) {
    const { version, mount } = hierarchy;
    const place: Place = { version, mount, parent: parentOf(hierarchy), offered: offered(mount) };
    const handed = version === 1 ? [] : offered(place.parent);
    const controllers = [...hierarchy.controllers, ...handed].filter((each) => !has(each));
    const withheld = (place.offered ?? []).filter((each) => version === 2 && !handed.includes(each) && !has(each));
    if (controllers.length + withheld.length === 0) continue;
    const obstacle = obstacleTo(hierarchy, place, controllers);
    if (obstacle === undefined && controllers.length > 0) trees.push({ version, parent: place.parent, controllers });
    if (obstacle !== undefined) for (const each of controllers) obstacles[each] ??= obstacle;
    for (const each of withheld)
      obstacles[each] ??= obstacle ?? { kind: "withheld", controller: each, all: withheld, place };
  }
  for (const each of CONTROLLERS) {
    if (has(each)) delete obstacles[each];
    else obstacles[each] ??= absence(each, hierarchies);
  }
  return { hierarchies, trees, obstacles };
}

function absence(controller: Controller, hierarchies: readonly Hierarchy[]): Obstacle {
  if (hierarchies.length === 0) return { kind: "unseen" };
  const part = hierarchies.find(({ version, mount }) => version === 2 && !isTop(mount));
  return part === undefined ? { kind: "unknown", controller } : { kind: "outer", controller, mount: part.mount };
}

/** Those of v2 first: a group there can be ended whole, and counts time without a directory more. */
function readHierarchies(): Hierarchy[] {
  const [mountinfo, cgroup] = ["mountinfo", "cgroup"].map((name) => read(`/proc/self/${name}`)) as [string, string];
  return hierarchiesOf({ mountinfo, cgroup }).toSorted((a, b) => b.version - a.version);
}

/** A file of a group; empty where there is none. */
export function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** The path that the setting names. */
function named(): string | undefined {
  const setting = process.env[SETTING];
  return setting === "" || setting === SYSTEMD ? undefined : setting;
}

function parentOf({ mount, own }: Hierarchy): string {
  const setting = named();
  if (setting !== undefined) return join(mount, setting);
  return basename(own) === REST ? dirname(own) : own;
}

const OFFERED: readonly Controller[] = ["memory", "pids", "cpu", "io"];

/** The controllers that a group of v2 can hand on. */
function offered(parent: string): Controller[] {
  const names = read(join(parent, "cgroup.controllers")).split(/\s/);
  return OFFERED.filter((each) => names.includes(each));
}

/** Whether the group is the top of its tree, which may have processes and hand controllers on. */
export const isTop = (parent: string) => !existsSync(join(parent, "cgroup.events"));

/** What keeps groups from being made there; undefined where one was. */
function obstacleTo({ own }: Hierarchy, place: Place, controllers: readonly Controller[]): Obstacle | undefined {
  const { version, mount, parent } = place;
  const uid = process.geteuid!();
  if (named()?.split("/").includes("..")) return { kind: "setting", reason: `${SETTING} leads out of the tree` };
  if (version === 2 && uid !== 0 && own !== parent && !own.startsWith(`${parent}/`)) return { kind: "outside", place };
  try {
    const files = [
      "",
      "cgroup.procs",
      ...(version === 2 && controllers.some(isOffered) ? ["cgroup.subtree_control"] : []),
    ];
    for (const file of files) accessSync(join(parent, file), constants.W_OK);
    if (version === 2 && existsSync(RUNS) && named() === undefined && !isDelegated(parent, { top: mount, uid }))
      return { kind: "governed", place };
    // As one that is used, so that the next sweep takes it where this process is killed in between.
    const trial = claim(parent);
    removed(trial.directory);
    trial.lock.close();
    return undefined;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" && named() !== undefined)
      return { kind: "setting", reason: `${SETTING} names no group: there is no ${parent}` };
    return { kind: "refused", code: `${code}`, place };
  }
}

/** Whether a group of v2 has it handed on. */
export const isOffered = (controller: Controller) => OFFERED.includes(controller);
