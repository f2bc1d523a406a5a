/** A policy carried out around a program: from names of programs to the container that holds what they need, and no more. */
import { statSync } from "node:fs";
import type { Descriptor } from "../../syscalls/descriptor.ts";
import { machine, self } from "../../syscalls/kernel.ts";
import { CLONE, ERRNO, LANDLOCK_ACCESS_FS as FS, SIG } from "../../syscalls/linux/numbers.ts";
import { getLimit } from "../../syscalls/linux/process.ts";
import {
  type ContainerPlan,
  type Enforcement,
  type Guarantee,
  type Mount,
  NAMESPACES,
  type Namespace,
  NotEnforced,
  type Policy,
  type ProcessPlan,
  type Sandboxed,
  type SandboxMore,
  type Supervision,
  type Unveiled,
} from "../platform.ts";
import { type Abilities, abilities } from "./abilities.ts";
import { abilitiesFor, processesBeside } from "./bounds.ts";
import { contain, execute } from "./container.ts";
import { programFilter } from "./filters.ts";
import { type Hearing, hearingOf } from "./hearing.ts";
import { mapsFor } from "./ids.ts";
import { handledBy, logFlags, logged, type PathRule, PROC_ACCESS, PROGRAM_ACCESS, unveilAccess } from "./landlock.ts";
import { grantedForWriting, isWritable, opened, pathsOf } from "./paths.ts";
import { enforcementOf, type Plan, PROC_REMEDY, rootRemedy, sharedLacks, USER_REMEDY } from "./plan.ts";
import { programOf } from "./program.ts";
import { type Handover, handoverOf, listening, permits } from "./supervise/handover.ts";
import { type Audience, superviseListener, type Watch } from "./supervise/supervisor.ts";
import { cpuSeconds } from "./walls.ts";

/** What is planned for a program in a sandbox. */
export interface SandboxPlan {
  readonly container: ContainerPlan;
  readonly process: ProcessPlan;
  readonly landlock: Plan["landlock"];
  readonly enforcement: Enforcement;
  /** Whether the network is the empty one that sandboxes share. */
  readonly sharedNetwork: boolean;
  /** What its filter hands over to the host. */
  readonly handover: Handover | undefined;
}

/** Starts a program behind the walls that a policy asks for. */
export async function sandbox(policy: Policy, process: ProcessPlan, more: SandboxMore = {}): Promise<Sandboxed> {
  const hearing = hearingOf(more.supervision);
  try {
    return await start(policy, process, { ...more, hearing });
  } catch (error) {
    void hearing?.end();
    throw error;
  }
}

async function start(
  policy: Policy,
  process: ProcessPlan,
  { mounts = [], prepare, supervision, hearing }: SandboxMore & { readonly hearing: Hearing | undefined },
): Promise<Sandboxed> {
  const planned = planProgram(policy, process, { mounts, supervision });
  const { enforcement, container, handover, ...plan } = planned;
  const landlock = hearing && planned.landlock ? logged(planned.landlock, abilities().landlock) : planned.landlock;
  let watch: Watch | undefined;
  const supervise =
    handover === undefined
      ? undefined
      : (listener: Descriptor, pid: number) => {
          watch = superviseListener(listener, handover.orders, audienceOf(policy, supervision ?? {}));
          hearing?.of(pid);
        };
  const told = async () => {
    await Promise.all([watch?.over, hearing?.end()]);
  };
  if (prepare === undefined) {
    const { sharedNetwork } = plan;
    const running = await execute(container, plan.process, { landlock, sharedNetwork, sandboxed: true, supervise });
    return Object.assign(running, { enforcement, told });
  }
  const hand = await contain(container);
  try {
    const env = { ...plan.process.env, ...(await prepare(hand)) };
    const running = await hand.execute({ ...plan.process, env }, { landlock, supervise });
    const end = async () => {
      const { code, signal } = await running.ended;
      hand.kill();
      const { code: _code, signal: _signal, ...all } = await hand.ended;
      return { ...all, ...(code === undefined ? {} : { code }), ...(signal === undefined ? {} : { signal }) };
    };
    const signal = (number: number, to?: "group") => (number === SIG.KILL ? hand.kill() : running.signal(number, to));
    const more = { kill: () => hand.kill(), usage: () => hand.usage(), ended: end(), signal };
    return { ...running, ...more, enforcement, told };
  } catch (error) {
    hand.kill();
    await hand.ended;
    throw error;
  }
}

