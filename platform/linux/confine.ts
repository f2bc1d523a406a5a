/** A policy carried out: from a puppet to a confined Bun. */
import { readdirSync, readFileSync } from "node:fs";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { machine, self } from "../../syscalls/kernel.ts";
import {
  changeDirectory,
  closeRange,
  createMemoryFile,
  duplicate,
  fillForGood,
  open,
  setCloseOnExec,
  setUmask,
} from "../../syscalls/linux/file.ts";
import { unshare } from "../../syscalls/linux/namespace.ts";
import { listenerFlags } from "../../syscalls/linux/notify.ts";
import { CLONE, O, SECCOMP_FILTER_FLAG } from "../../syscalls/linux/numbers.ts";
import {
  createSession,
  execute,
  joinSessionKeyring,
  setHostname,
  setLimit,
  setNoNewPrivileges,
  setParentDeathSignal,
  takeDescriptor,
} from "../../syscalls/linux/process.ts";
import { setFilter } from "../../syscalls/linux/seccomp.ts";
import { resetSignals, signalProcess, unblockSignals } from "../../syscalls/linux/signal.ts";
import type { Confined, Policy, Program, SupervisedCall, Supervision } from "../platform.ts";
import { abilities, NAMESPACES, namespaceOf } from "./abilities.ts";
import { abilitiesFor, Bounds, reachThrough } from "./bounds.ts";
import { closingFilter, startingFilter } from "./filters.ts";
import { Batch, type Prepared, prepare } from "./frame.ts";
import { type Hearing, hearingOf } from "./hearing.ts";
import { mappedTree } from "./idmap.ts";
import { mapsFor } from "./ids.ts";
import { logged } from "./landlock.ts";
import type { Puppet } from "./launch.ts";
import { grantedForWriting, pathsOf } from "./paths.ts";
import { type Plan, planFor } from "./plan.ts";
import { PuppetKernel } from "./remote.ts";
import { runtime } from "./runtime.ts";
import { listening, refusing } from "./supervise/handover.ts";
import { superviseListener } from "./supervise/supervisor.ts";
import { countersOf, grouped, lasting, risen, rising } from "./usage.ts";
import { dropCapabilities, enterLandlock, enterRoot, setLimits, takeIds, withDirectory } from "./walls.ts";
import { answerOf, ended } from "./watch.ts";
import { type Birth, CHILDS_STRINGS, forkPuppet } from "./zygote.ts";

const SIGKILL = 9;
/** What an idle Bun is charged for, with room: measured 5 to 30 MiB, of which the most are pages of files that nobody had read before. */
const IDLE_RESIDENT = 48 * 2 ** 20;
/** The puppet's first number of what the host gives it, in this order; and the numbers that it has when the puppet is Bun: streams, lanes, input. */
const GIVEN = 100;
const INSIDE = [0, 1, 2, 3, 4, 6];
/**
 * The only environment there is, and the boot file deletes it. Address space that Bun would reserve and hardly use counts for RLIMIT_DATA,
 * and whoever runs inside could use it: 64 MiB of machine code and 64 MiB of object shapes are plenty, and what its allocator takes at a time, a
 * gigabyte where it can, is to be writable, which is when it counts, no sooner than it is needed.
 */
const SETTINGS = [
  "BUN_JSC_jitMemoryReservationSize=67108864",
  "BUN_JSC_structureHeapSizeInKB=65536",
  "MIMALLOC_ARENA_EAGER_COMMIT=0",
];
/** Threads count as processes. Bun starts some ten, and each Worker a few. */
const THREADS = 128;

/** Starts Bun inside the walls that `policy` asks for. */
export function confine(policy: Policy, program: Program, supervision?: Supervision): Confined {
  const hearing = hearingOf(supervision);
  try {
    return build(policy, program, { supervision, hearing });
  } catch (error) {
    void hearing?.end();
    throw error;
  }
}

