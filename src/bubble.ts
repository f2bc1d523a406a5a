/** `caisson bwrap`: a command line of bubblewrap carried out, by a puppet that is driven from new namespaces to the program. */
import { existsSync, readlinkSync } from "node:fs";
import type { Driven, IdMaps, Namespace } from "../platform/index.ts";
import { platform } from "../platform/index.ts";
import { SystemError } from "../syscalls/error.ts";
import { type Kernel, self } from "../syscalls/kernel.ts";
import {
  allCapabilities,
  capget,
  capset,
  clearAmbient,
  dropBounding,
  lastCapability,
  raiseAmbient,
} from "../syscalls/linux/capability.ts";
import { changeDirectory, close, open, setUmask, writeAll } from "../syscalls/linux/file.ts";
import { setNamespace, unshare } from "../syscalls/linux/namespace.ts";
import { raiseLoopback } from "../syscalls/linux/network.ts";
import { CLONE, F, O, SIG } from "../syscalls/linux/numbers.ts";
import {
  createSession,
  execute,
  setDumpable,
  setGroupIds,
  setHostname,
  setKeepCapabilities,
  setNoNewPrivileges,
  setParentDeathSignal,
  setUserIds,
} from "../syscalls/linux/process.ts";
import { setFilter } from "../syscalls/linux/seccomp.ts";
import { Struct } from "../syscalls/struct.ts";
import { BWRAP_VERSION, type BwrapCommand, bwrapCommand, bwrapHelp, type Caller, filterOf } from "./bwrap.ts";
import { programOf } from "./execvp.ts";
import {
  badDescriptor,
  callerWith,
  currentDirectory,
  descriptors,
  leaveSignals,
  limitDescriptors,
  terminalOf,
} from "./heritage.ts";
import { enterNewRoot } from "./newroot.ts";
import { attempt, BwrapError, reasonOf } from "./strerror.ts";

const NAME = "caisson bwrap";
/** What bubblewrap ends with whatever it was that failed. */
const FAILED = 1;

/** Does what bubblewrap would, and returns what it would end with. */
export function bwrap(args: readonly string[]): number {
  const lent = descriptors();
  const caller = callerWith(lent, complain);
  try {
    const command = bwrapCommand(args, caller);
    if (typeof command === "string") {
      tell(command === "usage" ? 2 : 1, command === "version" ? `${BWRAP_VERSION}\n` : bwrapHelp(NAME));
      return command === "usage" ? FAILED : 0;
    }
    return new Bubble(command, caller, lent).run();
  } catch (error) {
    if (!(error instanceof BwrapError || error instanceof SystemError)) throw error;
    complain(error.message);
    return FAILED;
  }
}

const complain = (message: string) => tell(2, `bwrap: ${message}\n`);

function tell(to: number, text: string): void {
  try {
    writeAll(self, to, new TextEncoder().encode(text));
  } catch {
    // nobody is there to be told
  }
}

/** The files of /proc/<pid>/ns, in the order in which bubblewrap tells of them. */
const NAMESPACE_FILES: readonly (readonly [Namespace, string])[] = [
  ["cgroup", "cgroup"],
  ["ipc", "ipc"],
  ["mount", "mnt"],
  ["network", "net"],
  ["pid", "pid"],
  ["uts", "uts"],
];

/** One command on its way. */
class Bubble {
  readonly #command: BwrapCommand;
  readonly #caller: Caller;
  /** The caller's descriptors that are neither consumed nor closed yet. */
  readonly #lent: Set<number>;
  readonly #namespaces: readonly Namespace[];
  /** Whether a process stays beside the program. */
  readonly #init: boolean;
  /** Whether its user namespace is not the caller's. */
  readonly #user: boolean;
  readonly #umask = process.umask();
  readonly #directory = currentDirectory();

  constructor(command: BwrapCommand, caller: Caller, lent: Set<number>) {
    const { user, userns, pid, network, ipc, uts, cgroup, asPid1, lockFiles, syncFd } = command;
    this.#command = command;
    this.#caller = caller;
    this.#lent = lent;
    this.#user = user === true || userns !== undefined;
    this.#init = asPid1 !== true && (pid === true || lockFiles.length > 0 || syncFd !== undefined);
    const asked = { user, mount: true, pid, network, ipc, uts, cgroup: cgroup === true || this.#hasCgroups(cgroup) };
    this.#namespaces = (Object.keys(asked) as (keyof typeof asked)[]).filter((name) => asked[name] === true);
  }

  #hasCgroups(asked: BwrapCommand["cgroup"]): boolean {
    return asked === "try" && existsSync("/proc/self/ns/cgroup");
  }

