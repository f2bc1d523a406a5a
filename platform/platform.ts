/** The words that every operating system's side of caisson shares. */
import type { Descriptor } from "../syscalls/descriptor.ts";
import type { Kernel, SyscallName } from "../syscalls/kernel.ts";
import type { SocketAddress } from "../syscalls/linux/network.ts";
import type { IoPriority, Schedule } from "../syscalls/linux/schedule.ts";
import type { Filter } from "./linux/seccomp/index.ts";

/** What a policy promises along one axis. */
export const GUARANTEES = [
  "files",
  "network",
  "processes",
  "privileges",
  "kernel",
  "memory",
  "cpu",
  "time",
  "disk",
] as const;
export type Guarantee = (typeof GUARANTEES)[number];

/** What an actor may do, complete: absolute paths, no defaults left. Plain data. */
export interface Policy {
  /** Real paths that exist, seen at the same place inside. */
  readonly read: readonly string[];
  readonly write: readonly string[];
  /** Programs that it may execute: names, or paths. */
  readonly run: readonly string[];
  /** Hosts and ports that it may connect to. */
  readonly net: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly limits: Limits;
  /** Guarantees that the caller wants kept as well as this machine can, and started without where it cannot. */
  readonly allowUnenforced: readonly Guarantee[];
  /** The words that it keeps to, out of all that is granted; `undefined` is no promise, an empty list one to do nothing. */
  readonly promises: readonly string[] | undefined;
  /** Real paths with letters of `rwxc`: what may be done there and beneath beside what `read` and `write` grant. */
  readonly unveil: readonly Unveiled[];
  /** What becomes of who breaks a promise: the end, or an errno. */
  readonly onBreak: "kill" | "errno";
  /** Other names of granted paths, by which they were asked for: these are seen inside as well. */
  readonly names: readonly { readonly path: string; readonly real: string }[];
}

/** A path, and what may be done there and beneath: `r`ead, `w`rite, e`x`ecute, `c`reate, rename and remove. */
export interface Unveiled {
  readonly path: string;
  readonly permissions: string;
}

/** How much, and how long: one number a limit. What is left out is not limited, where nothing else is said. */
export interface Limits {
  /** What may be allocated in all, in bytes; of an actor, beyond what an idle Bun holds. */
  readonly memory: number;
  /** From how many bytes on the host is warned: fewer than `memory`. */
  readonly memoryWarning?: number;
  /** What may be swapped out, in bytes; left out, nothing where a control group can keep it so. */
  readonly swap?: number;
  /** Processors that may be busy at a time, or a part of one. */
  readonly cpu?: number;
  /** CPU time of all threads, in seconds. */
  readonly cpuTime?: number;
  /** Time from the start to the end, in milliseconds. */
  readonly wallTime?: number;
  /** Processes and threads. */
  readonly processes: number;
  /** Open descriptors. */
  readonly files: number;
  /** The size to which one file can be grown, in bytes. */
  readonly fileSize: number;
  /** The size of each file system in memory that does not say its own, in bytes. */
  readonly tmpfs: number;
  /** What may be written to disk in all, in bytes. */
  readonly disk?: number;
  /** What may be read from each disk and written to it, in bytes a second. */
  readonly diskRead?: number;
  readonly diskWrite?: number;
  /** What may be printed, both streams together, in bytes. */
  readonly output?: number;
  /** Messages that were sent and that the host has not read yet; left out, the channel's own number. */
  readonly messages?: number;
  /** The same in bytes. */
  readonly inFlight?: number;
}

/** Which mechanisms keep each guarantee of a running actor. Empty where the policy asks for nothing, or allowed nothing to be kept. */
export type Enforcement = Readonly<Record<Guarantee, readonly string[]>>;

/** This machine cannot keep a guarantee, and the policy does not allow that. Nothing was started. */
export class NotEnforced extends Error {
  override readonly name = "NotEnforced";
  readonly guarantee: Guarantee;
  /** What is not there. */
  readonly missing: string;
  /** What to do about it. */
  readonly remedy: string;

