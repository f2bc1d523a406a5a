/** Files and descriptors. */
import type { Kernel } from "../kernel.ts";
import { Struct } from "../struct.ts";
import { AT, AT_FD, F, F_SEAL, MACHINE, type Machine, MFD, O, S } from "./numbers.ts";

const OPEN_HOW = new Struct({ flags: "u64", mode: "u64", resolve: "u64" });

/** `openat(2)`, relative to the working directory. @param flags O */
export function open(kernel: Kernel, path: string, flags: number, mode = 0): number {
  return kernel.call("openat", AT_FD.CWD, path, flags, mode);
}

/** Opens a path under rules for its resolution. `openat2(2)`, Linux 5.6. @param options.resolve RESOLVE */
export function openResolved(
  kernel: Kernel,
  path: string,
  options: { readonly flags: number; readonly resolve: bigint; readonly directory?: number },
): number {
  const how = OPEN_HOW.encode({ flags: BigInt(options.flags), resolve: options.resolve });
  return kernel.call("openat2", options.directory ?? AT_FD.CWD, path, how, OPEN_HOW.size);
}

export function makeDirectory(kernel: Kernel, path: string, mode: number): void {
  kernel.call("mkdirat", AT_FD.CWD, path, mode);
}

export function makeDirectoryAt(kernel: Kernel, directory: number, name: string, mode: number): void {
  kernel.call("mkdirat", directory, name, mode);
}

/**
 * A descriptor of the file `name`, made if it is missing. A symlink there is ELOOP; those on the way to it are followed, so `name` should be a name.
 * `openat(2)` @param flags O; with O.EXCL it must be missing
 */
export function createFileAt(kernel: Kernel, directory: number, name: string, flags: number, mode: number): number {
  return kernel.call("openat", directory, name, flags | O.CREAT | O.NOFOLLOW | O.CLOEXEC, mode);
}

export function makeSymlink(kernel: Kernel, target: string, path: string): void {
  kernel.call("symlinkat", target, AT_FD.CWD, path);
}

export function makeSymlinkAt(kernel: Kernel, target: string, directory: number, name: string): void {
  kernel.call("symlinkat", target, directory, name);
}

/** Another name for the file `from`. `linkat(2)` */
export function makeLink(kernel: Kernel, from: string, to: string): void {
  kernel.call("linkat", AT_FD.CWD, from, AT_FD.CWD, to, 0);
}

/** A device, pipe or socket, or an empty file. Devices need `CAP_MKNOD` in the first user namespace. `mknod(2)` @param mode S.IF* and permissions */
export function makeNode(kernel: Kernel, path: string, mode: number, device = 0): void {
  kernel.call("mknodat", AT_FD.CWD, path, mode, device);
}

/** The number of a device for `makeNode`, and what `FileStatus.rdev` holds. `makedev(3)` */
export function deviceNumber(major: number, minor: number): number {
  return (((minor & ~0xff) << 12) | (major << 8) | (minor & 0xff)) >>> 0;
}

const LOCK = { EX: 2, NB: 4 } as const;

/**
 * Takes the one exclusive lock of a file or directory, for as long as this opening of it stays open. Throws EAGAIN where somebody has it, and never
 * waits. `flock(2)`
 */
export function lock(kernel: Kernel, descriptor: number): void {
  kernel.call("flock", descriptor, LOCK.EX | LOCK.NB);
}

/** Sets the permissions of an open file; O_PATH will not do. `fchmod(2)` */
export function changeMode(kernel: Kernel, descriptor: number, mode: number): void {
  kernel.call("fchmod", descriptor, mode);
}

/** Sets the owner of what a descriptor (O_PATH will do) names. `fchownat(2)` with AT_EMPTY_PATH */
export function changeOwner(
  kernel: Kernel,
  descriptor: number,
  { uid = -1, gid = -1 }: { readonly uid?: number; readonly gid?: number },
): void {
  kernel.call("fchownat", descriptor, "", uid, gid, AT.EMPTY_PATH);
}

/** The two ends of a new pipe. `pipe2(2)` @param flags O */
export function makePipe(kernel: Kernel, flags: number = O.CLOEXEC): { readonly read: number; readonly write: number } {
  const pair = new Uint8Array(8);
  kernel.call("pipe2", pair, flags);
  const view = new DataView(pair.buffer);
  return { read: view.getInt32(0, true), write: view.getInt32(4, true) };
}

export function close(kernel: Kernel, descriptor: number): void {
  kernel.call("close", descriptor);
}

/** Closes the descriptors from `first` to `last`, both included. `close_range(2)`, Linux 5.9 */
export function closeRange(kernel: Kernel, first: number, last = 0xffffffff): void {
  kernel.call("close_range", first, last, 0);
}

