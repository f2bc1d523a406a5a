// The command line as a user meets it: exit codes, streams, grants, and what is said when something is wrong.
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { GUARANTEES, NotEnforced } from "../../platform/index.ts";
import { coveredProc, namespaceRemedy, outerFilter, subordinateIds } from "../../platform/linux/doctor.ts";
import { describe as describeDiagnosis, diagnose, type Machine } from "../../src/doctor.ts";
import { commandOf, UsageError } from "../../src/flags.ts";
import { TerminalText } from "../../src/terminal.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { makePipe } from "../../syscalls/linux/file.ts";
import { until } from "../attacks/arena.ts";

// Whole processes, on machines that may be busy.
setDefaultTimeout(60_000);

const cli = fileURLToPath(new URL("../../src/cli.ts", import.meta.url));
const directory = realpathSync(mkdtempSync(join(tmpdir(), "caisson-cli-")));
chmodSync(directory, 0o755);
afterAll(() => rmSync(directory, { recursive: true }));

let scripts = 0;

/** A script with this text, by its name in the directory that the command runs in. */
function script(text: string): string {
  const name = `script${++scripts}.ts`;
  writeFileSync(join(directory, name), text);
  return name;
}

function start(...args: string[]) {
  return Bun.spawn([process.execPath, cli, ...args], {
    cwd: directory,
    env: { SECRET: "of the host", LANG: "C.UTF-8", HOME: directory },
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
  });
}

/** Runs the command to its end. */
async function caisson(args: readonly string[], input = "") {
  const child = start(...args);
  child.stdin.write(input);
  await child.stdin.end();
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code, out, err };
}

/** Whether a command runs its script. */
function runs(command: number): boolean {
  return readdirSync("/proc").some((pid) => {
    try {
      const status = readFileSync(`/proc/${pid}/status`, "utf8");
      return status.includes(`\nPPid:\t${command}\n`) && readFileSync(`/proc/${pid}/cmdline`, "utf8") === "bun\0-\0";
    } catch {
      return false; // it is no process, or none any more
    }
  });
}

