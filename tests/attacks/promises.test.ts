/** Promises kept from inside: real calls of a child under the filter. Each word with an act that it allows and one that it refuses. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { abilities } from "../../platform/linux/abilities.ts";
import { promiseFilter } from "../../platform/linux/promises.ts";
import { compile } from "../../platform/linux/seccomp/compile.ts";
import type { Rule } from "../../platform/linux/seccomp/filter.ts";
import { PROMISES } from "../../platform/linux/words.ts";
import { run, type Sandbox } from "../../src/index.ts";
import { numberOf, type SyscallName } from "../../syscalls/kernel.ts";
import { AF, SOCK } from "../../syscalls/linux/constants.ts";
import { CLONE, F, IOCTL, IPPROTO, MACHINE, MAP, O, PR, PROT, S } from "../../syscalls/linux/numbers.ts";
import { IP, SIOC, SNDRV_PCM_IOCTL, VIDIOC } from "../../syscalls/linux/requests.ts";
import { testIf } from "../syscalls/requirement.ts";
import { scratch } from "./arena.ts";

setDefaultTimeout(30_000); // the machine may have other things to do

const cc = Bun.which("cc") ?? Bun.which("gcc");
const testC = testIf("cc", cc !== null, "there is no C compiler (Debian: gcc and libc6-dev)");
const busybox = "/bin/busybox";
const testBusybox = testIf(
  "busybox",
  cc !== null && Bun.file(busybox).size > 0,
  "there is no static busybox (Debian: busybox-static)",
);

const testLandlock = testIf("landlock", abilities().landlock > 0, "this kernel has no Landlock");

const room = scratch();
afterAll(() => room[Symbol.dispose]());
const promise = join(room.path, "promise");
if (cc !== null) {
  const source = fileURLToPath(new URL("./fixtures/promise.c", import.meta.url));
  const { exitCode, stderr } = Bun.spawnSync([cc, "-O1", "-static", "-pthread", "-o", promise, source]);
  if (exitCode !== 0) throw new Error(stderr.toString());
}
const work = room.directory("work"); // everybody's, with a file that is
const file = join(work, "file");
writeFileSync(file, "contents\n");
chmodSync(file, 0o666);
writeFileSync(join(work, "own"), "");
const kept = join(room.path, "kept");
writeFileSync(kept, "contents\n");
/** What acts create. */
const MADE = ["made", "pipe", "d", "new", "scratch", "link"];

let filters = 0;
/** Steps, in a child that promises these words; `undefined` promises nothing and may do everything: the control. */
function under(
  words: string | undefined,
  steps: readonly string[],
  { onBreak = "errno" as "errno" | "kill", extra = [] as Rule[], stdin = "" } = {},
) {
  for (const name of MADE) rmSync(join(work, name), { recursive: true, force: true });
  let path = "-";
  if (words !== undefined) {
    const whose = { machine: MACHINE, for: "program", onBreak } as const;
    const filter = promiseFilter(words === "" ? [] : words.split(" "), whose);
    path = join(room.path, `filter-${filters++}`);
    writeFileSync(path, compile({ ...filter, rules: [...extra, ...filter.rules] }));
  }
  const child = Bun.spawnSync([promise, path, ...steps], {
    cwd: work,
    stdin: Buffer.from(stdin),
    env: { PATH: "/usr/bin:/bin", TMPDIR: work },
  });
  const said = child.stderr.toString().trim().split("\n");
  return { said: said.slice(0, -1), end: said.at(-1)!, stdout: child.stdout.toString() };
}

const step = (call: SyscallName, ...args: readonly (string | number | bigint)[]) => [numberOf(call), ...args].join(" ");
/** What comes before the filter, and then the act. */
type Act = readonly [...before: string[], act: string];
interface Word {
  /** What else must be promised, for the act to mean something. */
  readonly beside?: string;
  readonly allows: Act;
  readonly refuses: Act;
  /** What is said to the act where it is let through, and would do harm if it meant anything: the kernel looked. */
  readonly says?: string;
}

const here = (flags: number, name = "file", mode = 0o600) => step("openat", -100, `=${name}`, flags, mode);
const socket = (family: number, type: number, protocol = 0) => step("socket", family, type, protocol);
const anonymous = MAP.PRIVATE | MAP.ANONYMOUS;
const map = (prot: number, flags: number = anonymous, fd: number | string = -1) =>
  step("mmap", 0, 4096, prot, flags, fd, 0);
