// What Landlock refuses to whoever is observed, from the audit log: it is switched on for these tests, and off again where it was off.
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AuditDenial, auditLacks, listenToAudit } from "../../platform/linux/audit.ts";
import { type Hearing, hearingLacks, hearingOf } from "../../platform/linux/hearing.ts";
import { logged, usableAbi } from "../../platform/linux/landlock.ts";
import { puppetImage } from "../../platform/linux/puppet.ts";
import { enterLandlock } from "../../platform/linux/walls.ts";
import type { RefusedAccess } from "../../platform/platform.ts";
import { type DenialEvent, exec, type Sandbox, spawn } from "../../src/index.ts";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { isAuditEnabled, setAuditEnabled } from "../../syscalls/linux/audit.ts";
import { close, open } from "../../syscalls/linux/file.ts";
import { LANDLOCK_ACCESS_FS as FS, O } from "../../syscalls/linux/numbers.ts";
import { setNoNewPrivileges } from "../../syscalls/linux/process.ts";
import { testIf } from "../syscalls/requirement.ts";
import { become } from "./become.ts";
import { type Held, hold } from "./strings.ts";

setDefaultTimeout(30_000); // the machine may have other things to do

const ABI = usableAbi();

/** Whether the log was on; undefined where it cannot be had. */
function auditBefore(): boolean | undefined {
  try {
    return isAuditEnabled(self);
  } catch (error) {
    if (error instanceof SystemError) return undefined;
    throw error;
  }
}
const before = auditBefore();
const possible = before !== undefined && ABI >= 7;
const testHeard = testIf("audit", possible, `Landlock cannot be heard: ABI ${ABI}, ${auditLacks()}`);

const base = realpathSync(mkdtempSync(join(tmpdir(), "hearing-")));
chmodSync(base, 0o777);
afterAll(() => rmSync(base, { recursive: true }));
beforeAll(() => {
  if (possible) setAuditEnabled(self, true);
});
afterAll(() => {
  if (possible) setAuditEnabled(self, before);
});

async function all(events: AsyncIterable<DenialEvent>): Promise<DenialEvent[]> {
  const told: DenialEvent[] = [];
  for await (const denial of events) told.push(denial);
  return told;
}

async function until(reached: () => boolean): Promise<void> {
  while (!reached()) await Bun.sleep(5);
}

/** A directory in which files may be read and written, and none made. */
function fixed(name: string): { readonly directory: string; readonly sandbox: Sandbox } {
  const directory = join(base, name);
  mkdirSync(directory, { mode: 0o777 });
  chmodSync(directory, 0o777);
  writeFileSync(join(directory, "file"), "text");
  chmodSync(join(directory, "file"), 0o666);
  return { directory, sandbox: { unveil: { [directory]: "rw" } } };
}

/** How many sockets of this process hear the audit log. */
function listeners(): number {
  const rows = readFileSync("/proc/self/net/netlink", "utf8").split("\n");
  const inodes = new Set(
    rows
      .map((row) => row.trim().split(/\s+/))
      .filter(([, protocol, , groups]) => protocol === "9" && groups === "00000001")
      .map((row) => `socket:[${row.at(-1)}]`),
  );
  return readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return inodes.has(readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      return false; // it was that of the directory itself
    }
  }).length;
}

