/** Attacks on policies: what is granted by one word and reached by another, in sandboxes and in a process that confined itself. */
import { afterAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { usableAbi } from "../../platform/linux/landlock.ts";
import { run, type Sandbox, spawn } from "../../src/index.ts";
import { equals, intersection, isWithin, parse, union } from "../../src/policy.ts";
import { policyOf } from "../../src/sandbox.ts";
import { hasFilters } from "../../syscalls/linux/seccomp.ts";
import { testIf } from "../syscalls/requirement.ts";
import { scratch } from "./arena.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const busybox = "/bin/busybox";
const testBusybox = testIf(
  "busybox",
  Bun.file(busybox).size > 0,
  "there is no static busybox (Debian: busybox-static)",
);
const testSelf = testIf("landlock", usableAbi() > 0 && hasFilters(), "this kernel has no Landlock or takes no filters");
const testRoot = testIf("root", process.getuid!() === 0, "only root makes links in /");

const base = scratch();
afterAll(() => base[Symbol.dispose]());
const at = (name: string) => join(base.path, name);
const work = at("work");
const link = at("link");

beforeEach(() => {
  for (const name of ["work", "open", "secret", "link"]) rmSync(at(name), { recursive: true, force: true });
  for (const name of ["work/kept", "open", "secret"]) {
    mkdirSync(at(name), { recursive: true });
    chmodSync(at(name), 0o777);
    writeFileSync(at(`${name}/file`), "text");
    chmodSync(at(`${name}/file`), 0o666);
  }
  chmodSync(work, 0o777);
  symlinkSync(work, link);
});

describe("what is granted for less than what it lies in", () => {
  const file = at("work/kept/file");
  const shell = async (script: string, sandbox: Sandbox) => {
    const { exitCode, stderr } = await run([busybox, "sh", "-c", script], { sandbox: { run: [busybox], ...sandbox } });
    return exitCode === 0 ? "done" : stderr.toString().trim().split(": ").at(-1)!;
  };

  testBusybox.each(["work", "link"])("stays as it is to a program that goes by %s", async (way) => {
    const script = `echo changed > ${at(way)}/kept/file`;
    const read = [at("work/kept")];
    expect(await shell(script, { write: [link], read })).toBe("Read-only file system");
    expect(await shell(script, { unveil: { [link]: "rwxc" }, read })).toBe("Read-only file system");
    expect(readFileSync(file, "utf8")).toBe("text");
    expect(await shell(script, { write: [link] })).toBe("done");
  });

  testBusybox("is not executed by way of a link that may be", async () => {
    writeFileSync(at("work/kept/script"), `#!${busybox} true\n`);
    chmodSync(at("work/kept/script"), 0o755);
    const script = `exec ${link}/kept/script`;
    expect(await shell(script, { unveil: { [link]: "rx" }, read: [at("work/kept")] })).toBe("Permission denied");
    expect(await shell(script, { unveil: { [link]: "rx" } })).toBe("done");
  });

  test.each(["work", "link"])("stays as it is to an actor that goes by %s", async (way) => {
    const module = at("actor.ts");
    writeFileSync(
      module,
      `import { writeFileSync } from "node:fs";
      export function write(path: string) { try { writeFileSync(path, "changed"); return "done"; } catch (error) { return error.code; } }`,
    );
    const outcome = async (sandbox: Sandbox) => {
      await using actor = await spawn<{ write(path: string): string }>(module, { sandbox });
      return await actor.call.write(join(at(way), "kept/file"));
    };
    expect(await outcome({ write: [link], read: [at("work/kept")] })).toBe("EROFS");
    expect(await outcome({ write: [link] })).toBe("done");
  });

  testRoot("a link in / to a file is no way to configure Bun", () => {
    const name = `/caisson-test-${process.pid}.toml`;
    symlinkSync(at("open/file"), name);
    try {
      expect(() => policyOf({ read: [name] })).toThrow("a file of / itself could configure Bun");
    } finally {
      rmSync(name);
    }
    expect(policyOf({ read: [at("open/file")] }).read).toEqual([at("open/file")]);
  });
});

describe("a process that confined itself", () => {
  async function attempt(scenario: string, policy?: object): Promise<unknown> {
    const script = join(import.meta.dir, "fixtures/policy.ts");
    const words = policy === undefined ? [] : [JSON.stringify(policy)];
    const child = Bun.spawn([process.execPath, script, scenario, base.path, ...words], {
      stdout: "pipe",
      stderr: "pipe",
    });
    const [output, error] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
    if (child.exitCode !== 0) throw new Error(`${scenario} ended with ${child.signalCode ?? child.exitCode}: ${error}`);
    return JSON.parse(output);
  }

  const UNGOVERNED = ["names in a directory", "attributes of a path", "flags of a file that is read"];
  const every = (outcome: string) => Object.fromEntries(UNGOVERNED.map((name) => [name, outcome]));

  testSelf.each([
    ["a grant", { read: [at("open")] }],
    ["promises", { read: [at("open")], promises: "stdio rpath" }],
  ])("under %s does not get by what Landlock leaves alone", async (_, policy) => {
    expect(await attempt("ungoverned")).toEqual(every("done"));
    expect(await attempt("ungoverned", policy)).toEqual(every("EPERM"));
  });

  testSelf.each(["stdio inet", "stdio dns", "stdio rpath inet dns"])(
    "that promises %s sends to no socket of a path",
    async (promises) => {
      expect(await attempt("datagrams")).toEqual({ made: "done", streams: "done", sent: "done" });
      rmSync(at("secret/socket"));
      const found = await attempt("datagrams", { promises });
      expect(found).toEqual({ made: "EPERM", streams: "done", sent: "ENOTSOCK" }); // to its standard input
    },
  );

  testSelf("makes datagram pairs with unix promised", async () => {
    expect(await attempt("datagrams", { promises: "stdio unix" })).toMatchObject({ made: "done" });
  });

  testSelf("may run one program and has no memory that is another", async () => {
    expect(await attempt("nameless")).toEqual({ made: "done", sealed: "done", granted: "done" });
    const found = await attempt("nameless", { run: ["/bin/true"] });
    expect(found).toEqual({ made: "EPERM", sealed: "done", granted: "done" });
  });

  const NOT_KEPT = {
    "less in what is granted for more": { write: [work], read: [at("work/kept")] },
    "the same by a link": { write: [link], read: [at("work/kept/file")] },
    "less in what is unveiled for more": { unveil: { [work]: "rc" }, read: [at("work/kept")] },
    "modes of all files": { read: [at("open")], promises: "stdio rpath fattr" },
    "owners of all files": { read: [at("open")], promises: "stdio rpath chown" },
  };
  testSelf.each(Object.entries(NOT_KEPT))("does not begin with what it could not keep: %s", async (_, policy) => {
    expect(await attempt("changes", policy)).toStartWith('Cannot guarantee "files": Landlock ');
  });

  testSelf("begins with what lies in what is granted for the same, or for less that promises took", async () => {
    expect(await attempt("changes")).toEqual({ nested: "done", mode: "done", owner: "done" });
    const refused = { mode: "EPERM", owner: "EPERM" };
    const twice = { write: [work, at("work/kept"), at("work/kept/file")] };
    expect(await attempt("changes", twice)).toEqual({ nested: "done", ...refused });
    const reading = { write: [work], read: [at("work/kept")], promises: "stdio rpath" };
    expect(await attempt("changes", reading)).toEqual({ nested: "EPERM", ...refused });
    const all = { unveil: { "/": "rwc" }, promises: "stdio rpath fattr chown" };
    expect(await attempt("changes", all)).toMatchObject({ mode: "done" });
  });
});

describe("policies compared", () => {
  const seed = Number(process.env.CAISSON_SEED ?? Math.floor(Math.random() * 2 ** 31));
  let state = seed | 1;
  /** xorshift: a whole number below `most`. */
  const random = (most: number) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % most;
  };
  const one = <T>(list: readonly T[]) => list[random(list.length)]!;
  const some = <T>(list: readonly T[]) => Array.from({ length: random(3) }, () => one(list));
  const sometimes = <T>(key: string, make: () => T) => (random(2) === 0 ? {} : { [key]: make() });

  const PATHS = [
    "work",
    "work/kept",
    "work/kept/file",
    "work/./kept/",
    "link",
    "link/kept",
    "link/../open",
    "open",
    "openly",
    "no/such",
  ].map(at);
  const RULES = [
    "a.com:443",
    "*.a.com:443",
    "*.com:443",
    "b.a.com:443",
    "0.0.0.0/0:80",
    "10.0.0.0/8:80",
    "10.1.0.0/16:80",
    "8.0.0.0/5:80",
  ];
  const LETTERS = ["r", "w", "x", "c", "rx", "rw", "rwc", "rwxc", "wc"];
  const WORDS = ["stdio", "rpath", "wpath", "inet", "error"];
  const sandbox = (): Sandbox => ({
    ...sometimes("read", () => some(PATHS)),
    ...sometimes("write", () => some(PATHS)),
    ...sometimes("unveil", () => Object.fromEntries(some(PATHS).map((path) => [path, one(LETTERS)]))),
    ...sometimes("net", () => some(RULES)),
    ...sometimes("env", () => Object.fromEntries(some(["A=1", "A=2", "toString=x"]).map((text) => text.split("=")))),
    ...sometimes("promises", () => some(WORDS).join(" ")),
    ...sometimes("onBreak", () => one(["kill", "errno"] as const)),
    ...sometimes("limits", () =>
      one([{}, { cpuTime: "900 ms" }, { cpuTimeSeconds: 1 }, { files: 32 }, { memory: "1 GiB" }]),
    ),
    ...sometimes("allowUnenforced", () => some(["files", "memory"] as const)),
  });
  /** Undefined where the value makes no sense: two values for a variable, or less unveiled within more. */
  const sensible = <T>(make: () => T): T | undefined => {
    try {
      return make();
    } catch (error) {
      if (error instanceof TypeError && /^Cannot (unveil|unite)/.test(error.message)) return undefined;
      throw error;
    }
  };

  test(`what two share is within both, and both within what either may do (CAISSON_SEED=${seed})`, () => {
    let compared = 0;
    while (compared < 300) {
      const [a, b] = [sandbox(), sandbox()];
      if (sensible(() => isWithin(a, b) || isWithin(b, a)) === undefined) continue;
      compared++;
      const shared = intersection(a, b);
      const either = sensible(() => union(a, b));
      const found = {
        shared: isWithin(shared, a) && isWithin(shared, b),
        either: either === undefined || (isWithin(a, either) && isWithin(b, either)),
        less: !isWithin(a, b) || equals(shared, a),
        read: equals(parse(JSON.stringify(a)), a),
      };
      expect([a, b, found]).toEqual([a, b, { shared: true, either: true, less: true, read: true }]);
    }
  });

  const WIDER: readonly (readonly [string, Sandbox, Sandbox])[] = [
    ["by ..", { read: [`${at("open")}/../secret`] }, { read: [at("open")] }],
    ["by a link", { read: [at("link")] }, { read: [at("open")] }],
    ["by another name's beginning", { read: [at("secret")] }, { read: [at("sec")] }],
    ["by case", { read: [at("no/SUCH")] }, { read: [at("no/such")] }],
    ["by another form of a letter", { read: [at("no/e\u0301")] }, { read: [at("no/\u00e9")] }],
    ["by the kernel's links", { read: [`/proc/self/root${at("open")}`] }, { read: ["/proc"] }],
    ["above what is taken", { write: [work] }, { write: [work], read: [at("work/kept")] }],
    ["by a letter", { unveil: { [work]: "rx" } }, { read: [work] }],
    ["by saying nothing of promises", {}, { promises: "stdio" }],
    ["by saying nothing of a limit", {}, { limits: { files: 100 } }],
    ["by saying nothing of swap", {}, { limits: { swap: "0 B" } }],
    ["by swap of which nothing is said", { limits: { swap: "1 B" } }, {}],
    ["by saying nothing of a warning", {}, { limits: { memoryWarning: "100 MiB" } }],
    ["by the other way to say a limit", { limits: { memoryBytes: 2 ** 28 + 1 } }, { limits: { memory: "256 MiB" } }],
    ["by a kinder end", { promises: "stdio" }, { promises: "stdio", onBreak: "kill" }],
    ["by the promise error", { promises: "stdio error" }, { promises: "stdio" }],
    ["by a name that objects have", { env: { toString: "" } }, {}],
    ["by a private address", { net: ["10.0.0.0/8:80"] }, { net: ["0.0.0.0/0:80"] }],
    ["by the metadata's address", { net: ["169.254.169.254:80"] }, { net: ["169.254.0.0/16:80"] }],
    ["by a name above", { net: ["a.com:443"] }, { net: ["*.a.com:443"] }],
    ["by a program's other name", { run: ["true"] }, { run: ["/bin/true"] }],
  ];
  test.each(WIDER)("%s nothing is within what is less", (_, wider, less) => {
    expect(isWithin(wider, less)).toBe(false);
    expect(isWithin(less, union(wider, less))).toBe(true);
    expect(isWithin(wider, union(wider, less))).toBe(true);
  });
});