describe("caisson run", () => {
  test("gives a script its arguments and standard input, and passes on its output and code", async () => {
    const name = script(`
      console.log(JSON.stringify(process.argv.slice(2)));
      console.error("to stderr");
      console.log((await Bun.stdin.text()).toUpperCase());
      process.exitCode = 7;`);
    const { code, out, err } = await caisson(["run", name, "--read=x", "--", "-h", "a b"], "input");
    expect({ code, out, err }).toEqual({ code: 7, out: `["--read=x","--","-h","a b"]\nINPUT\n`, err: "to stderr\n" });
  });

  test("ends with 0 when the script's event loop is through", async () => {
    const name = script(`setTimeout(() => console.log("later"), 5);`);
    expect(await caisson(["run", "--", name])).toEqual({ code: 0, out: "later\n", err: "" });
  });

  test("delivers bytes as they are and to the last one, to a reader that is slower", async () => {
    // Not text, and more than all the buffers between would hold.
    const name = script(`
      import { writeSync } from "node:fs";
      const piece = Uint8Array.from({ length: 65536 }, (_, index) => index % 251);
      for (let count = 0; count < 64; count++) for (let at = 0; at < piece.length; ) {
        try { at += writeSync(1, piece.subarray(at)); } catch (error) { if (error.code !== "EAGAIN") throw error; }
      }
      throw new Error("at the end");`);
    const child = start("run", name);
    const reader = child.stdout.getReader();
    let bytes = 0;
    let wrong = 0;
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      for (const byte of piece.value) if (byte !== (bytes++ % 65536) % 251) wrong++;
    }
    expect({ bytes, wrong, code: await child.exited }).toEqual({ bytes: 64 * 65536, wrong: 0, code: 1 });
    expect(await child.stderr.text()).toContain("at the end");
  });

  test("ends quietly with SIGPIPE's code, and the script with it, when nobody reads on", async () => {
    const name = script(`for (;;) console.log("more and more");`);
    const child = start("run", name);
    const reader = child.stdout.getReader();
    await reader.read();
    await reader.cancel();
    expect(await child.exited).toBe(128 + constants.signals.SIGPIPE);
    expect(await child.stderr.text()).toBe("");
  });

  test("shows an uncaught error's stack in the script's own lines, and its causes", async () => {
    const name = script(
      `\n\nfunction broken(): never {\n  throw new TypeError("broken", { cause: new Error("the cause") });\n}\nbroken();`,
    );
    const { code, err } = await caisson(["run", name]);
    expect(code).toBe(1);
    expect(err).toStartWith("Uncaught TypeError: broken\n");
    expect(err).toContain(`${name}:4:`);
    expect(err).toContain("Caused by Error: the cause");
    expect(err).not.toContain("caisson denied");
  });

  test("--observe tells of all that is refused, caught or not, and once", async () => {
    const name = script(`
      import { readFileSync } from "node:fs";
      const read = (path: string) => { try { readFileSync(path); } catch {} };
      read("/etc/passwd");
      await fetch("http://203.0.113.5/").catch(() => {});
      read("/etc/passwd");
      console.log("end");
      readFileSync("/etc/group");`);
    const { code, out, err } = await caisson(["run", "--observe", name]);
    expect({ code, out }).toEqual({ code: 1, out: "end\n" });
    expect(err.match(/^caisson denied: .*$/gm)).toEqual([
      "caisson denied: openat /etc/passwd",
      "caisson denied: socket",
      "caisson denied: openat /etc/group",
    ]);
    expect(err).toContain("to allow it: --read=/etc/group");
    expect(err).toMatch(/^Uncaught .*\/etc\/group/m);
    // The control: what it caught is its own affair, and what it ended by is told by its error.
    const plain = await caisson(["run", name]);
    expect(plain.err.match(/^caisson denied: .*$/gm)).toEqual(["caisson denied: open /etc/group"]);
    expect(await caisson(["run", "--observe", script(`console.log("fine");`)])).toEqual({
      code: 0,
      out: "fine\n",
      err: "",
    });
  });

  test("--promises, --unveil and --on-break narrow a script", async () => {
    writeFileSync(join(directory, "promised.txt"), "contents");
    const name = script(`
      import { readFileSync, writeFileSync } from "node:fs";
      console.log(readFileSync("promised.txt", "utf8"));
      try { writeFileSync("promised.txt", ""); } catch (error) { console.log(error.code); }
      console.log("after");`);
    const asked = (...flags: readonly string[]) => caisson(["run", ...flags, name]);
    expect(await asked("--unveil=promised.txt:rw")).toEqual({ code: 0, out: "contents\nafter\n", err: "" });
    writeFileSync(join(directory, "promised.txt"), "contents");
    expect(await asked("--unveil=promised.txt:rw", "--promises=stdio rpath")).toMatchObject({
      code: 0,
      out: "contents\nEPERM\nafter\n",
    });
    expect(await asked("--unveil=promised.txt:r")).toMatchObject({ code: 0, out: "contents\nEROFS\nafter\n" });
    const killed = await asked("--unveil=promised.txt:rw", "--promises=stdio rpath", "--on-break=kill");
    expect({ code: killed.code > 128, out: killed.out }).toEqual({ code: true, out: "contents\n" });
  });

  test("shows what is thrown by a timer, and what is no error", async () => {
    const name = script(`setTimeout(() => { throw { odd: 1 }; }, 1);`);
    const { code, err } = await caisson(["run", name]);
    expect({ code, err: err.replaceAll(/\s+/g, " ") }).toEqual({ code: 1, err: "Uncaught { odd: 1, } " });
  });

  test("says what was denied, by which wall, and the flag that allows it, which then does", async () => {
    const path = join(directory, "granted.txt");
    writeFileSync(path, "contents");
    const name = script(
      `import { readFile } from "node:fs/promises"; console.log(await readFile(${JSON.stringify(path)}, "utf8"));`,
    );
    const denied = await caisson(["run", name]);
    expect(denied.code).toBe(1);
    expect(denied.err).toContain(`caisson denied: open ${path}\n`);
    expect(denied.err).toMatch(/by wall: +seccomp/);
    const [flag] = /--read=[^,\s]+/.exec(denied.err) ?? [];
    expect(flag).toBe(`--read=${path}`);
    expect(await caisson(["run", flag!, name])).toEqual({ code: 0, out: "contents\n", err: "" });
  });

  test("grants what --write names, relative to the caller's directory", async () => {
    mkdirSync(join(directory, "out"));
    chmodSync(join(directory, "out"), 0o777);
    const path = join(directory, "out", "made");
    const name = script(
      `import { writeFileSync } from "node:fs"; writeFileSync(${JSON.stringify(path)}, "made inside");`,
    );
    expect(await caisson(["run", "--write=out", name])).toEqual({ code: 0, out: "", err: "" });
    expect(await Bun.file(path).text()).toBe("made inside");
  });

  test("builds the environment from nothing but --env", async () => {
    const name = script(`console.log(JSON.stringify(process.env));`);
    const { out } = await caisson(["run", "--env=LANG", "--env=MADE=a=b", "--env=EMPTY=", name]);
    expect(JSON.parse(out)).toEqual({ LANG: "C.UTF-8", MADE: "a=b", EMPTY: "" });
  });

  test("ends with 124 when the time is over, and delivers what came before", async () => {
    const name = script(`console.log("here"); setInterval(() => {}, 1000);`);
    const { code, out, err } = await caisson(["run", "--wall-time=6s", name]); // to start takes a part of it
    expect({ code, out }).toEqual({ code: 124, out: "here\n" });
    expect(err).toContain("--wall-time=6s");
  });

  test("ends with 137 when the processor time is used up", async () => {
    const { code, err } = await caisson(["run", "--cpu-time=1s", script("for (;;);")]);
    expect(code).toBe(137);
    expect(err).toContain("--cpu-time=1s");
  });

  test("ends with 128 and the signal that ended the script", async () => {
    const name = script(`import { dlopen } from "bun:ffi"; dlopen("libc.so.6", { abort: {} }).symbols.abort();`);
    const { code, err } = await caisson(["run", name]);
    const known = [
      constants.signals.SIGABRT,
      constants.signals.SIGSEGV,
      constants.signals.SIGILL,
      constants.signals.SIGTRAP,
    ].map((signal) => 128 + signal);
    expect(known).toContain(code);
    expect(err).toMatch(/caisson: SIG\w+ ended the script/);
  });

  test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("ends script and itself on %s", async (signal) => {
    const child = start("run", script(`console.log("here"); setInterval(() => {}, 1000);`));
    await child.stdout.getReader().read();
    child.kill(signal);
    expect(await child.exited).toBe(128 + constants.signals[signal]);
  });

  test("refuses what a script starts, a caisson of its own too", async () => {
    const { code, err } = await caisson(["run", script(`Bun.spawnSync([${JSON.stringify(cli)}, "run", "x.ts"]);`)]);
    expect(code).toBe(1);
    expect(err).toContain(`caisson denied: start ${cli}`);
    expect(err).toContain("--run is not supported");
  });

  test("ends with 1 for a script that is no program", async () => {
    for (const text of [`console.log("a"; no`, `import "./not-there.ts";`]) {
      const { code, out, err } = await caisson(["run", script(text)]);
      expect({ code, out }).toEqual({ code: 1, out: "" });
      expect(err).toContain("Cannot bundle");
    }
  });

  test("says that its output is lost, and ends with 1", async () => {
    const child = Bun.spawn([process.execPath, cli, "run", script(`console.log("lost");`)], {
      cwd: directory,
      stdin: "ignore",
      stdout: Bun.file("/dev/full"),
      stderr: "pipe",
    });
    expect(await child.exited).toBe(1);
    expect(await child.stderr.text()).toContain("Cannot pass on what the script prints");
  });

  test("tells that more was printed than may be, also where the script had ended before that was read", async () => {
    const name = script(`
      import { writeSync } from "node:fs";
      const print = () => writeSync(1, "x".repeat(100_000));
      print();
      setTimeout(print, 50);
      process.stdin.on("end", print).resume();`);
    const ends = makePipe(self);
    using read = new Descriptor(ends.read);
    const child = Bun.spawn([process.execPath, cli, "run", "--output=250kB", name], {
      cwd: directory,
      stdin: "pipe",
      stdout: ends.write,
      stderr: "pipe",
    });
    new Descriptor(ends.write).close();
    await until(() => runs(child.pid));
    await child.stdin.end();
    await until(() => !runs(child.pid)); // nobody has read anything yet
    const [out, err, code] = await Promise.all([Bun.file(read.number).text(), child.stderr.text(), child.exited]);
    expect({ printed: out.length, code }).toEqual({ printed: 250_000, code: 137 });
    expect(err).toContain("it printed too much: --output=250000B");
  });

  test("takes no configuration from the directory it is started in", async () => {
    const hostile = join(directory, "hostile");
    mkdirSync(hostile);
    writeFileSync(join(hostile, "bunfig.toml"), `preload = ["./preload.ts"]`);
    writeFileSync(join(hostile, "preload.ts"), `console.log("outside");`);
    writeFileSync(join(hostile, ".env"), "FROM_FILE=1");
    writeFileSync(join(hostile, "script.ts"), `console.log("inside");`);
    // As the installed command is started: by its first line, which finds Bun on the PATH.
    symlinkSync(process.execPath, join(hostile, "bun"));
    const start = (...command: string[]) =>
      Bun.spawn([...command, "run", "--env=FROM_FILE", "script.ts"], {
        cwd: hostile,
        env: { PATH: `${hostile}:/usr/bin:/bin` },
        stderr: "pipe",
      });
    const plain = start(process.execPath, cli);
    expect(await plain.stdout.text()).toBe("outside\ninside\n"); // so the directory is what it claims
    const own = start(cli);
    expect(await own.stderr.text()).toContain("FROM_FILE: it is not set here");
    expect({ code: await own.exited, out: await own.stdout.text() }).toEqual({ code: 2, out: "" });
  });

  test("runs no macro of a script in the host", async () => {
    writeFileSync(join(directory, "macro.ts"), `export function leak() { return process.env.SECRET; }`);
    const { code, out } = await caisson([
      "run",
      script(`import { leak } from "./macro.ts" with { type: "macro" }; console.log(leak());`),
    ]);
    expect({ code, out }).toEqual({ code: 1, out: "" });
  });

  test.each([
    [["run", "missing.ts"], "Cannot run missing.ts: there is no such file"],
    [["run", "."], "Cannot run .: there is no such file"],
    [["run", "--read=not-there", "x"], "Cannot run x"],
    [["rum"], "did you mean run?"],
    [["frobnicate"], "there is no such command; caisson --help tells which there are"],
    [["doctor", "now"], "nothing but flags is expected"],
    [["doctor", "--jsn"], "did you mean --json?"],
    [[], "a command is expected"],
  ])("%j ends with 2 and says why", async (args, told) => {
    const { code, out, err } = await caisson(args);
    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(err).toContain(told);
  });

  test("ends with 2 for a grant that is not there, or no grant at all", async () => {
    const name = script("");
    for (const [flag, told] of [
      ["--read=not-there", "Cannot grant"],
      ["--memory=lots", "as --memory"],
      ["--cpu-time=5", 'Cannot use "5" as --cpu-time: a number and one of ms, s, min, h is expected, as in "5 s"'],
      ["--disk-write=1MiB", 'as in "10 MiB/s"'],
      ["--cpu=0", "as --cpu: 0.01 cpu at least is expected"],
      ["--read=/proc", "belongs to the kernel"],
    ] as const) {
      const { code, err } = await caisson(["run", flag, name]);
      expect(code).toBe(2);
      expect(err).toContain(told);
    }
  });

  test("tells of itself", async () => {
    const { version } = await Bun.file(new URL("../../package.json", import.meta.url)).json();
    expect(await caisson(["--version"])).toEqual({ code: 0, out: `${version}\n`, err: "" });
    for (const command of [[], ["run"], ["exec"], ["learn"], ["top"], ["doctor"]]) {
      const { code, out } = await caisson([...command, "--help"]);
      expect(code).toBe(0);
      expect(out).toContain(["caisson", ...command].join(" "));
      expect(out.split("\n").filter((line) => line.length > 80)).toEqual([]);
    }
  });
});

