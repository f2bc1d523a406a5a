// Policies as values: what is read, compared, joined, printed; and by random sandboxes that nothing of it ever widens.
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { parseAddress } from "../../src/address.ts";
import { equals, excess, extend, intersection, isWithin, normal, parse, print, union } from "../../src/policy.ts";
import { parseRule, ruleForAddress, ruleForName } from "../../src/rule.ts";
import { policyOf, type Sandbox } from "../../src/sandbox.ts";
import { policyWithin } from "../../src/within.ts";

// Random cases by the hundred, on machines that may be busy.
setDefaultTimeout(120_000);

const home = realpathSync(mkdtempSync(join(tmpdir(), "caisson-policy-")));
afterAll(() => rmSync(home, { recursive: true }));
for (const directory of ["a/b/c", "ab", "d"]) mkdirSync(join(home, directory), { recursive: true });
writeFileSync(join(home, "a/file"), "");
symlinkSync(join(home, "d"), join(home, "a/link")); // leads out of a
symlinkSync(join(home, "nothing"), join(home, "broken"));
const at = (path: string) => join(home, path);

describe("isWithin()", () => {
  const sandboxes: readonly (readonly [string, Sandbox, Sandbox, boolean])[] = [
    ["nothing within nothing", {}, {}, true],
    ["nothing within something", {}, { read: [at("a")] }, true],
    ["a directory within itself", { read: [at("a")] }, { read: [at("a/")] }, true],
    ["a directory beneath", { read: [at("a/b")] }, { read: [at("a")] }, true],
    ["a directory above", { read: [at("a")] }, { read: [at("a/b")] }, false],
    ["a name that begins alike", { read: [at("ab")] }, { read: [at("a")] }, false],
    ["up and out", { read: [at("a/../d")] }, { read: [at("a")] }, false],
    ["a link that leads out", { read: [at("a/link")] }, { read: [at("a")] }, false],
    ["a link that leads in", { read: [at("a/link")] }, { read: [at("d")] }, true],
    ["a file that is not there yet", { read: [at("a/new/file")] }, { read: [at("a")] }, true],
    ["a file that is not there yet behind a link", { read: [at("a/link/new")] }, { read: [at("a")] }, false],
    ["everything within /", { write: [at("a")] }, { write: ["/"] }, true],
    ["/ within a directory", { read: ["/"] }, { read: [at("a")] }, false],
    ["reading within writing", { read: [at("a")] }, { write: [at("a")] }, true],
    ["writing within reading", { write: [at("a")] }, { read: [at("a")] }, false],
    ["writing beneath reading", { write: [at("a/b")] }, { read: [at("a")] }, false],
    [
      "writing where the parent may only read beneath",
      { write: [at("a")] },
      { write: [at("a")], read: [at("a/b")] },
      false,
    ],
    ["the same, kept apart", { write: [at("a")], read: [at("a/b")] }, { write: [at("a")], read: [at("a/b")] }, true],
    ["less than the parent beneath", { write: [at("a")], read: [at("a/b")] }, { write: [at("a")] }, true],
    ["a letter of reading", { unveil: { [at("a")]: "r" } }, { read: [at("a")] }, true],
    ["letters of writing", { unveil: { [at("a")]: "rw" } }, { write: [at("a")] }, true],
    ["executing within writing", { unveil: { [at("a")]: "x" } }, { write: [at("a")] }, false],
    ["writing within letters", { write: [at("a")] }, { unveil: { [at("a")]: "rw" } }, false],
    ["letters added up", { unveil: { [at("a")]: "rx" } }, { read: [at("a")], unveil: { [at("a")]: "x" } }, true],
    ["a program", { run: ["ls"] }, { run: ["cat", "ls"] }, true],
    ["another program", { run: ["ls"] }, { run: ["cat"] }, false],
    ["a program by a relative path", { run: ["./ls"] }, { run: [`${process.cwd()}/./ls`] }, true],
    ["a name for a path", { run: ["ls"] }, { run: ["/bin/ls"] }, false],
    ["a host", { net: ["a.com:443"] }, { net: ["b.com:443", "A.com:443"] }, true],
    ["a host below", { net: ["a.b.com:443"] }, { net: ["*.b.com:443"] }, true],
    ["hosts below hosts below", { net: ["*.a.b.com:443"] }, { net: ["*.b.com:443"] }, true],
    ["a host that is not below", { net: ["b.com:443"] }, { net: ["*.b.com:443"] }, false],
    ["hosts below within one host", { net: ["*.b.com:443"] }, { net: ["b.com:443"] }, false],
    ["another port", { net: ["a.com:444"] }, { net: ["a.com:443"] }, false],
    ["a range in a range", { net: ["10.1.0.0/16:80"] }, { net: ["10.0.0.0/8:80"] }, true],
    ["IPv4 inside of IPv6", { net: ["[::ffff:10.1.2.3]:80"] }, { net: ["10.0.0.0/8:80"] }, true],
    ["a wider range", { net: ["10.0.0.0/8:80"] }, { net: ["10.1.0.0/16:80"] }, false],
    ["a private range in the public internet", { net: ["10.0.0.0/8:80"] }, { net: ["0.0.0.0/0:80"] }, false],
    ["metadata in link-local", { net: ["169.254.169.254:80"] }, { net: ["169.254.0.0/16:80"] }, false],
    ["a public range in the public internet", { net: ["8.8.8.0/24:80"] }, { net: ["0.0.0.0/0:80"] }, true],
    ["IPv4 in all of IPv6", { net: ["8.8.8.8:80"] }, { net: ["[::/0]:80"] }, false],
    ["behind NAT64, private", { net: ["[64:ff9b::a00:0/104]:80"] }, { net: ["[64:ff9b::/96]:80"] }, false],
    ["a variable", { env: { A: "1" } }, { env: { A: "1", B: "2" } }, true],
    ["a variable that the parent has not", { env: { A: "1" } }, { env: { B: "2" } }, false],
    ["a variable of another value", { env: { A: "1" } }, { env: { A: "2" } }, false],
    ["an inherited name", { env: { toString: "1" } }, {}, false],
    ["amounts in other units", { limits: { memory: "1 GiB" } }, { limits: { memoryBytes: 2 ** 30 } }, true],
    ["more memory", { limits: { memory: "1.5 GiB" } }, { limits: { memory: "1 GiB" } }, false],
    ["the usual memory beyond less", {}, { limits: { memory: "256 MiB" } }, false],
    ["the usual memory within more", {}, { limits: { memory: "1 GiB" } }, true],
    ["more than the usual memory", { limits: { memory: "1 GiB" } }, {}, false],
    ["no time within some time", {}, { limits: { wallTime: "30 s" } }, false],
    ["some time within no time", { limits: { cpuTime: "1 h" } }, {}, true],
    ["minutes within seconds", { limits: { wallTime: "1 min" } }, { limits: { wallTimeMs: 60_000 } }, true],
    ["more files", { limits: { files: 300 } }, {}, false],
    ["a guarantee to go without", { allowUnenforced: ["memory"] }, {}, false],
    ["guarantees to go without", { allowUnenforced: ["memory"] }, { allowUnenforced: ["cpu", "memory"] }, true],
    ["promises", { promises: "stdio" }, { promises: "rpath stdio" }, true],
    ["a promise too many", { promises: "stdio inet" }, { promises: "stdio" }, false],
    ["no promise beyond any promise", {}, { promises: "stdio rpath wpath cpath inet" }, false],
    ["any promise within none", { promises: "stdio" }, {}, true],
    ["the emptiest promise", { promises: "" }, { promises: "stdio" }, true],
    ["a promise beyond the emptiest", { promises: "stdio" }, { promises: "" }, false],
    ["no promise beyond the emptiest", {}, { promises: "" }, false],
    ["an errno where the parent is killed", {}, { onBreak: "kill" }, false],
    ["killed where the parent gets an errno", { onBreak: "kill" }, {}, true],
  ];
  for (const [what, sandbox, parent, within] of sandboxes)
    test(`${what}: ${within}`, () => expect(isWithin(sandbox, parent)).toBe(within));

  test("counts the one process of an actor as one", () => {
    expect(isWithin({}, { limits: { processes: 2 } }, "actor")).toBe(true);
    expect(isWithin({}, { limits: { processes: 2 } }, "program")).toBe(false);
  });

  test("throws ENOENT for a link to nothing, which may come to lead anywhere", () => {
    expect(() => isWithin({ read: [at("broken")] }, { read: [home] })).toThrow("ENOENT");
  });
});

