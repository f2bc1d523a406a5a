/** The judge's verdicts, on submissions of every kind. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { testIf } from "../syscalls/requirement.ts";

setDefaultTimeout(120_000);

const examples = join(import.meta.dir, "../../examples");
const temporary = mkdtempSync(join(tmpdir(), "caisson-judge-"));
afterAll(() => rmSync(temporary, { recursive: true }));

const PROGRAMS: Readonly<Record<string, string>> = { ".c": "gcc", ".py": "python3", ".pl": "perl" };

const VERDICTS: Readonly<Record<string, string>> = {
  "cramped.c": "Runtime Error (SIGSEGV) on case 2",
  "fork-bomb.pl": "Time Limit Exceeded on case 1",
  "hoarder.py": "Memory Limit Exceeded on case 3",
  "narrow.c": "Wrong Answer on case 2",
  "parricide.pl": "Runtime Error (exit code 1) on case 1", // EPERM
  "sleeper.pl": "Time Limit Exceeded on case 1",
  "slow.py": "Time Limit Exceeded on case 3",
  "spy.pl": "Runtime Error (exit code 2) on case 1", // ENOENT
  "sum.c": "Accepted",
  "sum.pl": "Accepted",
  "sum.py": "Accepted",
  "talker.py": "Output Limit Exceeded on case 1",
  "typo.c": "Compilation Error",
};

interface Line {
  readonly verdict: string;
  readonly cpuMs: number;
  readonly peakMib: number;
}

/** What the judge prints, by submission. */
async function judge(...submissions: string[]): Promise<Map<string, Line>> {
  const child = Bun.spawn([process.execPath, join(examples, "judge.ts"), ...submissions], {
    env: { ...process.env, TMPDIR: temporary },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, error, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  expect([error, code]).toEqual(["", 0]);
  const lines = output.trimEnd().split("\n");
  return new Map(
    lines.map((line) => {
      const [, name, verdict, cpuMs, peakMib] = /^(\S+) +(.*?) +(\d+) ms +([\d.]+) MiB$/.exec(line)!;
      return [name!, { verdict: verdict!, cpuMs: Number(cpuMs), peakMib: Number(peakMib) }];
    }),
  );
}

describe("judge", () => {
  let judged: Map<string, Line>;
  beforeAll(async () => {
    judged = await judge();
  }, 120_000);

  /** `test` where what its language needs is there. */
  const testOf = (submission: string) => {
    const program = PROGRAMS[extname(submission)]!;
    return testIf(program, Bun.which(program, { PATH: "/usr/bin" }) !== null, `there is no /usr/bin/${program}`);
  };

  test("judges all that it has", () => {
    expect([...judged.keys()]).toEqual(Object.keys(VERDICTS));
  });

  for (const [submission, verdict] of Object.entries(VERDICTS))
    testOf(submission)(`says of ${submission}: ${verdict}`, () => {
      expect(judged.get(submission)?.verdict).toBe(verdict);
    });

  testOf("sum.py")("says what they used: the slow one time, the hoarder memory", () => {
    const [slow, hoarder, modest] = ["slow.py", "hoarder.py", "sum.py"].map((name) => judged.get(name)!);
    expect(slow!.cpuMs).toBeGreaterThan(modest!.cpuMs);
    expect(hoarder!.peakMib).toBeGreaterThan(64);
    expect(modest!.peakMib).toBeLessThan(64);
  });

  testOf("sum.pl")("judges a file that is given", async () => {
    const submission = join(temporary, "mine.pl");
    writeFileSync(submission, "print 6");
    expect((await judge(submission)).get("mine.pl")?.verdict).toBe("Wrong Answer on case 2");
  });

  test("says of what is no submission why, and goes on", async () => {
    const paths = ["sum.rs", "missing.c"].map((name) => join(temporary, name));
    const verdicts = [...(await judge(...paths)).values()].map(({ verdict }) => verdict);
    expect(verdicts).toEqual(["Not judged: one of .c, .py, .pl is expected", "Not judged: there is no such file"]);
  });

  testOf("spy.pl")("has to do with submissions that get what they want where nothing keeps them", async () => {
    const spy = Bun.spawn(["/usr/bin/perl", join(examples, "judge/spy.pl")], { stdout: "pipe" });
    expect(await spy.stdout.text()).toContain("root:");
    // The shell has another command to come, so it stays to be the parent.
    const script = '/usr/bin/perl "$0"; echo alive';
    const parent = Bun.spawn(["/bin/sh", "-c", script, join(examples, "judge/parricide.pl")], { stdout: "pipe" });
    expect(await parent.stdout.text()).toBe("");
    await parent.exited;
    expect(parent.signalCode).toBe("SIGKILL");
  });

  test("leaves nothing behind", () => {
    expect(readdirSync(temporary).filter((name) => name.startsWith("judge-"))).toEqual([]);
  });
});
