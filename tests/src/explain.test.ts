// `caisson explain`: what is asked, what a policy of each kind says, and that what it says is so.
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { argumentsOf } from "../../src/argument.ts";
import { answer, questionOf } from "../../src/explain.ts";
import { UsageError } from "../../src/flags.ts";
import { extend } from "../../src/policy.ts";

const home = realpathSync(mkdtempSync(join(tmpdir(), "caisson-explain-")));
afterAll(() => rmSync(home, { recursive: true }));
mkdirSync(join(home, "data/deep"), { recursive: true });
writeFileSync(join(home, "data/file"), "");
writeFileSync(join(home, "other"), "");
const at = (path: string) => join(home, path);

let files = 0;
function fileOf(policy: unknown): string {
  const path = at(`policy${++files}.json`);
  writeFileSync(path, typeof policy === "string" ? policy : JSON.stringify(policy));
  return path;
}

function ask(policy: unknown, ...args: readonly string[]) {
  return answer(questionOf([`--policy=${fileOf(policy)}`, ...args])!);
}

describe("questionOf()", () => {
  test("takes flags up to the call", () => {
    const question = { policy: "p", of: "program", json: true, call: "read", args: ["-1", "--json"] } as const;
    expect(questionOf(["--policy=p", "--program", "--json", "read", "-1", "--json"])).toEqual(question);
    expect(questionOf(["--json", "--program", "--policy", "p", "read", "-1", "--json"])).toEqual(question);
    expect(questionOf(["--policy=a=b"])).toEqual({ policy: "a=b", of: "actor", json: false, args: [] });
    expect(questionOf(["--policy=p", "--help"])).toBeUndefined();
  });

  for (const [args, told] of [
    [[], "a policy is expected"],
    [["read"], "a policy is expected"],
    [["--policy"], "a policy is expected"],
    [["--policy="], "a policy is expected"],
    [["--policy=a", "--policy=b"], "Cannot use --policy twice"],
    [["--polcy=a"], "did you mean --policy?"],
    [["--json=yes", "--policy=a"], "there is no such flag"],
  ] as const)
    test(`throws UsageError for ${JSON.stringify(args)}`, () => {
      expect(() => questionOf(args)).toThrow(UsageError);
      expect(() => questionOf(args)).toThrow(told);
    });
});

describe("argumentsOf()", () => {
  const cwd = 0xffff_ffff_ffff_ff9cn;
  for (const [call, texts, words, paths] of [
    ["socket", ["AF_INET", "SOCK_STREAM|SOCK_CLOEXEC", "0"], [2n, 0x80001n, 0n], []],
    [
      "openat",
      ["AT_FDCWD", "/etc/passwd", "O_WRONLY | O_CREAT", "0644"],
      [cwd, 0n, 0x41n, 0o644n],
      [[1, "/etc/passwd"]],
    ],
    ["openat", ["/etc/passwd", "O_RDONLY"], [cwd, 0n, 0n], [[1, "/etc/passwd"]]],
    ["openat", ["3", "./x"], [3n, 0n], [[1, "./x"]]],
    ["renameat", ["./a", "./b"], [cwd, 0n, cwd, 0n], [[1, "./a"], [3, "./b"]]], // biome-ignore format: pairs
    ["open", ["'/a b'"], [0n], [[0, "/a b"]]],
    ["symlinkat", ["0", "/x"], [0n, cwd, 0n], [[2, "/x"]]],
    ["kill", ["-1", "SIGKILL"], [2n ** 64n - 1n, 9n], []],
    ["ioctl", ["0", "TIOCSTI"], [0n, 0x5412n], []],
    ["clone", ["CLONE_NEWUSER|CLONE_THREAD"], [0x10010000n], []],
    ["read", ["0xffffffffffffffff", "18446744073709551615", "NULL"], [2n ** 64n - 1n, 2n ** 64n - 1n, 0n], []],
    ["mmap", ["0", "4096", "PROT_READ|PROT_EXEC", "MAP_PRIVATE"], [0n, 4096n, 5n, 2n], []],
    ["fcntl", ["0", "F_SETFL"], [0n, 4n], []],
  ] as const)
    test(`reads ${call} ${texts.join(" ")}`, () =>
      expect(argumentsOf(call, texts)).toEqual({ words: [...words], paths: new Map(paths as never) }));

  for (const [call, texts, told] of [
    ["openat", ["O_RDNLY"], "did you mean O_RDONLY?"],
    ["openat", ["etc/passwd"], "a path that begins with / or ."],
    ["socket", ["/etc/passwd"], "argument 1 of socket is no path"],
    ["read", ["18446744073709551616"], "expected a number of 64 bits"],
    ["read", ["1", "2", "3", "4", "5", "6", "7"], "no call has more than 6"],
    ["read", ["O_RDONLY|"], "Cannot understand"],
    ["read", [""], "Cannot understand"],
    ["read", ["constructor"], "Cannot understand"],
  ] as const)
    test(`throws UsageError for ${call} ${JSON.stringify(texts)}`, () => {
      expect(() => argumentsOf(call, texts)).toThrow(UsageError);
      expect(() => argumentsOf(call, texts)).toThrow(told);
    });
});

