// What a wall refused and which flag would allow it: by table, and on what Bun throws inside.
import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Entry, explain, type Situation } from "../../src/denial.ts";
import { type Sandbox, spawn } from "../../src/index.ts";
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
};

/** A host with these files and directories; one whose text is `closed` may not be read or written by the actor's user. */
function situation(
  grants: { read?: string[]; write?: string[] },
  there: Record<string, "closed" | "there">,
): Situation {
  return {
    policy: { ...policyOf(), read: grants.read ?? [], write: grants.write ?? [] },
    enforcement: WALLS,
    directory: "/home/me",
    look(path): Entry | undefined {
      const what = there[path];
      return what === undefined ? undefined : { readable: what === "there", writable: what === "there" };
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
      "relative, granted",
      { read: ["/home/me"] },
      refusal("ENOENT", "open", "notes"),
      "a relative path",
      "Name it /home/me/notes",
    ],
    [
      "relative, not granted",
      { read: ["/data"] },
      refusal("ENOENT", "open", "notes"),
      "mount namespace",
      "--read=/home/me/notes and name it",
    ],
  ];
  test.each(CASES)("%s", (_, grants, error, wall, fix) => {
    const denial = explain(error, situation(grants, { ...HOST, "/etc": "there" }));
    expect(denial?.guarantee).toBe("files");
    expect(denial?.wall).toStartWith(wall);
    expect(denial?.fix).toStartWith(fix);
  });
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
  const context: Situation = {
    policy: policyOf(sandbox),
    enforcement: actor.enforcement,
    directory,
    look: (path) =>
      [open, elsewhere].some((each) => path === each || path === join(each, "file"))
        ? { readable: true, writable: true }
        : undefined,
  };
  const found: (string | undefined)[] = [];
  for (const [name, path] of acts) {
    const outcome = await actor.call.act(name, path).catch((error: unknown) => explain(error, context));
    found.push(typeof outcome === "object" ? `${name}: ${outcome.guarantee}, ${outcome.fix}` : `${name}: ${outcome}`);
  }
  return found;
}

test("explain() knows what Bun throws inside where nothing is granted", async () => {
  const file = join(open, "file");
  const network = ["fetch", "fetchName", "connect", "listen", "serve", "udp", "lookup"];
  const programs = ["start", "startByName", "startNode"];
  const acts = [
    ["read", file],
    ["readAsync", file],
    ["mkdir", join(open, "new")],
    ["rename", file],
  ] as const;
  const found = await denials({ limits: { memory: "64 MiB" } }, [
    ...acts,
    ...[...network, ...programs, "signal", "fill"].map((name) => [name] as const),
  ]);
  const first = (text: string | undefined) => text?.split(/;|: --|: a script/, 1)[0];
  expect(found.map(first)).toEqual([
    `read: files, --read=${file}, or --write=${file} to change it`,
    `readAsync: files, --read=${file}, or --write=${file} to change it`,
    `mkdir: files, --write=${open}`,
    `rename: files, --write=${open}`,
    ...network.map((name) => `${name}: network, None in this version`),
    ...programs.map((name) => `${name}: processes, None in this version`),
    "signal: processes, None",
    "fill: memory, --memory=128MiB",
  ]);
});

test("explain() knows what Bun throws inside beside a granted path", async () => {
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
