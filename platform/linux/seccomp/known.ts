/** Questions about the words of a call's data, what their answers say, and which further answers follow. */

/** A question about 32 bits: whether they are, as far as the mask goes, `value`; at least that; or have one of its bits. */
export interface Question {
  /** Where in struct seccomp_data. */
  readonly word: number;
  readonly mask: number;
  readonly op: "eq" | "ge" | "set";
  readonly value: number;
}

export const FULL = 0xffff_ffff;
export const isSingle = (mask: number) => (mask & (mask - 1)) === 0;

/** Of one word: between which numbers it is, and which of its bits are 1 and which 0. */
interface Range {
  readonly min: number;
  readonly max: number;
  readonly ones: number;
  readonly zeros: number;
}

/** By where the word is. Of one that is not there nothing is known. */
export type Known = ReadonlyMap<number, Range>;

const ANY: Range = { min: 0, max: FULL, ones: 0, zeros: 0 };

/** The answer, where it follows from what is known. */
export function told(known: Known, { word, mask, op, value }: Question): boolean | undefined {
  const { min, max, ones, zeros } = known.get(word) ?? ANY;
  if (op === "ge") return min >= value ? true : max < value ? false : undefined;
  if (op === "set") return (ones & value) !== 0 ? true : (~zeros & value) === 0 ? false : undefined;
  if ((value & zeros) !== 0 || (~value & mask & ones) !== 0) return false;
  if (mask === FULL && (value < min || value > max)) return false;
  return (~(ones | zeros) & mask) === 0 ? true : undefined;
}

/** What is known once a question has been answered so. */
export function learned(known: Known, question: Question, answer: boolean): Known {
  const before = known.get(question.word) ?? ANY;
  return new Map(known).set(question.word, settled({ ...before, ...news(before, question, answer) }));
}

function news({ min, max, ones, zeros }: Range, { mask, op, value }: Question, answer: boolean): Partial<Range> {
  if (op === "ge") return answer ? { min: Math.max(min, value) } : { max: Math.min(max, value - 1) };
  if (op === "set" && answer) return isSingle(value) ? { ones: ones | value } : {};
  if (op === "set") return { zeros: zeros | value };
  if (answer) return { ones: ones | value, zeros: zeros | (mask & ~value) };
  if (mask !== FULL) return {};
  return { min: min === value ? min + 1 : min, max: max === value ? max - 1 : max };
}

/** What the bits say about the number, and the number about its bits. */
function settled({ min, max, ones, zeros }: Range): Range {
  const least = Math.max(min, ones >>> 0);
  const most = Math.min(max, ~zeros >>> 0);
  if (least === most) return { min: least, max: most, ones: least, zeros: ~least };
  return { min: least, max: most, ones, zeros };
}

/** What is known either way. */
export function shared(some: Known, others: Known): Known {
  const both = new Map<number, Range>();
  for (const [word, { min, max, ones, zeros }] of some) {
    const other = others.get(word);
    if (other === undefined) continue;
    both.set(word, {
      min: Math.min(min, other.min),
      max: Math.max(max, other.max),
      ones: ones & other.ones,
      zeros: zeros & other.zeros,
    });
  }
  return both;
}