/** Who is told; and answers that go no further than the walls do. */
function audienceOf(policy: Policy, supervision: Supervision): Audience {
  return {
    ...listening(policy, supervision, { for: "program" }),
    async answer(call) {
      const given = await supervision.answer!(call);
      return given === "pass" && !permits(policy, machine(), call) ? { errno: ERRNO.EPERM } : given;
    },
  };
}

/** What will be built for a program. Throws NotEnforced, and NotRunnable where a program cannot be found. */
export function planProgram(
  policy: Policy,
  process: ProcessPlan,
  { mounts, supervision }: { readonly mounts: readonly Mount[]; readonly supervision?: Supervision | undefined },
  able: Abilities = abilitiesFor([
    ...grantedForWriting(policy),
    ...mounts.flatMap((each) => (each.kind === "bind" && each.write ? [each] : [])),
  ]),
): SandboxPlan {
  const enforcement = programEnforcement(policy, able);
  const mapped = (able.namespaces & CLONE.NEWUSER) !== 0n;
  const idmap = able.root && mapped ? ("auto" as const) : undefined;
  const needed = policy.run.map((name) => programOf(name));
  const files = new Map(needed.flatMap(({ files }) => files).map((file) => [file.target, file.source]));
  const lent: Of<"bind">[] = [...files].map(([target, source]) =>
    bind({ source, target, execute: true, idmap: undefined }),
  );
  /** For root that is nobody inside, files of root's are the inner user's. */
  const owned = (each: Mount): Mount =>
    (each.kind === "bind" || each.kind === "overlay") && each.idmap === "auto" ? { ...each, idmap } : each;
  // A library may be granted that some program needs anyway, by another of its names.
  const paths = pathsOf(policy).filter(({ path, source }) => path === source || !files.has(path));
  const granted = paths.map((each) =>
    bind({
      source: each.source,
      target: each.path,
      write: isWritable(each),
      execute: each.permissions.includes("x"),
      idmap,
    }),
  );
  // What lies deeper is mounted later, so that it is not covered.
  const binds = [...granted, ...lent].toSorted((a, b) => a.target.length - b.target.length);
  // Nor by what was asked for beside it, such as a /tmp.
  const further = mounts.map(owned);
  const beneath = ({ kind, target }: Mount) =>
    (kind === "tmpfs" || kind === "overlay" || kind === "bind") &&
    binds.some((each) => each.target.startsWith(`${target}/`));
  const own: Mount[] = [
    able.proc === "mount"
      ? { kind: "proc", target: "/proc", content: "processes" }
      : bind({ source: "/proc", target: "/proc", idmap: undefined }),
    { kind: "dev", target: "/dev", shared: false },
  ];
  const maps = mapsFor(undefined);
  // Without a filter it could make sockets, and meet other sandboxes there.
  const networked = policy.net.length > 0 || supervision?.sockets === true;
  const sharedNetwork = mapped && able.seccomp && !networked;
  const left: readonly Namespace[] = [
    "time",
    ...(mapped ? [] : ["user" as const]),
    ...(sharedNetwork ? ["network" as const] : []),
  ];
  const container: ContainerPlan = {
    namespaces: NAMESPACES.filter((name) => !left.includes(name)),
    root: {
      mounts: [...further.filter(beneath), ...binds, ...own, ...further.filter((each) => !beneath(each))],
      readonly: true,
    },
    user: maps.uids[0]!.inside,
    group: maps.gids[0]!.inside,
    groups: undefined,
    maps: mapped ? maps : undefined,
    hostname: "sandbox",
    domainname: undefined,
    loopback: networked,
    clocks: undefined,
    join: [],
    limits: policy.limits,
  };
  const { limits } = policy;
  const program = typeof process.program === "number" ? process.program : needed[0]!.program;
  // Without rpath it starts all the same, and without exec too: somebody has to lend it what it needs for that.
  const supervised = supervision ?? (policy.promises === undefined ? undefined : {});
  // Supervised, it sends by a number that none of its own descriptors can have: there has to be one.
  const descriptors =
    supervised === undefined ? limits.files : Math.min(limits.files, Number(getLimit(self, "NOFILE").hard) - 1);
  const handover =
    supervised === undefined
      ? undefined
      : handoverOf(policy, supervised, {
          machine: machine(),
          lent: [...files.values()],
          strings: descriptors,
          begins: typeof program === "number" ? "execveat" : "execve",
        });
  const filters = able.seccomp && handover === undefined ? [programFilter(policy, machine())] : [];
  return {
    container,
    process: {
      ...process,
      program,
      capabilities: 0n,
      noNewPrivileges: true,
      filters: [...process.filters, ...filters],
      supervised: handover?.filter,
      keys: false,
      limits: {
        CORE: 0n,
        DATA: BigInt(limits.memory),
        STACK: 8n * 2n ** 20n,
        FSIZE: BigInt(limits.fileSize),
        NPROC: BigInt(
          limits.processes + processesBeside({ counted: able.groups?.pids !== undefined, hand: process.init }),
        ),
        NOFILE: BigInt(descriptors),
        MEMLOCK: 0n,
        MSGQUEUE: 0n,
        SIGPENDING: 256n,
        ...(limits.cpuTime === undefined ? {} : { CPU: cpuSeconds(limits.cpuTime) }),
      },
    },
    landlock: able.landlock === 0 ? undefined : landlockFor(able, { lent, paths, mounts, promises: policy.promises }),
    enforcement,
    sharedNetwork,
    handover,
  };
}

