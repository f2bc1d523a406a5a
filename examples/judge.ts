/**
 * Judges submitted programs as contests do: each is run on test cases in a sandbox of its own, and the verdict says how that ended.
 *
 * `bun examples/judge.ts` judges those in `judge/`, well-meant and hostile ones; `bun examples/judge.ts solution.py` judges yours.
 */
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, extname, join, resolve } from "node:path";
import { type Exit, exec, type Usage } from "caisson";

/** The problem: given n, print the sum of the numbers from 1 to n. */
const CASES = [
  { input: "3\n", answer: "6" },
  { input: "100000\n", answer: "5000050000" },
  { input: "3000000000\n", answer: "4500000001500000000" },
];

/** The problem's limit, in bytes. The sandbox has twice that: who is refused memory may crash in any way, who got too much has a peak that tells. */
const MEMORY = 64 * 2 ** 20;
const RUNNING = { memoryBytes: 2 * MEMORY, cpuTime: "1 s", wallTime: "5 s", processes: 8, output: "64 KiB" };
const COMPILING = { memory: "1 GiB", cpuTime: "10 s", wallTime: "30 s", processes: 8, fileSize: "16 MiB" };

interface Language {
  readonly compiles: boolean;
  readonly argv: readonly string[];
}

/** What compiles a source on standard input to `program`, or runs a file, by the end of its name. */
const LANGUAGES: Readonly<Record<string, Language>> = {
  ".c": { compiles: true, argv: ["/usr/bin/gcc", "-x", "c", "-O2", "-o", "program", "-"] },
  ".py": { compiles: false, argv: ["/usr/bin/python3", "-I"] },
  ".pl": { compiles: false, argv: ["/usr/bin/perl"] },
};
const env = { PATH: "/usr/bin:/bin" };

interface Judgement {
  readonly verdict: string;
  /** Of the case that took most, in each. */
  readonly cpuMs: number;
  readonly peakBytes: number;
}

/** Judges the submission at a path, up to the first case that it does not solve. */
async function judge(path: string): Promise<Judgement> {
  const language = languageOf(path);
  if (typeof language === "string") return { verdict: `Not judged: ${language}`, cpuMs: 0, peakBytes: 0 };
  const { compiles, argv } = language;
  const directory = mkdtempSync(join(tmpdir(), "judge-"));
  try {
    let [verdict, cpuMs, peakBytes] = ["Accepted", 0, 0];
    if (compiles && !(await compile(argv, path, directory))) verdict = "Compilation Error";
    const program = compiles ? [join(directory, "program")] : [...argv, resolve(path)];
    for (const [index, { input, answer }] of CASES.entries()) {
      if (verdict !== "Accepted") break;
      const { exit, output, usage } = await attempt(program, input);
      const outcome = failureOf(exit, usage) ?? (output.trim() === answer ? undefined : "Wrong Answer");
      if (outcome !== undefined) verdict = `${outcome} on case ${index + 1}`;
      cpuMs = Math.max(cpuMs, usage.cpuMs);
      peakBytes = Math.max(peakBytes, usage.peakBytes);
    }
    return { verdict, cpuMs, peakBytes };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** What it is written in; or why nothing can be said of it, which is no fault of its own. */
function languageOf(path: string): Language | string {
  const language = LANGUAGES[extname(path)];
  if (language === undefined) return `one of ${Object.keys(LANGUAGES).join(", ")} is expected`;
  if (!existsSync(path)) return "there is no such file";
  return Bun.which(language.argv[0]!) === null ? `there is no ${language.argv[0]} here` : language;
}

/** Whether it compiles. A source can be hostile to its compiler, so that has limits too, and no files but those of /usr and one directory. */
async function compile(argv: readonly string[], path: string, directory: string): Promise<boolean> {
  const sandbox = { unveil: { "/usr": "rx" }, write: [directory], limits: COMPILING };
  const streams = { stdin: Bun.file(path).stream(), stdout: "ignore", stderr: "ignore" } as const;
  await using compiler = await exec(argv, { ...streams, cwd: directory, env, sandbox });
  return (await compiler.exited) === 0;
}

/** Runs it on an input. It sees itself and what interprets it; of what it does nothing stays but its answer. */
async function attempt(argv: readonly string[], stdin: string) {
  const read = argv.length > 1 ? ["/usr/lib", argv.at(-1)!] : [];
  await using program = await exec(argv, { stdin, stderr: "ignore", env, sandbox: { read, limits: RUNNING } });
  const output = await program.stdout!.text();
  await program.exited;
  return { exit: program.exit!, output, usage: program.usage() };
}

/** Why it came to no answer, by what the kernel counted and who ended it. */
function failureOf(exit: Exit, { peakBytes }: Usage): string | undefined {
  const limit = exit.reason === "limit" ? exit.limit : undefined;
  if (limit === "memory" || peakBytes > MEMORY) return "Memory Limit Exceeded";
  if (limit === "cpuTime" || limit === "wallTime") return "Time Limit Exceeded";
  if (limit === "output") return "Output Limit Exceeded";
  if (exit.reason === "signal") return `Runtime Error (${exit.signal})`;
  if (exit.reason === "returned" && exit.code !== 0) return `Runtime Error (exit code ${exit.code})`;
  return undefined;
}

const own = join(import.meta.dirname, "judge");
const given = process.argv.slice(2);
for (const path of given.length > 0
  ? given
  : readdirSync(own)
      .toSorted()
      .map((name) => join(own, name))) {
  const { verdict, cpuMs, peakBytes } = await judge(path);
  const used = [`${cpuMs.toFixed(0)} ms`, `${(peakBytes / 2 ** 20).toFixed(1)} MiB`].map((text) => text.padStart(10));
  console.log(`${basename(path).padEnd(14)} ${verdict.padEnd(42)}${used.join("")}`);
}
