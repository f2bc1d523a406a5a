/** This very process, left with less: `caisson/self`. */
import { realpathSync, statSync } from "node:fs";
import { resolve } from "node:path";
import { type Enforcement, NotEnforced, platform, type Unveiled } from "../platform/index.ts";
import type { CAP } from "../syscalls/linux/numbers.ts";
import { checked, completed, type Sandbox } from "./sandbox.ts";

export type { Enforcement, Guarantee } from "../platform/index.ts";
export { NotEnforced, PartlyConfined } from "../platform/index.ts";
export { SystemError } from "../syscalls/error.ts";

/**
 * What this process is left with, in the words of a sandbox. Unlike one, it may also name `/` and what is in `/proc`, `/sys` and `/dev`. What else a
 * sandbox has is decided before a process starts: it throws here.
 *
 * Bun itself needs nothing of it for timers, the JIT, WebAssembly, cryptography, time zones and Workers from a `Blob`. What is to be
 * imported, or run as a Worker, later on must be granted like any file. Names of hosts are looked up with `dns` promised and `/etc/resolv.conf`,
 * `/etc/hosts` and `/etc/nsswitch.conf` granted. `Bun.spawn` opens `/dev/null` with O_CREAT, so with promises it takes
 * `"rpath wpath cpath proc exec"`; new functions of `bun:ffi` take `"prot_exec"`. A program of `run` that reads its own `/proc/self`, as Bun
 * does, needs `/proc`. Signals reach programs from the thread that started them, and none before Linux 6.15, where Landlock could not tell them
 * from others. Who has not promised `rpath` cannot confine itself again.
 */
export type SelfPolicy = Pick<Sandbox, "read" | "write" | "run" | "unveil" | "promises" | "onBreak">;

const WORDS: readonly string[] = [
  "read",
  "write",
  "run",
  "unveil",
  "promises",
  "onBreak",
] satisfies (keyof SelfPolicy)[];

/** What is in force. */
export interface Confinement {
  /** Which mechanisms keep each guarantee. Those of resources nobody keeps: see `setrlimit(2)` and cgroups. */
  readonly enforcement: Enforcement;
}

/**
 * Leaves this process with what the policy grants, on all of its threads, those of Workers too, and of all that it starts; for good. When it
 * returns, what is not granted is refused to synchronous, asynchronous and raw calls alike. Called again it takes more, and never gives back.
 *
 * Files are granted by path, as in a sandbox; without `promises` no new socket, and no program but those of `run`. With `promises` it keeps to
 * those words instead: `"stdio rpath inet dns"`. What is open stays open: files, connections, sockets that listen. What was started before
 * stays free. Landlock does not govern asking about a path: whether it is there, its size and times, where a link leads. It does not
 * govern `fs.watch` either, which is refused, nor what `fattr` and `chown` promise, which takes `/` for writing; nor can it keep what lies in
 * a directory that may be written as it is. A program's loader, granted with it, starts whatever may be read. `isWithin` compares sandboxes: here promises bring sockets, too.
 *
 * Throws TypeError for what makes no sense, the SystemError of a path, and NotEnforced for what cannot be kept, all of it before anything
 * has happened; PartlyConfined, which says what holds by then, if something fails behind that.
 */
export function confine(policy: SelfPolicy): Confinement {
  const given = checked(policy);
  const strange = Object.keys(given).find((key) => !WORDS.includes(key));
  if (strange === "net" && given.net!.length > 0)
    throw new NotEnforced(
      "network",
      "no proxy stands between this process and others, so that hosts could be told apart",
      'Promise "inet dns", or have an actor or a program do it, which can be granted hosts',
      { allowable: false },
    );
  if (strange !== undefined && strange !== "net")
    throw new TypeError(`Cannot confine this process by ${strange}: expected ${WORDS.join(", ")}`);
  if (given.onBreak !== undefined && given.promises === undefined)
    throw new TypeError("Cannot say what becomes of who breaks a promise: there are no promises");
  const { read, write, unveil, run, promises, onBreak } = completed(given, "program", realPath);
  const paths: Unveiled[] = [
    ...read.map((path) => ({ path, permissions: "r" })),
    ...write.map((path) => ({ path, permissions: statSync(path).isDirectory() ? "rwc" : "rw" })),
    ...unveil,
  ];
  return { enforcement: platform.confineSelf({ paths, run, promises, onBreak }) };
}

const realPath = (path: string) => realpathSync(resolve(path));

/** The name of a capability, as in capabilities(7) without `CAP_`. */
export type Capability = Lowercase<keyof typeof CAP>;

/** From here on no `execve` gives this process, and what it starts, privileges: neither set-user-id programs nor those with capabilities. All threads. */
export function setNoNewPrivs(): void {
  platform.setNoNewPrivs();
}

/**
 * Gives up all capabilities but these, on all threads: the permitted, effective, inheritable and ambient ones. Where this process has
 * `setpcap` the bounding set loses them, too, so that no program that it starts gets them back; else `setNoNewPrivs` sees to that.
 * Throws RangeError for one that this process does not have.
 */
export function dropCapabilities({ keep = [] }: { readonly keep?: readonly Capability[] } = {}): void {
  platform.dropCapabilities(keep);
}
