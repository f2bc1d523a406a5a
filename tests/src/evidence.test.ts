// What is learned from observations, by table; how that is printed, whatever names it has; and what a policy would refuse.
import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Learned, learned } from "../../src/evidence.ts";
import { asJson, asModule, summary } from "../../src/lesson.ts";
import type { About, Observation } from "../../src/need.ts";
import { parse } from "../../src/policy.ts";
import { wouldRefuse } from "../../src/refusal.ts";
import { completed, type Sandbox } from "../../src/sandbox.ts";

const HOME = "/home/me";
const CWD = "/home/me/project";

/** A host that has these files behind the run, and the directories above them; a name with a slash in the end is an empty one. */
function host(files: readonly string[], more: Partial<About> = {}): About {
  const all = [...files, `${CWD}/`, "/tmp/", "/etc/", "/usr/share/", "/run/"];
  const has = (path: string) => all.some((file) => file === path || file === `${path}/` || file.startsWith(`${path}/`));
  return {
    kind: "program",
    home: HOME,
    cwd: CWD,
    look: (path) =>
      has(path) ? { path, directory: !files.includes(path), readable: true, writable: true } : undefined,
    beneath: (directory) =>
      files.filter((file) => file.startsWith(`${directory}/`)).map((file) => file.slice(directory.length + 1)),
    ...more,
  };
}

type Access = Observation["access"];

/** An observation of something that was there. */
const did = (access: Access, target: string, more: Partial<Observation> = {}): Observation => ({
  call:
    { read: "openat", list: "openat", look: "newfstatat", write: "openat", create: "openat" }[access as string] ??
    access,
  access,
  target,
  exists: true,
  program: "prog",
  ...more,
});
const made = (target: string, call = "openat") => did("create", target, { exists: false, call });
const lacked = (access: Access, target: string) => did(access, target, { exists: false });
const many = (directory: string, count: number) =>
  Array.from({ length: count }, (_, index) => `${directory}/${index}.txt`);
const IN = (name: string) => `${CWD}/${name}`;