/** Closes all descriptors from `from` on but those that are `kept`. */
export function closeAllBut(kernel: Kernel, kept: readonly number[], from = 0): void {
  let first = from;
  for (const number of kept.toSorted((a, b) => a - b)) {
    if (number > first) closeRange(kernel, first, number - 1);
    first = Math.max(first, number + 1);
  }
  closeRange(kernel, first);
}

/** Makes `to` another name of `from`, closing what `to` was. `dup3(2)`. @param flags 0 or O.CLOEXEC */
export function duplicate(kernel: Kernel, from: number, to: number, flags = 0): void {
  kernel.call("dup3", from, to, flags);
}

/** Closes the descriptor at the next `execve`. */
export function setCloseOnExec(kernel: Kernel, descriptor: number): void {
  kernel.call("fcntl", descriptor, F.SETFD, 1);
}

/** The access mode and status flags (O) of an open file. */
export function statusFlags(kernel: Kernel, descriptor: number): number {
  return kernel.call("fcntl", descriptor, F.GETFL, 0);
}

// The head of struct stat, whose order differs between the machines; both put st_dev, st_ino and st_size at the same places.
export const STAT_SIZE = 144;
const DEV_OFFSET = 0;
const INODE_OFFSET = 8;
const MODE_OFFSET = { x64: 24, arm64: 16 } as const;
const RDEV_OFFSET = { x64: 40, arm64: 32 } as const;
const SIZE_OFFSET = 48;

/** What an open file is. */
export interface FileStatus {
  /** In bytes. */
  readonly size: number;
  readonly regular: boolean;
  readonly directory: boolean;
  readonly symlink: boolean;
  readonly characterDevice: boolean;
  /** The permissions, with the bits for set-user-id, set-group-id and sticky. */
  readonly mode: number;
  /** The device that holds the file; with `inode` it tells the file from all others. */
  readonly dev: bigint;
  readonly inode: bigint;
  /** The device that the file is, if it is a special one. */
  readonly rdev: bigint;
}

/** What a descriptor (O_PATH will do) names. `fstat(2)` */
export function fileStatus(kernel: Kernel, descriptor: number): FileStatus {
  const stat = new Uint8Array(STAT_SIZE);
  kernel.call("fstat", descriptor, stat);
  return decodeStatus(stat);
}

/** What `fstat(2)` wrote. */
export function decodeStatus(stat: Uint8Array, on: Machine = MACHINE): FileStatus {
  const view = new DataView(stat.buffer, stat.byteOffset);
  const mode = view.getUint32(MODE_OFFSET[on], true);
  const type = mode & S.IFMT;
  return {
    size: Number(view.getBigInt64(SIZE_OFFSET, true)),
    regular: type === S.IFREG,
    directory: type === S.IFDIR,
    symlink: type === S.IFLNK,
    characterDevice: type === S.IFCHR,
    mode: mode & ~S.IFMT,
    dev: view.getBigUint64(DEV_OFFSET, true),
    inode: view.getBigUint64(INODE_OFFSET, true),
    rdev: view.getBigUint64(RDEV_OFFSET[on], true),
  };
}

/** A new file in memory that no path leads to. `memfd_create(2)`. @param flags MFD */
export function createMemoryFile(
  kernel: Kernel,
  name: string,
  flags: number = MFD.CLOEXEC | MFD.ALLOW_SEALING,
): number {
  return kernel.call("memfd_create", name, flags);
}

/** Writes all of `bytes` to a descriptor that blocks, at its own offset. */
export function writeAll(kernel: Kernel, descriptor: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) {
    at += kernel.call("write", descriptor, bytes.subarray(at), bytes.length - at);
  }
}

/** Writes a memory file, which nobody changes any more, by whatever descriptor. */
export function fillForGood(kernel: Kernel, descriptor: number, bytes: Uint8Array): void {
  writeAll(kernel, descriptor, bytes);
  addSeals(kernel, descriptor, F_SEAL.SEAL | F_SEAL.SHRINK | F_SEAL.GROW | F_SEAL.WRITE);
}

/** Forbids changes to a memory file for good. `F_ADD_SEALS`. @param seals F.SEAL_* */
export function addSeals(kernel: Kernel, descriptor: number, seals: number): void {
  kernel.call("fcntl", descriptor, F.ADD_SEALS, seals);
}

export function setUmask(kernel: Kernel, mask: number): void {
  kernel.call("umask", mask);
}

export function changeDirectory(kernel: Kernel, path: string): void {
  kernel.call("chdir", path);
}

/** Makes the directory that a descriptor names (O_PATH will do) the working directory. `fchdir(2)` */
export function changeToDescriptor(kernel: Kernel, descriptor: number): void {
  kernel.call("fchdir", descriptor);
}

/** Makes `path` the root for paths, which is no wall: what has `CAP_SYS_CHROOT` gets out of it. `chroot(2)` */
export function changeRoot(kernel: Kernel, path: string): void {
  kernel.call("chroot", path);
}
