/** Denials from what the walls themselves say: the filter of a call, Landlock of an access, the proxy of a connection. */
import { dirname, isAbsolute, resolve } from "node:path";
import {
  GROUPS as CALLS,
  type Group,
  type Guarantee,
  type RefusedAccess,
  SIGNATURES,
  type SupervisedCall,
} from "../platform/index.ts";
import type { SyscallName } from "../syscalls/kernel.ts";
import { O } from "../syscalls/linux/numbers.ts";
import type { Decision } from "./decision.ts";
import { type Denial, denialFrom, type Finding, type Place, PROXY, placeAt, type Situation, wallOf } from "./denial.ts";
import {
  networkRemedy,
  none,
  pathRemedy,
  placeOf,
  programRemedy,
  promiseRemedy,
  type Recipient,
  type Remedy,
  writeRemedy,
} from "./remedy.ts";
import { type Rule, ruleForName } from "./rule.ts";

/** The denial of what an egress decided. */
export function denialOf(
  { host, port, address, reason }: Decision,
  { actor, kind, rules = [] }: { readonly actor: string; readonly kind: Recipient; readonly rules?: readonly Rule[] },
): Denial {
  // Where a rule has the name, what is missing is the address that it led to, or there is none.
  const known = ruleForName(rules, host, port) !== undefined || (address !== undefined && address !== host);
  const nowhere = known && address === undefined;
  return denialFrom(actor, {
    call: "connect",
    target: placeOf(host, port),
    wall: `${PROXY}: ${reason}`,
    guarantee: "network",
    remedy: nowhere
      ? none("there is nothing to connect to")
      : networkRemedy(kind, placeOf(known ? address! : host, port)),
  });
}

/** What calls of each group are about, and why a filter refuses those that it does. */
const GROUPS = {
  io: ["kernel", "it is more than reading and writing"],
  event: ["kernel", "no sandbox has it"],
  aio: ["kernel", "it would carry other calls past every filter"],
  "file-read": ["files", "no sandbox allows this of files"],
  "file-write": ["files", "no sandbox allows this of files"],
  network: ["network", "no such socket can be made or used"],
  process: ["processes", "no sandbox allows this of processes"],
  thread: ["processes", "no sandbox allows this of threads"],
  schedule: ["cpu", "its share of the processors is not its own to choose"],
  memory: ["memory", "its limit would not count such memory"],
  signal: ["processes", "no sandbox allows this of signals"],
  time: ["kernel", "no sandbox has it"],
  clock: ["privileges", "the clock is the machine's"],
  identity: ["kernel", "no sandbox has it"],
  credentials: ["privileges", "it stays who it is"],
  ipc: ["kernel", "what it makes would outlive it"],
  keyring: ["privileges", "keys are the user's"],
  sandbox: ["kernel", "its walls are its host's to build"],
  mount: ["privileges", "what it sees is its host's to mount"],
  namespace: ["privileges", "it stays in its own namespaces"],
  debug: ["processes", "it would look into processes or into the kernel"],
  system: ["privileges", "it is root's on any machine"],
  obsolete: ["kernel", "no program should make it"],
} as const satisfies Readonly<Record<Group, readonly [Guarantee, because: string]>>;

const groupOf: ReadonlyMap<string, Group> = new Map(
  Object.entries(CALLS).flatMap(([group, calls]) => calls.map((call) => [call, group as Group])),
);

/** Of these, what they leave or take away is an entry of a directory. */
const deedsOf = (call: SyscallName) => SIGNATURES[call]?.paths?.map(({ does }) => does) ?? [];
const FORK = /^(?:clone|fork|vfork)/;

/**
 * The denial of a call that was refused. Undefined where the host has nothing at the path either that was to be opened or started: programs look for
 * much that is nowhere.
 * @param promise which one it lacked, where that is why
 */
export function denialOfCall(asked: SupervisedCall, situation: Situation, promise?: string): Denial | undefined {
  const group = groupOf.get(asked.call);
  const [guarantee, because] = group === undefined ? (["kernel", "no sandbox knows it"] as const) : GROUPS[group];
  const target = asked.address ?? asked.paths.join(" -> ");
  const act = { call: asked.call, target, guarantee };
  const made = (wall: string, remedy: Remedy) => denialFrom(situation.actor, { ...act, wall, remedy });
  if (promise !== undefined) {
    const wall = `seccomp: it promised to do without ${promise}`;
    const remedy = promiseRemedy(situation.policy.promises ?? [], promise);
    return denialFrom(situation.actor, { ...act, wall, remedy, promise });
  }
  const seccompWall = `seccomp: ${because}`;
  if (guarantee === "files" && asked.paths.length > 0) {
    const found = fileFinding(asked, group === "file-write", situation);
    return found === "nothing" ? undefined : made(found?.wall ?? seccompWall, found?.remedy ?? NEVER);
  }
  if (guarantee === "network") return made(seccompWall, socketRemedy(asked, situation));
  if (deedsOf(asked.call).includes("start")) {
    const [path = ""] = asked.paths;
    if (path !== "" && situation.look(path) === undefined) return undefined;
    const wall =
      situation.kind === "program"
        ? "mount namespace: the program was not granted"
        : "seccomp: no process can be started";
    return made(wall, programRemedy(situation.kind, path));
  }
  if (FORK.test(asked.call) && situation.kind !== "program")
    return made("seccomp: no process can be started", programRemedy(situation.kind, ""));
  return made(seccompWall, NEVER);
}