  /** @param options.allowable whether `allowUnenforced` can do without it */
  constructor(guarantee: Guarantee, missing: string, remedy: string, { allowable = true } = {}) {
    const allowing = allowable ? `, or allow it with allowUnenforced: ["${guarantee}"]` : "";
    super(`Cannot guarantee "${guarantee}": ${missing}. ${remedy}${allowing}`);
    this.guarantee = guarantee;
    this.missing = missing;
    this.remedy = remedy;
  }
}

/** This process gave up something on some of its threads or some of its ways, and not all that it was to. None of it comes back. */
export class PartlyConfined extends Error {
  override readonly name = "PartlyConfined";
  /** What holds already. */
  readonly inForce: readonly string[];

  constructor(inForce: readonly string[], cause: unknown) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    super(`Cannot confine this process: ${reason}. In force already: ${inForce.join(", ")}; end it`, { cause });
    this.inForce = inForce;
  }
}

/** A file that cannot be run as a program here, or is no library for this machine. Nothing was started. */
export class NotRunnable extends Error {
  override readonly name = "NotRunnable";
  /** The file, as it was asked for. */
  readonly path: string;
  readonly reason: string;

  constructor(path: string, reason: string, options?: ErrorOptions & { readonly attempt?: string }) {
    super(`Cannot ${options?.attempt ?? `run ${path}`}: ${reason}`, options);
    this.path = path;
    this.reason = reason;
  }
}

/**
 * What a process and all beneath it used so far. A process counts for its parent once that has waited for it; who ignores the ends of its children
 * hides what they used from everything but a control group. What nothing here can tell is left out.
 */
export interface Counters {
  readonly cpuMicroseconds: number;
  readonly userMicroseconds: number;
  readonly systemMicroseconds: number;
  /** Resident memory now, pages that several share counted for each or, in a control group, what all are charged for; 0 at the end. */
  readonly memoryKib: number;
  /** The most that one process had resident or, in a control group, that all were charged for. */
  readonly peakKib: number;
  readonly minorFaults: number;
  readonly majorFaults: number;
  /** While they run, of threads that do; at the end, of all. */
  readonly voluntarySwitches: number;
  readonly involuntarySwitches: number;
  /** What came from storage, and what was to be written there. */
  readonly readBytes?: number;
  readonly writtenBytes?: number;
  /** Processes and threads now. */
  readonly processes: number;
  /** How many more a control group refused. */
  readonly refusedProcesses?: number;
  /** What they lost by waiting, where a control group counts that. */
  readonly stalls?: Stalls;
}

/** For want of what time was lost. */
export const SCARCE = ["cpu", "memory", "io"] as const;

/** In microseconds: `some` while one waited for it at least, `full` while all did that had something to do. */
export type Stalls = Readonly<Record<(typeof SCARCE)[number], { readonly some: number; readonly full: number }>>;

/** How a process ended, as the kernel tells it, and what it used. */
export interface Ended extends Counters {
  readonly code?: number;
  readonly signal?: number;
  /** The limit that ended it, where counts prove that, or it was the container's first process that saw to it. */
  readonly limit?: "memory" | "cpuTime" | "disk" | "wallTime";
}

/** What the confined process is to be. */
export interface Program {
  /** The text of the boot file. */
  readonly boot: string;
  /** The host's descriptors that become its standard input, output and error. */
  readonly stdio: readonly [number, number, number];
  /** The host's descriptors of the actor's ends of the data lane and the descriptor lane. */
  readonly lanes: readonly [number, number];
  /** A directory that is made inside, and empty: no grant shows it. */
  readonly directory?: string;
}

/** A process inside its walls. */
export interface Confined {
  readonly pid: number;
  readonly enforcement: Enforcement;
  /** What the boot file installs before any code arrives: a seccomp program, empty where the kernel cannot take one. */
  readonly closingFilter: Uint8Array;
  /** The flags that go with it. */
  readonly closingFlags: number;
  /** Settles when the boot file runs, rejects when a wall could not be built; the process is gone then. */
  readonly started: Promise<void>;
  /** Settles once the process has ended and is reaped. */
  readonly ended: Promise<Ended>;
  /** What it used so far; once it has ended, what it used in all. */
  usage(): Counters;
  /** Has `take` called when it uses more memory than the limit that warns, or did before. */
  onMemoryWarning(take: () => void): void;
  /** Checks from outside that every thread is confined as planned. Throws an Error that names what is not; false where it ends, and nothing is there to check. */
  verify(): boolean;
  /**
   * Takes the listener of an observed actor's closing filter, by the actor's number for it, and has its refused calls told of. Settles once all
   * is told: after its end.
   */
  supervise(listener: number): Promise<void>;
  /** Ends it and everything in it. Does nothing when it has ended. */
  kill(): void;
}

