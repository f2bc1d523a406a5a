/** Attacks that a native program makes: `fixtures/attempt.c`, compiled once, and what it prints taken apart. */
import { chmodSync, copyFileSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { testIf } from "../syscalls/requirement.ts";
import { scratch } from "./arena.ts";

const cc = Bun.which("cc") ?? Bun.which("gcc");
export const testAttempt = testIf("cc", cc !== null, "there is no C compiler (Debian: gcc and libc6-dev)");

/** A directory with the program in it, or another one of the fixtures, statically linked: it needs nothing of the root that it runs in. */
export function arsenal(name = "attempt"): ReturnType<typeof scratch> & { readonly program: string } {
  const base = scratch();
  const program = join(base.path, name);
  if (cc !== null) {
    const source = fileURLToPath(new URL(`./fixtures/${name}.c`, import.meta.url));
    const { exitCode, stderr } = Bun.spawnSync([cc, "-O1", "-static", "-o", program, source]);
    if (exitCode !== 0) throw new Error(stderr.toString());
    chmodSync(program, 0o755);
  }
  return { ...base, program };
}

/** A tree that can be a root: with the program at `/attempt`, and these directories. */
export function tree(base: ReturnType<typeof arsenal>, name: string, directories: readonly string[] = []): string {
  const path = join(base.path, name);
  for (const each of ["", ...directories]) {
    mkdirSync(join(path, each), { recursive: true });
    chmodSync(join(path, each), 0o755);
  }
  copyFileSync(base.program, join(path, "attempt"));
  return path;
}

/** What was said to each step, the last word of its line: `"EPERM"`, or a number. */
export function said(output: string | Buffer): string[] {
  const lines = output.toString().trim().split("\n");
  return lines.map((line) => line.split(" ").at(-1)!);
}

/** The processes whose program this is. */
export function survivors(program: string): string[] {
  return readdirSync("/proc").filter((pid) => /^\d+$/.test(pid) && commandOf(pid).startsWith(`${program}\0`));
}

export function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "latin1");
  } catch {
    return ""; // it ended meanwhile
  }
}

/** Whether the kernel did it. */
export const done = (outcome: string): boolean => /^\d+$/.test(outcome);

/** Steps against a process: `%` stands for its id. */
export const against = (steps: readonly string[], pid: number): string[] =>
  steps.map((step) => step.replaceAll("%", `${pid}`));

/** Reads 8 bytes of a process's code: EFAULT where it may, for they are to go to address 0. */
export const VM_READ = `process_vm_readv % @${"00".repeat(8)}08${"00".repeat(7)} 1 @0000400000000000${"08".padEnd(16, "0")} 1 0`;
