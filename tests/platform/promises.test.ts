// Promises as rules, held against the interpreter: what they let through, what a refused call lacked, and what they leave of paths.
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  narrowed,
  needsPaths,
  onBreach,
  parsePromises,
  promiseFilter,
  promiseOf,
  promiseRules,
} from "../../platform/linux/promises.ts";
import { compile } from "../../platform/linux/seccomp/compile.ts";
import type { Condition } from "../../platform/linux/seccomp/filter.ts";
import { PROMISES } from "../../platform/linux/words.ts";
import type { SyscallName } from "../../syscalls/kernel.ts";
import { AF, SOCK } from "../../syscalls/linux/constants.ts";
import { AUDIT_ARCH, CLONE, ERRNO, F, MACHINE, NUMBERS, O, PROT, SECCOMP_RET } from "../../syscalls/linux/numbers.ts";
import { interpret, verify } from "./interpreter.ts";

setDefaultTimeout(30_000); // the machine may have other things to do

const program = { for: "program" } as const;
const ARCH = { x64: AUDIT_ARCH.X86_64, arm64: AUDIT_ARCH.AARCH64 } as const;
const numbers: Partial<Record<SyscallName, number>> = NUMBERS[MACHINE];
const CALLS = Object.keys(numbers) as SyscallName[];

const compiled = new Map<string, Uint8Array>();
const filterOf = (words: readonly string[]) =>
  compiled.getOrInsertComputed(words.toSorted().join(" "), () =>
    compile(promiseFilter(words, { ...program, machine: MACHINE, onBreak: "kill" })),
  );
const resultOf = (words: readonly string[], call: SyscallName, args: readonly bigint[]) =>
  interpret(filterOf(words), { nr: numbers[call]!, arch: ARCH[MACHINE], args }).result;
const allows = (words: readonly string[], call: SyscallName, args: readonly bigint[]) =>
  resultOf(words, call, args) === SECCOMP_RET.ALLOW;
const errno = (name: keyof typeof ERRNO) => SECCOMP_RET.ERRNO | ERRNO[name];

const seed = Number(process.env.CAISSON_SEED ?? Math.floor(Math.random() * 2 ** 31));
console.info(`CAISSON_SEED=${seed}`);
/** Numbers from 0 to below n, the same again for the same seed. Marsaglia's xorshift */
function randomly(): (n: number) => number {
  let state = seed || 1;
  return (n) => {
    for (const shift of [13, -17, 5]) state ^= shift > 0 ? state << shift : state >>> -shift;
    return (state >>> 0) % n;
  };
}

/** What the rules for a call compare its arguments with: elsewhere all values are one to them. */
function constantsOf(call: SyscallName): bigint[][] {
  const found = Array.from({ length: 6 }, () => new Set([0n, 1n, 0xffff_ffffn, 0xffff_ffff_ffff_ffffn, 1n << 32n]));
  const visit = (condition: Condition): void => {
    if ("all" in condition || "any" in condition) {
      for (const each of "all" in condition ? condition.all : condition.any) visit(each);
      return;
    }
    const value = BigInt(condition.value);
    const others = condition.op === "masked" ? [value | ~BigInt(condition.mask), BigInt(condition.mask)] : [value + 1n];
    for (const each of [value, value | (1n << 33n), ...others]) found[condition.arg]!.add(BigInt.asUintN(64, each));
  };
  for (const rule of promiseRules(PROMISES, program)) if (rule.call === call) rule.when?.forEach(visit);
  return found.map((values) => [...values]);
}

/** Every call of this machine with arguments at which some rule for it turns. */
function* vectors(each: number): Generator<readonly [SyscallName, bigint[]]> {
  const next = randomly();
  for (const call of CALLS) {
    const constants = constantsOf(call);
    for (let count = 0; count < each; count++) {
      yield [call, constants.map((values) => values[next(values.length)]!)] as const;
    }
  }
}

