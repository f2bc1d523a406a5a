/** What is written behind `caisson bwrap`: the command line of bubblewrap 0.8, as data. */
import { capabilitiesOf, descriptorOf, numberOf, permissionsOf, sizeOf } from "./numerals.ts";
import { attempt, BwrapError } from "./strerror.ts";

/** Who calls, as far as the meaning of a command line depends on it. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
  /** The effective set, which root keeps where nothing else is asked. */
  readonly capabilities: bigint;
  /** Whether this machine makes user namespaces: what the `-try` of `--unshare-user-try` is about. */
  readonly userNamespaces: boolean;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Reads a descriptor to its end, and closes it. */
  read(descriptor: number): Uint8Array;
  /** Says on standard error what is no reason to stop. */
  warn(message: string): void;
}

/** One step towards the new root. They are taken in the order in which they are written. */
export type Operation =
  | {
      readonly does: "bind";
      /** A path of the host, or a descriptor that is open. */
      readonly source: string | number;
      readonly target: string;
      readonly write: boolean;
      readonly devices: boolean;
      /** Left out where there is no source. */
      readonly optional: boolean;
    }
  | { readonly does: "proc" | "dev" | "mqueue" | "remount-ro"; readonly target: string }
  /** Half of the memory where no size is given. */
  | { readonly does: "tmpfs"; readonly target: string; readonly mode: number; readonly sizeBytes?: bigint }
  | { readonly does: "directory" | "chmod"; readonly target: string; readonly mode: number }
  /** What is read of the descriptor becomes a file of the directory that is there. */
  | { readonly does: "file"; readonly descriptor: number; readonly target: string; readonly mode: number }
  /** What is read of the descriptor becomes a file that is mounted. */
  | {
      readonly does: "data";
      readonly descriptor: number;
      readonly target: string;
      readonly mode: number;
      readonly write: boolean;
    }
  | { readonly does: "symlink"; readonly to: string; readonly target: string };

/** What is asked for once, and of which the last counts. */
interface Settings {
  user?: boolean;
  ipc?: boolean;
  pid?: boolean;
  network?: boolean;
  uts?: boolean;
  cgroup?: boolean | "try";
  /** Descriptors of namespaces to join: the one that sets up, the one that is changed to after that, and that of processes. */
  userns?: number;
  userns2?: number;
  pidns?: number;
  disableUserns?: boolean;
  assertUsernsDisabled?: boolean;
  hostname?: string;
  chdir?: string;
  newSession?: boolean;
  dieWithParent?: boolean;
  asPid1?: boolean;
  syncFd?: number;
  blockFd?: number;
  usernsBlockFd?: number;
  infoFd?: number;
  jsonStatusFd?: number;
}

/** What `--version` says: programs look at the number before they use an option. */
export const BWRAP_VERSION = "bubblewrap 0.8.0";

export interface BwrapCommand extends Readonly<Settings> {
  readonly argv: readonly [string, ...string[]];
  readonly operations: readonly Operation[];
  readonly uid: number;
  readonly gid: number;
  /** All of it but `PWD`, which is known when the working directory is. */
  readonly env: Readonly<Record<string, string>>;
  readonly lockFiles: readonly string[];
  /** Programs in the order of their loading. A descriptor is to be read when all else is set up. */
  readonly seccomp: readonly (Uint8Array | number)[];
  /** What the program may have at most. */
  readonly capabilities: bigint;
  /** Whether that was asked for: if not, root's sets are left as they are. */
  readonly capabilitiesAsked: boolean;
}

/** A command line that is being read. */
interface Draft extends Settings {
  readonly operations: Operation[];
  readonly env: Map<string, string>;
  readonly lockFiles: string[];
  readonly filters: Uint8Array[];
  readonly caller: Caller;
  seccomp?: number;
  userTry?: boolean;
  uid?: number;
  gid?: number;
  capabilities: bigint;
  capabilitiesAsked: boolean;
  /** For the next operation. */
  mode?: number;
  sizeBytes?: bigint;
  /** Arguments so far, those from descriptors included. */
  count: number;
}

interface Option {
  /** What its values are, for people. */
  readonly values?: string;
  readonly help: string;
  /** For those whose complaint about missing values is not like that of the others. */
  readonly complaint?: string;
  /** Whether it says something of the operation behind it. */
  readonly modifier?: boolean;
  take(draft: Draft, first: string, second: string): void;
}

