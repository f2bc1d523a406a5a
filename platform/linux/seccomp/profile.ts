/** Seccomp profiles as JSON, the OCI runtime specification's and what Docker and Podman add: their words, and how they are read. */
import { CAP, ERRNO, type Machine, NUMBERS, SECCOMP_RET, type SyscallName } from "../../../syscalls/linux/numbers.ts";
import { type Action, type Arg, type ErrnoName, resultOf, type Test } from "./filter.ts";
import { FOREIGN } from "./foreign.ts";

/** What a profile may depend on. */
export interface Container {
  readonly machine: Machine;
  /** The capabilities that a program under the filter can have, such as `"CAP_SYS_ADMIN"`. None where it is left out. */
  readonly capabilities?: readonly string[];
  /** The kernel's version, `"6.12"`, for profiles that ask for one. */
  readonly kernel?: string;
}

/** `linux.seccomp` of a container's config.json. */
export interface OciSeccomp {
  readonly defaultAction: OciAction;
  readonly defaultErrnoRet?: number;
  readonly architectures: readonly string[];
  readonly syscalls: readonly OciSyscall[];
}

export interface OciSyscall {
  readonly names: readonly string[];
  readonly action: OciAction;
  readonly errnoRet?: number;
  readonly args?: readonly OciArg[];
}

export interface OciArg {
  readonly index: Arg;
  /** Of `SCMP_CMP_MASKED_EQ` the mask. */
  readonly value: OciWord;
  /** Of `SCMP_CMP_MASKED_EQ` the value. */
  readonly valueTwo?: OciWord;
  readonly op: keyof typeof OPERATORS;
}

/** What a number cannot hold is a `JSON.rawJSON`, which `JSON.stringify` writes digit by digit. */
export type OciWord = number | { readonly rawJSON: string };

export type OciAction = keyof typeof ACTIONS;

/** Two of them come with a number, which is EPERM where it is left out. `SCMP_ACT_KILL` is the older word for the thread's. */
const ACTIONS = {
  SCMP_ACT_ALLOW: "allow",
  SCMP_ACT_LOG: "log",
  SCMP_ACT_NOTIFY: "notify",
  SCMP_ACT_TRACE: "trace",
  SCMP_ACT_ERRNO: "errno",
  SCMP_ACT_TRAP: "trap",
  SCMP_ACT_KILL_THREAD: "kill-thread",
  SCMP_ACT_KILL_PROCESS: "kill-process",
  SCMP_ACT_KILL: "kill-thread",
} as const;

export const OPERATORS = {
  SCMP_CMP_EQ: "eq",
  SCMP_CMP_NE: "ne",
  SCMP_CMP_LT: "lt",
  SCMP_CMP_LE: "le",
  SCMP_CMP_GT: "gt",
  SCMP_CMP_GE: "ge",
  SCMP_CMP_MASKED_EQ: "masked",
} as const;

/** A machine in libseccomp's words, and in those of `includes` and `excludes`. */
export const MACHINES = {
  x64: { architecture: "SCMP_ARCH_X86_64", arch: "amd64" },
  arm64: { architecture: "SCMP_ARCH_AARCH64", arch: "arm64" },
} as const;

/** What a profile says about one machine and container. */
export interface Profile {
  readonly default: Action;
  readonly entries: readonly Entry[];
}

/** An entry of `syscalls` that applies. */
export interface Entry {
  /** Where it stands: `"syscalls[3]"`. */
  readonly where: string;
  readonly calls: readonly SyscallName[];
  readonly action: Action;
  /** Lists of which one must hold, and all of its tests. None: whatever the arguments. */
  readonly alternatives: readonly (readonly Test<bigint>[])[];
}

type Fields = Readonly<Record<string, unknown>>;

