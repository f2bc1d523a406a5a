/** Which arguments of a call are paths and addresses: all that a supervisor reads from a caller's memory. */
import type { SyscallName } from "../../../syscalls/kernel.ts";
import { O } from "../../../syscalls/linux/numbers.ts";

/** What a call does at a path: to what is there, or (`make` and `remove`) to the entry of a directory. `open` is as the flags say. */
type Deed = "look" | "read" | "change" | "make" | "remove" | "start" | "open" | "other";

/** Where a call has a path: the argument that points to it, and the one with the directory that it is relative to. */
export interface PathPlace {
  readonly path: number;
  readonly directory?: number;
  readonly does: Deed;
}

export interface Signature {
  readonly paths?: readonly PathPlace[];
  /** The arguments that point to a socket address, and tell its length. */
  readonly address?: { readonly pointer: number; readonly length: number };
  /** The argument that points to a `struct msghdr`, which points to the address. */
  readonly message?: number;
  /** Where flags of open(2) stand: an argument, or the first word of the memory that it points to; or what they always are. */
  readonly open?: { readonly flags: number } | { readonly how: number } | { readonly always: number };
}

const first = (does: Deed): Signature => ({ paths: [{ path: 0, does }] });
const beside = (does: Deed): Signature => ({ paths: [{ directory: 0, path: 1, does }] });
const two = (...does: readonly [Deed, Deed]): Signature => ({
  paths: [
    { path: 0, does: does[0] },
    { path: 1, does: does[1] },
  ],
});
const twoBeside = (...does: readonly [Deed, Deed]): Signature => ({
  paths: [
    { directory: 0, path: 1, does: does[0] },
    { directory: 2, path: 3, does: does[1] },
  ],
});

/** One table for whoever reads calls, explains them, or learns from them. */
export const SIGNATURES: Readonly<Partial<Record<SyscallName, Signature>>> = {
  ...of(first("look"), "stat", "lstat", "access", "chdir", "readlink", "statfs"),
  ...of(first("look"), "getxattr", "lgetxattr", "listxattr", "llistxattr"),
  ...of(beside("look"), "newfstatat", "statx", "faccessat", "faccessat2", "readlinkat", "name_to_handle_at"),
  ...of(beside("look"), "getxattrat", "listxattrat", "file_getattr"),
  ...of(first("change"), "truncate", "chmod", "chown", "lchown", "utime", "utimes"),
  ...of(first("change"), "setxattr", "lsetxattr", "removexattr", "lremovexattr"),
  ...of(beside("change"), "fchmodat", "fchmodat2", "fchownat", "futimesat", "utimensat"),
  ...of(beside("change"), "setxattrat", "removexattrat", "file_setattr"),
  ...of(first("make"), "mkdir", "mknod"),
  ...of(beside("make"), "mkdirat", "mknodat"),
  ...of(first("remove"), "rmdir", "unlink"),
  ...of(beside("remove"), "unlinkat"),
  ...of(two("remove", "make"), "rename"),
  ...of(twoBeside("remove", "make"), "renameat", "renameat2"),
  ...of(two("read", "make"), "link"),
  ...of(twoBeside("read", "make"), "linkat"),
  // What a symbolic link says is text: where it stands is a path.
  symlink: { paths: [{ path: 1, does: "make" }] },
  symlinkat: { paths: [{ directory: 1, path: 2, does: "make" }] },
  ...of(first("start"), "execve", "uselib"),
  ...of(beside("start"), "execveat"),
  open: { ...first("open"), open: { flags: 1 } },
  creat: { ...first("open"), open: { always: O.WRONLY | O.CREAT | O.TRUNC } },
  openat: { ...beside("open"), open: { flags: 2 } },
  openat2: { ...beside("open"), open: { how: 2 } },
  inotify_add_watch: { paths: [{ path: 1, does: "look" }] },
  fanotify_mark: { paths: [{ directory: 3, path: 4, does: "look" }] },
  ...of(first("other"), "chroot", "umount2", "swapon", "swapoff", "acct", "mq_open", "mq_unlink"),
  ...of(beside("other"), "open_tree", "open_tree_attr", "fspick", "mount_setattr"),
  ...of(two("other", "other"), "mount", "pivot_root"),
  ...of(twoBeside("other", "other"), "move_mount"),
  quotactl: { paths: [{ path: 1, does: "other" }] },
  ...of({ address: { pointer: 1, length: 2 } }, "connect", "bind"),
  sendto: { address: { pointer: 4, length: 5 } },
  sendmsg: { message: 1 },
};

function of(signature: Signature, ...calls: readonly SyscallName[]): Partial<Record<SyscallName, Signature>> {
  return Object.fromEntries(calls.map((call) => [call, signature]));
}