describe("excess()", () => {
  for (const [sandbox, parent, found] of [
    [{ read: [at("a")] }, {}, { key: "read", value: at("a"), bound: "no grant for that path" }],
    [{ write: [at("a")] }, { read: [at("a")] }, { key: "write", value: at("a"), bound: '"r" for that path' }],
    [{ limits: { memory: "1 GiB" } }, {}, { key: "limits.memory", value: "1 GiB", bound: "512 MiB" }],
    [{}, { limits: { wallTime: "30 s" } }, { key: "limits.wallTime", value: "no limit", bound: "30 s" }],
    [
      { env: { KEY: "secret" } },
      { env: { KEY: "other" } },
      { key: "env", value: "KEY", bound: "another value for it" },
    ],
    [{ net: ["a.com:1"] }, { net: ["b.com:1"] }, { key: "net", value: "a.com:1", bound: "b.com:1" }],
    [{ promises: "stdio exec" }, { promises: "stdio" }, { key: "promises", value: "exec", bound: "stdio" }],
  ] as const)
    test(`of ${JSON.stringify(sandbox)} beyond ${JSON.stringify(parent)}`, () =>
      expect(excess(sandbox, parent)).toEqual(found));
});

describe("policyWithin()", () => {
  test("gives the policy that is within, and throws RangeError that says what exceeds", () => {
    const policy = policyOf({ read: [at("a/b")] });
    expect(policyWithin(policy, { read: [at("a")] })).toBe(policy);
    expect(policyWithin(policy, undefined)).toBe(policy);
    expect(() => policyWithin(policy, {})).toThrow(
      new RangeError(`Cannot grant read ${at("a/b")}: the policy that it is to stay within has no grant for that path`),
    );
  });

  test("throws for words that are none, though the policy asks for nothing", () => {
    expect(() => policyWithin(policyOf(), { raed: ["/"] } as Sandbox)).toThrow('it has "raed"');
  });
});

