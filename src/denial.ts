/** What a wall refused, told to the person who can open a door in it. */
import { dirname, isAbsolute, relative, resolve } from "node:path";
import type { Enforcement, Guarantee, Policy } from "../platform/index.ts";

export interface Denial {
  /** The act, such as `open /etc/passwd`. The words are partly those of the actor. */
  readonly what: string;
  /** Which mechanism refused it, and why. */
  readonly wall: string;
  readonly guarantee: Guarantee;
  /** The flag that would allow it, or what to do where none would. */
  readonly fix: string;
}

/** What a path is on the host. */
export interface Entry {
  /** Whether its own permissions let the user read it, and write to it, whom the actor is on the host. */
  readonly readable: boolean;
  readonly writable: boolean;
}

/** Where the error happened. */
export interface Situation {
  readonly policy: Policy;
  readonly enforcement: Enforcement;
  /** The working directory of whoever gives the grants, by which relative paths are meant. */
  readonly directory: string;
  look(path: string): Entry | undefined;
}

/** The fields of an error of Bun's, as they arrive from inside. */
interface Refusal {
  readonly message: string;
  readonly code: string;
  readonly syscall: string;
  readonly path: string;
}

type Explain = (refusal: Refusal, situation: Situation) => Denial | undefined;

/** Which wall an error comes from, and which flag would allow what was tried. Undefined for errors that no wall made. */
export function explain(error: unknown, situation: Situation): Denial | undefined {
  if (!(error instanceof Error)) return undefined;
  const { code = "", syscall = "", path = "" }: NodeJS.ErrnoException = error;
  // These are the actor's words, and numbers may stand where Bun has text.
  const refusal = { message: error.message, code: String(code), syscall: String(syscall), path: String(path) };
  for (const rule of [memory, programs, signals, network, files]) {
    const denial = rule(refusal, situation);
    if (denial !== undefined) return denial;
  }
  return undefined;
}

const MIB = 2 ** 20;

const memory: Explain = ({ message, code }, { policy }) => {
  if (code !== "" || !/^out of memory/i.test(message)) return undefined;
  const limit = policy.limits.memory / MIB;
  return {
    what: "allocate more memory",
    wall: `RLIMIT_DATA: ${Math.floor(limit)} MiB beyond what an idle Bun holds`,
    guarantee: "memory",
    fix: `--memory=${Math.ceil(2 * limit)}MiB`,
  };
};

const programs: Explain = ({ message, syscall, path }, { enforcement }) => {
  const started = /^(?:posix_)?spawn|^execve/.test(syscall) || (syscall === "socketpair" && path !== "");
  if (!started && !message.startsWith("Executable not found in $PATH")) return undefined;
  const wall = wallOf(enforcement.processes, {
    seccomp: "no process can be started",
    "mount namespace": "no programs are inside",
  });
  if (wall === undefined) return undefined;
  return {
    what: path === "" ? "start a program" : `start ${path}`,
    wall,
    guarantee: "processes",
    fix: "None in this version: --run is not supported, a script starts no programs",
  };
};

const signals: Explain = ({ code, syscall }, { enforcement }) => {
  if (syscall !== "kill") return undefined;
  const wall = wallOf(enforcement.processes, {
    seccomp: code === "EPERM" ? "no process can be signalled" : undefined,
    "PID namespace": code === "ESRCH" ? "there are no other processes" : undefined,
  });
  return wall === undefined
    ? undefined
    : { what: "send a signal", wall, guarantee: "processes", fix: "None: a script has no other processes" };
};

const NETWORK_CALL = /^(?:socket|connect|bind|listen|getaddrinfo|getnameinfo|gethostbyaddr|query\w*)$/;

