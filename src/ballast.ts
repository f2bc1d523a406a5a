/** Memory that an actor keeps for one thing: to tell of an error when it has used up all other. */
import { self } from "../syscalls/kernel.ts";
import { MAP, PROT } from "../syscalls/linux/numbers.ts";

/** More than the thorough half of the codec takes, which the first error that is sent loads. */
const BALLAST = 4 * 2 ** 20;

let address: number | undefined;

/** From here on it counts for RLIMIT_DATA, and for nothing else: nobody touches it. */
export function keepBallast(): void {
  address = self.call("mmap", null, BALLAST, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0);
}

/** Leaves it to whoever asks for memory next. */
export function dropBallast(): void {
  if (address !== undefined) self.call("munmap", address, BALLAST);
  address = undefined;
}