describe("policies in files", () => {
  const command = (...words: string[]) => {
    const cli = join(import.meta.dir, "../../src/cli.ts");
    const { exitCode, stderr } = Bun.spawnSync([process.execPath, cli, "exec", ...words, "/bin/true"]);
    return { exitCode, said: stderr.toString().trim() };
  };
  const file = (text: string | Buffer) => {
    writeFileSync(at("policy.json"), text);
    return at("policy.json");
  };

  test.each([
    ["one without end", () => "/dev/zero", "it is longer than 1 MiB, which no policy is"],
    [
      "a large one",
      () => file(`{"read":[${'"/a",'.repeat(2 ** 18)}"/a"]}`),
      "it is longer than 1 MiB, which no policy is",
    ],
    ["an empty one", () => "/dev/null", "line 1, column 1: value expected"],
    ["a directory", () => work, "it is a directory"],
    ["a deep one", () => file("[".repeat(2 ** 19)), "Maximum call stack size exceeded"],
    ["a key twice", () => file(`{"read":["/etc"],"r\\u0065ad":[]}`), `line 1, column 18: "read" stands there twice`],
    ["bytes that are no text", () => file(Buffer.from([0x7b, 0xff, 0x7d])), ""],
  ])("%s is refused", (_, make, why) => {
    const path = make();
    const { exitCode, said } = command(`--policy=${path}`);
    expect(exitCode).toBe(2);
    expect(said).toStartWith(`caisson: Cannot use ${path}: ${why}`);
  });

  test("relative paths of a policy are of the directory in which it is named", () => {
    writeFileSync(at("open/policy.json"), '{"read":["file"]}');
    symlinkSync(at("open/policy.json"), at("secret/policy.json"));
    expect(command(`--policy=${at("open/policy.json")}`)).toEqual({ exitCode: 0, said: "" });
    rmSync(at("secret/file"));
    const { exitCode, said } = command(`--policy=${at("secret/policy.json")}`);
    expect(exitCode).toBe(2);
    expect(said).toContain(`${at("secret/file")}: there is no such file`);
  });
});
