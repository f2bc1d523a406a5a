/** What a wall refused, told to the person who can open a door in it; here from the errors that it makes inside. */
import { dirname, resolve } from "node:path";
import type { Enforcement, Guarantee, Policy } from "../platform/index.ts";
import { grantAt, grantsOf, READ, WRITE } from "./grant.ts";
import type { Entry } from "./look.ts";
import { harmless } from "./output.ts";
import {
  memoryRemedy,
  networkRemedy,
  none,
  pathRemedy,
  placeOf,
  programRemedy,
  type Recipient,
  type Remedy,
  writeRemedy,
} from "./remedy.ts";
import type { Sandbox } from "./sandbox.ts";

/** An act that a wall refused. Its words are harmless to print and bounded; `grant` alone is exact. */
export interface Denial {
  /** The name of the actor, or of the program. */
  readonly actor: string;
  /** What was tried: a call such as `"open"` or `"connect"`, or `"start"`, `"fetch"`, `"allocate"` where an error says no more. */
  readonly call: string;
  /** What it was tried on, such as `"/etc/passwd"` or `"example.com:443"`; empty where it names nothing. */
  readonly target: string;
  readonly guarantee: Guarantee;
  /** Which mechanism refused it, and why. */
  readonly wall: string;
  /** The flag that would allow it, or `"None: "` and what to do instead. */
  readonly fix: string;
  /** The same as data, where that suffices: the sandbox with this granted as well allows it. */
  readonly grant?: Sandbox;
  /** The promise that it lacked. */
  readonly promise?: string;
  /**
   * Nothing stands behind it but an error that came from inside, which can be made up whole: as a reason to grant anything, it is the word of who
   * wants it.
   */
  readonly claimed?: true;
}

/** What was tried, and against which walls. */
export interface Situation {
  /** The name of the actor, or of the program. */
  readonly actor: string;
  /** An actor of a program, the script of `caisson run`, or a program: each is granted more in its own way. */
  readonly kind: Recipient;
  readonly policy: Policy;
  readonly enforcement: Enforcement;
  /** The working directory of whoever gives the grants, by which relative paths are meant. */
  readonly directory: string;
  look(path: string): Entry | undefined;
}

/** What is known of a denial before it has a name. */
export type Finding = Omit<Denial, "actor" | "fix" | "grant"> & { readonly remedy: Remedy };

/** The most that is kept of a path, and of what else comes from inside. */
const LONGEST_PATH = 4096;
const LONGEST = 1024;

/** The wall that decides on connections. */
export const PROXY = "proxy of the host";

/** Two paths as flags, quoted. */
const LONGEST_FIX = 4 * LONGEST_PATH;

/** A finding as a denial, in words that can be kept and printed. */
export function denialFrom(actor: string, { call, target, wall, remedy, ...rest }: Finding): Denial {
  const { fix, ...grant } = remedy;
  return {
    actor: told(actor),
    call: told(call),
    target: told(target),
    wall: told(wall),
    fix: told(fix, LONGEST_FIX),
    ...rest,
    ...grant,
  };
}

/** A copy: a piece of a text would keep the whole of it, and an error may bring megabytes. */
const copy = (text: string, most: number) => Buffer.from(text.slice(0, most)).toString();
/** Text to be kept and printed. */
function told(text: string, most = LONGEST): string {
  return harmless(copy(text, most)) + (text.length > most ? "..." : "");
}

/** An error that a wall caused, with what that refused; so reject calls of actors, and `spawn` where the module fails to load. */
export interface Denied extends Error {
  readonly denial: Denial;
}

/** Whether a wall caused an error, as far as that can be told from it. */
export function isDenied(error: unknown): error is Denied {
  return error instanceof Error && "denial" in error;
}

/** Lines for a person. */
export function describeDenial({ call, target, wall, guarantee, fix }: Omit<Denial, "actor">): string {
  const what = harmless(target === "" ? call : `${call} ${target}`);
  return `caisson denied: ${what}\n  by wall:     ${harmless(wall)}\n  guarantee:   ${guarantee}\n  to allow it: ${harmless(fix)}`;
}

/** The fields of an error of Bun's, as they arrive from inside. */
interface Refusal {
  readonly name: string;
  readonly message: string;
  readonly code: string;
  readonly syscall: string;
  readonly path: string;
}

type Explain = (refusal: Refusal, situation: Situation) => Finding | undefined;

/** Errors that caused an error are looked at as well, so many. */
const MOST_CAUSES = 8;
/** Of a message: two paths, and the words around them. */
const LONGEST_MESSAGE = 3 * LONGEST_PATH;

/**
 * Which wall an error comes from, and what would allow what was tried. Undefined for errors that no wall made. Everything that the error says is
 * the word of whoever threw it.
 */
export function explain(error: unknown, situation: Situation): Denial | undefined {
  let thrown = error;
  for (let count = 0; count <= MOST_CAUSES && thrown instanceof Error; count++) {
    const finding = explainOne(thrown, situation);
    if (finding !== undefined) return denialFrom(situation.actor, { ...finding, claimed: true });
    thrown = thrown.cause;
  }
  return undefined;
}