type Of<Kind extends Mount["kind"]> = Extract<Mount, { kind: Kind }>;

function bind(given: Pick<Of<"bind">, "source" | "target" | "idmap"> & Partial<Of<"bind">>): Of<"bind"> {
  const directory = statSync(given.source).isDirectory();
  return { kind: "bind", directory, write: false, execute: false, devices: false, recursive: true, ...given };
}

/** What may be done with what was asked for beside the policy. */
function lettersOf(mount: Mount): string {
  switch (mount.kind) {
    case "bind":
      return `r${mount.write ? "wc" : ""}${mount.execute ? "x" : ""}`;
    case "tmpfs":
    case "overlay":
      return "rwcx";
    case "file":
      return "r";
    default:
      return "";
  }
}

/** Not /dev/zero: mapped by who may write to it, it is memory that processes share, and that counts for none of them. */
const WRITTEN = ["null", "full", "random", "urandom", "tty", "pts"];

/** Landlock's rules: a second wall behind the mounts, and for promises the one that tells files apart. */
function landlockFor(
  { landlock: abi, errata, proc }: Abilities,
  {
    lent,
    paths,
    mounts,
    promises,
  }: {
    readonly lent: readonly Of<"bind">[];
    readonly paths: readonly Unveiled[];
    readonly mounts: readonly Mount[];
    readonly promises: Policy["promises"];
  },
): Plan["landlock"] {
  const handled = handledBy(abi, errata);
  const rule = (path: string, access: bigint): PathRule => ({ path, access: access & handled.fs });
  const directories = new Set(mounts.filter(isDirectory).map(({ target }) => target));
  const asked = mounts.map((each) => ({ path: each.target, permissions: lettersOf(each) }));
  const visible = [...paths, ...asked].filter(({ permissions }) => permissions !== "");
  const left = opened(visible, promises).filter(({ path }) => isThere(path, visible));
  const grant = ({ path, permissions }: Unveiled) =>
    rule(path, unveilAccess(permissions, directories.has(path) || isHostDirectory(path), handled) & ~FS.RESOLVE_UNIX);
  // Inside a network namespace of its own, there is nothing to reach but what the host put there.
  return {
    handled: { ...handled, net: 0n },
    rules: [
      ...lent.map(({ target }) => rule(target, PROGRAM_ACCESS)),
      ...left.map(grant),
      // The host's would show everyone, by the names of its directories too: the program sees itself alone there, its children nothing.
      rule(proc === "mount" ? "/proc" : "/proc/self", PROC_ACCESS | FS.WRITE_FILE),
      rule("/dev", FS.READ_FILE | FS.READ_DIR | FS.IOCTL_DEV),
      ...WRITTEN.map((name) => rule(`/dev/${name}`, FS.WRITE_FILE | FS.TRUNCATE)),
      ...(proc === "mount" ? [rule("/", FS.READ_DIR)] : []),
    ],
    flags: logFlags(abi, false),
  };
}

