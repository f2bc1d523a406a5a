/** A policy carried out around a program: from names of programs to the container that holds what they need, and no more. */
import { statSync } from "node:fs";
import { machine } from "../../syscalls/kernel.ts";
import { CLONE, LANDLOCK_ACCESS_FS as FS, SIG } from "../../syscalls/linux/numbers.ts";
import {
  type ContainerPlan,
  type Enforcement,
  type Mount,
  NAMESPACES,
  type Namespace,
  NotEnforced,
  type Policy,
  type ProcessPlan,
  type Sandboxed,
  type SandboxMore,
} from "../platform.ts";
import { type Abilities, abilities } from "./abilities.ts";
import { contain, execute } from "./container.ts";
import { programFilter } from "./filters.ts";
import { mapsFor } from "./ids.ts";
import { accessTo, handledBy, type PathRule, PROC_ACCESS, PROGRAM_ACCESS } from "./landlock.ts";
import { enforcementOf, type Plan, PROC_REMEDY, rootRemedy, USER_REMEDY } from "./plan.ts";
import { programOf } from "./program.ts";

/** What is planned for a program in a sandbox. */
export interface SandboxPlan {
  readonly container: ContainerPlan;
  readonly process: ProcessPlan;
  readonly landlock: Plan["landlock"];
  readonly enforcement: Enforcement;
  /** Whether the network is the empty one that sandboxes share. */
  readonly sharedNetwork: boolean;
}

/** Starts a program behind the walls that a policy asks for. */
export async function sandbox(
  policy: Policy,
  process: ProcessPlan,
  { mounts = [], prepare }: SandboxMore = {},
): Promise<Sandboxed> {
  const { enforcement, container, landlock, ...plan } = planProgram(policy, process, mounts);
  if (prepare === undefined) {
    const running = await execute(container, plan.process, { landlock, sharedNetwork: plan.sharedNetwork });
    return Object.assign(running, { enforcement });
  }
  const hand = await contain(container);
  try {
    const env = { ...plan.process.env, ...(await prepare(hand)) };
    const running = await hand.execute({ ...plan.process, env }, landlock);
    const end = async () => {
      const how = await running.ended;
      hand.kill();
      await hand.ended;
      return how;
    };
    const signal = (number: number, to?: "group") => (number === SIG.KILL ? hand.kill() : running.signal(number, to));
    return { ...running, kill: () => hand.kill(), ended: end(), signal, enforcement };
  } catch (error) {
    hand.kill();
    await hand.ended;
    throw error;
  }
}

/** What will be built for a program. Throws NotEnforced, and NotRunnable where a program cannot be found. */
export function planProgram(
  policy: Policy,
  process: ProcessPlan,
  mounts: readonly Mount[],
  able: Abilities = abilities(),
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
  const written = new Set(policy.write);
  const granted = [
    ...policy.read.filter((path) => !written.has(path)).map((path) => bind({ source: path, target: path, idmap })),
    ...policy.write.map((path) => bind({ source: path, target: path, write: true, idmap })),
  ];
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
  const sharedNetwork = mapped && able.seccomp && policy.net.length === 0;
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
    loopback: policy.net.length > 0,
    clocks: undefined,
    join: [],
  };
  const { limits } = policy;
  const program = typeof process.program === "number" ? process.program : needed[0]!.program;
  return {
    container,
    process: {
      ...process,
      program,
      capabilities: 0n,
      noNewPrivileges: true,
      filters: able.seccomp ? [...process.filters, programFilter(policy, machine())] : process.filters,
      limits: {
        CORE: 0n,
        DATA: BigInt(limits.memory),
        STACK: 8n * 2n ** 20n,
        FSIZE: BigInt(limits.fileSize),
        NPROC: BigInt(limits.processes),
        NOFILE: BigInt(limits.files),
        MEMLOCK: 0n,
        MSGQUEUE: 0n,
        SIGPENDING: 256n,
        ...(limits.cpuTime === undefined ? {} : { CPU: BigInt(Math.ceil(limits.cpuTime)) }),
      },
    },
    landlock: able.landlock === 0 ? undefined : landlockFor(able, lent, granted, mounts),
    enforcement,
    sharedNetwork,
  };
}

type Of<Kind extends Mount["kind"]> = Extract<Mount, { kind: Kind }>;

function bind(given: Pick<Of<"bind">, "source" | "target" | "idmap"> & Partial<Of<"bind">>): Of<"bind"> {
  const directory = statSync(given.source).isDirectory();
  return { kind: "bind", directory, write: false, execute: false, devices: false, recursive: true, ...given };
}

/** Landlock's rules: a second wall behind the mounts. */
function landlockFor(
  { landlock: abi, proc }: Abilities,
  lent: readonly Of<"bind">[],
  granted: readonly Of<"bind">[],
  mounts: readonly Mount[],
): Plan["landlock"] {
  const handled = handledBy(abi);
  const rule = (path: string, access: bigint): PathRule => ({ path, access: access & handled.fs });
  const made = FS.MAKE_FIFO | FS.MAKE_SOCK | FS.MAKE_SYM;
  const grant = ({ target, directory, write, execute }: Of<"bind">) =>
    rule(
      target,
      accessTo({ writable: write, directory }, handled) |
        (write && directory ? made : 0n) |
        (execute ? FS.EXECUTE : 0n),
    );
  const further = mounts.flatMap((each): PathRule[] => {
    if (each.kind === "bind") return [grant(each)];
    if (each.kind === "tmpfs" || each.kind === "overlay")
      return [rule(each.target, accessTo({ writable: true, directory: true }, handled) | made | FS.EXECUTE)];
    if (each.kind === "file") return [rule(each.target, accessTo({ writable: false, directory: false }, handled))];
    return [];
  });
  const all = handled.fs & (FS.READ_FILE | FS.WRITE_FILE | FS.READ_DIR | FS.TRUNCATE | FS.IOCTL_DEV);
  // Inside a network namespace of its own, there is nothing to reach but what the host put there.
  return {
    handled: { ...handled, net: 0n },
    rules: [
      ...lent.map(({ target }) => rule(target, PROGRAM_ACCESS)),
      ...granted.map(grant),
      ...further,
      // The host's would show everyone, by the names of its directories too: the program sees itself alone there, its children nothing.
      rule(proc === "mount" ? "/proc" : "/proc/self", PROC_ACCESS | FS.WRITE_FILE),
      rule("/dev", all),
      ...(proc === "mount" ? [rule("/", FS.READ_DIR)] : []),
    ],
  };
}

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
  return {
    ...enforcement,
    network:
      policy.net.length > 0
        ? ["network namespace", "proxy of the host", ...(able.seccomp ? ["seccomp"] : [])]
        : enforcement.network,
    memory: ["RLIMIT_DATA of each process"],
  };
}
