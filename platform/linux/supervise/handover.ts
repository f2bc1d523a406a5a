/** Which calls a program's filter hands over, and what becomes of them: plans, from a policy and from what the caller wants to see. */
import { statSync } from "node:fs";
import type { Machine, SyscallName } from "../../../syscalls/kernel.ts";
import { ERRNO, NUMBERS, RLIMIT } from "../../../syscalls/linux/numbers.ts";
import type { Policy, SupervisedCall, Supervision } from "../../platform.ts";
import { filtersOf, handingOver, kept, SOCKETS } from "../filters.ts";
import { onBreach, type Promising, promiseOf, promiseRules } from "../promises.ts";
import { chain } from "../seccomp/chain.ts";
import { compile } from "../seccomp/compile.ts";
import { explain } from "../seccomp/explain.ts";
import type { Arg, Rule, Test } from "../seccomp/filter.ts";
import type { Beginning, Orders, Verdict } from "./orders.ts";
import { SIGNATURES } from "./signatures.ts";
import type { Audience } from "./supervisor.ts";

export interface Handover {
  readonly filter: Uint8Array;
  readonly orders: Orders;
}

/**
 * The one filter of a supervised program. What the policy refuses is handed over as well: where one filter answers with an errno, the kernel asks
 * nobody.
 * @param lent files that the program needs in order to start
 * @param strings the number by which it sends the listener, before it is the program
 * @param begins the call by which it becomes the program
 */
export function handoverOf(
  policy: Policy,
  supervision: Supervision,
  {
    machine,
    lent,
    strings,
    begins,
  }: {
    readonly machine: Machine;
    readonly lent: readonly string[];
    readonly strings: number;
    readonly begins: Beginning;
  },
): Handover {
  const introducing = introductionBy(strings);
  const { asked = [], sockets = false } = supervision;
  if (sockets && !asked.includes("connect"))
    throw new TypeError("Cannot let a program have sockets without being asked about connect");
  const { promises, onBreak, net, limits } = policy;
  const key = [machine, net.length > 0, limits.disk !== undefined, promises, onBreak, asked, sockets, strings];
  return {
    filter: kept(["supervised", ...key], () => {
      const hand = (call: SyscallName): Rule => ({ call, action: "notify" });
      const [walls, ...more] = filtersOf(policy, "program", machine).map((filter) => handingOver(filter));
      const others = walls!.rules.filter(({ call }) => !asked.includes(call as SyscallName));
      const first = [...introducing, ...asked.map(hand), ...(sockets ? SOCKETS : [])];
      return chain([
        compile({ ...walls!, rules: [...first, ...others] }),
        ...more.map((filter) => compile({ ...filter, rules: [...introducing, ...filter.rules] })),
      ]);
    }),
    orders: {
      verdicts: Object.fromEntries(numbered(machine, asked).map((number) => [number, { act: "ask" } as Verdict])),
      otherwise: { act: "refuse", errno: ERRNO.EPERM, told: supervision.tell !== undefined },
      promised: promisesOf(policy, { for: "program" }),
      begins: [begins],
      lent: lent.map(identityOf),
    },
  };
}

/**
 * What stands between the filter and the program: the listener is sent, and then open files are limited. A program could mark a call of its own
 * likewise; that lets it have fewer.
 */
function introductionBy(strings: number): Rule[] {
  const equal = (arg: Arg, value: number): Test => ({ arg, op: "eq", value });
  return [
    { call: "sendmsg", action: "allow", when: [equal(0, strings)] },
    { call: "prlimit64", action: "allow", when: [equal(0, 0), equal(1, RLIMIT.NOFILE), equal(4, strings)] },
  ];
}

/** The promises of a policy, and the end of who breaks one. */
function promisesOf({ promises, onBreak }: Policy, whose: Promising): Orders["promised"] {
  if (promises === undefined) return undefined;
  const action = onBreach(promises, onBreak);
  return {
    rules: Object.groupBy(promiseRules(promises, whose).map(inWords), ({ call }) => call) as Record<string, Rule[]>,
    breach:
      action === "kill-process"
        ? { act: "end" }
        : { act: "refuse", errno: ERRNO[(action as { errno: keyof typeof ERRNO }).errno], told: true },
  };
}

/** The rule as JSON can have it. */
function inWords(rule: Rule): Rule {
  const word = (_: string, value: unknown) => (typeof value === "bigint" ? `${value}` : value);
  return JSON.parse(JSON.stringify(rule, word)) as Rule;
}

/** Whether the walls of a policy let a call through that was asked about: what is passed on goes past its filter. */
export function permits(policy: Policy, machine: Machine, { call, args }: SupervisedCall): boolean {
  return filtersOf(policy, "program", machine).every((filter) => explain(filter, call, args).action === "allow");
}

/** What becomes of the calls of an observed actor: they are told of, and refused. */
export function refusing(policy: Policy, pid: number): Orders {
  return {
    verdicts: {},
    otherwise: { act: "refuse", errno: ERRNO.EPERM, told: true },
    promised: promisesOf(policy, { for: "self", pid }),
    begins: [],
    lent: [],
  };
}

/** Who is told of calls, with the promise that each lacked. */
export function listening({ promises }: Policy, { tell, more }: Supervision, whose: Promising): Audience {
  return {
    ...(tell && {
      tell(call, exists) {
        const promise = promises && promiseOf(call, promises, whose);
        tell(promise === undefined ? call : { ...call, promise }, exists);
      },
    }),
    ...(more && { more }),
  };
}

/** Lets everything through, and tells of what names something; but for sendmsg(2), by which the listener itself comes. */
export function watching(machine: Machine): Handover {
  const named = Object.entries(SIGNATURES).filter(([, { message }]) => message === undefined);
  const rules = named.map(([call]): Rule => ({ call: call as SyscallName, action: "notify" }));
  return {
    filter: compile({ machine, default: "allow", rules }),
    orders: { verdicts: {}, otherwise: { act: "pass" }, begins: ["execve", "execveat"], lent: [] },
  };
}

function numbered(machine: Machine, calls: readonly SyscallName[]): number[] {
  const numbers: Partial<Record<SyscallName, number>> = NUMBERS[machine];
  return calls.flatMap((call) => numbers[call] ?? []);
}

function identityOf(path: string): string {
  const { dev, ino } = statSync(path, { bigint: true });
  return `${dev}:${ino}`;
}