describe("parse()", () => {
  test("reads JSON, and takes relative paths from the directory that is named", () => {
    const text = `{ "$schema": "x", "read": ["data", "/srv"], "write": ["../out"], "run": ["ls", "./tool"], "unveil": { "x": "rx" } }`;
    expect(parse(text, { directory: "/base/sub" })).toEqual({
      read: ["/base/sub/data", "/srv"],
      write: ["/base/out"],
      run: ["ls", "/base/sub/tool"],
      unveil: { "/base/sub/x": "rx" },
    });
  });

  test("adds up letters of one path by two names", () => {
    expect(parse({ unveil: { "a/.": "r", a: "xw" } }, { directory: "/base" })).toEqual({
      unveil: { "/base/a": "rwx" },
    });
  });

  test("takes what print, union and all others give", () => {
    const sandbox: Sandbox = { read: [home], limits: { memory: "1 GiB" }, promises: "" };
    expect(parse(JSON.stringify(normal(sandbox)))).toEqual(sandbox);
  });
});

describe("union(), intersection() and extend()", () => {
  test("a limit that one of them has binds no union, and every intersection", () => {
    const [some, none]: [Sandbox, Sandbox] = [{ limits: { wallTime: "30 s", memory: "256 MiB" } }, {}];
    expect(union(some, none)).toEqual({});
    expect(intersection(some, none)).toEqual(some);
    expect(intersection({ limits: { memory: "1 GiB" } }, none)).toEqual({});
    expect(union({ limits: { memory: "1 GiB" } }, none)).toEqual({ limits: { memory: "1 GiB" } });
  });

  test("promises that only one of them makes are none of the union, and all of the intersection", () => {
    expect(union({ promises: "stdio" }, {})).toEqual({});
    expect(intersection({ promises: "stdio" }, {})).toEqual({ promises: "stdio" });
    expect(intersection({ promises: "stdio rpath" }, { promises: "inet" })).toEqual({ promises: "" });
    expect(union({ promises: "stdio" }, { promises: "" })).toEqual({ promises: "stdio" });
  });

  test("what overlaps is shared by what is deeper", () => {
    expect(intersection({ read: [at("a")] }, { write: [at("a/b")] })).toEqual({ read: [at("a/b")] });
    expect(intersection({ write: [home] }, { write: [at("a")], read: [at("a/b")] })).toEqual({
      write: [at("a")],
      read: [at("a/b")],
    });
    expect(intersection({ read: [at("a/link")] }, { read: [at("a")] })).toEqual({});
    expect(union({ write: [at("a")], read: [at("a/b")] }, { write: [at("a/b/c")] })).toEqual({
      write: [at("a"), at("a/b/c")],
      read: [at("a/b")],
    });
  });

  test("letters that cannot be kept apart from what is above are given to the union and taken from above in the intersection", () => {
    const [one, other]: [Sandbox, Sandbox] = [{ write: [at("a")], read: [at("a/b")] }, { unveil: { [at("a")]: "rx" } }];
    expect(union(one, other)).toEqual({ unveil: { [at("a")]: "rwxc" } });
    expect(intersection(one, { unveil: { [at("a")]: "wc" } })).toEqual({});
    for (const sandbox of [union(one, other), intersection(one, other)])
      expect(() => policyOf(sandbox, "program")).not.toThrow();
  });

  test("a variable with two values is in no intersection, and refused by the union without its values", () => {
    expect(intersection({ env: { A: "1", B: "2" } }, { env: { A: "1", B: "3" } })).toEqual({ env: { A: "1" } });
    expect(() => union({ env: { A: "secret" } }, { env: { A: "2" } })).toThrow(
      new TypeError("Cannot unite two sandboxes: their variable A has two values"),
    );
  });

  test("extend() keeps limits and promises, adds grants, and takes what more says of a limit", () => {
    const own: Sandbox = {
      read: [at("a")],
      limits: { wallTime: "30 s", memory: "256 MiB" },
      promises: "stdio",
      onBreak: "kill",
    };
    expect(extend(own, { read: [at("d")] })).toEqual({ ...own, read: [at("a"), at("d")] });
    expect(extend(own, { limits: { memory: "1 GiB" } })).toEqual({
      ...own,
      limits: { ...own.limits, memory: "1 GiB" },
    });
    expect(extend(own, { promises: "rpath" })).toEqual({ ...own, promises: "rpath stdio" });
    expect(extend({}, { promises: "rpath" })).toEqual({ promises: "rpath" });
  });
});

