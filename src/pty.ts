/** The host's end of a pair of terminals, of which a program has the other. */
import { self } from "../syscalls/kernel.ts";
import { setWindowSize, type WindowSize } from "../syscalls/linux/terminal.ts";
import { Pipe } from "./pipe.ts";

/**
 * Reads what the program prints, until no process has its end open any more, and writes what a person would type. Closing it hangs the
 * terminal up: the leader of its session gets SIGHUP.
 */
export class Pty extends Pipe {
  /** Tells the program a new size; once the terminal is closed there is nobody to tell. */
  resize(size: WindowSize): void {
    if (!this.closed) setWindowSize(self, this.number, size);
  }
}
