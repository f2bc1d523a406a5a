/** The contestant as an actor of caisson. */
import { inbox, send } from "caisson/actor";
import { SMALL, work } from "./work.ts";

export const { add, echo, length, bytes } = work;

const messages = inbox[Symbol.asyncIterator]();

/** Takes so many messages of the inbox. */
export async function pour(count: number): Promise<void> {
  for (let left = count; left > 0; left--) await messages.next();
}

/** Sends so many messages. */
export async function draw(count: number): Promise<void> {
  for (let left = count; left > 0; left--) await send(SMALL);
}
