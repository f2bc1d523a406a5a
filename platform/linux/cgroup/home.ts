/** Where this process may make control groups, found by looking and by trying; and why not, where it may not. */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { self } from "../../../syscalls/kernel.ts";
import { sessionOf } from "../../../syscalls/linux/process.ts";
import { type Claim, claim, membersOf, removed, sweep, writeGroup } from "./claim.ts";
import type { Controller, Hierarchy } from "./hierarchy.ts";
import { type Circumstances, type Obstacle, reasonOf, remedyOf, SETTING, SYSTEMD } from "./obstacle.ts";
import { enterScope, hasManager, RUNS } from "./scope.ts";
import { isOffered, isTop, REST, read, type Searched, searchTrees, type Tree } from "./search.ts";

/** What was found. */
export interface Found {
  readonly trees: readonly Tree[];
  /** Why there is none for a controller, in words for people, and what to do about it. */
  readonly lacks: Readonly<Partial<Record<Controller, string>>>;
  readonly remedies: Readonly<Partial<Record<Controller, string>>>;
  /** Where trees are mounted, and the group of this process in each. */
  readonly hierarchies: readonly Hierarchy[];
}

let found: Found | undefined;

/** Where groups can be made. Looked for once. */
export function findTrees(): Found {
  found ??= find();
  return found;
}

function find(): Found {
  const searched = searchTrees();
  const inV2 = Object.values(searched.obstacles).some((each) => "place" in each && each.place.version === 2);
  const governed = inV2 && searched.trees.every(({ version }) => version === 1);
  if (process.env[SETTING] !== SYSTEMD || !governed) return told(searched);
  const reason = enterScope();
  return reason === undefined ? told(searchTrees()) : told(searched, { kind: "setting", reason });
}

/** @param refused what keeps the setting from being followed, which is then the reason for all */
function told({ hierarchies, trees, obstacles }: Searched, refused?: Obstacle): Found {
  const circumstances: Circumstances = {
    uid: process.geteuid!(),
    session: sessionOf(self) || process.ppid, // 0 is one out of sight
    systemd: existsSync(RUNS),
    bus: hasManager(),
    legacy: hierarchies.filter(({ version }) => version === 1).map(({ mount }) => mount),
  };
  const of = (tell: (obstacle: Obstacle) => string) =>
    Object.fromEntries(Object.entries(obstacles).map(([controller, each]) => [controller, tell(refused ?? each)]));
  return { trees, lacks: of(reasonOf), remedies: of((each) => remedyOf(each, circumstances)), hierarchies };
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
    if (missing.length > 0) handOnFromLeaf(tree.parent, missing);
  }
  const made = claim(tree.parent);
  handOn(made.directory, controllers);
  if (claims.size === 0) {
    process.on("exit", leave);
    // In all trees at once: what a killed host left may be in one that this one never needs.
    for (const { parent } of findTrees().trees) void sweep(parent);
  }
  claims.set(tree, made);
  return made.directory;
}

const handsOn = (group: string, controller: Controller) =>
  read(join(group, "cgroup.subtree_control")).split(/\s/).includes(controller);

function handOn(group: string, controllers: readonly Controller[]): void {
  for (const each of controllers) writeGroup(group, "cgroup.subtree_control", `+${each}`);
}

/** How often processes may come into a group behind those that leave it. */
const MOST_ROUNDS = 20;

/** Hands controllers on from the group that this process is in. Only the top may have processes then, so these go into a leaf of it. */
function handOnFromLeaf(group: string, controllers: readonly Controller[]): void {
  for (let round = 1; ; round++) {
    if (!isTop(group)) evacuate(group);
    try {
      handOn(group, controllers);
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EBUSY" || round === MOST_ROUNDS) throw error;
    }
  }
}

function evacuate(group: string): void {
  const leaf = join(group, REST);
  mkdirSync(leaf, { recursive: true });
  for (const pid of membersOf(group)) {
    if (pid === 0)
      throw new Error(`Cannot hand on the controllers of ${group}: processes of another PID namespace are in there`);
    try {
      writeGroup(leaf, "cgroup.procs", `${pid}`);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }
}

/** Removes what is empty. What is not, the next one does that starts. */
function leave(): void {
  for (const { directory } of claims.values()) removed(directory);
}
