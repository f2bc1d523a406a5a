/** The words that every operating system's side of caisson shares. */

/** What a policy promises along one axis. */
export const GUARANTEES = ["files", "network", "processes", "privileges", "kernel", "memory", "cpu", "time"] as const;
export type Guarantee = (typeof GUARANTEES)[number];

/** What an actor may do, complete: absolute paths, no defaults left. Plain data. */
export interface Policy {
  /** Real paths that exist, seen at the same place inside. */
  readonly read: readonly string[];
  readonly write: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly limits: Limits;
  /** Guarantees that the caller wants kept as well as this machine can, and started without where it cannot. */
  readonly allowUnenforced: readonly Guarantee[];
}

export interface Limits {
  /** What the actor may allocate beyond what an idle Bun holds, in bytes. */
  readonly memory: number;
  /** CPU time of all threads, in seconds. */
  readonly cpuTime?: number;
  /** Time from the start to the end, in milliseconds. */
  readonly wallTime?: number;
  /** Open descriptors. */
  readonly files: number;
  /** The size to which it can grow one file, in bytes. */
  readonly fileSize: number;
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

  constructor(guarantee: Guarantee, missing: string, remedy: string) {
    super(`Cannot guarantee "${guarantee}": ${missing}. ${remedy}, or allow it with allowUnenforced: ["${guarantee}"]`);
    this.guarantee = guarantee;
    this.missing = missing;
    this.remedy = remedy;
  }
}

/** How an actor's process ended, as the kernel tells it. */
export interface Ended {
  readonly code?: number;
  readonly signal?: number;
  readonly cpuMicroseconds: number;
  readonly peakKib: number;
}

/** What the confined process is to be. */
export interface Program {
  /** The text of the boot file. */
  readonly boot: string;
  /** The host's descriptors that become its standard input, output and error. */
  readonly stdio: readonly [number, number, number];
  /** The host's descriptors of the actor's ends of the data lane and the descriptor lane. */
  readonly lanes: readonly [number, number];
}

/** A process inside its walls. */
export interface Confined {
  readonly pid: number;
  readonly enforcement: Enforcement;
  /** What the boot file installs before any code arrives: a seccomp program, empty where the kernel cannot take one. */
  readonly closingFilter: Uint8Array;
  /** Settles when the boot file runs, rejects when a wall could not be built; the process is gone then. */
  readonly started: Promise<void>;
  /** Settles once the process has ended and is reaped. */
  readonly ended: Promise<Ended>;
  /** Checks from outside that every thread is confined as planned. Throws an Error that names what is not. */
  verify(): void;
  /** Ends it and everything in it. Does nothing when it has ended. */
  kill(): void;
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
  confine(policy: Policy, program: Program): Confined;
  /** What this machine can do, mechanism by mechanism. */
  abilities(): readonly Ability[];
  /** Where descriptors stand inside: the boot file finds them by these numbers. */
}
