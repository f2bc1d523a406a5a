/** The terminal of whoever runs us, while a program inside has it: raw, and as it was before whenever we stop or end. */
import { Descriptor } from "../syscalls/descriptor.ts";
import { SystemError } from "../syscalls/error.ts";
import { self } from "../syscalls/kernel.ts";
import { open } from "../syscalls/linux/file.ts";
import { F, O, SIG } from "../syscalls/linux/numbers.ts";
import {
  type Modes,
  rawModes,
  setTerminalModes,
  terminalModes,
  type WindowSize,
  windowSize,
} from "../syscalls/linux/terminal.ts";
import { ready, type Wait } from "../syscalls/ready.ts";

/** The signals that end us, unless somebody else takes care of them. */
const ENDINGS = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"] as const;

/** Of a terminal that does not say its size, as a serial line or one that nobody told. */
const USUAL: WindowSize = { columns: 80, rows: 24 };

/** What a person does at the terminal. */
export interface Person {
  /** Types. Further bytes wait for what this returns. */
  types(bytes: Uint8Array): void | Promise<void>;
  /** Makes the window another size. */
  resizes?(size: WindowSize): void;
  /** Is about to have the shell's prompt: what is on the screen goes now. */
  leaves?(): void;
}

/** At most one at a time. Modes are set by calls of our own: `process.stdin` keeps state of its own, and would read ahead. */
export class Foreground implements Disposable {
  readonly #terminal: number;
  readonly #person: Person;
  readonly #modes: Modes;
  readonly #input: Descriptor;
  #raw = false;
  #reading = false;
  #wait: Wait | undefined;

  /** @param terminal a descriptor, which stays the caller's */
  constructor(person: Person, terminal = 0) {
    this.#terminal = terminal;
    this.#person = person;
    this.#modes = terminalModes(self, terminal);
    this.#input = openInput(terminal);
    process.on("exit", this.#restore);
    process.on("SIGWINCH", this.#resize);
    process.on("SIGTSTP", this.#suspend);
    process.on("SIGCONT", this.#continue);
    for (const name of ENDINGS) process.on(name, this.#end);
  }

  get size(): WindowSize {
    const told = windowSize(self, this.#terminal);
    return told.columns > 0 && told.rows > 0 ? told : USUAL;
  }

  /** From here on what is typed goes to `person.types` as it is, Ctrl-C and Ctrl-Z too. */
  raw(): void {
    this.#set(rawModes(this.#modes));
    this.#raw = true;
    void this.#read();
  }

  /** Gives the terminal the modes that it had, and reads no more. */
  restore(): void {
    if (!this.#raw) return;
    this.#raw = false;
    this.#wait?.cancel();
    this.#wait = undefined;
    this.#set(this.#modes);
  }

  /**
   * Restores the terminal and stops our process group, as Ctrl-Z would, so that the shell has its prompt. Returns, raw again, when the shell
   * continues us; at once where no shell could.
   */
  suspend(): void {
    this.#person.leaves?.();
    this.restore();
    process.off("SIGTSTP", this.#suspend);
    // Not SIGSTOP: of this one the kernel spares groups that nobody would continue.
    self.call("kill", 0, SIG.TSTP);
    process.on("SIGTSTP", this.#suspend);
    this.raw();
    this.#resize();
  }

  /** Restores the terminal for good. */
  [Symbol.dispose](): void {
    this.restore();
    this.#input.close();
    process.off("exit", this.#restore);
    process.off("SIGWINCH", this.#resize);
    process.off("SIGTSTP", this.#suspend);
    process.off("SIGCONT", this.#continue);
    for (const name of ENDINGS) process.off(name, this.#end);
  }

  readonly #restore = (): void => this.restore();
  readonly #suspend = (): void => this.suspend();
  readonly #resize = (): void => this.#person.resizes?.(this.size);

  /** After a SIGSTOP the shell may have changed the modes. */
  readonly #continue = (): void => {
    if (this.#raw) this.raw();
  };

  readonly #end = (name: NodeJS.Signals): void => {
    this.restore();
    if (process.listenerCount(name) > 1) return;
    process.off(name, this.#end);
    process.kill(process.pid, name);
  };

  async #read(): Promise<void> {
    if (this.#reading) return;
    this.#reading = true;
    const bytes = new Uint8Array(4096);
    while (this.#raw) {
      const wait = ready(this.#input.number, "read");
      this.#wait = wait;
      await wait.done;
      if (this.#wait !== wait) continue;
      const length = this.#take(bytes);
      if (length === 0) break;
      if (length !== undefined) await this.#person.types(bytes.slice(0, length));
    }
    this.#reading = false;
  }

  /** The bytes read: 0 once the terminal is hung up, undefined where another process was faster. */
  #take(bytes: Uint8Array): number | undefined {
    try {
      return self.call("read", this.#input.number, bytes, bytes.length);
    } catch (error) {
      if (error instanceof SystemError && error.code === "EAGAIN") return undefined;
      if (error instanceof SystemError && error.code === "EIO") return 0;
      throw error;
    }
  }

  #set(modes: Modes): void {
    try {
      setTerminalModes(self, this.#terminal, modes);
    } catch (error) {
      // A terminal that was hung up has nothing to restore.
      if (!(error instanceof SystemError && error.code === "EIO")) throw error;
    }
  }
}

/**
 * The terminal opened anew, to read without blocking: the shell shares the open file that we were given. After su(1) it cannot be opened; then
 * a read would block if another process took what was typed.
 */
function openInput(terminal: number): Descriptor {
  try {
    return new Descriptor(open(self, `/proc/self/fd/${terminal}`, O.RDONLY | O.NOCTTY | O.NONBLOCK | O.CLOEXEC));
  } catch {
    return new Descriptor(self.call("fcntl", terminal, F.DUPFD_CLOEXEC, 0));
  }
}
