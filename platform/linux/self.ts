/** This very process, left with less on all of its threads, for good. */
import { statSync } from "node:fs";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { machine, self } from "../../syscalls/kernel.ts";
import { capget, capset, clearAmbient, dropBounding, lastCapability } from "../../syscalls/linux/capability.ts";
import { open } from "../../syscalls/linux/file.ts";
import { allowBeneath, allowPort, createRuleset, landlockErrata, restrictSelf } from "../../syscalls/linux/landlock.ts";
import { CAP, ERRNO, O, LANDLOCK_RESTRICT_SELF as RESTRICT } from "../../syscalls/linux/numbers.ts";
import { setNoNewPrivileges } from "../../syscalls/linux/process.ts";
import { hasFilters, setFilterOnAllThreads } from "../../syscalls/linux/seccomp.ts";
import {
  type Enforcement,
  type Guarantee,
  NotEnforced,
  PartlyConfined,
  type SelfPolicy,
  type Unveiled,
} from "../platform.ts";
import { planLandlock } from "./lacks.ts";
import { type Confinement, RESTRICT_SINCE, usableAbi } from "./landlock.ts";
import { LANDLOCK_REMEDY, SECCOMP_REMEDY } from "./plan.ts";
import { programOf } from "./program.ts";
import { narrowed, promiseFilter } from "./promises.ts";
import { LESS, remaining, UNGOVERNED } from "./remains.ts";
import { compile } from "./seccomp/compile.ts";
import type { Filter } from "./seccomp/filter.ts";
import { onEveryThread, reachEveryThread, statusOf, threads } from "./threads.ts";

/** What Bun opens by itself while it runs, whatever it may do: its own entries of /proc, and nowhere to write to. */
const NEEDED = [
  { path: "/proc/self", permissions: "r", directory: true },
  { path: "/dev/null", permissions: "rw", directory: false },
] as const;

/** What one confinement is made of. */
interface Plan {
  readonly landlock: Confinement;
  /** Whether the kernel confines all threads at once; else each confines itself. */
  readonly atOnce: boolean;
  readonly filters: readonly Uint8Array[];
  readonly enforcement: Enforcement;
  /** Whether this process can still read about its threads when all is in force. */
  readonly legible: boolean;
  /** Whether to open the root is refused by the plan, so that it tells. */
  readonly tells: boolean;
}

/** Throws NotEnforced for what this machine cannot keep; nothing has happened then. */
function planFor(policy: SelfPolicy): Plan {
  const abi = usableAbi();
  if (abi === 0) throw unkept("files", "this kernel has no Landlock, or something refuses it", LANDLOCK_REMEDY);
  if (!hasFilters())
    throw unkept("kernel", "this kernel takes no seccomp filters, or something refuses seccomp(2)", SECCOMP_REMEDY);
  refuseUngoverned(policy);
  const { promises } = policy;
  const atOnce = abi >= RESTRICT_SINCE.TSYNC;
  const paths = pathsOf(policy);
  const { lacks, ...landlock } = planLandlock(
    { paths, pid: process.pid, apart: !atOnce, ...(promises === undefined ? { net: {} } : {}) },
    { abi, errata: landlockErrata() },
  );
  // Of the network there is what was promised, and without promises no socket at all.
  const lacked = lacks.filter(({ guarantee }) => guarantee !== "network");
  for (const { guarantee, lacks: what, instead } of lacked)
    if (instead === undefined)
      throw unkept(guarantee, `Landlock has no ${what}`, "Grant the directory, for all that is done to files in it");
  const supplement: Filter = { machine: machine(), default: "allow", rules: lacked.flatMap(({ rules }) => rules) };
  const filters = [...(supplement.rules.length > 0 ? [supplement] : []), filterOf(policy)];
  const kept = `Landlock ABI ${abi}`;
  return {
    landlock: { ...landlock, flags: (landlock.flags ?? 0) | (atOnce ? RESTRICT.TSYNC : 0) },
    atOnce,
    filters: filters.map(compile),
    enforcement: {
      files: [kept, "seccomp"],
      network: ["seccomp", ...(landlock.handled.net === 0n ? [] : [kept])],
      processes: ["seccomp", ...(landlock.handled.scoped === 0n ? [] : [kept])],
      privileges: ["no_new_privs", "seccomp"],
      kernel: ["seccomp"],
      memory: [],
      cpu: [],
      time: [],
      disk: [],
    },
    legible: promises === undefined || promises.includes("rpath"),
    tells: !paths.some(({ path, permissions }) => path === "/" && permissions.includes("r")),
  };
}

const unkept = (guarantee: Guarantee, missing: string, remedy: string) =>
  new NotEnforced(guarantee, missing, remedy, { allowable: false });

