/** A picture on the whole terminal that is drawn again and again, until somebody has seen enough. */
import { constants } from "node:os";
import { self } from "../syscalls/kernel.ts";
import type { WindowSize } from "../syscalls/linux/terminal.ts";
import { Foreground } from "./foreground.ts";
import { CODE, ENDINGS, type Ending } from "./status.ts";
import { writerOf } from "./terminal.ts";

/** The other screen, no cursor, no wrapping; and all of it back. */
const ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const [CTRL_C, CTRL_Z] = ["\x03", "\x1a"];
/** One key: what the arrows send, or a character. */
const KEYS = /\x1b[[O][A-D]|./gs;

export interface Picture {
  /** Its lines, of which as many are drawn as there is room for. They must be harmless, and fit. */
  lines(size: WindowSize): readonly string[];
  /** Takes a key that is not for quitting (q, Ctrl-C) or stopping (Ctrl-Z). */
  key(key: string): void;
}

/** Has the terminal of standard input and output. */
export class Live implements Disposable {
  /** Settles when somebody quits, or a signal asks for it: with the exit code. */
  readonly ended: Promise<number>;
  readonly #end: (code: number) => void;
  readonly #picture: Picture;
  readonly #foreground: Foreground;
  readonly #write = writerOf(1);
  #entered = false;
  #writing = false;
  #stale = false;

  constructor(picture: Picture) {
    this.#picture = picture;
    const { promise, resolve } = Promise.withResolvers<number>();
    this.ended = promise;
    this.#end = resolve;
    process.on("exit", this.#leave);
    // The foreground leaves these to us, then.
    for (const name of ENDINGS) process.on(name, this.#quit);
    this.#foreground = new Foreground({
      types: (bytes) => this.#types(bytes),
      resizes: () => this.draw(),
      leaves: this.#leave,
    });
    this.#foreground.raw();
    this.draw();
  }

  /** Draws it as it is now; while the terminal has not taken the one before, later. */
  draw(): void {
    this.#stale = true;
    if (!this.#writing) void this.#draw();
  }

  [Symbol.dispose](): void {
    this.#leave();
    this.#foreground[Symbol.dispose]();
    process.off("exit", this.#leave);
    for (const name of ENDINGS) process.off(name, this.#quit);
  }

  async #draw(): Promise<void> {
    this.#writing = true;
    try {
      while (this.#stale) {
        this.#stale = false;
        await this.#write(this.#frame());
      }
    } catch {
      this.#end(CODE.uncaught); // the terminal is gone
    }
    this.#writing = false;
  }

  #frame(): string {
    const { size } = this.#foreground;
    const lines = this.#picture.lines(size).slice(0, size.rows);
    const enter = this.#entered ? "" : ENTER;
    this.#entered = true;
    // At once, where the terminal can: no half of it is seen.
    return `${enter}\x1b[?2026h\x1b[H${lines.map((line) => `${line}\x1b[K`).join("\r\n")}\x1b[J\x1b[?2026l`;
  }

  #types(bytes: Uint8Array): void {
    for (const [key] of Buffer.from(bytes).toString().matchAll(KEYS)) {
      if (key === "q" || key === "Q" || key === CTRL_C) this.#end(0);
      else if (key === CTRL_Z) this.#foreground.suspend();
      else this.#picture.key(key);
    }
    this.draw();
  }

  readonly #quit = (name: Ending): void => this.#end(CODE.signal + constants.signals[name]);

  /** Gives the screen back, at once: the process may be about to stop. */
  readonly #leave = (): void => {
    if (!this.#entered) return;
    this.#entered = false;
    try {
      self.call("write", 1, new TextEncoder().encode(LEAVE), LEAVE.length);
    } catch {
      // A terminal that is gone has nothing to give back.
    }
  };
}