const nameless = "~56"; // struct msghdr: nobody in particular, and nothing
const pair = step("socketpair", AF.UNIX, SOCK.DGRAM, 0, "@0a0000000b000000"); // where the kernel writes, nobody looks
const NETLINK = { ROUTE: 0, AUDIT: 9 };

const WORDS: Readonly<Record<string, Word>> = {
  stdio: { allows: [step("getuid")], refuses: [here(O.RDONLY)] },
  rpath: { allows: [here(O.RDONLY)], refuses: [here(O.WRONLY)] },
  wpath: { allows: [here(O.WRONLY | O.TRUNC)], refuses: [here(O.WRONLY | O.CREAT, "new")] },
  cpath: { beside: "wpath", allows: [here(O.WRONLY | O.CREAT, "made")], refuses: [step("fchmodat", -100, "=file", 0o666)] },
  dpath: { allows: [step("mknodat", -100, "=pipe", S.IFIFO | 0o600, 0)], refuses: [step("mkdirat", -100, "=d", 0o700)] },
  tmppath: { allows: [here(O.RDWR | O.CREAT, "scratch")], refuses: [step("mkdirat", -100, "=d", 0o700)] },
  inet: { allows: [socket(AF.INET6, SOCK.STREAM)], refuses: [socket(AF.UNIX, SOCK.STREAM)] },
  mcast: {
    allows: [socket(AF.INET, SOCK.DGRAM), "filter", step("setsockopt", "$0", IPPROTO.IP, IP.MULTICAST_TTL, "@02000000", 4)],
    refuses: [socket(AF.INET, SOCK.DGRAM), "filter", step("setsockopt", "$0", IPPROTO.IP, IP.TTL, "@02000000", 4)],
  },
  fattr: { allows: [step("fchmodat", -100, "=file", 0o666)], refuses: [step("fchownat", -100, "=file", "!uid", "!gid", 0)] },
  chown: { allows: [step("fchownat", -100, "=own", "!uid", "!gid", 0)], refuses: [step("fchmodat", -100, "=file", 0o666)] },
  flock: {
    allows: [here(O.RDWR), "filter", step("flock", "$0", 1)],
    refuses: [here(O.RDWR, "own"), "filter", step("fcntl", "$0", F.SETLEASE, 2)],
  },
  unix: { allows: [socket(AF.UNIX, SOCK.STREAM)], refuses: [socket(AF.INET, SOCK.STREAM)] },
  dns: { allows: [socket(AF.INET, SOCK.DGRAM)], refuses: [socket(AF.INET, SOCK.STREAM)] },
  getpw: { allows: [step("openat", -100, "=/etc/passwd", O.RDONLY)], refuses: [here(O.WRONLY)] },
  sendfd: { allows: [pair, "filter", step("sendmsg", -1, nameless, 0)], refuses: [step("recvmsg", -1, nameless, 0)], says: "EBADF" },
  recvfd: { allows: [step("recvmsg", -1, nameless, 0)], refuses: [step("sendmsg", -1, nameless, 0)], says: "EBADF" },
  tty: {
    allows: [here(O.RDWR | O.NOCTTY, "/dev/ptmx"), step("ioctl", "$0", IOCTL.TCGETS, "~64"), "filter", step("ioctl", "$0", IOCTL.TIOCSWINSZ, "~8")],
    refuses: [here(O.RDWR | O.NOCTTY, "/dev/ptmx"), "filter", step("ioctl", "$0", IOCTL.TIOCGETD, "~8")],
  },
  proc: { allows: [step("kill", "!parent", 0)], refuses: [step("process_vm_readv", "!parent", 0, 0, 0, 0, 0)] },
  exec: { allows: [step("execve", "=/none", 0, 0)], refuses: [step("clone", CLONE.NEWUSER | CLONE.SIGHAND, 0)], says: "ENOENT" },
  prot_exec: { allows: [map(PROT.READ | PROT.EXEC)], refuses: [step("process_madvise", -1, 0, 0, 0, 0)] },
  settime: { allows: [step("clock_settime", 99, "~16")], refuses: [step("shmget", 0, 0, 0)], says: "EINVAL" },
  ps: { allows: [step("openat", -100, "=/proc/1/stat", O.RDONLY)], refuses: [here(O.WRONLY)] },
  vminfo: { allows: [step("openat", -100, "=/proc/meminfo", O.RDONLY)], refuses: [here(O.WRONLY)] },
  id: { allows: [step("setresuid", -1, -1, -1)], refuses: [step("setsid")] },
  route: { allows: [socket(AF.NETLINK, SOCK.RAW, NETLINK.ROUTE)], refuses: [socket(AF.NETLINK, SOCK.RAW, NETLINK.AUDIT)] },
  wroute: {
    allows: [socket(AF.NETLINK, SOCK.RAW, NETLINK.ROUTE)],
    refuses: [socket(AF.INET, SOCK.DGRAM), "filter", step("ioctl", "$0", SIOC.GIFCONF, "~16")],
  },
  audio: {
    allows: [here(O.RDWR), "filter", step("ioctl", "$0", SNDRV_PCM_IOCTL.INFO, 0)],
    refuses: [here(O.RDWR), "filter", step("ioctl", "$0", VIDIOC.QUERYCAP, 0)],
    says: "ENOTTY",
  },
  video: {
    allows: [here(O.RDWR), "filter", step("ioctl", "$0", VIDIOC.QUERYCAP, 0)],
    refuses: [here(O.RDWR), "filter", step("ioctl", "$0", SNDRV_PCM_IOCTL.INFO, 0)],
    says: "ENOTTY",
  },
  unveil: {
    allows: [step("landlock_create_ruleset", 0, 0, 1)],
    refuses: [step("mseal", 1, 0, 0)],
    ...(abilities().landlock > 0 ? {} : { says: "ENOSYS" }),
  },
}; // biome-ignore format: a table

