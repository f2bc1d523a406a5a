import { describe, expect, test } from "bun:test";
import { becomeProgram } from "../../platform/linux/execute.ts";
import type { ProcessPlan } from "../../platform/platform.ts";
import { LOCKED_SECUREBITS, lastCapability } from "../../syscalls/linux/capability.ts";
import { PR, SIG } from "../../syscalls/linux/numbers.ts";
import { Recorder } from "../syscalls/recorder.ts";
import { processPlan } from "./process.ts";

/** Writes down what a process does in order to become a program. */
class Writing extends Recorder {
  attempt(calls: () => void): void {
    calls();
  }
}

const STRINGS = 100;

function calls(more: Partial<ProcessPlan> = {}, { held = new Map<number, number>(), capable = true } = {}) {
  const writing = new Writing();
  const plan = processPlan(["true"], { program: "/bin/true", env: { A: "1" }, umask: 0o027, ...more });
  becomeProgram(writing, plan, {
    strings: STRINGS,
    descriptors: held,
    capable,
    landlock: undefined,
    tid: new Uint8Array(4),
  });
  return writing.calls;
}
type Calls = ReturnType<typeof calls>;

const named = (all: Calls, name: string) => all.filter(([each]) => each === name).map(([, ...args]) => args);
const at = (all: Calls, name: string, ...first: unknown[]) =>
  all.findIndex(([each, ...args]) => each === name && first.every((arg, index) => args[index] === arg));

/** What is open when these calls were made, by what it was at first. */
function opened(all: Calls, open: ReadonlyMap<number, string>) {
  const table = new Map([...open].map(([number, what]) => [number, { what, onExec: true }]));
  for (const [name, ...args] of all) {
    const numbers = args as number[];
    if (name === "dup3")
      table.set(numbers[1]!, { what: table.get(numbers[0]!)!.what, onExec: (numbers[2]! & 0x80000) === 0 });
    if (name === "close") table.delete(numbers[0]!);
    if (name === "close_range")
      for (const each of [...table.keys()]) if (each >= numbers[0]! && each <= numbers[1]!) table.delete(each);
    if (name === "fcntl" && numbers[1] === 2) table.get(numbers[0]!)!.onExec = false;
  }
  return new Map([...table].filter(([, { onExec }]) => onExec).map(([number, { what }]) => [number, what]));
}

describe("becomeProgram() leaves open what the program asks for, and nothing else", () => {
  const tables: Record<string, [held: [number, number][], wanted: [number, string][]]> = {
    "three streams": [
      [
        [0, 101],
        [1, 102],
        [2, 103],
      ],
      [
        [0, "101"],
        [1, "102"],
        [2, "103"],
      ],
    ],
    "the same one three times": [
      [
        [0, 101],
        [1, 101],
        [2, 101],
      ],
      [
        [0, "101"],
        [1, "101"],
        [2, "101"],
      ],
    ],
    "two that change places": [
      [
        [5, 6],
        [6, 5],
      ],
      [
        [5, "6"],
        [6, "5"],
      ],
    ],
    "a circle of three": [
      [
        [5, 6],
        [6, 7],
        [7, 5],
      ],
      [
        [5, "6"],
        [6, "7"],
        [7, "5"],
      ],
    ],
    "far apart": [
      [
        [0, 101],
        [99, 102],
        [150, 103],
        [999, 104],
      ],
      [
        [0, "101"],
        [99, "102"],
        [150, "103"],
        [999, "104"],
      ],
    ],
    "where others were put away": [
      [
        [400, 5],
        [5, 6],
        [401, 7],
      ],
      [
        [400, "5"],
        [5, "6"],
        [401, "7"],
      ],
    ],
    "none at all": [[], []],
  };
  for (const [what, [held, wanted]] of Object.entries(tables)) {
    test(what, () => {
      const numbers = [0, 1, 2, 3, 4, 5, 6, 7, STRINGS, 101, 102, 103, 104, 201, 300, 500];
      const open = new Map(numbers.map((number) => [number, `${number}`]));
      expect(opened(calls({}, { held: new Map(held) }), open)).toEqual(new Map(wanted));
    });
  }

  test("and neither its directory nor its program, which it was given by descriptor", () => {
    const held = new Map([
      [0, 101],
      [48, 102],
      [49, 103],
    ]);
    const all = calls({ directory: 48, program: 49 }, { held });
    const open = new Map([0, STRINGS, 101, 102, 103].map((number) => [number, `${number}`]));
    expect(opened(all, open)).toEqual(new Map([[0, "101"]]));
    expect(at(all, "fchdir", 48)).toBeGreaterThan(0);
    expect(at(all, "close", 48)).toBeGreaterThan(at(all, "fchdir", 48));
    expect(at(all, "execveat", 49, "")).toBe(all.length - 1);
  });
});

