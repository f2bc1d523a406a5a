import { dlopen } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  BWRAP_VERSION,
  type BwrapCommand,
  bwrapCommand,
  bwrapHelp,
  type Caller,
  type Operation,
} from "../../src/bwrap.ts";
import { BwrapError, reasonOf } from "../../src/strerror.ts";
import { errnoName, SystemError } from "../../syscalls/error.ts";
import { CAP, ERRNO } from "../../syscalls/linux/numbers.ts";
import { testIf } from "../syscalls/requirement.ts";

const EBADF = 9;

/** A caller whose descriptors 3, 4 ... give these texts, and who keeps what was said to him. */
function caller(changes: Partial<Caller> = {}, ...contents: string[]): Caller & { warnings: string[] } {
  const left = new Map(contents.map((content, index) => [index + 3, Buffer.from(content)]));
  const warnings: string[] = [];
  return {
    uid: 1000,
    gid: 1000,
    capabilities: 0n,
    userNamespaces: true,
    env: { HOME: "/home/user", LANG: "C" },
    warnings,
    warn: (message) => void warnings.push(message),
    read(descriptor) {
      const content = left.get(descriptor);
      if (content === undefined) throw new SystemError("read", EBADF);
      left.delete(descriptor);
      return content;
    },
    ...changes,
  };
}

const ROOT: Partial<Caller> = { uid: 0, gid: 0, capabilities: 0b1111n };

/** The command that these words ask for. */
function command(words: string, by: Caller = caller()): BwrapCommand {
  const result = bwrapCommand([...words.split(" ").filter(Boolean), "true"], by);
  if (typeof result === "string") throw new Error(`is ${result}, a command was expected`);
  return result;
}

