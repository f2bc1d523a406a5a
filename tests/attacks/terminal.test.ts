/** Attacks by way of terminal, environment and streams: nothing of the host's is inherited, and nothing printed acts on its terminal. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Actor, spawn } from "../../src/index.ts";
import { IOCTL } from "../../syscalls/linux/numbers.ts";
import { inside, Outside, scratch } from "./arena.ts";

type Terminal = typeof import("./fixtures/terminal.ts");

setDefaultTimeout(30_000); // the machine may have other things to do

const base = scratch();
/** What a program of the host's may have in its environment, and what would change Bun or the loader. */
const HOSTILE = {
  CAISSON_SECRET: "the host's", BUN_OPTIONS: "--smol", BUN_INSPECT: "", BUN_CONFIG_VERBOSE_FETCH: "curl", NODE_OPTIONS: "--no-warnings",
  GCONV_PATH: "/tmp", LD_DEBUG_OUTPUT: "/tmp", GIT_DIR: "/tmp", SSH_AUTH_SOCK: "/tmp/agent",
} as const; // biome-ignore format: a table

let actor: Actor<Terminal>;
let reader: Actor<Terminal>;
let control: Outside<Terminal>;
beforeAll(async () => {
  const saved = { ...process.env };
  Object.assign(process.env, HOSTILE);
  [actor, reader] = await Promise.all([
    inside<Terminal>("terminal"),
    inside<Terminal>("terminal", { read: [base.directory("granted")], env: { GRANTED: "yes" } }),
  ]);
  for (const name of Object.keys(HOSTILE)) delete process.env[name];
  Object.assign(process.env, saved);
  process.env.CAISSON_SECRET = "the host's";
  control = new Outside("terminal");
  await control.call.surroundings();
  delete process.env.CAISSON_SECRET;
});
afterAll(async () => {
  await Promise.all([actor, reader].map((each) => each[Symbol.asyncDispose]()));
  await control[Symbol.asyncDispose]();
  base[Symbol.dispose]();
});

describe("the environment", () => {
  test("is empty, and holds what is granted and nothing else", async () => {
    expect(await actor.call.surroundings()).toMatchObject({ env: {}, bunEnv: {} });
    expect((await actor.call.surroundings()).env).toEqual({});
    expect((await actor.call.surroundings()).bunEnv).toEqual({});
    expect((await reader.call.surroundings()).env).toEqual({ GRANTED: "yes" });
    expect((await control.call.surroundings()).env).toHaveProperty("CAISSON_SECRET");
  });

  test("that the kernel keeps of its start names nothing of the host's", async () => {
    const seen = await reader.call.contents("/proc/self/environ");
    const names = seen
      .split("\0")
      .filter((entry) => entry !== "")
      .map((entry) => entry.split("=")[0]);
    expect(names.filter((name) => !/^(BUN_JSC|MIMALLOC)_/.test(name!))).toEqual([]);
    expect(readFileSync(`/proc/${control.pid}/environ`, "utf8")).toContain("the host's");
  });

  test("gives neither arguments nor a directory of the host's away", async () => {
    const { argv, execArgv, cwd, title } = await actor.call.surroundings();
    expect(
      [...argv.slice(1), ...execArgv, cwd, title].filter((text) => text.includes("caisson-") || text === process.cwd()),
    ).toEqual([]);
    expect(cwd).toBe("/");
    expect(argv[0]).not.toBe(process.execPath);
  });
});

describe("the terminal", () => {
  /** Fields of /proc/<pid>/stat behind the name, which may hold anything: state, ppid, pgrp, session, tty_nr ... */
  const stat = (pid: number | string) =>
    readFileSync(`/proc/${pid}/stat`, "utf8")
      .replace(/^.*\) /s, "")
      .split(" ");

  test("is not there: a session of its own, without one", async () => {
    const [, , group, session, terminal] = stat(actor.pid);
    expect(terminal).toBe("0");
    expect([group, session]).toEqual([`${actor.pid}`, `${actor.pid}`]);
    expect(stat(control.pid)[3]).toBe(stat("self")[3]);
    expect(await actor.call.call("setsid")).toBe("EPERM");
    expect(await actor.call.call("setpgid", 0, 0)).toBe("EPERM");
  });

  const REQUESTS = [
    "TIOCSTI",
    "TIOCLINUX",
    "TIOCSCTTY",
    "TIOCSETD",
    "TIOCCONS",
    "TIOCNOTTY",
    "TCSETS",
    "TIOCSWINSZ",
    "TIOCSPGRP",
    "FIOASYNC",
  ] as const;
  for (const request of REQUESTS) {
    test(`${request} is EPERM on each stream`, async () => {
      for (const stream of [0, 1, 2]) expect(await actor.call.control(stream, IOCTL[request])).toBe("EPERM");
      expect(await control.call.control(0, IOCTL[request])).not.toBe("EPERM");
    });
  }

  test("TIOCSTI is EPERM however its number is written", async () => {
    // The filter sees a word of 64 bits, of which the kernel takes 32.
    expect(await actor.call.call("ioctl", 0, (1n << 32n) | BigInt(IOCTL.TIOCSTI), 0)).toBe("EPERM");
    expect(await actor.call.pushInput(0)).toBe("EPERM");
    expect(await control.call.pushInput(0)).toBe("ENOTTY");
  });
});