const MAX_ARGUMENTS = 9000;

const flag = (name: FlagName, help: string): Option => ({
  help,
  take(draft) {
    draft[name] = true;
  },
});

type FlagName = {
  [Name in keyof Settings]-?: true extends NonNullable<Settings[Name]> ? Name : never;
}[keyof Settings];

const bind = (
  help: string,
  { write = true, devices = false, optional = false }: { write?: boolean; devices?: boolean; optional?: boolean } = {},
): Option => ({
  values: "SRC DEST",
  help,
  take: ({ operations }, source, target) =>
    void operations.push({ does: "bind", source, target, write, devices, optional }),
});

const bindDescriptor = (help: string, write: boolean): Option => ({
  values: "FD DEST",
  help,
  complaint: "--bind-fd takes two arguments",
  take: ({ operations }, source, target) =>
    void operations.push({
      does: "bind",
      source: descriptorOf(source),
      target,
      write,
      devices: false,
      optional: false,
    }),
});

const mount = (does: "proc" | "dev" | "mqueue", help: string): Option => ({
  values: "DEST",
  help,
  take: ({ operations }, target) => void operations.push({ does, target }),
});

const data = (write: boolean, help: string): Option => ({
  values: "FD DEST",
  help,
  take: (draft, descriptor, target) =>
    void draft.operations.push({
      does: "data",
      descriptor: descriptorOf(descriptor),
      target,
      mode: modeFor(draft, 0o600),
      write,
    }),
});

type DescriptorName =
  | "userns"
  | "userns2"
  | "pidns"
  | "syncFd"
  | "blockFd"
  | "usernsBlockFd"
  | "infoFd"
  | "jsonStatusFd";

const descriptor = (option: string, name: DescriptorName, help: string): Option => ({
  values: "FD",
  help,
  take(draft, value) {
    warnOfTwo(draft, option, draft[name]);
    draft[name] = descriptorOf(value);
  },
});

const id = (option: "uid" | "gid", help: string): Option => ({
  values: option.toUpperCase(),
  help,
  take(draft, value) {
    warnOfTwo(draft, `--${option}`, draft[option]);
    draft[option] = numberOf(value, option);
  },
});

const label = (help: string): Option => ({
  values: "LABEL",
  help,
  take() {
    throw new BwrapError("labeling not supported on this system");
  },
});

const capability = (help: string, change: (set: bigint, these: bigint) => bigint): Option => ({
  values: "CAP",
  help,
  take(draft, name) {
    draft.capabilitiesAsked = true;
    draft.capabilities = change(draft.capabilities, capabilitiesOf(name));
  },
});

