// What a sandbox may be, and that nothing else passes for one: what is not understood is refused, and never more than was written.
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Compile } from "typebox/compile";
import { text } from "../../schemas/generate.ts";
import { checked, located, policyOf, type Sandbox } from "../../src/sandbox.ts";

const home = realpathSync(mkdtempSync(join(tmpdir(), "caisson-sandbox-")));
afterAll(() => rmSync(home, { recursive: true }));
mkdirSync(join(home, "a/b"), { recursive: true });
symlinkSync(join(home, "a"), join(home, "link"));
symlinkSync(join(home, "nothing"), join(home, "broken"));

/** Each with the place and the words of what is refused. */
const REFUSED: readonly (readonly [string, unknown, string])[] = [
  ["null", null, "it is null: expected a sandbox"],
  ["a list", [], "it is []: expected a sandbox"],
  ["text", "read", 'it is "read": expected a sandbox'],
  ["an unknown key", { raed: ["/"] }, 'it has "raed": there is no such key; did you mean read?'],
  ["a key in capitals", { Read: ["/"] }, 'it has "Read": there is no such key; did you mean read?'],
  ["an unknown limit", { limits: { ram: 1 } }, 'limits has "ram": there is no such key'],
  ["a misspelt limit", { limits: { memroy: 1 } }, 'limits has "memroy": there is no such key; did you mean memory?'],
  [
    "another unit",
    { limits: { wallTimeSec: 1 } },
    'limits has "wallTimeSec": there is no such key; did you mean wallTime?',
  ],
  ["text for a list", { read: "/etc" }, 'read is "/etc": expected a list, each a path'],
  ["null for a list", { net: null }, "net is null: expected a list, each host:port"],
  ["null in a list", { read: [null] }, "read[0] is null: expected a path"],
  ["an empty path", { write: ["/srv", ""] }, 'write[1] is "": expected a path'],
  ["a path with a NUL", { read: ["/srv\0/etc"] }, "read[0] is "],
  ["a list in a list", { read: [["/etc"]] }, "read[0] is "],
  ["true for all", { net: true }, "net is true: expected a list, each host:port"],
  ["an object for a list", { read: { 0: "/etc", length: 1 } }, "read is "],
  [
    "a variable's name with =",
    { env: { "A=B": "1" } },
    'env has "A=B": expected variables, each a name without = and a text',
  ],
  ["an empty variable's name", { env: { "": "1" } }, 'env has "": expected variables'],
  ["a variable's value with a NUL", { env: { A: "1\0B=2" } }, "env.A is a string: expected text"],
  ["a number as a variable", { env: { A: 1 } }, "env.A is a number: expected text"],
  ["null for the limits", { limits: null }, "limits is null: expected limits by their names"],
  ["no guarantee", { allowUnenforced: ["all"] }, 'allowUnenforced[0] is "all": expected one of files, network'],
  ["a list of promises", { promises: ["stdio"] }, "promises is "],
  ["null for promises", { promises: null }, "promises is null: expected words of pledge(2) with spaces between"],
  ["unknown letters", { unveil: { "/srv": "ra" } }, 'unveil["/srv"] is "ra": expected some of the letters rwxc'],
  ["a letter twice", { unveil: { "/srv": "rr" } }, 'unveil["/srv"] is "rr": expected some of the letters rwxc'],
  ["no letters", { unveil: { "/srv": "" } }, 'unveil["/srv"] is "": expected some of the letters rwxc'],
  ["an unknown end", { onBreak: "log" }, 'onBreak is "log": expected one of kill, errno'],
];