const isDirectory = (mount: Mount) => (mount.kind === "bind" ? mount.directory : mount.kind !== "file");
const isHostDirectory = (path: string) => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
/** A file that promises name beneath a granted directory may be on this host, or not. */
const isThere = (path: string, visible: readonly Unveiled[]) =>
  visible.some((each) => each.path === path) || statSync(path, { throwIfNoEntry: false }) !== undefined;

/** What no policy of a program goes without. */
const ALWAYS = { allowable: false } as const;

/** Which mechanisms keep each guarantee for a program and all that it starts. */
function programEnforcement(policy: Policy, able: Abilities): Enforcement {
  const enforcement = enforcementOf(policy, able);
  const need = (guarantee: "files" | "processes" | "network", bit: bigint, what: string) => {
    if ((able.namespaces & bit) !== 0n) return;
    throw new NotEnforced(
      guarantee,
      `a program needs ${what}, and ${able.refusals.user ?? "none can be made"}`,
      USER_REMEDY,
      ALWAYS,
    );
  };
  // Any program may be run, so its files, its children and what it can reach are a namespace's to bound, and no policy goes without.
  need("files", CLONE.NEWNS, "a mount namespace");
  need("processes", CLONE.NEWPID, "a PID namespace");
  need("network", CLONE.NEWNET, "a network namespace");
  if (able.proc === undefined)
    throw new NotEnforced("files", `no root can be built: ${able.refusals.root}`, rootRemedy(able), ALWAYS);
  if (able.proc === "bind" && able.landlock === 0)
    throw new NotEnforced(
      "processes",
      `no proc can be mounted, for parts of this one are covered (${able.refusals.proc}), and without Landlock that of the host would show everyone`,
      PROC_REMEDY,
      ALWAYS,
    );
  for (const [guarantee, lack] of Object.entries(sharedLacks(policy.limits, able)) as [Guarantee, [string, string]][])
    if (!policy.allowUnenforced.includes(guarantee)) throw new NotEnforced(guarantee, ...lack);
  const { memory } = able.groups ?? {};
  return {
    ...enforcement,
    network:
      policy.net.length > 0
        ? ["network namespace", "proxy of the host", ...(able.seccomp ? ["seccomp"] : [])]
        : enforcement.network,
    time: enforcement.time.flatMap((each) =>
      each === "RLIMIT_CPU" ? ["watch over all processes", "RLIMIT_CPU of each process"] : [each],
    ),
    memory: [memory === undefined ? "watch over all processes" : `${memory}: memory`, "RLIMIT_DATA of each process"],
  };
}