test("every word has its acts", () => {
  expect(Object.keys(WORDS).sort()).toEqual(PROMISES.filter((word) => word !== "error").toSorted());
});

describe("from inside,", () => {
  for (const [word, { beside = "", allows, refuses, says }] of Object.entries(WORDS)) {
    testC(`${word} allows its act, without it that is EPERM, and other acts are`, () => {
      const promised = `${beside} ${word}`.trim();
      const outcome = (words: string | undefined, act: Act) => {
        const { said, end } = under(words, act);
        expect(end).toBe("exit 0");
        return said.at(-1)!;
      };
      expect(outcome(promised, allows)).toMatch(says ?? /^\d+$/);
      expect(outcome(undefined, allows)).toMatch(says ?? /^\d+$/);
      expect(outcome(beside, allows)).toBe("EPERM");
      expect(outcome(promised, refuses)).toBe("EPERM");
      expect(outcome(undefined, refuses)).not.toBe("EPERM");
    });
  }
});

describe("who breaks a promise", () => {
  testC("ends with SIGSYS, which it cannot handle", () => {
    expect(under("stdio", [step("getuid"), here(O.RDONLY), step("getuid")], { onBreak: "kill" })).toMatchObject({
      said: [expect.any(String)],
      end: "SIGSYS",
    });
    expect(under("stdio", ["handle", "filter", here(O.RDONLY)], { onBreak: "kill" }).end).toBe("SIGSYS");
    expect(under("", [step("getuid")], { onBreak: "kill" }).end).toBe("SIGSYS");
    expect(under("", [], { onBreak: "kill" }).end).toBe("exit 0");
  });
  testC("is told ENOSYS where it promised `error`, whatever else is to happen", () => {
    expect(under("stdio error", [here(O.RDONLY)], { onBreak: "kill" })).toMatchObject({
      said: ["ENOSYS"],
      end: "exit 0",
    });
    expect(under("stdio error", [here(O.RDONLY)])).toMatchObject({ said: ["ENOSYS"], end: "exit 0" });
  });
  testC("may promise less later, and not more", () => {
    expect(under("stdio", [step("seccomp", 1, 0, "~16")]).said).toEqual(["EINVAL"]); // a program without instructions
    expect(under("stdio", [step("seccomp", 1, 8, "~16")]).said).toEqual(["EPERM"]); // NEW_LISTENER
    expect(under("stdio", [step("seccomp", 1, 4, "~16")]).said).toEqual(["EPERM"]); // SPEC_ALLOW
    expect(under(undefined, [step("seccomp", 1, 8, "~16")]).said).toEqual(["EINVAL"]);
  });
});

