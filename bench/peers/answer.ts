/** The contestant where a channel only carries messages: an array is a call, anything else is poured. */
import { type Name, SMALL, work } from "./work.ts";

export type Request = [name: Name, ...args: unknown[]] | [name: "pour" | "draw", count: number];

/** Answers in the order of the requests, without names or numbers: less than a program could live with. */
export function answer(send: (message: unknown) => void): (message: unknown) => void {
  let left = 0;
  return (message) => {
    if (!Array.isArray(message)) {
      if (--left === 0) send(null);
      return;
    }
    const [name, ...args] = message as Request;
    if (name === "pour") left = args[0] as number;
    else if (name === "draw") for (let count = args[0] as number; count > 0; count--) send(SMALL);
    else send((work[name] as (...args: unknown[]) => unknown)(...args));
  };
}
