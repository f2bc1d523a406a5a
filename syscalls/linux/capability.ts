/** Capabilities and securebits, capabilities(7). */
import { type Kernel, self } from "../kernel.ts";
import { Memory, Struct } from "../struct.ts";
import { CAP, PR, SECBIT } from "./numbers.ts";

const HEADER = new Struct({ version: "u32", pid: "i32" });
const DATA = new Struct({ effective: "u32", permitted: "u32", inheritable: "u32" });
const VERSION_3 = 0x20080522;

/** Sets of capabilities of a thread, as words with a bit each. */
export interface CapabilitySets {
  readonly effective: bigint;
  readonly permitted: bigint;
  readonly inheritable: bigint;
}

/** Sets the capabilities of the calling thread. `capset(2)`, version 3, which has two halves. */
export function capset(kernel: Kernel, sets: CapabilitySets): void {
  const half = (shift: bigint) => {
    const word = (set: bigint) => Number((set >> shift) & 0xffffffffn);
    return DATA.encode({
      effective: word(sets.effective),
      permitted: word(sets.permitted),
      inheritable: word(sets.inheritable),
    }).bytes;
  };
  kernel.call("capset", HEADER.encode({ version: VERSION_3 }), Buffer.concat([half(0n), half(32n)]));
}

/** The capabilities of a thread, 0 for the caller. `capget(2)` */
export function capget(kernel: Kernel, pid = 0): CapabilitySets {
  const data = new Memory(new Uint8Array(2 * DATA.size), []);
  kernel.call("capget", HEADER.encode({ version: VERSION_3, pid }), data);
  const low = DATA.decode(data.bytes.subarray(0, DATA.size));
  const high = DATA.decode(data.bytes.subarray(DATA.size));
  const join = (name: keyof typeof low) => BigInt(low[name]) | (BigInt(high[name]) << 32n);
  return { effective: join("effective"), permitted: join("permitted"), inheritable: join("inheritable") };
}

/** Keeps a capability over the next `execve`. It must be permitted and inheritable. `PR_CAP_AMBIENT(2const)` */
export function raiseAmbient(kernel: Kernel, capability: number): void {
  kernel.call("prctl", PR.CAP_AMBIENT, PR.CAP_AMBIENT_RAISE, capability, 0, 0);
}

/** Takes a capability out of the ambient set. */
export function lowerAmbient(kernel: Kernel, capability: number): void {
  kernel.call("prctl", PR.CAP_AMBIENT, PR.CAP_AMBIENT_LOWER, capability, 0, 0);
}