describe("learned() grants the least", () => {
  const CASES: [what: string, files: readonly string[], observations: readonly Observation[], sandbox: Sandbox][] = [
    ["nothing for nothing", [], [], {}],
    ["a file that was read", [IN("a")], [did("read", IN("a"))], { read: [IN("a")] }],
    ["nothing for what was not there", [], [lacked("read", IN("a")), lacked("look", "/etc/x"), lacked("remove", "/y/z")], {}],
    ["a file whose size was asked", [IN("a")], [did("look", IN("a"))], { read: [IN("a")] }],
    ["three files by themselves", many("/srv/d", 3), many("/srv/d", 3).map((path) => did("read", path)), { read: many("/srv/d", 3) }],
    ["four files as their directory", many("/srv/d", 4), many("/srv/d", 4).map((path) => did("read", path)), { read: ["/srv/d"] }],
    ["four of twelve as well", many("/srv/d", 12), many("/srv/d", 4).map((path) => did("read", path)), { read: ["/srv/d"] }],
    ["four of thirteen not", many("/srv/d", 13), many("/srv/d", 4).map((path) => did("read", path)), { read: many("/srv/d", 4) }],
    ["not what lies beside", [...many("/srv/d/a", 4), ...many("/srv/d/b", 2)], many("/srv/d/a", 4).map((path) => did("read", path)), { read: ["/srv/d/a"] }],
    ["no directory with a secret", [...many("/srv/d", 4), "/srv/d/.env"], many("/srv/d", 4).map((path) => did("read", path)), { read: many("/srv/d", 4) }],
    ["never the home directory", many(HOME, 4), many(HOME, 4).map((path) => did("read", path)), { read: many(HOME, 4) }],
    ["never /etc", many("/etc", 4), many("/etc", 4).map((path) => did("read", path)), { read: many("/etc", 4) }],
    ["a directory that was listed", [IN("d/a"), IN("d/b")], [did("list", IN("d"))], { read: [IN("d")] }],
    ["the zones for one of them", ["/usr/share/zoneinfo/UTC", "/usr/share/zoneinfo/CET"], [did("read", "/usr/share/zoneinfo/UTC")], { read: ["/usr/share/zoneinfo"] }],
    ["packages for one of their files", [IN("node_modules/a/b/c.js")], [did("read", IN("node_modules/a/b/c.js"))], { read: [IN("node_modules")] }],
    ["certificates, which end like keys", ["/etc/ssl/certs/ca.pem"], [did("read", "/etc/ssl/certs/ca.pem")], { read: ["/etc/ssl/certs"] }],
    ["an existing file that was written", [IN("a"), IN("b")], [did("write", IN("a"))], { write: [IN("a")] }],
    ["reading and writing once", [IN("a"), IN("b")], [did("write", IN("a")), did("read", IN("a"))], { write: [IN("a")] }],
    ["a new file by itself where others are", [IN("out"), ...many(CWD, 5)], [made(IN("out"))], { write: [IN("out")] }],
    ["its directory where nothing else is", [IN("out/a")], [made(IN("out/a"))], { write: [IN("out")] }],
    ["a directory that was made", [IN("out/a"), IN("b")], [made(IN("out"), "mkdir"), made(IN("out/a"))], { write: [IN("out")] }],
    ["the directory of what is gone", [IN("d/a"), IN("d/b")], [made(IN("d/.lock")), lacked("remove", IN("d/.lock")), did("remove", IN("d/.lock"))], { write: [IN("d")] }],
    ["the directory of what was replaced", [IN("d/a"), IN("d/b")], [made(IN("d/a.new")), did("remove", IN("d/a.new"), { call: "rename" }), did("create", IN("d/a"), { call: "rename" })], { write: [IN("d")] }],
    ["programs, but not itself", ["/usr/bin/a", "/usr/bin/b"], [did("run", "/usr/bin/a"), did("run", "/usr/bin/b"), lacked("run", "/usr/bin/c")], { run: ["/usr/bin/b"] }],
    ["nothing that a program starts with", ["/lib/libc.so.6"], [did("read", "/lib/libc.so.6"), did("read", "/etc/ld.so.cache")], {}],
    ["libraries to run, that no program names", ["/lib/x/plugin.so.1"], [did("read", "/lib/x/plugin.so.1")], { unveil: { "/lib/x/plugin.so.1": "rx" } }],
    ["what is in every sandbox to nobody", [], [did("read", "/proc/self/maps"), did("write", "/dev/null"), did("read", "/dev/urandom")], {}],
    ["hosts by name where it is known", [], [did("connect", "93.184.216.34:443"), did("connect", "198.41.0.4:80")], { net: ["198.41.0.4:80", "example.com:443"] }],
    ["no name server beside hosts", [], [did("connect", "10.0.0.1:53"), did("connect", "example.com:443")], { net: ["example.com:443"] }],
    ["plain variables with their values", [], [did("environment", "LANG"), did("environment", "TZ")], { env: { LANG: "C.UTF-8" } }],
    ["nothing twice", [...many("/srv/d", 4), "/srv/d/e/f"], [did("list", "/srv/d"), ...many("/srv/d", 4).map((path) => did("read", path)), did("read", "/srv/d/e/f")], { read: ["/srv/d"] }],
    ["odd spellings of one path once", [IN("a")], [did("read", `${CWD}//a`), did("read", `${CWD}/./x/../a`)], { read: [IN("a")] }],
  ]; // biome-ignore format: a table
  const about: Partial<About> = {
    program: "/usr/bin/a",
    given: new Set(["/lib/libc.so.6"]),
    env: { LANG: "C.UTF-8", TOKEN: "secret" },
    names: new Map([["93.184.216.34", "example.com"]]),
  };
  for (const [what, files, observations, sandbox] of CASES)
    test(what, () => {
      const lesson = learned(observations, host(files, about));
      expect(lesson.sandbox).toEqual(sandbox);
      // Every grant has its evidence.
      for (const { because } of lesson.evidence) expect(because.length).toBeGreaterThan(0);
    });

  test("a name that leads elsewhere is granted with where it leads", () => {
    const look: About["look"] = (path) => ({
      path: path === "/etc/localtime" ? "/srv/zone" : path,
      directory: false,
      readable: true,
      writable: false,
    });
    const { sandbox } = learned([did("read", "/etc/localtime")], host([], { look }));
    expect(sandbox).toEqual({ read: ["/etc/localtime", "/srv/zone"] });
  });

  test("temporary files go to a /tmp of its own, what is left there by a plain name does not", () => {
    const about = host(["/tmp/result.txt", "/tmp/prog-8f3a/x", "/tmp/tmp.JrKpQz"]);
    const { sandbox, tmp } = learned(
      [
        made("/tmp/prog-8f3a", "mkdir"),
        made("/tmp/prog-8f3a/x"),
        made("/tmp/tmp.JrKpQz"),
        made("/tmp/gone"),
        did("remove", "/tmp/gone"),
        made("/tmp/result.txt"),
      ],
      about,
    );
    expect({ sandbox, tmp }).toEqual({ sandbox: { write: ["/tmp/result.txt"] }, tmp: true });
  });

  test("the evidence is bounded, and says how much more there was", () => {
    const paths = many("/srv/d", 40);
    const { evidence } = learned(
      paths.map((path) => did("read", path)),
      host(paths),
    );
    expect(evidence.map(({ grant, because, more }) => [grant, because.length, more])).toEqual([["read /srv/d", 5, 35]]);
  });
});

