import { CString, dlopen, type Pointer } from "bun:ffi";
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { self } from "../../syscalls/kernel.ts";
import {
  type CapabilitySets,
  capabilitiesFromText,
  capget,
  capset,
  clearAmbient,
  dropBounding,
  getSecurebits,
  LOCKED_SECUREBITS,
  lastCapability,
  lowerAmbient,
  raiseAmbient,
  securebitsOf,
  setSecurebits,
  textOfCapabilities,
} from "../../syscalls/linux/capability.ts";
import { CAP, CLONE, PR } from "../../syscalls/linux/numbers.ts";
import { hold, statusOf, testRoot } from "../platform/strings.ts";
import { testIf } from "./requirement.ts";

const word = (set: bigint) => set.toString(16).padStart(16, "0");
const NONE = word(0n);

test("capget() reads what /proc says", () => {
  const { CapEff, CapPrm, CapInh } = statusOf("thread-self");
  const { effective, permitted, inheritable } = capget(self);
  expect([word(effective), word(permitted), word(inheritable)]).toEqual([CapEff!, CapPrm!, CapInh!]);
});

test("lastCapability() is what /proc says", () => {
  expect(lastCapability()).toBe(Number(readFileSync("/proc/sys/kernel/cap_last_cap", "utf8")));
});

testRoot("capset() and raiseAmbient() set just these capabilities", () => {
  using puppet = hold(CLONE.NEWUSER);
  clearAmbient(puppet.kernel);
  const some = (1n << BigInt(CAP.SYS_ADMIN)) | (1n << BigInt(CAP.CHECKPOINT_RESTORE)); // one in each half
  capset(puppet.kernel, { effective: some, permitted: some, inheritable: some });
  raiseAmbient(puppet.kernel, CAP.SYS_ADMIN);
  expect(statusOf(puppet.pid)).toMatchObject({
    CapEff: word(some),
    CapPrm: word(some),
    CapInh: word(some),
    CapAmb: word(1n << BigInt(CAP.SYS_ADMIN)),
  });
  expect(capget(puppet.kernel)).toEqual({ effective: some, permitted: some, inheritable: some });
  expect(capget(self, puppet.pid)).toEqual(capget(puppet.kernel));
  lowerAmbient(puppet.kernel, CAP.SYS_ADMIN);
  expect(statusOf(puppet.pid).CapAmb).toBe(NONE);
  capset(puppet.kernel, { effective: 0n, permitted: 0n, inheritable: 0n });
  expect(() => capset(puppet.kernel, { effective: some, permitted: some, inheritable: 0n })).toThrow("EPERM: capset");
});

testRoot("dropBounding() takes one away for good, and throws EINVAL for one that is unknown", () => {
  using puppet = hold(CLONE.NEWUSER);
  dropBounding(puppet.kernel, CAP.NET_RAW);
  expect(puppet.kernel.call("prctl", PR.CAPBSET_READ, CAP.NET_RAW, 0, 0, 0)).toBe(0);
  expect(puppet.kernel.call("prctl", PR.CAPBSET_READ, CAP.NET_ADMIN, 0, 0, 0)).toBe(1);
  expect(() => dropBounding(puppet.kernel, 63)).toThrow("EINVAL: prctl");
});

testRoot("LOCKED_SECUREBITS can neither be undone nor got around by ambient capabilities", () => {
  using puppet = hold(CLONE.NEWUSER);
  clearAmbient(puppet.kernel);
  expect(statusOf(puppet.pid).CapAmb).toBe(NONE);
  setSecurebits(puppet.kernel, LOCKED_SECUREBITS);
  expect(getSecurebits(puppet.kernel)).toBe(0b11101111);
  expect(() => setSecurebits(puppet.kernel, 0)).toThrow("EPERM: prctl");
  expect(() => raiseAmbient(puppet.kernel, CAP.SYS_ADMIN)).toThrow("EPERM: prctl");
});

test("securebitsOf() joins words, and names one that it does not know", () => {
  expect(securebitsOf([])).toBe(0);
  expect(securebitsOf(["noroot", "noroot_locked", "keep_caps"])).toBe(0b10011);
  expect(() => securebitsOf(["root" as "noroot"])).toThrow(/^Cannot set securebit "root": expected one of noroot, /);
});

const bit = (capability: number) => 1n << BigInt(capability);
const ALL = (1n << BigInt(lastCapability() + 1)) - 1n;

test("capabilitiesFromText() carries out its clauses from left to right", () => {
  const some = bit(CAP.NET_ADMIN) | bit(CAP.SYS_PTRACE);
  const sets = (effective: bigint, permitted: bigint, inheritable: bigint) => ({ effective, permitted, inheritable });
  const table: Record<string, CapabilitySets> = {
    "": sets(0n, 0n, 0n),
    "=": sets(0n, 0n, 0n),
    "cap_net_admin,cap_sys_ptrace+ep": sets(some, some, 0n),
    " CAP_NET_ADMIN,Cap_Sys_Ptrace=eip-e\n": sets(0n, some, some),
    "all=p cap_net_admin,cap_sys_ptrace-p": sets(0n, ALL & ~some, 0n),
    "=ei\t12,0x13,all-i": sets(ALL, 0n, 0n),
    "cap_net_admin+e =i": sets(0n, 0n, ALL),
    "cap_net_admin=+p+i-p": sets(0n, 0n, bit(CAP.NET_ADMIN)),
    "014,63=p": sets(0n, bit(12) | bit(63), 0n),
  };
  for (const [text, expected] of Object.entries(table))
    expect({ text, ...capabilitiesFromText(text) }).toEqual({ text, ...expected });
});

