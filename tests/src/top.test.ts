// `caisson top` as a user meets it: whole processes, of which the hosts have members that are made up.
import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { UsageError } from "../../src/flags.ts";
import { topCommandOf } from "../../src/top.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { listenOn } from "../../syscalls/linux/network.ts";
import { testIf } from "../syscalls/requirement.ts";
import { Person, until } from "./person.ts";

setDefaultTimeout(30_000); // whole processes, on machines that may be busy

const cli = fileURLToPath(new URL("../../src/cli.ts", import.meta.url));
const fixture = fileURLToPath(new URL("./fixtures/exposed.ts", import.meta.url));
const HOSTILE = "judge\x1b]0;title\x07\x9b2J\u202e";

let base: string;
beforeAll(() => {
  base = mkdtempSync(join(tmpdir(), "caisson-top-"));
});
afterAll(() => rmSync(base, { recursive: true }));

class Host {
  readonly child: Bun.Subprocess<"pipe", "pipe", "inherit">;
  path = "";

  private constructor(names: readonly string[]) {
    this.child = Bun.spawn([process.execPath, fixture, "stay", ...names], {
      env: { XDG_RUNTIME_DIR: base },
      stdio: ["pipe", "pipe", "inherit"],
    });
  }

  static async start(...names: string[]): Promise<Host> {
    const host = new Host(names);
    const { value } = await host.child.stdout.getReader().read();
    host.path = Buffer.from(value!).toString().trim();
    return host;
  }

