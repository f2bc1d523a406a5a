/** Every example, run as a user would run it. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

setDefaultTimeout(60_000);

const examples = join(import.meta.dir, "../examples");
const temporary = mkdtempSync(join(tmpdir(), "caisson-examples-"));
afterAll(() => rmSync(temporary, { recursive: true }));

interface Run {
  readonly code: number;
  readonly output: string;
  readonly error: string;
}

async function run(example: string, ...args: string[]): Promise<Run> {
  const child = Bun.spawn([process.execPath, join(examples, example), ...args], {
    env: { ...process.env, TMPDIR: temporary },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, error, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code, output, error };
}

/** What a table has in the line that begins with a name. */
function lineOf({ output }: Run, name: string): string {
  const line = output.split("\n").find((line) => line.trim().startsWith(name));
  if (line === undefined) throw new Error(`No line begins with ${name} in:\n${output}`);
  return line.trim().slice(name.length).trim();
}

/** An error that the code can catch, or a crash of Bun where it was Bun itself that needed the memory. */
const NO_MEMORY = /(Out of memory|Actor \w+ ended: SIG(ILL|TRAP|ABRT|SEGV) ended it)$/;

test("hello prints what the actor answers, from a world with one process", async () => {
  const { code, output } = await run("hello.ts");
  expect(output).toBe("Hello, world, from process 1 of a world that has no other\n");
  expect(code).toBe(0);
});

describe("parse-untrusted", () => {
  let whole: Run;
  beforeAll(async () => {
    whole = await run("parse-untrusted.ts");
  }, 60_000);

  test("extracts the text of what real tools wrote", () => {
    expect(lineOf(whole, "pressure.pdf")).toContain("2 page(s), 839 characters: Work under Pressure");
    expect(lineOf(whole, "letter.pdf")).toContain("1 page(s), 129 characters: Grüße von der Baustelle!");
  });

  test("says of the broken and the hostile document why they have no text", () => {
    expect(lineOf(whole, "broken.pdf")).toEndWith("no text: Invalid PDF structure.");
    expect(lineOf(whole, "bomb.pdf")).toMatch(NO_MEMORY);
  });

  test.each([
    ["read the user's ssh key", "works", "EPERM from open"],
    ["open it by a system call of its own", "works", "-1 from open, errno 1"],
    ["list the user's files", "works", "EPERM from scandir"],
    ["plant a line in .bashrc", "works", "EPERM from open"],
    ["find a token in the environment", "works", "not set, nor is anything else: {}"],
    ["connect out", "works", "EPERM"],
    ["start a program", "works", "EPERM from socketpair"],
    ["send the host a signal", "works", "EPERM from kill"],
    ["spin forever", "not tried", "Actor hostile was ended: it reached its limit cpuTime"],
  ])("shows how it goes without walls and inside to %s", (attempt, without, inside) => {
    expect(lineOf(whole, attempt).split(/ {2,}/)).toEqual([without, inside]);
  });

  test("shows that memory has an end", () => {
    expect(lineOf(whole, "fill the memory")).toMatch(NO_MEMORY);
  });

  test("exits with 0 as everything was refused, and says nothing else", () => {
    expect(whole.output).toEndWith("\n10 of 10 attempts refused.\n");
    expect(whole.error).toBe("");
    expect(whole.code).toBe(0);
  });

  test("takes documents of the user's, and exits with 1 when one has no text", async () => {
    const documents = ["letter.pdf", "broken.pdf"].map((name) => join(examples, "pdf", name));
    const { code, output } = await run("parse-untrusted.ts", ...documents);
    expect(output).toContain("Grüße");
    expect(output).not.toContain("hostile");
    expect(code).toBe(1);
  });
});

describe("untrusted-script", () => {
  test("shows what scripts print, what stopped them, and nothing that acts on a terminal", async () => {
    const { code, output } = await run("untrusted-script.ts");
    const [honest, curious, endless] = output.split(/^\w+\.ts$/m).slice(1);
    const counts = ["3 the", "2 men", "1 in", "1 caisson", "1 and", "1 above", "1 it"].map((line) => `  | ${line}\n`);
    expect(honest).toBe(`\n${counts.join("")}  it is through\n\n`);
    expect(curious).toBe("\n  |  [2Jwhat have we here?\n  EPERM from open\n\n");
    expect(endless).toStartWith("\n  | tick 1\n");
    expect(endless).toEndWith("  Actor endless.ts was ended: it reached its limit wallTime\n");
    expect(code).toBe(0);
  });

  test("runs a script from a file", async () => {
    const script = join(temporary, "sum.ts");
    writeFileSync(script, "console.log([1, 2, 3].reduce((sum, each): number => sum + each)); process.exit(3);");
    const { output } = await run("untrusted-script.ts", script);
    rmSync(script);
    expect(output).toBe("\nsum.ts\n  | 6\n  Actor sum.ts ended: it returned 3\n");
  });
});

test("no example leaves a file behind", () => {
  expect(readdirSync(temporary)).toEqual([]);
});