/** Ways around, of who promised `stdio rpath`, opened a file for reading, and has a terminal. */
const high = (word: number) => `0x1${word.toString(16).padStart(8, "0")}`; // with a bit where an int has none
const AROUND: Readonly<Record<string, string>> = {
  "O_RDONLY|O_TRUNC": here(O.RDONLY | O.TRUNC),
  "O_RDONLY|O_CREAT": here(O.RDONLY | O.CREAT, "new"),
  O_TMPFILE: here(O.TMPFILE | O.WRONLY, "."),
  "O_TMPFILE for reading and writing": here(O.TMPFILE | O.RDWR, "."),
  "the mode of access 3": here(3),
  "O_RDWR with a bit above": step("openat", -100, "=file", high(O.RDWR)),
  truncate: step("truncate", "=file", 0),
  utimensat: step("utimensat", -100, "=file", 0, 0),
  setxattr: step("setxattr", "=file", "=user.x", "=y", 1, 0),
  fchmod: step("fchmod", "$0", 0o600),
  fchownat: step("fchownat", "$0", "=", "!uid", "!gid", 0x1000),
  linkat: step("linkat", -100, "=file", -100, "=link", 0),
  symlinkat: step("symlinkat", "=file", -100, "=link"),
  renameat2: step("renameat2", -100, "=file", -100, "=file", 0),
  unlinkat: step("unlinkat", -100, "=none", 0),
  name_to_handle_at: step("name_to_handle_at", -100, "=file", "~256", "~4", 0),
  io_uring_setup: step("io_uring_setup", 0, 0),
  io_setup: step("io_setup", 0, "~8"),
  memfd_create: step("memfd_create", "=m", 0),
  memfd_secret: step("memfd_secret", -1),
  "execveat of a descriptor": step("execveat", "$0", "=", 0, 0, 0x1000),
  execve: step("execve", "=/none", 0, 0),
  "mmap of anonymous code": map(PROT.READ | PROT.EXEC),
  "mmap of code that can be written": map(PROT.READ | PROT.WRITE | PROT.EXEC, MAP.PRIVATE, "$0"),
  "mmap of a file's code, shared": map(PROT.READ | PROT.EXEC, MAP.SHARED, "$0"),
  "mprotect to code": step("mprotect", 0x1000, 4096, PROT.READ | PROT.EXEC),
  "pkey_mprotect to code": step("pkey_mprotect", 0x1000, 4096, PROT.READ | PROT.EXEC, -1),
  remap_file_pages: step("remap_file_pages", 0, 0, 0, 0, 0),
  shmget: step("shmget", 0, 4096, 0o1600),
  "personality READ_IMPLIES_EXEC": step("personality", 0x0400000),
  process_madvise: step("process_madvise", -1, 0, 0, 0, 0),
  userfaultfd: step("userfaultfd", -1),
  TIOCSTI: step("ioctl", "$1", IOCTL.TIOCSTI, 0),
  "TIOCSTI with a bit above": step("ioctl", "$1", high(IOCTL.TIOCSTI), 0),
  TIOCLINUX: step("ioctl", "$1", IOCTL.TIOCLINUX, "~8"),
  TCSETS: step("ioctl", "$1", IOCTL.TCSETS, 0),
  FIOASYNC: step("ioctl", "$1", IOCTL.FIOASYNC, "~4"),
  "F_SETFL with O_ASYNC": step("fcntl", "$0", F.SETFL, 0o20000),
  F_SETOWN: step("fcntl", "$0", F.SETOWN, "!parent"),
  F_SETOWN_EX: step("fcntl", "$0", F.SETOWN_EX, 0),
  F_SETSIG: step("fcntl", "$0", F.SETSIG, 9),
  F_SETLEASE: step("fcntl", "$0", F.SETLEASE, 2),
  F_NOTIFY: step("fcntl", "$0", F.NOTIFY, 0),
  "kill of another": step("kill", "!parent", 0),
  "kill of everybody": step("kill", -1, 0),
  pidfd_open: step("pidfd_open", "!parent", 0),
  pidfd_getfd: step("pidfd_getfd", -1, 0, 0),
  rt_sigqueueinfo: step("rt_sigqueueinfo", "!parent", 0, `@${"00".repeat(8)}ffffffff${"00".repeat(116)}`),
  "prlimit64 of another": step("prlimit64", "!parent", 7, 0, "~16"),
  "prlimit64 that sets": step("prlimit64", 0, 4, "~16", 0),
  setpriority: step("setpriority", 0, 0, 19),
  setsid: step("setsid"),
  ptrace: step("ptrace", 0x4206, 0, 0, 0),
  process_vm_readv: step("process_vm_readv", "!parent", 0, 0, 0, 0, 0),
  kcmp: step("kcmp", "!parent", "!parent", 99, 0, 0),
  "clone of a process": step("clone", CLONE.SIGHAND, 0),
  "clone of a thread in a namespace": step("clone", CLONE.THREAD | CLONE.NEWUTS, 0),
  unshare: step("unshare", -1),
  setns: step("setns", -1, 0),
  socket: socket(AF.INET, SOCK.STREAM),
  "sendto an address": step("sendto", -1, "~1", 1, 0, "~16", 16),
  sendmsg: step("sendmsg", -1, nameless, 0),
  recvmsg: step("recvmsg", -1, nameless, 0),
  "prctl PR_SET_MM": step("prctl", PR.SET_MM, PR.SET_MM_MAP_SIZE, "~4", 0, 0),
  "prctl PR_SET_PTRACER": step("prctl", PR.SET_PTRACER, -1),
  "prctl PR_SET_SYSCALL_USER_DISPATCH": step("prctl", PR.SET_SYSCALL_USER_DISPATCH, 9),
  "prctl PR_SET_DUMPABLE": step("prctl", PR.SET_DUMPABLE, 1),
  keyctl: step("keyctl", -1),
  mount: step("umount2", 0, -1),
  landlock: step("landlock_create_ruleset", 0, 0, 1),
}; // biome-ignore format: a table