describe("parsePromises()", () => {
  test("takes words as pledge(2) does: in any order, with spaces between and behind, twice too", () => {
    expect(parsePromises("rpath stdio")).toEqual(["stdio", "rpath"]);
    expect(parsePromises("stdio  rpath stdio ")).toEqual(["stdio", "rpath"]);
    expect(parsePromises("")).toEqual([]);
  });
  for (const text of [
    " ",
    " stdio",
    "stdio\trpath",
    "stdio,rpath",
    "STDIO",
    "rpath\n",
    "all",
    "*",
    "__proto__",
    "toString",
  ]) {
    test(`throws TypeError for ${JSON.stringify(text)}`, () => {
      expect(() => parsePromises(text)).toThrow(TypeError);
    });
  }
  for (const word of ["bpf", "disklabel", "drm", "pf", "tape", "vmm"]) {
    test(`throws TypeError for ${word}, which says that it means nothing here`, () => {
      expect(() => parsePromises(`stdio ${word}`)).toThrow("Linux has no such device");
      expect(() => promiseRules([word], program)).toThrow(TypeError);
    });
  }
  test("throws TypeError for what is no text", () => {
    for (const given of [undefined, null, 1, ["stdio"]]) expect(() => parsePromises(given as never)).toThrow(TypeError);
  });
});

describe("the filter", () => {
  test("is one that the kernel takes, of all words and of none, for both machines", () => {
    for (const machine of ["x64", "arm64"] as const) {
      for (const words of [[], PROMISES, ...PROMISES.map((word) => [word])]) {
        verify(compile(promiseFilter(words, { ...program, machine, onBreak: "errno" })));
        verify(compile(promiseFilter(words, { for: "self", pid: 7, machine, onBreak: "errno" })));
      }
    }
  });
  test("of no promise lets a process end and nothing else", () => {
    for (const [call, args] of vectors(4)) {
      const ending = ["exit", "exit_group", "rt_sigreturn"].includes(call);
      expect([call, resultOf([], call, args)]).toEqual([call, ending ? SECCOMP_RET.ALLOW : SECCOMP_RET.KILL_PROCESS]);
    }
  });
  test("refuses what no promise allows, whatever else is promised", () => {
    const never = `
      ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp io_uring_setup io_uring_enter io_setup bpf keyctl
      add_key mount umount2 pivot_root chroot unshare setns open_tree move_mount fsopen perf_event_open userfaultfd
      open_by_handle_at name_to_handle_at init_module kexec_load reboot swapon syslog quotactl acct iopl ioperm modify_ldt
      remap_file_pages memfd_secret shmget shmat msgget semget mq_open vmsplice fanotify_init sethostname lookup_dcookie
      process_mrelease pkey_mprotect move_pages mbind uselib vhangup`;
    for (const call of never.trim().split(/\s+/) as SyscallName[]) {
      if (numbers[call] !== undefined) expect([call, allows(PROMISES, call, [])]).toEqual([call, false]);
    }
  });
  test("of more words allows all that fewer did: a word takes nothing", () => {
    const next = randomly();
    for (const [call, args] of vectors(6)) {
      const fewer = PROMISES.filter((_, index) => index % 3 === 0);
      const more = [...fewer, PROMISES[next(4) * 7 + 1]!];
      if (allows(fewer, call, args)) expect([call, args, allows(more, call, args)]).toEqual([call, args, true]);
    }
  });
  test("of any words allows nothing that a namespace, code in memory or a device node without its word would take", () => {
    const others = (...words: readonly string[]) => PROMISES.filter((word) => !words.includes(word));
    expect(allows(PROMISES, "clone", [CLONE.NEWUSER, 0n])).toBe(false);
    expect(allows(PROMISES, "clone", [CLONE.NEWUSER | CLONE.THREAD, 0n])).toBe(false);
    expect(allows(others("prot_exec"), "mmap", [0n, 1n, BigInt(PROT.EXEC | PROT.READ), 0x22n])).toBe(false);
    expect(allows(others("prot_exec"), "mprotect", [0n, 1n, BigInt(PROT.EXEC)])).toBe(false);
    expect(allows(others("prot_exec"), "memfd_create", [])).toBe(false);
    expect(allows(others("cpath", "tmppath"), "openat", [0n, 0n, BigInt(O.WRONLY | O.CREAT), 0o600n])).toBe(false);
    expect(allows(others("cpath", "dpath"), "mknodat", [0n, 0n, 0o010600n])).toBe(false);
    expect(allows(others("proc"), "clone", [17n])).toBe(false);
    expect(allows(others("exec"), "execve", [])).toBe(false);
  });
});

