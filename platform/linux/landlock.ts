/** The policy as Landlock rules. */
import { SystemError } from "../../syscalls/error.ts";
import { type Kernel, self } from "../../syscalls/kernel.ts";
import { createRuleset, type Handled, landlockAbi, type Rights } from "../../syscalls/linux/landlock.ts";
import {
  LANDLOCK_ACCESS_FS as FS,
  LANDLOCK_ACCESS_NET as NET,
  LANDLOCK_RESTRICT_SELF as RESTRICT,
  LANDLOCK_SCOPE as SCOPE,
} from "../../syscalls/linux/numbers.ts";

/** A right by the name that the kernel's audit log has for it. */
export type Right =
  | `fs.${Lowercase<keyof typeof FS>}`
  | `net.${Lowercase<keyof typeof NET>}`
  | `scope.${Lowercase<keyof typeof SCOPE>}`;

/** Every right: since which ABI, and what a rule about it names. A new one is one line here. */
export const RIGHTS = {
  "fs.execute": { bit: FS.EXECUTE, abi: 1, of: "file" },
  "fs.write_file": { bit: FS.WRITE_FILE, abi: 1, of: "file" },
  "fs.read_file": { bit: FS.READ_FILE, abi: 1, of: "file" },
  "fs.read_dir": { bit: FS.READ_DIR, abi: 1, of: "directory" },
  "fs.remove_dir": { bit: FS.REMOVE_DIR, abi: 1, of: "directory" },
  "fs.remove_file": { bit: FS.REMOVE_FILE, abi: 1, of: "directory" },
  "fs.make_char": { bit: FS.MAKE_CHAR, abi: 1, of: "directory" },
  "fs.make_dir": { bit: FS.MAKE_DIR, abi: 1, of: "directory" },
  "fs.make_reg": { bit: FS.MAKE_REG, abi: 1, of: "directory" },
  "fs.make_sock": { bit: FS.MAKE_SOCK, abi: 1, of: "directory" },
  "fs.make_fifo": { bit: FS.MAKE_FIFO, abi: 1, of: "directory" },
  "fs.make_block": { bit: FS.MAKE_BLOCK, abi: 1, of: "directory" },
  "fs.make_sym": { bit: FS.MAKE_SYM, abi: 1, of: "directory" },
  "fs.refer": { bit: FS.REFER, abi: 2, of: "directory" },
  "fs.truncate": { bit: FS.TRUNCATE, abi: 3, of: "file" },
  "fs.ioctl_dev": { bit: FS.IOCTL_DEV, abi: 5, of: "file" },
  "fs.resolve_unix": { bit: FS.RESOLVE_UNIX, abi: 9, of: "file" },
  "net.bind_tcp": { bit: NET.BIND_TCP, abi: 4, of: "port" },
  "net.connect_tcp": { bit: NET.CONNECT_TCP, abi: 4, of: "port" },
  "net.bind_udp": { bit: NET.BIND_UDP, abi: 10, of: "port" },
  "net.connect_send_udp": { bit: NET.CONNECT_SEND_UDP, abi: 10, of: "port" },
  "scope.abstract_unix_socket": { bit: SCOPE.ABSTRACT_UNIX_SOCKET, abi: 6, of: "domain" },
  "scope.signal": { bit: SCOPE.SIGNAL, abi: 6, of: "domain" },
} as const satisfies Record<Right, { bit: bigint; abi: number; of: "file" | "directory" | "port" | "domain" }>;

/** The flags of `landlock_restrict_self(2)`, and since which ABI. */
export const RESTRICT_SINCE = {
  LOG_SAME_EXEC_OFF: 7,
  LOG_NEW_EXEC_ON: 7,
  LOG_SUBDOMAINS_OFF: 7,
  TSYNC: 8,
  NO_NEW_PRIVS: 11,
} as const satisfies Record<keyof typeof RESTRICT, number>;

/** Since which ABI a rule may keep what it refuses out of the audit log. */
export const QUIET_SINCE = 10;

/** The bits of those errata that a kernel says it has fixed. */
export const ERRATA = {
  /** Before, rights about TCP held for other protocols of streams, too. Now MPTCP, SMC and SCTP are nobody's: a filter must refuse them. */
  OTHER_STREAMS: 1 << 0,
  /** Before, threads of one process that are in domains of their own could not signal each other. */
  OWN_THREADS: 1 << 1,
  /** Before, a directory moved out of the mount through which it is used could lend rights to what is renamed or linked there. */
  DISCONNECTED: 1 << 2,
  /** Before, an overlay's whiteout counted as a device, since then as a file. It opens nothing, so it is let through as either. */
  WHITEOUTS: 1 << 3,
} as const;

type Kind = "fs" | "net" | "scope";
const of = (right: string) => right.slice(0, right.indexOf(".")) as Kind;

/**
 * Everything that a kernel of this ABI can refuse.
 * @param errata what it has fixed. Where moved directories lend rights, nothing is renamed or linked from one directory to another: what is not
 * handled here is refused for REFER alone.
 */
export function handledBy(abi: number, errata = 0): Handled {
  const bits = { fs: 0n, net: 0n, scope: 0n };
  for (const [right, { bit, abi: since }] of Object.entries(RIGHTS)) if (since <= abi) bits[of(right)] |= bit;
  const lent = (errata & ERRATA.DISCONNECTED) === 0 ? FS.REFER : 0n;
  return { fs: bits.fs & ~lent, net: bits.net, scoped: bits.scope };
}

