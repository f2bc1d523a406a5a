import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  type Action,
  type Condition,
  compile,
  disassemble,
  type Filter,
  GROUPS,
  type Group,
  type Rule,
  type Test,
} from "../../../platform/linux/seccomp/index.ts";
import { type Machine, NUMBERS, type SyscallName } from "../../../syscalls/linux/numbers.ts";
import { interpret, verify } from "../interpreter.ts";
import {
  ALLOW,
  ARCH,
  argument,
  below,
  EDGES,
  evaluate,
  KILL,
  pick,
  random,
  randomAction,
  randomCondition,
  randomFilter,
  randomTest,
  resultOf,
  seed,
  several,
  TOP,
  word,
  wordsOf,
  X32,
} from "./rules.ts";

// Random cases by the hundred, on machines that may be busy.
setDefaultTimeout(120_000);

const MACHINES = ["x64", "arm64"] as const;
const DENY: Action = { errno: 1 };
/** Every number up to 2000, the same with the x32 bit, and the ends of the range. */
const EVERY = Array.from({ length: 2001 }, (_, number) => number);
const STRANGE = [...EVERY.map((number) => X32 | number), -1, 1 << 31, 2 ** 31 - 1, X32 - 1, 0xfff, 0xffff];

const compiled = (filter: Filter) => {
  const program = compile(filter);
  verify(program);
  return program;
};

const namedBy = (call: Rule["call"]): readonly SyscallName[] =>
  call.startsWith("@") ? GROUPS[call.slice(1) as Group] : [call as SyscallName];
const numberOf = (machine: Machine, call: SyscallName) =>
  (NUMBERS[machine] as Partial<Record<SyscallName, number>>)[call];

/** Fails for the first call that the program treats differently from the rules. */
function agree(filter: Filter, program: Uint8Array, numbers: readonly number[], args: readonly bigint[]): void {
  for (const nr of numbers) {
    const { result } = interpret(program, { nr, arch: ARCH[filter.machine], args });
    const expected = evaluate(filter, nr, args);
    if (result !== expected) {
      expect({ seed, filter, nr, args, result }).toEqual({ seed, filter, nr, args, result: expected });
    }
  }
}

