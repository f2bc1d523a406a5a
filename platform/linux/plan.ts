/** From a policy and what the machine can do to what will be built: pure, so that a table of machines can test it. */
import { statSync } from "node:fs";
import { CLONE, LANDLOCK_ACCESS_FS as FS } from "../../syscalls/linux/numbers.ts";
import { type Enforcement, type Guarantee, type Limits, NotEnforced, type Policy, type Unveiled } from "../platform.ts";
import { type Abilities, NAMESPACES } from "./abilities.ts";
import type { Controller } from "./cgroup/hierarchy.ts";
import { type Ids, idsOf } from "./ids.ts";
import {
  actorAccess,
  type Confinement,
  handledBy,
  LIBRARY_ACCESS,
  logFlags,
  type PathRule,
  PROC_ACCESS,
  PROGRAM_ACCESS,
  RIGHTS,
} from "./landlock.ts";
import { isWritable, opened, pathsOf } from "./paths.ts";
import { needsPaths } from "./promises.ts";
import type { Runtime } from "./runtime.ts";
import { MOST_LOOKED_AT } from "./usage.ts";
import { type Bind, type Root, rootOf } from "./walls.ts";

export interface Plan {
  readonly namespaces: bigint;
  /** Whether its network namespace is an empty one that others are in as well. Without a filter they could make sockets, and meet there. */
  readonly sharedNetwork: boolean;
  readonly ids: Ids;
  readonly root: Root | undefined;
  readonly landlock: Confinement | undefined;
  readonly seccomp: boolean;
  /** Whether the puppet may empty the bounding set, and lock the securebits. */
  readonly capable: boolean;
  /** Bun's program, by its path inside. */
  readonly program: string;
  readonly enforcement: Enforcement;
  /** What the host mounts itself, so that files of root's are the actor's, though on the host it is nobody. Empty for an ordinary user. */
  readonly mapped: readonly Bind[];
}

/** The puppet's first descriptor of a mount that the host made: behind those of streams, lanes and input. */
const FIRST_TREE = 106;

/** Where Bun stands in a root of its own. */
const PROGRAM = "/bin/bun";

/** What will be built for a policy. Throws NotEnforced. */
export function planFor(policy: Policy, able: Abilities, bun: Runtime): Plan {
  const enforcement = enforcementOf(policy, able);
  const grants = grantsOf(policy);
  const own = (source: string, target: string): Bind => ({
    source,
    target,
    directory: false,
    writable: false,
    executable: true,
  });
  const files = [
    own(bun.program, PROGRAM),
    own(bun.loader.source, bun.loader.target),
    ...bun.libraries.map((library) => own(library.source, library.target)),
  ];
  const mapped = able.root && (able.namespaces & CLONE.NEWUSER) !== 0n;
  const placed = mapped ? grants.map((grant, index) => ({ ...grant, tree: FIRST_TREE + index })) : grants;
  const root = able.proc === undefined ? undefined : rootOf([...files, ...placed], able.proc);
  const program = root === undefined ? bun.program : PROGRAM;
  return {
    namespaces: able.namespaces,
    sharedNetwork: able.seccomp && [CLONE.NEWUSER, CLONE.NEWNET].every((bit) => (able.namespaces & bit) !== 0n),
    ids: idsOf(able.root),
    root,
    landlock: able.landlock === 0 ? undefined : landlockFor(able, bun, root, policy),
    seccomp: able.seccomp,
    capable: (able.namespaces & CLONE.NEWUSER) !== 0n || able.capable,
    program,
    enforcement,
    mapped: mapped && root !== undefined ? grants : [],
  };
}

/** What the policy grants, as binds: the same path inside as outside. */
function grantsOf(policy: Policy): Bind[] {
  return pathsOf(policy).map((each) => ({
    source: each.source,
    target: each.path,
    directory: isDirectory(each.source),
    writable: isWritable(each),
    executable: false,
  }));
}

const isDirectory = (path: string) => statSync(path).isDirectory();

function landlockFor(able: Abilities, bun: Runtime, root: Root | undefined, policy: Policy): Plan["landlock"] {
  const handled = handledBy(able.landlock, able.errata);
  const rule = (path: string, access: bigint): PathRule => ({ path, access: access & handled.fs });
  const libraries = bun.libraries.map(({ target }) => rule(target, LIBRARY_ACCESS));
  return {
    handled,
    rules: [
      rule(root === undefined ? bun.program : PROGRAM, PROGRAM_ACCESS),
      rule(bun.loader.target, PROGRAM_ACCESS),
      ...libraries,
      // A proc of its own shows its own process alone. In the host's it may see just itself.
      rule(able.proc === "mount" ? "/proc" : "/proc/self", PROC_ACCESS),
      // Bun lists its working directory when it starts.
      ...(root === undefined ? [] : [rule("/", FS.READ_DIR)]),
      ...opened(pathsOf(policy), policy.promises)
        .filter(({ path }) => statSync(path, { throwIfNoEntry: false }) !== undefined) // promises name files that not every host has
        .map(({ path, permissions }) => rule(path, actorAccess(permissions, isDirectory(path), handled))),
    ],
    flags: logFlags(able.landlock, false),
  };
}

