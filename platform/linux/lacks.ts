/** What a process shall be left with as Landlock rules; and what this kernel's Landlock lacks for it, guarantee by guarantee, with what keeps that instead. */
import { dirname } from "node:path";
import { AF, MSG, SOCK } from "../../syscalls/linux/constants.ts";
import { F, IOCTL, IPPROTO, O, LANDLOCK_SCOPE as SCOPE } from "../../syscalls/linux/numbers.ts";
import type { Guarantee } from "../platform.ts";
import {
  type Confinement,
  ERRATA,
  handledBy,
  logFlags,
  type Ports,
  portRules,
  RIGHTS,
  type Right,
  unveilAccess,
} from "./landlock.ts";
import type { Condition, ErrnoName, Rule, Test } from "./seccomp/filter.ts";

/** A path with letters of `unveil(2)`. */
interface Unveiled {
  readonly path: string;
  readonly directory: boolean;
  readonly permissions: string;
}

/** What a process shall be left with. */
export interface Wanted {
  readonly paths: readonly Unveiled[];
  /** Left out where other walls keep the network. A protocol left out may use no port. */
  readonly net?: { readonly tcp?: Ports; readonly udp?: Ports };
  /** The process, where it is known: filters then let it signal itself. */
  readonly pid?: number;
  /** Whether its threads are confined one by one, each into a domain of its own. */
  readonly apart?: boolean;
}

/** Something that a guarantee needs, and that this kernel's Landlock does not do. */
export interface Lack {
  readonly guarantee: Guarantee;
  readonly lacks: string;
  /** What keeps it all the same; left out where nothing does. */
  readonly instead?: string;
  /** The filter's rules that do. They refuse, and never allow. */
  readonly rules: readonly Rule[];
}

/** What Landlock can do for a process, and what it cannot. */
export function planLandlock(
  wanted: Wanted,
  { abi, errata }: { readonly abi: number; readonly errata: number },
): Confinement & { readonly lacks: readonly Lack[] } {
  const all = handledBy(abi, errata);
  const deaf = wanted.apart === true && abi >= RIGHTS["scope.signal"].abi && (errata & ERRATA.OWN_THREADS) === 0;
  const handled = {
    fs: all.fs,
    net: wanted.net === undefined ? 0n : all.net,
    scoped: deaf ? all.scoped & ~SCOPE.SIGNAL : all.scoped,
  };
  const rules = wanted.paths.map(({ path, directory, permissions }) => ({
    path,
    access: unveilAccess(permissions, directory, handled),
  }));
  const lent = abi >= RIGHTS["fs.refer"].abi && (errata & ERRATA.DISCONNECTED) === 0;
  return {
    handled,
    rules: rules.filter(({ access }) => access !== 0n),
    ports: portRules(wanted.net ?? {}, handled),
    flags: logFlags(abi, false),
    lacks: [
      ...rightsLacked(wanted, abi),
      ...(lent ? [moved("a fix for directories that are moved away (erratum 3)")] : []),
      ...(deaf ? [{ ...signals(wanted), lacks: "signals between threads that are confined apart (erratum 2)" }] : []),
      ...(wanted.net === undefined ? [] : socketsLacked(wanted.net)),
      ...pathsLacked(wanted.paths),
    ],
  };
}

const int = (arg: Test["arg"], value: number): Test => ({ arg, op: "masked", mask: 0xffff_ffff, value });
const bits = (arg: Test["arg"], mask: number, value: number): Test => ({ arg, op: "masked", mask, value });
/** None of these. Where the kernel takes an `int`, what is in the upper half makes it none, too: so more is refused, not less. */
const none = (arg: Test["arg"], values: readonly number[]): Condition => ({
  all: values.map((value) => ({ arg, op: "ne", value })),
});
const refuse = (call: Rule["call"], errno: ErrnoName, ...when: readonly Condition[]): Rule =>
  when.length === 0 ? { call, action: { errno } } : { call, action: { errno }, when };

/** A ring makes calls that no filter sees. */
const NO_RINGS = refuse("io_uring_setup", "ENOSYS");

/** In mode 3, which is neither for reading nor for writing, Landlock asks for no right at all. */
const empties = (arg: Test["arg"]): Condition => ({
  any: [O.RDONLY, O.ACCMODE].map((mode) => bits(arg, O.ACCMODE | O.TRUNC, mode | O.TRUNC)),
});