describe("--policy", () => {
  const kept = (name: string, policy: unknown) =>
    writeFileSync(join(directory, name), typeof policy === "string" ? policy : JSON.stringify(policy));
  mkdirSync(join(directory, "kept/data"), { recursive: true });
  writeFileSync(join(directory, "kept/data/file"), "granted");
  const reading = () =>
    script(`console.log(require("fs").readFileSync(${JSON.stringify(join(directory, "kept/data/file"))}, "utf8"));`);

  test("grants a script what the file says, by paths from where it is, and flags add to it", async () => {
    kept("kept/read.json", { read: ["data"], env: { A: "1", B: "2" }, limits: { wallTime: "20 s" } });
    const name = reading();
    expect((await caisson(["run", name])).code).toBe(1);
    expect(await caisson(["run", "--policy=kept/read.json", name])).toEqual({ code: 0, out: "granted\n", err: "" });
    kept("kept/more.json", { env: { A: "1", B: "2" } });
    const environment = script(
      `console.log(JSON.stringify(process.env)); require("fs").readdirSync(${JSON.stringify(join(directory, "kept/data"))});`,
    );
    const { code, out } = await caisson([
      "run",
      "--policy=kept/more.json",
      "--env=B=3",
      "--read=kept/data",
      environment,
    ]);
    expect([code, JSON.parse(out)]).toEqual([0, { A: "1", B: "3" }]);
  });

  test("has no flag give back what the file takes, but one that says so", async () => {
    kept("kept/short.json", { limits: { wallTime: "400 ms" } });
    const name = script(`setTimeout(() => console.log("late"), 1500);`);
    expect((await caisson(["run", "--policy=kept/short.json", "--memory=1GiB", name])).code).toBe(124);
    expect(await caisson(["run", "--policy=kept/short.json", "--wall-time=30s", name])).toEqual({
      code: 0,
      out: "late\n",
      err: "",
    });
  });

  test("grants a program what the file says", async () => {
    kept("kept/exec.json", { $schema: "../schema.json", read: ["./data"], run: ["/bin/cat"] });
    const file = join(directory, "kept/data/file");
    const argv = ["--", "/bin/sh", "-c", `/bin/cat ${file}`];
    expect((await caisson(["exec", ...argv])).code).not.toBe(0);
    expect(await caisson(["exec", "--policy=kept/exec.json", ...argv])).toEqual({ code: 0, out: "granted", err: "" });
  });

  test.each([
    ["missing.json", undefined, "Cannot use missing.json: there is no such file or directory"],
    ["kept", undefined, "Cannot use kept: it is a directory"],
    ["wrong1.json", '{ "read": ["/srv"], }', "Cannot use wrong1.json: line 1, column 21: property name expected"],
    [
      "wrong2.json",
      '{\n"read": ["/srv"],\n"read": ["/"] }',
      'Cannot use wrong2.json: line 3, column 1: "read" stands there twice',
    ],
    [
      "wrong3.json",
      { limits: { memroy: 1 } },
      'Cannot use wrong3.json: limits has "memroy": there is no such key; did you mean memory?',
    ],
    ["wrong4.json", { limits: { memory: "lots" } }, 'Cannot use wrong4.json: Cannot use "lots" as limits.memory'],
    ["wrong5.json", { read: ["not/there"] }, "wrong5.json: /"],
    ["wrong6.json", { read: ["/proc"] }, "Cannot use wrong6.json: Cannot grant /proc: /proc belongs to the kernel"],
    ["wrong7.json", { net: ["a.com:443"] }, "Cannot use wrong7.json: Cannot use net for an actor"],
    ["wrong8.json", null, "Cannot use wrong8.json: it is null: expected a sandbox"],
  ])("%s ends with 2 and says why", async (file, policy, told) => {
    if (policy !== undefined) kept(file, policy);
    const { code, out, err } = await caisson(["run", `--policy=${file}`, script("")]);
    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(err).toContain(told);
  });
});

