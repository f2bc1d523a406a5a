// `caisson exec` as a person meets it: at a terminal with a shell in it, and in pipes.
import { afterAll, afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { programCommandOf, UsageError } from "../../src/flags.ts";
import { ScreenText } from "../../src/screen.ts";
import { O } from "../../syscalls/linux/numbers.ts";
import { testIf } from "../syscalls/requirement.ts";
import { Person, until } from "./person.ts";

// Whole processes, on machines that may be busy.
setDefaultTimeout(60_000);

const cli = fileURLToPath(new URL("../../src/cli.ts", import.meta.url));
const directory = realpathSync(mkdtempSync(join(tmpdir(), "caisson-exec-")));
chmodSync(directory, 0o755);
afterAll(() => rmSync(directory, { recursive: true }));

function start(args: readonly string[], stdin: "pipe" | "ignore" | Bun.BunFile = "pipe") {
  return Bun.spawn([process.execPath, cli, "exec", ...args], {
    cwd: directory,
    env: { PATH: process.env.PATH, SECRET: "of the host", LANG: "C.UTF-8" },
    stdin,
    stdout: "pipe",
    stderr: "pipe",
  });
}

/** Runs the command to its end, in pipes. */
async function caisson(args: readonly string[], input = "") {
  const child = start(args);
  const stdin = child.stdin as Bun.FileSink;
  stdin.write(input);
  await stdin.end();
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code, out, err };
}

const testUnshare = testIf("unshare", Bun.which("unshare") !== null, "there is no unshare(1)");
const testCurl = testIf("curl", Bun.which("curl") !== null, "there is no curl(1)");