describe("what is inherited at start", () => {
  const fields = (pid: number | string) =>
    Object.fromEntries(
      readFileSync(`/proc/${pid}/status`, "utf8")
        .split("\n")
        .map((line) => line.split(":\t") as [string, string]),
    );

  test("umask is 022, no signal is blocked, and nobody traces it", () => {
    expect(fields(actor.pid)).toMatchObject({ Umask: "0022", SigBlk: "0000000000000000", TracerPid: "0" });
  });

  test("a signal that the host ignores is not ignored inside", async () => {
    const script = `
      import { spawn } from ${JSON.stringify(fileURLToPath(new URL("../../src/index.ts", import.meta.url)))};
      import { readFileSync } from "node:fs";
      await using actor = await spawn(${JSON.stringify(fileURLToPath(new URL("./fixtures/terminal.ts", import.meta.url)))});
      const ignored = (pid) => /^SigIgn:\\t(.*)$/m.exec(readFileSync("/proc/" + pid + "/status", "utf8"))[1];
      console.log(ignored("self"), ignored(actor.pid));
    `;
    // SIGHUP is the lowest bit of the mask, SIGUSR2 the twelfth.
    const host = Bun.spawn(["sh", "-c", 'trap "" HUP USR2; umask 0; exec "$0" -e "$1"', process.execPath, script], {
      stderr: "inherit",
    });
    const [own, inner] = (await host.stdout.text())
      .trim()
      .split(" ")
      .map((mask) => BigInt(`0x${mask}`));
    const both = (1n << 0n) | (1n << 11n);
    expect(own! & both).toBe(both);
    expect(inner! & both).toBe(0n);
  });

  test("its keyrings are out of reach", async () => {
    const KEYCTL_GET_KEYRING_ID = 0;
    const SESSION = -3;
    expect(await actor.call.call("keyctl", KEYCTL_GET_KEYRING_ID, SESSION, 0)).toBe("EPERM");
    expect(await control.call.call("keyctl", KEYCTL_GET_KEYRING_ID, SESSION, 0)).not.toBe("EPERM");
  });

  test("no core is dumped", async () => {
    expect(readFileSync(`/proc/${actor.pid}/limits`, "utf8")).toMatch(/^Max core file size +0 +0 /m);
  });
});

describe("what an actor prints", () => {
  // Title, clipboard, alternate screen, a line over the last one, an eight-bit CSI, and text that runs backwards.
  const ESCAPES = "\x1b]0;owned\x07\x1b]52;c;ZWNobyBoaQ==\x07\x1b[?1049h\x1b[2K\rroot# \x9b31m\u202egpj.exe\x08\x00";

  test("is passed on line by line with its name, and nothing in it acts on the terminal", async () => {
    const lines: string[] = [];
    using log = spyOn(console, "log").mockImplementation((line: string) => void lines.push(line));
    using error = spyOn(console, "error").mockImplementation((line: string) => void lines.push(line));
    {
      await using chatty = await spawn<Terminal>(fileURLToPath(new URL("./fixtures/terminal.ts", import.meta.url)), {
        name: "chatty",
      });
      await chatty.call.print(`${ESCAPES}\n[host] forged`);
      while (lines.length < 8) await Bun.sleep(1);
    }
    expect(log).toHaveBeenCalled();
    expect(error).toHaveBeenCalled();
    expect(lines).toHaveLength(8);
    for (const line of lines) {
      expect(line).toStartWith("[chatty] ");
      expect(line).not.toMatch(/[\0-\x1f\x7f-\x9f\u202e]/);
    }
    expect(lines.filter((line) => line === "[chatty] [host] forged")).toHaveLength(4);
  });

  test("comes as it is from a pipe, which the host's program asked for", async () => {
    await using chatty = await spawn<Terminal>(fileURLToPath(new URL("./fixtures/terminal.ts", import.meta.url)), {
      stdout: "pipe",
      stderr: "ignore",
    });
    await chatty.call.print(ESCAPES);
    const { value } = await chatty.stdout!.getReader().read();
    expect(new TextDecoder().decode(value)).toContain("\x1b]0;owned\x07");
  });
});