describe("normal()", () => {
  test("is sorted, with nothing said twice, and paths real", () => {
    expect(
      normal({
        read: [at("d"), at("a/link"), at("a/b"), at("a"), at("a/file"), `${at("a")}//`],
        net: ["B.com:1", "b.com:1", "a.b.com:1", "*.b.com:1", "10.0.0.1/32:1", "[::ffff:10.0.0.1]:1"],
        run: ["ls", "cat", "ls"],
        env: { B: "1", A: "2" },
        limits: {},
        allowUnenforced: [],
        unveil: { [at("ab")]: "cwr" },
        promises: "stdio rpath  stdio",
        onBreak: "errno",
      }),
    ).toEqual({
      read: [at("a"), at("d")],
      write: [at("ab")],
      run: ["cat", "ls"],
      net: ["*.b.com:1", "10.0.0.1:1", "b.com:1"],
      env: { A: "2", B: "1" },
      promises: "rpath stdio",
    });
  });
});

describe("print()", () => {
  test("says in words what a sandbox allows, and what it does not", () => {
    const text = print({
      read: [at("a")],
      write: [at("d")],
      unveil: { [at("ab")]: "rx" },
      net: ["*.example.com:443", "10.0.0.0/8:5432"],
      env: { KEY: "secret" },
      promises: "stdio rpath",
      onBreak: "kill",
      limits: { memory: "1 GiB" },
    });
    expect(text.split("\n").map((line) => line.trim().replaceAll(/ {2,}/g, " | "))).toEqual([
      `May read | ${at("a")}`,
      `May read and write | ${at("d")}`,
      `May read, execute | ${at("ab")}`,
      "May connect to | any name that ends in .example.com, port 443",
      "10.0.0.0/8, port 5432",
      "Is given | KEY",
      "Keeps to | the promises stdio rpath: whatever else it calls ends it",
      "Is held to | 1 GiB of memory",
      "64 processes and threads",
      "256 open files",
      "64 MiB in one file",
      "64 MiB in each tmpfs that says no size",
    ]);
  });

  test("names what the strictest may not, and one process of an actor", () => {
    const text = print({}, "actor");
    expect(text).toContain("1 process\n");
    for (const deed of [
      "read any file",
      "write any file",
      "run any program",
      "connect to any host",
      "see any variable",
    ])
      expect(text).toContain(deed);
    expect(print({ promises: "" })).toContain("no promise but to end");
  });

  test("lets no name move the cursor or begin a line", () => {
    const text = print({ read: ["/tmp/\x1b[2J\nMay read   /"], env: { "A\nMay run": "x" } });
    expect(text).not.toMatch(/[^\n -~]/);
    expect(text.split("\n").filter((line) => line.startsWith("May read"))).toHaveLength(1);
    expect(text).not.toContain("\nMay run");
  });
});