describe("in pipes", () => {
  test("the program has our streams, its arguments as they are, and its code is ours", async () => {
    const script = `cat; echo "$@" >&2; exit 7`;
    expect(await caisson(["--run=cat", "--", "sh", "-c", script, "sh", "--read=x", "--help"], "input\n")).toEqual({
      code: 7,
      out: "input\n",
      err: "--read=x --help\n",
    });
  });

  test("sees itself, and what was granted, where we are", async () => {
    writeFileSync(join(directory, "granted.txt"), "contents\n");
    const denied = await caisson(["cat", join(directory, "granted.txt")]);
    expect({ code: denied.code, out: denied.out }).toEqual({ code: 1, out: "" });
    expect(denied.err).toContain("No such file or directory");
    expect(await caisson(["--read=granted.txt", "cat", "granted.txt"])).toEqual({
      code: 0,
      out: "contents\n",
      err: "",
    });
    expect(await caisson(["--env=LANG", "--", "env"])).toEqual({ code: 0, out: "LANG=C.UTF-8\n", err: "" });
  });

  test("--tmp is an empty /tmp that does not cover what was granted, --cwd is where it starts", async () => {
    writeFileSync(join(directory, "seen.txt"), "");
    const script = `echo made > /tmp/made && ls /tmp && ls && pwd`;
    const { code, out, err } = await caisson(["--tmp=1MiB", "--read=seen.txt", "--run=ls", "--", "sh", "-c", script]);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(out.split("\n").toSorted()).toEqual(
      [
        "",
        directory,
        "made",
        "seen.txt",
        ...(directory.startsWith("/tmp/") ? [directory.split("/")[2]!] : []),
      ].toSorted(),
    );
    expect(await caisson(["--cwd=/usr", "pwd"])).toEqual({ code: 0, out: "/usr\n", err: "" });
    const nowhere = await caisson(["--cwd=/not-there", "pwd"]);
    expect(nowhere.code).toBe(125);
    expect(nowhere.err).toContain("Cannot start in /not-there: ENOENT");
  });

  test("ten megabytes pass as they are", async () => {
    const path = join(directory, "bytes");
    const bytes = Buffer.alloc(10_000_000).map((_, index) => (index * 7919) % 251);
    writeFileSync(path, bytes);
    const child = start(["cat"], Bun.file(path));
    const out = Buffer.from(await child.stdout.bytes());
    expect(await child.exited).toBe(0);
    expect(out.equals(bytes)).toBe(true);
  });

  test("ends quietly with SIGPIPE's code when nobody reads on", async () => {
    const child = start(["yes"]);
    const reader = child.stdout.getReader();
    await reader.read();
    await reader.cancel();
    expect(await child.exited).toBe(128 + constants.signals.SIGPIPE);
    expect(await child.stderr.text()).toBe("");
  });

  test.each([
    [["not-there"], 127, "Cannot find program not-there"],
    [["/not/there"], 127, "there is no such file"],
    [["/etc/passwd"], 126, "it is not executable"],
    [["sh", "-c", "kill -SEGV $$"], 139, "SIGSEGV ended the program"],
    [["sh", "-c", "kill -TERM $$"], 143, ""],
    [["--wall-time=200ms", "sleep", "1000"], 124, "--wall-time=0.2s"],
    [["--cpu-time=1s", "sh", "-c", "while :; do :; done"], 137, "--cpu-time=1s"],
    [["--"], 2, "a program is expected"],
    [["--raed=x", "ls"], 2, "did you mean --read?"],
    [["--read=not-there", "ls"], 2, "Cannot grant"],
    [["--unveil=not-there:r", "ls"], 2, "Cannot grant"],
    [["--promises=stdio inte", "ls"], 2, 'Cannot promise "inte"'],
    [["--net=example.com", "ls"], 2, '"host:port" is expected'],
    [["--processes=some", "ls"], 2, 'Cannot use "some" as --processes: a whole number from 1'],
    [["--tmp=lots", "ls"], 2, "the size of /tmp"],
  ])("%j ends with %d", async (args, code, told) => {
    const ended = await caisson(args);
    expect({ code: ended.code, out: ended.out }).toEqual({ code, out: "" });
    if (told === "") expect(ended.err).toBe("");
    else expect(ended.err).toContain(told);
  });

  test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("%s is the program's to answer", async (name) => {
    const script = `trap 'echo asked; exit 9' ${name.slice(3)}; echo up; while :; do sleep 0.01; done`;
    const child = start(["--run=sleep", "--", "sh", "-c", script]);
    const reader = child.stdout.getReader();
    await reader.read();
    child.kill(name);
    expect(Buffer.from((await reader.read()).value!).toString()).toBe("asked\n");
    expect(await child.exited).toBe(9);
  });

  test("a program that does not answer SIGTERM is ended", async () => {
    const child = start(["--run=sleep", "--", "sh", "-c", `trap '' TERM; echo up; while :; do sleep 0.01; done`]);
    await child.stdout.getReader().read();
    child.kill("SIGTERM");
    expect(await child.exited).toBe(143);
  });

  testCurl("tells once which host was denied, and the flag that allows it, which then does", async () => {
    using server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("served\n") });
    const url = `http://127.0.0.1:${server.port}/`;
    const denied = await caisson(["--net=one.invalid:443", "curl", "-sf", url, url]);
    expect(denied.out).toBe("");
    expect(denied.code).not.toBe(0);
    expect(denied.err.split("caisson denied: connect 127.0.0.1:")).toHaveLength(2);
    const [flag] = /--net=\S+/.exec(denied.err) ?? [];
    expect(flag).toBe(`--net=127.0.0.1:${server.port}`);
    expect(await caisson([flag!, "curl", "-sf", url])).toEqual({ code: 0, out: "served\n", err: "" });
  });

  testUnshare("--observe tells of what is refused, once each, and of nothing else", async () => {
    const { code, err } = await caisson([
      "--observe",
      "--run=unshare",
      "--",
      "sh",
      "-c",
      "for i in 1 2 3; do unshare -m true; done; exit 5",
    ]);
    expect(code).toBe(5);
    expect(err.match(/^caisson denied: .*$/gm)).toEqual(["caisson denied: unshare"]);
    expect(err).toContain("to allow it: None: no sandbox allows this call");
    // The control: refused as well, and not told of.
    const quiet = await caisson(["--run=unshare", "--", "unshare", "-m", "true"]);
    expect(quiet.code).toBe(1);
    expect(quiet.err).not.toContain("caisson denied");
    expect(await caisson(["--observe", "true"])).toEqual({ code: 0, out: "", err: "" });
  });

  test("--promises and --unveil narrow it, and --on-break says how it ends", async () => {
    const place = join(directory, "promised");
    mkdirSync(place);
    writeFileSync(join(place, "file"), "text\n");
    const script = `read -r line < ${place}/file; echo $line; echo new > ${place}/made; echo after`;
    const asked = (...flags: readonly string[]) => [...flags, "--", "sh", "-c", script];
    const broken = await caisson(asked(`--unveil=${place}:rwc`, "--promises=stdio rpath"));
    expect({ code: broken.code, out: broken.out }).toEqual({ code: 0, out: "text\nafter\n" });
    expect(broken.err).toContain("Operation not permitted");
    expect(broken.err).toContain(`caisson denied: openat ${place}/made`);
    expect(broken.err).toContain('to allow it: --promises="stdio rpath wpath cpath"');
    const killed = await caisson(asked(`--unveil=${place}:rwc`, "--promises=stdio rpath", "--on-break=kill"));
    expect({ code: killed.code, out: killed.out }).toEqual({ code: 128 + constants.signals.SIGKILL, out: "text\n" });
    const unveiled = await caisson(asked(`--unveil=${place}:r`));
    expect(unveiled).toMatchObject({ code: 0, out: "text\nafter\n" });
    expect(existsSync(join(place, "made"))).toBe(false);
    const kept = await caisson(asked(`--unveil=${place}:rwc`, "--promises=stdio rpath wpath cpath", "--on-break=kill"));
    expect(kept).toEqual({ code: 0, out: "text\nafter\n", err: "" });
    expect(readFileSync(join(place, "made"), "utf8")).toBe("new\n");
  });

  test("a file that is read cannot be opened again to be written (EACCES)", async () => {
    const path = join(directory, "input.txt");
    writeFileSync(path, "as it was\n");
    chmodSync(path, 0o666);
    const script = `cat; echo changed > /proc/self/fd/0`;
    const child = start(["--run=cat", "--", "sh", "-c", script], Bun.file(path));
    expect(await child.stdout.text()).toBe("as it was\n");
    expect(await child.stderr.text()).toContain("Permission denied");
    expect(await child.exited).toBe(2);
    expect(readFileSync(path, "utf8")).toBe("as it was\n");
    expect(Bun.spawnSync(["sh", "-c", script], { stdin: Bun.file(path) }).success).toBe(true);
    expect(readFileSync(path, "utf8")).toBe("changed\n");
  });

  test("a directory is no standard input", async () => {
    const child = Bun.spawn(["sh", "-c", '"$0" "$1" exec ls < /', process.execPath, cli], { stderr: "pipe" });
    expect(await child.exited).toBe(2);
    expect(await child.stderr.text()).toContain("a directory as standard input");
  });
});