describe("caisson explain", () => {
  test("tells what would allow a call, which then does", async () => {
    const path = join(directory, "explained.txt");
    writeFileSync(path, "contents");
    writeFileSync(join(directory, "nothing.json"), "{}");
    const told = await caisson(["explain", "--policy", "nothing.json", "openat", path, "O_RDONLY"]);
    expect(told).toMatchObject({ code: 1, err: "" });
    const [, flag] = /^to allow: (--read=\S+)$/m.exec(told.out) ?? [];
    const name = script(`console.log(require("fs").readFileSync(${JSON.stringify(path)}, "utf8"));`);
    expect((await caisson(["run", "--policy=nothing.json", name])).code).toBe(1);
    expect(await caisson(["run", "--policy=nothing.json", flag!, name])).toEqual({
      code: 0,
      out: "contents\n",
      err: "",
    });
    const allowed = await caisson(["explain", "--json", "--policy=nothing.json", "read", "0"]);
    expect([allowed.code, JSON.parse(allowed.out)]).toEqual([
      0,
      expect.objectContaining({ call: "read", allowed: true }),
    ]);
  });

  test("tells of itself, and ends with 2 for a question that makes no sense", async () => {
    const help = await caisson(["explain", "--help"]);
    expect(help.code).toBe(0);
    expect(help.out.split("\n").filter((line) => line.length > 80)).toEqual([]);
    expect((await caisson(["explain"])).code).toBe(2);
    expect((await caisson(["explain", "--policy=nothing.json", "opnat"])).err).toContain("did you mean openat?");
  });
});