/** Everything but `--args`, `--help`, `--version` and `--`, which are about the command line itself. */
const OPTIONS: Readonly<Record<string, Option>> = {
  "--unshare-all": {
    help: "all that follow, of user and cgroup their -try",
    take(draft) {
      draft.userTry = draft.ipc = draft.pid = draft.network = draft.uts = true;
      draft.cgroup ??= "try";
    },
  },
  "--unshare-user": flag("user", "a user namespace of its own"),
  "--unshare-user-try": {
    help: "the same, where there can be one",
    take(draft) {
      draft.userTry = true;
    },
  },
  "--unshare-ipc": flag("ipc", "an IPC namespace of its own"),
  "--unshare-pid": flag("pid", "a process namespace of its own"),
  "--unshare-net": flag("network", "a network namespace of its own, with loopback alone"),
  "--unshare-uts": flag("uts", "a namespace of its own for the host name"),
  "--unshare-cgroup": flag("cgroup", "a cgroup namespace of its own"),
  "--unshare-cgroup-try": {
    help: "the same, where there can be one",
    take(draft) {
      draft.cgroup ??= "try";
    },
  },
  "--share-net": {
    help: "the caller's network after all",
    take(draft) {
      draft.network = false;
    },
  },
  "--userns": descriptor("--userns", "userns", "join this user namespace"),
  "--userns2": descriptor("--userns2", "userns2", "change to this one when all is set up"),
  "--disable-userns": flag("disableUserns", "no further user namespaces inside"),
  "--assert-userns-disabled": flag("assertUsernsDisabled", "fail if there could be further ones inside"),
  "--pidns": descriptor("--pidns", "pidns", "join this process namespace, or make one beneath it"),
  "--uid": id("uid", "the user to be inside"),
  "--gid": id("gid", "the group to be inside"),
  "--hostname": {
    values: "NAME",
    help: "the host name inside",
    take(draft, name) {
      warnOfTwo(draft, "--hostname", draft.hostname);
      draft.hostname = name;
    },
  },
  "--chdir": {
    values: "DIR",
    help: "the working directory",
    complaint: "--chdir takes one argument",
    take(draft, path) {
      warnOfTwo(draft, "--chdir", draft.chdir);
      draft.chdir = path;
    },
  },
  "--clearenv": { help: "leave out all variables", take: ({ env }) => env.clear() },
  "--setenv": {
    values: "VAR VALUE",
    help: "set a variable",
    take({ env }, name, value) {
      if (name === "" || name.includes("=")) throw new BwrapError("setenv failed");
      env.set(name, value);
    },
  },
  "--unsetenv": {
    values: "VAR",
    help: "leave out a variable",
    take({ env }, name) {
      if (name === "" || name.includes("=")) throw new BwrapError("unsetenv failed");
      env.delete(name);
    },
  },
  "--lock-file": {
    values: "DEST",
    help: "hold a lock on this file of the sandbox",
    take: ({ lockFiles }, path) => void lockFiles.push(path),
  },
  "--sync-fd": descriptor("--sync-fd", "syncFd", "keep this open as long as the sandbox lives"),
  "--bind": bind("mount a path of the host"),
  "--bind-try": bind("the same, if it exists", { optional: true }),
  "--dev-bind": bind("mount it with its devices", { devices: true }),
  "--dev-bind-try": bind("the same, if it exists", { devices: true, optional: true }),
  "--ro-bind": bind("mount it for reading alone", { write: false }),
  "--ro-bind-try": bind("the same, if it exists", { write: false, optional: true }),
  "--bind-fd": bindDescriptor("mount what is open as FD", true),
  "--ro-bind-fd": bindDescriptor("the same, for reading alone", false),
  "--remount-ro": {
    values: "DEST",
    help: "make this mount, and none beneath it, read-only",
    complaint: "--remount-ro takes one argument",
    take: ({ operations }, target) => void operations.push({ does: "remount-ro", target }),
  },
  "--exec-label": label("SELinux label of the program (not supported)"),
  "--file-label": label("SELinux label of new files (not supported)"),
  "--proc": mount("proc", "mount proc"),
  "--dev": mount("dev", "mount a small /dev"),
  "--tmpfs": {
    values: "DEST",
    help: "mount an empty tmpfs",
    take(draft, target) {
      const { sizeBytes } = draft;
      delete draft.sizeBytes;
      draft.operations.push({
        does: "tmpfs",
        target,
        mode: modeFor(draft, 0o755),
        ...(sizeBytes === undefined ? {} : { sizeBytes }),
      });
    },
  },
  "--mqueue": mount("mqueue", "mount the message queues"),
  "--dir": {
    values: "DEST",
    help: "make a directory",
    take: (draft, target) => void draft.operations.push({ does: "directory", target, mode: modeFor(draft, 0o755) }),
  },
  "--file": {
    values: "FD DEST",
    help: "make a file of what FD gives",
    take: (draft, descriptor, target) =>
      void draft.operations.push({
        does: "file",
        descriptor: descriptorOf(descriptor),
        target,
        mode: modeFor(draft, 0o666),
      }),
  },
  "--bind-data": data(true, "mount a file of what FD gives"),
  "--ro-bind-data": data(false, "the same, for reading alone"),
  "--symlink": {
    values: "SRC DEST",
    help: "make a symlink at DEST that leads to SRC",
    take: ({ operations }, to, target) => void operations.push({ does: "symlink", to, target }),
  },
  "--seccomp": {
    values: "FD",
    help: "a compiled seccomp program; the last counts",
    take(draft, value) {
      if (draft.filters.length > 0) throw new BwrapError("--seccomp cannot be combined with --add-seccomp-fd");
      warnOfTwo(draft, "--seccomp", draft.seccomp);
      draft.seccomp = descriptorOf(value);
    },
  },
  "--add-seccomp-fd": {
    values: "FD",
    help: "one of several seccomp programs",
    take(draft, value) {
      if (draft.seccomp !== undefined) throw new BwrapError("--add-seccomp-fd cannot be combined with --seccomp");
      draft.filters.push(filterOf(draft.caller, descriptorOf(value)));
    },
  },
  "--block-fd": descriptor("--block-fd", "blockFd", "start when something can be read of FD"),
  "--userns-block-fd": descriptor("--userns-block-fd", "usernsBlockFd", "the same, for who writes the id maps"),
  "--info-fd": descriptor("--info-fd", "infoFd", "write to FD what runs where, as JSON"),
  "--json-status-fd": descriptor("--json-status-fd", "jsonStatusFd", "the same and how it ended, as lines of JSON"),
  "--new-session": flag("newSession", "a session of its own, without the terminal"),
  "--die-with-parent": flag("dieWithParent", "end all when bwrap or its parent ends"),
  "--as-pid-1": flag("asPid1", "the program is process 1 itself"),
  "--cap-add": capability("keep a capability, or ALL", (set, these) => set | these),
  "--cap-drop": capability("drop a capability, or ALL", (set, these) => set & ~these),
  "--perms": {
    values: "OCTAL",
    help: "permissions of what the next option makes",
    modifier: true,
    take(draft, value) {
      if (draft.mode !== undefined) throw new BwrapError("--perms given twice for the same action");
      draft.mode = permissionsOf(value, "--perms");
    },
  },
  "--size": {
    values: "BYTES",
    help: "size of the tmpfs that the next option makes",
    modifier: true,
    take(draft, value) {
      if (draft.sizeBytes !== undefined) throw new BwrapError("--size given twice for the same action");
      draft.sizeBytes = sizeOf(value);
    },
  },
  "--chmod": {
    values: "OCTAL PATH",
    help: "change the permissions of what is there",
    take: ({ operations }, mode, target) =>
      void operations.push({ does: "chmod", target, mode: permissionsOf(mode, "--chmod") }),
  },
};

