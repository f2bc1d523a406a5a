import { describe, expect, test } from "bun:test";
import { type Action, compile, disassemble, type Filter, type Rule, type Test } from "../../platform/linux/bpf.ts";
import { type Machine, NUMBERS, type SyscallName } from "../../syscalls/linux/numbers.ts";
import { interpret, verify } from "./interpreter.ts";

const MACHINES = ["x64", "arm64"] as const;
const ARCH = { x64: 0xc000003e, arm64: 0xc00000b7 } as const;
const X32 = 0x40000000;
const ALLOW = 0x7fff0000;
const KILL = 0x80000000;
const DENY: Action = { errno: 1 };
const TOP = 2n ** 64n - 1n;
const EDGES = [0n, 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 32n + 1n, 2n ** 63n, TOP];
/** Every number up to 2000, the same with the x32 bit, and the ends of the range. */
const EVERY = Array.from({ length: 2001 }, (_, number) => number);
const STRANGE = [...EVERY.map((number) => X32 | number), -1, 1 << 31, 2 ** 31 - 1, X32 - 1, 0xfff, 0xffff];

const seed = Number(process.env.CAISSON_SEED ?? Date.now() % 2 ** 32);
console.log(`bpf.test.ts: CAISSON_SEED=${seed}`);

/** mulberry32. */
function generator(state: number): () => number {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  };
}
const random = generator(seed);
const below = (limit: number) => random() % limit;
const pick = <T>(list: readonly T[]): T => list[below(list.length)]!;

/** A word near an edge, or of any size. */
function word(): bigint {
  if (below(2) === 0) return BigInt.asUintN(64, pick(EDGES) + BigInt(below(3)) - 1n);
  return ((BigInt(random()) << 32n) | BigInt(random())) >> BigInt(below(64));
}

const argument = () => below(6) as Test["arg"];

function randomTest(): Test {
  const op = pick(["eq", "ne", "lt", "le", "gt", "ge", "masked"] as const);
  if (op !== "masked") return { arg: argument(), op, value: word() };
  const mask = word();
  return { arg: argument(), op, mask, value: word() & mask };
}

const randomAction = (): Action => pick<Action>(["allow", "kill", { errno: below(4096) }]);

function randomFilter(machine: Machine): Filter {
  const names = Object.keys({ ...NUMBERS.x64, ...NUMBERS.arm64 }) as SyscallName[];
  const always = new Map<SyscallName, Action>(); // a second one has to agree with the first
  const rules = Array.from({ length: below(pick([2, 30, 300])) }, (): Rule => {
    const call = pick(names);
    if (below(3) > 0) return { call, action: always.getOrInsertComputed(call, randomAction) };
    return { call, action: randomAction(), when: Array.from({ length: 1 + below(3) }, randomTest) };
  });
  return { machine, default: randomAction(), rules };
}

function holds(claim: Test, args: readonly bigint[]): boolean {
  const arg = args[claim.arg]!;
  if (claim.op === "eq") return arg === claim.value;
  if (claim.op === "ne") return arg !== claim.value;
  if (claim.op === "lt") return arg < claim.value;
  if (claim.op === "le") return arg <= claim.value;
  if (claim.op === "gt") return arg > claim.value;
  if (claim.op === "ge") return arg >= claim.value;
  return claim.op === "masked" && (arg & claim.mask) === claim.value;
}

const resultOf = (action: Action) => (action === "allow" ? ALLOW : action === "kill" ? KILL : 0x50000 + action.errno);

/** The rules as they read. */
function evaluate({ machine, rules, default: otherwise }: Filter, nr: number, args: readonly bigint[]): number {
  if (machine === "x64" && nr >>> 0 >= X32) return KILL;
  const numbers: Partial<Record<SyscallName, number>> = NUMBERS[machine];
  const rule = rules.find(
    ({ call, when }) => numbers[call] === nr && (when ?? []).every((claim) => holds(claim, args)),
  );
  return resultOf(rule?.action ?? otherwise);
}

const compiled = (filter: Filter) => {
  const program = compile(filter);
  verify(program);
  return program;
};

/** Fails for the first call that the program treats differently from the rules. */
function agree(filter: Filter, program: Uint8Array, numbers: readonly number[], args: readonly bigint[]): void {
  for (const nr of numbers) {
    const { result } = interpret(program, { nr, arch: ARCH[filter.machine], args });
    if (result !== evaluate(filter, nr, args)) {
      expect({ seed, nr, args, result }).toEqual({ seed, nr, args, result: evaluate(filter, nr, args) });
    }
  }
}