describe("open(2)", () => {
  /** By access, and what else the flags say: the words that it takes. */
  const TAKES: readonly (readonly [flags: number, words: string])[] = [
    [O.RDONLY, "rpath"], [O.WRONLY, "wpath"], [O.RDWR, "rpath wpath"], [O.RDONLY | O.DIRECTORY | O.CLOEXEC, "rpath"],
    [O.RDONLY | O.CREAT, "rpath cpath"], [O.WRONLY | O.CREAT | O.EXCL, "wpath cpath"], [O.RDONLY | O.TRUNC, "rpath wpath"],
    [O.RDWR | O.CREAT | O.TRUNC, "rpath wpath cpath"], [O.TMPFILE | O.WRONLY, "wpath cpath"], [O.TMPFILE | O.RDWR, "rpath wpath cpath"],
    [O.PATH, "rpath"], [O.APPEND | O.WRONLY, "wpath"], [O.NOFOLLOW | O.NOATIME, "rpath"],
  ]; // biome-ignore format: a table
  for (const [flags, takes] of TAKES) {
    test(`with flags 0${flags.toString(8)} takes ${takes}`, () => {
      const words = takes.split(" ");
      const args = [0n, 0n, BigInt(flags), 0o600n];
      expect(allows(words, "openat", args)).toBe(true);
      for (const word of words)
        expect(
          allows(
            PROMISES.filter(
              (each) => each !== word && !["tmppath", "tty", "dns", "getpw", "ps", "vminfo"].includes(each),
            ),
            "openat",
            args,
          ),
        ).toBe(false);
      expect(promiseOf({ call: "openat", args }, ["stdio"], program)).toBe(takes);
    });
  }
  test("with the mode of access 3 takes what no word gives", () => {
    expect(promiseOf({ call: "openat", args: [0n, 0n, 3n] }, [], program)).toBeUndefined();
  });
});

describe("what is asked for by libraries breaks nothing:", () => {
  const CASES = [
    ["stdio", "clone3", [], "ENOSYS"],
    ["rpath", "openat2", [], "ENOSYS"],
    ["dns", "socket", [AF.UNIX, SOCK.STREAM], "EACCES"],
    ["getpw", "socket", [AF.UNIX, SOCK.STREAM], "EACCES"],
    ["inet", "socket", [AF.NETLINK, SOCK.RAW], "EAFNOSUPPORT"],
    ["inet", "socket", [AF.INET, SOCK.STREAM, 262], "EPROTONOSUPPORT"],
    ["stdio", "readlink", [], "EACCES"],
  ] as const;
  for (const [word, call, args, name] of CASES) {
    test(`${call} with ${word} is ${name}`, () => {
      if (numbers[call] === undefined) return;
      expect(resultOf([word], call, args.map(BigInt))).toBe(errno(name));
      expect(resultOf([], call, args.map(BigInt))).toBe(SECCOMP_RET.KILL_PROCESS);
    });
  }
  test("openat for reading alone by this process, whose garbage collector does so, is EACCES", () => {
    const filter = compile(promiseFilter(["stdio"], { for: "self", pid: 1, machine: MACHINE, onBreak: "kill" }));
    const opened = (flags: number) =>
      interpret(filter, { nr: numbers.openat!, arch: ARCH[MACHINE], args: [0n, 0n, BigInt(flags)] }).result;
    expect(opened(O.RDONLY | O.CLOEXEC)).toBe(errno("EACCES"));
    for (const flags of [O.WRONLY, O.RDWR, O.CREAT, O.TRUNC, O.TMPFILE])
      expect(opened(flags)).toBe(SECCOMP_RET.KILL_PROCESS);
  });
  test("and a word of its own lets it through", () => {
    expect(allows(["dns", "unix"], "socket", [BigInt(AF.UNIX), BigInt(SOCK.STREAM)])).toBe(true);
    expect(allows(["inet", "route"], "socket", [BigInt(AF.NETLINK), BigInt(SOCK.RAW)])).toBe(true);
  });
});