/** Letters that a sandbox says of a path, by a way of its own: the nearest that is named counts, and of one path all that is said. */
function lettersAt({ read = [], write = [], unveil = {} }: Sandbox, path: string): string {
  const said = [
    ...read.map((each) => [each, "r"] as const),
    ...write.map((each) => [each, "rwc"] as const),
    ...Object.entries(unveil),
  ].map(([each, letters]) => [realpathSync(each), letters] as const);
  for (let here = path; ; here = join(here, "..")) {
    const letters = said.filter(([each]) => each === here).map(([, letters]) => letters);
    if (letters.length > 0) return letters.join("");
    if (here === "/") return "";
  }
}

const PATHS = ["", "a", "a/b", "a/b/c", "a/file", "ab", "d", "a/link"].map(at);
const REAL = [
  ...PATHS.filter((path) => path !== at("a/link")),
  at("a/b/c/new"),
  at("a/new"),
  at("d/new"),
  tmpdir(),
  "/etc",
];
const NAMES = ["b.com", "a.b.com", "x.a.b.com", "c.com", "xb.com"];
const ADDRESSES = ["10.0.0.1", "10.1.2.3", "8.8.8.8", "127.0.0.1", "169.254.169.254", "169.254.1.1", "2606:4700::1", "fd00::1", "64:ff9b::808:808", "64:ff9b::a00:1"]; // biome-ignore format: a list
const RULES = ["b.com:1", "*.b.com:1", "*.a.b.com:1", "a.b.com:1", "c.com:2", "0.0.0.0/0:1", "10.0.0.0/8:1", "10.1.0.0/16:1", "0.0.0.0/1:1", "169.254.0.0/16:1", "169.254.169.254:1", "[::/0]:1", "[fc00::/7]:1", "[64:ff9b::/96]:1", "[64:ff9b::a00:0/104]:1", "127.0.0.1:1"]; // biome-ignore format: a list

/** All that some sandbox allows, as one set of deeds: a sandbox may be within another one only if its set is. */
function deedsOf(sandbox: Sandbox): Set<string> {
  const rules = (sandbox.net ?? []).map(parseRule);
  const { memory, wallTime = Number.POSITIVE_INFINITY } = policyOf({ limits: sandbox.limits ?? {} }, "program").limits;
  const words = sandbox.promises?.split(" ") ?? ["stdio", "rpath", "inet", "everything"];
  return new Set([
    ...REAL.flatMap((path) => [...lettersAt(sandbox, path)].map((letter) => `${letter} ${path}`)),
    ...(sandbox.run ?? []).map((program) => `run ${program}`),
    ...[1, 2].flatMap((port) => [
      ...NAMES.filter((name) => ruleForName(rules, name, port) !== undefined).map((name) => `${name}:${port}`),
      ...ADDRESSES.filter((each) => ruleForAddress(rules, parseAddress(each)!, port) !== undefined).map(
        (each) => `${each}:${port}`,
      ),
    ]),
    ...Object.entries(sandbox.env ?? {}).map(([name, value]) => `${name}=${value}`),
    ...[2 ** 27, 2 ** 28, 2 ** 29, 2 ** 30].filter((bytes) => bytes <= memory).map((bytes) => `allocate ${bytes}`),
    ...[1, 10, 100].filter((seconds) => seconds * 1000 <= wallTime).map((seconds) => `take ${seconds}`),
    ...words.filter((word) => word !== "").map((word) => `promise ${word}`),
    ...(sandbox.allowUnenforced ?? []),
    ...(sandbox.onBreak === "kill" ? [] : ["live on"]),
  ]);
}

/** Deeds that no grant brings. */
const NARROWED = /^(?:allocate|take|promise|live) /;