function build(
  policy: Policy,
  program: Program,
  { supervision, hearing }: { readonly supervision: Supervision | undefined; readonly hearing: Hearing | undefined },
): Confined {
  const observed = supervision !== undefined;
  const { plan, wallsFor } = blueprintOf(policy, {
    observed,
    heard: hearing !== undefined,
    directory: program.directory,
  });
  // Bun reads the boot file from its standard input, which needs no path; the boot file then puts the true one in its place.
  using boot = openBoot(program.boot);
  const [input, output, error] = program.stdio;
  using trees = new DisposableStack();
  const mapped = plan.mapped.map((bind) => trees.use(mappedTree(bind)).number);
  const bounds = new Bounds({
    limits: policy.limits,
    own: IDLE_RESIDENT,
    paths: ["/", ...pathsOf(policy).map(({ source }) => source)],
    scattered: (plan.namespaces & CLONE.NEWPID) === 0n,
    reach: reachThrough(grantedForWriting(policy)),
  });
  const given = [boot.number, output, error, ...program.lanes, input, ...mapped];
  const placed = new Map(given.map((descriptor, index) => [GIVEN + index, descriptor]));
  const puppet = bounds.of((doors) => fork(plan, { placed, doors }));
  try {
    const used = rising(() => {
      const own = puppet.pidfd.closed ? undefined : countersOf(puppet.pid);
      return own === undefined ? undefined : grouped(own, bounds.counts());
    });
    bounds.hold(
      puppet.pid,
      () => kill(puppet),
      () => (puppet.pidfd.closed ? undefined : used()),
    );
    // In a PID namespace of its own it is the first process, otherwise it keeps the number that the host sees.
    const pid = (plan.namespaces & CLONE.NEWPID) === 0n ? puppet.pid : 1;
    const walls = wallsFor(pid);
    puppet.kernel.settle(); // what comes from here on, answerOf() takes
    puppet.kernel.post(walls.frame);
    hearing?.of(puppet.pid);
    const over = ended(puppet.pidfd).then(async (how) => {
      const counts = bounds.counts(); // of a group that over() removes
      const all = risen(used(), grouped(how, counts));
      return { ...how, ...all, memoryKib: 0, processes: 0, ...(await bounds.over(all)) };
    });
    const heard = over.then(() => hearing?.end());
    return {
      pid: puppet.pid,
      enforcement: plan.enforcement,
      closingFilter: walls.closingFilter,
      closingFlags: SECCOMP_FILTER_FLAG.TSYNC | SECCOMP_FILTER_FLAG.TSYNC_ESRCH | (observed ? listenerFlags() : 0),
      started: started(puppet, walls.frame),
      ended: over,
      usage: lasting(used),
      onMemoryWarning: (take) => bounds.onWarning(take),
      verify: () => verify(puppet.pid, plan, observed),
      async supervise(number) {
        const listener = listenerOf(puppet, number);
        if (listener === undefined) return;
        const audience = listening(policy, withoutHabits(supervision!), { for: "self", pid });
        await Promise.all([superviseListener(listener, refusing(policy, pid), audience).over, heard]);
      },
      kill: () => kill(puppet),
    };
  } catch (error) {
    kill(puppet);
    puppet.socket.close();
    void ended(puppet.pidfd).then(() => bounds.over());
    throw error;
  }
}

/** Forks a puppet into the namespaces of the plan. */
function fork(plan: Plan, where: Pick<Birth, "placed" | "doors">): Puppet {
  const { take, ...born } = forkPuppet({
    namespaces: plan.namespaces & ~(plan.sharedNetwork ? CLONE.NEWNET | CLONE.NEWCGROUP : CLONE.NEWCGROUP),
    sharedNetwork: plan.sharedNetwork,
    maps: (plan.namespaces & CLONE.NEWUSER) === 0n ? undefined : mapsFor(undefined),
    ...where,
  });
  const kernel = new PuppetKernel(born.socket.number);
  kernel.await(take);
  return { ...born, kernel };
}

/** Leaves out what Bun does without: what it looks up of itself now and then, and to shorten each file that it has written. */
function withoutHabits({ tell, ...rest }: Supervision): Supervision {
  if (tell === undefined) return rest;
  const isHabit = ({ call, pid, paths: [path] }: SupervisedCall) =>
    call === "ftruncate" || path === `/proc/${pid}/statm`;
  return { ...rest, tell: (call, exists) => (isHabit(call) ? undefined : tell(call, exists)) };
}