test("capabilitiesFromText() throws a TypeError with the position of nonsense", () => {
  const table: Record<string, string> = {
    net_admin: 'position 9 is not one of the operators "=", "+", "-"',
    "cap_kill,net_admin+e": "position 9 is not the name of a capability",
    "cap_kill+e +p": "position 11 is not the name of a capability",
    "cap_kill, cap_chown+e": 'position 9 is not one of the operators "=", "+", "-"',
    "cap_kill+epx": 'position 11 is not one of "e", "i", "p"',
    "cap_kill+E": 'position 9 is not one of "e", "i", "p"',
    "cap_kill+": 'position 9 is not one of "e", "i", "p"',
    "cap_kill=e=p": 'position 10 is not a "+" or "-", which may follow',
    "=e+p": "position 2 is not the end of the clause, which has no names",
    "64+e": "position 0 is not the name of a capability",
    "08+e": "position 0 is not the name of a capability",
    "cap_\u212Aill+e": "position 0 is not the name of a capability", // a Kelvin sign, whose lower case is k
    "cap_kill+e\0": 'position 10 is not one of "e", "i", "p"',
  };
  for (const [text, reason] of Object.entries(table))
    expect(() => capabilitiesFromText(text)).toThrow(
      new TypeError(`Cannot read capabilities ${JSON.stringify(text)}: ${reason}`),
    );
});

test("textOfCapabilities() is short", () => {
  const table = ["=", "=eip", "cap_net_admin,cap_sys_ptrace=ep", "=p cap_kill= cap_chown=ep", "=ep 63=i"];
  for (const text of table) {
    const again = textOfCapabilities(capabilitiesFromText(text));
    expect(again.split(" ").sort()).toEqual(text.split(" ").sort());
  }
});

/** libcap's own reading and writing. */
function libcap() {
  const { symbols } = dlopen("libcap.so.2", {
    cap_from_text: { args: ["cstring"], returns: "ptr" },
    cap_to_text: { args: ["ptr", "ptr"], returns: "ptr" },
    cap_get_flag: { args: ["ptr", "i32", "i32", "ptr"], returns: "i32" },
    cap_free: { args: ["ptr"], returns: "i32" },
  });
  const wordOf = (caps: Pointer, set: number) => {
    const raised = new Int32Array(1);
    let word = 0n;
    for (let capability = 0; capability < 64; capability++) {
      symbols.cap_get_flag(caps, capability, set, raised as never);
      if (raised[0] === 1) word |= bit(capability);
    }
    return word;
  };
  return (text: string): { sets: CapabilitySets; text: string } | undefined => {
    const caps = symbols.cap_from_text(Buffer.from(`${text}\0`) as never) as Pointer | null;
    if (caps === null) return undefined;
    const written = symbols.cap_to_text(caps, null) as Pointer;
    const sets = { effective: wordOf(caps, 0), permitted: wordOf(caps, 1), inheritable: wordOf(caps, 2) };
    const read = { sets, text: new CString(written).toString() };
    for (const memory of [caps, written]) symbols.cap_free(memory);
    return read;
  };
}

function find(): ReturnType<typeof libcap> | undefined {
  try {
    return libcap();
  } catch {
    return undefined;
  }
}

const theirs = find();
const testLibcap = testIf("libcap", theirs !== undefined, "there is no libcap.so.2 (Debian: libcap2)");

testLibcap("texts of all kinds mean what they mean to cap_from_text(3), and both read what the other writes", () => {
  const names = ["cap_chown", "CAP_Kill", "cap_bpf", "all", "All", "40", "0x3f", "07", "0", "cap_chown,cap_kill"];
  const nonsense = ["cap_", "64", "08", "x", "e", ",", "chown", "-1", ""];
  const ends = ["=", "=eip", "+e", "-p", "+ip", "=p+e-i", "-ei", "=e=p", "+", "+x", "=+p", "+E"];
  const spaces = [" ", "\t", "\v", "\n  ", "", ","];
  let state = 1; // the same texts in each run
  const any = <T>(list: readonly T[]): T => {
    state = (state * 48271) % 2147483647;
    return list[state % list.length]!;
  };
  let understood = 0;
  for (let count = 0; count < 20_000; count++) {
    let text = "";
    for (let clauses = count % 4; clauses >= 0; clauses--)
      text +=
        any([names, names, names, names, names, nonsense, [""]].map(any)) +
        any(ends.slice(0, 8 + (count % 5))) +
        any(spaces);
    let ours: CapabilitySets | undefined;
    try {
      ours = capabilitiesFromText(text);
    } catch (error) {
      expect(error).toBeInstanceOf(TypeError);
    }
    const read = theirs!(text);
    expect({ text, sets: ours }).toEqual({ text, sets: read?.sets });
    if (ours === undefined) continue;
    understood++;
    expect(theirs!(textOfCapabilities(ours))?.sets).toEqual(ours);
    expect(capabilitiesFromText(read!.text)).toEqual(ours);
  }
  expect(understood).toBeGreaterThan(2000); // and not all of them nonsense to both
});