const testShell = testIf("setsid", Bun.which("setsid") !== null, "there is no setsid(1) (Debian: util-linux)");
const testLess = testIf("less", Bun.which("setsid") !== null && Bun.which("less") !== null, "there is no less(1)");
const testPerl = testIf("perl", Bun.which("setsid") !== null && Bun.which("perl") !== null, "there is no perl(1)");

let person: Person | undefined;
afterEach(() => person?.leave());

const command = `${process.execPath} ${cli} exec`;

/** A shell with its prompt. */
async function atShell(): Promise<Person> {
  person = new Person("sh", "-i");
  await person.sees("<prompt>");
  await person.types(`cd ${directory}; export TERM=xterm\n`);
  await person.sees("<prompt>");
  return person;
}

/** The caisson that the shell has in its foreground. */
function jobOf({ shell }: Person): number {
  const [child] = readFileSync(`/proc/${shell.pid}/task/${shell.pid}/children`, "utf8").trim().split(" ");
  return Number(child);
}

const stateOf = (pid: number) =>
  readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /s, "")
    .charAt(0);

describe("at a terminal", () => {
  testShell("the program has one of its own, of the window's size, and its code is the shell's", async () => {
    const person = await atShell();
    const before = person.modes;
    const script = `[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo is $(stty size) $TERM; read -r line; echo got $line; exit 3`;
    await person.types(`${command} --run=stty -- sh -c '${script}'\n`);
    await person.sees("is 24 80 xterm\r\n");
    expect(person.isRaw).toBe(true);
    await person.types("hello\n");
    await person.sees("got hello\r\n");
    await person.seesCode(3);
    expect(person.modes).toEqual(before);
  });

  testShell("hears of each new size", async () => {
    const person = await atShell();
    const script = `trap "stty size" WINCH; echo "<"up">"; while :; do sleep 0.01; done`;
    await person.types(`${command} --run=stty,sleep -- sh -c '${script}'\n`);
    await person.sees("<up>");
    person.pty.resize({ columns: 132, rows: 50 });
    await person.sees("50 132");
    await person.types("\x03");
    await person.seesCode(130);
  });

  testShell("ls needs nobody, and what cat is typed comes back", async () => {
    const person = await atShell();
    await person.types(`${command} -- ls /\n`);
    await person.sees("proc");
    await person.seesCode(0);
    await person.types(`${command} -- cat\n`);
    await until(() => person.isRaw);
    await person.types("typed\n");
    await person.sees("typed\r\ntyped\r\n");
    await person.types("\x04");
    await person.seesCode(0);
  });

  testShell("Ctrl-C interrupts the program, and Ctrl-\\ ends it", async () => {
    const person = await atShell();
    const before = person.modes;
    for (const [key, code] of [
      ["\x03", 130],
      ["\x1c", 131],
    ] as const) {
      await person.types(`${command} --run=sleep -- sh -c 'echo "<"up">"; exec sleep 1000'\n`);
      await person.sees("<up>");
      await person.types(key);
      await person.seesCode(code);
      expect(person.modes).toEqual(before);
    }
  });

  testShell("Ctrl-Z stops the program and us, fg continues both, with the size of then", async () => {
    const person = await atShell();
    const before = person.modes;
    await person.types(`${command} --run=cat,stty -- sh -c 'echo "<"up">"; cat; stty size'\n`);
    await person.sees("<up>");
    const pid = jobOf(person);
    // A shell that is just starting cat waits for it in vfork(2), and cannot be stopped there, here as anywhere.
    await person.types("zero\n");
    await person.sees("zero\r\nzero\r\n");
    for (const word of ["one", "two"]) {
      await person.types("\x1a");
      await person.sees("<prompt>");
      expect(stateOf(pid)).toBe("T");
      expect(person.modes).toEqual(before);
      person.pty.resize({ columns: 99, rows: 30 });
      await person.types("fg\n");
      await until(() => person.isRaw);
      await person.types(`${word}\n`);
      await person.sees(`${word}\r\n${word}\r\n`);
    }
    await person.types("\x04");
    await person.sees("30 99");
    await person.seesCode(0);
  });

  testShell("a shell inside has job control of its own: Ctrl-Z stops its job alone", async () => {
    const person = await atShell();
    await person.types(`${command} --run=cat --env=PS1='<in''ner>' -- sh -i\n`);
    await person.sees("<inner>");
    await person.types("cat\nx\n");
    await person.sees("x\r\nx\r\n");
    await person.types("\x1a");
    await person.sees("<inner>");
    await person.types("fg\n");
    await person.sees("cat\r\n");
    await person.types("y\n");
    await person.sees("y\r\ny\r\n");
    await person.types("\x04");
    await person.sees("<inner>");
    await person.types("exit 4\n");
    await person.seesCode(4);
  });

  testShell.each(["TERM", "HUP", "INT"] as const)("the modes are as before after kill -%s", async (name) => {
    const person = await atShell();
    const before = person.modes;
    await person.types(`${command} --run=sleep -- sh -c 'echo "<"up">"; exec sleep 1000'\n`);
    await person.sees("<up>");
    expect(person.isRaw).toBe(true);
    process.kill(jobOf(person), `SIG${name}`);
    await person.seesCode(128 + constants.signals[`SIG${name}`]);
    expect(person.modes).toEqual(before);
  });

  testLess("a full-screen program draws, takes keys, and leaves the screen", async () => {
    const person = await atShell();
    writeFileSync(join(directory, "long.txt"), Array.from({ length: 200 }, (_, index) => `line ${index}`).join("\n"));
    await person.types(`${command} --read=long.txt -- less long.txt\n`);
    await person.sees("\x1b[?1049h"); // from its terminal's description
    await person.sees("line 22");
    await person.types("G");
    await person.sees("line 199");
    await person.types("q");
    await person.sees("\x1b[?1049l");
    await person.seesCode(0);
  });

  testShell("what reaches beyond the screen is kept from it, and what was switched is switched back", async () => {
    const person = await atShell();
    const script = `printf '<\\033]52;c;cm0=\\007\\033]0;title\\007\\033[21t\\033P+q\\033\\\\\\033[?1000h\\033[31mred>'`;
    await person.types(`${command} -- sh -c "${script.replaceAll("\\", "\\\\")}"\n`);
    await person.sees("<\x1b[?1000h\x1b[31mred>\x1b[?1000l\x1b[0m");
    await person.seesCode(0);
  });

  testShell("--plain gives no terminal: lines, and nothing but colours", async () => {
    const person = await atShell();
    const script = `[ -t 0 ] || [ -t 1 ] || [ -t 2 ] || echo none; printf "\\033[2Jx\\n"; read -r line; echo got $line`;
    await person.types(`${command} --plain -- sh -c '${script}'\n`);
    await person.sees("\r\nnone\r\n");
    await person.sees("\\x1b[2Jx");
    expect(person.isRaw).toBe(false);
    // The shell shares the open file.
    const flags = /^flags:\s*(\d+)$/m.exec(readFileSync(`/proc/${person.shell.pid}/fdinfo/0`, "utf8"))![1]!;
    expect(Number.parseInt(flags, 8) & O.NONBLOCK).toBe(0);
    await person.types("hello\n");
    await person.sees("got hello");
    await person.seesCode(0);
  });

  testShell("with its output in a pipe it has no terminal, and Ctrl-Z and Ctrl-C work all the same", async () => {
    const person = await atShell();
    await person.types(`${command} --run=sleep -- sh -c 'echo up; [ -t 0 ] || echo none; exec sleep 1000' | cat\n`);
    await person.sees("none\r\n");
    const pid = jobOf(person);
    await person.types("\x1a");
    await person.sees("<prompt>");
    expect(stateOf(pid)).toBe("T");
    await person.types("fg\n");
    await until(() => stateOf(pid) !== "T");
    await person.types("\x03");
    await person.sees("<prompt>");
  });

  testShell("its errors go where ours do", async () => {
    const person = await atShell();
    await person.types(`${command} -- sh -c '[ -t 2 ] || echo wrong >&2; echo right' 2>errors.txt\n`);
    await person.sees("\r\nright\r\n");
    await person.seesCode(0);
    expect(readFileSync(join(directory, "errors.txt"), "utf8")).toBe("wrong\n");
  });

  testPerl("TIOCSTI is refused (EPERM), and nothing is typed into the shell", async () => {
    const person = await atShell();
    const attack = `for (0, 1, 2) { open(my $t, "+<&=", $_); print "<", (ioctl($t, 0x5412, my $c = "#") ? "typed" : $!+0), ">"; }`;
    for (const flags of ["", "--plain "]) {
      await person.types(`${command} ${flags}-- perl -e '$| = 1; ${attack}'\n`);
      await person.sees("<1><1><1>");
      await person.seesCode(0);
    }
    // Without the wall it works, where the kernel has it at all; the shell takes the signs for a comment.
    if (process.getuid!() !== 0 && readFileSync("/proc/sys/dev/tty/legacy_tiocsti", "utf8").trim() === "0") return;
    await person.types(`perl -e '$| = 1; ${attack}'\n`);
    await person.sees("<typed>");
  });
});