function explainOne(error: NodeJS.ErrnoException, situation: Situation): Finding | undefined {
  const { name, message, code = "", syscall = "", path = "" } = error;
  // These are the actor's words, and numbers may stand where Bun has text.
  const refusal = {
    name: copy(String(name), 64),
    message: copy(String(message), LONGEST_MESSAGE),
    code: copy(String(code), 64),
    syscall: copy(String(syscall), 64),
    path: copy(String(path), LONGEST_PATH),
  };
  for (const rule of [memory, programs, signals, egress, network, files]) {
    const finding = rule(refusal, situation);
    if (finding !== undefined) return finding;
  }
  return undefined;
}

const MIB = 2 ** 20;

const memory: Explain = ({ message, code }, { policy }) => {
  if (code !== "" || !/^out of memory/i.test(message)) return undefined;
  const limit = policy.limits.memory / MIB;
  return {
    call: "allocate",
    target: "more memory",
    wall: `RLIMIT_DATA: ${Math.floor(limit)} MiB beyond what an idle Bun holds`,
    guarantee: "memory",
    remedy: memoryRemedy(Math.ceil(2 * limit)),
  };
};

const programs: Explain = ({ message, syscall, path }, { enforcement, kind }) => {
  const started = /^(?:posix_)?spawn|^execve/.test(syscall) || (syscall === "socketpair" && path !== "");
  if (!started && !message.startsWith("Executable not found in $PATH")) return undefined;
  const wall = wallOf(enforcement.processes, {
    seccomp: "no process can be started",
    "mount namespace": "no programs are inside",
  });
  if (wall === undefined) return undefined;
  const target = path === "" ? "a program" : path;
  return { call: "start", target, wall, guarantee: "processes", remedy: programRemedy(kind, path) };
};

const signals: Explain = ({ code, syscall }, { enforcement }) => {
  if (syscall !== "kill") return undefined;
  const wall = wallOf(enforcement.processes, {
    seccomp: code === "EPERM" ? "no process can be signalled" : undefined,
    "PID namespace": code === "ESRCH" ? "there are no other processes" : undefined,
  });
  if (wall === undefined) return undefined;
  const remedy = none("nothing inside has other processes than its own");
  return { call: "kill", target: "another process", wall, guarantee: "processes", remedy };
};

/** What `network([...])` says inside where none of its rules allows something. */
const egress: Explain = ({ name, message }, { kind }) => {
  if (name !== "EgressDenied") return undefined;
  const [, host, port, reason] = /^Cannot connect to (\S+):(\d{1,5}): (.*)$/s.exec(message) ?? [];
  if (host === undefined) return undefined;
  const place = placeOf(host, port!);
  return {
    call: "connect",
    target: place,
    wall: `${PROXY}: ${reason}`,
    guarantee: "network",
    remedy: networkRemedy(kind, place),
  };
};

const NETWORK_CALL = /^(?:socket|connect|bind|listen|getaddrinfo|getnameinfo|gethostbyaddr|query\w*)$/;

const network: Explain = ({ message, code, syscall, path }, { enforcement, kind }) => {
  const url = /^(?:https?|wss?):/.test(path);
  // node:net gives no fields when it cannot listen.
  const [, listening] = /^Failed to listen at (.*)$/s.exec(message) ?? [];
  if (!NETWORK_CALL.test(syscall) && listening === undefined && !(url && code !== "")) return undefined;
  const wall = wallOf(enforcement.network, {
    seccomp: "no socket can be made",
    "network namespace": "no network is inside",
  });
  if (wall === undefined) return undefined;
  const place = message.startsWith(`${syscall} ${code} `) ? message.slice(syscall.length + code.length + 2) : "";
  return {
    call: url ? "fetch" : listening === undefined ? syscall : "listen",
    target: url ? path : (listening ?? place),
    wall,
    guarantee: "network",
    remedy: networkRemedy(kind),
  };
};

/** The file calls of Bun, by what a grant must say for them; `never` for those that no sandbox allows. */
const FILE_CALLS: Readonly<Record<string, "open" | "read" | "entry" | "write" | "never">> = {
  open: "open",
  ...all(
    "read",
    "stat",
    "lstat",
    "fstat",
    "statfs",
    "access",
    "scandir",
    "readdir",
    "opendir",
    "readlink",
    "realpath",
    "chdir",
    "read",
  ),
  // What changes the entry of a directory needs the directory.
  ...all("entry", "mkdir", "mkdtemp", "rmdir", "unlink", "rename", "rm"),
  ...all("write", "truncate", "ftruncate", "fallocate", "copyfile", "copy_file_range", "write"),
  ...all(
    "never",
    "chmod",
    "fchmod",
    "lchmod",
    "chown",
    "lchown",
    "fchown",
    "utime",
    "futime",
    "lutime",
    "symlink",
    "link",
    "mknod",
    "watch",
  ),
};

function all<Kind>(kind: Kind, ...calls: readonly string[]): Record<string, Kind> {
  return Object.fromEntries(calls.map((call) => [call, kind]));
}