/** The kernel itself says EPERM to whoever is not root. */
const OF_ROOT = /^TIOCSTI/;

describe("a way around is EPERM:", () => {
  for (const [name, act] of Object.entries(AROUND)) {
    testC(name, () => {
      const before = [here(O.RDONLY), here(O.RDWR | O.NOCTTY, "/dev/ptmx"), "filter"];
      expect(under("stdio rpath", [...before, act])).toMatchObject({ said: ["3", "4", "EPERM"], end: "exit 0" });
      if (OF_ROOT.test(name) && process.getuid?.() !== 0) return;
      expect(under(undefined, [...before, act]).said.at(-1)).not.toBe("EPERM");
    });
  }
  testC("openat2 and clone3 are ENOSYS: libraries then take the older call", () => {
    const acts = [step("openat2", -100, "=file", "~24", 24), step("clone3", 0, 0)];
    expect(under("stdio rpath", acts).said).toEqual(["ENOSYS", "ENOSYS"]);
    expect(under(undefined, acts).said).toEqual(["3", "EINVAL"]);
    expect(under("stdio", [acts[0]!]).said).toEqual(["EPERM"]);
  });
  testC("modes with set-user-id, set-group-id and sticky bits", () => {
    const words = "stdio rpath wpath cpath fattr dpath";
    for (const bit of [0o4000, 0o2000, 0o1000]) {
      const acts = [
        here(O.WRONLY | O.CREAT, "made", bit | 0o700),
        here(O.TMPFILE | O.WRONLY, ".", bit | 0o700),
        step("fchmodat", -100, "=own", bit | 0o700),
        step("mkdirat", -100, "=made", bit | 0o700),
        step("mknodat", -100, "=made", S.IFIFO | bit | 0o700, 0),
      ];
      expect(under(words, acts).said).toEqual(acts.map(() => "EPERM"));
      expect(under(undefined, acts).said).not.toContain("EPERM");
    }
    // What only opens a file has no mode, and whatever the register holds is not one.
    expect(under(words, [here(O.RDONLY, "file", 0o4700)]).said).toEqual(["3"]);
  });
});

