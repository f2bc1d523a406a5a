/** What a group tells of its memory, as it happens. The kernel's `cgroup-v2` document; of v1 `cgroup-v1/memory`, section 9 */
import { join } from "node:path";
import { Descriptor } from "../../../syscalls/descriptor.ts";
import { self } from "../../../syscalls/kernel.ts";
import { open } from "../../../syscalls/linux/file.ts";
import { O } from "../../../syscalls/linux/numbers.ts";
import { ready, type Wait } from "../../../syscalls/ready.ts";
import { writeGroup } from "./claim.ts";
import { countsOf } from "./counts.ts";
import type { Tree } from "./search.ts";
import { readStrain, Thrashing } from "./thrashing.ts";

/** How soon we look again whether the kernel has ended a process, and how seldom at last: first it writes a report, which takes seconds on a slow console. */
const SOON_MS = 5;
const SELDOM_MS = 250;

/** What the kernel says where there is just now no room for one more descriptor, or for a watch. Nothing has happened to the group then. */
const SCARCE: ReadonlySet<string | undefined> = new Set(["EMFILE", "ENFILE", "ENOMEM", "ENOSPC"]);

/** What it gives; undefined where it cannot be had just now. */
function unlessScarce<Result>(get: () => Result): Result | undefined {
  try {
    return get();
  } catch (error) {
    if (!SCARCE.has((error as NodeJS.ErrnoException).code)) throw error;
  }
}

/** What is waited for: an event counter of v1, or a file of v2 that changes. */
interface News {
  readonly file: Descriptor;
  readonly counts: boolean;
}

/** Who wants to hear of news, and that there will be none. */
interface Listener {
  look(): void;
  fail(): void;
}

/** Somebody removed the group: onMemoryEnd() sees to that. */
const gone = () => {};

export class Events {
  readonly #directory: string;
  readonly #tree: Tree;
  readonly #waits = new Set<Wait>();
  readonly #listeners: Listener[] = [];
  readonly #follows: Promise<void>[] = [];
  #timer: NodeJS.Timeout | undefined;
  #over = false;

  constructor({ directory, tree }: { readonly directory: string; readonly tree: Tree }) {
    this.#directory = directory;
    this.#tree = tree;
  }