describe("promiseOf()", () => {
  test("names words that allow the call, none of them in vain, and undefined where it is allowed or nothing would", () => {
    for (const words of [[], ["stdio"], ["stdio", "rpath", "inet"]]) {
      for (const [call, args] of vectors(2)) {
        const lacked = promiseOf({ call, args }, words, program);
        const added = lacked?.split(" ") ?? [];
        if (lacked === undefined) {
          expect([call, args, allows(PROMISES, call, args)]).toEqual([call, args, allows(words, call, args)]);
        } else {
          expect([call, args, lacked, allows([...words, ...added], call, args)]).toEqual([call, args, lacked, true]);
          for (const word of added) {
            const without = [...words, ...added.filter((each) => each !== word)];
            expect([call, args, lacked, allows(without, call, args)]).toEqual([call, args, lacked, false]);
          }
        }
      }
    }
  });
  const CASES = [
    ["socket", [AF.INET, SOCK.STREAM], "inet"],
    ["socket", [AF.UNIX, SOCK.STREAM], "unix"],
    ["socket", [AF.NETLINK, SOCK.RAW], "route"],
    ["execve", [], "exec"],
    ["clone", [17], "proc"],
    ["mkdirat", [0, 0, 0o700], "cpath"],
    ["mknodat", [0, 0, 0o010600], "dpath"],
    ["fchmodat", [0, 0, 0o600], "fattr"],
    ["fchownat", [0, 0, 5, 5], "chown"],
    ["fcntl", [0, F.SETLK], "flock"],
    ["sendmsg", [], "sendfd"],
    ["recvmsg", [], "recvfd"],
    ["setresuid", [], "id"],
    ["clock_settime", [], "settime"],
    ["landlock_restrict_self", [], "unveil"],
    ["getpid", [], undefined],
    ["ptrace", [], undefined],
  ] as const;
  for (const [call, args, lacked] of CASES) {
    test(`of ${call}(${args.join(", ")}) from stdio is ${lacked}`, () => {
      expect(promiseOf({ call, args: args.map(BigInt) }, ["stdio"], program)).toBe(lacked);
    });
  }
});

describe("whose they are:", () => {
  const self = { for: "self", pid: 1234 } as const;
  const rule = (whose: typeof self | { for: "program"; pid?: number }, call: SyscallName, ...args: number[]) =>
    promiseOf({ call, args: args.map(BigInt) }, ["stdio"], whose);
  test("a process signals itself alone, where its id is known", () => {
    for (const whose of [self, { for: "program", pid: 1234 } as const]) {
      for (const call of ["kill", "tgkill", "rt_sigqueueinfo"] as const) {
        expect(rule(whose, call, 1234)).toBeUndefined();
        expect(rule(whose, call, 1235)).toBe("proc");
      }
      expect(rule(whose, "tkill", 1234)).toBe("proc");
    }
  });
  test("of a program whose id is not known yet, its PID namespace says whom it reaches", () => {
    expect(rule(program, "tgkill", 5, 5)).toBeUndefined();
    expect(rule(program, "kill", 0)).toBeUndefined();
    expect(rule(program, "kill", 5)).toBe("proc");
    expect(rule(program, "kill", 0xffffffff)).toBe("proc");
  });
  test("only who starts programs, or is one, maps code of files: there are libraries to load", () => {
    const [PRIVATE, SHARED, ANONYMOUS] = [2, 1, 0x20];
    expect(rule(program, "mmap", 0, 1, PROT.READ | PROT.EXEC, PRIVATE)).toBeUndefined();
    expect(rule(program, "mmap", 0, 1, PROT.READ | PROT.EXEC, SHARED)).toBe("prot_exec");
    expect(rule(program, "mmap", 0, 1, PROT.READ | PROT.EXEC, PRIVATE | ANONYMOUS)).toBe("prot_exec");
    expect(rule(program, "mmap", 0, 1, PROT.WRITE | PROT.EXEC, PRIVATE)).toBe("prot_exec");
    const code = { call: "mmap", args: [0, 1, PROT.READ | PROT.EXEC, PRIVATE].map(BigInt) } as const;
    expect(promiseOf(code, ["stdio"], self)).toBe("prot_exec");
    expect(promiseOf(code, ["stdio", "exec"], self)).toBeUndefined();
  });
});