/** What one policy comes to. */
interface Blueprint {
  readonly plan: Plan;
  wallsFor(pid: number): { readonly frame: Prepared; readonly closingFilter: Uint8Array };
}

/** Blueprints of policies that grant no paths: those depend on nothing that changes. */
const blueprints = new Map<string, Blueprint>();
const MOST_BLUEPRINTS = 64;

/** What it takes beside the policy. */
interface Asked {
  readonly observed: boolean;
  readonly heard: boolean;
  readonly directory: string | undefined;
}

function blueprintOf(policy: Policy, asked: Asked): Blueprint {
  const grants = pathsOf(policy).length > 0;
  const key = JSON.stringify([policy, asked]);
  const known = blueprints.get(key);
  if (known !== undefined) return known;
  const plan = adapted(planFor(policy, abilitiesFor(grantedForWriting(policy)), runtime()), asked);
  const { observed } = asked;
  const walls = new Map<number, ReturnType<Blueprint["wallsFor"]>>();
  const blueprint: Blueprint = {
    plan,
    wallsFor(pid) {
      const built = walls.get(pid);
      if (built !== undefined) return built;
      const batch = new Batch();
      buildWalls(batch, plan, { policy, pid, observed });
      const made = {
        frame: prepare(batch, { strings: CHILDS_STRINGS }),
        closingFilter: plan.seccomp
          ? closingFilter(policy, machine(), { pid, ownRoot: plan.root !== undefined, observed })
          : new Uint8Array(0),
      };
      if (pid === 1) walls.set(pid, made);
      return made;
    },
  };
  if (blueprints.size === MOST_BLUEPRINTS) blueprints.clear();
  if (!grants) blueprints.set(key, blueprint);
  return blueprint;
}

function adapted(plan: Plan, { heard, directory }: Asked): Plan {
  const { landlock, root } = plan;
  return {
    ...plan,
    landlock: heard && landlock !== undefined ? logged(landlock, abilities().landlock) : landlock,
    root: directory !== undefined && root !== undefined ? withDirectory(root, directory) : root,
  };
}

/** Every wall, in an order in which each step can still be taken, and the last makes it another program. */
function buildWalls(
  puppet: Batch,
  plan: Plan,
  { policy, pid, observed }: { readonly policy: Policy; readonly pid: number; readonly observed: boolean },
): void {
  // Where Bun and the boot file find them. What the host mounted stays where it is.
  INSIDE.forEach((number, index) => {
    duplicate(puppet, GIVEN + index, number);
  });
  closeRange(puppet, GIVEN, GIVEN + INSIDE.length - 1);
  // It shows the group that the puppet has been put into as the top.
  if ((plan.namespaces & CLONE.NEWCGROUP) !== 0n) unshare(puppet, CLONE.NEWCGROUP);
  // What execve hands on: dispositions, the mask, the session and its terminal, the umask, the keyring.
  resetSignals(puppet);
  unblockSignals(puppet);
  createSession(puppet);
  setUmask(puppet, 0o022);
  // A kernel without keyrings, or an engine that refuses the call, leaves nothing to inherit or to use: the filters refuse it too.
  puppet.attempt(() => joinSessionKeyring(puppet));

  // Mounting needs the capabilities, and Landlock forbids it to those it confines.
  if (plan.root !== undefined) enterRoot(puppet, plan.root, plan.ids);
  else {
    takeIds(puppet, plan.ids);
    changeDirectory(puppet, "/proc/self"); // where Bun finds no configuration, and may look
  }
  if ((plan.namespaces & CLONE.NEWUTS) !== 0n) setHostname(puppet, "actor");
  setLimits(puppet, policy.limits, THREADS);
  dropCapabilities(puppet, plan.capable);
  setNoNewPrivileges(puppet);
  if (plan.landlock !== undefined) enterLandlock(puppet, plan.landlock);

  setLimit(puppet, "NOFILE", BigInt(policy.limits.files));
  setCloseOnExec(puppet, CHILDS_STRINGS);
  // Changing ids and capabilities clears it, so it stands behind them. A host that died before this line has closed
  // the lanes, and the boot file gets no code to run.
  setParentDeathSignal(puppet, SIGKILL);
  // Of an observed actor the closing filter hands over what it refuses. What this one refuses, nobody would be told of.
  if (plan.seccomp && !observed) setFilter(puppet, startingFilter(machine(), pid));
  execute(puppet, plan.program, ["bun", "-"], SETTINGS);
}