describe("becomeProgram() does", () => {
  test("what needs who it was before what makes it who it is, and execve last", () => {
    const all = calls({
      user: 7,
      group: 8,
      groups: [9],
      limits: { CPU: 5n, NOFILE: 20n },
      filters: [new Uint8Array(8)],
      nice: 3,
    });
    const order = [
      at(all, "close_range"),
      at(all, "setsid"),
      at(all, "umask", 0o027),
      at(all, "chdir"),
      at(all, "setpriority"),
      at(all, "prctl", PR.CAPBSET_DROP),
      at(all, "setgroups"),
      at(all, "setresgid", 8, 8, 8),
      at(all, "setresuid", 7, 7, 7),
      at(all, "capset"),
      at(all, "prctl", PR.SET_SECUREBITS, LOCKED_SECUREBITS),
      all.findLastIndex(([name]) => name === "capset"),
      at(all, "prctl", PR.SET_NO_NEW_PRIVS),
      all.findLastIndex(([name]) => name === "prlimit64"),
      at(all, "prctl", PR.SET_PDEATHSIG, SIG.KILL),
      at(all, "seccomp"),
      at(all, "execve"),
    ];
    expect(order).not.toContain(-1);
    expect(order).toEqual(order.toSorted((a, b) => a - b));
    expect(order.at(-1)).toBe(all.length - 1);
  });

  test("the limit of open files behind the sending of a listener, which counts against the sender's", () => {
    const order = (more: Partial<ProcessPlan>) => {
      const all = calls({ limits: { NOFILE: 20n }, supervised: new Uint8Array(8), ...more });
      const [limit] = named(all, "prlimit64");
      return { sent: at(all, "sendmsg", 20), limited: at(all, "prlimit64"), begun: at(all, "execve"), mark: limit![4] };
    };
    const { sent, limited, begun, mark } = order({});
    expect([sent, limited, begun]).toEqual([sent, sent + 1, sent + 2]);
    expect(mark).toBe(20); // by which the filter knows it
    // A filter of the caller's knows of no such call.
    const other = order({ filters: [new Uint8Array(8)] });
    expect(other.limited).toBeLessThan(other.sent);
  });

  test("drop every capability that is not kept from the bounding set, if it may", () => {
    const dropped = (more: Partial<ProcessPlan>, capable = true) =>
      calls(more, { capable }).filter(([name, option]) => name === "prctl" && option === PR.CAPBSET_DROP).length;
    expect(dropped({})).toBe(lastCapability() + 1);
    expect(dropped({ capabilities: 0b101n })).toBe(lastCapability() - 1);
    expect(dropped({}, false)).toBe(0);
  });

  test("nothing about a session where the puppet is to become the program, which has one", () => {
    expect(named(calls({ init: false }), "setsid")).toEqual([]);
    expect(named(calls({ session: "keep" }), "setsid")).toEqual([]);
    expect(named(calls({ session: "group" }), "setpgid")).toEqual([[0, 0]]);
  });

  test("nothing that was not asked for", () => {
    const all = calls({ noNewPrivileges: false });
    for (const name of [
      "setresuid",
      "setresgid",
      "setgroups",
      "seccomp",
      "setpriority",
      "ioprio_set",
      "prlimit64",
      "sched_setaffinity",
    ])
      expect([name, named(all, name)]).toEqual([name, []]);
    expect(at(all, "prctl", PR.SET_NO_NEW_PRIVS)).toBe(-1);
  });
});