/** Which mechanisms keep each guarantee. A guarantee is kept by those that suffice alone, or together where it says so. */
export function enforcementOf(policy: Policy, able: Abilities): Enforcement {
  const has = (namespace: keyof typeof NAMESPACES) => (able.namespaces & NAMESPACES[namespace]) !== 0n;
  const landlock = able.landlock > 0 ? [`Landlock ABI ${able.landlock}`] : [];
  const seccomp = able.seccomp ? ["seccomp"] : [];
  const root = able.proc === undefined ? [] : ["mount namespace"];
  const list = (present: boolean, ...enforcers: string[]) => (present ? enforcers : []);
  const because = (...names: string[]) => {
    const found = names.flatMap((name) => (able.refusals[name] === undefined ? [] : [able.refusals[name]]));
    return found.length > 0 ? ` (${found.join("; ")})` : "";
  };
  const { limits } = policy;
  const { groups = {} } = able;
  const rates = limits.diskRead !== undefined || limits.diskWrite !== undefined;
  const noSeccomp = "this kernel takes no seccomp filters, or something refuses seccomp(2)";
  const filesLack = lackOfFiles(policy, able, { noSeccomp, why: because("user", "mount", "root") });

  const enforcement: Record<Guarantee, string[]> = {
    files: list(filesLack === undefined, ...root, ...landlock, ...seccomp),
    network: list(
      has("network") || able.seccomp,
      ...list(has("network"), "network namespace"),
      ...seccomp,
      ...list(able.landlock >= 4, ...landlock),
    ),
    processes: list(
      has("pid") || able.seccomp,
      ...list(has("pid"), "PID namespace"),
      ...list(has("ipc"), "IPC namespace"),
      ...seccomp,
      ...list(able.landlock >= 6, ...landlock),
    ),
    privileges: [
      "no_new_privs",
      ...list((able.namespaces & CLONE.NEWUSER) !== 0n, "user namespace"),
      ...list(able.namespaces !== 0n, "empty capability sets"),
      ...seccomp,
    ],
    kernel: seccomp,
    // RLIMIT_DATA does not count shared pages, so without the filter that refuses those it bounds nothing.
    memory: list(
      (able.seccomp && limits.swap === undefined) || groups.memory !== undefined,
      ...list(groups.memory !== undefined, `${groups.memory}: memory`),
      ...list(able.seccomp, "RLIMIT_DATA", ...seccomp),
    ),
    cpu: list(limits.cpu !== undefined && groups.cpu !== undefined, `${groups.cpu}: cpu`),
    time: [
      ...list(limits.cpuTime !== undefined, "RLIMIT_CPU"),
      ...list(limits.wallTime !== undefined, "timer of the host"),
    ],
    disk: list(
      !rates || groups.io !== undefined,
      "RLIMIT_FSIZE",
      ...list(rates, `${groups.io}: io`),
      ...list(limits.disk !== undefined, "watch of the host"),
    ),
  };

  const missing: Partial<Record<Guarantee, readonly [what: string, remedy: string]>> = {
    ...(filesLack && { files: filesLack }),
    network: [`no network namespace can be made${because("user", "network")}, and ${noSeccomp}`, USER_REMEDY],
    processes: [`no PID namespace can be made${because("user", "pid")}, and ${noSeccomp}`, USER_REMEDY],
    kernel: [noSeccomp, SECCOMP_REMEDY],
    memory: [`RLIMIT_DATA needs a filter beside it, and ${noSeccomp}`, SECCOMP_REMEDY],
    ...groupLacks(limits, able),
  };
  for (const [guarantee, [what, remedy]] of Object.entries(missing) as [Guarantee, readonly [string, string]][]) {
    if (enforcement[guarantee].length > 0 || policy.allowUnenforced.includes(guarantee)) continue;
    throw new NotEnforced(guarantee, what, remedy);
  }
  return enforcement;
}

/** Which guarantees need a control group for these limits that is not to be had: why, and what to do about it. */
export function groupLacks(
  limits: Limits,
  { groups = {}, refusals, remedies = {} }: Pick<Abilities, "groups" | "refusals" | "remedies">,
): Partial<Record<Guarantee, readonly [what: string, remedy: string]>> {
  const lacks = (controller: Controller, needed: boolean, cannot: string) =>
    !needed || groups[controller] !== undefined
      ? undefined
      : ([
          `no control group can ${cannot}: ${refusals[`cgroup ${controller}`] ?? "there is none"}`,
          remedies[controller] ?? GROUP_REMEDY,
        ] as const);
  const memory = lacks("memory", limits.swap !== undefined, "keep memory from being swapped");
  const cpu = lacks("cpu", limits.cpu !== undefined, "share out processors");
  const disk = lacks("io", limits.diskRead !== undefined || limits.diskWrite !== undefined, "slow disks down");
  return { ...(memory && { memory }), ...(cpu && { cpu }), ...(disk && { disk }) };
}

