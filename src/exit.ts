/** How an actor or a program ended. */
import { constants } from "node:os";
import type { Ended } from "../platform/index.ts";
import type { ProtocolViolation } from "./error.ts";
import type { Killer } from "./killer.ts";
import { HOST_GONE } from "./link.ts";
import { harmless } from "./output.ts";

/** The limits that end what reaches them. */
export type LimitName = "memory" | "cpuTime" | "wallTime" | "loadTime" | "output" | "disk";

/** How an actor ended, or a program, which does not throw and has no link to break. */
export type Exit =
  /** By itself: `process.exit`, or a script that was through. */
  | { readonly reason: "returned"; readonly code: number }
  /** By an error that nobody caught. What it threw is the actor's word, and plain data. */
  | { readonly reason: "threw"; readonly error: unknown }
  /** By a signal that the host did not send, such as `"SIGSEGV"` after a crash. */
  | { readonly reason: "signal"; readonly signal: string }
  | { readonly reason: "limit"; readonly limit: LimitName }
  /** By the host, because of what it sent. */
  | { readonly reason: "protocol"; readonly violation: ProtocolViolation }
  /** By the host: by `kill()`, the end of an `await using`, an AbortSignal, or what looks after it. */
  | { readonly reason: "killed"; readonly by: Killer }
  /** By itself, because the host let go of it: `disconnect()`. */
  | { readonly reason: "host gone" };

/** What the kernel's word on an end means, where the host knows no cause of its own. */
export function exitOf({ code, signal, limit }: Pick<Ended, "code" | "signal" | "limit">): Exit {
  if (limit !== undefined) return { reason: "limit", limit };
  if (code !== undefined) return { reason: "returned", code };
  const name = Object.entries(constants.signals).find(([, number]) => number === signal)?.[0];
  return { reason: "signal", signal: name ?? `signal ${signal}` };
}

/** How something ended of which the host noted causes before: by the first that the kernel bears out, for it may have ended by itself just then. */
export function exitBy(causes: readonly (Exit | undefined)[], ended: Pick<Ended, "code" | "signal" | "limit">): Exit {
  return causes.find((cause) => cause !== undefined && bearsOut(ended, cause)) ?? exitOf(ended);
}

function bearsOut({ code, signal, limit }: Pick<Ended, "code" | "signal" | "limit">, cause: Exit): boolean {
  // The host has seen these itself.
  if (cause.reason === "protocol" || (cause.reason === "limit" && cause.limit === "output")) return true;
  if (limit !== undefined) return false;
  const killed = signal === constants.signals.SIGKILL;
  switch (cause.reason) {
    case "threw":
      return killed || code !== undefined; // exit handlers may change that
    case "host gone":
      return killed || code === HOST_GONE;
    default:
      return killed;
  }
}

/** One line about an end. */
export function describeExit(exit: Exit): string {
  switch (exit.reason) {
    case "returned":
      return `it returned ${exit.code}`;
    case "threw":
      return `it threw ${thrown(exit.error)}`;
    case "signal":
      return `${exit.signal} ended it`;
    case "limit":
      return `it reached its limit ${exit.limit}`;
    case "protocol":
      return exit.violation.message;
    case "killed":
      return "it was killed";
    case "host gone":
      return "it lost its host";
  }
}

/** The longest text of what was thrown that an error's message quotes. */
const QUOTED = 1024;

/**
 * What an actor threw, short and harmless. Hostile data is asked for nothing but its type: to make text of an object can throw, and
 * takes forever where arrays share arrays.
 */
function thrown(error: unknown): string {
  if (error instanceof Error) return harmless(`${error.name}: ${error.message}`.slice(0, QUOTED));
  if (typeof error === "bigint") return "a bigint"; // as text, one of many digits takes long
  if (typeof error !== "object" || error === null) return harmless(String(error).slice(0, QUOTED));
  return Array.isArray(error) ? "an array" : "an object";
}