const NEVER = none("no sandbox allows this call");

/** What of its paths is not granted for what a call would do; undefined where that is not why. */
function fileFinding(
  { paths, flags = 0, call }: SupervisedCall,
  writing: boolean,
  situation: Situation,
): Pick<Finding, "wall" | "remedy"> | "nothing" | undefined {
  const places = paths.filter(isAbsolute).map((path) => placeAt(resolve(path), situation));
  const writes = writing || (flags & O.ACCMODE) !== O.RDONLY || (flags & (O.CREAT | O.TRUNC)) !== 0;
  const short = places.filter(({ granted }) => granted !== "write" && (writes || granted !== "read"));
  if (short.length === 0) return undefined;
  if (!writes && short.every(({ entry }) => entry === undefined)) return "nothing";
  const { policy, enforcement, look } = situation;
  const wall = wallOf(enforcement.files, {
    seccomp:
      policy.read.length + policy.write.length + policy.unveil.length === 0 && situation.kind !== "program"
        ? "no path is granted"
        : undefined,
    "mount namespace": short.some(({ granted }) => granted === "read")
      ? "it is granted for reading alone"
      : "it was not granted, so it is not there",
    Landlock: "it is not granted",
  });
  if (wall === undefined) return undefined;
  if (!writes) return { wall, remedy: pathRemedy(short[0]!.path, "read", look) };
  const ofEntries = deedsOf(call).some((deed) => deed === "make" || deed === "remove");
  const changed = ({ path, entry }: Place) => (ofEntries || entry === undefined ? dirname(path) : path);
  return { wall, remedy: writeRemedy(short.map(changed), look) };
}

/** Connections go through the proxy, and to no socket of the host's. */
function socketRemedy({ address }: SupervisedCall, { kind, policy }: Situation): Remedy {
  if (address?.startsWith("unix:")) return none("sockets of the host are not for sandboxes");
  if (kind === "program" && policy.net.length > 0 && address === undefined)
    return none("it connects by TCP, through the proxy that its environment names");
  return networkRemedy(kind, address);
}

/** Which access a blocker is, by how it begins, and the promise that it takes. Of what it makes and removes, Landlock names the directory. */
const BLOCKERS = [
  ["fs.execute", "run", "exec"],
  ["fs.read_", "read", "rpath"],
  ["fs.write_file", "write", "wpath"],
  ["fs.truncate", "write", "wpath"],
  ["fs.make_", "write", "cpath"],
  ["fs.remove_", "write", "cpath"],
  ["fs.refer", "write", "cpath"],
  ["fs.resolve_unix", "unix"],
  ["fs.", "never"],
  ["net.", "network"],
  ["scope.abstract_unix_socket", "unix"],
] as const;

/** The denial of an access that Landlock refused. */
export function denialOfLandlock({ blockers, path = "" }: RefusedAccess, situation: Situation): Denial {
  const { actor, kind, policy, look } = situation;
  const known = blockers.map((each) => BLOCKERS.find(([start]) => each.startsWith(start)));
  const kinds = known.map((each) => each?.[1]);
  const lacking = new Set(
    known.flatMap((each) => each?.[2] ?? []).filter((word) => policy.promises?.includes(word) === false),
  );
  const call = (blockers[0] ?? "").replace(/^\w+\./, "");
  const refused = `Landlock: ${blockers.join(", ")} is not granted`;
  const made = (guarantee: Guarantee, remedy: Remedy) => {
    const finding = { call, target: path, guarantee };
    if (lacking.size === 0) return denialFrom(actor, { ...finding, wall: refused, remedy });
    const promise = [...lacking].join(" ");
    const wall = `${refused}: it promised to do without ${promise}`;
    return denialFrom(actor, {
      ...finding,
      wall,
      promise,
      remedy: both(remedy, promiseRemedy(policy.promises!, promise)),
    });
  };
  // Writing is granted with reading: the most that was asked for decides.
  if (kinds.includes("write")) return made("files", writeRemedy([path], look));
  if (kinds.includes("run")) return made("processes", programRemedy(kind, path));
  if (kinds.includes("read")) return made("files", pathRemedy(path, "read", look));
  if (kinds.includes("network")) return made("network", networkRemedy(kind));
  if (kinds.includes("unix")) return made("network", none("sockets of the host are not for sandboxes"));
  return made(kinds.includes("never") ? "files" : "processes", none("no sandbox allows it"));
}

/** A grant that takes a promise as well. Where there is none, the promise is of no use. */
function both(grant: Remedy, promise: Remedy): Remedy {
  if (grant.grant === undefined) return grant;
  return { fix: `${grant.fix} ${promise.fix}`, grant: { ...grant.grant, ...promise.grant } };
}
