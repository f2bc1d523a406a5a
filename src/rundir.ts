/** Where the hosts of one user have their sockets: a directory that nobody else can enter. */
import { lstatSync, mkdirSync, readdirSync, rmSync, type Stats, statSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import { Descriptor } from "../syscalls/descriptor.ts";
import { SystemError } from "../syscalls/error.ts";
import { self } from "../syscalls/kernel.ts";
import { SOCK } from "../syscalls/linux/constants.ts";
import { connectTo, openSocket } from "../syscalls/linux/network.ts";

/** The directories where they may be, the best first. The last one anybody could have made before us, so it is looked at before it is used. */
export function runDirectories(env: Readonly<Record<string, string | undefined>> = process.env): string[] {
  const user = process.geteuid!();
  const given = env.XDG_RUNTIME_DIR ?? "";
  const offered = [...(isAbsolute(given) ? [given] : []), `/run/user/${user}`];
  const ours = [...new Set(offered)].filter((path) => isOurs(statSync(path, { throwIfNoEntry: false }), 0o022));
  return [...ours.map((path) => join(path, "caisson")), `/tmp/caisson-${user}`];
}

/** The best directory, made if it is missing. Throws where what is there is not this user's alone. */
export function makeRunDirectory(path = runDirectories()[0]!): string {
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
  if (!isOurs(lstatSync(path, { throwIfNoEntry: false }), 0o077))
    throw new Error(
      `Cannot use ${path}: a directory of user ${process.geteuid!()} that nobody else can enter (mode 0700) is expected; remove it, or set XDG_RUNTIME_DIR`,
    );
  return path;
}

/** A directory of this user's, and nobody else has these permissions on it. No link is one that was not followed, and nobody swaps what is ours in /tmp. */
function isOurs(status: Stats | undefined, others: number): boolean {
  return status?.isDirectory() === true && status.uid === process.geteuid!() && (status.mode & others) === 0;
}

/** The sockets of hosts, some of which may be dead. */
export function hostSockets(directories: readonly string[] = runDirectories()): string[] {
  return directories
    .filter((directory) => isOurs(lstatSync(directory, { throwIfNoEntry: false }), 0o077))
    .flatMap((directory) => readdirSync(directory).map((name) => join(directory, name)))
    .filter((path) => /\/\d+\.sock$/.test(path) && isSocket(path));
}

/** Removes a socket of ours that nobody listens on, such as killed hosts leave; true where it did. */
export function sweep(path: string): boolean {
  if (!isSocket(path) || listens(path)) return false;
  rmSync(path, { force: true });
  return true;
}

/** A socket of this user's, and no link to one. */
function isSocket(path: string): boolean {
  const status = lstatSync(path, { throwIfNoEntry: false });
  return status?.isSocket() === true && status.uid === process.geteuid!();
}

/** Whether somebody listens there, or may. Who has no room for one more connection (EAGAIN) does. */
export function listens(path: string): boolean {
  using socket = new Descriptor(openSocket(self, "UNIX", SOCK.NONBLOCK));
  try {
    connectTo(self, socket.number, { family: "UNIX", path });
    return true;
  } catch (error) {
    if (error instanceof SystemError) return error.code !== "ECONNREFUSED" && error.code !== "ENOENT";
    throw error;
  }
}
