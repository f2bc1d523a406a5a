/** From rules to a program, in three steps that decide nothing else. */
import { BPF, NUMBERS } from "../../../syscalls/linux/numbers.ts";
import { assemble, encode } from "./bpf.ts";
import { type Filter, normalized } from "./filter.ts";
import { type Tree, treeOf } from "./tree.ts";

/**
 * The filter as an array of `struct sock_filter`. Calls for another machine are killed, and on x64 those with the x32 bit; calls that
 * are newer than the rules get the default. Throws TypeError or RangeError for a filter that makes no sense, and RangeError for one that
 * does not fit into 4096 instructions.
 *
 * Filters see a call's six arguments, not what they point to. `clone3` and `openat2` keep their flags in memory: a filter that decides on
 * those of `clone` and `openat` gives the newer calls `{ errno: "ENOSYS" }`, and callers take the older ones.
 */
export function compile(filter: Filter): Uint8Array {
  const tree = treeOf(normalized(filter));
  const program = assemble(tree.root);
  if (program.length > BPF.MAXINSNS) throw new RangeError(tooLong(filter, program.length, tree));
  return encode(program);
}

function tooLong({ machine }: Filter, length: number, { calls }: Tree): string {
  const costs = Object.entries(NUMBERS[machine]).flatMap(([name, number]) => {
    const decision = calls.get(number);
    return decision === undefined ? [] : [{ name, length: assemble(decision).length }];
  });
  const most = costs.sort((a, b) => b.length - a.length).slice(0, 3);
  return (
    `Cannot compile the filter: it needs ${length} instructions, ${BPF.MAXINSNS} are expected at most; ` +
    `the most are for ${most.map(({ name, length }) => `${name} (${length})`).join(", ")}: ` +
    "test fewer values there, or several at once by a mask or a range"
  );
}