test("onBreach() is SIGSYS, EPERM, or ENOSYS where `error` was promised", () => {
  expect(onBreach(["stdio"], "kill")).toBe("kill-process");
  expect(onBreach(["stdio"], "errno")).toEqual({ errno: "EPERM" });
  expect(onBreach(["stdio", "error"], "kill")).toEqual({ errno: "ENOSYS" });
  expect(onBreach(["stdio", "error"], "errno")).toEqual({ errno: "ENOSYS" });
});

describe("narrowed()", () => {
  const paths = [
    { path: "/srv", permissions: "rwxc" },
    { path: "/etc", permissions: "r" },
    { path: "/tmp/work", permissions: "rw" },
  ];
  const CASES: readonly (readonly [words: string, left: Readonly<Record<string, string>>])[] = [
    ["", {}],
    ["stdio", {}],
    ["rpath", { "/srv": "r", "/etc": "r", "/tmp/work": "r" }],
    ["wpath", { "/srv": "w", "/tmp/work": "w" }],
    ["rpath wpath cpath exec", { "/srv": "rwxc", "/etc": "r", "/tmp/work": "rw" }],
    ["cpath", { "/srv": "c" }],
    ["exec", { "/srv": "x" }],
    ["getpw", { "/etc/passwd": "r", "/etc/group": "r", "/etc/nsswitch.conf": "r" }],
    ["tmppath", { "/tmp/work": "rw" }],
    ["rpath tmppath", { "/srv": "r", "/etc": "r", "/tmp/work": "rw" }],
    ["tty ps", {}], // neither /dev nor /proc was granted
  ];
  for (const [words, left] of CASES) {
    test(`of "${words}"`, () => {
      const kept = narrowed(paths, parsePromises(words));
      expect(Object.fromEntries(kept.map(({ path, permissions }) => [path, permissions]))).toEqual(left);
    });
  }
  test("of a whole file system leaves a word's own files", () => {
    expect(narrowed([{ path: "/", permissions: "rwxc" }], ["stdio", "tmppath", "tty"])).toEqual([
      { path: "/tmp", permissions: "rwc" },
      { path: "/dev/tty", permissions: "rw" },
    ]);
  });
  test("adds nothing to what was granted", () => {
    const granted = (path: string) =>
      paths.flatMap((each) => (`${path}/`.startsWith(`${each.path}/`) ? [...each.permissions] : []));
    for (const { path, permissions } of narrowed(paths, PROMISES))
      for (const each of permissions) expect(granted(path)).toContain(each);
  });
});

test("needsPaths() is true where a filter cannot tell a word's own files from others", () => {
  for (const words of ["tmppath", "rpath wpath tmppath", "getpw", "dns", "tty rpath", "ps", "vminfo"])
    expect([words, needsPaths(words.split(" "))]).toEqual([words, true]);
  for (const words of ["stdio", "rpath getpw dns ps", "rpath wpath tty", "rpath wpath cpath tmppath", "inet proc"])
    expect([words, needsPaths(words.split(" "))]).toEqual([words, false]);
});