/** One path of a call: how it was named, what that means to the user, and what is there. */
export interface Place {
  readonly path: string;
  readonly entry: Entry | undefined;
  readonly granted: "read" | "write" | undefined;
}

const files: Explain = (refusal, situation) => {
  const kind = Object.hasOwn(FILE_CALLS, refusal.syscall) ? FILE_CALLS[refusal.syscall] : undefined;
  const named = pathsOf(refusal);
  if (kind === undefined || refusal.path === "") return undefined;
  const finding = { call: refusal.syscall, target: named.join(" -> "), guarantee: "files" } as const;
  const { enforcement, policy, look } = situation;
  if (kind === "never" && refusal.code === "EPERM") {
    const wall = wallOf(enforcement.files, { seccomp: "no sandbox allows this call" });
    const remedy = none("a script may create, write, rename and remove files, no more");
    return wall === undefined ? undefined : { ...finding, wall, remedy };
  }
  const places = named.map((path) => placeAt(resolve(situation.directory, path), situation));
  // Of two paths, the one that lacks something.
  const place = places.find(({ granted }) => granted !== "write") ?? places[0]!;
  const remedy = () => {
    if (kind === "read") return pathRemedy(place.path, "read", look);
    const needed = places.filter(({ granted }) => granted !== "write");
    const changed = needed.map(({ path, entry }) => (kind === "entry" || entry === undefined ? dirname(path) : path));
    return writeRemedy(changed, look);
  };
  const reading = kind === "open" || kind === "read";

  switch (refusal.code) {
    case "EPERM": {
      const granted = policy.read.length + policy.write.length + policy.unveil.length > 0;
      const writable = policy.write.length > 0 || policy.unveil.some(({ permissions }) => permissions.includes("w"));
      if (granted && (reading || writable)) return undefined;
      const because = granted ? "no path is granted for writing" : "no path is granted, so none can be opened";
      const wall = wallOf(enforcement.files, { seccomp: because });
      if (wall === undefined) return undefined;
      // The call does not say what the file was to be opened for. One that does not exist was to be made.
      if (kind !== "open" || place.entry === undefined) return { ...finding, wall, remedy: remedy() };
      const read = pathRemedy(place.path, "read", look);
      const either = read.grant === undefined ? read : { ...read, fix: `${read.fix}, or ${remedy().fix} to change it` };
      return { ...finding, wall, remedy: either };
    }
    case "ENOENT": {
      const hidden = places.find(
        ({ path, entry, granted }) =>
          granted === undefined && (entry !== undefined || (kind === "entry" && look(dirname(path)) !== undefined)),
      );
      const wall = wallOf(enforcement.files, { "mount namespace": "it was not granted, so it is not there" });
      if (hidden === undefined || wall === undefined) return undefined;
      return { ...finding, wall, remedy: kind === "open" ? pathRemedy(hidden.path, "read", look) : remedy() };
    }
    case "EACCES": {
      const permitted = place.entry === undefined || place.entry[reading ? "readable" : "writable"];
      if (place.granted === "write" || (place.granted === "read" && !permitted)) {
        const wall = "the file's own permissions: not even root's sandboxes are above those";
        const mode = none("it is granted; change its owner or mode (chmod), or that of its directory");
        return { ...finding, wall, remedy: mode };
      }
      const because = place.granted === "read" ? "it is granted for reading alone" : "it is not granted";
      const wall = wallOf(enforcement.files, { Landlock: because });
      if (wall === undefined) return undefined;
      const unread = place.granted === undefined && kind === "open";
      return { ...finding, wall, remedy: unread ? pathRemedy(place.path, "read", look) : remedy() };
    }
    case "EROFS": {
      if (place.granted === "write") return undefined; // so it is on the host
      const because =
        place.granted === "read" ? "it is granted for reading alone" : "it is not granted, and all else is read-only";
      const wall = wallOf(enforcement.files, { "mount namespace": because });
      return wall === undefined ? undefined : { ...finding, wall, remedy: remedy() };
    }
    default:
      return undefined;
  }
};

/** Calls with two paths tell the second in their message alone: `rename '/a' -> '/b'`. */
function pathsOf({ message, syscall, path }: Refusal): string[] {
  const start = `, ${syscall} '${path}' -> '`;
  const at = message.indexOf(start);
  if (at < 0 || !message.endsWith("'")) return [path];
  const second = message.slice(at + start.length, -1);
  // The first of chdir is only where it was.
  return syscall === "chdir" ? [second] : [path, second];
}

export function placeAt(path: string, { policy, look }: Situation): Place {
  const has = grantAt(grantsOf(policy), path);
  const granted = (has & WRITE) === WRITE ? "write" : (has & READ) !== 0 ? "read" : undefined;
  return { path, entry: look(path), granted };
}

/** The first of `reasons` whose mechanism is among the enforcers, in words. */
export function wallOf(
  enforcers: readonly string[],
  reasons: Readonly<Record<string, string | undefined>>,
): string | undefined {
  for (const [mechanism, because] of Object.entries(reasons)) {
    const found = enforcers.find((enforcer) => enforcer.startsWith(mechanism));
    if (found !== undefined && because !== undefined) return `${found}: ${because}`;
  }
  return undefined;
}