describe("learned() leaves to a person", () => {
  const SECRETS = [
    ...["~/.ssh/id_ed25519", "~/.ssh/config", "~/.gnupg/pubring.kbx", "~/.aws/credentials", "~/.config/gh/hosts.yml"],
    ...["~/.netrc", "~/.docker/config.json", "~/.kube/config", "~/.npmrc", "~/.mozilla/firefox/x/logins.json"],
    ...["~/.config/google-chrome/Default/Cookies", "~/.bash_history", "~/.python_history", "~/.password-store/a.gpg"],
    ...["~/project/.env", "~/project/.env.local", "~/project/server.key", "~/project/tls/cert.pem", "/etc/shadow"],
    ...["/etc/ssh/ssh_host_rsa_key", "/root/.ssh/id_rsa", "/home/other/.aws/credentials", "/run/secrets/db"],
    ...["~/.git-credentials", "~/.pgpass", "~/keys.kdbx", "/etc/ssl/private/x", "/etc/sudoers.d/x"],
  ].map((path) => path.replace("~", HOME));
  const TRUSTED = [
    ...["package.json", ".git/hooks/pre-commit", ".git/config", "bunfig.toml", "tsconfig.json", "Makefile", ".envrc"],
    ...["node_modules/.bin/x", ".vscode/tasks.json", ".github/workflows/ci.yml", "vite.config.ts", "Dockerfile"],
  ].map(IN);
  const OTHERS = ["~/.bashrc", "~/.config/fish/config.fish", "~/.local/bin/x", "/etc/hosts", "/usr/lib/x"].map((path) =>
    path.replace("~", HOME),
  );

  test.each(SECRETS)("reading %p", (path) => {
    for (const access of ["read", "look", "write"] as const) {
      const lesson = learned([did(access, path)], host([path]));
      expect(lesson.sandbox).toEqual({});
      expect(lesson.undecided.map(({ what }) => what.endsWith(path))).toEqual([true]);
    }
  });

  test.each([...TRUSTED, ...OTHERS])("writing %p", (path) => {
    for (const observation of [
      did("write", path),
      made(path),
      did("remove", path),
      did("create", path, { call: "rename" }),
    ]) {
      const lesson = learned([observation], host([path]));
      expect(lesson.sandbox).toEqual({});
      expect(lesson.undecided.length).toBe(1);
    }
  });

  test.each(TRUSTED)("writing anything beside %p, where names have to come and go", (path) => {
    const gone = IN("x.lock");
    const lesson = learned([made(gone), did("remove", gone)], host([path]));
    expect(lesson.sandbox).toEqual({});
    expect(lesson.undecided[0]!.grant).toEqual({ write: [CWD] });
  });

  test.each([
    "/",
    HOME,
    "/home",
    "/etc",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/var/log",
    `${HOME}/.config`,
    `${HOME}/Documents`,
  ])("listing %p", (path) => {
    const lesson = learned([did("list", path)], host([`${path}/a`.replace("//", "/")]));
    expect(lesson.sandbox).toEqual({});
    expect(lesson.undecided[0]!.what).toBe(`list ${path}`);
    // Not even as a suggestion.
    expect(lesson.undecided[0]!.grant).toBeUndefined();
  });

  const SOCKETS: [string, RegExp][] = [
    ["unix:/var/run/docker.sock", /container engine/],
    ["unix:/tmp/ssh-XXaB12/agent.77", /signs with your keys/],
    ["unix:/run/user/1000/gnupg/S.gpg-agent", /signs with your keys/],
    ["unix:/run/user/1000/bus", /message bus/],
    ["unix:/run/dbus/system_bus_socket", /message bus/],
    ["unix:@/tmp/.X11-unix/X0", /screen/],
    ["unix:/run/user/1000/wayland-0", /screen/],
    ["unix:/srv/app.sock", /behind a socket/],
    ["169.254.169.254:80", /metadata/],
    ["[fe80::1]:80", /link-local/],
    ["127.0.0.1:2375", /container engine/],
    ["localhost:80", /no name admits this machine/],
    ["nonsense", /no host and port/],
  ];
  test.each(SOCKETS)("connecting to %p", (target, why) => {
    const { sandbox, undecided } = learned([did("connect", target)], host([]));
    expect(sandbox).toEqual({});
    expect(undecided.map((each) => why.test(each.why))).toEqual([true]);
  });

  test("other processes, devices, and the kernel's own files", () => {
    const { sandbox, undecided } = learned(
      [
        did("read", "/proc/1/environ"),
        did("write", "/dev/kmsg"),
        did("read", "/sys/kernel/x"),
        did("read", "/dev/sda"),
      ],
      host([]),
    );
    expect(sandbox).toEqual({});
    expect(undecided.map(({ what }) => what)).toEqual([
      "read /proc/1/environ",
      "write /dev/kmsg",
      "read /sys/kernel/x, /dev/sda",
    ]);
  });

  test("variables whose values may be secrets: the values are nowhere", () => {
    const about = host([], { env: { TOKEN: "hunter2", LANG: "C" } });
    const lesson = learned([did("environment", "TOKEN"), did("environment", "LANG")], about);
    expect(lesson.sandbox).toEqual({ env: { LANG: "C" } });
    expect(asModule(lesson, "prog") + asJson(lesson.sandbox) + summary(lesson)).not.toContain("hunter2");
    expect(summary(lesson)).toContain("--env=TOKEN");
  });

  test("what is hidden, and so was not there", () => {
    const { undecided } = learned([lacked("read", `${HOME}/.ssh/id_rsa`)], host([`${HOME}/.ssh/config`]));
    expect(undecided.map(({ what }) => what)).toEqual([`read ${HOME}/.ssh/id_rsa`]);
    const relative = learned([lacked("look", IN("../.ssh/none"))], host([`${HOME}/.ssh/config`]));
    expect(relative.undecided.map(({ what, grant }) => [what, grant])).toEqual([
      [`look at ${HOME}/.ssh/none`, undefined],
    ]);
    // A control: without any keys there is nothing to decide.
    expect(learned([lacked("read", `${HOME}/.ssh/id_rsa`)], host([])).undecided).toEqual([]);
  });

  test("what is gone, or cannot be named", () => {
    expect(learned([did("read", "/srv/\ufffd")], host([])).undecided.length).toBe(1);
  });

  test("directories that were only looked at, unless something in them is granted", () => {
    const about = host([IN("d/a"), IN("e/b")]);
    const { undecided } = learned(
      [did("look", IN("d")), did("look", IN("e")), did("read", IN("e/b")), did("look", "/")],
      about,
    );
    expect(undecided.map(({ what, grant }) => [what, grant])).toEqual([[`look at ${IN("d")}`, { read: [IN("d")] }]]);
  });

  test("of a script: programs, hosts, and files for the moment", () => {
    const about = host([IN("a"), "/usr/bin/git"], { kind: "actor" });
    const { sandbox, undecided } = learned(
      [did("run", "/usr/bin/git"), did("connect", "example.com:443"), lacked("read", "/a"), made("/tmp/x-1234")],
      about,
    );
    expect(sandbox).toEqual({});
    expect(undecided.map(({ why }) => why)).toEqual([
      expect.stringContaining("starts no programs"),
      expect.stringContaining("has no network"),
      expect.stringContaining("no directory for temporary files"),
    ]);
  });

  test("sudo, and what listens", () => {
    const { sandbox, undecided } = learned(
      [did("run", "/usr/bin/sudo"), did("bind", "0.0.0.0:80")],
      host(["/usr/bin/sudo"]),
    );
    expect({ sandbox, undecided: undecided.length }).toEqual({ sandbox: {}, undecided: 2 });
  });
});