  run(): number {
    const { infoFd, jsonStatusFd, usernsBlockFd, dieWithParent } = this.#command;
    const puppet = this.#start();
    let program: Driven;
    try {
      if (dieWithParent) setParentDeathSignal(self, SIG.KILL);
      this.#inform(puppet, infoFd, jsonStatusFd);
      if (usernsBlockFd !== undefined) this.#block(usernsBlockFd);
      this.#setUp(puppet);
      program = this.#init ? this.#fork(puppet) : puppet;
      this.#become(program);
    } catch (error) {
      puppet.kill();
      puppet.wait();
      throw error;
    }
    // An end of file of what was passed on is the program's to make.
    for (const descriptor of this.#lent) if (descriptor > 2 && descriptor !== jsonStatusFd) close(self, descriptor);
    const { code, signal } = puppet.wait();
    const status = code ?? 128 + signal!;
    if (jsonStatusFd !== undefined) this.#write(jsonStatusFd, `{ "exit-code": ${status} }\n`);
    return status;
  }

  /** Starts the puppet, which has what the program is to have, and in its place. */
  #start(): Driven {
    const { uid, gid, user, usernsBlockFd, operations, seccomp } = this.#command;
    const { userns, userns2, pidns, infoFd, jsonStatusFd, blockFd } = this.#command;
    const consumed = new Set<number | undefined>([infoFd, jsonStatusFd, blockFd, usernsBlockFd, userns, pidns]);
    for (const each of seccomp) if (typeof each === "number") consumed.add(each);
    for (const each of operations) {
      if (each.does === "file" || each.does === "data") consumed.add(each.descriptor);
      if (each.does === "bind" && typeof each.source === "number") consumed.add(each.source);
    }
    const kept = [...this.#lent].filter((number) => !consumed.has(number) || (number === userns2 && number > 0));
    const maps: IdMaps | undefined =
      user && usernsBlockFd === undefined
        ? {
            uids: [{ inside: uid, outside: this.#caller.uid, count: 1 }],
            gids: [{ inside: gid, outside: this.#caller.gid, count: 1 }],
            setgroups: "deny",
          }
        : undefined;
    attempt("Joining specified user namespace failed", () => this.#check(userns));
    attempt("Setting pidns failed", () => this.#check(pidns));
    attempt("Setting userns2 failed", () => this.#check(userns2));
    try {
      return platform.drive({
        namespaces: this.#namespaces,
        // 0 means none, as with bubblewrap.
        user: userns || undefined,
        processes: pidns || undefined,
        maps,
        descriptors: new Map(kept.map((number) => [number, number])),
        forks: this.#init,
      });
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      throw new BwrapError(this.#noNamespaces(error), { cause: error });
    }
  }

  #noNamespaces(error: SystemError): string {
    const { code, syscall } = error;
    if (syscall === "setns")
      return code === "EINVAL"
        ? "Joining the specified user namespace failed, it might not be a descendant of the current user namespace."
        : `Joining specified user namespace failed: ${reasonOf(error)}`;
    if (code === "ENOSPC")
      return "Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)";
    if (this.#command.user && code === "EPERM")
      return "No permissions to create new namespace, likely because the kernel does not allow non-privileged user namespaces. `caisson doctor` tells more.";
    if (this.#command.user && code === "EINVAL")
      return "Creating new namespace failed, likely because the kernel does not support user namespaces.";
    return `Creating new namespace failed: ${reasonOf(error)}`;
  }

  /** Tells who watches what runs where. */
  #inform({ pid }: Driven, infoFd: number | undefined, jsonStatusFd: number | undefined): void {
    if (infoFd === undefined && jsonStatusFd === undefined) return;
    const entries = [["child-pid", pid] as const];
    for (const [name, file] of NAMESPACE_FILES) {
      if (!this.#namespaces.includes(name)) continue;
      const inode = /\d+/.exec(readlinkSync(`/proc/${pid}/ns/${file}`))![0];
      entries.push([`${file}-namespace` as "child-pid", Number(inode)]);
    }
    const words = entries.map(([name, value]) => `"${name}": ${value}`);
    if (infoFd !== undefined) {
      this.#write(infoFd, `{\n    ${words.join(",\n    ")}\n}\n`);
      this.#close(infoFd);
    }
    if (jsonStatusFd !== undefined) this.#write(jsonStatusFd, `{ ${words.join(", ")} }\n`);
  }

  /** Everything up to where the program's own process begins. */
  #setUp(puppet: Driven): void {
    const { network, hostname, operations, userns2, newSession, blockFd } = this.#command;
    const { kernel } = puppet;
    puppet.together((kernel) => {
      setNoNewPrivileges(kernel);
      setUmask(kernel, 0);
    });
    if (this.#user) this.#takeIds(puppet);
    if (network) attempt("loopback", () => puppet.together(raiseLoopback));
    if (hostname !== undefined) attempt(`Can't set hostname to ${hostname}`, () => setHostname(kernel, hostname));
    const proc = open(kernel, "/proc", O.PATH | O.DIRECTORY | O.CLOEXEC);
    enterNewRoot(puppet, operations, {
      directory: this.#directory,
      processes: this.#namespaces.includes("pid") || this.#command.pidns !== undefined,
      console: terminalOf(1),
      read: this.#caller.read,
    });
    if (userns2) {
      attempt("Setting userns2 failed", () => setNamespace(kernel, userns2, CLONE.NEWUSER));
      close(kernel, userns2);
      this.#bound(puppet);
    }
    this.#limitUserNamespaces(puppet, proc);
    this.#dropCapabilities(puppet);
    if (blockFd !== undefined) this.#block(blockFd);
    this.#arrive(kernel);
    if (newSession) attempt("setsid", () => createSession(kernel));
  }

  /** What a new user namespace gave, the program is not to get back; and in one that it joined it may have to be another. */
  #takeIds(puppet: Driven): void {
    const { uid, gid, userns } = this.#command;
    this.#bound(puppet);
    if (userns === undefined || (uid === this.#caller.uid && gid === this.#caller.gid)) return;
    const { kernel } = puppet;
    const all = allCapabilities();
    attempt(`unable to switch to uid ${uid}`, () =>
      puppet.together((kernel) => {
        setKeepCapabilities(kernel, true);
        setGroupIds(kernel, { real: gid, effective: gid, saved: gid });
        setUserIds(kernel, { real: uid, effective: uid, saved: uid });
      }),
    );
    capset(kernel, { effective: all, permitted: all, inheritable: 0n });
  }

  #bound(puppet: Driven): void {
    puppet.together((kernel) => {
      // Some may be unknown here.
      for (const capability of each())
        if (!this.#keeps(capability)) kernel.attempt(() => dropBounding(kernel, capability));
    });
  }

  /** Sees to it that there are no further user namespaces, or that there cannot be. */
  #limitUserNamespaces(puppet: Driven, proc: number): void {
    const { disableUserns, assertUsernsDisabled, uid, gid } = this.#command;
    const { kernel } = puppet;
    const put = (path: string, text: string) => {
      const bytes = new TextEncoder().encode(text);
      puppet.together((kernel) => {
        const file = kernel.call("openat", proc, path, O.WRONLY | O.CLOEXEC, 0);
        kernel.call("write", file, bytes, bytes.length);
        close(kernel, file);
      });
    };
    if (disableUserns) {
      attempt("sysctl user.max_user_namespaces = 1", () => put("sys/user/max_user_namespaces", "1"));
      // In a second one beneath it that cannot be undone.
      attempt("unshare user ns", () => unshare(kernel, CLONE.NEWUSER));
      this.#bound(puppet);
      attempt("setting up uid map", () => put("self/uid_map", `${uid} ${uid} 1\n`));
      attempt("error writing to setgroups", () => put("self/setgroups", "deny\n"));
      attempt("setting up gid map", () => put("self/gid_map", `${gid} ${gid} 1\n`));
    }
    close(kernel, proc);
    if (!disableUserns && !assertUsernsDisabled) return;
    try {
      unshare(kernel, CLONE.NEWUSER);
    } catch (error) {
      if (error instanceof SystemError) return;
      throw error;
    }
    throw new BwrapError("creation of new user namespaces was not disabled as requested");
  }

  /** Leaves the program what was asked for; root that asked for nothing has what it had. */
  #dropCapabilities(puppet: Driven): void {
    const { capabilitiesAsked } = this.#command;
    const asIs = this.#caller.uid === 0 && !capabilitiesAsked;
    if (asIs && !this.#user) return;
    const kept = this.#command.capabilities & allCapabilities();
    const held = asIs ? capget(puppet.kernel).permitted : kept;
    attempt("capset failed", () =>
      puppet.together((kernel) => {
        clearAmbient(kernel);
        capset(kernel, { effective: held, permitted: held, inheritable: asIs ? 0n : kept });
      }),
    );
  }

  #keeps(capability: number): boolean {
    return (this.#command.capabilities & (1n << BigInt(capability))) !== 0n;
  }

  /** Goes where the program starts. */
  #arrive(kernel: Kernel): void {
    const { chdir, env } = this.#command;
    setUmask(kernel, this.#umask);
    const arrives = (path: string) => {
      try {
        changeDirectory(kernel, path);
        return true;
      } catch (error) {
        if (error instanceof SystemError) return false;
        throw error;
      }
    };
    if (chdir !== undefined) {
      attempt(`Can't chdir to ${chdir}`, () => changeDirectory(kernel, chdir));
      this.#arrived = chdir;
    } else this.#arrived = [this.#directory, env.HOME].find((path) => path !== undefined && arrives(path)) ?? "/";
  }
  #arrived = "/";

  /** Parts the program's process from the one that stays beside it. */
  #fork(puppet: Driven): Driven {
    const { lockFiles, syncFd, dieWithParent } = this.#command;
    const program = puppet.fork();
    puppet.retire(syncFd === undefined || !this.#lent.has(syncFd) ? [] : [syncFd]);
    puppet.together((kernel) => {
      kernel.attempt(() => clearAmbient(kernel));
      kernel.attempt(() => capset(kernel, { effective: 0n, permitted: 0n, inheritable: 0n }));
      // No filter of the program's is on it, so the program must not get at it.
      setDumpable(kernel, false);
      if (dieWithParent) setParentDeathSignal(kernel, SIG.KILL);
    });
    for (const path of lockFiles) {
      const file = attempt(`Unable to open lock file ${path}`, () => open(puppet.kernel, path, O.RDONLY | O.CLOEXEC));
      const lock = FLOCK.encode({ type: F.RDLCK });
      attempt(`Unable to lock file ${path}`, () => puppet.kernel.call("fcntl", file, F.SETLK, lock));
    }
    if (!dieWithParent) puppet.release();
    return program;
  }

  /** Becomes the program. */
  #become(puppet: Driven): void {
    const { argv, env, dieWithParent, seccomp, asPid1, syncFd, capabilitiesAsked } = this.#command;
    const [name] = argv;
    const filters = seccomp.map((each) => (typeof each === "number" ? filterOf(this.#caller, each) : each));
    const environment = Object.entries({ ...env, PWD: this.#arrived }).map(([key, value]) => `${key}=${value}`);
    const { path, foreign } = attempt(`execvp ${name}`, () => programOf(puppet, name, env.PATH));
    try {
      puppet.become((kernel) => {
        for (const number of [0, 1, 2]) if (!this.#lent.has(number)) close(kernel, number);
        if (syncFd !== undefined && !asPid1 && this.#lent.has(syncFd)) close(kernel, syncFd);
        leaveSignals(kernel);
        limitDescriptors(kernel);
        if (dieWithParent) setParentDeathSignal(kernel, SIG.KILL);
        if (this.#caller.uid !== 0 || capabilitiesAsked)
          for (const capability of each())
            if (this.#keeps(capability)) kernel.attempt(() => raiseAmbient(kernel, capability));
        for (const filter of filters) setFilter(kernel, filter);
        if (foreign) {
          // As execvp(3) does it: what the kernel does not know as a program is a script.
          kernel.attempt(() => execute(kernel, path, argv, environment));
          execute(kernel, "/bin/sh", ["/bin/sh", path, ...argv.slice(1)], environment);
        } else execute(kernel, path, argv, environment);
      });
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      throw new BwrapError(error.syscall === "seccomp" ? noFilter(error) : `execvp ${name}: ${reasonOf(error)}`, {
        cause: error,
      });
    }
  }

  /** Waits for one byte, or the end. */
  #block(descriptor: number): void {
    try {
      if (this.#lent.has(descriptor)) self.call("read", descriptor, new Uint8Array(1), 1);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
    }
    this.#close(descriptor);
  }

  #write(descriptor: number, text: string): void {
    attempt("Write to info_fd", () => {
      if (!this.#lent.has(descriptor)) throw badDescriptor("write", descriptor);
      writeAll(self, descriptor, new TextEncoder().encode(text));
    });
  }

  /** Throws for a descriptor that the caller did not give, as a call with it would: the number may be one of Bun's own. 0 stands for none. */
  #check(descriptor: number | undefined): void {
    if (descriptor && !this.#lent.has(descriptor)) throw badDescriptor("setns", descriptor);
  }

  #close(descriptor: number): void {
    if (this.#lent.delete(descriptor)) close(self, descriptor);
  }
}

const noFilter = (error: SystemError) =>
  error.code === "EINVAL"
    ? "Unable to set up system call filtering as requested: prctl(PR_SET_SECCOMP) reported EINVAL."
    : `prctl(PR_SET_SECCOMP): ${reasonOf(error)}`;

/** `struct flock` of fcntl(2). */
const FLOCK = new Struct({ type: "u16", whence: "u16", start: "i64", len: "i64", pid: "i32" });

const each = () => Array.from({ length: lastCapability() + 1 }, (_, capability) => capability);