describe("commandOf()", () => {
  const env = { LANG: "C" };

  test("takes flags up to the script, and leaves the script's its own", () => {
    expect(
      commandOf(
        ["--read=a,b", "--read=c,,d", "--write=e", "--env=LANG", "--memory=1GiB", "--wall-time=3s", "s.ts", "--read=f"],
        env,
      ),
    ).toEqual({
      script: "s.ts",
      args: ["--read=f"],
      sandbox: {
        read: ["a", "b", "c,d"],
        write: ["e"],
        env: { LANG: "C" },
        limits: { memory: "1GiB", wallTime: "3s" },
      },
    });
  });

  test("takes what follows -- for the script, whatever it looks like", () => {
    expect(commandOf(["--", "--odd.ts", "--"], env)).toMatchObject({ script: "--odd.ts", args: ["--"] });
  });

  test("returns undefined where help is asked for", () => {
    expect(commandOf(["--read=a", "--help"], env)).toBeUndefined();
    expect(commandOf(["-h", "s.ts"], env)).toBeUndefined();
  });

  test.each([
    [["--read", "s.ts"], "Cannot use --read without a value: --read=path,... is expected"],
    [["--read=", "s.ts"], "Cannot use --read without a value"],
    [["--read=a,", "s.ts"], "one of its paths is empty"],
    [["--env=TOKEN", "s.ts"], "it is not set here"],
    [["--env==x", "s.ts"], "a name is expected"],
    [["--memory=1GiB", "--memory=2GiB", "s.ts"], "Cannot use --memory twice: once is expected"],
    [["--policy=a", "--policy=b", "s.ts"], "Cannot use --policy twice"],
    [["--policy", "p.json"], "Cannot use --policy without a value: --policy=file is expected"],
    [["--net=example.com", "s.ts"], "Cannot grant --net: this version of caisson does not support it"],
    [["--net", "s.ts"], "Cannot grant --net"],
    [["--unveil=a", "s.ts"], "letters of rwxc are expected"],
    [["--run=ls", "s.ts"], "Cannot grant --run"],
    [["--raed=a", "s.ts"], "did you mean --read?"],
    [["--allow-write=a", "s.ts"], "did you mean --write?"],
    [["--wall_time=1s", "s.ts"], "did you mean --wall-time?"],
    [["-x", "s.ts"], "Cannot understand -x: there is no such flag"],
    [["--toString=a", "s.ts"], "there is no such flag"],
    [["--read=a"], "the path of a script is expected"],
    [["--processes=2", "s.ts"], "Cannot understand --processes: it is a flag of caisson exec alone"],
  ])("%j is a UsageError", (args, told) => {
    expect(() => commandOf(args, env)).toThrow(UsageError);
    expect(() => commandOf(args, env)).toThrow(told);
  });
});