/** The ABI that this kernel keeps. One that was put together from parts may claim more than it takes. */
export function usableAbi(kernel: Kernel = self): number {
  for (let abi = landlockAbi(kernel); abi > 0; abi--) {
    try {
      kernel.call("close", createRuleset(kernel, handledBy(abi)));
      return abi;
    } catch (error) {
      if (!(error instanceof SystemError && error.code === "EINVAL")) throw error;
    }
  }
  return 0;
}

/** One path and what may be done at and beneath it. */
export interface PathRule {
  readonly path: string;
  readonly access: bigint;
}

/** One port and what may be done with it. */
export interface PortRule {
  readonly port: number;
  readonly access: bigint;
}

/** What Landlock does to a process. Plain data. */
export interface Confinement {
  readonly handled: Handled;
  readonly rules: readonly PathRule[];
  readonly ports?: readonly PortRule[];
  /** LANDLOCK_RESTRICT_SELF */
  readonly flags?: number;
}

/**
 * Which denials go to the audit log, and with it to the kernel's: none, or where somebody listens those of what is executed inside. Never those
 * of rules that it makes for itself, with which it could flood the log.
 */
export function logFlags(abi: number, heard: boolean): number {
  if (abi < RESTRICT_SINCE.LOG_SUBDOMAINS_OFF) return 0; // nothing is logged
  return RESTRICT.LOG_SUBDOMAINS_OFF | (heard ? RESTRICT.LOG_NEW_EXEC_ON : RESTRICT.LOG_SAME_EXEC_OFF);
}

/** The same, for who is listened to. */
export function logged<Confined extends Confinement>(confinement: Confined, abi: number): Confined {
  return { ...confinement, flags: logFlags(abi, true) };
}

const WRITE_FILE = FS.WRITE_FILE | FS.TRUNCATE;
const READ = FS.READ_FILE | FS.READ_DIR;
const WRITE = WRITE_FILE | FS.REMOVE_DIR | FS.REMOVE_FILE | FS.MAKE_DIR | FS.MAKE_REG | FS.REFER;

/** What Bun's own files may be used for: its program is executed, by its loader; the libraries are only read. */
export const PROGRAM_ACCESS = FS.EXECUTE | FS.READ_FILE;
export const LIBRARY_ACCESS = FS.READ_FILE;
/** Bun reads its own entries of /proc when it starts. */
export const PROC_ACCESS = READ;

/** The letters of `unveil(2)`. Devices are for nobody to make, and to execute a file the kernel reads it. */
const UNVEIL = {
  r: READ,
  w: WRITE_FILE | FS.RESOLVE_UNIX,
  x: PROGRAM_ACCESS,
  c: FS.MAKE_REG | FS.MAKE_DIR | FS.MAKE_SYM | FS.MAKE_FIFO | FS.MAKE_SOCK | FS.REMOVE_FILE | FS.REMOVE_DIR | FS.REFER,
} as const;

const OF_FILES = Object.values(RIGHTS).reduce((all, { bit, of }) => (of === "file" ? all | bit : all), 0n);

/**
 * What letters of `unveil(2)` allow: r to read and list, w to write to what is there, x to execute, c to create, remove and rename. A device that
 * is named itself, with r and w, takes the commands of its driver, too. Throws for other letters.
 */
export function unveilAccess(permissions: string, directory: boolean, handled: Rights): bigint {
  let access = 0n;
  for (const letter of permissions) {
    if (!Object.hasOwn(UNVEIL, letter))
      throw new TypeError(`Cannot unveil with ${JSON.stringify(permissions)}: expected letters of r, w, x and c`);
    access |= UNVEIL[letter as keyof typeof UNVEIL];
  }
  if (directory) return access & handled.fs;
  const device = permissions.includes("r") && permissions.includes("w") ? FS.IOCTL_DEV : 0n;
  return (access | device) & OF_FILES & handled.fs;
}

/** What an actor may do with a path that it was granted: no programs, no links, sockets and devices. */
export function actorAccess(permissions: string, directory: boolean, handled: Rights): bigint {
  return unveilAccess(permissions, directory, handled) & (READ | WRITE);
}

/** The ports that sockets may take, 0 for any that is free, and those of others that they may reach. */
export interface Ports {
  readonly bind: readonly number[];
  readonly connect: readonly number[];
}

/** One rule a port. Throws for what is no port. */
export function portRules(net: { readonly tcp?: Ports; readonly udp?: Ports }, handled: Rights): PortRule[] {
  const ports = new Map<number, bigint>();
  const allow = (numbers: readonly number[] = [], right: bigint) => {
    for (const port of numbers) {
      if (!Number.isInteger(port) || port < 0 || port > 0xffff)
        throw new RangeError(`Cannot allow port ${port}: a whole number up to 65535 is expected`);
      ports.set(port, (ports.get(port) ?? 0n) | right);
    }
  };
  allow(net.tcp?.bind, NET.BIND_TCP);
  allow(net.tcp?.connect, NET.CONNECT_TCP);
  allow(net.udp?.bind, NET.BIND_UDP);
  allow(net.udp?.connect, NET.CONNECT_SEND_UDP);
  const rules = [...ports].map(([port, access]) => ({ port, access: access & handled.net }));
  return rules.filter(({ access }) => access !== 0n);
}