describe("an observed program", () => {
  testHeard("is heard however short it lives, in the words of any denial", async () => {
    const { directory, sandbox } = fixed("short");
    const made = join(directory, "made");
    await using program = await exec(["touch", made], { sandbox, observe: true, stderr: "ignore" });
    expect(await all(program.denials)).toEqual([
      {
        actor: "touch",
        call: "make_reg",
        target: directory,
        guarantee: "files",
        wall: "Landlock: fs.make_reg is not granted",
        fix: `--write=${directory}`,
        grant: { write: [directory] },
        times: 1,
        lost: 0,
      },
    ]);
    expect(await program.exited).toBe(1);
    // The control: with that granted it is made, and nothing told.
    await using allowed = await exec(["touch", made], { sandbox: { write: [directory] }, observe: true });
    expect([await all(allowed.denials), await allowed.exited]).toEqual([[], 0]);
  });

  testHeard("is heard by a process that is busy with other things", async () => {
    const { directory, sandbox } = fixed("busy");
    for (const busy of [[], [0], [1], [0, 1]]) {
      await using program = await exec(["touch", join(directory, "made")], {
        sandbox,
        observe: true,
        stderr: "ignore",
      });
      if (busy.includes(0)) Bun.sleepSync(250);
      void program.exited.then(() => busy.includes(1) && Bun.sleepSync(250));
      expect((await all(program.denials)).map(({ call, times }) => [call, times])).toEqual([["make_reg", 1]]);
    }
  });

  testHeard("is told of its children's refusals, and of no other program's", async () => {
    const places = ["one", "two", "three"].map((name) => ({ name, ...fixed(name) }));
    const told = await Promise.all(
      places.map(async ({ directory, sandbox }) => {
        const script = `for n in 1 2 3; do (touch ${directory}/$n); done; true`;
        await using program = await exec(["sh", "-c", script], {
          sandbox: { ...sandbox, run: ["touch"] },
          observe: true,
          stderr: "ignore",
        });
        return (await all(program.denials)).map(({ target, times }) => ({ target, times }));
      }),
    );
    for (const [index, { directory }] of places.entries()) {
      expect(new Set(told[index]!.map(({ target }) => target))).toEqual(new Set([directory]));
      expect(told[index]!.reduce((sum, { times }) => sum + times, 0)).toBe(3);
    }
  });

  testHeard("alone is logged: what nobody observes is not, even while somebody listens", async () => {
    const heard: AuditDenial[] = [];
    using _ = listenToAudit((denial) => heard.push(denial));
    const [quiet, loud] = [fixed("quiet"), fixed("loud")];
    await using unseen = await exec(["touch", join(quiet.directory, "made")], {
      sandbox: quiet.sandbox,
      stderr: "ignore",
    });
    expect(await unseen.exited).toBe(1);
    await using seen = await exec(["touch", join(loud.directory, "made")], {
      sandbox: loud.sandbox,
      observe: true,
      stderr: "ignore",
    });
    expect(await seen.exited).toBe(1);
    await until(() => heard.some(({ path }) => path === loud.directory));
    expect(heard.some(({ path }) => path === quiet.directory)).toBe(false);
  });

  testHeard("is heard over one socket with all others, which is closed with the last of them", async () => {
    await until(() => listeners() === 0);
    const cats = await Promise.all(
      [1, 2, 3].map(() => exec(["cat"], { observe: true, stdin: "pipe", stdout: "ignore" })),
    );
    expect(listeners()).toBe(1);
    await cats.pop()![Symbol.asyncDispose]();
    expect(listeners()).toBe(1);
    for (const cat of cats) await cat[Symbol.asyncDispose]();
    await until(() => listeners() === 0);
    await expect(exec(["/no/such/program"], { observe: true })).rejects.toThrow();
    await until(() => listeners() === 0);
  });

  testHeard("that floods the log does not stop this process", async () => {
    const { directory, sandbox } = fixed("flood");
    const script = `n=0; while true; do echo > ${directory}/made; n=$((n + 1)); [ $n = 100 ] && echo flooded; done`;
    await using program = await exec(["sh", "-c", script], { sandbox, observe: true, stderr: "ignore" });
    for await (const _ of program.stdout!) break; // for what is measured, and what is counted
    let worst = 0;
    for (let last = performance.now(), round = 0; round < 100; round++) {
      await Bun.sleep(10);
      const now = performance.now();
      worst = Math.max(worst, now - last - 10);
      last = now;
    }
    console.log(`In a flood of denials a timer of 10 ms was late by ${worst.toFixed(1)} ms at most`);
    program.kill();
    const [first] = await all(program.denials);
    expect(first).toMatchObject({ call: "make_reg", target: directory });
    expect(first!.times).toBeGreaterThan(1);
  });
});

