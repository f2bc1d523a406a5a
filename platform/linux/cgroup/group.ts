/** Control groups: made for one actor, program or container, and removed with it. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Descriptor } from "../../../syscalls/descriptor.ts";
import type { SystemError } from "../../../syscalls/error.ts";
import { self } from "../../../syscalls/kernel.ts";
import { open } from "../../../syscalls/linux/file.ts";
import { O } from "../../../syscalls/linux/numbers.ts";
import { dismantle, killed, membersOf, removed, writeGroup } from "./claim.ts";
import { type Counts, countsOf } from "./counts.ts";
import { Events } from "./events.ts";
import type { Controller } from "./hierarchy.ts";
import { directoryIn, findTrees } from "./home.ts";
import { mostCpuIn } from "./quota.ts";
import type { Tree } from "./search.ts";
import { type Budget, controllersOf, settingsOf } from "./settings.ts";

/** Its directory in one tree. */
interface Part {
  readonly tree: Tree;
  readonly directory: string;
  /** Where its processes are: there, or beneath. */
  readonly entry: string;
}

/** Groups that may be made beneath a border, of which nobody has any use but for order. */
const BENEATH = 64;

/** Descriptors of a group, for whoever forks a process into it. */
export interface Doors extends Disposable {
  /** Of its directory in v2, into which `clone3` clones; undefined where it has none. */
  readonly directory: number | undefined;
  /** Of v1's `tasks`, for the child to write `0` to: that is itself. */
  readonly tasks: readonly number[];
}

let made = 0;

let clones: boolean | undefined;

/** Whether there is `clone3`. Container engines answer it with ENOSYS, for filters cannot read its flags. */
function hasClone3(): boolean {
  try {
    self.call("clone3", null, 0);
  } catch (error) {
    return (error as SystemError).code !== "ENOSYS";
  }
  return true;
}

/** The trees that are needed for these controllers. A controller that there is not needs none. */
function treesFor(controllers: readonly Controller[]): Tree[] {
  return findTrees().trees.filter((tree) => tree.controllers.some((each) => controllers.includes(each)));
}

/** The part of a budget that can be had there: what a group above keeps to less is kept to that. */
function budgetIn({ version, parent }: Tree, budget: Budget): Budget {
  if (version === 2 || budget.cpu === undefined) return budget;
  return { ...budget, cpu: Math.min(budget.cpu, mostCpuIn(parent)) };
}

/** Removes it where it is empty. */
function isRemoved({ directory, entry }: Part): boolean {
  return removed(entry) && removed(directory);
}

export class Group {
  readonly #parts: readonly Part[];
  readonly #events: Events | undefined;

  private constructor(parts: readonly Part[]) {
    this.#parts = parts;
    const governing = parts.find(({ tree }) => tree.controllers.includes("memory"));
    this.#events = governing && new Events(governing);
  }

  /**
   * Makes a group that keeps a budget as far as there are controllers, and counts besides what `counted` says. Undefined where none of them is there.
   * Throws the error of what could not be made or written; nothing is left then.
   * @param border has processes be in a group beneath, to which nothing is handed on. That is the top of a cgroup namespace made in there: who mounts
   * groups inside sees no file of the limits, though they are theirs. In v2 alone: the counts of v1 are those of the group that one is in
   */
  static make(budget: Budget, counted: readonly Controller[] = [], { border = false } = {}): Group | undefined {
    const trees = treesFor([...controllersOf(budget), ...counted]).filter(({ version }) => !border || version === 2);
    if (trees.length === 0) return undefined;
    const name = `${++made}`;
    const parts: Part[] = [];
    try {
      for (const tree of trees) {
        const directory = join(directoryIn(tree), name);
        mkdirSync(directory, { mode: 0o700 });
        const entry = border ? join(directory, "in") : directory;
        parts.push({ tree, directory, entry });
        if (border) {
          mkdirSync(entry, { mode: 0o700 });
          writeGroup(directory, "cgroup.max.descendants", `${BENEATH}`);
        }
        for (const { file, value, maybe } of settingsOf(budgetIn(tree, budget), tree.version, tree.controllers)) {
          try {
            writeGroup(directory, file, value);
          } catch (error) {
            if (!maybe || (error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
          }
        }
      }
      return new Group(parts);
    } catch (error) {
      parts.forEach(isRemoved);
      throw error;
    }
  }

  /** Whether it keeps or counts what a controller does. */
  governs(controller: Controller): boolean {
    return this.#parts.some(({ tree }) => tree.controllers.includes(controller));
  }

  /** Opens what a process is forked into it by. Undefined where v2 has no door, for there is no `clone3`. */
  doors(): Doors | undefined {
    const of = (version: 1 | 2) => this.#parts.filter(({ tree }) => tree.version === version);
    const [unified] = of(2);
    clones ??= hasClone3();
    if (unified !== undefined && !clones) return undefined;
    const opened = new DisposableStack();
    const door = (path: string, flags: number) =>
      opened.use(new Descriptor(open(self, path, flags | O.CLOEXEC))).number;
    try {
      return {
        directory: unified && door(unified.entry, O.DIRECTORY),
        tasks: of(1).map(({ directory }) => door(join(directory, "tasks"), O.WRONLY)),
        [Symbol.dispose]: () => opened.dispose(),
      };
    } catch (error) {
      opened.dispose();
      throw error;
    }
  }

  /** Puts a process in that came by no door, and has no children yet. The kernel holds up all forks of the machine for that, some 10 ms. */
  place(pid: number): void {
    for (const { entry } of this.#parts) writeGroup(entry, "cgroup.procs", `${pid}`);
  }

  /** What it counts, as far as there are controllers. Throws where it is gone. */
  counts(): Counts {
    return Object.assign({}, ...this.#parts.map(({ tree, directory }) => countsOf(directory, tree)));
  }

  /** The processes in it, by their numbers here. */
  members(): number[] {
    const [first] = this.#parts;
    return first === undefined ? [] : membersOf(first.entry);
  }

  /** Ends everything in it, whatever it does meanwhile. Settles when nothing is left, and the group is gone; with false where something stays. */
  async end(): Promise<boolean> {
    const silent = this.#events?.end();
    const gone = await Promise.all(
      this.#parts.map(async (part) => isRemoved(part) || (await dismantle(part.directory))),
    );
    await silent; // it holds descriptors
    return gone.every(Boolean);
  }

  /** Sends SIGKILL to everything in it, by one order where the kernel takes that. */
  kill(): void {
    const { directory } = this.#parts.find(({ tree }) => tree.controllers.includes("kill")) ?? this.#parts[0]!;
    if (!killed(directory)) void dismantle(directory);
  }

  /** Calls `take` once, when the memory limit has had a process ended. */
  onMemoryEnd(take: () => void): void {
    this.#events?.onMemoryEnd(take);
  }

  /** Calls `take` once, when more memory than `bytes` is in use. */
  onMemory(bytes: number, take: () => void): void {
    this.#events?.onMemory(bytes, take);
  }

  /** Calls `take` once, when it thrashes at its memory limit. In v1 that is not to be seen. */
  onThrashing(take: () => void): void {
    this.#events?.onThrashing(take);
  }
}
