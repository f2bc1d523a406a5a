// What a wall refused and which flag would allow it: by table, and on what Bun throws inside.
import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findTrees } from "../../platform/linux/cgroup/home.ts";
import { explain, isDenied, type Situation } from "../../src/denial.ts";
import { LimitExceeded } from "../../src/error.ts";
import { type Denial, describeDenial, type Sandbox, spawn } from "../../src/index.ts";
import { automounts, type Entry, looker } from "../../src/look.ts";
import { decode, encode } from "../../src/message.ts";
import { policyOf } from "../../src/sandbox.ts";

const WALLS: Situation["enforcement"] = {
  files: ["mount namespace", "Landlock ABI 7", "seccomp"],
  network: ["network namespace", "seccomp"],
  processes: ["PID namespace", "seccomp"],
  privileges: ["no_new_privs"],
  kernel: ["seccomp"],
  memory: ["RLIMIT_DATA", "seccomp"],
  cpu: [],
  time: [],
  disk: [],
};

/** A host with these files and directories; one whose text is `closed` may not be read or written by the actor's user. */
function situation(
  grants: { read?: readonly string[]; write?: readonly string[] },
  there: Record<string, "closed" | "there">,
): Situation {
  return {
    actor: "parser",
    kind: "actor",
    policy: { ...policyOf(), read: grants.read ?? [], write: grants.write ?? [] },
    enforcement: WALLS,
    directory: "/home/me",
    look(path): Entry | undefined {
      const what = there[path];
      if (what === undefined) return undefined;
      return { path, directory: path.lastIndexOf("/") === 0, readable: what === "there", writable: what === "there" };
    },
  };
}

/** An error as Bun makes it. */
function refusal(code: string, syscall: string, path: string, second?: string): Error {
  const places = second === undefined ? `'${path}'` : `'${path}' -> '${second}'`;
  return Object.assign(new Error(`${code}: not so, ${syscall} ${places}`), { code, syscall, path });
}

const HOST = {
  "/data": "there",
  "/data/a": "there",
  "/data/closed": "closed",
  "/data/with,comma": "there",
  "/data/it's here": "there",
  "/etc/passwd": "there",
  "/home/me/notes": "there",
  "/proc/1/environ": "there",
} as const;

