/** Control groups: made for one actor, program or container, and removed with it. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Descriptor } from "../../../syscalls/descriptor.ts";
import { self } from "../../../syscalls/kernel.ts";
import { open } from "../../../syscalls/linux/file.ts";
import { O } from "../../../syscalls/linux/numbers.ts";
import { ready, type Wait } from "../../../syscalls/ready.ts";
import { dismantle, killed, membersOf, removed, writeGroup } from "./claim.ts";
import { type Counts, countsOf } from "./counts.ts";
import type { Controller } from "./hierarchy.ts";
import { directoryIn, findTrees, type Tree } from "./home.ts";
import { type Budget, controllersOf, settingsOf } from "./settings.ts";

/** Its directory in one tree. */
interface Part {
  readonly tree: Tree;
  readonly directory: string;
}

let made = 0;

/** For how long after it was told of the end of a process the kernel may take to count it, and how often we look. */
const COUNTED_MS = 1000;
const LOOK_MS = 5;

/** The trees that are needed for these controllers. A controller that there is not needs none. */
function treesFor(controllers: readonly Controller[]): Tree[] {
  return findTrees().trees.filter((tree) => tree.controllers.some((each) => controllers.includes(each)));
}

export class Group {
  readonly #parts: readonly Part[];
  readonly #waits = new Set<Wait>();
  readonly #follows: Promise<void>[] = [];
  #over = false;

  private constructor(parts: readonly Part[]) {
    this.#parts = parts;
  }

  /**
   * Makes a group that keeps a budget as far as there are controllers, and counts besides what `counted` says. Undefined where none of them is there.
   * Throws the error of what could not be made or written; nothing is left then.
   */
  static make(budget: Budget, counted: readonly Controller[] = []): Group | undefined {
    const trees = treesFor([...controllersOf(budget), ...counted]);
    if (trees.length === 0) return undefined;
    const name = `${++made}`;
    const parts: Part[] = [];
    try {
      for (const tree of trees) {
        const directory = join(directoryIn(tree), name);
        mkdirSync(directory, { mode: 0o700 });
        parts.push({ tree, directory });
        for (const { file, value, maybe } of settingsOf(budget, tree.version, tree.controllers)) {
          try {
            writeGroup(directory, file, value);
          } catch (error) {
            if (!maybe || (error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
          }
        }
      }
      return new Group(parts);
    } catch (error) {
      for (const { directory } of parts) removed(directory);
      throw error;
    }
  }

  /** Whether it keeps or counts what a controller does. */
  governs(controller: Controller): boolean {
    return this.#parts.some(({ tree }) => tree.controllers.includes(controller));
  }

  /** Puts a process in, which is to have no children yet. */
  place(pid: number): void {
    for (const { directory } of this.#parts) writeGroup(directory, "cgroup.procs", `${pid}`);
  }

  /** What it counts, as far as there are controllers. Throws where it is gone. */
  counts(): Counts {
    return Object.assign({}, ...this.#parts.map(({ tree, directory }) => countsOf(directory, tree)));
  }

  /** The processes in it, by their numbers here. */
  members(): number[] {
    const [first] = this.#parts;
    return first === undefined ? [] : membersOf(first.directory);
  }

  /** Ends everything in it, whatever it does meanwhile. Settles when nothing is left, and the group is gone; with false where something stays. */
  async end(): Promise<boolean> {
    this.#over = true;
    for (const wait of this.#waits) wait.cancel();
    const gone = await Promise.all(
      this.#parts.map(async ({ directory }) => removed(directory) || (await dismantle(directory))),
    );
    await Promise.all(this.#follows); // they hold descriptors
    return gone.every(Boolean);
  }

  /** Sends SIGKILL to everything in it, by one order where the kernel takes that. */
  kill(): void {
    const { directory } = this.#parts.find(({ tree }) => tree.controllers.includes("kill")) ?? this.#parts[0]!;
    if (!killed(directory)) void dismantle(directory);
  }

  /**
   * Calls `take` once, when the memory limit has had a process ended. In v1 the others go on, and whoever is told should end them: with
   * `memory.oom.group` of v2 the kernel does.
   */
  onMemoryEnd(take: () => void): void {
    const part = this.#parts.find(({ tree }) => tree.controllers.includes("memory"));
    if (part === undefined) return;
    const { directory, tree } = part;
    let told = false;
    const look = async () => {
      // v1 tells that memory has run out, and counts the process that it ends for that when it has.
      for (const until = performance.now() + COUNTED_MS; !told && !this.#over; await Bun.sleep(LOOK_MS)) {
        if ((countsOf(directory, tree).memoryEnds ?? 0) > 0) {
          told = true;
          take();
        } else if (tree.version === 2 || performance.now() > until) return;
      }
    };
    const news = tree.version === 1 ? this.#legacyEvent(directory, "memory.oom_control", "") : "memory.events";
    // Who cannot be watched is not kept to the limit: somebody removed the group, or there is no room for a descriptor.
    this.#follows.push(this.#follow(directory, news, () => void look().catch(take)).catch(take));
  }

  /** Calls `take` once, when more memory than `bytes` is in use. */
  onMemory(bytes: number, take: () => void): void {
    const part = this.#parts.find(({ tree }) => tree.controllers.includes("memory"));
    if (part === undefined) return;
    const { directory, tree } = part;
    let told = false;
    const once = () => {
      if (told) return;
      told = true;
      take();
    };
    const gone = () => {}; // somebody removed the group; onMemoryEnd() sees to that
    if (tree.version === 1) {
      const news = this.#legacyEvent(directory, "memory.usage_in_bytes", `${bytes}`);
      const look = () => {
        if ((countsOf(directory, tree).memory ?? 0) >= bytes) once();
      };
      this.#follows.push(this.#follow(directory, news, look).catch(gone));
      return;
    }
    // The kernel would hold back who is above it. Here it is a mark, which goes when it was passed.
    writeGroup(directory, "memory.high", `${bytes}`);
    const look = () => {
      if ((countsOf(directory, tree).memoryWarnings ?? 0) === 0) return;
      if (!told) writeGroup(directory, "memory.high", "max");
      once();
    };
    this.#follows.push(this.#follow(directory, "memory.events", look).catch(gone));
  }

  /** Has an event of v1 counted by a descriptor, which is readable then. The kernel's `cgroup-v1/memory` document, section 9 */
  #legacyEvent(directory: string, file: string, argument: string): Descriptor {
    const counter = new Descriptor(self.call("eventfd2", 0, O.CLOEXEC | O.NONBLOCK));
    try {
      using watched = new Descriptor(open(self, join(directory, file), O.RDONLY | O.CLOEXEC));
      writeGroup(directory, "cgroup.event_control", `${counter.number} ${watched.number} ${argument}`.trim());
      return counter;
    } catch (error) {
      counter.close();
      throw error;
    }
  }

  /** Calls `look` whenever an event counter or a file of v2 tells of something, until the group ends. */
  async #follow(directory: string, what: Descriptor | string, look: () => void): Promise<void> {
    using file =
      typeof what === "string" ? new Descriptor(open(self, join(directory, what), O.RDONLY | O.CLOEXEC)) : what;
    const text = new Uint8Array(4096);
    while (!this.#over) {
      // To have read it is to know of what was until then.
      if (typeof what === "string") self.call("pread64", file.number, text, text.length, 0);
      const wait = ready(file.number, typeof what === "string" ? "change" : "read");
      this.#waits.add(wait);
      await wait.done;
      this.#waits.delete(wait);
      if (this.#over) return;
      if (typeof what !== "string") self.call("read", file.number, text, 8);
      look();
    }
  }
}
