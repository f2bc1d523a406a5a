import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { testIf } from "../syscalls/requirement.ts";

const cli = fileURLToPath(new URL("../../src/cli.ts", import.meta.url));
const OURS = [process.execPath, "--config=/dev/null", "--no-env-file", cli, "bwrap"];
const REAL = Bun.which("bwrap", { PATH: "/usr/bin" });
const testReal = testIf("bubblewrap", REAL !== null, "there is no /usr/bin/bwrap");
const root = process.getuid!() === 0;

let directory: string;
beforeAll(() => {
  directory = mkdtempSync("/tmp/caisson-bubble-");
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** Runs a command line, with descriptors 3, 4 ... that give these texts. */
function run(program: readonly string[], args: readonly string[], contents: readonly string[] = [], cwd = "/") {
  const files = contents.map((content, index) => {
    const path = join(directory, `content${index}`);
    writeFileSync(path, content);
    return openSync(path, "r");
  });
  try {
    const child = Bun.spawnSync([...program, ...args], {
      cwd,
      env: { PATH: "/usr/bin:/bin:/usr/sbin:/sbin", HOME: "/", LC_ALL: "C" },
      stdio: ["ignore", "pipe", "pipe", ...files],
    });
    return { code: child.exitCode, out: `${child.stdout}`, err: `${child.stderr}` };
  } finally {
    for (const file of files) closeSync(file);
  }
}

const ours = (args: readonly string[], contents?: readonly string[]) => run(OURS, args, contents);

/** A line: the options as words, and what runs. */
type Line = readonly [options: string, ...program: string[]];
const wordsOf = ([options, ...program]: Line) => [...options.split(" ").filter(Boolean), ...program];

/** The host for reading, with room for what is tried. */
const HOST = "--ro-bind / / --tmpfs /tmp";
/** Programs, and nothing else. */
const BARE = "--ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64";
const STATUS = ["sh", "-c", "grep -E '^(Cap|NoNewPrivs|Seccomp|Sig[BI])' /proc/self/status"];
const MOUNTS = ["sh", "-c", "cut -d' ' -f5,6 /proc/self/mountinfo | sort"];

const LINES: readonly Line[] = [
  // how it ends
  [HOST, "sh", "-c", "exit 3"],
  [HOST, "sh", "-c", "kill -9 $$"],
  [`${HOST} --unshare-pid`, "sh", "-c", "kill -TERM $$"],
  [`${HOST} --unshare-pid --as-pid-1`, "sh", "-c", "echo $$; exit 4"],
  [`${HOST} --unshare-pid`, "sh", "-c", "echo $$"],
  // which program
  [HOST, "nonexistent"],
  [HOST, "/nonexistent/x"],
  [HOST, "/etc/passwd"],
  [HOST, "/"],
  [`${HOST} --unshare-pid`, "nonexistent"],
  [`${HOST} --setenv PATH /nowhere:/usr/bin`, "sh", "-c", "echo found"],
  [`${HOST} --unsetenv PATH`, "sh", "-c", "echo found"],
  [`${HOST} --perms 755 --file 3 /tmp/script`, "/tmp/script", "a", "b"],
  [`${HOST} --perms 755 --file 3 /tmp/script --setenv PATH /tmp:/usr/bin`, "script", "a"],
  [`${HOST} --file 3 /tmp/script --setenv PATH /tmp:/usr/bin`, "script"],
  // what stands in the root
  [BARE, "sh", "-c", "ls -A / | sort"],
  [`${BARE} --dir /a/b/c --perms 0700 --dir /d/e`, "stat", "-c", "%a %n", "/a", "/a/b", "/a/b/c", "/d", "/d/e"],
  [
    `${BARE} --tmpfs /t --perms 1777 --tmpfs /u --perms 0710 --tmpfs /v/w`,
    "stat",
    "-c",
    "%a",
    "/t",
    "/u",
    "/v",
    "/v/w",
  ],
  [`${BARE} --size 65536 --tmpfs /t`, "sh", "-c", "head -c 100000 /dev/zero > /t/x; stat -c %s /t/x"],
  [`${BARE} --dev /dev`, "sh", "-c", "ls -A /dev; readlink /dev/fd /dev/core /dev/ptmx; stat -L -c %t:%T /dev/ptmx"],
  [`${BARE} --dev /dev`, "sh", "-c", "echo x > /dev/null; echo y > /dev/full"],
  [`${BARE} --unshare-pid --proc /proc --dev /dev --tmpfs /tmp`, ...MOUNTS],
  [`${BARE} --proc /proc`, "sh", "-c", "for i in sys sysrq-trigger irq bus; do test -w /proc/$i && echo $i; done"],
  [
    `${BARE} --perms 0600 --file 3 /f --ro-bind-data 4 /g --bind-data 5 /h`,
    "sh",
    "-c",
    "cat /f /g /h; stat -c %a /f /g /h",
  ],
  [`${BARE} --file 3 /f --file 3 /g`, "cat", "/f", "/g"],
  [`${BARE} --bind-data 3 /usr/bin/ls`, "cat", "/usr/bin/ls"],
  [`${BARE} --file 99 /f`, "true"],
  [`${BARE} --tmpfs /t --remount-ro /t`, "touch", "/t/x"],
  [`${BARE} --remount-ro /`, "touch", "/x"],
  [BARE, "touch", "/x", "/usr/x"],
  [`${BARE} --bind /dev/null /null`, "sh", "-c", "echo x > /null"],
  [`${BARE} --dev-bind /dev/null /null`, "sh", "-c", "echo x > /null && echo written"],
  [
    `${BARE} --dir relative/x --tmpfs /tr/ --dir //sl//y/ --tmpfs /a --dir /a/../b`,
    "ls",
    "-d",
    "/relative/x",
    "/tr",
    "/sl/y",
    "/b",
  ],
  [`--tmpfs / ${BARE}`, "ls", "/"],
  [`${BARE} --bind /etc /`, "true"],
  [`${HOST} --dir /tmp/dir --symlink dir /tmp/link --ro-bind /etc /tmp/link`, "test", "-f", "/tmp/dir/passwd"],
  // what cannot be made
  ["--ro-bind / / --dir /newdirx", "true"],
  ["--ro-bind / / --tmpfs /newdirx/a", "true"],
  ["--ro-bind / / --bind /etc/passwd /newfilex", "true"],
  [`${HOST} --bind /usr /etc/passwd`, "true"],
  [`${HOST} --bind /etc/passwd /usr`, "true"],
  [`${HOST} --tmpfs /etc/passwd/x`, "true"],
  [`${HOST} --bind /nonexistent /x`, "true"],
  [`${HOST} --bind-try /nonexistent /x --ro-bind-try /nonexistent/y /x`, "true"],
  [`${HOST} --chmod 0755 /nonexistent`, "true"],
  [`${HOST} --symlink a /etc/passwd`, "true"],
  [`${HOST} --remount-ro /usr/share`, "true"],
  [`${HOST} --remount-ro /tmp/nonexistent`, "true"],
  [`${HOST} --mqueue /mnt`, "true"],
  [`${HOST} --bind-fd 99 /mnt`, "true"],
  [`${HOST} --userns 99`, "true"],
  [`${HOST} --seccomp 99`, "true"],
  // who it is
  [`${BARE} --proc /proc`, ...STATUS],
  [`${BARE} --unshare-user --proc /proc`, ...STATUS],
  [`${BARE} --unshare-all --proc /proc`, ...STATUS],
  [`${BARE} --unshare-user --cap-add ALL --proc /proc`, ...STATUS],
  [`${BARE} --unshare-user --cap-add cap_kill --cap-add CAP_CHOWN --proc /proc`, ...STATUS],
  [`${BARE} --cap-drop ALL --proc /proc`, ...STATUS],
  [`${BARE} --unshare-user --uid 5 --gid 6 --proc /proc`, "sh", "-c", "id -u; id -g; cat /proc/self/uid_map"],
  [`${BARE} --unshare-user --disable-userns`, "unshare", "-U", "true"],
  [`${HOST} --disable-userns`, "true"],
  [`${HOST} --assert-userns-disabled`, "true"],
  // what it is in
  [`${BARE} --unshare-uts --hostname box`, "uname", "-n"],
  [`${BARE} --unshare-uts --hostname ${"x".repeat(70)}`, "true"],
  [`${BARE} --unshare-net --proc /proc`, "cat", "/proc/net/if_inet6"],
  [BARE, "pwd"],
  [`${BARE} --chdir usr`, "sh", "-c", "pwd; echo $PWD"],
  [`${BARE} --chdir /nonexistent`, "true"],
  [`${BARE} --clearenv`, "/usr/bin/env"],
  [`${BARE} --setenv A b --unsetenv HOME`, "sh", "-c", "env | sort"],
  [BARE, "sh", "-c", "umask; ulimit -Sn; ulimit -Hn"],
  // which descriptors
  [`${BARE} --proc /proc`, "ls", "/proc/self/fd"],
  [`${BARE} --sync-fd 3 --proc /proc`, "ls", "/proc/self/fd"],
  [`${BARE} --proc /proc --file 3 /f --block-fd 4`, "ls", "/proc/self/fd"],
  [`${BARE} --lock-file /usr/bin/ls --die-with-parent`, "echo", "locked"],
];

const CONTENTS = ["echo script $0 $@\n", "four", "five"];

describe("beside the real one", () => {
  testReal.each(LINES.map((line) => [wordsOf(line).join(" "), line] as const))(
    "ends and says the same: %s",
    (_, line) => {
      const expected = run([REAL!], wordsOf(line), CONTENTS);
      expect(ours(wordsOf(line), CONTENTS)).toEqual(expected);
    },
  );
});

test("makes mount points on the host where that is lent for writing, and only there", () => {
  const host = join(directory, "host");
  mkdirSync(host);
  const lent = (option: string) =>
    ours([
      ...HOST.split(" "),
      option,
      host,
      "/tmp/host",
      "--dir",
      "/tmp/host/a/b",
      "--symlink",
      "x",
      "/tmp/host/l",
      "true",
    ]);
  expect(lent("--ro-bind")).toMatchObject({
    code: 1,
    err: "bwrap: Can't mkdir parents for /tmp/host/a/b: Read-only file system\n",
  });
  expect(readdirSync(host)).toEqual([]);
  expect(lent("--bind")).toMatchObject({ code: 0, err: "" });
  expect(readdirSync(host).toSorted()).toEqual(["a", "l"]);
  expect(readdirSync(join(host, "a"))).toEqual(["b"]);
});

describe("symbolic links", () => {
  let victim: string;
  let lent: string;
  beforeAll(() => {
    victim = mkdtempSync("/var/tmp/caisson-victim-");
    lent = join(directory, "lent");
    mkdirSync(lent);
    symlinkSync(victim, join(lent, "absolute"));
    symlinkSync(`../../../../..${victim}`, join(lent, "relative"));
    symlinkSync("/proc/1/root", join(lent, "magic"));
  });
  afterAll(() => rmSync(victim, { recursive: true, force: true }));

  // bubblewrap 0.8 looks targets up from a root beneath which the host's is /oldroot.
  test("do not lead out by /oldroot", () => {
    const tried = (to: string, target: string) =>
      ours([...HOST.split(" "), "--symlink", to, "/tmp/l", "--dir", target, "true"]);
    expect(tried(`/oldroot${victim}`, "/tmp/l/escaped")).toMatchObject({
      code: 1,
      err: "bwrap: Can't mkdir parents for /tmp/l/escaped: File exists\n",
    });
    expect(readdirSync(victim)).toEqual([]);
    // Without the link's way out, the same works.
    expect(tried("/tmp", "/tmp/l/made")).toMatchObject({ code: 0, err: "" });
  });

  // openat2(2) then answers EAGAIN to nearly every look-up with dots in it.
  test("are followed while somebody else renames without end", () => {
    const [one, other] = [join(directory, "one"), join(directory, "other")];
    writeFileSync(one, "");
    const script = `const { renameSync } = require("node:fs"); for (;;) { renameSync("${one}", "${other}"); renameSync("${other}", "${one}"); }`;
    const renaming = Bun.spawn([process.execPath, "-e", script]);
    try {
      while (existsSync(one)) Bun.sleepSync(1);
      const made = Array.from({ length: 50 }, (_, index) => ["--dir", `/lent/relative/${index}`]);
      const args = [...BARE.split(" "), "--tmpfs", victim, "--bind", lent, "/lent", ...made.flat(), "true"];
      for (let round = 0; round < 5; round++) expect(ours(args)).toMatchObject({ code: 0, err: "" });
    } finally {
      renaming.kill();
    }
  });

  test.each(["absolute", "relative"])("that are %s and planted in what is lent lead to places inside", (name) => {
    const tries = [
      ["--dir", `/lent/${name}/d`],
      ["--file", "3", `/lent/${name}/f`],
      ["--bind-data", "4", `/lent/${name}/b`],
      ["--symlink", "x", `/lent/${name}/s`],
      ["--tmpfs", `/lent/${name}/t`],
      ["--ro-bind", "/etc", `/lent/${name}/e`],
      ["--perms", "0700", "--dir", `/lent/${name}/p`],
    ];
    // There is such a directory inside, and it is not the host's.
    const result = ours(
      [...BARE.split(" "), "--tmpfs", victim, "--bind", lent, "/lent", ...tries.flat(), "ls", "-A", victim],
      CONTENTS,
    );
    expect(result).toEqual({ code: 0, out: "b\nd\ne\nf\np\ns\nt\n", err: "" });
    expect(readdirSync(victim)).toEqual([]);
  });

  test("of /proc are not followed", () => {
    const under = ours([
      ...BARE.split(" "),
      "--proc",
      "/proc",
      "--bind",
      lent,
      "/lent",
      "--dir",
      `/lent/magic${victim}/m`,
      "true",
    ]);
    expect(under.code).toBe(1);
    expect(readdirSync(victim)).toEqual([]);
  });

  test("and dots do not lead above the root", () => {
    const result = ours([...BARE.split(" "), "--dir", `../../..${victim}/x`, "test", "-d", `${victim}/x`]);
    expect(result).toEqual({ code: 0, out: "", err: "" });
    expect(readdirSync(victim)).toEqual([]);
  });
});

describe("processes", () => {
  /** Starts a line, and gives it with what it says on its standard output. */
  function start(options: string, script: string, more: Parameters<typeof Bun.spawn>[1] = {}) {
    const words = [
      ...`--ro-bind / / --proc /proc --dev /dev ${options}`.split(" ").filter(Boolean),
      "sh",
      "-c",
      script,
    ];
    return Bun.spawn([...OURS, ...words], {
      stdout: "pipe",
      stderr: "inherit",
      stdin: "pipe",
      ...more,
    } as never) as Bun.Subprocess<"pipe", "pipe", "inherit">;
  }
  async function firstLine(stream: ReadableStream<Uint8Array>) {
    const reader = stream.getReader();
    await reader.read();
    return reader;
  }

  test.each(["", "--unshare-pid"])("go on when bwrap is ended, as bubblewrap's do: %s", async (options) => {
    const sign = join(directory, `sign${options}`);
    const child = start(options, `echo up; until test -e ${sign}; do sleep 0.05; done; echo alive`);
    const reader = await firstLine(child.stdout);
    child.kill("SIGTERM");
    expect(await child.exited).toBe(143);
    writeFileSync(sign, "");
    expect(Buffer.from((await reader.read()).value!).toString()).toBe("alive\n");
    expect((await reader.read()).done).toBe(true);
  });

  test.each(["--die-with-parent", "--die-with-parent --unshare-pid"])("end with bwrap: %s", async (options) => {
    const child = start(options, "echo up; exec sleep 1000");
    const reader = await firstLine(child.stdout);
    child.kill("SIGKILL");
    // The end of the file comes when the last of them is gone.
    expect((await reader.read()).done).toBe(true);
  });

  test("say where they are, and how they ended", async () => {
    const [info, json] = [join(directory, "info"), join(directory, "json")];
    const child = start("--unshare-all --info-fd 3 --json-status-fd 4", "readlink /proc/self/ns/net; exit 7", {
      stdio: ["pipe", "pipe", "inherit", openSync(info, "w"), openSync(json, "w")],
    } as never);
    const inside = await new Response(child.stdout).text();
    expect(await child.exited).toBe(7);
    const told = JSON.parse(readFileSync(info, "utf8"));
    expect(Object.keys(told)).toEqual([
      "child-pid",
      "cgroup-namespace",
      "ipc-namespace",
      "mnt-namespace",
      "net-namespace",
      "pid-namespace",
      "uts-namespace",
    ]);
    expect(inside).toBe(`net:[${told["net-namespace"]}]\n`);
    const lines = readFileSync(json, "utf8").trim().split("\n");
    expect(lines.map((line) => JSON.parse(line))).toEqual([told, { "exit-code": 7 }]);
  });

  test("join the namespaces of others", async () => {
    const info = join(directory, "joined");
    const first = start("--unshare-user --unshare-pid --info-fd 3", "readlink /proc/self/ns/pid; read line", {
      stdio: ["pipe", "pipe", "inherit", openSync(info, "w")],
    } as never);
    const reader = first.stdout.getReader();
    const pid = Buffer.from((await reader.read()).value!).toString();
    const outside = JSON.parse(readFileSync(info, "utf8"))["child-pid"];
    const descriptors = ["user", "pid"].map((name) => openSync(`/proc/${outside}/ns/${name}`, "r"));
    const join2 = (options: string) =>
      Bun.spawnSync(
        [
          ...OURS,
          ...`--ro-bind / / --proc /proc --userns 3 --pidns 4 ${options}`.split(" ").filter(Boolean),
          "readlink",
          "/proc/self/ns/pid",
        ],
        { stdio: ["ignore", "pipe", "inherit", ...descriptors] },
      );
    expect(`${join2("").stdout}`).toBe(pid);
    const beneath = join2("--unshare-pid");
    expect(beneath.exitCode).toBe(0);
    expect(`${beneath.stdout}`).not.toBe(pid);
    for (const descriptor of descriptors) closeSync(descriptor);
    first.kill("SIGKILL");
    await first.stdin.end();
    await first.exited;
  });

  test("that stay beside the program cannot be traced by it, and have no capabilities", () => {
    const words = [
      ...BARE.split(" "),
      "--unshare-pid",
      "--proc",
      "/proc",
      "grep",
      "-E",
      "^(Cap(Eff|Prm|Inh|Amb)|NoNewPrivs)",
      "/proc/1/status",
    ];
    const zero = "0000000000000000";
    expect(ours(words).out).toBe(
      `CapInh:\t${zero}\nCapPrm:\t${zero}\nCapEff:\t${zero}\nCapAmb:\t${zero}\nNoNewPrivs:\t1\n`,
    );
    if (root) return; // who can do anything to processes can do that
    const opened = ours([...BARE.split(" "), "--unshare-pid", "--proc", "/proc", "cat", "/proc/1/environ"]);
    expect(opened).toMatchObject({ code: 1, out: "", err: expect.stringContaining("Permission denied") });
  });

  test("leave nothing behind where they cannot start", () => {
    // Whatever was left would hold the ends of these pipes, and this would never return.
    expect(ours([...HOST.split(" "), "--unshare-pid", "nonexistent"])).toMatchObject({ code: 1, out: "" });
    expect(ours([...HOST.split(" "), "--unshare-pid", "--lock-file", "/nonexistent", "true"])).toMatchObject({
      code: 1,
      out: "",
      err: "bwrap: Unable to open lock file /nonexistent: No such file or directory\n",
    });
  });
});

test("does not take descriptors of Bun's own for the caller's", () => {
  // Nothing was given: whatever these numbers are, they are not the caller's.
  for (const descriptor of [3, 4, 5, 6, 7, 8])
    expect(ours([...BARE.split(" "), "--args", `${descriptor}`, "true"])).toMatchObject({
      code: 1,
      err: "bwrap: Can't read --args data: Bad file descriptor\n",
    });
  expect(ours([...BARE.split(" "), "--proc", "/proc", "ls", "/proc/self/fd"]).out).toBe("0\n1\n2\n3\n");
});
