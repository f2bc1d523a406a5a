/** Lines that an actor prints, passed on: each with its name, and made harmless. */
import type { Pace } from "../platform/pace.ts";
import { type Allow, harmless, type Listener, listen, type Source } from "./output.ts";

/** The longest line that is passed on; a longer one is cut into several. */
const LINE = 8192;
/** What is passed on of one stream, in characters printed; the rest is dropped, and said to be. */
const TOTAL = 16 * 2 ** 20;
/** What a line costs beside its characters: to print an empty one takes as long as to print some hundred of those. */
const LINE_COST = 128;

/** How lines are passed on. */
export interface Passing {
  /** What the actor is called by then. */
  readonly name: () => string;
  readonly print: (line: string) => void;
  readonly allow: Allow;
  /** Over whose turns many lines are spread. */
  readonly pace: Pace;
}

/** Passes on the lines that come from a socket, which it then owns. */
export function passOn(socket: number, how: Passing): void {
  listen(socket, new Passage(how));
}

/** What passes from a socket to who prints. Holds one line and what one read took, at most: where lines wait for a turn, the kernel keeps what follows. */
class Passage implements Listener {
  readonly #how: Passing;
  readonly #decoder = new TextDecoder();
  #source: Source | undefined;
  /** What is not passed on yet. */
  #text = "";
  #total = 0;
  #waits = false;
  #closed = false;
  /** By which limit the rest is dropped, where its exit does not tell. */
  #dropped: string | undefined;

  constructor(how: Passing) {
    this.#how = how;
  }

  open(source: Source): void {
    this.#source = source;
  }

  data(bytes: Uint8Array): void {
    const { given, lost } = this.#how.allow(bytes);
    this.#dropped ??= lost?.limit;
    this.#text += this.#decoder.decode(given, { stream: true });
    this.#begin();
  }

  close(): void {
    this.#closed = true;
    this.#text += this.#decoder.decode();
    this.#begin();
  }

  #begin(): void {
    if (this.#waits) return;
    if (this.#how.pace.admits()) this.#work();
    else this.#wait();
  }

  /** Passes a line on, and more until this turn is over. */
  #work(): void {
    do {
      const line = this.#next();
      if (line === undefined) return;
      this.#put(line);
    } while (this.#how.pace.admits());
    this.#wait();
  }

  #wait(): void {
    this.#waits = true;
    this.#source?.pause();
    this.#how.pace.wait(() => {
      this.#waits = false;
      this.#work();
      if (!this.#waits) this.#source?.resume();
    });
  }

  /** What is to be printed next, if there is anything. */
  #next(): string | undefined {
    if (this.#total > TOTAL) {
      this.#text = "";
      return undefined;
    }
    const end = this.#text.slice(0, LINE + 1).indexOf("\n");
    if (end >= 0 || this.#text.length > LINE) {
      const cut = end < 0 ? LINE : end;
      const line = this.#text.slice(0, cut).replace(/\r$/, "");
      this.#text = this.#text.slice(end < 0 ? cut : cut + 1);
      return harmless(line);
    }
    return this.#closed ? this.#last() : undefined;
  }

  /** What nothing ended, and then what is missing. */
  #last(): string | undefined {
    const text = this.#text;
    this.#text = "";
    if (text !== "") return harmless(text);
    const dropped = this.#dropped;
    this.#dropped = undefined;
    return dropped && `... what follows is dropped: it reached its limit ${dropped}`;
  }

  #put(line: string): void {
    const { name, print } = this.#how;
    const label = `[${harmless(name())}] `;
    const printed = label + line;
    print(printed);
    this.#total += printed.length + LINE_COST;
    if (this.#total > TOTAL) print(`${label}... what follows ${TOTAL} characters is dropped`);
  }
}