(Bun.which("unshare") === null ? test.skip : testShell)(
  "what is refused at a terminal is told when that is ours again",
  async () => {
    const person = await atShell();
    await person.types(
      `${command} --observe --run=unshare -- sh -c 'unshare -m true; echo "<"ready">"; read -r line; exit 4'\n`,
    );
    await person.sees("<ready>");
    expect(person.seen).not.toContain("caisson denied");
    await person.types("go\n");
    await person.sees("caisson denied: unshare");
    await person.seesCode(4);
  },
);

describe("programCommandOf()", () => {
  const none = { read: [], write: [], run: [], net: [], env: {}, limits: {} };

  test("takes flags up to the program, and leaves the program's its own", () => {
    const flags = [
      "--run=a,b",
      "--net=x:1,y:2",
      "--processes=3",
      "--files=40",
      "--file-size=1MiB",
      "--cwd=/x",
      "--plain",
    ];
    expect(programCommandOf([...flags, "ls", "--read=f"], {})).toEqual({
      argv: ["ls", "--read=f"],
      sandbox: {
        ...none,
        run: ["a", "b"],
        net: ["x:1", "y:2"],
        limits: { processes: 3, files: 40, fileSize: "1MiB" },
      },
      cwd: "/x",
      plain: true,
    });
    expect(programCommandOf(["--tmp", "--", "--odd", "--"], {})).toEqual({
      argv: ["--odd", "--"],
      sandbox: none,
      tmp: "64MiB",
      plain: false,
    });
    expect(programCommandOf(["--tmp=1kB", "ls"], {})?.tmp).toBe("1kB");
    expect(programCommandOf(["--cpu=0.5", "--disk-read=1MiB/s", "--swap=0B", "ls"], {})?.sandbox.limits).toEqual({
      cpu: 0.5,
      diskRead: "1MiB/s",
      swap: "0B",
    });
    expect(programCommandOf(["--help"], {})).toBeUndefined();
    expect(
      programCommandOf(
        ["--observe", "--promises=stdio rpath", "--on-break=kill", "--unveil=/a:r", "--unveil=b:c,d:rwxc", "ls"],
        {},
      ),
    ).toEqual({
      argv: ["ls"],
      sandbox: { ...none, promises: "stdio rpath", onBreak: "kill", unveil: { "/a": "r", "b:c,d": "rwxc" } },
      observe: true,
      plain: false,
    });
  });

  test.each([
    [["--plain=yes", "ls"], "it takes none"],
    [["--tmp", "--tmp", "ls"], "twice"],
    [["--cwd", "ls"], "--cwd=path is expected"],
    [["--plan", "ls"], "did you mean --plain?"],
    [["--messages=1", "ls"], "Cannot understand --messages: it is a flag of caisson run alone"],
    [["--observe=yes", "ls"], "it takes none"],
    [["--promises=stdio", "--promises=rpath", "ls"], "twice"],
    [["--promises", "ls"], "--promises=words is expected"],
    [["--on-break=stop", "ls"], "kill or errno is expected"],
    [["--on-break=kill", "--on-break=errno", "ls"], "twice"],
    [["--unveil=/a", "ls"], "letters of rwxc are expected"],
    [["--unveil=/a:q", "ls"], "letters of rwxc are expected"],
    [["--unveil=:r", "ls"], "letters of rwxc are expected"],
    [["--unveil=/a:r", "--unveil=/a:w", "ls"], "Cannot use --unveil=/a twice"],
    [["--read=a"], "a program is expected"],
  ])("%j is a UsageError", (args, told) => {
    expect(() => programCommandOf(args, {})).toThrow(UsageError);
    expect(() => programCommandOf(args, {})).toThrow(told);
  });
});