describe("explain() names wall and flag of files", () => {
  const CASES: [what: string, Parameters<typeof situation>[0], Error, wall: string, fix: string][] = [
    [
      "no grant, open",
      {},
      refusal("EPERM", "open", "/etc/passwd"),
      "seccomp",
      "--read=/etc/passwd, or --write=/etc/passwd to change it",
    ],
    ["no grant, new file", {}, refusal("EPERM", "open", "/data/new"), "seccomp", "--write=/data"],
    ["no grant, stat", {}, refusal("EPERM", "stat", "/data/a"), "seccomp", "--read=/data/a"],
    ["no grant, mkdir", {}, refusal("EPERM", "mkdir", "/data/d"), "seccomp", "--write=/data"],
    ["read grant, unlink", { read: ["/data"] }, refusal("EPERM", "unlink", "/data/a"), "seccomp", "--write=/data"],
    ["write grant, chmod", { write: ["/data"] }, refusal("EPERM", "chmod", "/data/a"), "seccomp", "None"],
    [
      "elsewhere, open",
      { read: ["/data"] },
      refusal("ENOENT", "open", "/etc/passwd"),
      "mount namespace",
      "--read=/etc/passwd",
    ],
    [
      "elsewhere, mkdir",
      { write: ["/etc"] },
      refusal("ENOENT", "mkdir", "/data/d"),
      "mount namespace",
      "--write=/data",
    ],
    ["read grant, written", { read: ["/data"] }, refusal("EACCES", "open", "/data/a"), "Landlock", "--write=/data/a"],
    [
      "read grant, its own mode",
      { read: ["/data"] },
      refusal("EACCES", "open", "/data/closed"),
      "the file's own permissions",
      "None",
    ],
    [
      "write grant, its own mode",
      { write: ["/data"] },
      refusal("EACCES", "open", "/data/a"),
      "the file's own permissions",
      "None",
    ],
    [
      "read grant, read-only",
      { read: ["/data"] },
      refusal("EROFS", "open", "/data/new"),
      "mount namespace",
      "--write=/data",
    ],
    [
      "rename into",
      { write: ["/data"] },
      refusal("EROFS", "rename", "/data/a", "/etc/passwd"),
      "mount namespace",
      "--write=/etc",
    ],
    ["comma", {}, refusal("EPERM", "stat", "/data/with,comma"), "seccomp", "--read=/data/with,,comma"],
    ["quote and space", {}, refusal("EPERM", "stat", "/data/it's here"), "seccomp", "--read='/data/it'\\''s here'"],
    ["kernel's own", {}, refusal("EPERM", "open", "/proc/1/environ"), "seccomp", "None: /proc belongs to the kernel"],
    ["the root itself", {}, refusal("EPERM", "mkdir", "/top"), "seccomp", "None: / cannot be granted"],
    [
      "relative, not granted",
      { read: ["/data"] },
      refusal("ENOENT", "open", "notes"),
      "mount namespace",
      "--read=/home/me/notes",
    ],
  ];
  test.each(CASES)("%s", (_, grants, error, wall, fix) => {
    const denial = explain(error, situation(grants, { ...HOST, "/etc": "there" }));
    expect(denial).toMatchObject({ actor: "parser", guarantee: "files", claimed: true });
    expect(denial?.wall).toStartWith(wall);
    expect(denial?.fix).toStartWith(fix);
    expect(denial?.call).toBe((error as NodeJS.ErrnoException).syscall!);
    expect(denial?.target).toStartWith((error as NodeJS.ErrnoException).path!);
  });

  test.each(CASES.filter(([, , , , fix]) => fix.startsWith("--")))(
    "%s: with its grant, nothing is left to grant",
    (_, grants, error) => {
      const there = { ...HOST, "/etc": "there" } as const;
      const { grant } = explain(error, situation(grants, there))!;
      const more = {
        read: [...(grants.read ?? []), ...(grant!.read ?? [])],
        write: [...(grants.write ?? []), ...(grant!.write ?? [])],
      };
      expect(more).not.toEqual({ read: grants.read ?? [], write: grants.write ?? [] });
      expect(explain(error, situation(more, there))?.grant).toBeUndefined();
    },
  );
});

test("explain() is silent about what no wall made", () => {
  const granted = situation({ read: ["/data"] }, HOST);
  for (const error of [
    refusal("ENOENT", "open", "/data/none"),
    refusal("ENOENT", "open", "/nowhere/none"),
    refusal("EISDIR", "read", "/data"),
    refusal("EPERM", "open", "/data/a"),
    new Error("its own"),
    new RangeError("Invalid array length"),
    "no error",
    undefined,
  ]) {
    expect(explain(error, granted)).toBeUndefined();
  }
});

test("explain() names no wall that does not stand", () => {
  const nothing = { ...situation({}, HOST), enforcement: { ...WALLS, files: [], network: [], processes: [] } };
  expect(explain(refusal("EPERM", "open", "/etc/passwd"), nothing)).toBeUndefined();
  expect(explain(refusal("EPERM", "connect", ""), nothing)).toBeUndefined();
  expect(explain(refusal("EPERM", "kill", ""), nothing)).toBeUndefined();
});

const directory = realpathSync(mkdtempSync(join(tmpdir(), "caisson-denial-")));
chmodSync(directory, 0o755);
afterAll(() => rmSync(directory, { recursive: true }));