describe.each(MACHINES)("compile() for %s", (machine) => {
  const names = Object.keys(NUMBERS[machine]) as SyscallName[];

  test.each(["allow", "kill-process", DENY] as const)("without rules does %p for every number", (action) => {
    const filter: Filter = { machine, default: action, rules: [] };
    const program = compiled(filter);
    agree(filter, program, [...EVERY, ...STRANGE], []);
    expect(interpret(program, { nr: 0, arch: ARCH[machine], args: [] }).result).toBe(resultOf(action));
  });

  test("decides every number as the rules do", () => {
    const rules = names.map(
      (call, index): Rule => ({ call, action: pick(["allow", "kill-process", { errno: index }]) }),
    );
    const filter: Filter = { machine, default: DENY, rules };
    agree(filter, compiled(filter), [...EVERY, ...STRANGE], []);
  });

  test("kills every call for another machine", () => {
    const program = compiled({ machine, default: "allow", rules: [{ call: "read", action: "allow" }] });
    const others = [ARCH.x64, ARCH.arm64, 0x40000003, 0x40000028, 0, 0xffffffff].filter(
      (arch) => arch !== ARCH[machine],
    );
    for (const arch of others)
      for (const nr of EVERY) expect(interpret(program, { nr, arch, args: [] }).result).toBe(KILL);
  });

  test("compares arguments as unsigned words of 64 bits", () => {
    for (const op of ["eq", "ne", "lt", "le", "gt", "ge"] as const) {
      for (const value of EDGES) {
        for (const arg of [0, 1, 2, 3, 4, 5] as const) {
          const filter: Filter = {
            machine,
            default: "allow",
            rules: [{ call: "read", action: DENY, when: [{ arg, op, value }] }],
          };
          const program = compiled(filter);
          for (const given of EDGES)
            agree(
              filter,
              program,
              [NUMBERS[machine].read],
              Array(6)
                .fill(TOP - given)
                .with(arg, given),
            );
        }
      }
    }
  });

  test("masks arguments as words of 64 bits", () => {
    for (const mask of EDGES) {
      for (const value of EDGES.map((edge) => edge & mask)) {
        const when: Test[] = [{ arg: 2, op: "masked", mask, value }];
        const filter: Filter = { machine, default: "allow", rules: [{ call: "read", action: DENY, when }] };
        const program = compiled(filter);
        for (const given of EDGES) agree(filter, program, [NUMBERS[machine].read], Array(6).fill(0n).with(2, given));
      }
    }
  });

  test("agrees with the rules of 300 random filters", () => {
    for (let round = 0; round < 300; round++) {
      const filter = randomFilter(machine);
      const program = compiled(filter);
      agree(filter, program, [...EVERY.slice(0, 500), -1, 1 << 31, X32, X32 | 1], Array.from({ length: 6 }, word));
      for (const { call, when = [] } of filter.rules) {
        const number = numberOf(machine, pick(namedBy(call)));
        if (number === undefined) continue;
        const args = several(6, word);
        for (const { arg, value } of wordsOf(when)) args[arg] = BigInt.asUintN(64, value + BigInt(below(3)) - 1n);
        agree(filter, program, [number], args);
        for (const { arg, value } of wordsOf(when)) args[arg] = value;
        agree(filter, program, [number], args);
      }
    }
  });

  test("agrees with the rules of 2000 random conditions on few words, where one answer says much about the next", () => {
    for (let round = 0; round < 2000; round++) {
      const values = several(3, word);
      const near = () => BigInt.asUintN(64, pick(values) + BigInt(below(3)) - 1n);
      const test = () => randomTest(below(2) as 0 | 1, near);
      const rules = several(1 + below(6), (): Rule => {
        return { call: "read", action: randomAction(), when: several(1 + below(3), () => randomCondition(test)) };
      });
      const filter: Filter = { machine, default: randomAction(), rules };
      const program = compiled(filter);
      for (let probe = 0; probe < 30; probe++) agree(filter, program, [NUMBERS[machine].read], several(6, near));
    }
  });

  test("bridges distances that 8 bits do not hold", () => {
    const rules = names.slice(0, 250).map((call, index): Rule => {
      return { call, action: { errno: index }, when: [{ arg: 3, op: "gt", value: 2n ** 40n + BigInt(index) }] };
    });
    const filter: Filter = { machine, default: "allow", rules };
    const program = compiled(filter);
    expect(disassemble(program)).toMatch(/ {2}goto \d+$/m);
    for (const given of [0n, 2n ** 40n + 100n, TOP])
      agree(filter, program, [...EVERY, ...STRANGE], Array(6).fill(given));
  });

  test("finds a number in logarithmic time", () => {
    const rules = names.map((call, index): Rule => ({ call, action: { errno: index } }));
    const program = compiled({ machine, default: "kill-process", rules });
    const steps = EVERY.map((nr) => interpret(program, { nr, arch: ARCH[machine], args: [] }).steps);
    // Three before the search, one result, and a halving a step; the first two halvings may take a jump more.
    expect(Math.max(...steps)).toBeLessThanOrEqual(3 + 1 + Math.ceil(Math.log2(2 * names.length)) + 2);
  });

  test("skips a call that only the other machine has", () => {
    const other = machine === "x64" ? "arm64" : "x64";
    const foreign = Object.keys(NUMBERS[other]).filter((name) => !(name in NUMBERS[machine])) as SyscallName[];
    const bare = compile({ machine, default: DENY, rules: [] });
    // x64 has had every call that arm64 has.
    expect(foreign.includes("open")).toBe(machine === "arm64");
    expect(compile({ machine, default: DENY, rules: foreign.map((call) => ({ call, action: "allow" })) })).toEqual(
      bare,
    );
  });
});

