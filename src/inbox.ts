/** What a module sees of its host: `caisson/actor`. */
import type { Incoming } from "./answers.ts";
import type { Channel } from "./channel.ts";

export type { FileCapability, Mode, NetworkCapability } from "./capability.ts";
export type { Connection } from "./connection.ts";

let channel: Channel | undefined;
let answering: Incoming | undefined;

function host(): Channel {
  if (channel === undefined)
    throw new Error("Cannot reach a host: caisson/actor works inside an actor only, see spawn() of caisson");
  return channel;
}

/** The messages that the host sends, in order. Ends when the host sends no more. */
export const inbox: AsyncIterable<unknown> = {
  [Symbol.asyncIterator]: () => host()[Symbol.asyncIterator](),
};

/** Sends a message to the host. Resolves when there was room for it, which is how the host slows an actor down. */
export function send(message: unknown): Promise<void> {
  return host().send(message);
}

/**
 * The signal of the call being answered: it aborts when the host no longer waits for the answer. To be asked for before the
 * function's first `await`.
 */
export function signal(): AbortSignal {
  if (answering === undefined)
    throw new Error("Cannot find the call: signal() is to be called before a function's first await");
  return answering.signal;
}

/** Joins this module to the channel: the boot file does it once. */
export function join(to: Channel): void {
  channel = to;
}

/** Runs a function of the module as the answer to a call. */
export function answer(call: Incoming, run: () => unknown): unknown {
  answering = call;
  try {
    return run();
  } finally {
    answering = undefined;
  }
}