/** One step of furnishing a root. Targets are absolute paths inside; they are looked up inside, whatever symbolic links stand there. */
export type Mount =
  | {
      /** Shows a file or a directory of the host. */
      readonly kind: "bind";
      /** A real path of the host: absolute, without symbolic links. */
      readonly source: string;
      /** Which file that has to be. Where something else has taken its place, there is no container. */
      readonly identity?: Identity;
      readonly target: string;
      readonly directory: boolean;
      readonly write: boolean;
      readonly execute: boolean;
      readonly devices: boolean;
      /** Whether what is mounted beneath it is shown as well. */
      readonly recursive: boolean;
      /** Whether, for root, its files are the inner user's own. `"auto"`: where root is not itself inside. */
      readonly idmap: IdMaps | "auto" | undefined;
    }
  | { readonly kind: "tmpfs"; readonly target: string; readonly size: number | undefined; readonly mode: number }
  | {
      /** Directories of the host, the first on top, with what is written kept apart: in `upper`, or nowhere. */
      readonly kind: "overlay";
      readonly target: string;
      readonly lower: readonly string[];
      /** As that of a bind, for `lower`. */
      readonly idmap: "auto" | undefined;
      /** Directories of one file system, as real paths. */
      readonly upper?: string;
      readonly work?: string;
    }
  | {
      readonly kind: "proc";
      readonly target: string;
      /** `"processes"`: nothing but processes; `"masked"`: the kernel's settings read-only, its memory not at all. */
      readonly content: "processes" | "masked" | "all";
    }
  /** The devices that every program expects, and a devpts of its own. `shared`: room for shared memory as well. */
  | { readonly kind: "dev"; readonly target: string; readonly shared: boolean }
  | { readonly kind: "mqueue"; readonly target: string }
  | { readonly kind: "directory"; readonly target: string; readonly mode: number }
  | { readonly kind: "symlink"; readonly target: string; readonly to: string }
  | { readonly kind: "file"; readonly target: string; readonly content: Uint8Array; readonly mode: number }
  | { readonly kind: "chmod"; readonly target: string; readonly mode: number }
  /** Makes what is mounted at the target read-only. */
  | { readonly kind: "readonly"; readonly target: string };

/** A file, whatever its name. */
export interface Identity {
  readonly device: bigint;
  readonly inode: bigint;
}

/** A stretch of ids: inside, and which ones these are outside. */
export interface IdRange {
  readonly inside: number;
  readonly outside: number;
  readonly count: number;
}

export interface IdMaps {
  readonly uids: readonly IdRange[];
  readonly gids: readonly IdRange[];
  readonly setgroups: "allow" | "deny";
}

/**
 * Which ids a container has: one, by default the one that actors have; `"ranges"`, which is that one as 0 and behind it
 * all that the administrator lends to the caller; or what the maps say.
 */
export type IdRequest = { readonly user?: number; readonly group?: number } | "ranges" | IdMaps | undefined;

/** The namespaces that a container can have of its own, in the words of namespaces(7). */
export const NAMESPACES = ["user", "mount", "pid", "network", "ipc", "uts", "cgroup", "time"] as const;
export type Namespace = (typeof NAMESPACES)[number];