describe("compile()", () => {
  const x64 = (rules: readonly Rule[], otherwise: Action = DENY): Filter => ({
    machine: "x64",
    default: otherwise,
    rules,
  });

  test("merges neighbours that are treated alike", () => {
    const rules = (["write", "read", "close", "open", "lseek"] as const).map(
      (call): Rule => ({ call, action: "allow" }),
    );
    expect(disassemble(compile(x64(rules)))).toBe(
      [
        "   0  load arch",
        "   1  if == 0xc000003e goto 2 else 9           ; X86_64",
        "   2  load nr",
        "   3  if >= 0x8 goto 5 else 4                  ; lseek",
        "   4  if >= 0x4 goto 7 else 8                  ; stat",
        "   5  if >= 0x9 goto 6 else 8                  ; mmap",
        "   6  if >= 0x40000000 goto 9 else 7",
        "   7  return errno EPERM",
        "   8  return allow",
        "   9  return kill-process",
        "",
      ].join("\n"),
    );
  });

  test("takes the first rule that matches, and the default where none does", () => {
    const rules: Rule[] = [
      { call: "read", action: { errno: 7 }, when: [{ arg: 0, op: "eq", value: 7n }] },
      { call: "read", action: "kill-process", when: [{ arg: 0, op: "le", value: 7n }] },
      {
        call: "read",
        action: "allow",
        when: [
          { arg: 0, op: "ge", value: 100n },
          { arg: 1, op: "eq", value: 0n },
        ],
      },
    ];
    const program = compiled(x64(rules));
    const results = [[7n], [6n], [8n], [100n, 0n], [100n, 1n]].map((args) => {
      return interpret(program, { nr: 0, arch: ARCH.x64, args }).result;
    });
    expect(results).toEqual([0x50007, KILL, 0x50001, ALLOW, 0x50001]);
  });

  test("throws RangeError with advice for more than 4096 instructions", () => {
    const values = (count: number) =>
      x64(
        [...Array(count).keys()].map((n) => ({
          call: "ioctl",
          action: "allow",
          when: [{ arg: 1, op: "eq", value: BigInt(n) }],
        })),
      );
    // An instruction a value, and the frame.
    expect(compiled(values(4000)).length / 8).toBeWithin(4000, 4097);
    expect(() => compile(values(4097))).toThrow(
      /^Cannot compile the filter: it needs \d+ instructions, 4096 are expected at most; the most are for ioctl \(\d+\): .*mask/,
    );
    expect(() => compile(values(100_000))).toThrow(RangeError);
  });

  test("names the calls that cost most, where there is no room", () => {
    const costly = (call: SyscallName, count: number): Rule => {
      return { call, action: "allow", when: [{ any: several(count, (n) => ({ arg: 1, op: "eq", value: 2 * n })) }] };
    };
    const rules = [costly("fcntl", 10), costly("socket", 2000), costly("ioctl", 3000), costly("kill", 20)];
    expect(() => compile(x64(rules))).toThrow(/the most are for ioctl \(30\d\d\), socket \(20\d\d\), kill \(2\d\):/);
  });

  test("says what follows several conditions once, however many ways lead there", () => {
    const either = (arg: 0 | 1 | 2 | 3 | 4): Condition => ({
      any: several(
        3,
        (n): Condition => ({ all: [1, 2].map((m): Condition => ({ arg, op: "masked", mask: m << n, value: 0 })) }),
      ),
    });
    // Unrolled, these were 3^5 ways; each test is there once, with its load.
    const when = ([0, 1, 2, 3, 4] as const).map(either);
    const size = (rule: Rule) => compiled(x64([rule])).length / 8;
    expect(size({ call: "read", action: "allow", when }) - size({ call: "read", action: "allow" })).toBeLessThan(
      5 * 6 + 5 + 2,
    );
  });

  test("asks nothing whose answer follows from what was asked before", () => {
    const when = (...when: Condition[]) => compiled(x64([{ call: "read", action: "allow", when }]));
    const low: Condition = { arg: 0, op: "masked", mask: 0xffffffff, value: 5 };
    const program = when(low);
    expect(when(low, { arg: 0, op: "masked", mask: 1, value: 1 })).toEqual(program);
    expect(when(low, { arg: 0, op: "masked", mask: 0xf, value: 5 }, low)).toEqual(program);
    expect(
      when(low, {
        any: [
          { arg: 0, op: "ne", value: 7 },
          { arg: 1, op: "eq", value: 7 },
        ],
      }),
    ).toEqual(program);
    expect(when({ arg: 0, op: "le", value: 9 }, { arg: 0, op: "lt", value: 20 })).toEqual(
      when({ arg: 0, op: "le", value: 9 }),
    );
    expect(when({ arg: 0, op: "ge", value: 0 })).toEqual(when({ arg: 5, op: "le", value: TOP }));
    expect(when({ arg: 0, op: "gt", value: TOP })).toEqual(compiled(x64([{ call: "read", action: DENY }])));
  });

  test("loads a word once for all tests of it", () => {
    const values = several(20, (n): Condition => ({ arg: 1, op: "masked", mask: 0xffffffff, value: 7 * n }));
    const text = disassemble(compiled(x64([{ call: "ioctl", action: "allow", when: [{ any: values }] }])));
    expect(text.match(/load args/g)).toHaveLength(1);
  });
});

/** Installs a filter on its only JavaScript thread, makes calls, and prints what they answered. */
const CHILD = `
import { dlopen, ptr, read } from "bun:ffi";
const { program, seccomp, prctl, probes } = JSON.parse(process.argv.at(-1));
const word = "i64";
const libc = dlopen("libc.so.6", {
  syscall: { args: Array(7).fill(word), returns: word },
  __errno_location: { args: [], returns: "ptr" },
}).symbols;
const errno = libc.__errno_location();
const call = (number, ...args) => {
  const words = Array.from({ length: 6 }, (_, index) => BigInt.asIntN(64, BigInt(args[index] ?? 0)));
  const result = libc.syscall(BigInt(number), ...words);
  return Number(result) === -1 ? -read.i32(errno) : Number(result);
};
if (program !== null) {
  const bytes = Buffer.from(program, "hex");
  const fprog = new BigUint64Array([BigInt(bytes.length / 8), BigInt(ptr(bytes))]);
  if (call(prctl, 38, 1) !== 0) throw new Error("no_new_privs");
  const installed = call(seccomp, 1, 0, ptr(fprog));
  if (installed !== 0) throw new Error("seccomp answered " + installed);
}
console.log(JSON.stringify(probes.map(([number, ...args]) => call(number, ...args))));
`;