  get pid(): string {
    return String(this.child.pid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill("SIGKILL");
    await this.child.exited;
  }
}

function start(...args: string[]) {
  return Bun.spawn([process.execPath, cli, "top", ...args], {
    env: { XDG_RUNTIME_DIR: base },
    stdio: ["ignore", "pipe", "pipe"],
  });
}

async function top(...args: string[]) {
  const child = start(...args);
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { out, err, code };
}

describe("topCommandOf()", () => {
  test("takes what there is to ask for", () => {
    expect(topCommandOf([])).toEqual({ host: undefined, json: false, once: false, intervalMs: 1000 });
    expect(topCommandOf(["--json", "12", "--once", "--interval=250ms"])).toEqual({
      host: "12",
      json: true,
      once: true,
      intervalMs: 250,
    });
    expect(topCommandOf(["./status"])?.host).toBe("./status");
    expect(topCommandOf(["--json", "-h"])).toBeUndefined();
  });

  test.each([
    ["--jsn", "did you mean --json?"],
    ["--json=1", "Cannot use --json with a value: it takes none"],
    ["--interval", "Cannot use --interval without a value: --interval=time is expected"],
    ["--interval=", "Cannot use --interval without a value"],
    ["--interval=soon", "Cannot use"],
    ["--interval=99ms", "from 100ms to 1min"],
    ["--interval=61s", "from 100ms to 1min"],
    ["status", "a process id is expected, or the path of a socket"],
  ])("throws for %s", (arg, message) => {
    expect(() => topCommandOf([arg])).toThrow(UsageError);
    expect(() => topCommandOf([arg])).toThrow(message);
  });

  test("throws for several hosts", () => {
    expect(() => topCommandOf(["1", "2"])).toThrow("Cannot look at several");
  });
});

describe("without a terminal", () => {
  test("shows a table once, with one line each and nothing that acts on a terminal", async () => {
    await using host = await Host.start("parse", HOSTILE);
    const { out, err, code } = await top(host.pid);
    expect({ err, code }).toEqual({ err: "", code: 0 });
    const [titles, ...rows] = out.trimEnd().split("\n");
    expect(titles).toStartWith("NAME");
    expect(rows.map((row) => row.split(/ +/).slice(0, 4))).toEqual([
      ["judge\\x1b]0;title\\x07\\x9b2J\\u202e", "actor", "1001", "running"],
      ["parse", "actor", "1000", "running"],
    ]);
    expect(out).not.toMatch(/[\0-\x09\x0b-\x1f\x7f-\x9f\u202e]/);
  });

  test("finds all hosts of the user, and says whose each is", async () => {
    await using one = await Host.start("first-of-all");
    await using other = await Host.start("second-of-all");
    const { out, code } = await top("--once");
    expect(code).toBe(0);
    expect(out).toMatch(new RegExp(`${one.pid} +first-of-all`));
    expect(out).toMatch(new RegExp(`${other.pid} +second-of-all`));
  });

  test("finds one by the path of its socket", async () => {
    await using host = await Host.start("by-path");
    expect((await top(host.path)).out).toContain("by-path");
  });

  test("says what to do where there is no host, and ends with 1", async () => {
    const dead = join(base, "dead");
    new Descriptor(listenOn(self, { family: "UNIX", path: dead })).close();
    for (const whom of ["1", join(base, "nowhere"), dead]) {
      const { out, err, code } = await top(whom);
      expect({ out, code }).toEqual({ out: "", code: 1 });
      expect(err).toStartWith(`caisson: Cannot find host ${whom}: `);
      expect(err).toContain("exposeStatus()");
    }
  });

  test("says which host does not answer, and shows the others", async () => {
    await using one = await Host.start("answers");
    await using other = await Host.start("does-not");
    other.child.kill("SIGSTOP");
    const { out, err, code } = await top();
    expect(out).toContain("answers");
    expect(out).not.toContain("does-not");
    expect(err).toContain(`caisson: Cannot read ${other.path}: it does not answer\n`);
    expect(code).toBe(1);
    expect((await top(one.pid)).code).toBe(0);
  });

  test("does not find a host that was killed, and removes what it left", async () => {
    await using host = await Host.start();
    expect((await top(host.pid)).code).toBe(0);
    host.child.kill("SIGKILL");
    await host.child.exited;
    expect(existsSync(host.path)).toBe(true);
    expect((await top(host.pid)).code).toBe(1);
    expect(existsSync(host.path)).toBe(false);
  });

  test("ends with 2 for what makes no sense, with 0 for help", async () => {
    expect(await top("--jsn")).toMatchObject({ code: 2, out: "" });
    const help = await top("--help");
    expect(help).toMatchObject({ code: 0, err: "" });
    expect(help.out).toStartWith("Usage: caisson top");
    for (const line of help.out.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
  });
});

describe("--json", () => {
  test("--once gives one line for each host", async () => {
    await using host = await Host.start("parse", HOSTILE);
    const { out, code } = await top("--json", "--once", host.pid);
    expect(code).toBe(0);
    expect(out).not.toMatch(/[\0-\x09\x0b-\x1f\x7f-\x9f\u202e]/);
    const { version, pid, members } = JSON.parse(out);
    expect({ version, pid }).toEqual({ version: 1, pid: host.child.pid });
    expect(members.map(({ name }: { name: string }) => name)).toEqual(["parse", HOSTILE]);
  });

  test("gives lines until the host has ended, and ends with 0", async () => {
    const host = await Host.start("parse");
    const child = start("--json", "--interval=100ms", host.pid);
    let text = "";
    for await (const bytes of child.stdout) {
      text += Buffer.from(bytes).toString();
      if (text.split("\n").length > 3) host.child.kill("SIGKILL");
    }
    expect(await child.exited).toBe(0);
    const lines = text.trimEnd().split("\n");
    expect(lines.length).toBeGreaterThanOrEqual(3);
    for (const line of lines) expect(JSON.parse(line)).toMatchObject({ pid: host.child.pid });
    expect(await child.stderr.text()).toBe("");
  });

  test("ends as SIGPIPE would end it when nobody reads on", async () => {
    await using host = await Host.start("parse");
    const child = start("--json", "--interval=100ms", host.pid);
    const reader = child.stdout.getReader();
    await reader.read();
    await reader.cancel();
    expect(await child.exited).toBe(128 + constants.signals.SIGPIPE);
  });
});

describe("a host that is none", () => {
  /** Something else that listens where a host would. */
  async function impostor(says: string): Promise<AsyncDisposable & { readonly path: string }> {
    mkdirSync(join(base, "impostor"), { recursive: true });
    const path = join(base, "impostor", "socket");
    const listener = Bun.listen({
      unix: path,
      socket: {
        data(socket) {
          if (says === "") socket.end();
          else socket.write(says);
        },
      },
    });
    return {
      path,
      async [Symbol.asyncDispose]() {
        listener.stop(true);
        rmSync(path, { force: true });
      },
    };
  }

  test.each([
    ["no JSON", "hello\n", "JSON"],
    ["another version", '{"version":2}\n', "version"],
    ["numbers that are none", '{"version":1,"pid":1,"host":"h","at":1,"members":[{"pid":"1"}],"more":0}\n', "members"],
    ["nothing, and hangs up,", "", "turned us away"],
  ])("and says %s is an error with a reason, not a table", async (_, says, reason) => {
    await using other = await impostor(says);
    for (const how of [["--once"], ["--json", "--once"]]) {
      const { out, err, code } = await top(...how, other.path);
      expect({ out, code }).toEqual({ out: "", code: 1 });
      expect(err).toStartWith(`caisson: Cannot read ${other.path}: `);
      expect(err).toContain(reason);
    }
  });
});

const testShell = testIf("setsid", Bun.which("setsid") !== null, "there is no setsid(1) (Debian: util-linux)");

let person: Person | undefined;
afterEach(() => person?.leave());

/** A shell whose job is `caisson top` of this host. */
async function looking(host: Host, ...flags: string[]): Promise<Person> {
  person = new Person("sh", "-i");
  await person.sees("<prompt>");
  await person.types(`export XDG_RUNTIME_DIR=${base}; cd ${base}\n`);
  await person.sees("<prompt>");
  await person.types(`${process.execPath} ${cli} top --interval=100ms ${flags.join(" ")} ${host.pid}\n`);
  await person.sees("\x1b[?1049h");
  return person;
}

const GIVEN_BACK = "\x1b[?25h\x1b[?1049l";

describe("at a terminal", () => {
  testShell("draws again and again, until q; then the terminal is as it was", async () => {
    await using host = await Host.start("parse", HOSTILE);
    const person = await looking(host);
    for (let frame = 0; frame < 3; frame++) {
      await person.sees("\x1b[H");
      await person.sees("judge\\x1b]0;title");
      expect(person.isRaw).toBe(true);
    }
    await person.types("q");
    await person.sees(GIVEN_BACK);
    await person.seesCode(0);
    expect(person.isRaw).toBe(false);
  });

  for (const [how, act, code] of [
    ["Ctrl-C", (person: Person) => person.types("\x03"), 0],
    ["SIGTERM", (person: Person) => void process.kill(jobOf(person), "SIGTERM"), 128 + 15],
    ["SIGHUP", (person: Person) => void process.kill(jobOf(person), "SIGHUP"), 128 + 1],
  ] as const) {
    testShell(`gives the terminal back at ${how}`, async () => {
      await using host = await Host.start("parse");
      const person = await looking(host);
      const before = person.isRaw;
      await person.sees("parse");
      await act(person);
      await person.sees(GIVEN_BACK);
      await person.seesCode(code);
      expect({ before, after: person.isRaw }).toEqual({ before: true, after: false });
    });
  }

  for (const [how, act] of [
    ["Ctrl-Z", (person: Person) => person.types("\x1a")],
    ["SIGTSTP", (person: Person) => void process.kill(jobOf(person), "SIGTSTP")],
  ] as const) {
    testShell(`gives it back for ${how}, and has it again for fg`, async () => {
      await using host = await Host.start("parse");
      const person = await looking(host);
      await person.sees("parse");
      await act(person);
      await person.sees(GIVEN_BACK);
      await person.sees("<prompt>");
      expect(person.isRaw).toBe(false);
      await person.types("fg\n");
      await person.sees("\x1b[?1049h");
      await person.sees("parse");
      await until(() => person.isRaw);
      await person.types("q");
      await person.sees(GIVEN_BACK);
      await person.seesCode(0);
    });
  }

  testShell("keeps to the window as it changes", async () => {
    await using host = await Host.start("a-name-of-20-letters", ...Array.from({ length: 40 }, (_, at) => `n${at}`));
    const person = await looking(host);
    await person.sees("a-name-of-20-letters");
    person.pty.resize({ columns: 40, rows: 10 });
    await person.sees("a-name-…");
    await person.sees("34 more");
    await frame(person);
    const drawn = (await frame(person)).split("\r\n").map((line) => line.replaceAll(/\x1b\[[?\d;]*[A-Za-z]/g, ""));
    expect(drawn.length).toBe(10);
    for (const line of drawn) expect(Bun.stringWidth(line)).toBeLessThan(40);
    await person.types("q");
    await person.seesCode(0);
  });

  testShell("orders by name, and moves, as keys ask", async () => {
    await using host = await Host.start(
      ...Array.from({ length: 30 }, (_, at) => `n${String(29 - at).padStart(2, "0")}`),
    );
    const person = await looking(host);
    await person.types("n");
    await until(() => /NAME.*\r\nn00 .*\r\nn01 /.test(person.seen));
    await person.types("j\x1b[B");
    await until(() => /NAME.*\r\nn02 .*\r\nn03 /.test(person.seen));
    await person.types("kkkkk");
    person.seen = "";
    await until(() => /NAME.*\r\nn00 .*\r\nn01 /.test(person.seen));
    await person.types("q");
    await person.seesCode(0);
  });

  testShell("ends when the host has, and says so where it can be read", async () => {
    await using host = await Host.start("parse");
    const person = await looking(host);
    await person.sees("parse");
    host.child.kill("SIGKILL");
    await person.sees(GIVEN_BACK);
    await person.sees("caisson: the last host has ended");
    await person.seesCode(0);
  });
});

/** What is drawn from one beginning of the picture to the next. */
async function frame(person: Person): Promise<string> {
  await person.sees("\x1b[H");
  await until(() => person.seen.includes("\x1b[H"));
  return person.seen.slice(0, person.seen.indexOf("\x1b[J"));
}

/** What the shell has in its foreground. */
function jobOf({ shell }: Person): number {
  const { stdout } = Bun.spawnSync(["cat", `/proc/${shell.pid}/task/${shell.pid}/children`]);
  return Number(stdout.toString().trim().split(" ")[0]);
}
