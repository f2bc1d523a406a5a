/**
 * This process's own directory in a tree of control groups, and what others left there. A lock on the directory says that its owner lives, and goes
 * with the owner however that ends.
 */
import { constants, lstatSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Descriptor } from "../../../syscalls/descriptor.ts";
import { SystemError } from "../../../syscalls/error.ts";
import { self } from "../../../syscalls/kernel.ts";
import { lock, open } from "../../../syscalls/linux/file.ts";
import { O, SIG } from "../../../syscalls/linux/numbers.ts";
import { openProcess } from "../../../syscalls/linux/process.ts";
import { signalProcess } from "../../../syscalls/linux/signal.ts";

/** What our directories are called. */
const NAME = /^caisson\.[0-9a-f]{16}$/;

/** A directory that is ours. */
export interface Claim {
  readonly directory: string;
  readonly lock: Descriptor;
}

/** Makes a directory beneath `parent` and holds it. Throws the error of what could not be made. */
export function claim(parent: string): Claim {
  for (;;) {
    const directory = join(parent, `caisson.${Buffer.from(crypto.getRandomValues(new Uint8Array(8))).toString("hex")}`);
    mkdirSync(directory, { mode: 0o700 });
    const held = hold(directory);
    // Who sweeps can have been quicker, and took it for one that nobody holds.
    if (held !== undefined && lstatSync(directory, { throwIfNoEntry: false }) !== undefined)
      return { directory, lock: held };
    held?.close();
  }
}

/** The lock of a directory; undefined where somebody has it, or it is gone. */
function hold(directory: string): Descriptor | undefined {
  let opened: Descriptor | undefined;
  try {
    opened = new Descriptor(open(self, directory, O.RDONLY | O.DIRECTORY | O.NOFOLLOW | O.CLOEXEC));
    lock(self, opened.number);
    return opened;
  } catch (error) {
    opened?.close();
    if (error instanceof SystemError && ["EAGAIN", "ENOENT", "EACCES"].includes(error.code)) return undefined;
    throw error;
  }
}

/** How long processes that were sent SIGKILL may take to be gone; and how often they are looked at, however late: it may be this process that was held up. */
const PATIENCE_MS = 5000;
const LEAST_LOOKS = 100;

/** Removes what owners left beneath `parent` that are gone, and ends what is still in there. Settles when that is done; rejects never. */
export async function sweep(parent: string): Promise<void> {
  for (const name of list(parent)) {
    try {
      const directory = join(parent, name);
      if (!NAME.test(name) || lstatSync(directory, { throwIfNoEntry: false })?.uid !== process.geteuid!()) continue;
      using held = hold(directory);
      if (held !== undefined) await dismantle(directory);
    } catch {
      // This host has no descriptor left, say. The next one that starts looks again.
    }
  }
}

/** Ends everything in a group and those beneath it, and removes them. Gives up after a while, or where something else refuses. */
export async function dismantle(directory: string): Promise<boolean> {
  const deadline = performance.now() + PATIENCE_MS;
  for (let looks = 0; looks < LEAST_LOOKS || performance.now() < deadline; looks++) {
    const groups = [directory, ...beneath(directory)].toReversed(); // what is inside can make some
    await killAll(directory, groups);
    if (groups.every(removed)) return true;
    await Bun.sleep(5);
  }
  return false;
}

/** Removes a group; whether it is gone. */
export function removed(directory: string): boolean {
  try {
    rmdirSync(directory);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT";
  }
}

function beneath(directory: string): string[] {
  return list(directory).flatMap((name) => [join(directory, name), ...beneath(join(directory, name))]);
}

/** The groups right beneath this one. */
function list(directory: string): string[] {
  try {
    return readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name);
  } catch {
    return []; // it is gone
  }
}

/** How long processes may take to stand still. Who waits for a child of `vfork` does not, and is killed all the same. */
const STANDSTILL_MS = 100;

/**
 * Sends SIGKILL to all that is in these groups: in v2 by the kernel at once; in v1 one by one, while the freezer keeps them from forking if it has
 * them. Without it, that takes as many rounds as they fork.
 */
async function killAll(directory: string, groups: readonly string[]): Promise<void> {
  if (killed(directory)) return;
  if (wrote(directory, "freezer.state", "FROZEN"))
    for (const until = performance.now() + STANDSTILL_MS; performance.now() < until && !isFrozen(directory); )
      await Bun.sleep(1);
  for (const group of groups) for (const pid of membersOf(group)) killMember(group, pid);
  wrote(directory, "freezer.state", "THAWED"); // before that nobody dies
}

function isFrozen(directory: string): boolean {
  try {
    return readFileSync(join(directory, "freezer.state"), "utf8") === "FROZEN\n";
  } catch {
    return false;
  }
}

/** Has the kernel end a group of v2 and those beneath it. Whether it did: it can since Linux 5.14. */
export function killed(directory: string): boolean {
  return wrote(directory, "cgroup.kill", "1");
}

/** Writes a file of a group that may not be there. Whether it was, and took that. */
function wrote(directory: string, file: string, value: string): boolean {
  try {
    writeGroup(directory, file, value);
    return true;
  } catch {
    return false;
  }
}

/** Writes a file of a group. Some may not be read. */
export function writeGroup(directory: string, file: string, value: string): void {
  writeFileSync(join(directory, file), value, { flag: constants.O_WRONLY as unknown as string }); // the types know names alone
}

/** The processes of a group, by their numbers here. */
export function membersOf(group: string): number[] {
  try {
    return readFileSync(join(group, "cgroup.procs"), "utf8").split("\n").filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

/** Ends a process of a group, unless it has ended and its number has come to mean another one. */
function killMember(group: string, pid: number): void {
  if (pid === 0) return; // it is in a PID namespace that this process does not see
  try {
    using handle = new Descriptor(openProcess(self, pid));
    if (membersOf(group).includes(pid)) signalProcess(self, handle.number, SIG.KILL);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
  }
}
