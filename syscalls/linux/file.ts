/** Files and descriptors. */
import type { Kernel } from "../kernel.ts";
import { Struct } from "../struct.ts";
import { AT_FD, F, MACHINE, MFD, S } from "./numbers.ts";

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

export function close(kernel: Kernel, descriptor: number): void {
  kernel.call("close", descriptor);
}

/** Closes the descriptors from `first` to `last`, both included. `close_range(2)`, Linux 5.9 */
export function closeRange(kernel: Kernel, first: number, last = 0xffffffff): void {
  kernel.call("close_range", first, last, 0);
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

// The head of struct stat, whose order differs between the machines; both put st_size at byte 48.
const STAT_SIZE = 144;
const MODE_OFFSET = { x64: 24, arm64: 16 } as const;
const SIZE_OFFSET = 48;

/** The size of an open file in bytes, and whether it is a regular file. `fstat(2)` */
export function fileStatus(kernel: Kernel, descriptor: number): { readonly size: number; readonly regular: boolean } {
  const stat = new Uint8Array(STAT_SIZE);
  kernel.call("fstat", descriptor, stat);
  const view = new DataView(stat.buffer);
  const mode = view.getUint32(MODE_OFFSET[MACHINE], true);
  return { size: Number(view.getBigInt64(SIZE_OFFSET, true)), regular: (mode & S.IFMT) === S.IFREG };
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
