/** What the host lends to a root of `caisson bwrap`: detached mounts of it. */
import { readlinkSync, realpathSync } from "node:fs";
import { resolve } from "node:path";
import type { Driven } from "../platform/index.ts";
import { self } from "../syscalls/kernel.ts";
import { close, decodeStatus, fileStatus, openResolved, STAT_SIZE } from "../syscalls/linux/file.ts";
import { cloneTree, setMountAttributes } from "../syscalls/linux/mount.ts";
import { MOUNT_ATTR, O, RESOLVE } from "../syscalls/linux/numbers.ts";
import type { Caller, Operation } from "./bwrap.ts";
import { attempt, BwrapError, reasonOf } from "./strerror.ts";

export type Of<Does extends Operation["does"]> = Extract<Operation, { does: Does }>;

/** What the operations depend on beside themselves. */
export interface Surroundings {
  /** Where relative sources begin. */
  readonly directory: string;
  /** Whether the processes inside are not those of the caller. */
  readonly processes: boolean;
  /** The terminal that standard output is. */
  readonly console: string | undefined;
  readonly read: Caller["read"];
}

export const DEVICES = ["null", "zero", "full", "random", "urandom", "tty"];

const SAFE = MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV;
const PATH = O.PATH | O.CLOEXEC;

/** A detached mount of what the host lends. */
export interface Source {
  readonly path: string;
  readonly tree: number;
  readonly directory: boolean;
}

/** A target, as bubblewrap's messages have it. */
export const place = (target: string) => `/newroot/${target.replace(/^\/+/, "")}`;

/** Opens all that an operation shows of the host, before the new root hides some of it. */
export function sourcesOf(puppet: Driven, operation: Operation, surroundings: Surroundings): (Source | undefined)[] {
  const known = (path: string, attributes: bigint, on = operation.target) => {
    const words = `Can't bind mount /oldroot${path} on ${place(on)}: Unable to mount source on destination`;
    return attempt(words, () => lent(puppet, path, { words, attributes }));
  };
  switch (operation.does) {
    case "bind":
      return [bound(puppet, operation, surroundings.directory)];
    case "dev": {
      const { console } = surroundings;
      const on = (name: string) => `${operation.target}/${name}`;
      const devices = DEVICES.map((name) => known(`/dev/${name}`, MOUNT_ATTR.NOSUID, on(name)));
      return console === undefined ? devices : [...devices, known(console, MOUNT_ATTR.NOSUID, on("console"))];
    }
    case "proc":
      return surroundings.processes ? [] : [known("/proc", SAFE)];
    default:
      return [];
  }
}

/** What a bind shows; undefined where that is missing, and may be. */
function bound(puppet: Driven, { source, target, ...bind }: Of<"bind">, directory: string): Source | undefined {
  const spelled = typeof source === "number" ? `/proc/self/fd/${source}` : source;
  try {
    const path = typeof source === "number" ? readlinkSync(spelled) : realpathSync(resolve(directory, source));
    const attributes =
      MOUNT_ATTR.NOSUID | (bind.devices ? 0n : MOUNT_ATTR.NODEV) | (bind.write ? 0n : MOUNT_ATTR.RDONLY);
    const words = `Can't bind mount /oldroot${path} on ${place(target)}: Unable to mount source on destination`;
    return lent(puppet, path, { words, attributes, ...(typeof source === "number" ? { same: source } : {}) });
  } catch (error) {
    if (!(error instanceof Error && "code" in error)) throw error;
    if (bind.optional && error.code === "ENOENT") return undefined;
    throw new BwrapError(`Can't find source path ${spelled}: ${reasonOf(error)}`, { cause: error });
  }
}

/** A detached mount of a path of the host, which is resolved: a link that someone put there since is not followed. */
function lent(
  puppet: Driven,
  path: string,
  { words, attributes, same }: { readonly words: string; readonly attributes: bigint; readonly same?: number },
): Source {
  const status = new Uint8Array(STAT_SIZE);
  const resolve = RESOLVE.NO_SYMLINKS | RESOLVE.NO_MAGICLINKS;
  const opened = puppet.together((kernel) => {
    const descriptor = openResolved(kernel, path, { flags: PATH, resolve });
    kernel.call("fstat", descriptor, status);
    return descriptor;
  });
  const { dev, inode, directory } = decodeStatus(status);
  if (same !== undefined) {
    const meant = fileStatus(self, same);
    if (dev !== meant.dev || inode !== meant.inode) throw new BwrapError("Race condition binding dirfd");
  }
  const tree = attempt(words, () =>
    puppet.together((kernel) => {
      const cloned = cloneTree(kernel, opened, { recursive: true });
      setMountAttributes(kernel, cloned, { set: attributes }, { recursive: true });
      close(kernel, opened);
      return cloned;
    }),
  );
  return { path, tree, directory };
}