describe("bwrapCommand()", () => {
  test("takes what is behind the options as the program", () => {
    expect(bwrapCommand(["--unshare-pid", "sh", "--help", "--", "x"], caller())).toMatchObject({
      argv: ["sh", "--help", "--", "x"],
      pid: true,
    });
    expect(bwrapCommand(["--", "--version"], caller())).toMatchObject({ argv: ["--version"] });
    expect(bwrapCommand([""], caller())).toMatchObject({ argv: [""] });
  });

  test.each([
    [["--help"], "help"],
    [["--bind", "/", "/", "--version", "--nonsense"], "version"],
    [[], "usage"],
    [["--unshare-all"], "usage"],
    [["--perms", "0700"], "usage"],
    [["--"], "usage"],
  ] as const)("%j is asking for %s", (args, what) => {
    expect(bwrapCommand(args, caller())).toBe(what);
  });

  const bound = { does: "bind", source: "/a", target: "/b", write: true, devices: false, optional: false } as const;
  test.each<[string, Operation]>([
    ["--bind /a /b", bound],
    ["--bind-try /a /b", { ...bound, optional: true }],
    ["--dev-bind /a /b", { ...bound, devices: true }],
    ["--dev-bind-try /a /b", { ...bound, devices: true, optional: true }],
    ["--ro-bind /a /b", { ...bound, write: false }],
    ["--ro-bind-try /a /b", { ...bound, write: false, optional: true }],
    ["--bind-fd 7 /b", { ...bound, source: 7 }],
    ["--ro-bind-fd 7 /b", { ...bound, source: 7, write: false }],
    ["--remount-ro /b", { does: "remount-ro", target: "/b" }],
    ["--proc /b", { does: "proc", target: "/b" }],
    ["--dev /b", { does: "dev", target: "/b" }],
    ["--mqueue /b", { does: "mqueue", target: "/b" }],
    ["--tmpfs /b", { does: "tmpfs", target: "/b", mode: 0o755 }],
    ["--perms 1777 --size 0x1000 --tmpfs /b", { does: "tmpfs", target: "/b", mode: 0o1777, sizeBytes: 4096n }],
    ["--size 010 --perms 0 --tmpfs /b", { does: "tmpfs", target: "/b", mode: 0, sizeBytes: 8n }],
    ["--dir /b", { does: "directory", target: "/b", mode: 0o755 }],
    ["--perms +0700 --dir /b", { does: "directory", target: "/b", mode: 0o700 }],
    ["--file 3 /b", { does: "file", descriptor: 3, target: "/b", mode: 0o666 }],
    ["--perms 640 --file 3 /b", { does: "file", descriptor: 3, target: "/b", mode: 0o640 }],
    ["--bind-data 0 /b", { does: "data", descriptor: 0, target: "/b", mode: 0o600, write: true }],
    ["--perms 444 --ro-bind-data 3 /b", { does: "data", descriptor: 3, target: "/b", mode: 0o444, write: false }],
    ["--symlink a/../b /b", { does: "symlink", to: "a/../b", target: "/b" }],
    ["--chmod 4755 /b", { does: "chmod", target: "/b", mode: 0o4755 }],
  ])("%s is one operation", (words, operation) => {
    expect(command(words).operations).toEqual([operation]);
  });

  test("keeps operations in their order, and permissions hold for one of them", () => {
    expect(command("--perms 700 --dir /a --dir /b --size 5 --tmpfs /c --tmpfs /d").operations).toEqual([
      { does: "directory", target: "/a", mode: 0o700 },
      { does: "directory", target: "/b", mode: 0o755 },
      { does: "tmpfs", target: "/c", mode: 0o755, sizeBytes: 5n },
      { does: "tmpfs", target: "/d", mode: 0o755 },
    ]);
  });

  test.each<[string, Partial<BwrapCommand>]>([
    ["", { user: true }],
    [
      "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup",
      { ipc: true, pid: true, network: true, uts: true, cgroup: true },
    ],
    ["--unshare-all", { user: true, ipc: true, pid: true, network: true, uts: true, cgroup: "try" }],
    ["--unshare-all --share-net", { pid: true, network: false }],
    ["--share-net --unshare-all", { network: true }],
    ["--unshare-cgroup --unshare-cgroup-try", { cgroup: true }],
    ["--unshare-cgroup-try --unshare-cgroup", { cgroup: true }],
    ["--userns 5 --userns2 6 --pidns 7", { user: false, userns: 5, userns2: 6, pidns: 7 }],
    ["--unshare-user --disable-userns", { user: true, disableUserns: true }],
    ["--assert-userns-disabled", { assertUsernsDisabled: true }],
    ["--unshare-uts --hostname box", { hostname: "box" }],
    ["--chdir /x --new-session --die-with-parent", { chdir: "/x", newSession: true, dieWithParent: true }],
    ["--unshare-pid --as-pid-1", { asPid1: true }],
    ["--lock-file /a --lock-file /b", { lockFiles: ["/a", "/b"] }],
    [
      "--unshare-user --sync-fd 3 --block-fd 4 --userns-block-fd 5 --info-fd 6 --json-status-fd 7",
      { syncFd: 3, blockFd: 4, usernsBlockFd: 5, infoFd: 6, jsonStatusFd: 7 },
    ],
    ["--uid 0 --gid 5", { uid: 0, gid: 5 }],
    ["--uid +0004 --gid 4294967301", { uid: 4, gid: 5 }],
  ])("%s sets what it says", (words, settings) => {
    expect(command(words)).toMatchObject(settings);
  });

  test("makes no user namespace for root unless asked to", () => {
    const user = (words: string, userNamespaces = true) => command(words, caller({ ...ROOT, userNamespaces })).user;
    expect(user("--unshare-pid")).toBe(false);
    expect(user("--unshare-user")).toBe(true);
    expect(user("--unshare-user-try")).toBe(true);
    expect(user("--unshare-user-try", false)).toBe(false);
  });

  test("changes the environment in the order that is written", () => {
    const env = (words: string) => command(words).env;
    expect(env("--setenv A 1 --unsetenv LANG")).toEqual({ HOME: "/home/user", A: "1" });
    expect(env("--setenv A 1 --clearenv --setenv B 2")).toEqual({ B: "2" });
    expect(env("--clearenv --setenv __proto__ x")).toEqual(JSON.parse('{"__proto__":"x"}'));
  });

  test("begins with root's capabilities, and with none of anybody else", () => {
    const set = (words: string, by?: Caller) => {
      const { capabilities, capabilitiesAsked } = command(words, by);
      return [capabilities, capabilitiesAsked];
    };
    const root = () => caller(ROOT);
    expect(set("")).toEqual([0n, false]);
    expect(set("", root())).toEqual([0b1111n, false]);
    expect(set("--cap-drop ALL", root())).toEqual([0n, true]);
    expect(set("--cap-drop all --cap-add CAP_KILL", root())).toEqual([1n << BigInt(CAP.KILL), true]);
    expect(set("--cap-add cap_kill --cap-drop ALL", root())).toEqual([0n, true]);
    expect(set("--cap-drop CAP_CHOWN --cap-drop 010", root())).toEqual([0b1110n, true]);
    expect(set("--cap-add Cap_Checkpoint_Restore")).toEqual([1n << 40n, true]);
    expect(set("--cap-add ALL")).toEqual([2n ** 64n - 1n, true]);
  });

  test("reads seccomp programs that are added at once, and leaves the only one to be read at the end", () => {
    expect(command("--add-seccomp-fd 4 --add-seccomp-fd 3", caller({}, "12345678", "abcdefgh")).seccomp).toEqual([
      Buffer.from("abcdefgh"),
      Buffer.from("12345678"),
    ]);
    expect(command("--seccomp 5 --seccomp 6").seccomp).toEqual([6]);
  });

  test("reads arguments from descriptors, in their place and in any number of them", () => {
    const by = caller({}, "--dir\0/b b\0", "--dir\0/c", "", "--unshare-pid\0ls\0--nonsense\0");
    const { operations, argv, pid } = command("--dir /a --args 3 --args 4 --args 5 --args 6 --dir /d", by);
    expect(operations.map((operation) => operation.target)).toEqual(["/a", "/b b", "/c", "/d"]);
    expect({ argv, pid }).toEqual({ argv: ["true"], pid: true });
    expect(command("--perms 700 --args 3", caller({}, "--dir\0/a\0")).operations).toEqual([
      { does: "directory", target: "/a", mode: 0o700 },
    ]);
    expect(bwrapCommand(["--args", "3", "--nonsense"], caller({}, "--version\0"))).toBe("version");
  });

  test("takes no more than 9000 arguments in all", () => {
    const of = (count: number) => bwrapCommand(["--args", "3", "true"], caller({}, "--new-session\0".repeat(count)));
    expect(of(8997)).toMatchObject({ newSession: true });
    expect(() => of(8998)).toThrow(new BwrapError("Exceeded maximum number of arguments 9000"));
    expect(() =>
      bwrapCommand(
        Array.from({ length: 9001 }, () => "--new-session"),
        caller(),
      ),
    ).toThrow("9000");
  });
});

