/** Every example, run as a user would run it. */
import { describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const examples = join(import.meta.dir, "../examples");

interface Run {
  readonly code: number;
  readonly output: string;
  readonly error: string;
}

async function run(example: string, ...args: string[]): Promise<Run> {
  const child = Bun.spawn([process.execPath, join(examples, example), ...args], {
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

const SECONDS = 1000;

test("hello prints what the actor answers, from a world with one process", async () => {
  const { code, output } = await run("hello.ts");
  expect(output).toBe("Hello, world, from process 1 of a world that has no other\n");
  expect(code).toBe(0);
});

describe("parse-untrusted", () => {
  const whole = run("parse-untrusted.ts");

  test(
    "extracts the text of what real tools wrote",
    async () => {
      expect(lineOf(await whole, "pressure.pdf")).toContain("2 page(s), 839 characters: Work under Pressure");
      expect(lineOf(await whole, "letter.pdf")).toContain("1 page(s), 129 characters: Grüße von der Baustelle!");
    },
    60 * SECONDS,
  );

  test(
    "says of the broken and the hostile document why they have no text",
    async () => {
      expect(lineOf(await whole, "broken.pdf")).toEndWith("no text: Invalid PDF structure.");
      expect(lineOf(await whole, "bomb.pdf")).toEndWith("no text: Out of memory");
    },
    60 * SECONDS,
  );

  test.each([
    ["read the user's ssh key", "works", "EPERM from open"],
    ["open it by a system call of its own", "works", "-1 from open, errno 1"],
    ["list the user's files", "works", "EPERM from scandir"],
    ["plant a line in .bashrc", "works", "EPERM from open"],
    ["find a token in the environment", "works", "not set, nor is anything else: {}"],
    ["connect out", "works", "EPERM"],
    ["start a program", "works", "EPERM from socketpair"],
    ["send the host a signal", "works", "EPERM from kill"],
    ["fill the memory", "not tried", "Out of memory"],
    ["spin forever", "not tried", "Actor hostile was ended: it reached its limit cpuTime"],
  ])(
    "shows that a hostile actor that tries to %s is refused, and could without walls",
    async (attempt, without, inside) => {
      expect(lineOf(await whole, attempt).split(/ {2,}/)).toEqual([without, inside]);
    },
    60 * SECONDS,
  );

  test(
    "exits with 0 as everything was refused, and says nothing else",
    async () => {
      const { code, output, error } = await whole;
      expect(output).toEndWith("\n10 of 10 attempts refused.\n");
      expect(error).toBe("");
      expect(code).toBe(0);
    },
    60 * SECONDS,
  );

  test("leaves no bait behind", async () => {
    await whole;
    expect(readdirSync(tmpdir()).filter((name) => name.startsWith("caisson-bait-"))).toEqual([]);
  });

  test(
    "takes documents of the user's, and exits with 1 when one has no text",
    async () => {
      const { code, output } = await run(
        "parse-untrusted.ts",
        join(examples, "pdf/letter.pdf"),
        join(examples, "pdf/broken.pdf"),
      );
      expect(output).toContain("Grüße");
      expect(output).not.toContain("hostile");
      expect(code).toBe(1);
    },
    60 * SECONDS,
  );
});

describe("untrusted-script", () => {
  test(
    "shows what scripts print, what stopped them, and nothing that acts on a terminal",
    async () => {
      const { code, output } = await run("untrusted-script.ts");
      const [honest, curious, endless] = output.split(/^\w+\.ts$/m).slice(1);
      expect(honest).toBe(
        "\n  | 3 the\n  | 2 men\n  | 1 in\n  | 1 caisson\n  | 1 and\n  | 1 above\n  | 1 it\n  it is through\n\n",
      );
      expect(curious).toBe("\n  |  [2Jwhat have we here?\n  EPERM from open\n\n");
      expect(endless).toStartWith("\n  | tick 1\n");
      expect(endless).toEndWith("  Actor endless.ts was ended: it reached its limit wallTime\n");
      expect(code).toBe(0);
    },
    60 * SECONDS,
  );

  test(
    "runs a script from a file",
    async () => {
      const directory = mkdtempSync(join(tmpdir(), "caisson-example-"));
      try {
        const script = join(directory, "sum.ts");
        writeFileSync(script, "console.log([1, 2, 3].reduce((sum, each): number => sum + each)); process.exit(3);");
        const { output } = await run("untrusted-script.ts", script);
        expect(output).toBe("\nsum.ts\n  | 6\n  Actor sum.ts ended: it returned 3\n");
      } finally {
        rmSync(directory, { recursive: true });
      }
    },
    60 * SECONDS,
  );
});