describe.each(MACHINES)("compile() for %s", (machine) => {
  const names = Object.keys(NUMBERS[machine]) as SyscallName[];

  test.each(["allow", "kill", DENY] as const)("without rules does %p for every number", (action) => {
    const filter: Filter = { machine, default: action, rules: [] };
    const program = compiled(filter);
    agree(filter, program, [...EVERY, ...STRANGE], []);
    expect(interpret(program, { nr: 0, arch: ARCH[machine], args: [] }).result).toBe(resultOf(action));
  });

  test("decides every number as the rules do", () => {
    const rules = names.map((call, index): Rule => ({ call, action: pick(["allow", "kill", { errno: index }]) }));
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
        const number = (NUMBERS[machine] as Partial<Record<SyscallName, number>>)[call];
        if (number === undefined || when.length === 0) continue;
        const args = Array.from({ length: 6 }, word);
        for (const { arg, value } of when) args[arg] = BigInt.asUintN(64, value + BigInt(below(3)) - 1n);
        agree(filter, program, [number], args);
        for (const { arg, value } of when) args[arg] = value;
        agree(filter, program, [number], args);
      }
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
    const program = compiled({ machine, default: "kill", rules });
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
  const readWhen = (...when: readonly Test[]) => x64([{ call: "read", action: "allow", when }]);

  test("merges neighbours that are treated alike", () => {
    const rules = (["write", "read", "close", "open", "lseek"] as const).map(
      (call): Rule => ({ call, action: "allow" }),
    );
    expect(disassemble(compile(x64(rules)))).toBe(
      [
        "   0  load arch",
        "   1  if == 0xc000003e goto 2 else 9",
        "   2  load nr",
        "   3  if >= 0x8 goto 5 else 4",
        "   4  if >= 0x4 goto 8 else 6",
        "   5  if >= 0x9 goto 7 else 6",
        "   6  return allow",
        "   7  if >= 0x40000000 goto 9 else 8",
        "   8  return errno 1",
        "   9  return kill",
        "",
      ].join("\n"),
    );
  });

  test("takes the first rule that matches, and the default where none does", () => {
    const rules: Rule[] = [
      { call: "read", action: { errno: 7 }, when: [{ arg: 0, op: "eq", value: 7n }] },
      { call: "read", action: "kill", when: [{ arg: 0, op: "le", value: 7n }] },
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

  test("throws TypeError for a call that no machine has", () => {
    for (const name of ["opn", "toString", "__proto__", ""]) {
      const rule = { call: name as SyscallName, action: "allow" } as const;
      expect(() => compile(x64([rule]))).toThrow(
        new TypeError(`Cannot compile a rule for ${name}: no machine has such a call`),
      );
    }
  });

  test("throws TypeError for rules that contradict each other, also with others between them", () => {
    const between: Rule = { call: "read", action: "allow", when: [{ arg: 0, op: "eq", value: 0n }] };
    const contradiction = new TypeError("Cannot compile the rules for read: they contradict each other");
    expect(() => compile(x64([{ call: "read", action: "allow" }, between, { call: "read", action: "kill" }]))).toThrow(
      contradiction,
    );
    expect(() =>
      compile(
        x64([
          { call: "read", action: { errno: 1 } },
          { call: "read", action: { errno: 2 } },
        ]),
      ),
    ).toThrow(contradiction);
    expect(() =>
      compile(x64([{ call: "read", action: { errno: 1 } }, between, { call: "read", action: { errno: 1 } }])),
    ).not.toThrow();
  });

  test("throws for an empty list of tests, which would widen what was meant to be narrow", () => {
    expect(() => compile(readWhen())).toThrow(TypeError);
  });

  test("throws RangeError for a word that is not one of 64 bits, and for bits outside of the mask", () => {
    expect(() => compile(readWhen({ arg: 0, op: "eq", value: -1n }))).toThrow(RangeError);
    expect(() => compile(readWhen({ arg: 0, op: "lt", value: 2n ** 64n }))).toThrow(RangeError);
    expect(() => compile(readWhen({ arg: 0, op: "masked", mask: 2n ** 64n, value: 0n }))).toThrow(RangeError);
    expect(() => compile(readWhen({ arg: 0, op: "masked", mask: 2n, value: 3n }))).toThrow(RangeError);
    expect(() => compile(readWhen({ arg: 0, op: "masked", mask: 3n, value: 3n }))).not.toThrow();
  });

  test("throws for what the types forbid", () => {
    const wrong = (rule: object) => () => compile(x64([{ call: "read", action: "allow", ...rule } as Rule]));
    expect(wrong({ action: "alow" })).toThrow(TypeError);
    expect(wrong({ action: { errno: 4096 } })).toThrow(RangeError);
    expect(wrong({ action: { errno: 1.5 } })).toThrow(RangeError);
    expect(wrong({ action: undefined })).toThrow(TypeError);
    expect(wrong({ when: [{ arg: 6, op: "eq", value: 0n }] })).toThrow(RangeError);
    expect(wrong({ when: [{ arg: 0, op: "equals", value: 0n }] })).toThrow(TypeError);
    expect(wrong({ when: [{ arg: 0, op: "eq", value: 0 }] })).toThrow(TypeError);
    expect(() => compile({ ...x64([]), machine: "mips" as Machine })).toThrow(TypeError);
    expect(() => compile({ ...x64([]), default: undefined as unknown as Action })).toThrow(TypeError);
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
    // Four instructions a value, and the frame.
    expect(compiled(values(1000)).length / 8).toBeWithin(4000, 4097);
    expect(() => compile(values(1025))).toThrow(
      /^Cannot compile the filter: it needs more than 4096 instructions; .*mask/,
    );
    expect(() => compile(values(100_000))).toThrow(RangeError);
  });
});

describe("disassemble()", () => {
  test("names data, masks, jumps and results", () => {
    const when: Test[] = [{ arg: 4, op: "masked", mask: 0xf0n, value: 0x10n }];
    const text = disassemble(
      compile({ machine: "arm64", default: "allow", rules: [{ call: "read", action: { errno: 13 }, when }] }),
    );
    for (const part of [
      "load nr",
      "load args[4].low",
      "and 0xf0",
      "if == 0x10 goto",
      "return errno 13",
      "return allow",
      "return kill",
    ]) {
      expect(text).toContain(part);
    }
  });

  test("throws RangeError for half an instruction", () => {
    expect(() => disassemble(new Uint8Array(12))).toThrow(RangeError);
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
      const args = Array.from({ length: 6 }, word);
      for (const { arg, value } of when!) args[arg] = value;
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
    const killed = await inChild(filter({ call: "getppid", action: "kill" }), [[numbers.getppid]]);
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