const open = join(directory, "open");
const elsewhere = join(directory, "elsewhere");
for (const path of [open, elsewhere]) {
  mkdirSync(path);
  writeFileSync(join(path, "file"), "text");
}
writeFileSync(
  join(directory, "acts.ts"),
  `import { lookup } from "node:dns/promises";
  import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
  import { readFile } from "node:fs/promises";
  import { connect, createServer } from "node:net";
  import { execFileSync } from "node:child_process";
  const failed = (emitter: { on(event: "error", reject: (error: Error) => void): unknown }) => new Promise((_, reject) => emitter.on("error", reject));
  const acts = {
    read: (path: string) => readFileSync(path),
    readAsync: (path: string) => readFile(path),
    write: (path: string) => writeFileSync(path, ""),
    mkdir: (path: string) => mkdirSync(path),
    rename: (path: string) => renameSync(path, path + "2"),
    fetch: () => fetch("http://127.0.0.1:1/"),
    fetchName: () => fetch("http://example.com/"),
    connect: () => failed(connect(1, "127.0.0.1")),
    listen: () => failed(createServer().listen(0)),
    serve: () => Bun.serve({ port: 0, fetch: () => new Response() }).url.href,
    udp: () => Bun.udpSocket({}),
    lookup: () => lookup("example.com"),
    start: () => Bun.spawnSync(["/bin/true"]).exitCode,
    startByName: () => Bun.spawnSync(["true"]).exitCode,
    startNode: () => execFileSync("/bin/true"),
    signal: () => process.kill(process.ppid, 0),
    fill: () => { for (const all = []; ; ) all.push(new Uint8Array(2 ** 24).fill(1)); },
  };
  export async function act(name: keyof typeof acts, path: string): Promise<string> {
    await acts[name](path);
    return "it worked";
  }`,
);

interface Acts {
  act(name: string, path?: string): Promise<string>;
}

/** What each act comes to inside, all in one actor. */
async function denials(sandbox: Sandbox, acts: readonly (readonly [name: string, path?: string])[]) {
  await using actor = await spawn<Acts>(join(directory, "acts.ts"), { sandbox, stdout: "ignore", stderr: "ignore" });
  const found: (string | undefined)[] = [];
  for (const [name, path] of acts) {
    const outcome = await actor.call
      .act(name, path)
      .catch((error: unknown) => (isDenied(error) ? error.denial : undefined));
    found.push(typeof outcome === "object" ? `${name}: ${outcome.guarantee}, ${outcome.fix}` : `${name}: ${outcome}`);
  }
  return found;
}

test("a rejected call knows what Bun threw inside where nothing is granted", async () => {
  const file = join(open, "file");
  const network = ["fetch", "fetchName", "connect", "listen", "serve", "udp", "lookup"];
  const programs = ["start", "startByName", "startNode"];
  const acts = [
    ["read", file],
    ["readAsync", file],
    ["mkdir", join(open, "new")],
    ["rename", file],
  ] as const;
  const found = await denials({}, [...acts, ...[...network, ...programs, "signal"].map((name) => [name] as const)]);
  const first = (text: string | undefined) => text?.split(/; |None: /, 1)[0];
  expect(found.map(first)).toEqual([
    `read: files, --read=${file}, or --write=${file} to change it`,
    `readAsync: files, --read=${file}, or --write=${file} to change it`,
    `mkdir: files, --write=${open}`,
    `rename: files, --write=${open}`,
    ...network.map((name) => `${name}: network, `),
    ...programs.map((name) => `${name}: processes, `),
    "signal: processes, ",
  ]);
});

test("a rejected call knows that memory was refused, or that the actor ended for it", async () => {
  const sandbox: Sandbox = { limits: { memory: "64 MiB" } };
  await using actor = await spawn<Acts>(join(directory, "acts.ts"), { sandbox, stdout: "ignore", stderr: "ignore" });
  const error = await actor.call.act("fill").catch((error: unknown) => error);
  // The kernel refuses address space; a control group counts what was touched, and ends what is beyond. Either can come first.
  if (error instanceof LimitExceeded) expect([findTrees().lacks.memory, error.limit]).toEqual([undefined, "memory"]);
  else {
    const { guarantee, fix } = (error as { denial?: Denial }).denial!;
    expect([guarantee, fix.split("; ", 1)[0]]).toEqual(["memory", "--memory=128MiB"]);
  }
});

