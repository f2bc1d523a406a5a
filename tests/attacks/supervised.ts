/** A program whose calls are supervised: `fixtures/supervised.c`, compiled once, and what it says of each act. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type ExecOptions, exec, type SandboxedProcess } from "../../src/index.ts";
import { arsenal } from "./attempt.ts";

const cc = Bun.which("cc") ?? Bun.which("gcc");

/** The programs of an arsenal, and this one. */
export function rebellion(): ReturnType<typeof arsenal> & { readonly supervised: string } {
  const base = arsenal();
  const supervised = join(base.path, "supervised");
  if (cc !== null) {
    const source = fileURLToPath(new URL("./fixtures/supervised.c", import.meta.url));
    const { exitCode, stderr } = Bun.spawnSync([cc, "-O1", "-static", "-pthread", "-w", "-o", supervised, source]);
    if (exitCode !== 0) throw new Error(stderr.toString());
  }
  return { ...base, supervised };
}

/** What a program printed, line by line: all but the last word of each is its name. */
export function linesOf(text: string): Record<string, string> {
  const lines = text.trim().split("\n");
  return Object.fromEntries(lines.map((line) => [line.replace(/ ?\S*$/, ""), line.split(" ").at(-1)!]));
}

/** Runs a program to its end. */
export async function act(argv: readonly string[], options: ExecOptions = {}) {
  await using program = await exec(argv, { stdin: "ignore", ...options });
  return await outcome(program);
}

export async function outcome(program: SandboxedProcess) {
  const text = (stream: ReadableStream<Uint8Array> | undefined) => new Response(stream ?? "").text();
  const [said, complained, code] = await Promise.all([text(program.stdout), text(program.stderr), program.exited]);
  return { said, lines: linesOf(said), complained, code, signal: program.signalCode };
}

/** Threads of this process that somebody asked for: those of the engine come and go as it likes. */
export const threads = (): number =>
  readdirSync("/proc/self/task").filter((thread) => {
    try {
      return readFileSync(`/proc/self/task/${thread}/comm`, "utf8") === "Worker\n";
    } catch {
      return false; // it has ended
    }
  }).length;