describe("an observed actor", () => {
  const module = join(base, "wants.ts");
  writeFileSync(
    module,
    `import { readFileSync, writeFileSync, unlinkSync } from "node:fs";
    export const read = (path: string) => readFileSync(path, "utf8");
    export const write = (path: string) => writeFileSync(path, "");
    export const remove = (path: string) => unlinkSync(path);`,
  );
  interface Wants {
    read(path: string): string;
    write(path: string): void;
    remove(path: string): void;
  }

  testHeard("is told of once, by Landlock and not by the errors of its own", async () => {
    const { directory } = fixed("actor");
    const [file, made] = [join(directory, "file"), join(directory, "made")];
    await using actor = await spawn<Wants>(module, { sandbox: { unveil: { [directory]: "w" } }, observe: true });
    for (const act of [actor.call.read(file), actor.call.write(made), actor.call.remove(file)]) {
      const error = await act.catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: "EACCES", denial: { guarantee: "files", claimed: true } });
    }
    await actor.call.write(file); // the control
    await actor.call.read("/etc/passwd").catch(() => {}); // ENOENT: no wall tells of what it does not show
    actor.kill();
    const told = await all(actor.denials);
    expect(told.map(({ call, target, claimed }) => [call, target, claimed])).toEqual([
      ["read_file", file, undefined],
      ["make_reg", directory, undefined],
      ["remove_file", directory, undefined],
      ["open", "/etc/passwd", true],
    ]);
  });
});

describe("hearingOf()", () => {
  const [secret, program] = [join(base, "secret"), join(base, "program")];

  /** A puppet of a domain of its own, that was refused to read. */
  function refused(): Held {
    writeFileSync(secret, "");
    if (!readdirSync(base).includes("program")) writeFileSync(program, puppetImage(), { mode: 0o755 });
    const puppet = hold();
    setNoNewPrivileges(puppet.kernel);
    const rules = [{ path: program, access: FS.READ_FILE }];
    enterLandlock(puppet.kernel, logged({ handled: { fs: FS.READ_FILE, net: 0n, scoped: 0n }, rules }, ABI));
    become(puppet.kernel, program);
    expect(() => close(puppet.kernel, open(puppet.kernel, secret, O.RDONLY))).toThrow("EACCES: openat");
    return puppet;
  }
  const hearing = (taken: RefusedAccess[]): Hearing => hearingOf({ refused: (access) => void taken.push(access) })!;

  testHeard("keeps what comes before the process is known, for that process alone", async () => {
    const heard: AuditDenial[] = [];
    using _ = listenToAudit((denial) => heard.push(denial));
    const taken: RefusedAccess[][] = [[], [], []];
    const [one, other, none] = taken.map(hearing);
    using first = refused();
    using second = refused();
    const isHeard = ({ pid }: Held) => heard.some(({ confined }) => confined === pid);
    await until(() => isHeard(first) && isHeard(second));
    one!.of(first.pid);
    // What this process hears itself and what the hearings do comes over sockets of their own.
    await until(() => taken[0]!.length > 0);
    expect(taken.map(({ length }) => length)).toEqual([1, 0, 0]);
    expect(taken[0]).toMatchObject([{ path: secret, blockers: ["fs.read_file"] }]);
    other!.of(second.pid);
    none!.of(process.pid);
    await until(() => taken[1]!.length > 0);
    expect(taken.map(({ length }) => length)).toEqual([1, 1, 0]);
    for (const each of [one, other, none, one]) await each!.end();
    await until(() => listeners() === 1); // that of this test
  });

  test("is nothing where nobody asks", () => {
    expect(hearingOf(undefined)).toBeUndefined();
    expect(hearingOf({ tell() {} })).toBeUndefined();
  });
});

const testDeaf = testIf("no audit", !possible, "this process may read the audit log");

testDeaf("where the log cannot be read, observing goes on without it, and the reason is told", async () => {
  expect(hearingOf({ refused() {} })).toBeUndefined();
  expect(hearingLacks()).toMatch(/audit log|logs nothing/);
  const { directory, sandbox } = fixed("deaf");
  await using program = await exec(["touch", join(directory, "made")], { sandbox, observe: true, stderr: "ignore" });
  expect([await all(program.denials), await program.exited]).toEqual([[], 1]);
});