const network: Explain = ({ message, code, syscall, path }, { enforcement }) => {
  const url = /^(?:https?|wss?):/.test(path);
  // node:net gives no fields when it cannot listen.
  const listening = message.startsWith("Failed to listen at");
  if (!NETWORK_CALL.test(syscall) && !listening && !(url && code !== "")) return undefined;
  const wall = wallOf(enforcement.network, {
    seccomp: "no socket can be made",
    "network namespace": "no network is inside",
  });
  if (wall === undefined) return undefined;
  const told = message.startsWith(`${syscall} `) ? message.replace(`${code} `, "") : syscall;
  return {
    what: url ? `fetch ${path}` : listening ? message.replace("Failed to ", "") : told,
    wall,
    guarantee: "network",
    fix: "None in this version: --net is not supported; fetch outside and hand in what came, by --read or standard input",
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

/** One path of a call: how the script named it, what that means to the user, and what is there. */
interface Place {
  readonly path: string;
  readonly entry: Entry | undefined;
  readonly granted: "read" | "write" | undefined;
}

const files: Explain = (refusal, situation) => {
  const kind = Object.hasOwn(FILE_CALLS, refusal.syscall) ? FILE_CALLS[refusal.syscall] : undefined;
  if (kind === undefined || refusal.path === "") return undefined;
  const named = pathsOf(refusal);
  const denial = { what: `${refusal.syscall} ${named.join(" -> ")}`, guarantee: "files" } as const;
  const { enforcement, policy } = situation;
  if (kind === "never" && refusal.code === "EPERM") {
    const wall = wallOf(enforcement.files, { seccomp: "no sandbox allows this call" });
    return wall === undefined
      ? undefined
      : { ...denial, wall, fix: "None: a script may create, write, rename and remove files, no more" };
  }
  const places = named.map((path) => placeOf(resolve(situation.directory, path), situation));
  const [place, other] = places as [Place, Place | undefined];
  const lost = named.find((path) => !isAbsolute(path));
  if (lost !== undefined && refusal.code === "ENOENT") {
    const { path, entry, granted } = placeOf(resolve(situation.directory, lost), situation);
    const fix = `Name it ${path}: inside, the working directory is /`;
    // A file to be made is not there yet, but its directory is granted.
    if (granted !== undefined) return { ...denial, wall: "a relative path, which is looked for beneath / inside", fix };
    if (entry === undefined) return undefined;
    return {
      ...denial,
      wall: "mount namespace: it was not granted, so it is not there",
      fix: `${grantFor(path, "read", situation)} and name it ${path}`,
    };
  }
  const grant = () => {
    if (kind === "read") return grantFor(place.path, "read", situation);
    const needed = [place, ...(other === undefined ? [] : [other])].filter(({ granted }) => granted !== "write");
    const grants = needed.map(({ path, entry }) =>
      grantFor(kind === "entry" || entry === undefined ? dirname(path) : path, "write", situation),
    );
    return [...new Set(grants)].join(" ");
  };

  switch (refusal.code) {
    case "EPERM": {
      const granted = policy.read.length + policy.write.length > 0;
      if (granted && (kind === "open" || kind === "read" || policy.write.length > 0)) return undefined;
      const because = granted ? "no path is granted for writing" : "no path is granted, so none can be opened";
      const wall = wallOf(enforcement.files, { seccomp: because });
      if (wall === undefined) return undefined;
      // The call does not say what the file was to be opened for. One that does not exist was to be made.
      if (kind !== "open" || place.entry === undefined) return { ...denial, wall, fix: grant() };
      const reading = grantFor(place.path, "read", situation);
      return { ...denial, wall, fix: reading.startsWith("--") ? `${reading}, or ${grant()} to change it` : reading };
    }
    case "ENOENT": {
      const hidden = places.find(
        ({ path, entry, granted }) =>
          granted === undefined &&
          (entry !== undefined || (kind === "entry" && situation.look(dirname(path)) !== undefined)),
      );
      const wall = wallOf(enforcement.files, { "mount namespace": "it was not granted, so it is not there" });
      if (hidden === undefined || wall === undefined) return undefined;
      return { ...denial, wall, fix: kind === "open" ? grantFor(hidden.path, "read", situation) : grant() };
    }
    case "EACCES": {
      const permitted =
        place.entry === undefined || (kind === "open" || kind === "read" ? place.entry.readable : place.entry.writable);
      if (place.granted === "write" || (place.granted === "read" && !permitted)) {
        const wall = "the file's own permissions: not even root's sandboxes are above those";
        return {
          ...denial,
          wall,
          fix: `None: it is granted; change its owner or mode (chmod), or that of its directory`,
        };
      }
      const because = place.granted === "read" ? "it is granted for reading alone" : "it is not granted";
      const wall = wallOf(enforcement.files, { Landlock: because });
      if (wall === undefined) return undefined;
      return {
        ...denial,
        wall,
        fix: place.granted === undefined && kind === "open" ? grantFor(place.path, "read", situation) : grant(),
      };
    }
    case "EROFS": {
      const because =
        place.granted === "read" ? "it is granted for reading alone" : "it is not granted, and all else is read-only";
      const wall = wallOf(enforcement.files, { "mount namespace": because });
      return wall === undefined ? undefined : { ...denial, wall, fix: grant() };
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

function placeOf(path: string, { policy, look }: Situation): Place {
  const within = (grants: readonly string[]) => grants.some((grant) => !relative(grant, path).startsWith(".."));
  return {
    path,
    entry: look(path),
    granted: within(policy.write) ? "write" : within(policy.read) ? "read" : undefined,
  };
}

/** Words that a shell takes as they are. */
const PLAIN = /^[\w@%+=:,./-]+$/;

/** The flag that grants a path, or the nearest directory above that is there: as it is to be typed, or why there is none. */
function grantFor(path: string, flag: "read" | "write", { look }: Situation): string {
  const kernel = ["/proc", "/sys", "/dev"].find((own) => path === own || path.startsWith(`${own}/`));
  if (kernel !== undefined) return `None: ${kernel} belongs to the kernel`;
  let there = path;
  while (there !== "/" && look(there) === undefined) there = dirname(there);
  if (there === "/") return "None: / cannot be granted, name a directory beneath it";
  // In a list of paths a comma parts them, and two are one that belongs to a path.
  const value = there.replaceAll(",", ",,");
  return `--${flag}=${PLAIN.test(value) ? value : `'${value.replaceAll("'", "'\\''")}'`}`;
}

/** The first of `reasons` whose mechanism is among the enforcers, in words. */
function wallOf(
  enforcers: readonly string[],
  reasons: Readonly<Record<string, string | undefined>>,
): string | undefined {
  for (const [mechanism, because] of Object.entries(reasons)) {
    const found = enforcers.find((enforcer) => enforcer.startsWith(mechanism));
    if (found !== undefined && because !== undefined) return `${found}: ${because}`;
  }
  return undefined;
}