/** Throws NotEnforced for what would change files that are not granted for it, and no wall of a running process tells from others. */
function refuseUngoverned({ paths, promises }: SelfPolicy): void {
  const changes = (["fattr", "chown"] as const).find((word) => promises?.includes(word));
  if (changes !== undefined && !given(paths, "/").includes("w"))
    throw unkept(
      "files",
      `Landlock does not govern what ${changes} promises, so it would reach every file`,
      "Leave the word out, or have a program in a sandbox do it",
    );
  const left = promises === undefined ? paths : narrowed(paths, promises);
  for (const { path } of paths) {
    // To write to a file is all that there is of it; what is created and removed is a directory's.
    const own = given(left, path).replace("w", "wc");
    const outer = left.find((each) => {
      const beneath = each.path !== path && covers(each.path, path);
      return beneath && [...given(left, each.path)].some((letter) => !own.includes(letter));
    });
    if (outer !== undefined)
      throw unkept(
        "files",
        `Landlock has no less for ${path} than for ${outer.path}, in which it is`,
        "Grant what lies beside it instead, path by path",
      );
  }
}

/** All that is granted, each path once, for all that it and those above it are granted for. */
function pathsOf({ paths, run, promises }: SelfPolicy): (Unveiled & { readonly directory: boolean })[] {
  const files = run.flatMap((name) => programOf(name).files);
  const granted = [...paths, ...files.map(({ source }) => ({ path: source, permissions: "rx" }))];
  const all = [...NEEDED, ...(promises === undefined ? granted : narrowed(granted, promises))];
  // Of a file in a directory where files may be created, the directory says it all, and more than a file can be granted for.
  const further = all.filter(({ path, permissions }) => {
    const outer = all.filter((each) => each.path !== path && covers(each.path, path) && each.permissions.includes("c"));
    return !outer.some((each) => [...permissions].every((letter) => each.permissions.includes(letter)));
  });
  return [...new Set(further.map(({ path }) => path))].map((path) => {
    const letters = all.filter((each) => covers(each.path, path)).flatMap(({ permissions }) => [...permissions]);
    // One that has nothing cannot ask, and may still be confined again.
    const directory = NEEDED.find((each) => each.path === path)?.directory ?? statSync(path).isDirectory();
    // What is created and removed is a directory's.
    const own = directory ? letters : letters.filter((letter) => letter !== "c" || given(all, path).includes("c"));
    return { path, permissions: [...new Set(own)].join(""), directory };
  });
}

const given = (all: readonly Unveiled[], path: string) =>
  all.flatMap((each) => (each.path === path ? [each.permissions] : [])).join("");
const covers = (directory: string, path: string) =>
  path === directory || `${path}/`.startsWith(`${directory === "/" ? "" : directory}/`);

/** Everything that is not allowed is refused by it. */
function filterOf({ promises, onBreak, paths, run }: SelfPolicy): Filter {
  const { pid } = process;
  const runs = run.length + paths.filter(({ permissions }) => permissions.includes("x")).length > 0;
  if (promises !== undefined) {
    const kept = promiseFilter(promises, { for: "self", pid, machine: machine(), onBreak });
    const others = kept.rules.filter(({ call }) => !UNGOVERNED.some((rule) => rule.call === call));
    return { ...kept, rules: [...UNGOVERNED, ...others, ...LESS] };
  }
  const writes = paths.some(({ permissions }) => /[wc]/.test(permissions));
  const rules = remaining({ pid, runs, writes, asks: run.length + paths.length > 0 });
  return { machine: machine(), default: { errno: "EPERM" }, rules };
}

/**
 * Leaves this process with what the policy grants. Descriptors that are open stay what they are. Throws NotEnforced, or what is wrong with the
 * policy, before anything has happened, and PartlyConfined behind.
 */
export function confineSelf(policy: SelfPolicy): Enforcement {
  const plan = planFor(policy);
  using ruleset = rulesetOf(plan.landlock);
  reachEveryThread();
  verifySame("Seccomp_filters");
  const inForce: string[] = [];
  const step = (what: string, act: () => void) => {
    try {
      act();
      inForce.push(what);
    } catch (error) {
      if (error instanceof PartlyConfined) throw new PartlyConfined([...inForce, ...error.inForce], error.cause);
      throw inForce.length === 0 ? error : new PartlyConfined(inForce, error);
    }
  };
  step("no_new_privs", setNoNewPrivs);
  step("Landlock", () => restrict(ruleset.number, plan));
  // Last, for a promise may be kept not even to open what tells of the threads.
  for (const filter of plan.filters) step("seccomp", () => setFilterOnAllThreads(self, filter));
  if (plan.legible) step("what was asked for", verifyFilters);
  return plan.enforcement;
}