  /** Tells nothing any more. Settles when its descriptors are closed. */
  async end(): Promise<void> {
    this.#over = true;
    clearTimeout(this.#timer);
    for (const wait of this.#waits) wait.cancel();
    await Promise.all(this.#follows);
  }

  /**
   * Calls `take` once, when the memory limit has had a process ended. In v1 the others go on, and whoever is told should end them: with
   * `memory.oom.group` of v2 the kernel does.
   */
  onMemoryEnd(take: () => void): void {
    let told = false;
    let looking = false;
    const look = async () => {
      if (looking) return;
      looking = true;
      // v1 tells that memory has run out, and counts the process that it ends for that when it has.
      for (let waitMs = SOON_MS; !told && !this.#over; waitMs = Math.min(2 * waitMs, SELDOM_MS)) {
        const counts = unlessScarce(() => this.#counts());
        if ((counts?.memoryEnds ?? 0) > 0) {
          told = true;
          take();
        } else if (counts !== undefined && this.#tree.version === 2) break;
        else await new Promise<void>((resolve) => setTimeout(resolve, waitMs).unref());
      }
      looking = false;
    };
    // Who cannot be watched any more is not kept to the limit: somebody removed the group.
    const listener = { look: () => void look().catch(take), fail: take };
    if (this.#tree.version === 1) this.#hear(listener, this.#legacyEvent("memory.oom_control", ""));
    else this.#hear(listener);
  }

  /** Calls `take` once, when more memory than `bytes` is in use. */
  onMemory(bytes: number, take: () => void): void {
    let told = false;
    const once = () => {
      if (told) return;
      told = true;
      take();
    };
    if (this.#tree.version === 1) {
      const look = () => {
        if ((this.#counts().memoryPeak ?? 0) >= bytes) once(); // it may be less again by now
      };
      this.#hear({ look, fail: gone }, this.#legacyEvent("memory.usage_in_bytes", `${bytes}`));
      return;
    }
    // The kernel would hold back who is above it. Here it is a mark, which goes when it was passed.
    writeGroup(this.#directory, "memory.high", `${bytes}`);
    const look = () => {
      if ((this.#counts().memoryWarnings ?? 0) === 0) return;
      if (!told) writeGroup(this.#directory, "memory.high", "max");
      once();
    };
    this.#hear({ look, fail: gone });
  }

  /** Calls `take` once, when a group of v2 without swap does nothing any more but to give memory back and to read it again. */
  onThrashing(take: () => void): void {
    if (this.#tree.version === 1) return;
    const thrashing = new Thrashing();
    const look = () => {
      this.#timer = undefined;
      const strain = readStrain(this.#directory);
      if (strain === undefined || this.#over) return;
      const now = thrashing.see(strain, performance.now());
      if (now === "thrashes") take();
      else if (now === "strained") this.#timer = setTimeout(look, Thrashing.EVERY_MS).unref();
    };
    // The kernel says when a group has come to its limit. Until then nobody looks.
    const begin = () => {
      this.#timer ??= setTimeout(look, Thrashing.EVERY_MS).unref();
    };
    this.#hear({ look: begin, fail: gone });
  }

  /**
   * Throws the error of the first wait. What fails later the listener is told.
   * @param counter of v1; in v2 all hear of the same file
   */
  #hear(listener: Listener, counter?: Descriptor): void {
    const listeners = counter === undefined ? this.#listeners : [];
    if (listeners.length === 0) {
      const file = counter ?? new Descriptor(open(self, join(this.#directory, "memory.events"), O.RDONLY | O.CLOEXEC));
      try {
        const news: News = { file, counts: counter !== undefined };
        const first = this.#await(news);
        const look = () => {
          for (const { look } of listeners) look();
        };
        const follow = this.#follow(news, first, look).catch(() => {
          for (const { fail } of listeners) fail();
        });
        this.#follows.push(follow);
      } catch (error) {
        file.close();
        throw error;
      }
    }
    listeners.push(listener);
  }

  #counts() {
    return countsOf(this.#directory, { ...this.#tree, controllers: ["memory"] });
  }

  /** Has an event of v1 counted by a descriptor, which is readable then. */
  #legacyEvent(file: string, argument: string): Descriptor {
    const counter = new Descriptor(self.call("eventfd2", 0, O.CLOEXEC | O.NONBLOCK));
    try {
      using watched = new Descriptor(open(self, join(this.#directory, file), O.RDONLY | O.CLOEXEC));
      writeGroup(this.#directory, "cgroup.event_control", `${counter.number} ${watched.number} ${argument}`.trim());
      return counter;
    } catch (error) {
      counter.close();
      throw error;
    }
  }

  /** Calls `look` whenever there is news, until this ends; and now and then where that cannot be waited for just now. */
  async #follow(news: News, first: Wait, look: () => void): Promise<void> {
    using file = news.file;
    for (let wait = first; ; ) {
      await wait.done;
      this.#waits.delete(wait);
      if (this.#over) return;
      if (news.counts) drain(file);
      wait = this.#next(news, look);
    }
  }

  /** Looks, and waits for more: that first, for what comes while it looks is news as well. */
  #next(news: News, look: () => void): Wait {
    const next = unlessScarce(() => this.#await(news));
    const looked = unlessScarce(() => {
      look();
      return true;
    });
    if (next !== undefined && looked === true) return next;
    if (next !== undefined) {
      next.cancel();
      this.#waits.delete(next);
    }
    const again = pause(SELDOM_MS);
    this.#waits.add(again);
    return again;
  }

  #await({ file, counts }: News): Wait {
    // To have read a file is to know of what was until then.
    const text = new Uint8Array(4096);
    if (!counts) self.call("pread64", file.number, text, text.length, 0);
    const wait = ready(file.number, counts ? "read" : "change");
    this.#waits.add(wait);
    return wait;
  }
}

/** Sets a counter of v1 to nothing. */
function drain(counter: Descriptor): void {
  try {
    self.call("read", counter.number, new Uint8Array(8), 8);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error; // it is
  }
}

/** Waits for time alone. */
function pause(milliseconds: number): Wait {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds).unref();
  const cancel = () => {
    clearTimeout(timer);
    resolve();
  };
  return { done: promise, cancel };
}
