// `caisson learn` as a user meets it: what it writes suffices for the next run, and holds nothing that a person has to decide about.
import { afterAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { UsageError } from "../../src/flags.ts";
import { Gathered, hostAbout } from "../../src/gathered.ts";
import { learn, learnCommandOf } from "../../src/learn.ts";
import { testIf } from "../syscalls/requirement.ts";
import { testBox } from "./box.ts";
import { STRACE, stracing } from "./strace.ts";

setDefaultTimeout(60_000);

const cli = fileURLToPath(new URL("../../src/cli.ts", import.meta.url));
// Not beneath /tmp, of which some sandboxes here have their own.
const base = realpathSync(mkdtempSync("/var/tmp/caisson-learn-"));
chmodSync(base, 0o755);
afterAll(() => rmSync(base, { recursive: true }));

let home = "";
let count = 0;
const at = (name: string) => join(home, name);
const put = (name: string, text: string) => writeFileSync(at(name), text);
const policy = (name: string) => JSON.parse(readFileSync(at(`${name}.policy.json`), "utf8"));

/** Each test has a home of its own, with keys in it. */
beforeEach(() => {
  home = join(base, String(++count));
  for (const name of ["", ".ssh", "data"]) mkdirSync(at(name), { mode: 0o755 });
  put(".ssh/id_rsa", "the key");
  put("data/a", "one\n");
  put("data/b", "two\n");
});

/** Runs the command to its end. */
async function caisson(args: readonly string[], { cwd = home } = {}) {
  const child = Bun.spawn([process.execPath, "--config=/dev/null", cli, ...args], {
    cwd,
    env: { HOME: home, PATH: "/usr/bin:/bin", LANG: "C.UTF-8", TOKEN: "hunter2" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code, out, err };
}

describe("caisson learn -- program", () => {
  const SCRIPT = `cat data/a data/b | sort > out; mkdir -p made; echo hi > made/x; t=$(mktemp); echo > $t; rm $t; ls data`;

  testBox("writes what suffices for the next run, which nothing would not", async () => {
    const first = await caisson(["learn", "--", "sh", "-c", SCRIPT]);
    expect(first).toMatchObject({ code: 0, out: "a\nb\n" });
    const { read, write, run, env } = policy("sh");
    expect(read).toContain(at("data"));
    expect(write).toEqual([at("made"), at("out")]);
    expect(run.map((path: string) => path.split("/").at(-1))).toEqual(["cat", "ls", "mkdir", "mktemp", "rm", "sort"]);
    expect(env).toEqual({ HOME: home, PATH: "/usr/bin:/bin", LANG: "C.UTF-8" });
    expect(first.err).toContain("caisson exec --policy=sh.policy.json --tmp -- sh -c ");

    put("out", "");
    const again = await caisson(["exec", "--policy=sh.policy.json", "--tmp", "--", "sh", "-c", SCRIPT]);
    expect(again).toEqual({ code: 0, out: "a\nb\n", err: "" });
    expect(readFileSync(at("out"), "utf8")).toBe("one\ntwo\n");
    const without = await caisson(["exec", "--", "sh", "-c", SCRIPT]);
    expect(without.code).not.toBe(0);
  });

  testBox("says the same in a module, with the evidence", async () => {
    await caisson(["learn", "--out=mine.ts", "--", "sort", "data/a", "data/b"]);
    const module = await import(at("mine.ts"));
    expect(module.default).toEqual(JSON.parse(readFileSync(at("mine.json"), "utf8")));
    expect(readFileSync(at("mine.ts"), "utf8")).toContain(`openat by sort: ${at("data/a")}`);
  });

  testBox("hides keys, and leaves them to a person", async () => {
    const { out, err } = await caisson(["learn", "--", "sh", "-c", `cat "$HOME/.ssh/id_rsa"; echo "<$TOKEN>"`]);
    expect(out).toBe("<>\n");
    expect(err).toContain(`read ${at(".ssh/id_rsa")}\n      private keys`);
    expect(JSON.stringify(policy("sh"))).not.toContain(".ssh");
    // A control: the same is there to be read.
    expect(readFileSync(at(".ssh/id_rsa"), "utf8")).toBe("the key");
  });

  testBox("finds a relative path again under what it wrote, beside the working directory too", async () => {
    const inData = { cwd: at("data") };
    put("top", "top\n");
    for (const path of ["a", "../top"]) {
      const first = await caisson(["learn", "--force", "--out=../mine", "--", "cat", path], inData);
      const again = await caisson(["exec", "--policy=../mine.json", "--", "cat", path], inData);
      expect(again).toEqual({ code: 0, out: first.out, err: "" });
      expect(again.out).not.toBe("");
    }
  });

  const KEYS: readonly (readonly [how: string, script: string, act: string, name: string])[] = [
    ["reads in vain", "cat ../.ssh/none", "read", ".ssh/none"],
    ["looks for in vain", "[ -e ../.ssh/none ]", "look at", ".ssh/none"],
    ["looks at", "[ -d ../.ssh ]", "look at", ".ssh"],
    ["lists", "ls ../.ssh", "list", ".ssh"],
    ["enters", "cd ../.ssh", "look at", ".ssh"],
    ["reads by a link", "cat link", "read", "data/link"],
  ];
  testBox.each(KEYS)("leaves a hidden directory of keys to a person that it %s", async (_, script, act, name) => {
    symlinkSync("../.ssh/id_rsa", at("data/link"));
    chmodSync(at(".ssh"), 0o700);
    const lesson = () => caisson(["learn", "--force", "--out=../mine", "--", "sh", "-c", script], { cwd: at("data") });
    expect((await lesson()).err).toContain(`${act} ${at(name)}\n      private keys`);
    expect(readFileSync(at("mine.json"), "utf8")).not.toContain(".ssh");
    // A control: where there are no keys, there is nothing to decide.
    rmSync(at(".ssh"), { recursive: true });
    expect((await lesson()).err).not.toContain("private keys");
  });

  testBox("passes on a variable that is named, and keeps its value out of what it writes", async () => {
    const { out, err } = await caisson(["learn", "--env=TOKEN", "--", "sh", "-c", `echo "<$TOKEN>"`]);
    expect(out).toBe("<hunter2>\n");
    expect(err).toContain("--env=TOKEN");
    for (const name of ["sh.policy.json", "sh.policy.ts"])
      expect(readFileSync(at(name), "utf8")).not.toContain("hunter2");
  });

  testBox("ends with the program's code, and says that it did not see the rest", async () => {
    const { code, err } = await caisson(["learn", "--", "sh", "-c", "exit 7"]);
    expect({ code, told: err.includes("it ended with 7") }).toEqual({ code: 7, told: true });
  });

  testIf(
    "strace",
    STRACE !== null,
    "it is not installed",
  )("learns the same as from strace", async () => {
    const args = ["sh", "-c", "cat data/a data/b > out; mkdir made; echo > made/x; mv made/x made/y; rm made/y"];
    const directory = process.cwd();
    process.chdir(home);
    try {
      const command = learnCommandOf(["--out=theirs", "--env=PATH=/usr/bin:/bin", "--", ...args], {})!;
      expect(await learn(command, stracing(home))).toBe(0);
    } finally {
      process.chdir(directory);
    }
    rmSync(at("out"));
    rmSync(at("made"), { recursive: true });
    expect(await caisson(["learn", "--out=ours", "--", ...args])).toMatchObject({ code: 0 });
    const [theirs, ours] = ["theirs", "ours"].map((name) => JSON.parse(readFileSync(at(`${name}.json`), "utf8")));
    expect({ ...ours, env: {} }).toEqual({ ...theirs, env: {} });
  });

  test("cannot learn of a program that is not there", async () => {
    const { code, err } = await caisson(["learn", "--", "no-such-program"]);
    expect({ code, err }).toEqual({ code: 127, err: expect.stringContaining("Cannot find program no-such-program") });
    expect(existsSync(at("no-such-program.policy.json"))).toBe(false);
  });
});

describe("caisson learn script.ts", () => {
  const SCRIPT = () => `
    import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
    import { part } from "./part.ts";
    mkdirSync("${home}/made", { recursive: true });
    writeFileSync("${home}/made/x", part + process.argv[2] + process.env.LANG);
    console.log(readFileSync("${home}/data/a", "utf8"));`;

  testBox("writes what suffices for the next run, which nothing would not", async () => {
    put("script.ts", SCRIPT());
    put("part.ts", `export const part = "part";`);
    // Bun would run what it says, and read what else is there.
    put("bunfig.toml", `preload = ["./evil.ts"]`);
    put("evil.ts", `console.log("evil");`);
    const first = await caisson(["learn", "script.ts", "-x"]);
    expect(first).toMatchObject({ code: 0, out: "one\n\n" });
    expect(policy("script")).toEqual({ read: [at("data/a")], write: [at("made")], env: { LANG: "C.UTF-8" } });

    rmSync(at("made/x"));
    if (process.getuid!() === 0) chmodSync(at("made"), 0o755);
    const again = await caisson(["run", "--policy=script.policy.json", "script.ts", "-x"]);
    expect(again).toEqual({ code: 0, out: "one\n\n", err: "" });
    expect(readFileSync(at("made/x"), "utf8")).toBe("part-xC.UTF-8");
    expect((await caisson(["run", "script.ts", "-x"])).code).toBe(1);
  });

  testBox("leaves keys, variables and programs to a person", async () => {
    put(
      "script.ts",
      `
      import { existsSync } from "node:fs";
      console.log(existsSync("${home}/.ssh/id_rsa"), process.env.TOKEN, Bun.env.TOKEN);
      Bun.spawnSync(["/bin/true"]);`,
    );
    const { out, err } = await caisson(["learn", "script.ts"]);
    expect(out).toBe("false undefined undefined\n");
    for (const told of ["private keys", "--env=TOKEN", "a script starts no programs"]) expect(err).toContain(told);
    expect(policy("script")).toEqual({});
  });

  const RELATIVE: readonly (readonly [where: string, path: string, elsewhere: boolean])[] = [
    ["in the working directory", "a", false],
    ["beneath it", "deep/c", false],
    ["beside it", "../top", true],
    ["from the root", "../../../../../../../../../etc/hostname", true],
  ];
  testBox.each(RELATIVE)(
    "finds what it finds by a relative path %s: again, and where it is the same one",
    async (...of) => {
      const [, path, elsewhere] = of;
      for (const name of ["data/deep", "other"]) mkdirSync(at(name));
      put("data/deep/c", "three\n");
      put("top", "top\n");
      put("script.ts", `import { readFileSync } from "node:fs"; console.log(readFileSync("${path}", "utf8"));`);
      const cwd = at("data");
      const first = await caisson(["learn", "--out=../mine", "../script.ts"], { cwd });
      expect(first).toMatchObject({ code: 0, out: expect.stringMatching(/^\S+\n\n$/) });
      const under = ["run", "--policy=../mine.json", "../script.ts"];
      expect(await caisson(under, { cwd })).toEqual({ code: 0, out: first.out, err: "" });
      const other = await caisson(under, { cwd: at("other") });
      expect(other).toMatchObject(elsewhere ? { code: 0, out: first.out } : { code: 1, out: "" });
      // A control: nothing but the grant lets it through.
      expect((await caisson(["run", "../script.ts"], { cwd })).code).toBe(1);
    },
  );

  testBox("says what cannot be bundled, and what is not there", async () => {
    put("script.ts", `import "./nowhere.ts";`);
    expect(await caisson(["learn", "script.ts"])).toMatchObject({ code: 1, err: expect.stringContaining("nowhere") });
    expect(await caisson(["learn", "none.ts"])).toMatchObject({
      code: 2,
      err: expect.stringContaining("no such file"),
    });
    expect(existsSync(at("script.policy.json"))).toBe(false);
  });
});

describe("files that are there already", () => {
  testBox("are not replaced, nor is anything run", async () => {
    put("touch.policy.ts", "mine");
    const { code, err } = await caisson(["learn", "--", "touch", "x"]);
    expect({ code, run: existsSync(at("x")) }).toEqual({ code: 2, run: false });
    expect(err).toContain("touch.policy.ts: it is there already; --merge adds to it, --force replaces it");
    expect(readFileSync(at("touch.policy.ts"), "utf8")).toBe("mine");
  });

  testBox("are replaced by --force, and added to by --merge, with their limits", async () => {
    put("cat.policy.json", JSON.stringify({ limits: { processes: 3 }, read: ["data/b"] }));
    await caisson(["learn", "--merge", "--", "cat", "data/a"]);
    expect(policy("cat")).toMatchObject({
      limits: { processes: 3 },
      read: expect.arrayContaining([at("data/a"), at("data/b")]),
    });
    await caisson(["learn", "--force", "--", "cat", "data/a"]);
    expect(policy("cat").limits).toBeUndefined();
    expect(policy("cat").read).not.toContain(at("data/b"));
  });

  testBox("are no way out of what a program may write: a link that it puts there is not followed", async () => {
    put("precious", "mine");
    const { code } = await caisson(["learn", "--out=new", "--", "ln", "-s", "precious", "new.json"]);
    expect(code).not.toBe(0);
    await caisson(["learn", "--force", "--out=new", "--", "ln", "-sf", "precious", "new.json"]);
    expect(JSON.parse(readFileSync(at("new.json"), "utf8"))).toBeObject();
    expect(readFileSync(at("precious"), "utf8")).toBe("mine");
  });

  test("are not added to where they are no policy", async () => {
    put("cat.policy.json", `{"reed": []}`);
    expect(await caisson(["learn", "--merge", "--", "cat"])).toMatchObject({
      code: 2,
      err: expect.stringContaining("reed"),
    });
  });
});

describe("learnCommandOf()", () => {
  const WRONG: [readonly string[], RegExp][] = [
    [[], /Cannot learn of nothing/],
    [["--"], /Cannot learn of nothing/],
    [["--out", "x"], /--out=path is expected/],
    [["--out="], /--out=path is expected/],
    [["--env=NONE", "x"], /it is not set here/],
    [["--env==x", "x"], /a name is expected/],
    [["--forse", "x"], /did you mean --force/],
    [["--force=1", "x"], /there is no such flag/],
  ];
  test.each(WRONG)("%p", (args, told) => {
    expect(() => learnCommandOf(args, {})).toThrow(UsageError);
    expect(() => learnCommandOf(args, {})).toThrow(told);
  });

  test("takes a script, or a program behind --, with all that follows", () => {
    const of = (...args: string[]) => {
      const { kind, argv, out } = learnCommandOf(args, {})!;
      return [kind, argv, out.slice(process.cwd().length)];
    };
    expect(of("a/b.ts", "--out=x")).toEqual(["actor", ["a/b.ts", "--out=x"], "/b.policy"]);
    expect(of("--", "/bin/ls", "--")).toEqual(["program", ["/bin/ls", "--"], "/ls.policy"]);
    expect(of("--out=x/y.json", "--", ".hidden")).toEqual(["program", [".hidden"], "/x/y"]);
    expect(learnCommandOf(["--help"], {})).toBeUndefined();
  });
});

test("Gathered keeps each thing once, and not more than there is room for", () => {
  const gathered = new Gathered();
  const read = (index: number) =>
    gathered.take({ call: "openat", access: "read", target: `/d/${index}`, exists: true, program: "p" });
  for (let index = 0; index < 100_010; index++) read(index);
  read(0);
  expect([[...gathered].length, gathered.lost, String(gathered)]).toEqual([100_000, 10, "100000 files"]);
});

test("hostAbout() follows no links, and stops at too many files", () => {
  const { beneath } = hostAbout();
  symlinkSync("/usr", at("data/link"));
  expect(beneath(at("data"))?.toSorted()).toEqual(["a", "b", "link"]);
  expect(beneath("/usr")).toBeUndefined();
});

describe("--audit", () => {
  testBox("refuses nothing, and says what would be refused and what would allow it, which then does", async () => {
    const script = `cat data/a /etc/hostname; echo > new; t=$(mktemp); rm "$t"`;
    const grants = [`--read=${at("data")}`, "--tmp", "--env=PATH"];
    const { code, out, err } = await caisson(["exec", "--audit", ...grants, "--", "sh", "-c", script]);
    expect({ code, out: out.startsWith("one\n"), made: existsSync(at("new")) }).toEqual({
      code: 0,
      out: true,
      made: true,
    });
    expect(err).toContain(" /etc/hostname\n");
    expect(err).not.toContain(at("data/a"));
    expect(err).not.toContain("/tmp/tmp.");
    const flags = [...new Set([...err.matchAll(/to allow it: (--\w+=\S+)/g)].map(([, flag]) => flag!))];
    expect(flags).toEqual(expect.arrayContaining(["--run=/usr/bin/cat", "--read=/etc/hostname", `--write=${home}`]));
    const again = await caisson(["exec", ...grants, ...flags, "--", "sh", "-c", script]);
    expect(again).toMatchObject({ code: 0, out });
    expect((await caisson(["exec", ...grants, "--", "sh", "-c", script])).code).not.toBe(0);
  });

  testBox("of a script, in its own directory and with its own variables", async () => {
    put(
      "script.ts",
      `import { readFileSync } from "node:fs"; console.log(readFileSync("${home}/data/a", "utf8"), process.env.HOME);`,
    );
    const { code, out, err } = await caisson(["run", "--audit", "script.ts"]);
    expect({ code, out }).toEqual({ code: 0, out: "one\n undefined\n" });
    expect(err).toContain(`to allow it: --read=${at("data/a")}`);
    const allowed = await caisson(["run", "--audit", `--read=${at("data")}`, "script.ts"]);
    expect(allowed.err).toContain("0 of what it did would be refused");
  });

  test("says what is wrong with the grants before anything runs", async () => {
    const { code, err } = await caisson(["exec", "--audit", "--read=none", "--", "touch", "x"]);
    expect({ code, ran: existsSync(at("x")), err }).toEqual({
      code: 2,
      ran: false,
      err: expect.stringContaining("none"),
    });
  });
});

testBox("the example learns what its script needs, under which it then runs", async () => {
  const example = fileURLToPath(new URL("../../examples/learn.ts", import.meta.url));
  const child = Bun.spawn([process.execPath, example], { stdio: ["ignore", "pipe", "inherit"] });
  const [out, code] = await Promise.all([child.stdout.text(), child.exited]);
  expect(code).toBe(0);
  expect(out.split("The sum is 1,600").length).toBe(3);
  expect(out).not.toContain("the key that opens everything");
});
