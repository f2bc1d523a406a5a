/**
 * Runs the tests that ask the kernel under Debian's kernels in QEMU, as root and as an ordinary user: `npm run test:kernels -- [LINE[:GROUPS]...]`,
 * as `6.1 6.12:hybrid`. Says what `caisson doctor` finds there, and how it went in a table. Exits with 1 if anything failed.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { FILES, type Groups, isGroups } from "./files.ts";

/** Landlock ABI 2 and 6, and each way to have control groups once more. Debian's 6.12 has no memory controller of v1. */
const DEFAULT = ["6.1", "6.12", "6.1:v1", "6.1:hybrid", "6.12:hybrid", "6.12:systemd", "6.12:service"];

/** By their numbers in the guest. */
const USERS = { root: 0, user: 4000 } as const;
const REPOSITORY = join(import.meta.dir, "../..");
const CACHE = join(REPOSITORY, "node_modules/.cache/kernels");

interface Guest {
  readonly line: string;
  readonly groups: Groups;
}

interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

interface Row extends Counts {
  readonly guest: Guest;
  readonly user: string;
}

function guestOf(word: string): Guest {
  const [, line, groups = "v2"] = /^(\d+\.\d+)(?::(\w+))?$/.exec(word) ?? [];
  if (line !== undefined && isGroups(groups)) return { line, groups };
  console.error(`Cannot boot ${word}: expected a kernel, as 6.12, and perhaps :${Object.keys(FILES).join(" or :")}`);
  process.exit(2);
}

/** The files of tests that these patterns mean. */
function filesOf(patterns: readonly string[]): string[] {
  return patterns.flatMap((pattern) => {
    const files = [...new Bun.Glob(pattern).scanSync(REPOSITORY)].toSorted();
    if (files.length === 0) throw new Error(`Cannot run ${pattern}: there is no such file, expected tests`);
    return files;
  });
}

/** Runs a script of this directory. What it says is printed unless it is the `answer` that counts. */
async function run(
  script: string,
  words: readonly string[],
  { answer = false } = {},
): Promise<[code: number, said: string]> {
  const child = Bun.spawn(["bash", join(import.meta.dir, script), ...words], { stdio: ["ignore", "pipe", "inherit"] });
  const decoder = new TextDecoder();
  let said = "";
  for await (const bytes of child.stdout) {
    said += decoder.decode(bytes, { stream: true });
    if (!answer) process.stdout.write(bytes);
  }
  return [await child.exited, said];
}

/** What `bun test` counted. Where it failed without that, it is one failure. */
function countsOf(said: string, code: number): Counts {
  const count = (what: string) => Number([...said.matchAll(new RegExp(`^ *(\\d+) ${what}$`, "gm"))].at(-1)?.[1] ?? 0);
  const failed = count("fail");
  return { passed: count("pass"), failed: code !== 0 && failed === 0 ? 1 : failed, skipped: count("skip") };
}

async function test(guest: Guest): Promise<Row[]> {
  const rows: Row[] = [];
  const [unfetched, directory] = await run("fetch.sh", [guest.line, CACHE], { answer: true });
  for (const [user, uid] of Object.entries(USERS)) {
    console.log(`\n==> Linux ${guest.line}, groups ${guest.groups}, ${user}`);
    const command = ["bash", "tests/kernels/inside.sh", ...filesOf(FILES[guest.groups])];
    const [code, said] =
      unfetched === 0
        ? await run("run.sh", ["-g", guest.groups, "-u", `${uid}`, directory.trim(), ...command])
        : [unfetched, ""];
    rows.push({ guest, user, ...countsOf(said, code) });
  }
  return rows;
}

const words = process.argv.slice(2);
const guests = (words.length > 0 ? words : DEFAULT).map(guestOf);
mkdirSync(CACHE, { recursive: true });
const rows: Row[] = [];
// One after the other: each keeps two processors busy.
for (const guest of guests) rows.push(...(await test(guest)));

console.log("\nLinux  groups   user  passed  failed  skipped");
for (const { guest, user, passed, failed, skipped } of rows)
  console.log(
    `${guest.line.padEnd(7)}${guest.groups.padEnd(9)}${user}${[8, 8, 9].map((width, index) => `${[passed, failed, skipped][index]}`.padStart(width)).join("")}`,
  );
// In all, as `bun test` says it.
const total = (count: keyof Counts) => rows.reduce((sum, row) => sum + row[count], 0);
console.log(`\n ${total("passed")} pass\n ${total("skipped")} skip\n ${total("failed")} fail`);
process.exit(total("failed") > 0 ? 1 : 0);