describe("answer() of a sandbox", () => {
  const read = { read: [at("data")] };
  const both = { read: [at("data")], write: [at("data/deep")] };
  const cases: readonly (readonly [object, readonly string[], boolean, string])[] = [
    [{}, ["read", "0"], true, "rules["],
    [{}, ["openat", at("data/file")], false, `--read=${at("data/file")}`],
    [{}, ["socket", "AF_INET", "SOCK_STREAM"], false, "None: no grant allows it"],
    [{}, ["--program", "socket", "AF_INET", "SOCK_STREAM"], false, "--net=host:port"],
    [{ net: ["a.com:443"] }, ["--program", "socket", "AF_INET", "SOCK_STREAM"], true, ""],
    [{ net: ["a.com:443"] }, ["--program", "socket", "AF_INET", "SOCK_DGRAM"], false, "None: no grant allows it"],
    [{}, ["ptrace"], false, "None: no grant allows it"],
    [{}, ["--program", "clone3"], false, "refused with ENOSYS"],
    [{}, ["clone", "CLONE_NEWUSER"], false, "refused with EPERM"],
    [read, ["openat", at("data/file"), "O_RDONLY"], true, `${at("data/file")} is granted for "r"`],
    [read, ["openat", at("other")], false, `${at("other")} is not granted`],
    [read, ["openat", at("other")], false, `--read=${at("other")}`],
    [read, ["openat", at("data/../other")], false, `${at("other")} is not granted`],
    [read, ["openat", at("data/file"), "O_RDWR"], false, `--write=${at("data/file")}`],
    [read, ["openat", at("data/file"), "O_TRUNC"], false, 'granted for "r", not for "w"'],
    [read, ["openat", at("data/new"), "O_WRONLY|O_CREAT"], false, `--write=${at("data")}`],
    [read, ["stat", home], true, ""],
    [read, ["stat", "/etc"], false, "--read=/etc"],
    [both, ["openat", at("data/deep/new"), "O_WRONLY|O_CREAT"], true, `${at("data/deep")} is granted`],
    [both, ["mkdir", at("data/new")], false, `--write=${at("data")}`],
    [both, ["rename", at("data/deep/a"), at("data/deep/b")], true, ""],
    [both, ["rename", at("data/deep/a"), at("data/b")], false, `--write=${at("data/deep")} and --write=${at("data")}`],
    [both, ["openat", "/proc/1/environ"], false, "None: no grant allows it"],
    [both, ["openat", "/"], false, "None: no grant allows it"],
    [{ run: ["/bin/sh"] }, ["--program", "execve", "/bin/sh"], true, ""],
    [{ run: ["/bin/sh"] }, ["--program", "execve", at("other")], false, "is not granted"],
    [{ ...read, promises: "stdio" }, ["--program", "openat", at("data/file")], false, "the promise rpath"],
    [{ ...read, promises: "stdio rpath" }, ["--program", "openat", at("data/file")], true, ""],
    [
      { promises: "stdio" },
      ["--program", "socket", "AF_INET", "SOCK_STREAM"],
      false,
      "--net=host:port and the promise inet",
    ],
    [{ promises: "stdio", onBreak: "kill" }, ["--program", "fork"], false, "killed with SIGSYS"],
    [{ promises: "" }, ["--program", "exit_group"], true, ""],
  ];
  for (const [policy, args, allowed, told] of cases)
    test(`${JSON.stringify(policy)} ${allowed ? "allows" : "refuses"} ${args.join(" ")}`, () => {
      const { text, allowed: said } = ask(policy, ...args);
      expect([said, text]).toEqual([allowed, expect.stringContaining(told)]);
    });

  test("what it says would allow a call does, as data", () => {
    for (const [policy, args, allowed] of cases) {
      if (allowed) continue;
      const { grant } = JSON.parse(ask(policy, "--json", ...args).text);
      if (grant !== undefined) expect([args, ask(extend(policy, grant), ...args).allowed]).toEqual([args, true]);
    }
  });

  test("without a call, prints the policy, even of paths that are not here", () => {
    expect(ask({ read: ["/not/here"] })).toEqual({
      text: expect.stringContaining("May read    /not/here"),
      allowed: true,
    });
    expect(JSON.parse(ask({ read: ["here"] }, "--json").text)).toEqual({ read: [at("here")] });
  });

  for (const [policy, args, told] of [
    [{}, ["opnat"], "there is no such call on x64; did you mean openat?"],
    [{}, ["toString"], "there is no such call"],
    [{ raed: [] }, ["read"], 'it has "raed": there is no such key; did you mean read?'],
    [{ net: ["a.com:443"] }, ["read"], "an actor has no network of its own"],
    [{ read: ["/not/here"] }, ["read"], "/not/here: there is no such file or directory"],
    ['{"read":["/srv"],"read":["/"]}', ["read"], '"read" stands there twice'],
    ["nonsense", ["read"], "line 1, column 1"],
    ["null", ["read"], "it is null"],
  ] as const)
    test(`throws UsageError that names the file for ${JSON.stringify(policy)} ${args.join(" ")}`, () => {
      expect(() => ask(policy, ...args)).toThrow(UsageError);
      expect(() => ask(policy, ...args)).toThrow(told);
    });

  test("throws UsageError for a directory, and for a file that is not there", () => {
    expect(() => answer(questionOf([`--policy=${home}`, "read"])!)).toThrow(`Cannot use ${home}: it is a directory`);
    expect(() => answer(questionOf(["--policy=/not/here", "read"])!)).toThrow("there is no such file or directory");
  });
});