describe("ScreenText", () => {
  const through = (...pieces: string[]) => {
    const text = new ScreenText();
    return pieces.map((piece) => text.push(Buffer.from(piece, "latin1"))).join("") + text.end();
  };

  test("leaves what draws", () => {
    const drawn = "\x1b[2J\x1b[1;1H\x1b[Ka\tb\r\n\x07\x1b[6n\x1b[c\x1b7\x1b8\x1b[?2K";
    expect(through(drawn)).toBe(drawn);
  });

  test.each([
    ["the title", "\x1b]0;title\x07", ""],
    ["the clipboard", "\x1b]52;c;cm0gLXJm\x1b\\after", "after"],
    ["a string without an end", "\x1b]0;text and more", ""],
    ["a string that another sequence ends", "\x1bPq\x1b[31mx", "\x1b[31mx\x1b[0m"],
    ["questions whose answers others choose", "\x1b[21t\x1b[>q\x1b[1;1;1;9;9;9*y\x1b[=c\x05", ""],
    ["what outlives us", "\x1bc\x1b[>4;1m\x1b[>1u\x1b[5i\x1b[?9001h", ""],
    ["control characters of eight bits", "\xc2\x9b31mx\x9b31m", "31mx\ufffd31m"],
    ["unknown modes among known ones", "\x1b[?25;9001l", "\x1b[?25l\x1b[?25h"],
    ["a sequence that is none", "\x1b[3\x01x\x1b", "3x"],
  ])("keeps %s from the terminal", (_, written, drawn) => {
    expect(through(written)).toBe(drawn);
    expect(through(...written)).toBe(drawn); // byte by byte
  });

  test("switches back what is left switched, and nothing else", () => {
    expect(through("\x1b[?1049h\x1b[?1h\x1b[4h\x1b[?25l\x1b[?1049l\x1b[?25h")).toEndWith("h\x1b[?1l\x1b[4l");
    expect(through("\x1b[2;5r\x0e\x1b=\x1b[3 q")).toEndWith("\x1b7\x1b[r\x1b8\x0f\x1b>\x1b[0 q");
  });

  test("holds no more than the beginning of a sequence", () => {
    const text = new ScreenText();
    expect(text.push(Buffer.from(`\x1b[${"1".repeat(1000)}`))).toHaveLength(1000);
    for (let count = 0; count < 100; count++) expect(text.push(Buffer.from("\x1b]".padEnd(1000, "x")))).toBe("");
  });
});
