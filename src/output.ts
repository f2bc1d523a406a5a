/** What an actor prints: a stream for the host's program, or text made harmless. */
import type { LimitExceeded } from "./error.ts";
import { belongs, UNSEEN } from "./unseen.ts";

/** Text without what a terminal acts on or does not show: control characters other than tab, marks that turn the direction of writing, what is not seen. */
export function harmless(text: string): string {
  return text.replace(UNSEEN, (character, at: number) => {
    if (belongs(text, at)) return character;
    const code = character.codePointAt(0)!.toString(16);
    if (code.length > 4) return `\\u{${code}}`;
    return code.length > 2 ? `\\u${code.padStart(4, "0")}` : `\\x${code.padStart(2, "0")}`;
  });
}

/** Counts what comes, and says what of it is given on. */
export type Allow = (bytes: Uint8Array) => {
  readonly given: Uint8Array;
  /** Why the rest is not, where nothing else tells. */
  readonly lost?: LimitExceeded | undefined;
};

/**
 * Reads a socket into a stream, no faster than the stream is read, which gets as much of it as `allow` gives on. Where what is lost is told nowhere else,
 * the stream fails with that, behind what was given.
 */
export function streamOf(socket: number, allow: Allow): ReadableStream<Uint8Array> {
  let source: Source | undefined;
  let paused = false;
  let over = false;
  let failure: LimitExceeded | undefined;
  return new ReadableStream<Uint8Array>({
    start(controller) {
      listen(socket, {
        open: (opened) => {
          source = opened;
        },
        data: (bytes) => {
          const { given, lost } = allow(bytes);
          if (over) return;
          if (given.length > 0) controller.enqueue(given);
          if (lost !== undefined) {
            over = true;
            // An error takes the place of what is still to be read.
            if (controller.desiredSize! > 0) controller.error(lost);
            else failure = lost;
          } else if (controller.desiredSize! <= 0 && !paused) {
            paused = true;
            source?.pause();
          }
        },
        close: () => {
          if (!over) controller.close();
          over = true;
        },
      });
    },
    pull(controller) {
      if (failure !== undefined) controller.error(failure);
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

/** What is read until it is paused. */
export interface Source {
  pause(): void;
  resume(): void;
}

export interface Listener {
  open?(source: Source): void;
  data(bytes: Uint8Array): void;
  close(): void;
}

/** Has the event loop read a socket, which it then owns. */
export function listen(fd: number, listener: Listener): void {
  const handlers = {
    open: (socket: Source) => listener.open?.(socket),
    data: (_: unknown, bytes: Uint8Array) => listener.data(bytes),
    close: () => listener.close(),
  };
  // The types of Bun.connect do not know that a descriptor will do.
  void Bun.connect({ fd, socket: handlers } as never);
}