test("a rejected call knows what Bun threw inside beside a granted path", async () => {
  const [file, other] = [join(open, "file"), join(elsewhere, "file")];
  const found = await denials({ read: [open] }, [
    ["read", other],
    ["readAsync", other],
    ["write", file],
    ["mkdir", join(open, "new")],
    ["read", file],
    ["read", join(open, "none")],
  ]);
  expect(found).toEqual([
    `read: files, --read=${other}`,
    `readAsync: files, --read=${other}`,
    `write: files, --write=${file}`,
    `mkdir: files, --write=${open}`,
    "read: it worked",
    "read: undefined",
  ]);
});

/** The denial that a call is rejected with. */
async function refused(call: Promise<unknown>): Promise<Denial> {
  const error = await call.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!isDenied(error)) throw new Error("No wall refused that", { cause: error });
  return error.denial;
}

test.each([
  ["read", "file"],
  ["readAsync", "file"],
  ["mkdir", "made"],
  ["rename", "file"],
] as const)("%s succeeds with what its denials grant", async (name, entry) => {
  const own = join(directory, `grant-${name}`);
  mkdirSync(own);
  chmodSync(own, 0o777);
  writeFileSync(join(own, "file"), "text");
  let sandbox: Sandbox = {};
  const act = async () => {
    await using actor = await spawn<Acts>(join(directory, "acts.ts"), { sandbox, stdout: "ignore", stderr: "ignore" });
    return await actor.call.act(name, join(own, entry));
  };
  const { grant } = await refused(act());
  sandbox = { read: grant?.read ?? [], write: grant?.write ?? [] };
  expect(await act()).toBe("it worked");
});

const module = (name: string, text: string) => {
  writeFileSync(join(directory, name), text);
  return join(directory, name);
};

test("an error carries its denial as a property of its own, through causes and ends too", async () => {
  const path = module(
    "causes.ts",
    `import { readFileSync } from "node:fs";
    const read = () => { try { readFileSync("/etc/passwd"); } catch (cause) { return cause; } };
    export function wrapped(): void { throw new Error("no users", { cause: read() }); }
    export function plain(): void { throw new Error("its own"); }
    export function later(): Promise<void> { setTimeout(() => { throw read(); }); return new Promise(() => {}); }`,
  );
  await using actor = await spawn<{ wrapped(): void; plain(): void; later(): void }>(path, { stderr: "ignore" });
  const thrown = await actor.call.wrapped().catch((error: unknown) => error);
  expect(Object.getOwnPropertyDescriptor(thrown, "denial")).toMatchObject({ enumerable: true, writable: false });
  expect(await refused(actor.call.wrapped())).toMatchObject({
    actor: "causes",
    call: "open",
    target: "/etc/passwd",
    grant: { read: ["/etc/passwd"] },
    claimed: true,
  });
  const own = await actor.call.plain().catch((error: unknown) => error);
  expect({ own: Object.keys(own as Error), denied: isDenied(own) }).toEqual({ own: [], denied: false });
  expect((await refused(actor.call.later())).target).toBe("/etc/passwd");
  const exit = await actor.exited;
  expect(exit.reason === "threw" && isDenied(exit.error)).toBe(true);
});

test("a module that a wall stops while it loads rejects spawn with the denial", async () => {
  const path = module("loading.ts", `import { readFileSync } from "node:fs"; readFileSync("/etc/passwd");`);
  expect((await refused(spawn(path, { stderr: "ignore" }))).call).toBe("open");
});

test("a host that answers with a denied error does not tell the actor what it knows", () => {
  const error = Object.assign(refusal("ENOENT", "open", "/etc/passwd"), { denial: { fix: "--read=/etc/passwd" } });
  expect(Object.keys(decode(encode(error)) as Error)).not.toContain("denial");
});

