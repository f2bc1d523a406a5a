/** Each call of a start fails in its turn: that is an error which names it, nothing is left of it, and the next start works. */
import { describe, expect, setDefaultTimeout } from "bun:test";
import { hasFilters } from "../../syscalls/linux/seccomp.ts";
import { testIf } from "../syscalls/requirement.ts";
import type { Act, Report } from "./fixtures/faults.ts";
import { surplus } from "./holdings.ts";
import { errnoOf, FALLIBLE, type Fallible } from "./sabotage.ts";
import type { Caller } from "./saboteur.ts";
import { acts, Victim } from "./victim.ts";

setDefaultTimeout(300_000); // hundreds of starts each, on a machine that may have other things to do

const testSeccomp = testIf("seccomp", hasFilters(), "this kernel takes no filters, or something refuses seccomp(2)");
const ACTS: readonly Act[] = ["program", "container", "actor"];

/** Calls that a start can do without, and every wall stands. */
function isDispensable(call: Fallible, caller: Caller, act: Act): boolean {
  // Ends are looked for where none can be told; counts that cannot be read are not told of.
  if (caller === "host") return ["fcntl", "epoll_create1", "recvmsg", "openat"].includes(call);
  // What a puppet needs no more it gives up, though nobody inside can use it. Filters refuse keyrings, where there are some.
  return ["prctl", "capset"].includes(call) || (call === "keyctl" && act !== "container");
}

/** Calls without which Bun itself does not go on. */
const BUNS: readonly Fallible[] = ["clone3", "clone", "prctl", "openat", "write", "epoll_create1", "eventfd2"];
/** A call that no start needs: a host that is refused that one has a filter, and all else. */
const NEEDLESS: Fallible = "setns";

/** What of a failed start is wrong; nothing, if all is as it should be. */
function faultsOf(
  { refused, walls, before, after }: Report,
  failed: Fallible,
  { act, caller, plain }: Expected,
): string[] {
  const left = surplus(before, after);
  if (refused === undefined) {
    if (walls !== plain.walls) return [...left, "it started within other walls"];
    return isDispensable(failed, caller, act) ? left : [...left, "it started"];
  }
  // Bun's own functions for files have the words of POSIX.
  const named = refused.syscall === failed || (failed === "openat" && refused.syscall === "open");
  const told = named && refused.code === errnoOf(failed);
  return told ? left : [...left, `it was said: ${refused.message}`];
}

interface Expected {
  readonly act: Act;
  readonly caller: Caller;
  readonly plain: Report;
}

describe.each(ACTS)("a start (%s)", (act) => {
  for (const caller of ["puppet", "host"] as const)
    testSeccomp(`of which each call of the ${caller} fails once`, async () => {
      await using victim = new Victim(act, "served");
      const saboteur = await victim.saboteur();
      const plain = await victim.act();
      expect(plain.refused).toBeUndefined();
      const wrong: string[] = [];
      const failed = new Set<Fallible>();
      for (let nth = 1; ; nth++) {
        saboteur.set({ caller, nth });
        const report = await victim.act();
        const { hit } = saboteur;
        if (hit === undefined) break;
        failed.add(hit);
        for (const fault of faultsOf(report, hit, { act, caller, plain })) wrong.push(`${nth}, ${hit}: ${fault}`);
        if (wrong.length > 10) break; // what the first one broke, the others find broken
      }
      saboteur.set(undefined);
      expect(wrong).toEqual([]);
      const last = await victim.act();
      expect(last.walls).toBe(plain.walls!);
      expect(surplus(plain.after, last.after)).toEqual([]);
      expect(failed.size).toBeGreaterThan(caller === "puppet" ? 20 : 4);
    });

  if (act === "program")
    testSeccomp("of which one call always fails, from the first on", async () => {
      const { last: plain } = await acts(act, "refused", NEEDLESS);
      expect(plain.refused).toBeUndefined();
      const wrong: string[] = [];
      const calls = FALLIBLE.filter((call) => !BUNS.includes(call)).values();
      const worker = async () => {
        for (const call of calls) {
          const { last } = await acts(act, "refused", call, JSON.stringify(plain.after));
          const left = surplus(plain.after, last.after);
          if (left.length > 0) wrong.push(`${call}: ${left}`);
          const { refused, walls } = last;
          if (refused === undefined && walls !== plain.walls) wrong.push(`${call}: it started within other walls`);
          if (refused !== undefined && !new RegExp(`\\b${call}\\b`).test(refused.message))
            wrong.push(`${call}: it was said: ${refused.message}`);
        }
      };
      await Promise.all([worker(), worker()]);
      expect(wrong).toEqual([]);
    });
});
