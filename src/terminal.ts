/** Our own standard output and error: raw bytes where a program reads them, harmless text where a terminal does. */
import { isatty } from "node:tty";
import { harmless } from "./output.ts";

export type Standard = 1 | 2;

/**
 * Passes a stream on as it comes, no faster than it is taken. Rejects when nobody takes it any more.
 * @param text what makes it harmless where it goes to a terminal
 */
export async function passThrough(
  stream: ReadableStream<Uint8Array>,
  to: Standard,
  text: Pick<TerminalText, "push" | "end"> = new TerminalText(),
): Promise<void> {
  const put = writerOf(to);
  if (!isatty(to)) {
    for await (const bytes of stream) await put(bytes);
    return;
  }
  for await (const bytes of stream) await put(text.push(bytes));
  await put(text.end());
}

/** Writes lines of our own, which may quote those of others. */
export async function say(text: string, to: Standard = 2): Promise<void> {
  const lines = isatty(to) ? text.split("\n").map(harmless).join("\n") : text;
  // Where the stream is gone, nobody is left to be told.
  await writerOf(to)(`${lines}\n`).catch(() => {});
}

/** Writes to one of our streams as it is, no faster than it is taken. Rejects when nobody takes it any more. */
export function writerOf(to: Standard): (data: string | Uint8Array) => Promise<void> {
  const sink = (to === 1 ? Bun.stdout : Bun.stderr).writer();
  return async (data) => {
    if (data.length === 0) return;
    await sink.write(data); // a promise where the kernel did not take all
    await sink.flush();
  };
}

/** An escape sequence or line end of which the rest may still come. */
const BEGUN = /(?:\x1b(?:\[[\d;]{0,32})?|\r)$/;
/** What reaches the terminal as it is: colours, and ends of lines. */
const KEPT = /(\x1b\[[\d;]{0,32}m|\r?\n)/;

/** A stream of bytes as text on which a terminal does nothing but colour it. Holds no more than the beginning of an escape sequence. */
export class TerminalText {
  readonly #decoder = new TextDecoder();
  #begun = "";
  #coloured = false;

  push(bytes: Uint8Array): string {
    return this.#take(this.#decoder.decode(bytes, { stream: true }));
  }

  /** What was held back, and the terminal's own colours again. */
  end(): string {
    const rest = this.#take(this.#decoder.decode()) + harmless(this.#begun);
    this.#begun = "";
    return this.#coloured ? `${rest}\x1b[0m` : rest;
  }

  #take(more: string): string {
    const text = this.#begun + more;
    this.#begun = BEGUN.exec(text)?.[0] ?? "";
    const pieces = text.slice(0, text.length - this.#begun.length).split(KEPT);
    return pieces.map((piece, index) => (index % 2 === 0 ? harmless(piece) : this.#keep(piece))).join("");
  }

  #keep(piece: string): string {
    if (piece.endsWith("\n")) return "\n";
    this.#coloured = true;
    return piece;
  }
}