/** What a container is, complete. Plain data. */
export interface ContainerPlan {
  readonly namespaces: readonly Namespace[];
  /** A new root. Without one, the mounts stay those of the host. */
  readonly root?: { readonly mounts: readonly Mount[]; readonly readonly: boolean };
  /** Who the first process is inside, and which ids there are. */
  readonly user: number;
  readonly group: number;
  readonly groups: readonly number[] | undefined;
  readonly maps: IdMaps | undefined;
  readonly hostname: string | undefined;
  readonly domainname: string | undefined;
  /** Whether the loopback interface is up. */
  readonly loopback: boolean;
  /** What the clocks of a time namespace are ahead by, in seconds. */
  readonly clocks: { readonly monotonic: number; readonly boottime: number } | undefined;
  /** Namespaces that exist already, by descriptors of the host. */
  readonly join: readonly number[];
  /** What all of it together may use. */
  readonly limits?: Limits | undefined;
  /** Whether somebody said how much memory that is. */
  readonly memoryAsked?: boolean;
}

/** A program to be started, and what it starts with. Paths and ids are those of the inside. Plain data. */
export interface ProcessPlan {
  /** A path, or the number of one of the program's descriptors. */
  readonly program: string | number;
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Where it starts: a path, or the number of one of its descriptors. */
  readonly directory: string | number;
  /** The numbers of its descriptors, and those that the host has them by. */
  readonly descriptors: ReadonlyMap<number, number>;
  readonly user: number | undefined;
  readonly group: number | undefined;
  readonly groups: readonly number[] | undefined;
  /** What it keeps, a bit each, in every set. */
  readonly capabilities: bigint;
  readonly securebits: number | undefined;
  readonly noNewPrivileges: boolean;
  readonly umask: number;
  /** A session of its own, a process group of its own in the puppet's session, or the puppet's group. */
  readonly session: "new" | "group" | "keep";
  /** The signal that it gets when the puppet ends. */
  readonly parentDeathSignal: number;
  /** Whether its standard input becomes the terminal of that session. */
  readonly terminal: boolean;
  /** RLIMIT, by their names in C without the prefix. */
  readonly limits: Readonly<Record<string, bigint>>;
  readonly nice: number | undefined;
  readonly schedule: Schedule | undefined;
  /** The processors that it may use, by their numbers. */
  readonly affinity: readonly number[] | undefined;
  readonly ioPriority: IoPriority | undefined;
  /** seccomp programs, as struct sock_filter, in the order in which they are installed. */
  readonly filters: readonly Uint8Array[];
  /** The last of them, which hands calls to the host. */
  readonly supervised: Uint8Array | undefined;
  /** Whether no filter keeps keys from it. Then it does not start without a session keyring of its own. */
  readonly keys: boolean;
  /** Whether the puppet stays as the first process. Without it the program is that itself. */
  readonly init: boolean;
}

/** A call that a filter handed over; whoever made it waits. All of it is one reading of the caller's memory. */
export interface SupervisedCall {
  readonly call: SyscallName;
  /** All six, as unsigned words: flags, and pointers that mean nothing here. */
  readonly args: readonly bigint[];
  /** The process and the thread that made it, by the host's numbers. */
  readonly pid: number;
  readonly tid: number;
  /** What the process calls itself. */
  readonly program: string;
  /** The paths that it named, absolute as the caller sees them; `/proc/self` by its number on the host. */
  readonly paths: readonly string[];
  /** `203.0.113.5:443`, `[::1]:80`, `unix:/run/x`, `unix:@abstract` */
  readonly address?: string;
  /** Of connect(2): whether its socket is one of datagrams, or none at all. */
  readonly datagrams?: boolean;
  /** Flags of open(2). */
  readonly flags?: number;
  /** The promise that it lacked. */
  readonly promise?: string;
}

/**
 * What a call that waits gets: a result, an errno, a descriptor (of this process, and closed when the caller has its copy), or its end. `"pass"`
 * has the kernel make the call, with whatever its memory says by then: the other walls decide about that, and what was read decides nothing.
 */
export type Answer =
  | { readonly value: bigint | number }
  | { readonly errno: number }
  | { readonly descriptor: Descriptor; readonly at?: number; readonly flags: number }
  /** Of connect(2): the caller's socket, one of datagrams, is connected to this address in its place. */
  | { readonly connect: SocketAddress }
  | "end"
  | "pass";