/**
 * What nothing here keeps of what the processes of a program take together: why, and what to do about it. What they write to disk /proc tells root
 * alone, and nobody what children wrote that the kernel reaped by itself; groups of v1 do not count what it writes later.
 */
export function sharedLacks(
  limits: Limits,
  { root, groups = {}, remedies = {} }: Pick<Abilities, "root" | "groups" | "remedies">,
): Partial<Record<Guarantee, readonly [what: string, remedy: string]>> {
  const counted = groups.io === "cgroup v2" || (root && limits.processes === 1);
  const looked = groups.memory !== undefined || limits.processes <= MOST_LOOKED_AT;
  return {
    ...(limits.disk === undefined || counted
      ? {}
      : { disk: ["no control group of v2 counts what its processes write", DISK_REMEDY] as const }),
    ...(looked
      ? {}
      : {
          memory: [
            `without a control group the host looks at ${MOST_LOOKED_AT} processes, and limits.processes is ${limits.processes}`,
            remedies.memory ?? GROUP_REMEDY,
          ] as const,
        }),
  };
}

/** What files cannot be guaranteed without, and what to do about it. */
function lackOfFiles(
  policy: Policy,
  { landlock, proc, seccomp }: Abilities,
  { noSeccomp, why }: { readonly noSeccomp: string; readonly why: string },
): readonly [what: string, remedy: string] | undefined {
  const paths = pathsOf(policy);
  const root = proc !== undefined;
  // Landlock adds up what lies above, and only a mount takes of it again.
  const nested = root ? undefined : paths.find((each) => isNarrower(each, paths));
  if (nested !== undefined)
    return [
      `${nested.path} lies in what is granted for more, and no mount namespace can be made to keep them apart${why}`,
      USER_REMEDY,
    ];
  if (landlock === 0 && policy.promises !== undefined && needsPaths(policy.promises))
    return ["promises open files of their own, and without Landlock nothing tells those from others", LANDLOCK_REMEDY];
  // Paths that are granted leave open(2) open, and then a read-only descriptor could be opened again for writing
  // through /proc: Landlock alone stops that.
  if (paths.length > 0 && landlock === 0)
    return ["paths are granted, and this kernel has no Landlock, or something refuses it", LANDLOCK_REMEDY];
  // Who may read a file may empty it, until Landlock governs that, unless its mount is read-only.
  if (!root && landlock < RIGHTS["fs.truncate"].abi && !paths.every(isWritable))
    return [
      `paths are granted for reading, no mount namespace can be made${why}, and Landlock ABI ${landlock} lets who reads a file empty it: ABI 3 (Linux 6.2) is needed`,
      USER_REMEDY,
    ];
  // Without a root of its own, seccomp must hide the names of other files.
  return root || seccomp ? undefined : [`no mount namespace can be made${why}, and ${noSeccomp}`, USER_REMEDY];
}

/** Whether a path is granted for less than something that it lies in. */
function isNarrower({ path, permissions }: Unveiled, paths: readonly Unveiled[]): boolean {
  return paths.some(
    (outer) => path.startsWith(`${outer.path}/`) && [...outer.permissions].some((each) => !permissions.includes(each)),
  );
}

export const USER_REMEDY =
  "Allow user namespaces (sysctl user.max_user_namespaces=10000; on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0)";
export const PROC_REMEDY =
  "Start the container with --security-opt systempaths=unconfined (Docker), --security-opt unmask=ALL (Podman) or procMount: Unmasked (Kubernetes)";
export const MOUNT_REMEDY = "Use Linux 5.12 or later, and a container engine whose profile allows these calls";
/** What to do where namespaces can be made and no root in them: the kernel is too old, or something around Bun is in the way. */
export function rootRemedy({ namespaces, refusals }: Pick<Abilities, "namespaces" | "refusals">): string {
  if (refusals.root?.startsWith("ENOSYS")) return MOUNT_REMEDY;
  return (namespaces & CLONE.NEWNS) === 0n
    ? USER_REMEDY
    : "Start Bun where no profile of a container engine or of AppArmor refuses mount(2) and pivot_root(2)";
}
export const GROUP_REMEDY =
  "Start Bun with `systemd-run --user --scope -p Delegate=yes`, or have a group delegated to its user and named in CAISSON_CGROUP (docs/limits.md)";
const DISK_REMEDY =
  "Have a group of v2 with the io controller delegated (docs/limits.md); or, as root, let it have one process";
export const LANDLOCK_REMEDY = "Use Linux 5.13 or later and boot with landlock among the lsm= modules";
export const SECCOMP_REMEDY =
  "Use a kernel with CONFIG_SECCOMP_FILTER, or a container engine whose own profile allows seccomp(2)";