describe("of random sandboxes", () => {
  const some = <Value>(...values: readonly Value[]) => fc.uniqueArray(fc.constantFrom(...values), { maxLength: 3 });
  /** Some keys, for a key that says nothing is another case than one that is not there. */
  const sandboxes: fc.Arbitrary<Sandbox> = fc
    .record(
      {
        read: some(...PATHS),
        write: some(...PATHS),
        unveil: fc.dictionary(fc.constantFrom(...PATHS), fc.constantFrom("r", "rw", "rx", "x", "wc", "rwc", "rwxc"), {
          maxKeys: 2,
        }),
        run: some("ls", "cat", "/bin/ls"),
        net: some(...RULES),
        env: fc.dictionary(fc.constantFrom("A", "B", "toString"), fc.constantFrom("1", "2"), { maxKeys: 2 }),
        limits: fc.record(
          {
            memory: fc.constantFrom("128 MiB", "256 MiB", "512 MiB", "1 GiB"),
            wallTime: fc.constantFrom("1 s", "10 s", "100 s"),
          },
          { requiredKeys: [] },
        ),
        allowUnenforced: some("memory" as const, "cpu" as const),
        promises: some("stdio", "rpath", "inet").map((words) => words.join(" ")),
        onBreak: fc.constantFrom("kill" as const, "errno" as const),
      },
      { requiredKeys: [] },
    )
    .filter((sandbox) => {
      try {
        return normal(sandbox) !== undefined; // letters that cannot be kept apart are refused
      } catch {
        return false;
      }
    });
  const hold = (law: (a: Sandbox, b: Sandbox, c: Sandbox) => unknown) =>
    fc.assert(
      fc.property(sandboxes, sandboxes, sandboxes, (a, b, c) => law(a, b, c) !== false),
      { numRuns: 200 },
    );
  /** Variables may contradict each other, and then there is no union. */
  const agreeing = (a: Sandbox, b: Sandbox): Sandbox => ({ ...b, env: { ...b.env, ...a.env } });

  test("what is within allows no deed that the other does not", () => {
    // Two that have nothing to do with each other are seldom within, so ones that have are tried as well.
    hold((a, b, c) => {
      for (const [inner, outer] of [[a, b], [intersection(a, b), c], [a, union(a, agreeing(a, c))]] as const) // biome-ignore format: pairs
        if (isWithin(inner, outer)) expect([...deedsOf(inner).difference(deedsOf(outer))]).toEqual([]);
    });
  });

  test("what is within of files alone is what allows no deed more, and of hosts alone allows none", () => {
    hold((a, b) => {
      const [files, others] = [a, b].map(
        ({ read = [], write = [], unveil = {} }): Sandbox => ({ read, write, unveil }),
      );
      expect(isWithin(files!, others!)).toBe(deedsOf(files!).isSubsetOf(deedsOf(others!)));
      const [hosts, more] = [a, b].map(({ net = [] }): Sandbox => ({ net }));
      if (isWithin(hosts!, more!)) expect(deedsOf(hosts!).isSubsetOf(deedsOf(more!))).toBe(true);
    });
  });

  test("an intersection is within both, whatever overlaps, and allows nothing that one of them does not", () => {
    hold((a, b) => {
      const both = intersection(a, b);
      expect([excess(both, a), excess(both, b)]).toEqual([undefined, undefined]);
      expect([...deedsOf(both).difference(deedsOf(a).intersection(deedsOf(b)))]).toEqual([]);
      policyOf(both, "program"); // it can be used
    });
  });

  test("a union has both within it, and allows what they allow", () => {
    hold((a, other) => {
      const b = agreeing(a, other);
      const either = union(a, b);
      expect([excess(a, either), excess(b, either)]).toEqual([undefined, undefined]);
      expect([...deedsOf(a).union(deedsOf(b)).difference(deedsOf(either))]).toEqual([]);
      policyOf(either, "program");
    });
  });

  test("union and intersection do not mind the order, nor to be asked twice", () => {
    hold((a, other) => {
      const b = agreeing(a, other);
      return (
        equals(union(a, b), union(b, a)) &&
        equals(intersection(a, b), intersection(b, a)) &&
        equals(union(a, a), a) &&
        equals(intersection(a, a), a)
      );
    });
  });

  test("within is passed on, and both ways it is the same", () => {
    hold((a, b, c) => {
      const [inner, middle] = [intersection(intersection(a, b), c), intersection(a, b)];
      return (
        isWithin(inner, middle) &&
        isWithin(inner, a) &&
        equals(a, normal(a)) &&
        equals(normal(a), parse(JSON.stringify(normal(a))))
      );
    });
  });

  test("what is extended loses nothing, and gets no time, memory or promise that it had not", () => {
    hold((a, { limits: _limits, promises: _promises, onBreak: _onBreak, env: _env, ...grants }) => {
      const extended = extend(a, grants);
      const [before, after] = [deedsOf(a), deedsOf(extended)];
      expect([...before.union(deedsOf(grants)).difference(after)].filter((deed) => !NARROWED.test(deed))).toEqual([]);
      expect([...after.symmetricDifference(before)].filter((deed) => NARROWED.test(deed))).toEqual([]);
    });
  });
});
