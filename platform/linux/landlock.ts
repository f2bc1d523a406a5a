/** The policy as Landlock rules. */
import type { Handled } from "../../syscalls/linux/landlock.ts";
import {
  LANDLOCK_ACCESS_FS as FS,
  LANDLOCK_ACCESS_NET as NET,
  LANDLOCK_SCOPE as SCOPE,
} from "../../syscalls/linux/numbers.ts";

/** In which ABI each right came. A new one is one line here. */
const FS_SINCE: Readonly<Record<keyof typeof FS, number>> = {
  EXECUTE: 1,
  WRITE_FILE: 1,
  READ_FILE: 1,
  READ_DIR: 1,
  REMOVE_DIR: 1,
  REMOVE_FILE: 1,
  MAKE_CHAR: 1,
  MAKE_DIR: 1,
  MAKE_REG: 1,
  MAKE_SOCK: 1,
  MAKE_FIFO: 1,
  MAKE_BLOCK: 1,
  MAKE_SYM: 1,
  REFER: 2,
  TRUNCATE: 3,
  IOCTL_DEV: 5,
  RESOLVE_UNIX: 9,
};
const NET_SINCE: Readonly<Record<keyof typeof NET, number>> = {
  BIND_TCP: 4,
  CONNECT_TCP: 4,
  BIND_UDP: 10,
  CONNECT_SEND_UDP: 10,
};
const SCOPE_SINCE: Readonly<Record<keyof typeof SCOPE, number>> = { ABSTRACT_UNIX_SOCKET: 6, SIGNAL: 6 };

/** Everything that a kernel of this ABI can refuse. */
export function handledBy(abi: number): Handled {
  const known = <Names extends string>(bits: Record<Names, bigint>, since: Readonly<Record<Names, number>>) => {
    let all = 0n;
    for (const name in bits) if (since[name] <= abi) all |= bits[name];
    return all;
  };
  return { fs: known(FS, FS_SINCE), net: known(NET, NET_SINCE), scoped: known(SCOPE, SCOPE_SINCE) };
}

/** One path and what may be done at and beneath it. */
export interface PathRule {
  readonly path: string;
  readonly access: bigint;
}

const READ_FILE = FS.READ_FILE;
const WRITE_FILE = FS.WRITE_FILE | FS.TRUNCATE;
const READ = READ_FILE | FS.READ_DIR;
const WRITE = WRITE_FILE | FS.REMOVE_DIR | FS.REMOVE_FILE | FS.MAKE_DIR | FS.MAKE_REG | FS.REFER;

/** What a path that the policy grants may be used for. Rights of directories do not go with files. */
export function accessTo(grant: { readonly writable: boolean; readonly directory: boolean }, handled: Handled): bigint {
  const read = grant.directory ? READ : READ_FILE;
  const write = grant.directory ? WRITE : WRITE_FILE;
  return (grant.writable ? read | write : read) & handled.fs;
}

/** What Bun's own files may be used for: its program is executed, by its loader; the libraries are only read. */
export const PROGRAM_ACCESS = FS.EXECUTE | FS.READ_FILE;
export const LIBRARY_ACCESS = FS.READ_FILE;
/** Bun reads its own entries of /proc when it starts. */
export const PROC_ACCESS = READ;
