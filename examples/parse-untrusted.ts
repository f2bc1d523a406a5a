/**
 * Extracts text from PDFs that nobody vouches for, each in an actor of its own. Then shows what an actor gets that turned hostile.
 *
 * `bun examples/parse-untrusted.ts`, or with PDFs of yours: `bun examples/parse-untrusted.ts upload.pdf`
 */
import { statSync } from "node:fs";
import { basename, join } from "node:path";
import { file, type Sandbox, spawn } from "caisson";
import Type from "typebox";
import { harmless, reason, tryEverything } from "./attempts.ts";

const SAMPLES = ["pressure.pdf", "letter.pdf", "broken.pdf", "bomb.pdf"];
/** Two of them are well-formed: see pdf/README.md. */
const READABLE = 2;

const sandbox: Sandbox = { limits: { memory: "256 MiB", cpuTime: "10 s", wallTime: "30 s" } };
/** What the parser answers is untrusted too: whatever does not look like this rejects the call. */
const Parsed = Type.Object({ totalPages: Type.Integer({ minimum: 1 }), text: Type.String({ maxLength: 1_000_000 }) });

/** The text of one document. A fresh actor for each: what one document does to the parser, the next one does not feel. */
async function textOf(path: string): Promise<{ totalPages: number; text: string }> {
  const module = new URL("./parse.ts", import.meta.url);
  await using parser = await spawn<typeof import("./parse.ts")>(module, { sandbox, stderr: "ignore" });
  return await parser.call({ timeoutMs: 10_000, result: Parsed }).parse(file(path));
}

/** Prints a line about each document, and returns how many had a text. */
async function showTexts(paths: readonly string[]): Promise<number> {
  console.log("\nText from untrusted PDFs\n");
  let extracted = 0;
  for (const path of paths) {
    const what = `  ${basename(path).padEnd(14)}${`${statSync(path).size} bytes`.padStart(12)}   `;
    try {
      const { totalPages, text } = await textOf(path);
      extracted++;
      console.log(`${what}${totalPages} page(s), ${text.length} characters: ${harmless(text.slice(0, 40))} ...`);
    } catch (error) {
      console.log(`${what}no text: ${reason(error)}`);
    }
  }
  return extracted;
}

/** Prints what was tried and what keeps the actor in. Returns whether everything was refused. */
async function showAttempts(): Promise<boolean> {
  const { outcomes, enforcement } = await tryEverything();
  console.log("\nAn actor that turned hostile\n");
  console.log(`  ${"tries to".padEnd(38)}${"without walls".padEnd(16)}inside`);
  for (const { attempt, without, inside } of outcomes)
    console.log(`  ${attempt.padEnd(38)}${without.padEnd(16)}${inside}`);
  console.log("\nWhat keeps it in\n");
  for (const [guarantee, enforcers] of Object.entries(enforcement)) {
    if (enforcers.length > 0) console.log(`  ${guarantee.padEnd(14)}${enforcers.join(", ")}`);
  }
  const refused = outcomes.filter((outcome) => outcome.refused).length;
  console.log(`\n${refused} of ${outcomes.length} attempts refused.`);
  return refused === outcomes.length;
}

const given = process.argv.slice(2);
if (given.length > 0) {
  process.exitCode = (await showTexts(given)) === given.length ? 0 : 1;
} else {
  const extracted = await showTexts(SAMPLES.map((name) => join(import.meta.dir, "pdf", name)));
  const refused = await showAttempts();
  process.exitCode = extracted === READABLE && refused ? 0 : 1;
}
