/**
 * Runs scripts that nobody vouches for, with limits, and shows what they print as it comes.
 *
 * `bun examples/untrusted-script.ts` runs three of its own; `bun examples/untrusted-script.ts script.ts` runs yours.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { type Sandbox, spawn } from "caisson";
import { harmless, reason } from "./attempts.ts";

const sandbox: Sandbox = { limits: { memory: "128 MiB", wallTime: "2 s" } };

const SCRIPTS = {
  "honest.ts": `
    const words: string[] = "the men in the caisson and the men above it".split(" ");
    for (const [word, all] of Map.groupBy(words, (word) => word)) console.log(all.length, word);`,
  "curious.ts": `
    import { readFileSync } from "node:fs";
    console.log("\\x1b[2Jwhat have we here?");
    console.log(readFileSync("/etc/passwd", "utf8"));`,
  "endless.ts": `
    for (let count = 1; ; count++) {
      console.log("tick", count);
      await Bun.sleep(400);
    }`,
};

/** Runs the script at a path, gives each line that it prints to `print`, and returns how it ended. */
async function run(path: string, print: (line: string) => void): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), "script-"));
  try {
    // The script becomes a function of a module: it starts when it is called, and what it prints is read from its first line on.
    const module = join(directory, "module.ts");
    writeFileSync(module, `export async function main(): Promise<void> { await import(${JSON.stringify(path)}); }\n`);
    await using script = await spawn<{ main(): Promise<void> }>(module, {
      name: basename(path),
      sources: [dirname(path)],
      sandbox,
      stdout: "pipe",
      stderr: "ignore",
    });
    const printed = passLines(script.stdout!, print);
    const end = await script.call.main().then(() => "it is through", reason);
    script.kill();
    await printed;
    return end;
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Gives each line of a stream to `print`. Long ones are cut, so that no flood is held in memory. */
async function passLines(stream: ReadableStream<Uint8Array>, print: (line: string) => void): Promise<void> {
  let rest = "";
  const decoder = new TextDecoder();
  for await (const piece of stream) {
    const lines = (rest + decoder.decode(piece, { stream: true })).split("\n");
    rest = lines.pop()!.slice(0, 1000);
    for (const line of lines) print(harmless(line.slice(0, 1000)));
  }
  if (rest !== "") print(harmless(rest));
}

async function show(path: string): Promise<void> {
  console.log(`\n${basename(path)}`);
  const end = await run(path, (line) => console.log(`  | ${line}`));
  console.log(`  ${end}`);
}

const given = process.argv.slice(2);
if (given.length > 0) for (const path of given) await show(resolve(path));
else {
  const directory = mkdtempSync(join(tmpdir(), "scripts-"));
  for (const [name, text] of Object.entries(SCRIPTS)) {
    writeFileSync(join(directory, name), text);
    await show(join(directory, name));
  }
  rmSync(directory, { recursive: true });
}
