/** A process that has no descriptor left: what it has open stays open, and no number is free for more. */
import { self } from "../../syscalls/kernel.ts";
import { RLIMIT } from "../../syscalls/linux/numbers.ts";
import { getLimit } from "../../syscalls/linux/process.ts";

/** From here on everything that opens gets EMFILE, until what it returns is disposed of. */
export function starve(): Disposable {
  const { soft, hard } = getLimit(self, "NOFILE");
  const limit = (most: bigint) =>
    self.call("prlimit64", 0, RLIMIT.NOFILE, new Uint8Array(BigUint64Array.of(most, hard).buffer), null);
  limit(0n);
  return { [Symbol.dispose]: () => limit(soft) };
}