/** An access that Landlock refused, as the audit log tells it. */
export interface RefusedAccess {
  /** In the words of the kernel, such as `"fs.read_file"`. */
  readonly blockers: readonly string[];
  /** As whoever was refused sees it; that of a directory, for what was to be created, removed or moved in it. */
  readonly path?: string | undefined;
}

/** What a sandboxed program's calls are handed to. */
export interface Supervision {
  /** Calls that are asked about, beside what the walls refuse anyway. */
  readonly asked?: readonly SyscallName[];
  /** Whether it may make sockets, in a network of its own in which nothing is. Then `connect` has to be asked about: by a path it would lead out. */
  readonly sockets?: boolean;
  answer?(call: SupervisedCall): Answer | Promise<Answer>;
  /** Takes calls that were refused. @param exists whether the first path was there */
  tell?(call: SupervisedCall, exists: boolean): void;
  /** Takes what Landlock refused, where this process may read the audit log, and that is on. Of a flood the kernel drops some, and does not say how many. */
  refused?(access: RefusedAccess): void;
  /** Is told how many calls it was not told of, for they were too many. */
  more?(count: number): void;
}

/** A program that was started. */
export interface Running {
  /** Its process id as the container sees it. */
  readonly pid: number;
  /** The process on the host that it is or, with all that it started, is beneath. */
  readonly hostPid: number;
  /** Settles once it has ended. */
  readonly ended: Promise<Ended>;
  /** What it used so far. Once it has ended, `ended` tells. */
  usage(): Counters;
  /** Has `take` called when all in its container use more memory than the limit that warns, or did before. */
  onMemoryWarning(take: () => void): void;
  /** Has `take` called when it stops, as by SIGTSTP. */
  onStop(take: (signal: number) => void): void;
  /** Sends a signal to it, or to its process group. Does nothing when it has ended. */
  signal(signal: number, to?: "group"): void;
}

/** What a sandboxed program gets beside what its policy says. */
export interface SandboxMore {
  readonly mounts?: readonly Mount[];
  readonly supervision?: Supervision;
  /** Called when the container stands and before the program starts; gives more of its environment. */
  prepare?(container: Contained): Promise<Readonly<Record<string, string>>>;
}

/** A program whose calls are told of. */
export interface Observed extends Contained, Running {
  /** Settles once all is told of its calls that was to be told: after its end. */
  told(): Promise<void>;
}

/** A program in a sandbox. */
export interface Sandboxed extends Observed {
  readonly enforcement: Enforcement;
}

/** A puppet in namespaces of its own, as the host's hand there. */
export interface Contained {
  /** Its process id on the host. */
  readonly pid: number;
  readonly kernel: Kernel;
  /** Settles once it has ended, and with it all that ran inside, and is reaped. */
  readonly ended: Promise<Ended>;
  /** The number by which it has a copy of a descriptor of the host. */
  pass(descriptors: readonly number[]): number[];
  /** A copy of a descriptor of its own, which is the caller's to close. */
  take(descriptor: number): number;
  execute(plan: ProcessPlan): Promise<Running>;
  /** What it and all in it used so far. Once it has ended, `ended` tells. */
  usage(): Counters;
  /** Has `take` called when all in it use more memory than the limit that warns, or did before. */
  onMemoryWarning(take: () => void): void;
  kill(): void;
}

/** Calls that travel together, of which some may fail. */
export interface Attempting extends Kernel {
  attempt(calls: () => void): void;
}

/** What a puppet begins with that is driven step by step. Plain data. */
export interface DrivePlan {
  readonly namespaces: readonly Namespace[];
  /** Namespaces that exist already, of the user and of processes, by descriptors of the host: they are entered first, and own the new ones. */
  readonly user: number | undefined;
  readonly processes: number | undefined;
  /** Without them, the ids of a new user namespace are left for others to map. */
  readonly maps: IdMaps | undefined;
  /** The numbers of its descriptors, and those that the host has them by. */
  readonly descriptors: ReadonlyMap<number, number>;
  /** Whether it is to fork. */
  readonly forks: boolean;
}