describe("itself:", () => {
  testC("threads, signals to itself and code of files are stdio's", () => {
    expect(under("stdio", ["thread"]).said).toEqual(["1"]);
    expect(under("stdio", [step("tgkill", "!pid", "!pid", 0), step("kill", 0, 0)]).said).toEqual(["0", "0"]);
    const code = [here(O.RDONLY), "filter", map(PROT.READ | PROT.EXEC, MAP.PRIVATE, "$0")];
    expect(under("stdio", code).said.at(-1)).toMatch(/^\d+$/);
    expect(under("", ["thread"]).said).toEqual(["EPERM"]);
  });
});

const START: Rule[] = [{ call: "execve", action: "allow" }]; // how a program begins, before it has promised anything
/** A program, whatever it is, that promises these words: broken ones end it. */
const program = (words: string | undefined, command: string, stdin = "") =>
  under(words, [`exec ${command}`], { onBreak: "kill", extra: START, stdin });

describe("programs that keep their promises run, and end without one of them:", () => {
  testC("cat", () => {
    expect(program("stdio rpath", `/bin/cat ${kept}`)).toMatchObject({ stdout: "contents\n", end: "exit 0" });
    expect(program("stdio", `/bin/cat ${kept}`).end).toBe("SIGSYS");
  });
  testC("sort, by way of a file", () => {
    const text = Array.from(
      { length: 50_000 },
      (_, index) => `${(index * 7919) % 50_000} some more words to fill it\n`,
    );
    writeFileSync(join(work, "unsorted"), text.join(""));
    const sort = `/usr/bin/sort -n -S 1M --parallel=1 -o ${work}/sorted ${work}/unsorted`;
    expect(program("stdio rpath wpath cpath tmppath", sort).end).toBe("exit 0");
    expect(readFileSync(join(work, "sorted"), "utf8").split("\n")[1]).toStartWith("1 ");
    expect(program("stdio rpath", sort).end).toBe("SIGSYS");
    expect(program(undefined, sort).end).toBe("exit 0");
  });
  testC("gzip", () => {
    writeFileSync(join(work, "plain"), "text");
    expect(program("stdio rpath wpath cpath fattr chown", `/bin/gzip ${work}/plain`).end).toBe("exit 0");
    expect(program("stdio rpath", `/bin/gzip -dc ${work}/plain.gz`)).toMatchObject({ stdout: "text", end: "exit 0" });
    expect(program("stdio rpath", `/bin/gzip -d ${work}/plain.gz`).end).toBe("SIGSYS");
  });
  testC("sh, whose programs keep its promises", () => {
    writeFileSync(join(work, "script"), `/bin/cat ${kept} | /usr/bin/tr a-z A-Z\n`);
    const sh = `/bin/sh ${work}/script`;
    expect(program("stdio rpath proc exec", sh)).toMatchObject({ stdout: "CONTENTS\n", end: "exit 0" });
    expect(program("stdio rpath", sh).end).toBe("SIGSYS");
    writeFileSync(join(work, "script"), `echo lost > ${work}/lost; /bin/echo found\n`);
    expect(program("stdio rpath proc exec", sh).stdout).toBe("");
    expect(program(undefined, sh).stdout).toBe("found\n");
  });
  testC("a static one that reads its input alone", () => {
    expect(program("stdio", `${promise} upper`, "text")).toMatchObject({ stdout: "TEXT", end: "exit 0" });
    expect(program("", `${promise} upper`, "text").end).toBe("SIGSYS");
  });
  testBusybox("wget on loopback", async () => {
    await using server = await Serving.start();
    const wget = `${busybox} wget -q -O - http://127.0.0.1:${server.port}/`;
    // A user's busybox looks for its settings, and gives up rights that it has not.
    expect(program("stdio rpath id inet", wget)).toMatchObject({ stdout: "the answer", end: "exit 0" });
    expect(program("stdio rpath id", wget).end).toBe("SIGSYS");
  });
});

