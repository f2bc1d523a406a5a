/**
 * Converts files that nobody vouches for with a program of this machine, pdftotext of Debian's poppler-utils, each in a sandbox of its own. So
 * would ffmpeg, or any other.
 *
 * `bun examples/ffmpeg-like.ts`, or with PDFs of yours: `bun examples/ffmpeg-like.ts upload.pdf`
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { run } from "caisson";
import { harmless, reason } from "./attempts.ts";

const SAMPLES = ["pressure.pdf", "letter.pdf", "broken.pdf", "bomb.pdf"];

/** Converts one file, and returns its text. The program sees that file, one directory for what it makes, and itself. */
async function convert(source: string, out: string): Promise<string> {
  mkdirSync(out);
  const target = join(out, "text.txt");
  const { exitCode, signal, stderr, usage } = await run(["pdftotext", source, target], {
    sandbox: {
      read: [source],
      write: [out],
      limits: { memory: "128 MiB", cpuTime: "1 s", wallTime: "10 s", fileSize: "1 MiB" },
    },
  });
  if (signal !== null) throw new Error(`${signal} ended it after ${(usage.cpuMs / 1000).toFixed(1)} s of a processor`);
  if (exitCode !== 0) throw new Error(stderr.toString().trim().split("\n")[0]);
  return readFileSync(target, "utf8").replaceAll(/\s+/g, " ").trim();
}

const given = process.argv.slice(2);
const paths = given.length > 0 ? given : SAMPLES.map((name) => join(import.meta.dir, "pdf", name));
if (Bun.which("pdftotext") === null) {
  console.log("Skipped: there is no pdftotext here, `apt-get install poppler-utils` brings it");
  process.exit(0);
}

const directory = mkdtempSync(join(tmpdir(), "converted-"));
try {
  for (const [index, path] of paths.entries()) {
    const what = `${basename(path).padEnd(14)} `;
    try {
      const text = await convert(path, join(directory, `${index}`));
      console.log(`${what}${text.length} characters: ${harmless(text.slice(0, 40))} ...`);
    } catch (error) {
      console.log(`${what}not converted: ${harmless(reason(error))}`);
    }
  }
} finally {
  rmSync(directory, { recursive: true });
}