describe("TerminalText", () => {
  const through = (...pieces: string[]) => {
    const text = new TerminalText();
    return pieces.map((piece) => text.push(Buffer.from(piece))).join("") + text.end();
  };

  test("leaves colours, tabs and line ends", () => {
    expect(through("\x1b[1;31mred\x1b[0m\ta\r\nb\n")).toBe("\x1b[1;31mred\x1b[0m\ta\nb\n\x1b[0m");
  });

  test("makes everything else that acts on a terminal visible", () => {
    expect(through("\x1b[2J\x1b]0;title\x07\x9b1m\rforged\b\u202e")).toBe(
      "\\x1b[2J\\x1b]0;title\\x07\\x9b1m\\x0dforged\\x08\\u202e",
    );
  });

  test("knows a sequence, a line end and a letter that come in pieces", () => {
    expect(through("\x1b", "[3", "1mred\r", "\n")).toBe("\x1b[31mred\n\x1b[0m");
    expect(through("\x1b", "[2", "J", "\x1b")).toBe("\\x1b[2J\\x1b");
    const text = new TerminalText();
    expect([...Buffer.from("é\x1b[m")].map((byte) => text.push(Uint8Array.of(byte))).join("")).toBe("é\x1b[m");
  });

  test("holds no more than the beginning of a sequence", () => {
    const text = new TerminalText();
    expect(text.push(Buffer.from(`\x1b[${"1".repeat(1000)}`))).toHaveLength(1000 + "\\x1b[".length);
  });
});