const SEVERAL = ["--userns 3 --userns 4", "--chdir /a --chdir /b", "--uid 1 --uid 1", "--seccomp 3 --seccomp 4"];

/** What there is to complain about, and standard error of bubblewrap has it word by word. Descriptor 3 gives 5 bytes. */
const WRONG: readonly string[] = [
  "",
  "--unshare-all",
  "--",
  "--perms 0700 --",
  "--nonsense",
  "-",
  "-x true",
  "--Bind / / true",
  "--bind=/ / true",
  "--overlay-src /",
  "--argv0 x true",
  "--level-prefix true",
  "--unshare-time true",
  ..."bind bind-try ro-bind ro-bind-try dev-bind dev-bind-try bind-fd ro-bind-fd setenv file bind-data ro-bind-data"
    .split(" ")
    .flatMap((name) => [`--${name}`, `--${name} 1`]),
  "--symlink a",
  "--chmod 755",
  ..."args chdir remount-ro proc exec-label file-label dev tmpfs mqueue dir lock-file sync-fd block-fd userns-block-fd"
    .split(" ")
    .map((name) => `--${name}`),
  ..."info-fd json-status-fd seccomp add-seccomp-fd userns userns2 pidns unsetenv uid gid hostname cap-add cap-drop perms"
    .split(" ")
    .map((name) => `--new-session --${name}`),
  "--size",
  ..."sync-fd block-fd userns-block-fd info-fd json-status-fd seccomp add-seccomp-fd userns userns2 pidns args"
    .split(" ")
    .flatMap((name) => [`--${name} x true`, `--${name} -1`]),
  "--bind-fd 1a / true",
  "--ro-bind-fd -1 / true",
  "--file 0x3 /a true",
  "--bind-data 2147483648 /a true",
  "--ro-bind-data 99999999999999999999 /a true",
  "--uid -1 true",
  "--gid 1.5 true",
  "--uid 4294967295 true",
  "--cap-add kill true",
  "--cap-drop CAP_NONSENSE true",
  "--cap-add 64 true",
  "--cap-add -1 true",
  "--perms 8 --dir /a",
  "--perms 10000 --dir /a",
  "--perms -1 --dir /a",
  "--perms rwx --dir /a",
  "--perms 700 --perms 700 --dir /a",
  "--perms 700 --perms nonsense",
  "--perms 700 --bind / / true",
  "--perms 700 --chmod 700 / true",
  "--perms 700 --symlink a b true",
  "--perms 700 --unshare-pid true",
  "--perms 700 --size 5 --dir /a",
  "--size 5 --dir /a",
  "--size 5 --bind / / true",
  "--size 5 --size 5 --tmpfs /a",
  "--size 0 --tmpfs /a",
  "--size -5 --tmpfs /a",
  "--size +5 --tmpfs /a",
  "--size 5k --tmpfs /a",
  "--size 0x --tmpfs /a",
  "--size 08 --tmpfs /a",
  "--size 18446744073709551616 --tmpfs /a",
  "--size 9223372036854775808 --tmpfs /a",
  "--chmod 888 /a true",
  "--setenv A=B c true",
  "--unsetenv A=B true",
  "--exec-label x true",
  "--file-label x true",
  "--args 3",
  "--args 9 true",
  "--perms 700 --args 3 true",
  "--add-seccomp-fd 3 true",
  "--add-seccomp-fd 9 true",
  "--seccomp 3 --add-seccomp-fd 3 true",
  "--userns-block-fd 3 true",
  "--unshare-user --userns-block-fd 3 true",
  "--userns 3 --unshare-user true",
  "--userns 3 --unshare-all true",
  "--disable-userns true",
  "--disable-userns --userns-block-fd 3 true",
  "--unshare-user --disable-userns --userns-block-fd 3 --info-fd 1 true",
  "--hostname box true",
  "--as-pid-1 true",
  "--unshare-pid --as-pid-1 --lock-file / true",
  ...SEVERAL.map((words) => `${words} --nonsense`),
  "--unshare-uts --hostname a --hostname b --sync-fd 3 --sync-fd 3 --block-fd 3 --block-fd 3 --nonsense",
  "--info-fd 1 --info-fd 1 --json-status-fd 1 --json-status-fd 1 --gid 1 --gid 1 --pidns 3 --pidns 3 --nonsense",
  "--userns2 3 --userns2 4 --userns-block-fd 3 --userns-block-fd 3 --nonsense",
];
const WRONG_FOR_ROOT = ["--uid 5 true", "--gid 5 true", "--uid 5 --gid 5 --hostname a true"];