describe("what an actor makes up", () => {
  const wild = "\x1b[2J\u202e\n";

  test("stays short and harmless", async () => {
    const path = module(
      "liar.ts",
      `export function lie(fields: object, message: string): void { throw Object.assign(new Error(message), fields); }
      export function long(fields: object, times: number): void { throw Object.assign(new Error("x".repeat(times)), fields); }`,
    );
    await using actor = await spawn<{
      lie(fields: object, message: string): void;
      long(fields: object, times: number): void;
    }>(path, { stderr: "ignore" });
    const fields = { code: "EPERM", syscall: "open", path: `/etc/${wild}passwd` };
    const lied = await refused(actor.call.lie(fields, wild));
    expect(lied.target).toBe("/etc/\\x1b[2J\\u202e\\x0apasswd");
    expect(describeDenial(lied).replaceAll("\n", "")).not.toMatch(/[\0-\x1f\u202e]/);
    const deep = await refused(actor.call.long({ ...fields, path: "/a".repeat(1_000_000) }, 1_000_000));
    expect(deep.fix).toStartWith("None: it lies too deep");
    expect(JSON.stringify(deep).length).toBeLessThan(40_000);
    for (const odd of [
      { code: 5 },
      { syscall: "__proto__" },
      { path: "\0" },
      { path: "" },
      { path: "." },
      { syscall: "toString" },
    ])
      await expect(actor.call.lie({ ...fields, ...odd }, "")).rejects.toThrow("");
    expect(await refused(actor.call.lie(fields, ""))).toMatchObject({ claimed: true }); // the link still stands
  });

  test("is no denial of a wall that does not stand, nor of what is granted", () => {
    const lies = [
      refusal("EROFS", "open", "/data/a"),
      refusal("EPERM", "open", "/data/a"),
      refusal("ENOENT", "stat", "/data/a"),
      Object.assign(new Error("Cannot connect"), { name: "EgressDenied" }),
    ];
    for (const error of lies) expect(explain(error, situation({ write: ["/data"] }, HOST))).toBeUndefined();
  });

  test("causes no more looks than a path has parts, and none of its own choosing", () => {
    let looks = 0;
    const counting = situation({}, {});
    const look = () => {
      looks++;
      return undefined;
    };
    explain(refusal("EPERM", "stat", `/${"a/".repeat(126)}b`), { ...counting, look });
    explain(refusal("EPERM", "stat", "/a".repeat(2000)), { ...counting, look });
    expect(looks).toBeLessThan(260);
  });
});

describe("looker()", () => {
  test("looks through links, and at nothing that is not there", () => {
    symlinkSync(open, join(directory, "link"));
    symlinkSync("turn", join(directory, "turn"));
    const look = looker();
    expect(look(join(directory, "link", "file"))).toMatchObject({ path: join(open, "file"), directory: false });
    expect(look(join(directory, "link", "..", "elsewhere"))).toMatchObject({ path: elsewhere, directory: true });
    for (const none of [
      join(directory, "turn"),
      join(open, "file", "x"),
      "relative",
      "/\0",
      `/${"a".repeat(5000)}`,
      "",
    ])
      expect(look(none)).toBeUndefined();
  });

  test("never looks beneath an automounter, by a link neither", () => {
    const at = (point: string) => looker(() => `31 1 0:29 / ${point} rw - autofs auto.net rw\n`);
    for (const path of [open, join(open, "file"), join(directory, "link", "file")]) {
      expect(at(open)(path)).toBeUndefined();
      expect(at("/elsewhere")(path)).toBeDefined();
    }
  });

  test("knows the mount points of automounters, whatever they are called", () => {
    const mountinfo = [
      "22 1 0:20 / /proc rw,relatime shared:1 - proc proc rw",
      "30 22 0:28 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw,fd=29",
      "31 1 0:29 / /net\\040of\\134all rw shared:3 master:1 - autofs auto.net rw",
      "32 1 0:30 / /autofs rw - tmpfs autofs rw",
      "",
    ].join("\n");
    expect([...automounts(mountinfo)]).toEqual(["/proc/sys/fs/binfmt_misc", "/net of\\all"]);
  });
});
