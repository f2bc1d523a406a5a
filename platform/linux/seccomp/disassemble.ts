/** Programs as text. */
import { errnoName } from "../../../syscalls/error.ts";
import { AUDIT_ARCH, type Machine, NUMBERS, SECCOMP_RET } from "../../../syscalls/linux/numbers.ts";
import type { Instruction } from "./bpf.ts";
import { MAX_ERRNO } from "./filter.ts";
import { ARCH, DATA } from "./tree.ts";
import { decode, followers, KINDS, type Kind } from "./verify.ts";

/** What is known where an instruction stands, whichever way led there: what is in the accumulator, and for which machine the call is. */
interface Context {
  readonly word?: number | undefined;
  readonly machine?: Machine | undefined;
}

/** The program as text, an instruction a line; with the names of what it compares, as far as it is plain what that is. */
export function disassemble(program: Uint8Array): string {
  const instructions = decode(program);
  const contexts: Context[] = [{}];
  const lines = instructions.map((instruction, at) => {
    const kind = KINDS.get(instruction.code);
    const context = contexts[at] ?? {};
    const text = kind === undefined ? unknown(instruction) : describe(kind, instruction, at);
    const note = kind === undefined ? undefined : named(kind, instruction, context);
    if (kind !== undefined) {
      for (const [index, next] of followers(kind, instruction, at).entries()) {
        const after = behind(kind, instruction, context, index === 0);
        contexts[next] = contexts[next] === undefined ? after : shared(contexts[next], after);
      }
    }
    return `${String(at).padStart(4)}  ${note === undefined ? text : `${text.padEnd(NOTES)} ; ${note}`}\n`;
  });
  return lines.join("");
}

/** The column of notes. */
const NOTES = 40;
const hex = (k: number) => `0x${k.toString(16)}`;
const unknown = ({ code, jt, jf, k }: Instruction) => `unknown ${hex(code)} ${jt} ${jf} ${hex(k)}`;

function describe(kind: Kind, { jt, jf, k }: Instruction, at: number): string {
  switch (kind.does) {
    case "load":
      return `load ${wordName(k)}`;
    case "length":
      return `${kind.register} = length`;
    case "constant":
      return `${kind.register} = ${hex(k)}`;
    case "recall":
      return `${kind.register} = memory[${k}]`;
    case "store":
      return `memory[${k}] = ${kind.register}`;
    case "compute":
      return `A ${kind.operator}= ${kind.by === "k" ? hex(k) : "X"}`;
    case "negate":
      return "A = -A";
    case "A to X":
      return "X = A";
    case "X to A":
      return "A = X";
    case "jump":
      return `goto ${at + 1 + k}`;
    case "branch":
      return `if ${kind.operator} ${kind.by === "k" ? hex(k) : "X"} goto ${at + 1 + jt} else ${at + 1 + jf}`;
    case "return":
      return `return ${kind.by === "A" ? "A" : resultName(k)}`;
  }
}

function wordName(k: number): string {
  if (k === DATA.nr) return "nr";
  if (k === DATA.arch) return "arch";
  if (k < DATA.low(0)) return k === 8 ? "instruction_pointer.low" : k === 12 ? "instruction_pointer.high" : hex(k);
  return `args[${(k - DATA.low(0)) >> 3}].${k & 4 ? "high" : "low"}`;
}

/** A result of a filter as users write actions, with what belongs to it. Which action it is, the kernel sees by the upper half alone. */
function resultName(result: number): string {
  const data = result & SECCOMP_RET.DATA;
  switch ((result & SECCOMP_RET.ACTION_FULL) >>> 0) {
    case SECCOMP_RET.ALLOW:
      return "allow";
    case SECCOMP_RET.LOG:
      return "log";
    case SECCOMP_RET.USER_NOTIF:
      return "notify";
    case SECCOMP_RET.KILL_PROCESS:
      return "kill-process";
    case SECCOMP_RET.KILL_THREAD:
      return "kill-thread";
    case SECCOMP_RET.ERRNO:
      return `errno ${errnoText(Math.min(data, MAX_ERRNO))}`;
    case SECCOMP_RET.TRAP:
      return data === 0 ? "trap" : `trap ${data}`;
    case SECCOMP_RET.TRACE:
      return `trace ${data}`;
    default:
      return `kill-process, for ${hex(result)} is no action`;
  }
}

function errnoText(errno: number): string {
  const name = errnoName(errno);
  return name.startsWith("E") ? name : `${errno}`;
}

/** What the number means that an instruction compares with. */
function named(kind: Kind, { k }: Instruction, { word, machine }: Context): string | undefined {
  if (kind.does !== "branch" || kind.by !== "k") return undefined;
  if (word === DATA.arch) return Object.entries(AUDIT_ARCH).find(([, arch]) => arch === k)?.[0];
  if (word !== DATA.nr || machine === undefined || kind.operator === "&") return undefined;
  return Object.entries(NUMBERS[machine]).find(([, number]) => number === k)?.[0];
}

function behind(kind: Kind, { k }: Instruction, context: Context, yes: boolean): Context {
  const { word, machine } = context;
  if (kind.does === "load") return { machine, word: k };
  if (kind.does === "branch" && kind.by === "k" && kind.operator === "==" && word === DATA.arch && yes) {
    return { word, machine: k === ARCH.x64 ? "x64" : k === ARCH.arm64 ? "arm64" : undefined };
  }
  const keeps = kind.does === "branch" || kind.does === "jump" || kind.does === "store" || kind.does === "A to X";
  return keeps || ("register" in kind && kind.register === "X") ? context : { machine };
}

function shared(some: Context, other: Context): Context {
  return {
    word: some.word === other.word ? some.word : undefined,
    machine: some.machine === other.machine ? some.machine : undefined,
  };
}
