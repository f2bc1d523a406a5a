/** The kernel's own verdict on calls under a filter: `fixtures/verdict.c` makes them. */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { MACHINE, NUMBERS, SECCOMP_RET, type SyscallName } from "../../../syscalls/linux/numbers.ts";
import { hasFilters } from "../../../syscalls/linux/seccomp.ts";
import { testIf } from "../../syscalls/requirement.ts";

const cc = Bun.which("cc") ?? Bun.which("gcc");
const filters = process.platform === "linux" && hasFilters();
const reason = filters ? "there is no C compiler (Debian: gcc and libc6-dev)" : "there are no filters";
export const testKernel = testIf(filters ? "cc" : "seccomp", filters && cc !== null, reason);

/** Calls that look at none of their arguments and change nothing, with what they answer. */
const HARMLESS: Partial<Record<SyscallName, (answer: bigint) => boolean>> = {
  getppid: (answer) => answer > 0n,
  getpid: (answer) => answer > 0n,
  gettid: (answer) => answer > 0n,
  getuid: (answer) => answer === BigInt(process.getuid!()),
  geteuid: (answer) => answer === BigInt(process.geteuid!()),
  getgid: (answer) => answer === BigInt(process.getgid!()),
  getegid: (answer) => answer === BigInt(process.getegid!()),
  sched_yield: (answer) => answer === 0n,
};
export const HARMLESS_CALLS = Object.keys(HARMLESS) as SyscallName[];
const ENOSYS = 38n;

export interface Probe {
  readonly nr: number;
  readonly args: readonly bigint[];
}

export interface Outcome {
  readonly ending: "returned" | "trapped" | "thread killed" | "process killed";
  /** What the call returned, or the signal's data. */
  readonly value: bigint;
}

const ENDINGS = ["returned", "trapped", "thread killed", "process killed"] as const;

/** The program, compiled once. */
export interface Judge extends Disposable {
  /** What becomes of the calls under each of the filters. */
  ask(programs: readonly Uint8Array[], probes: readonly Probe[]): Outcome[][];
}

export function judge(): Judge {
  const directory = mkdtempSync(join(tmpdir(), "caisson-verdict-"));
  chmodSync(directory, 0o755);
  const program = join(directory, "verdict");
  const source = fileURLToPath(new URL("../fixtures/verdict.c", import.meta.url));
  const { exitCode, stderr } = Bun.spawnSync([cc!, "-O1", "-pthread", "-o", program, source]);
  if (exitCode !== 0) throw new Error(stderr.toString());
  return {
    ask: (programs, probes) => {
      const { exitCode, stdout, stderr } = Bun.spawnSync([program], { stdin: question(programs, probes) });
      if (exitCode !== 0) throw new Error(`verdict.c ended with ${exitCode}: ${stderr}`);
      return answers(stdout, programs.length, probes.length);
    },
    [Symbol.dispose]: () => rmSync(directory, { recursive: true }),
  };
}

function question(programs: readonly Uint8Array[], probes: readonly Probe[]): Uint8Array {
  const calls = probes.flatMap(({ nr, args }) => [BigInt(nr), ...Array.from({ length: 6 }, (_, at) => args[at] ?? 0n)]);
  const words = (...some: bigint[]) => new Uint8Array(BigUint64Array.from(some).buffer);
  return Buffer.concat([
    words(BigInt(programs.length)),
    ...programs.flatMap((program) => [
      words(BigInt(program.length / 8)),
      program,
      words(BigInt(probes.length), ...calls),
    ]),
  ]);
}

function answers(bytes: Uint8Array, programs: number, probes: number): Outcome[][] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const outcome = (at: number): Outcome => ({
    ending: ENDINGS[Number(view.getBigUint64(16 * at, true))]!,
    value: view.getBigInt64(16 * at + 8, true),
  });
  return Array.from({ length: programs }, (_, program) =>
    Array.from({ length: probes }, (_, probe) => outcome(program * probes + probe)),
  );
}

/** Whether the kernel did what the filter's result says. Nobody traces and nobody listens, so both of these answer ENOSYS. */
export function isOutcome(result: number, nr: number, { ending, value }: Outcome): boolean {
  const data = result & SECCOMP_RET.DATA;
  const returned = ending === "returned";
  switch ((result & SECCOMP_RET.ACTION_FULL) >>> 0) {
    case SECCOMP_RET.KILL_PROCESS:
      return ending === "process killed";
    case SECCOMP_RET.KILL_THREAD:
      return ending === "thread killed";
    case SECCOMP_RET.TRAP:
      return ending === "trapped" && value === BigInt(data);
    case SECCOMP_RET.ERRNO:
      return returned && value === -BigInt(data);
    case SECCOMP_RET.USER_NOTIF:
    case SECCOMP_RET.TRACE:
      return returned && value === -ENOSYS;
    default:
      return returned && natural(nr, value);
  }
}

function natural(nr: number, value: bigint): boolean {
  const call = HARMLESS_CALLS.find((name) => (NUMBERS[MACHINE] as Partial<Record<SyscallName, number>>)[name] === nr);
  return call === undefined ? value === -ENOSYS : HARMLESS[call]!(value);
}