/** What JSON cannot say, and could mean one thing when it is checked and another one when it is used. */
const TRICKS: readonly (readonly [string, () => unknown, string])[] = [
  ["undefined for a grant", () => ({ read: undefined }), "read is undefined: leave it out, or give it a value"],
  ["undefined for promises", () => ({ promises: undefined }), "promises is undefined: leave it out"],
  ["undefined for a limit", () => ({ limits: { wallTime: undefined } }), "limits.wallTime is undefined: leave it out"],
  ["undefined in a list", () => ({ read: [undefined] }), "read[0] is undefined"],
  ["a list with a hole", () => ({ read: new Array(1) }), "read[0] is missing: a list has no holes"],
  ["a getter", () => ({ get read() { return ["/srv"]; } }), "read is no value but a getter"], // biome-ignore format: one line
  [
    "a getter in a list",
    () => ({ read: Object.defineProperty([], "0", { get: () => "/srv", enumerable: true }) }),
    "read[0] is no value but a getter",
  ],
  ["a hidden key", () => Object.defineProperty({}, "read", { value: ["/srv"] }), "read is hidden"],
  ["an inherited key", () => Object.create({ read: ["/srv"] }), "it is no plain object"],
  ["an instance", () => new (class { read = ["/srv"]; })(), "it is no plain object"], // biome-ignore format: one line
  ["a Map", () => ({ env: new Map([["A", "1"]]) }), "env is no plain object"],
  ["text as an object", () => ({ promises: new String("stdio") }), "promises is no plain object"],
  ["a symbol", () => ({ [Symbol.iterator]: 1 }), "it has a key Symbol(Symbol.iterator)"],
  ["__proto__", () => JSON.parse('{ "__proto__": { "read": ["/"] } }'), "it has a key __proto__"],
  ["__proto__ as a variable", () => ({ env: JSON.parse('{ "__proto__": "1" }') }), "env has a key __proto__"],
  ["itself within itself", () => { const own: Record<string, unknown> = {}; own.limits = own; return own; }, "limits.limits.limits is deeper"], // biome-ignore format: one line
  ["half of a character", () => ({ read: ["/srv/\ud800"] }), "read[0] has half of a character"],
];

describe("checked()", () => {
  for (const [what, sandbox, told] of REFUSED)
    test(`throws TypeError for ${what}`, () => {
      expect(() => checked(sandbox)).toThrow(TypeError);
      expect(() => checked(sandbox)).toThrow(`Cannot use this sandbox: ${told}`);
    });

  for (const [what, sandbox, told] of TRICKS)
    test(`throws TypeError for ${what}`, () => {
      expect(() => checked(sandbox())).toThrow(TypeError);
      expect(() => checked(sandbox())).toThrow(`Cannot use this sandbox: ${told}`);
    });

  for (const [what, sandbox, told] of [
    ["every port", { net: ["a.com:*"] }, "as a rule"],
    ["every host", { net: ["*:443"] }, "as a rule"],
    ["a host alone", { net: ["*"] }, "as a rule"],
    ["a unit that is none", { limits: { memory: "1 parsec" } }, 'Cannot use "1 parsec" as limits.memory'],
    ["a unit that every object has", { limits: { memory: "1 constructor" } }, "as limits.memory"],
    ["a promise that is none", { promises: "stdio inte" }, 'Cannot promise "inte"'],
  ] as const)
    test(`throws for ${what}`, () => expect(() => checked(sandbox)).toThrow(told));

  test("gives a copy, which no proxy changes and nothing inherited adds to", () => {
    const asked: PropertyKey[] = [];
    const read = new Proxy(["/srv"], {
      getOwnPropertyDescriptor(list, key) {
        asked.push(key);
        return Reflect.getOwnPropertyDescriptor(list, key);
      },
    });
    const copy = checked({ read });
    expect(asked.filter((key) => key === "0")).toHaveLength(1);
    read[0] = "/etc";
    expect(copy.read).toEqual(["/srv"]);
    const list = Object.assign(["/srv"], { [Symbol.iterator]: () => ["/etc"][Symbol.iterator]() }); // an iterator of its own
    expect(checked({ read: list }).read).toEqual(["/srv"]);
    const polluted = Object.prototype as { write?: unknown; memory?: unknown };
    try {
      polluted.write = ["/"];
      polluted.memory = 2 ** 40;
      const { write, limits } = policyOf({});
      expect([write, limits.memory]).toEqual([[], 512 * 2 ** 20]);
    } finally {
      delete polluted.write;
      delete polluted.memory;
    }
  });
});