const KEYS = ["defaultAction", "defaultErrnoRet", "defaultErrno", "architectures", "archMap", "syscalls"];
const ELSEWHERE = ["flags", "listenerPath", "listenerMetadata"];
const ENTRY_KEYS = ["name", "names", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes"];

/** Throws TypeError or RangeError for what is wrong, or not a filter's to keep, with the place where it stands. */
export function profileOf(given: unknown, container: Container): Profile {
  checkContainer(container);
  const profile = fields(typeof given === "string" ? parsed(given) : given, "the profile", [...KEYS, ...ELSEWHERE]);
  for (const key of ELSEWHERE.filter((key) => key in profile)) {
    if (key === "flags" && list(profile.flags, key).length === 0) continue;
    refuse(key, profile[key], "nothing: who installs the filter says that");
  }
  checkArchitectures(profile, container.machine);
  const otherwise = actionOf(profile, { where: "", keys: ["defaultAction", "defaultErrnoRet", "defaultErrno"] });
  const entries = list("syscalls" in profile ? profile.syscalls : [], "syscalls").flatMap((entry, at) =>
    entryOf(fields(entry, `syscalls[${at}]`, ENTRY_KEYS), { where: `syscalls[${at}]`, container, otherwise }),
  );
  return { default: otherwise, entries };
}

/** Numbers that JavaScript's would round stay whole, as bigints. */
function parsed(text: string): unknown {
  return JSON.parse(text, (_, value, { source }: { source?: string } = {}) => {
    const long = typeof value === "number" && !Number.isSafeInteger(value) && /^\d+$/.test(source ?? "");
    return long ? BigInt(source!) : value;
  });
}

function checkContainer({ machine, capabilities = [], kernel }: Container): void {
  if (!Object.hasOwn(MACHINES, machine)) throw new TypeError(`Cannot import for ${machine}: expected x64 or arm64`);
  capabilities.forEach((one, at) => void capability(one, `the option capabilities[${at}]`));
  if (kernel !== undefined && !VERSION.test(kernel)) refuse("the option kernel", kernel, 'a version such as "6.12"');
}

function checkArchitectures(profile: Fields, machine: Machine): void {
  if ("architectures" in profile && "archMap" in profile) {
    throw new TypeError("Cannot import architectures: archMap stands beside it, expected one of them");
  }
  const named =
    "archMap" in profile
      ? list(profile.archMap, "archMap").map((one, at) => mapped(one, `archMap[${at}]`))
      : list(profile.architectures ?? [], "architectures").map((one, at) => text(one, `architectures[${at}]`));
  const { architecture } = MACHINES[machine];
  if (named.length === 0 || named.includes(architecture) || named.includes("SCMP_ARCH_NATIVE")) return;
  refuse("archMap" in profile ? "archMap" : "architectures", named, `${architecture} among them`);
}

function mapped(given: unknown, where: string): string {
  const { architecture, subArchitectures } = fields(given, where, ["architecture", "subArchitectures"]);
  // Docker writes null for none.
  list(subArchitectures ?? [], `${where}.subArchitectures`).map((one, at) =>
    text(one, `${where}.subArchitectures[${at}]`),
  );
  return text(architecture, `${where}.architecture`);
}

interface Place {
  readonly where: string;
  readonly container: Container;
  readonly otherwise: Action;
}

function entryOf(entry: Fields, { where, container, otherwise }: Place): Entry[] {
  const action = actionOf(entry, { where: `${where}.`, keys: ["action", "errnoRet", "errno"] });
  const calls = namesOf(entry, where).filter((name, at) => {
    if (Object.values(NUMBERS).some((numbers) => Object.hasOwn(numbers, name))) return true;
    if (FOREIGN.has(name) || rank(otherwise) <= rank(action)) return false;
    // Left out, it would be done by default, which is more than the entry wants.
    return refuse(`${where}.names[${at}]`, name, "a call that Linux has on some machine");
  }) as SyscallName[]; // for they are keys of NUMBERS
  const alternatives = alternativesOf(list(entry.args ?? [], `${where}.args`), `${where}.args`);
  if ("comment" in entry) text(entry.comment, `${where}.comment`);
  const includes = conditionsOf(entry.includes, `${where}.includes`, container);
  const excludes = conditionsOf(entry.excludes, `${where}.excludes`, container);
  const applies = includes.every((holds) => holds) && !excludes.some((holds) => holds);
  return applies ? [{ where, calls, action, alternatives }] : [];
}

function namesOf(entry: Fields, where: string): readonly string[] {
  if ("name" in entry && "names" in entry) {
    throw new TypeError(`Cannot import ${where}.name: names stands beside it, expected one of them`);
  }
  if ("name" in entry) return [text(entry.name, `${where}.name`)];
  const names = list(entry.names, `${where}.names`).map((one, at) => text(one, `${where}.names[${at}]`));
  return names.length > 0 ? names : refuse(`${where}.names`, names, "at least one name");
}

/** In the kernel's order: of two filters that differ, the one with the smaller counts. */
const RANKS = [
  ...[SECCOMP_RET.KILL_PROCESS, SECCOMP_RET.KILL_THREAD, SECCOMP_RET.TRAP, SECCOMP_RET.ERRNO, SECCOMP_RET.USER_NOTIF],
  ...[SECCOMP_RET.TRACE, SECCOMP_RET.LOG, SECCOMP_RET.ALLOW],
] as readonly number[];

const rank = (action: Action) => RANKS.indexOf((resultOf(action) & SECCOMP_RET.ACTION_FULL) >>> 0);

interface Keys {
  readonly where: string;
  /** Of the action, of its number, and of the number's name. */
  readonly keys: readonly [action: string, number: string, name: string];
}

function actionOf(given: Fields, { where, keys: [key, number, name] }: Keys): Action {
  const action = oneOf(ACTIONS, given[key], where + key);
  if (action === "errno" || action === "trace") {
    const most = action === "errno" ? 4095 : SECCOMP_RET.DATA;
    const data = number in given ? within(given[number], most, where + number) : undefined;
    const named = name in given ? within(errnoOf(given[name], where + name), most, where + name) : undefined;
    if (data !== undefined && named !== undefined && data !== named)
      refuse(where + name, given[name], `${data} as well`);
    const answer = named ?? data ?? ERRNO.EPERM;
    return action === "errno" ? { errno: answer } : { trace: answer };
  }
  const strange = [number, name].find((key) => key in given);
  if (strange !== undefined) refuse(where + strange, given[strange], `nothing: ${given[key]} has no number`);
  return action;
}

/** Podman has a name, or a number as text. */
function errnoOf(given: unknown, where: string): number {
  const name = text(given, where);
  if (/^\d+$/.test(name)) return Number(name);
  return Object.hasOwn(ERRNO, name) ? ERRNO[name as ErrnoName] : refuse(where, given, "a name such as EPERM");
}

/** Which of the things that are asked for there are. */
function conditionsOf(given: unknown, where: string, { machine, capabilities = [], kernel }: Container): boolean[] {
  if (given === undefined) return [];
  const wanted = fields(given, where, ["arches", "caps", "minKernel"]);
  const some = (key: "arches" | "caps") => {
    const all = key in wanted ? list(wanted[key], `${where}.${key}`) : undefined;
    return all?.length === 0 ? refuse(`${where}.${key}`, all, "at least one, or no list") : (all ?? []);
  };
  const arches = some("arches").map((one, at) => text(one, `${where}.arches[${at}]`));
  const caps = some("caps").map((one, at) => capability(one, `${where}.caps[${at}]`));
  return [
    ...(arches.length > 0 ? [arches.includes(MACHINES[machine].arch)] : []),
    ...caps.map((name) => capabilities.includes(name)),
    ...("minKernel" in wanted
      ? [reached(text(wanted.minKernel, `${where}.minKernel`), `${where}.minKernel`, kernel)]
      : []),
  ];
}

function capability(given: unknown, where: string): string {
  const name = text(given, where);
  if (name.startsWith("CAP_") && Object.hasOwn(CAP, name.slice(4))) return name;
  return refuse(where, given, "a capability such as CAP_SYS_ADMIN");
}

const VERSION = /^(\d+)\.(\d+)/;

function reached(least: string, where: string, kernel: string | undefined): boolean {
  if (kernel === undefined) refuse(where, least, "the option kernel, to compare with");
  const [wanted, given] = [least, kernel].map((version) => VERSION.exec(version)?.slice(1).map(Number));
  if (wanted === undefined) return refuse(where, least, 'a version such as "6.12"');
  return (given![0]! - wanted[0]! || given![1]! - wanted[1]!) >= 0;
}

/** runc and crun make a rule of each test where two are about one argument, for libseccomp does not take those in one. */
function alternativesOf(args: readonly unknown[], where: string): Test<bigint>[][] {
  const tests = args.map((arg, at) =>
    testOf(fields(arg, `${where}[${at}]`, ["index", "value", "valueTwo", "op"]), `${where}[${at}]`),
  );
  if (tests.length === 0) return [];
  const distinct = new Set(tests.map(({ arg }) => arg)).size === tests.length;
  return distinct ? [tests] : tests.map((test) => [test]);
}

function testOf(given: Fields, where: string): Test<bigint> {
  const arg = within(given.index, 5, `${where}.index`) as Arg; // which it is within 5
  const op = oneOf(OPERATORS, given.op, `${where}.op`);
  const value = word(given.value, `${where}.value`);
  const second = "valueTwo" in given ? word(given.valueTwo, `${where}.valueTwo`) : 0n;
  if (op !== "masked") {
    return second === 0n
      ? { arg, op, value }
      : refuse(`${where}.valueTwo`, second, `nothing: ${given.op} has one value`);
  }
  // libseccomp takes those bits away, so the test means something else than it says.
  if ((second & ~value) !== 0n) refuse(`${where}.valueTwo`, second, `no bits outside of the mask ${value}`);
  return { arg, op, mask: value, value: second };
}

function word(given: unknown, where: string): bigint {
  if (typeof given === "number" && Number.isInteger(given) && !Number.isSafeInteger(given)) {
    return refuse(where, given, "the profile as text, for JSON.parse rounds what is beyond 2^53");
  }
  const plain = typeof given === "number" || typeof given === "bigint";
  const digits = RAW.isRawJSON(given) ? given.rawJSON : plain ? `${given}` : "";
  const number = /^\d+$/.test(digits) ? BigInt(digits) : -1n;
  return BigInt.asUintN(64, number) === number ? number : refuse(where, given, "a whole number from 0 to 2^64 - 1");
}

/** TypeScript 7.0 does not know these yet. */
export const RAW = JSON as JSON & {
  rawJSON(text: string): { readonly rawJSON: string };
  isRawJSON(value: unknown): value is { readonly rawJSON: string };
};

// Reading with the place in the error.

function refuse(where: string, given: unknown, expected: string): never {
  const shown = typeof given === "bigint" ? `${given}` : (JSON.stringify(given) ?? `${given}`);
  throw new TypeError(`Cannot import ${where}: ${shown}, expected ${expected}`);
}

function fields(given: unknown, where: string, known: readonly string[]): Fields {
  if (typeof given !== "object" || given === null || Array.isArray(given)) return refuse(where, given, "an object");
  const strange = Object.keys(given).find((key) => !known.includes(key));
  return strange === undefined ? (given as Fields) : refuse(where, strange, `the keys ${known.join(", ")}`);
}

const list = (given: unknown, where: string): readonly unknown[] =>
  Array.isArray(given) ? given : refuse(where, given, "a list");

const text = (given: unknown, where: string): string =>
  typeof given === "string" ? given : refuse(where, given, "text");

function within(given: unknown, most: number, where: string): number {
  if (typeof given === "number" && Number.isInteger(given) && given >= 0 && given <= most) return given;
  return refuse(where, given, `a whole number from 0 to ${most}`);
}

function oneOf<T extends object>(table: T, given: unknown, where: string): T[keyof T] {
  if (typeof given === "string" && Object.hasOwn(table, given)) return table[given as keyof T];
  return refuse(where, given, `one of ${Object.keys(table).join(", ")}`);
}