/** Empties the ambient set. */
export function clearAmbient(kernel: Kernel): void {
  kernel.call("prctl", PR.CAP_AMBIENT, PR.CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

/** Takes a capability out of the bounding set, for good. Needs `CAP_SETPCAP`; EINVAL for one that this kernel does not know. */
export function dropBounding(kernel: Kernel, capability: number): void {
  kernel.call("prctl", PR.CAPBSET_DROP, capability, 0, 0, 0);
}

let last: number | undefined;

/** The highest capability that the running kernel knows. */
export function lastCapability(): number {
  last ??= findLastCapability();
  return last;
}

/** All capabilities that the running kernel knows, a bit each. */
export function allCapabilities(): bigint {
  return (1n << BigInt(lastCapability() + 1)) - 1n;
}

function findLastCapability(): number {
  // PR_CAPBSET_READ answers EINVAL for the first unknown one, wherever /proc may be.
  for (let capability: number = CAP.WAKE_ALARM; ; capability++) {
    try {
      self.call("prctl", PR.CAPBSET_READ, capability + 1, 0, 0, 0);
    } catch {
      return capability;
    }
  }
}

/** Sets what the kernel grants to user id 0, and locks it. Needs `CAP_SETPCAP`. `PR_SET_SECUREBITS(2const)` */
export function setSecurebits(kernel: Kernel, bits: number): void {
  kernel.call("prctl", PR.SET_SECUREBITS, bits, 0, 0, 0);
}

/** User id 0 means nothing, and none of it can be undone. */
export const LOCKED_SECUREBITS =
  SECBIT.NOROOT |
  SECBIT.NOROOT_LOCKED |
  SECBIT.NO_SETUID_FIXUP |
  SECBIT.NO_SETUID_FIXUP_LOCKED |
  SECBIT.KEEP_CAPS_LOCKED |
  SECBIT.NO_CAP_AMBIENT_RAISE |
  SECBIT.NO_CAP_AMBIENT_RAISE_LOCKED;

/** The bits in force. `PR_GET_SECUREBITS(2const)` */
export function getSecurebits(kernel: Kernel): number {
  return kernel.call("prctl", PR.GET_SECUREBITS, 0, 0, 0, 0);
}

/** A securebit as users write it: "keep_caps", "noroot_locked" ... */
export type Securebit = Lowercase<keyof typeof SECBIT>;

/** The word that has these bits. */
export function securebitsOf(names: readonly Securebit[]): number {
  return names.reduce((bits, name) => {
    const bit = (SECBIT as Readonly<Record<string, number>>)[name.toUpperCase()];
    if (bit === undefined)
      throw new TypeError(
        `Cannot set securebit ${JSON.stringify(name)}: expected one of ${Object.keys(SECBIT).join(", ").toLowerCase()}`,
      );
    return bits | bit;
  }, 0);
}

const SETS = { e: "effective", i: "inheritable", p: "permitted" } as const;
const WORD = 64;

const NUMBERS_OF_NAMES = new Map<string, number>(
  Object.entries(CAP).map(([name, number]) => [`cap_${name.toLowerCase()}`, number]),
);
const NAMES_OF_NUMBERS = new Map([...NUMBERS_OF_NAMES].map(([name, number]) => [number, name]));

/**
 * The sets that a text names, as `cap_from_text(3)` reads it: `"cap_net_admin,cap_sys_ptrace+ep"`, `"all=p cap_kill-p"`, `"="`. Throws a TypeError
 * that has the position of what it does not understand.
 */
export function capabilitiesFromText(text: string): CapabilitySets {
  const sets = { effective: 0n, permitted: 0n, inheritable: 0n };
  for (const { 0: clause, index: at } of text.matchAll(/[^ \t\n\v\f\r]+/g)) {
    const fail = (offset: number, expected: string) => {
      throw new TypeError(
        `Cannot read capabilities ${JSON.stringify(text)}: position ${at + offset} is not ${expected}`,
      );
    };
    const names = /^[^=+-]*/.exec(clause)![0];
    const actions = [...clause.matchAll(/([=+-])([^=+-]*)/g)];
    if (actions.length === 0) fail(clause.length, 'one of the operators "=", "+", "-"');
    // Only "all of them are" goes without names, and nothing behind it.
    if (names === "" && !clause.startsWith("=")) fail(0, "the name of a capability");
    if (names === "" && actions.length > 1) fail(actions[1]!.index, "the end of the clause, which has no names");
    const mask = names === "" ? allCapabilities() : maskOf(names, fail);
    for (const [number, { 1: operator, 2: flags, index }] of actions.entries()) {
      if (operator === "=" && number > 0) fail(index, 'a "+" or "-", which may follow');
      const wrong = flags!.search(/[^eip]/);
      if (wrong >= 0 || (flags === "" && operator !== "="))
        fail(index + 1 + Math.max(0, wrong), 'one of "e", "i", "p"');
      for (const [flag, set] of Object.entries(SETS)) {
        const named = flags!.includes(flag);
        if (operator === "=" ? !named : operator === "-" && named) sets[set] &= ~mask;
        else if (named) sets[set] |= mask;
      }
    }
  }
  return sets;
}

/** The bits of names with commas between them. */
function maskOf(names: string, fail: (offset: number, expected: string) => void): bigint {
  let at = 0;
  let mask = 0n;
  for (const name of names.split(",")) {
    // No other letters: some of Unicode's become ASCII by toLowerCase().
    const lower = name.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
    const number = NUMBERS_OF_NAMES.get(lower) ?? numberFrom(lower);
    if (lower !== "all" && !(number < WORD)) fail(at, "the name of a capability");
    mask |= lower === "all" ? allCapabilities() : 1n << BigInt(number);
    at += name.length + 1;
  }
  return mask;
}

/** A number as C writes it, or NaN. */
function numberFrom(text: string): number {
  if (/^0x[\da-f]+$/.test(text)) return Number.parseInt(text, 16);
  if (/^0[0-7]*$/.test(text)) return Number.parseInt(text, 8);
  return /^[1-9]\d*$/.test(text) ? Number(text) : Number.NaN;
}

/** The text that names these sets, for `capabilitiesFromText` and `cap_from_text(3)` alike. */
export function textOfCapabilities(sets: CapabilitySets): string {
  const groups = new Map<string, number[]>();
  for (let capability = 0; capability < WORD; capability++) {
    const flags = Object.entries(SETS).filter(([, set]) => ((sets[set] >> BigInt(capability)) & 1n) === 1n);
    const key = flags.map(([flag]) => flag).join("");
    if (key === "" && capability > lastCapability()) continue; // "=" does not reach them
    groups.set(key, [...(groups.get(key) ?? []), capability]);
  }
  const known = (key: string) => groups.get(key)!.filter((capability) => capability <= lastCapability()).length;
  const [most] = [...groups.keys()].sort((left, right) => known(right) - known(left));
  const clauses = [...groups].flatMap(([flags, capabilities]) => {
    const named = flags === most ? capabilities.filter((capability) => capability > lastCapability()) : capabilities;
    const names = named.map((capability) => NAMES_OF_NUMBERS.get(capability) ?? `${capability}`);
    return names.length === 0 ? [] : [`${names.join(",")}=${flags}`];
  });
  return (most === "" && clauses.length > 0 ? clauses : [`=${most}`, ...clauses]).join(" ");
}