const NO_TRUNCATION: readonly Rule[] = [
  refuse("truncate", "EACCES"),
  refuse("open", "EACCES", empties(1)),
  refuse("openat", "EACCES", empties(2)),
  refuse("openat2", "ENOSYS"), // its flags are in memory, where no filter sees them
  NO_RINGS,
];

/** Commands that are no driver's, and two that ask a terminal for what it is. */
const HARMLESS = [
  ...[IOCTL.FIOCLEX, IOCTL.FIONCLEX, IOCTL.FIONBIO, IOCTL.FIOASYNC, IOCTL.FIONREAD, IOCTL.FIOQSIZE],
  ...[IOCTL.TCGETS, IOCTL.TIOCGWINSZ],
];

const NO_UNIX: readonly Rule[] = [refuse("socket", "EACCES", int(0, AF.UNIX)), NO_RINGS];
const INTERNET: Condition = { any: [int(0, AF.INET), int(0, AF.INET6)] };
const TYPE = 0xf; // SOCK_TYPE_MASK of linux/net.h; above it are flags

/** From asm-generic/sockios.h: like F_SETOWN, they have the kernel send signals to whom one likes. */
const FIOSETOWN = 0x8901;
const SIOCSPGRP = 0x8902;

const other = (pid: number | undefined): readonly Condition[] =>
  pid === undefined ? [] : [{ arg: 0, op: "ne", value: pid }];

function signals({ pid }: Wanted): Lack {
  return {
    guarantee: "processes",
    lacks: since("scope.signal"),
    instead: `seccomp refuses signals ${pid === undefined ? "" : "to any process but its own"}`.trim(),
    rules: [
      ...(["kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"] as const).map((call) =>
        refuse(call, "EPERM", ...other(pid)),
      ),
      // A thread's number, and a descriptor, do not say which process they mean.
      refuse("tkill", "EPERM"),
      refuse("pidfd_send_signal", "EPERM"),
      refuse("fcntl", "EPERM", { any: [F.SETOWN, F.SETOWN_EX].map((command) => int(1, command)) }),
      refuse("ioctl", "EPERM", { any: [FIOSETOWN, SIOCSPGRP].map((command) => int(1, command)) }),
      NO_RINGS,
    ],
  };
}

const moved = (lacks: string): Lack => ({
  guarantee: "files",
  lacks,
  instead: "the kernel refuses to rename and to link from one directory to another",
  rules: [],
});

const since = (right: Right) => `${right} (ABI ${RIGHTS[right].abi})`;

/** Where no port is allowed, there need be no socket. */
function ports(guarantee: Guarantee, right: Right, type: number, allowed: Ports | undefined): Lack {
  const lacks = since(right);
  if (allowed !== undefined && allowed.bind.length + allowed.connect.length > 0) return { guarantee, lacks, rules: [] };
  const rules = [refuse("socket", "EACCES", INTERNET, bits(1, TYPE, type)), NO_RINGS];
  return { guarantee, lacks, instead: "seccomp refuses such sockets", rules };
}

/** By the right that is lacked. Those of the first ABI come together, with Landlock itself. */
const LACKED: Partial<Record<Right, (wanted: Wanted) => Lack | undefined>> = {
  "fs.refer": () => moved(since("fs.refer")),
  "fs.truncate": () => ({
    guarantee: "files",
    lacks: since("fs.truncate"),
    instead: "seccomp refuses truncate(2), and O_TRUNC to who does not open for writing",
    rules: NO_TRUNCATION,
  }),
  "fs.ioctl_dev": () => ({
    guarantee: "kernel",
    lacks: since("fs.ioctl_dev"),
    instead: "seccomp refuses all commands of ioctl(2) but those that are no driver's",
    rules: [refuse("ioctl", "ENOTTY", none(1, HARMLESS)), NO_RINGS],
  }),
  "fs.resolve_unix": () => ({
    guarantee: "network",
    lacks: since("fs.resolve_unix"),
    instead: "seccomp refuses unix sockets, but for connected pairs",
    rules: NO_UNIX,
  }),
  "net.connect_tcp": ({ net }) => net && ports("network", "net.connect_tcp", SOCK.STREAM, net.tcp),
  "net.connect_send_udp": ({ net }) => net && ports("network", "net.connect_send_udp", SOCK.DGRAM, net.udp),
  "scope.abstract_unix_socket": () => ({
    guarantee: "network",
    lacks: since("scope.abstract_unix_socket"),
    instead: "seccomp refuses unix sockets, but for connected pairs",
    rules: NO_UNIX,
  }),
  "scope.signal": signals,
};

