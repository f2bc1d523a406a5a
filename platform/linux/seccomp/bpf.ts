/** A tree of decisions as a program of classic BPF, the kernel's `struct sock_filter[]`. */
import { BPF } from "../../../syscalls/linux/numbers.ts";
import { FULL } from "./known.ts";
import type { Branch, Decision } from "./tree.ts";

/** struct sock_filter. */
export interface Instruction {
  readonly code: number;
  readonly jt: number;
  readonly jf: number;
  readonly k: number;
}

export const SIZE = 8; // __u16 code, __u8 jt, __u8 jf, __u32 k
const CODE = {
  load: BPF.LD | BPF.W | BPF.ABS,
  and: BPF.ALU | BPF.AND | BPF.K,
  jump: BPF.JMP | BPF.JA,
  return: BPF.RET | BPF.K,
  eq: BPF.JMP | BPF.JEQ | BPF.K,
  ge: BPF.JMP | BPF.JGE | BPF.K,
  set: BPF.JMP | BPF.JSET | BPF.K,
} as const;
const FARTHEST = 255;

/** Where an instruction is, counted from the end of the program. */
type Label = number;

/** How much of a decision's preparation is left to do for who comes to it. */
const STEPS = { none: 0, mask: 1, load: 2 } as const;

/** Instructions from the first to the last. There may be more of them than the kernel takes. */
export function assemble(root: Decision): readonly Instruction[] {
  const out = new Assembler();
  const decisions = ordered(root);
  const needs = needed(root, decisions);
  const labels = new Map<Decision, Label>();
  const way = (from: Branch, to: Decision): Label => {
    const label = labels.get(to)!;
    return "result" in to ? label : label + steps(from, to);
  };
  for (const decision of decisions) {
    if ("result" in decision) {
      labels.set(decision, out.write({ code: CODE.return, jt: 0, jf: 0, k: decision.result }));
      continue;
    }
    const { op, value, word, mask } = decision;
    labels.set(decision, out.branch(CODE[op], value, [way(decision, decision.yes), way(decision, decision.no)]));
    const need = needs.get(decision)!;
    if (need >= STEPS.mask && mask !== FULL) out.write({ code: CODE.and, jt: 0, jf: 0, k: mask });
    if (need === STEPS.load) out.write({ code: CODE.load, jt: 0, jf: 0, k: word });
  }
  return out.program();
}

/** What stands before the branch of `to`, seen from its end, for who has answered `from`: nothing where the word is there already. */
function steps(from: Branch, to: Branch): number {
  const need = needOf(from, to);
  return to.mask === FULL ? Math.max(0, need - 1) : need;
}

function needOf(from: Branch, to: Branch): number {
  if (from.word !== to.word) return STEPS.load;
  if (from.mask === to.mask) return STEPS.none;
  return from.mask === FULL ? STEPS.mask : STEPS.load;
}

/** For each decision the most that one of those before it needs. */
function needed(root: Decision, decisions: Iterable<Decision>): Map<Decision, number> {
  const needs = new Map<Decision, number>([[root, STEPS.load]]);
  for (const from of decisions) {
    if ("result" in from) continue;
    for (const to of [from.yes, from.no]) {
      if (!("result" in to)) needs.set(to, Math.max(needs.get(to) ?? STEPS.none, needOf(from, to)));
    }
  }
  return needs;
}

/** Each behind both ways on. The way that was made later comes last, so it needs no jump: it is the next test of a list. */
function ordered(root: Decision): ReadonlySet<Decision> {
  const done = new Set<Decision>();
  const stack = [root];
  for (let next = stack.at(-1); next !== undefined; next = stack.at(-1)) {
    const open = "result" in next ? undefined : firstOpen(next, done);
    if (open === undefined) done.add(stack.pop()!);
    else stack.push(open);
  }
  return done;
}

function firstOpen({ yes, no }: Branch, done: ReadonlySet<Decision>): Decision | undefined {
  const [first, second] = yes.id < no.id ? [yes, no] : [no, yes];
  return !done.has(first) ? first : !done.has(second) ? second : undefined;
}

/** Writes a program from its last instruction to its first. Jumps lead forward only, so what one leads to is always there already. */
class Assembler {
  readonly #backward: Instruction[] = [];
  /** The last instruction written that does the same as that far one: a jump to it, or a return with the same result. */
  readonly #nearest = new Map<Label, Label>();

  write(instruction: Instruction): Label {
    return this.#backward.push(instruction) - 1;
  }

  /** Compares the loaded word. */
  branch(code: number, k: number, [yes, no]: readonly [yes: Label, no: Label]): Label {
    const otherwise = this.#within(FARTHEST - 1, no); // what `yes` may need pushes it one farther away
    const then = this.#within(FARTHEST, yes);
    return this.write({ code, jt: this.#distance(then), jf: this.#distance(otherwise), k });
  }

  program(): readonly Instruction[] {
    return this.#backward.toReversed();
  }

  /** How many instructions the next one would have to skip. */
  #distance(to: Label): number {
    return this.#backward.length - 1 - to;
  }

  /** The label, or one that is as good, at most so many instructions away. Conditional jumps have 8 bits for that. */
  #within(limit: number, label: Label): Label {
    const near = this.#nearest.get(label) ?? label;
    if (this.#distance(near) <= limit) return near;
    const there = this.#backward[label]!;
    const standIn = there.code === CODE.return ? there : { code: CODE.jump, jt: 0, jf: 0, k: this.#distance(label) };
    const here = this.write(standIn);
    this.#nearest.set(label, here);
    return here;
  }
}

export function encode(program: readonly Instruction[]): Uint8Array {
  const bytes = new Uint8Array(program.length * SIZE);
  const view = new DataView(bytes.buffer);
  for (const [index, { code, jt, jf, k }] of program.entries()) {
    view.setUint16(index * SIZE, code, true);
    view.setUint8(index * SIZE + 2, jt);
    view.setUint8(index * SIZE + 3, jf);
    view.setUint32(index * SIZE + 4, k, true);
  }
  return bytes;
}