describe("Bun itself", () => {
  const fixture = fileURLToPath(new URL("./fixtures/promising.ts", import.meta.url));
  const bun = (words: string, ...acts: readonly string[]) => {
    const { stdout, signalCode } = Bun.spawnSync([process.execPath, fixture, words, ...acts], { stderr: "inherit" });
    return { said: stdout.toString().trim().split("\n"), signal: signalCode ?? null };
  };
  const CASES = [
    ["stdio", ["work", "read", "read later", "work"], ["work", "read EACCES", "read later EACCES", "work"], null],
    ["stdio", ["work", "write"], ["work"], "SIGSYS"],
    ["stdio", ["work", "fetch"], ["work"], "SIGSYS"],
    ["stdio inet", ["work", "fetch"], ["work", "fetch"], null],
    ["stdio rpath", ["work", "read", "read later"], ["work", "read", "read later"], null],
    ["stdio rpath", ["read", "write"], ["read"], "SIGSYS"],
    ["stdio rpath wpath cpath", ["read", "write", "run"], ["read", "write"], "SIGSYS"],
    ["stdio rpath wpath cpath proc exec", ["run", "work"], ["run", "work"], null],
  ] as const;
  for (const [words, acts, said, signal] of CASES) {
    test(`under ${words}: ${acts.join(", ")}${signal === null ? "" : ", which ends it"}`, () => {
      expect(bun(words, ...acts)).toEqual({ said: [...said], signal });
    });
  }
});

describe("in a sandbox, a word's own files are all that it opens:", () => {
  const cat = async (path: string, promises: string, grants: Sandbox) => {
    const { stdout, stderr } = await run(["cat", path], { sandbox: { ...grants, promises } });
    return { read: stdout.length > 0, said: stderr.toString().match(/Permission denied|not permitted/)?.[0] };
  };
  const CASES = [
    ["getpw", "/etc/passwd", "/etc/hosts"],
    ["dns", "/etc/hosts", "/etc/passwd"],
  ] as const;
  for (const [word, own, other] of CASES) {
    testLandlock(`${word} opens ${own}, and ${other} is EACCES`, async () => {
      const grants = { read: ["/etc"] };
      expect(await cat(own, `stdio ${word}`, grants)).toEqual({ read: true, said: undefined });
      expect(await cat(other, `stdio ${word}`, grants)).toEqual({ read: false, said: "Permission denied" });
      expect(await cat(own, "stdio", grants)).toEqual({ read: false, said: "not permitted" });
      expect(await cat(other, "stdio rpath", grants)).toEqual({ read: true, said: undefined });
      // A word does not grant what the sandbox does not.
      expect((await cat(own, `stdio ${word}`, { read: [work] })).read).toBe(false);
    });
  }
  testLandlock("tmppath creates in /tmp, and elsewhere that is EACCES", async () => {
    const [temporary, other] = ["/tmp", "/var/tmp"].map((where) => mkdtempSync(join(where, "caisson-"))) as [
      string,
      string,
    ];
    try {
      const create = async (where: string, promises: string) => {
        const { exitCode, stderr } = await run(["mktemp", "-p", where], {
          sandbox: { write: [temporary, other], promises },
        });
        return exitCode === 0 ? "made" : stderr.toString().match(/Permission denied|not permitted/)?.[0];
      };
      expect(await create(temporary, "stdio tmppath")).toBe("made");
      expect(await create(other, "stdio tmppath")).toBe("Permission denied");
      expect(await create(other, "stdio rpath wpath cpath")).toBe("made");
      expect(await create(temporary, "stdio rpath")).toBe("not permitted");
    } finally {
      for (const each of [temporary, other]) rmSync(each, { recursive: true });
    }
  });
});

/** A server in a process of its own, for these tests wait in place. */
class Serving implements AsyncDisposable {
  readonly #process: Bun.Subprocess<"ignore", "pipe", "inherit">;
  readonly port: number;
  constructor(process: Bun.Subprocess<"ignore", "pipe", "inherit">, port: number) {
    this.#process = process;
    this.port = port;
  }
  static async start(): Promise<Serving> {
    const source = `console.log(Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response("the answer") }).port)`;
    const process = Bun.spawn([globalThis.process.execPath, "-e", source], { stdin: "ignore", stderr: "inherit" });
    for await (const line of process.stdout) return new Serving(process, Number(new TextDecoder().decode(line)));
    throw new Error("The server did not start");
  }
  async [Symbol.asyncDispose]() {
    this.#process.kill();
    await this.#process.exited;
  }
}