/** Strange, and yet taken. */
const RIGHT: readonly string[] = [
  "--uid +0 --gid -0 --unshare-user",
  "--uid 4294967296 --unshare-user",
  "--perms 0000755 --dir /tmp",
  "--perms -0 --dir /tmp",
  "--cap-drop 5x",
  "--cap-drop cap_kill=",
  "--cap-drop 0x5",
  "--share-net --share-net",
  "--sync-fd 3 --info-fd 2147483647 --help",
];

describe("beside the real one", () => {
  const found = Bun.which("bwrap", { PATH: "/usr/bin" });
  const testReal = testIf("bubblewrap", found !== null, "there is no /usr/bin/bwrap");
  const me: Partial<Caller> = { uid: process.getuid!(), gid: process.getgid!() };

  /** What bubblewrap makes of it; of its help, the first line alone. */
  function real(words: string, content: string) {
    const directory = mkdtempSync(join(tmpdir(), "caisson-bwrap-"));
    writeFileSync(join(directory, "3"), content);
    const descriptor = openSync(join(directory, "3"), "r");
    const child = Bun.spawnSync([found!, ...words.split(" ").filter(Boolean)], {
      argv0: "bwrap",
      env: { LC_ALL: "C" },
      stdio: ["ignore", "pipe", "pipe", descriptor],
    });
    closeSync(descriptor);
    rmSync(directory, { recursive: true });
    return { code: child.exitCode, err: brief(child.stderr?.toString() ?? "") };
  }

  /** What the parser makes of it, told as bubblewrap tells it. */
  function ours(words: string, content: string) {
    const by = caller(me, content);
    const err = () => by.warnings.map((message) => `bwrap: ${message}\n`).join("");
    try {
      const result = bwrapCommand(words.split(" ").filter(Boolean), by);
      if (result === "usage") return { code: 1, err: brief(err() + bwrapHelp("bwrap")) };
      return { code: 0, err: err() };
    } catch (error) {
      if (!(error instanceof BwrapError)) throw error;
      return { code: 1, err: `${err()}bwrap: ${error.message}\n` };
    }
  }

  const brief = (text: string) => text.replace(/^(usage: [^\n]*)\n.*/s, "$1");

  testReal.each([...WRONG, ...(process.getuid!() === 0 ? WRONG_FOR_ROOT : [])])(
    "says and ends the same: %s",
    (words) => {
      const expected = real(words, "--dir");
      expect(expected.code).toBe(1);
      expect(ours(words, "--dir")).toEqual(expected);
    },
  );

  testReal.each(RIGHT)("takes as well: %s", (words) => {
    const whole = `--bind / / ${words} /bin/true`;
    expect(real(whole, "").code).toBe(0);
    expect(ours(whole, "")).toEqual({ code: 0, err: "" });
  });

  testReal("has its version, and each of its options in the help", () => {
    const say = (option: string) => Bun.spawnSync([found!, option]).stdout.toString();
    expect(`${BWRAP_VERSION}\n`).toBe(say("--version"));
    const options = (text: string) => text.match(/^ +--[\w-]+( [A-Z]+)*/gm)!.map((line) => line.trim());
    expect(options(bwrapHelp("caisson bwrap")).toSorted()).toEqual(options(say("--help")).toSorted());
    expect(bwrapHelp("caisson bwrap")).toStartWith("usage: caisson bwrap [OPTIONS...] [--] COMMAND [ARGS...]\n");
  });
});

test("reasonOf() has libc's words for an errno, or else its name", () => {
  const { symbols, close } = dlopen("libc.so.6", { strerror: { args: ["int"], returns: "cstring" } });
  const reasons = Object.values(ERRNO).map((errno) => [
    reasonOf(new SystemError("open", errno)),
    errnoName(errno),
    String(symbols.strerror(errno)),
  ]);
  close();
  expect(reasons.filter(([reason, name, words]) => reason !== name && reason !== words)).toEqual([]);
  expect(reasons.filter(([reason, , words]) => reason === words).length).toBeGreaterThan(20);
  expect(reasonOf("strange")).toBe("strange");
});