/**
 * What bubblewrap's arguments ask for. `"usage"` is a line that lacks its command: the help belongs on standard error then, and the status is 1.
 * Throws BwrapError.
 */
export function bwrapCommand(args: readonly string[], caller: Caller): BwrapCommand | "help" | "version" | "usage" {
  const draft: Draft = {
    operations: [],
    env: new Map(Object.entries(caller.env).filter((entry): entry is [string, string] => entry[1] !== undefined)),
    lockFiles: [],
    filters: [],
    caller,
    capabilities: caller.uid === 0 ? caller.capabilities : 0n,
    capabilitiesAsked: false,
    count: args.length,
  };
  const rest = args.length === 0 ? [] : read(args, draft, false);
  return typeof rest === "string" ? rest : settled(draft, rest);
}

/** Takes options until there is none, and returns what is behind them. */
function read(args: readonly string[], draft: Draft, fromDescriptor: boolean): readonly string[] | "help" | "version" {
  checkCount(draft);
  for (let at = 0; at < args.length; ) {
    const name = args[at]!;
    if (name === "--help") return "help";
    if (name === "--version") return "version";
    if (name === "--") return args.slice(at + 1);
    if (!name.startsWith("-")) return args.slice(at);
    if (name === "--args") {
      if (fromDescriptor) throw new BwrapError("--args not supported in arguments file");
      const value = args[at + 1];
      if (value === undefined) throw new BwrapError("--args takes an argument");
      const rest = read(argumentsOf(draft, descriptorOf(value)), draft, true);
      if (typeof rest === "string") return rest; // a command in there is dropped
      at += 2;
    } else at += 1 + take(name, args.slice(at + 1), draft);
    if (OPTIONS[name]?.modifier) continue;
    if (draft.mode !== undefined) throw new BwrapError("--perms must be followed by an option that creates a file");
    if (draft.sizeBytes !== undefined) throw new BwrapError("--size must be followed by --tmpfs");
  }
  return [];
}

/** Takes one option, and returns how many values it has. */
function take(name: string, rest: readonly string[], draft: Draft): number {
  const option = Object.hasOwn(OPTIONS, name) ? OPTIONS[name] : undefined;
  if (option === undefined) throw new BwrapError(`Unknown option ${name}`);
  const values = option.values?.split(" ").length ?? 0;
  if (rest.length < values)
    throw new BwrapError(option.complaint ?? `${name} takes ${values === 1 ? "an argument" : "two arguments"}`);
  option.take(draft, rest[0]!, rest[1]!);
  return values;
}