describe("answer() of filters", () => {
  const filter = {
    machine: "x64",
    default: { errno: "EPERM" },
    rules: [
      { call: "read", action: "allow" },
      { call: "openat", action: "allow", when: [{ arg: 2, op: "masked", mask: "0x3", value: 0 }] },
      { call: "@time", action: "log" },
      { call: "ptrace", action: "kill-process" },
      { call: "mount", action: "notify" },
      { call: "getpid", action: { errno: 0 } },
    ],
  };
  for (const [call, allowed, told] of [
    [["read"], true, "rules[0] speaks of read"],
    [["0"], true, "rules[0] speaks of read"],
    [["openat", "/etc/passwd", "O_RDONLY"], true, "rules[1]"],
    [["openat", "/etc/passwd", "O_WRONLY"], false, '{"call":"openat","action":"allow"}'],
    [["clock_gettime"], true, "allowed, and logged"],
    [["ptrace"], false, "killed with SIGSYS"],
    [["mount"], false, "handed to the host, which decides"],
    [["getpid"], false, "left out, as if it had succeeded"],
    [["write"], false, "refused with EPERM"],
    [["9999"], false, "refused with EPERM"],
  ] as const)
    test(`a filter ${allowed ? "allows" : "refuses"} ${call.join(" ")}`, () =>
      expect(ask(filter, ...call)).toEqual({ text: expect.stringContaining(told), allowed }));

  const profile = {
    defaultAction: "SCMP_ACT_ERRNO",
    defaultErrnoRet: 38,
    architectures: ["SCMP_ARCH_X86_64"],
    syscalls: [
      { names: ["read", "write"], action: "SCMP_ACT_ALLOW" },
      { names: ["personality"], action: "SCMP_ACT_ALLOW", args: [{ index: 0, value: 8, op: "SCMP_CMP_EQ" }] },
    ],
  };
  for (const [call, allowed, told] of [
    [["read"], true, "allowed"],
    [["personality", "8"], true, "allowed"],
    [["personality", "9"], false, "refused with ENOSYS"],
    [["mount"], false, '{"names":["mount"],"action":"SCMP_ACT_ALLOW"}'],
  ] as const)
    test(`a profile of OCI ${allowed ? "allows" : "refuses"} ${call.join(" ")}`, () =>
      expect(ask(profile, ...call)).toEqual({ text: expect.stringContaining(told), allowed }));

  test("without a call, tells what becomes of which", () => {
    const lines = ask(filter).text.split("\n");
    expect(lines).toContain("allowed: read, openat (for some arguments)");
    expect(lines).toContain("refused, and the process is killed with SIGSYS: ptrace");
    expect(lines.at(-1)).toBe("everything else: refused with EPERM");
    expect(ask(profile).text).toContain("everything else: refused with ENOSYS");
  });

  for (const [policy, told] of [
    [{ ...filter, default: "deny" }, "deny"],
    [{ ...filter, rules: [{ call: "nothing", action: "allow" }] }, "nothing"],
    [{ ...filter, more: 1 }, "more"],
    [{ ...profile, defaultAction: "SCMP_ACT_MAYBE" }, "SCMP_ACT_MAYBE"],
  ] as const)
    test(`throws UsageError for ${JSON.stringify(policy).slice(0, 60)}`, () => {
      for (const args of [["read"], []]) {
        expect(() => ask(policy, ...args)).toThrow(UsageError);
        expect(() => ask(policy, ...args)).toThrow(told);
      }
    });
});