const HOSTILE = [
  'a"b',
  `a'b\`c\${process.exit(7)}`,
  "a\\",
  'a\\" + process.exit(7) + "',
  "a\nprocess.exit(7)//",
  "a\rprocess.exit(7)//",
  "a\u2028process.exit(7)//",
  "a */ process.exit(7) /*",
  "-->",
  "<!--",
  "//# sourceMappingURL=data:,x",
  "@ts-nocheck",
  "\u202etxt.exe",
  "\u200bhidden\ufeff",
  "\x1b]0;title\x07",
  "日本語 – ü",
  "--read=x,y z",
  "$(reboot)",
].map((name) => `/srv/${name}`);

describe("what is printed", () => {
  const lessons: [string, Learned][] = HOSTILE.map((path) => [
    path,
    learned(
      [
        did("read", path, { program: path }),
        did("look", "/srv/x", { call: path }),
        did("read", `${path}/.env`, { program: path }),
      ],
      host([path, "/srv/x", `${path}/.env`], {
        look: (at) => ({ path: at, directory: false, readable: true, writable: true }),
      }),
    ),
  ]);
  const directory = mkdtempSync(join(tmpdir(), "caisson-evidence-"));

  test.each(lessons)("the module of %p is the same sandbox, and nothing else", async (path, lesson) => {
    const file = join(directory, `${Bun.hash(path)}.ts`);
    const text = asModule(lesson, `prog ${path}`);
    expect(text).not.toMatch(/[\u202a-\u202e\u2028\u2029\u200b\ufeff\x1b\r]/);
    writeFileSync(file, text);
    const module = await import(file);
    expect(Object.keys(module)).toEqual(["default", "sandbox"]);
    expect(module.sandbox).toEqual(lesson.sandbox);
    // All else is comments.
    const bare = new Bun.Transpiler({ loader: "ts" }).transformSync(text);
    expect(bare.replaceAll(/"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`/g, "")).not.toContain("exit");
  });

  test.each(lessons)("the policy file of %p is the same sandbox", (_, { sandbox }) => {
    const text = asJson(sandbox);
    expect(JSON.parse(text)).toEqual(sandbox);
    expect(parse(text)).toEqual(sandbox);
    expect(text).not.toMatch(/[\u202a-\u202e\u2028\u2029\u200b\ufeff\x1b\r]/);
  });

  test.each(lessons)("the summary of %p has its own lines alone", (_, lesson) => {
    expect(summary(lesson)).not.toMatch(/[\u202a-\u202e\u2028\u2029\u200b\ufeff\x1b\r]/);
    expect(summary(lesson).split("\n").length).toBe(summary(lessons[0]![1]).split("\n").length);
  });

  test("removes its directory", () => rmSync(directory, { recursive: true }));

  test("a variable's value is text, whatever it is", () => {
    const lesson = learned([did("environment", "LANG")], host([], { env: { LANG: `";process.exit(7)//\n\${1}` } }));
    expect(parse(asJson(lesson.sandbox))).toEqual(lesson.sandbox);
    expect(asModule(lesson, "x")).toContain(`"LANG": "\\";process.exit(7)//\\n\${1}"`);
  });

  test("of nothing it is nothing", () => {
    const lesson = learned([], host([]));
    expect(asJson(lesson.sandbox)).toBe("{}\n");
    expect(summary(lesson)).toBe("It needs nothing beyond itself.");
  });
});

describe("wouldRefuse()", () => {
  const about = host([IN("in/a"), IN("out/b"), "/etc/passwd", "/usr/bin/git"], {
    program: "/usr/bin/a",
    given: new Set(["/lib/l"]),
  });
  const policy = (sandbox: Sandbox) => completed(sandbox, "program", (path) => path);
  const given = policy({
    read: [IN("in")],
    write: [IN("out")],
    run: ["git"],
    net: ["example.com:443", "10.0.0.0/8:80"],
    unveil: { "/opt/p": "rx" },
  });
  const CASES: [what: string, Observation, fix: string | undefined][] = [
    ["reads a grant", did("read", IN("in/a")), undefined],
    ["reads what is granted for writing", did("read", IN("out/b")), undefined],
    ["reads nothing else", did("read", "/etc/passwd"), "--read=/etc/passwd"],
    ["finds nothing where nothing is", lacked("read", "/etc/none"), undefined],
    ["looks above a grant", did("look", HOME), undefined],
    ["does not list above a grant", did("list", HOME), `--read=${HOME}`],
    ["reads what it starts with", did("read", "/lib/l"), undefined],
    ["reads of itself", did("read", "/proc/self/status"), undefined],
    ["does not read of others", did("read", "/proc/1/status"), "None"],
    ["writes a grant", did("write", IN("out/b")), undefined],
    ["makes files in a grant", made(IN("out/c")), undefined],
    ["removes them", did("remove", IN("out/b")), undefined],
    ["does not write what it may read", did("write", IN("in/a")), `--write=${IN("in/a")}`],
    ["makes nothing there", made(IN("in/c")), `--write=${IN("in")}`],
    ["does not rename the grant itself", did("remove", IN("out"), { call: "rename" }), `--write=${CWD}`],
    ["does not replace by a rename", did("create", "/etc/passwd", { call: "rename" }), "--write=/etc"],
    ["runs a program by its name", did("run", "/usr/bin/git"), undefined],
    ["runs itself", did("run", "/usr/bin/a"), undefined],
    ["runs what is unveiled for that", did("run", "/opt/p/x"), undefined],
    ["runs nothing else", did("run", "/usr/bin/b"), "--run=/usr/bin/b"],
    ["connects by rule", did("connect", "example.com:443"), undefined],
    ["connects by range", did("connect", "10.1.2.3:80"), undefined],
    ["connects to no other port", did("connect", "10.1.2.3:81"), "--net=10.1.2.3:81"],
    ["connects to no socket of the host", did("connect", "unix:/run/x"), "None"],
    ["listens nowhere", did("bind", "0.0.0.0:80"), "None"],
    ["does nothing else", did("other", "", { call: "mount" }), "None"],
  ]; // biome-ignore format: a table
  test.each(CASES)("%s", (_, observation, fix) => {
    const denial = wouldRefuse(observation, given, about);
    expect(denial?.fix.split(":")[0]).toBe(fix?.split(":")[0]);
    if (fix?.startsWith("--")) expect(denial!.fix).toBe(fix);
  });

  test("what was learned would be allowed", () => {
    const files = [...many("/srv/d", 5), IN("a"), IN("out/x")];
    const observations = [
      ...many("/srv/d", 5).map((path) => did("read", path)),
      did("read", IN("a")),
      made(IN("out/x")),
      did("run", "/usr/bin/git"),
      did("connect", "example.com:443"),
    ];
    const { sandbox } = learned(observations, host(files));
    const under = (each: Sandbox) => observations.map((seen) => wouldRefuse(seen, policy(each), host(files)));
    expect(under(sandbox)).toEqual(observations.map(() => undefined));
    // A control: without it, nothing would.
    expect(under({}).filter((denial) => denial === undefined)).toEqual([]);
  });

  test("of a script", () => {
    const script = { ...about, kind: "actor" as const };
    const none = completed({}, "actor", (path) => path);
    expect(wouldRefuse(did("connect", "example.com:443"), none, script)!.guarantee).toBe("network");
    expect(wouldRefuse(did("run", "/usr/bin/git"), none, script)!.guarantee).toBe("processes");
    expect(wouldRefuse(did("read", "/dev/null"), none, script)!.guarantee).toBe("files");
  });
});