/** What can be said of the line as a whole. The checks are in bubblewrap's order: the first that fails is the one that is told. */
function settled(draft: Draft, argv: readonly string[]): BwrapCommand | "usage" {
  const { operations, env, lockFiles, filters, seccomp, caller, userTry, mode, sizeBytes, count, ...settings } = draft;
  const refuse = (wrong: boolean, message: string) => {
    if (wrong) throw new BwrapError(message);
  };
  const joins = settings.userns !== undefined;
  refuse(settings.usernsBlockFd !== undefined && !settings.user, "--userns-block-fd requires --unshare-user");
  refuse(settings.usernsBlockFd !== undefined && settings.infoFd === undefined, "--userns-block-fd requires --info-fd");
  refuse(joins && settings.user === true, "--userns not compatible --unshare-user");
  refuse(joins && userTry === true, "--userns not compatible --unshare-user-try");
  refuse(settings.disableUserns === true && !settings.user, "--disable-userns requires --unshare-user");
  refuse(
    settings.disableUserns === true && settings.usernsBlockFd !== undefined,
    "--disable-userns is not compatible with  --userns-block-fd",
  );
  // An ordinary user has no other way to any namespace.
  const user = settings.user || (caller.uid !== 0 && !joins) || (userTry === true && caller.userNamespaces);
  const [program, ...rest] = argv;
  if (program === undefined) return "usage";
  const { uid = caller.uid, gid = caller.gid } = settings;
  refuse(!user && !joins && uid !== caller.uid, "Specifying --uid requires --unshare-user or --userns");
  refuse(!user && !joins && gid !== caller.gid, "Specifying --gid requires --unshare-user or --userns");
  refuse(settings.hostname !== undefined && !settings.uts, "Specifying --hostname requires --unshare-uts");
  refuse(settings.asPid1 === true && !settings.pid, "Specifying --as-pid-1 requires --unshare-pid");
  refuse(settings.asPid1 === true && lockFiles.length > 0, "Specifying --as-pid-1 and --lock-file is not permitted");
  return {
    ...settings,
    user,
    uid,
    gid,
    argv: [program, ...rest],
    operations,
    env: Object.fromEntries(env),
    lockFiles,
    seccomp: seccomp === undefined ? filters : [seccomp],
  };
}

/** The seccomp program that a descriptor gives. */
export function filterOf(caller: Pick<Caller, "read">, descriptor: number): Uint8Array {
  const filter = attempt("Can't read seccomp data", () => caller.read(descriptor));
  if (filter.length % 8 !== 0) throw new BwrapError("Invalid seccomp data, must be multiple of 8");
  return filter;
}

/** Arguments with a NUL behind each; behind the last it may be missing. */
function argumentsOf(draft: Draft, descriptor: number): string[] {
  const content = attempt("Can't read --args data", () => draft.caller.read(descriptor));
  if (content.length === 0) return [];
  const args = Buffer.from(content).toString().split("\0");
  if (content.at(-1) === 0) args.pop();
  draft.count += args.length;
  checkCount(draft);
  return args;
}

function checkCount({ count }: Draft): void {
  if (count > MAX_ARGUMENTS) throw new BwrapError(`Exceeded maximum number of arguments ${MAX_ARGUMENTS}`);
}

function warnOfTwo({ caller }: Draft, option: string, before: unknown): void {
  if (before !== undefined) caller.warn(`Only the last ${option} option will take effect`);
}

/** The permissions asked for, which hold for one operation. */
function modeFor(draft: Draft, usual: number): number {
  const { mode = usual } = draft;
  delete draft.mode;
  return mode;
}

/** What `--help` says of a program that was called by this name. */
export function bwrapHelp(name: string): string {
  const about: readonly (readonly [string, Pick<Option, "values" | "help">])[] = [
    ["--help", { help: "say this" }],
    ["--version", { help: "say the version" }],
    ["--args", { values: "FD", help: "further arguments from FD, with a NUL behind each" }],
    ...Object.entries(OPTIONS),
  ];
  const lines = about.map(([option, { values = "", help }]) => `    ${`${option} ${values}`.padEnd(27)} ${help}`);
  return `usage: ${name} [OPTIONS...] [--] COMMAND [ARGS...]\n\n${lines.join("\n")}\n`;
}
