/** Memory that an actor keeps for one thing: to tell of an error when it has used up all other. */
import { self } from "../syscalls/kernel.ts";
import { MAP, PROT } from "../syscalls/linux/numbers.ts";

/** More than the thorough half of the codec takes, which the first error that is sent loads. */
const BALLAST = 4 * 2 ** 20;

/** Takes it: it counts for RLIMIT_DATA, and for nothing else, for nobody touches it. Returns what leaves it to whoever asks for memory next. */
export function keepBallast(): () => void {
  const address = self.call("mmap", null, BALLAST, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0);
  let kept = true;
  return () => {
    if (kept) self.call("munmap", address, BALLAST);
    kept = false; // it may be somebody else's next time
  };
}