function rightsLacked(wanted: Wanted, abi: number): Lack[] {
  const lacks = Object.entries(RIGHTS).map(([right, { abi: since }]) =>
    since <= abi ? undefined : LACKED[right as Right]?.(wanted),
  );
  const found = lacks.filter((lack) => lack !== undefined);
  if (abi > 0) return found;
  const files = ({ guarantee }: Lack) => guarantee === "files";
  return [{ guarantee: "files", lacks: "Landlock (ABI 1)", rules: [] }, ...found.filter((lack) => !files(lack))];
}

/** What no ABI does: Landlock knows ports of TCP and UDP, and until Linux 7.2 one way of connecting passed it by. */
function socketsLacked({ tcp }: NonNullable<Wanted["net"]>): Lack[] {
  const type = (...types: number[]): Condition => ({ any: types.map((each) => bits(1, TYPE, each)) });
  const strange: Condition = { any: [bits(1, 4, 4), bits(1, 8, 8), bits(1, 3, 0), bits(1, 3, 3)] };
  const others: Lack = {
    guarantee: "network",
    lacks: "protocols other than TCP and UDP",
    instead: "seccomp refuses their sockets",
    rules: [
      refuse("socket", "EAFNOSUPPORT", none(0, [AF.UNIX, AF.INET, AF.INET6])),
      refuse("socket", "EACCES", INTERNET, strange),
      refuse("socket", "EACCES", INTERNET, type(SOCK.STREAM), none(2, [0, IPPROTO.TCP])),
      refuse("socket", "EACCES", INTERNET, type(SOCK.DGRAM), none(2, [0, IPPROTO.UDP])),
      NO_RINGS,
    ],
  };
  const fast: Lack = {
    guarantee: "network",
    lacks: "MSG_FASTOPEN, which connects without being asked for net.connect_tcp (fixed in Linux 7.2)",
    instead: "seccomp refuses the flag",
    rules: [
      refuse("sendto", "EACCES", bits(3, MSG.FASTOPEN, MSG.FASTOPEN)),
      refuse("sendmsg", "EACCES", bits(2, MSG.FASTOPEN, MSG.FASTOPEN)),
      refuse("sendmmsg", "EACCES", bits(3, MSG.FASTOPEN, MSG.FASTOPEN)),
      NO_RINGS,
    ],
  };
  // The kernel binds it to a port that is free, and the hook of bind(2) is not asked. Where port 0 is allowed, that is allowed.
  const bound = tcp?.bind ?? [];
  const unbound: Lack = { guarantee: "network", lacks: "listen(2) on a socket that nobody bound", rules: [] };
  const listening = { ...unbound, instead: "seccomp refuses listen(2)", rules: [refuse("listen", "EACCES"), NO_RINGS] };
  if (bound.includes(0)) return [others, fast];
  return [others, fast, bound.length === 0 ? listening : unbound];
}

/** Rules add up from the root to the file: none takes away what one above it gives, and none is about a name in a directory. */
function pathsLacked(paths: readonly Unveiled[]): Lack[] {
  const given = new Map(paths.map(({ path, permissions }) => [path, permissions]));
  return paths.flatMap(({ path, directory, permissions }): Lack[] => {
    // A file has no entries that could be created.
    const has = directory ? permissions : `${permissions}c`;
    const wider = above(path).find((each) => [...(given.get(each) ?? "")].some((letter) => !has.includes(letter)));
    const files = (lacks: string): Lack => ({ guarantee: "files", lacks, rules: [] });
    return [
      ...(wider === undefined ? [] : [files(`less for ${path} than for ${wider}, in which it is`)]),
      ...(!directory && permissions.includes("c") ? [files(`leave to create and remove ${path} alone`)] : []),
    ];
  });
}

/** The directories that a path is in. */
function above(path: string): string[] {
  const parent = dirname(path);
  return parent === path ? [] : [parent, ...above(parent)];
}