function rulesetOf({ handled, rules, ports = [] }: Confinement): Descriptor {
  const ruleset = new Descriptor(createRuleset(self, handled));
  try {
    for (const { path, access } of rules) {
      using place = new Descriptor(open(self, path, O.PATH | O.CLOEXEC));
      allowBeneath(self, ruleset.number, place.number, access);
    }
    for (const { port, access } of ports) allowPort(self, ruleset.number, port, access);
    return ruleset;
  } catch (error) {
    ruleset.close();
    throw error;
  }
}

/** Has Landlock confine all threads, and each of them try a door. */
function restrict(ruleset: number, { atOnce, landlock: { flags }, tells }: Plan): void {
  if (atOnce) restrictSelf(self, ruleset, flags);
  else onEveryThread("Landlock", (kernel) => restrictSelf(kernel, ruleset, flags));
  if (!tells) return;
  onEveryThread(
    "Landlock",
    (batch) => batch.attempt(() => void open(batch, "/", O.RDONLY | O.DIRECTORY | O.CLOEXEC)),
    ([result], { id, name }) => {
      if (result === -ERRNO.EACCES) return;
      if (result! >= 0) self.call("close", result!);
      throw new Error(`thread ${id} (${name}) opens what is not granted: ${result}`);
    },
  );
}

/** Throws unless each thread has the same of each; a filter is put on all threads only where they have the same ones already. */
function verifySame(...fields: readonly string[]): Readonly<Record<string, string>> {
  const all = threads()
    .map(({ id }) => statusOf(id))
    .filter((status) => status !== undefined);
  for (const field of fields) {
    const values = [...new Set(all.map((status) => status[field]))];
    if (values.length > 1)
      throw new Error(`Cannot confine this process: its threads differ in ${field}: ${values.join(", ")}`);
  }
  return all[0]!; // there is always the one that asks
}

function verifyFilters(): void {
  const { NoNewPrivs, Seccomp } = verifySame("NoNewPrivs", "Seccomp", "Seccomp_filters");
  if (NoNewPrivs !== "1" || Seccomp !== "2")
    throw new Error(`the kernel says no_new_privs ${NoNewPrivs}, seccomp mode ${Seccomp}: 1 and 2 were expected`);
}

/** From here on no `execve` gives this process privileges, whichever thread makes it. */
export function setNoNewPrivs(): void {
  onEveryThread("no_new_privs", setNoNewPrivileges);
  expectOfThreads({ NoNewPrivs: "1" });
}

/**
 * Gives up the capabilities of every thread but these: permitted, effective, inheritable and ambient ones, and where it may, from the bounding set.
 * Throws a RangeError for one that this process does not have.
 */
export function dropCapabilities(keep: readonly string[]): void {
  const { effective, permitted } = capget(self);
  const kept = keep.reduce((bits, name) => bits | bitOf(name), 0n);
  const missing = keep.filter((name) => (permitted & bitOf(name)) === 0n);
  if (missing.length > 0)
    throw new RangeError(`Cannot keep capability ${missing.join(", ")}: this process does not have it`);
  const bounds = (effective & bitOf("setpcap")) !== 0n;
  onEveryThread("fewer capabilities", (kernel) => {
    clearAmbient(kernel);
    if (bounds)
      for (let each = 0; each <= lastCapability(); each++)
        if ((kept & (1n << BigInt(each))) === 0n) dropBounding(kernel, each);
    capset(kernel, { effective: kept, permitted: kept, inheritable: kept });
  });
  const set = kept.toString(16).padStart(16, "0");
  expectOfThreads({
    CapInh: set,
    CapPrm: set,
    CapEff: set,
    CapAmb: "0".repeat(16),
    ...(bounds ? { CapBnd: set } : {}),
  });
}

function bitOf(name: string): bigint {
  const number = Object.hasOwn(CAP, name.toUpperCase()) ? CAP[name.toUpperCase() as keyof typeof CAP] : undefined;
  if (number === undefined)
    throw new TypeError(
      `Cannot keep capability ${JSON.stringify(name)}: expected one of ${Object.keys(CAP).join(", ").toLowerCase()}`,
    );
  return 1n << BigInt(number);
}

/** Asks the kernel, of every thread. */
function expectOfThreads(expected: Readonly<Record<string, string>>): void {
  for (const { id, name } of threads()) {
    const status = statusOf(id);
    if (status === undefined) continue;
    for (const [field, value] of Object.entries(expected))
      if (status[field] !== value)
        throw new PartlyConfined(
          [`${field} ${value} on other threads`],
          new Error(`thread ${id} (${name}) has ${field} ${status[field]}, not ${value}`),
        );
  }
}