/** A puppet on its way to a program. It ends when this process does. Everything waits in place. */
export interface Driven {
  /** Its process id: the host's, or that of a child as its parent has it. */
  readonly pid: number;
  /** Makes one call at a time. */
  readonly kernel: Kernel;
  /** Makes calls in one round trip. What `act` returns is the result of a call; what comes back is what that became. */
  together(act: (kernel: Attempting) => number): number;
  together(act: (kernel: Attempting) => void): void;
  /** A copy of it that is driven as it is. From then on it reaps its children, and ends as this one does. */
  fork(): Driven;
  /** Closes all of its descriptors but the standard ones and these, and gives the numbers that these have now. */
  retire(keep: readonly number[]): number[];
  /** Makes calls of which the last becomes a program. */
  become(act: (kernel: Attempting) => void): void;
  /** Has it go on when this process ends: for one whose child runs a program. */
  release(): void;
  /** Waits until it has ended, and reaps it. Not for a forked one. */
  wait(): Ended;
  /** Not for a forked one. */
  kill(): void;
}

/** What this process shall be left with. Plain data. */
export interface SelfPolicy {
  /** Real paths that exist. */
  readonly paths: readonly Unveiled[];
  /** Programs that it may execute: names, or paths. */
  readonly run: readonly string[];
  /** The words that it keeps to; `undefined` for what a program of Bun needs that has no network. */
  readonly promises: readonly string[] | undefined;
  readonly onBreak: "kill" | "errno";
}

/** What one mechanism of this machine can do. */
export interface Ability {
  readonly mechanism: string;
  readonly present: boolean;
  /** What was found, such as `ABI 7` or `EPERM from clone3`. */
  readonly detail: string;
  /** What would make it present. */
  readonly remedy?: string;
}

/** One operating system. */
export interface Platform {
  /** Which mechanisms keep each guarantee of a policy here. Throws NotEnforced. */
  enforcement(policy: Policy): Enforcement;
  /** Starts a confined process. Throws NotEnforced before anything exists. */
  confine(policy: Policy, program: Program, supervision?: Supervision): Confined;
  /** The maps for a request. Throws a RangeError for maps that no kernel takes, and an Error where no ranges are lent. */
  mapsFor(request: IdRequest): IdMaps;
  /** Starts a container. Rejects with the SystemError of the step that failed; nothing is left then. */
  contain(plan: ContainerPlan): Promise<Contained>;
  /** Starts one program in a container of its own, which ends with it. */
  execute(container: ContainerPlan, process: ProcessPlan): Promise<Contained & Running>;
  /**
   * Starts one program behind the walls that `policy` asks for; what it needs in order to start is found on the host. Throws NotEnforced
   * before anything exists.
   */
  sandbox(policy: Policy, process: ProcessPlan, more?: SandboxMore): Promise<Sandboxed>;
  /** As `execute`, and tells of each call that names a file, a program or an address. Nothing of that is refused. */
  observe(container: ContainerPlan, process: ProcessPlan, supervision: Supervision): Promise<Observed>;
  /** The absolute path of a program, and the files that it needs in order to start. Throws NotRunnable. */
  programOf(name: string): {
    readonly program: string;
    readonly files: readonly { readonly source: string; readonly target: string }[];
  };
  /** The filters under which an actor's code or a program runs. What all of them allow is allowed. */
  filters(policy: Policy, of: "actor" | "program"): readonly Filter[];
  /** Puts a puppet into the namespaces of a process. */
  attach(pid: number): Promise<Contained>;
  /** Starts a puppet that is driven step by step. Throws the SystemError of the namespace that could not be made or entered. */
  drive(plan: DrivePlan): Driven;
  /** Leaves this very process with what the policy grants, on all of its threads, for good. Throws NotEnforced before anything has happened, and PartlyConfined behind. */
  confineSelf(policy: SelfPolicy): Enforcement;
  /** From here on no `execve` gives this process privileges, whichever thread makes it. */
  setNoNewPrivs(): void;
  /** Gives up the capabilities of every thread but these, by their names without the prefix. */
  dropCapabilities(keep: readonly string[]): void;
  /** What this machine can do, mechanism by mechanism. */
  abilities(): readonly Ability[];
  /** Where descriptors stand inside: the boot file finds them by these numbers. */
}