describe("policyOf()", () => {
  test("of nothing grants nothing", () => {
    const { limits, ...policy } = policyOf();
    expect(policy).toEqual({
      read: [],
      write: [],
      run: [],
      net: [],
      env: {},
      allowUnenforced: [],
      promises: undefined,
      unveil: [],
      onBreak: "errno",
      names: [],
    });
    expect(limits).toEqual({
      memory: 512 * 2 ** 20,
      processes: 1,
      files: 256,
      fileSize: 64 * 2 ** 20,
      tmpfs: 64 * 2 ** 20,
    });
  });

  test("of empty lists and tables is that of nothing", () => {
    expect(
      policyOf({ read: [], write: [], run: [], net: [], env: {}, limits: {}, allowUnenforced: [], unveil: {} }),
    ).toEqual(policyOf());
  });

  test("has real paths, and words for text", () => {
    const policy = policyOf(
      { read: [join(home, "link/b")], unveil: { [join(home, "link")]: "rw" }, promises: "stdio rpath" },
      "program",
    );
    expect(policy.read).toEqual([join(home, "a/b")]);
    expect(policy.unveil).toEqual([{ path: join(home, "a"), permissions: "rw" }]);
    expect(policy.promises).toEqual(["stdio", "rpath"]);
    expect(policyOf({ promises: "" }, "program").promises).toEqual([]);
  });

  for (const [what, sandbox, told] of [
    ["/", { read: ["/"] }, "Cannot grant /"],
    ["/proc", { read: ["/proc/self"] }, "/proc belongs to the kernel"],
    ["/dev", { unveil: { "/dev/null": "rw" } }, "belongs to the kernel"],
    ["a path that is not there", { read: [join(home, "none")] }, "ENOENT"],
    ["a star", { read: ["*"] }, "ENOENT"],
    ["a home that a shell would know", { read: ["~/.ssh"] }, "ENOENT"],
  ] as const)
    test(`throws for ${what}`, () => {
      expect(() => policyOf(sandbox as Sandbox, "program")).toThrow(told);
    });

  test("refuses letters that are less than what is granted above, and takes those that are read", () => {
    const [outer, inner] = [join(home, "a"), join(home, "a/b")];
    expect(() => policyOf({ write: [outer], unveil: { [inner]: "rw" } }, "program")).toThrow(
      new TypeError(`Cannot unveil ${inner} for "rw": ${outer} is granted for "rwc", and so is what is beneath it`),
    );
    expect(() => policyOf({ unveil: { [outer]: "rx", [inner]: "x" } }, "program")).toThrow(TypeError);
    expect(() =>
      policyOf({ read: [inner], write: [outer], unveil: { [join(inner, "..")]: "x" } }, "program"),
    ).not.toThrow();
  });

  test("refuses of actors what makes no sense of them", () => {
    for (const [key, sandbox] of [
      ["run", { run: ["ls"] }],
      ["net", { net: ["a.com:443"] }],
      ["limits.processes", { limits: { processes: 2 } }],
    ] as const)
      expect(() => policyOf(sandbox)).toThrow(`Cannot use ${key} for an actor`);
  });
});

describe("located()", () => {
  for (const [path, real] of [
    ["a/b", "a/b"],
    ["link/b", "a/b"],
    ["link/new/er", "a/new/er"],
    ["a/../link", "a"],
  ] as const)
    test(`${path} is at ${real}`, () => expect(located(join(home, path))).toBe(join(home, real)));

  test("throws ENOENT for a link to nothing, and for what would be behind it", () => {
    for (const path of ["broken", "broken/more"]) expect(() => located(join(home, path))).toThrow("ENOENT");
  });
});

describe("schemas/sandbox.json", () => {
  const file = readFileSync(new URL("../../schemas/sandbox.json", import.meta.url), "utf8");

  test("is what `bun schemas/generate.ts` writes", () => expect(file).toBe(text));

  test("agrees with checked() on what it can say", () => {
    const schema = Compile(JSON.parse(file));
    for (const [what, sandbox] of REFUSED) expect([what, schema.Check(sandbox)]).toEqual([what, false]);
    expect(
      schema.Check({
        $schema: "x",
        read: ["/srv"],
        limits: { memory: "1 GiB" },
        promises: "",
        unveil: { "/a": "rx" },
        onBreak: "kill",
      }),
    ).toBe(true);
  });
});