type Probe = readonly [number: number, ...args: bigint[]];

async function inChild(
  filter: Filter | null,
  probes: readonly Probe[],
): Promise<{ answers: number[] | null; signal: string | number | null }> {
  const { seccomp, prctl } = NUMBERS[here];
  const program = filter === null ? null : Buffer.from(compile(filter)).toString("hex");
  const task = JSON.stringify({ program, seccomp, prctl, probes }, (_, value) =>
    typeof value === "bigint" ? `${value}` : value,
  );
  const child = Bun.spawn([process.execPath, "-e", CHILD, "--", task], { stdout: "pipe", stderr: "pipe" });
  const [out, error] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  if (child.exitCode !== 0 && child.signalCode === null) throw new Error(error);
  return { answers: out === "" ? null : JSON.parse(out), signal: child.signalCode };
}

const here: Machine = process.arch === "arm64" ? "arm64" : "x64";
const numbers = NUMBERS[here];
const mode = process.platform === "linux" ? await Bun.file("/proc/sys/kernel/seccomp/actions_avail").exists() : false;
const required = (process.env.CAISSON_REQUIRE ?? "").split(",").includes("seccomp");
if (!mode) console.log("bpf.test.ts: skips the kernel's own verdict, for it has no seccomp filters");

describe.skipIf(!mode && !required)("the kernel, given a compiled filter", () => {
  const filter = (...rules: Rule[]): Filter => ({ machine: here, default: "allow", rules });

  test("answers a denied call with its errno, and makes it without the filter", async () => {
    const probes: Probe[] = [[numbers.getppid], [numbers.getpid]];
    const { answers } = await inChild(filter({ call: "getppid", action: { errno: 99 } }), probes);
    expect(answers?.[0]).toBe(-99);
    expect(answers?.[1]).toBeGreaterThan(0);
    expect((await inChild(null, probes)).answers?.[0]).toBe(process.pid);
  });

  test("tells kill() by its arguments, all 64 bits of them", async () => {
    const pid = BigInt(process.pid);
    const target: Test[] = [
      { arg: 0, op: "eq", value: pid },
      { arg: 1, op: "masked", mask: 0xffffffffn, value: 0n },
    ];
    const probes: Probe[] = [
      [numbers.kill, pid, 0n],
      [numbers.kill, pid, 2n ** 32n],
      [numbers.kill, pid + 2n ** 32n, 0n], // the kernel takes an int, so this is the same process
    ];
    const { answers } = await inChild(filter({ call: "kill", action: { errno: 98 }, when: target }), probes);
    expect(answers).toEqual([-98, -98, 0]);
    expect((await inChild(null, probes)).answers).toEqual([0, 0, 0]);
  });

  test("agrees with the rules on random tests in a program that needs long jumps", async () => {
    // getppid looks at no argument, so it answers whatever they are. The last test of a rule keeps it from matching all probes.
    const rules = Array.from({ length: 300 }, (_, index): Rule => {
      const rare: Test = { arg: argument(), op: "eq", value: (BigInt(random()) << 32n) | BigInt(random()) };
      const when = [randomTest(), randomTest()].slice(index % 3);
      return { call: "getppid", action: { errno: 1 + index }, when: [...when, rare] };
    });
    const policy = filter(...rules);
    expect(disassemble(compile(policy))).toMatch(/ {2}goto \d+$/m);
    const probes = rules.map(({ when }): Probe => {
      const args = several(6, word);
      for (const { arg, value } of wordsOf(when!)) args[arg] = value;
      return [numbers.getppid, ...args];
    });
    const { answers } = await inChild(policy, probes);
    const expected = probes.map(([nr, ...args]) => {
      const result = evaluate(policy, nr, args);
      return result === ALLOW ? process.pid : -(result & 0xffff);
    });
    expect({ seed, answers }).toEqual({ seed, answers: expected });
    expect(new Set(expected).size).toBeGreaterThan(20);
  });

  test("ends the process with SIGSYS for a killed call", async () => {
    const killed = await inChild(filter({ call: "getppid", action: "kill-process" }), [[numbers.getppid]]);
    expect(killed).toEqual({ answers: null, signal: "SIGSYS" });
  });

  test.skipIf(here !== "x64")(
    "ends the process for a number with the x32 bit and for -1, which answer ENOSYS without the filter",
    async () => {
      for (const number of [X32 | numbers.getpid, -1, 1 << 31]) {
        expect(await inChild(filter(), [[number]])).toEqual({ answers: null, signal: "SIGSYS" });
        expect((await inChild(null, [[number]])).answers).toEqual([-38]);
      }
    },
  );
});