const boots = new Map<string, Descriptor>();

/** The boot file, in memory and sealed, one for all actors; opened anew for each, for an open file has one offset. */
function openBoot(text: string): Descriptor {
  let file = boots.get(text);
  if (file === undefined) {
    file = new Descriptor(createMemoryFile(self, "caisson-boot"));
    fillForGood(self, file.number, Buffer.from(text));
    boots.set(text, file);
  }
  return new Descriptor(open(self, `/proc/self/fd/${file.number}`, O.RDONLY | O.CLOEXEC));
}

/** Settles when the puppet has become Bun, which closes its strings, or rejects with what it answered instead; then it is ended. */
async function started(puppet: Puppet, frame: Prepared): Promise<void> {
  try {
    await answerOf(puppet.socket.take(), frame);
  } catch (error) {
    kill(puppet);
    throw error;
  }
}

function kill({ pidfd }: Puppet): void {
  if (!pidfd.closed) signalProcess(self, pidfd.number, SIGKILL);
}

/** Compares what the kernel says of every thread with what was planned. False where it ends, which takes what there is to say of it. */
function verify(pid: number, plan: Plan, observed: boolean): boolean {
  try {
    compare(pid, plan, observed);
    return true;
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

function compare(pid: number, plan: Plan, observed: boolean): void {
  for (const [name, bit] of Object.entries(NAMESPACES)) {
    if ((plan.namespaces & bit) === 0n) continue;
    if (namespaceOf(pid, name as keyof typeof NAMESPACES) === namespaceOf("self", name as keyof typeof NAMESPACES)) {
      throw new Error(`Cannot trust process ${pid}: it shares the ${name} namespace of the host`);
    }
  }
  const ours = Number(fieldsOf("self").get("Seccomp_filters") ?? 0);
  const expected = new Map([["NoNewPrivs", "1"]]);
  if (plan.seccomp) expected.set("Seccomp", "2").set("Seccomp_filters", `${ours + (observed ? 1 : 2)}`);
  for (const set of ["CapInh", "CapPrm", "CapEff", "CapAmb", ...(plan.capable ? ["CapBnd"] : [])])
    expected.set(set, "0000000000000000");
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const found = threadOf(pid, thread);
    if (found === undefined) continue;
    for (const [field, value] of expected) {
      // Seccomp_filters came with Linux 5.9.
      if ((found.get(field) ?? value) === value) continue;
      throw new Error(
        `Cannot trust process ${pid}: thread ${thread} has ${field} ${found.get(field)}, expected ${value}`,
      );
    }
  }
}

/** What the kernel says of a thread; nothing, if it is one that has ended meanwhile. */
function threadOf(pid: number, thread: string): Map<string, string> | undefined {
  try {
    return fieldsOf(`${pid}/task/${thread}`);
  } catch (error) {
    if (isGone(error) && thread !== `${pid}`) return undefined;
    throw error;
  }
}

/** The listener of an observed actor; nothing where it ends, and has nothing to be told of. */
function listenerOf({ pidfd }: Puppet, number: number): Descriptor | undefined {
  try {
    return new Descriptor(takeDescriptor(self, pidfd.number, number));
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

function isGone(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOENT" || code === "ESRCH";
}

function fieldsOf(process: string): Map<string, string> {
  const lines = readFileSync(`/proc/${process}/status`, "utf8").split("\n");
  return new Map(lines.map((line) => line.split(":\t", 2) as [string, string]));
}
