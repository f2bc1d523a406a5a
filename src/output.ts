/** What an actor prints: a stream for the host's program, or lines passed on, made harmless. */
import { belongs, UNSEEN } from "./unseen.ts";

/** The longest line that is passed on; a longer one is cut into several. */
const LINE = 8192;
/** What is passed on of one stream, in characters printed; the rest is dropped, and said to be. */
const TOTAL = 16 * 2 ** 20;
/** What a line costs beside its characters: to print an empty one takes as long as to print some hundred of those. */
const LINE_COST = 128;

/** Text without what a terminal acts on or does not show: control characters other than tab, marks that turn the direction of writing, what is not seen. */
export function harmless(text: string): string {
  return text.replace(UNSEEN, (character, at: number) => {
    if (belongs(text, at)) return character;
    const code = character.codePointAt(0)!.toString(16);
    if (code.length > 4) return `\\u{${code}}`;
    return code.length > 2 ? `\\u${code.padStart(4, "0")}` : `\\x${code.padStart(2, "0")}`;
  });
}

/** Passes lines on, each with the name that the actor has by then. Holds one line at most. */
export function passOn(
  name: () => string,
  print: (line: string) => void,
): { push(bytes: Uint8Array): void; end(): void } {
  const decoder = new TextDecoder();
  let line = "";
  let total = 0;
  const put = (text: string) => {
    if (total > TOTAL) return;
    const label = `[${harmless(name())}] `;
    const printed = label + harmless(text);
    print(printed);
    total += printed.length + LINE_COST;
    if (total > TOTAL) print(`${label}... what follows ${TOTAL} characters is dropped`);
  };
  const take = (text: string) => {
    line += text;
    for (let end = line.indexOf("\n"); total <= TOTAL && (end >= 0 || line.length > LINE); end = line.indexOf("\n")) {
      const cut = end < 0 || end > LINE ? LINE : end;
      put(line.slice(0, cut).replace(/\r$/, ""));
      line = line.slice(cut === end ? cut + 1 : cut);
    }
  };
  return {
    push(bytes) {
      if (total <= TOTAL) take(decoder.decode(bytes, { stream: true }));
    },
    end() {
      take(decoder.decode());
      if (line !== "") put(line);
      line = "";
    },
  };
}

/** Reads a socket into a stream, no faster than the stream is read, which gets as much of it as `allow` gives on. */
export function streamOf(socket: number, allow: (bytes: Uint8Array) => Uint8Array): ReadableStream<Uint8Array> {
  let source: { pause(): void; resume(): void } | undefined;
  let paused = false;
  let over = false;
  return new ReadableStream<Uint8Array>({
    start(controller) {
      listen(socket, {
        open: (opened) => {
          source = opened;
        },
        data: (bytes) => {
          const allowed = allow(bytes);
          if (over || allowed.length === 0) return;
          controller.enqueue(allowed);
          if (controller.desiredSize! > 0 || paused) return;
          paused = true;
          source?.pause();
        },
        close: () => {
          if (!over) controller.close();
          over = true;
        },
      });
    },
    pull() {
      if (!paused) return;
      paused = false;
      source?.resume();
    },
    cancel() {
      over = true;
      source?.resume(); // what still comes is read and dropped, so that the actor does not wait for a reader
    },
  });
}

interface Listener {
  open?(socket: { pause(): void; resume(): void }): void;
  data(bytes: Uint8Array): void;
  close(): void;
}

/** Has the event loop read a socket, which it then owns. */
export function listen(fd: number, listener: Listener): void {
  const handlers = {
    open: (socket: { pause(): void; resume(): void }) => listener.open?.(socket),
    data: (_: unknown, bytes: Uint8Array) => listener.data(bytes),
    close: () => listener.close(),
  };
  // The types of Bun.connect do not know that a descriptor will do.
  void Bun.connect({ fd, socket: handlers } as never);
}