describe("caisson doctor", () => {
  /** A machine that cannot keep some guarantees. */
  const machine = (...missing: string[]): Machine => ({
    enforcement(policy) {
      for (const guarantee of GUARANTEES) {
        if (missing.includes(guarantee) && !policy.allowUnenforced.includes(guarantee))
          throw new NotEnforced(guarantee, "a wall", "Build one");
      }
      return Object.fromEntries(
        GUARANTEES.map((guarantee) => [guarantee, missing.includes(guarantee) ? [] : ["wall"]]),
      ) as never; // each of them
    },
    abilities: () => [
      {
        mechanism: "wall",
        present: missing.length === 0,
        detail: "brick ".repeat(30).trim(),
        ...(missing.length === 0 ? {} : { remedy: "Build one ".repeat(15).trim() }),
      },
    ],
  });

  test("diagnose() tells each guarantee by itself", () => {
    const { strict, guarantees } = diagnose(machine("network", "memory"));
    expect(strict).toBe(false);
    expect(
      guarantees.filter(({ kept }) => !kept).map(({ guarantee, missing, remedy }) => ({ guarantee, missing, remedy })),
    ).toEqual([
      { guarantee: "network", missing: "a wall", remedy: "Build one" },
      { guarantee: "memory", missing: "a wall", remedy: "Build one" },
    ]);
    expect(diagnose(machine()).strict).toBe(true);
  });

  test("describe() shows the fix, keeps to 80 columns, and colours on request alone", () => {
    const text = describeDiagnosis(diagnose(machine("network")), false);
    expect(text).toMatch(/none network +a wall\n +fix {2}Build one/);
    expect(text).toContain("The strictest sandbox cannot be kept");
    expect(text.split("\n").filter((line) => line.length > 80)).toEqual([]);
    expect(text).not.toContain("\x1b");
    const coloured = describeDiagnosis(diagnose(machine("network")), true);
    expect(coloured).toContain("\x1b[31m");
    expect(Bun.stripANSI(coloured)).toBe(text);
  });

  test("describe() tells what is not limited unless a sandbox says so, and takes that for kept", () => {
    const enforcement: Machine["enforcement"] = (policy) => ({ ...machine().enforcement(policy), cpu: [] });
    const diagnosis = diagnose({ ...machine(), enforcement });
    expect(diagnosis.strict).toBe(true);
    expect(describeDiagnosis(diagnosis, false)).toMatch(/ - +cpu +no limit unless a sandbox sets one\n/);
  });

  test("describe() tells what helps several mechanisms in a row once", () => {
    const miss = (mechanism: string, remedy: string) => ({ mechanism, present: false, detail: "gone", remedy });
    const abilities = () => [miss("roof", "Build one"), miss("wall", "Build one"), miss("door", "Cut one")];
    const text = describeDiagnosis(diagnose({ ...machine(), abilities }), false);
    expect(text).toMatch(
      /miss roof +gone\n +miss wall +gone\n +fix {2}Build one\n +miss door +gone\n +fix {2}Cut one\n/,
    );
  });

  test("ends with 0 where the strictest sandbox can be kept, and with 1 elsewhere; --json says the same", async () => {
    const [text, json] = await Promise.all([caisson(["doctor"]), caisson(["doctor", "--json"])]);
    const found = JSON.parse(json.out);
    expect(found.guarantees.map(({ guarantee }: { guarantee: string }) => guarantee)).toEqual([...GUARANTEES]);
    expect([text.code, json.code]).toEqual(found.strict ? [0, 0] : [1, 1]);
    for (const { mechanism, detail } of found.mechanisms) {
      expect(text.out).toContain(mechanism);
      expect(text.out.replaceAll(/\s+/g, " ")).toContain(detail.replaceAll(/\s+/g, " "));
    }
    expect(text.out).not.toContain("\x1b");
  });

  const files = (texts: Readonly<Record<string, string>>) => (path: string) => texts[path] ?? "";
  const sys = "/proc/sys/";
  const filtered = "NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";
  test.each<[Readonly<Record<string, string>>, boolean, string]>([
    [{}, false, "Allow user namespaces"],
    [{ [`${sys}user/max_user_namespaces`]: "0\n" }, true, "Run sysctl user.max_user_namespaces=10000"],
    [{ [`${sys}user/max_user_namespaces`]: "100\n" }, false, "Allow user namespaces"],
    [{ [`${sys}kernel/unprivileged_userns_clone`]: "0\n" }, false, "Run sysctl kernel.unprivileged_userns_clone=1"],
    [{ [`${sys}kernel/unprivileged_userns_clone`]: "0\n" }, true, "Allow user namespaces"], // not about root
    [{ [`${sys}kernel/apparmor_restrict_unprivileged_userns`]: "1\n" }, false, "Give Bun an AppArmor profile"],
    [{ [`${sys}kernel/apparmor_restrict_unprivileged_userns`]: "0\n" }, false, "Allow user namespaces"],
    [{ "/proc/self/status": filtered }, false, "Start the container with --security-opt seccomp=unconfined"],
    [{ "/proc/self/status": "Seccomp:\t0\n" }, false, "Allow user namespaces"],
  ])("tells for %j, root %p, what lets namespaces be made", (texts, root, told) => {
    const remedy = namespaceRemedy(files(texts), root);
    expect(remedy).toStartWith(told);
    const wall = { mechanism: "wall", present: false, detail: "gone", remedy };
    const shown = describeDiagnosis(diagnose({ ...machine(), abilities: () => [wall] }), false);
    expect(shown.split("\n").filter((line) => line.length > 80)).toEqual([]);
  });

  test("tells of a proc that is covered as container engines do it, and of no other", () => {
    const line = (point: string) => `36 35 98:0 / ${point} rw,noatime shared:1 - ext4 /dev/root rw\n`;
    const host = line("/") + line("/proc") + line("/proc/sys/fs/binfmt_misc") + line("/processes/x");
    expect(coveredProc(host, "EPERM: mount", "Allow")).toMatchObject({ detail: "EPERM: mount", remedy: "Allow" });
    const docker = coveredProc(host + line("/proc/kcore") + line("/proc/sys"), "EPERM: mount", "Allow");
    expect(docker).toMatchObject({
      present: false,
      detail: "EPERM: mount, for these are covered: /proc/kcore, /proc/sys",
    });
    expect(docker.remedy).toContain("systempaths=unconfined");
  });

  test("tells of a filter around this process what it refuses", () => {
    expect(outerFilter("Seccomp:\t0\n", ["clone3 (ENOSYS)"])).toMatchObject({ present: true }); // an old kernel
    expect(outerFilter(filtered, [])).toMatchObject({ present: true });
    const refusing = outerFilter(filtered, ["clone3 (ENOSYS)", "unshare (EPERM)"]);
    expect(refusing).toMatchObject({ present: false, detail: "refuses clone3 (ENOSYS), unshare (EPERM)" });
    expect(refusing.remedy).toContain("seccomp=unconfined");
  });

  const able = { uid: "able", gid: "able" } as const;
  const lent = {
    "/etc/passwd": "anna:x:1000:1000::/:\n",
    "/etc/subuid": "anna:1:5\n1000:9:5",
    "/etc/subgid": "anna:1:7",
  };
  test.each<[string, Partial<Parameters<typeof subordinateIds>[0]>, boolean, string, string | undefined]>([
    ["what is lent", {}, true, "10 uids, 7 gids", undefined],
    [
      "who is lent none",
      { uid: 7 },
      false,
      "/etc/subuid lends none to 7, /etc/subgid lends none to 7",
      "Run usermod --add-subuids 100000-165535 7; Run usermod --add-subgids 100000-165535 7",
    ],
    ["root, who needs none", { uid: 0, root: true }, true, "root maps any, /etc/subuid lends none to 0", undefined],
    [
      "programs that are not there",
      { mappers: { uid: "absent", gid: "absent" } },
      false,
      "10 uids, 7 gids, there is no /usr/bin/newuidmap, there is no /usr/bin/newgidmap",
      "Install uidmap",
    ],
    [
      "a program without rights",
      { mappers: { uid: "able", gid: "powerless" } },
      false,
      "10 uids, 7 gids, /usr/bin/newgidmap has no rights",
      "Run chmod u+s /usr/bin/newgidmap as root, who has to own it",
    ],
    [
      "rights that cannot be had",
      { read: files({ ...lent, "/proc/self/status": filtered }) },
      false,
      "10 uids, 7 gids, no_new_privs is set",
      "Start Bun without no_new_privs",
    ],
  ])("tells of subordinate ids: %s", (_, facts, present, detail, remedy) => {
    const told = subordinateIds({ uid: 1000, root: false, read: files(lent), mappers: able, ...facts });
    expect(told.present).toBe(present);
    expect(told.detail).toStartWith(detail);
    expect(told.remedy).toBe(remedy as never); // nothing is told where nothing is missing
  });
});
