import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { self } from "../../syscalls/kernel.ts";
import {
  capget,
  capset,
  clearAmbient,
  dropBounding,
  LOCKED_SECUREBITS,
  lastCapability,
  raiseAmbient,
  setSecurebits,
} from "../../syscalls/linux/capability.ts";
import { CAP, CLONE, PR } from "../../syscalls/linux/numbers.ts";
import { hold, statusOf, testRoot } from "../platform/strings.ts";

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
  expect(puppet.kernel.call("prctl", PR.GET_SECUREBITS, 0, 0, 0, 0)).toBe(0b11101111);
  expect(() => setSecurebits(puppet.kernel, 0)).toThrow("EPERM: prctl");
  expect(() => raiseAmbient(puppet.kernel, CAP.SYS_ADMIN)).toThrow("EPERM: prctl");
});
