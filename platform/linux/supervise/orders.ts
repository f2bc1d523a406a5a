/** What the supervisor's thread is told, and what it tells: plain data. */
import type { SupervisedCall } from "../../platform.ts";
import type { Rule } from "../seccomp/filter.ts";

/** What becomes of a call that waits. */
export type Verdict =
  /** It fails. */
  | { readonly act: "refuse"; readonly errno: number; readonly told: boolean }
  /** Whoever made it is ended. */
  | { readonly act: "end" }
  /** The main thread answers it. */
  | { readonly act: "ask" }
  /** The kernel makes it, whatever its memory says by then: for who only watches, and where other walls decide. */
  | { readonly act: "pass" };

export type Beginning = "execve" | "execveat";

/** What becomes of the calls that one filter hands over. */
export interface Orders {
  /** By the call's number. */
  readonly verdicts: Readonly<Record<number, Verdict>>;
  readonly otherwise: Verdict;
  /** What is promised, by the names of calls, and what becomes of a call that breaks it. */
  readonly promised?:
    | { readonly rules: Readonly<Record<string, readonly Rule[]>>; readonly breach: Verdict }
    | undefined;
  /** The calls of which the first is the puppet's own, by which it becomes the program. Nobody else can write its memory. */
  readonly begins: readonly Beginning[];
  /** Files that may be opened for reading whatever is said of open(2), as `device:inode`: what the program needs in order to start. */
  readonly lent: readonly string[];
}

/** To the thread, over a socket that it waits for. */
export type Order =
  | { readonly order: "watch"; readonly listener: number; readonly orders: Orders }
  | { readonly order: "answer"; readonly listener: number; readonly id: string; readonly answer: Settled };

/** How a call is answered: a descriptor is one of this process. */
export type Settled =
  | { readonly value: string }
  | { readonly errno: number }
  | { readonly descriptor: number; readonly at?: number; readonly flags: number }
  /** The caller's socket of datagrams, by its number, and the bytes of a socket address. */
  | { readonly connect: number; readonly to: readonly number[] }
  | "end"
  | "pass";

/** From the thread. */
export type Told =
  | { readonly told: "call"; readonly listener: number; readonly call: SupervisedCall; readonly exists: boolean }
  | { readonly told: "asked"; readonly listener: number; readonly id: string; readonly call: SupervisedCall }
  /** An answer was given, or nobody waited for it any more: a descriptor in it can be closed. */
  | { readonly told: "settled"; readonly listener: number; readonly id: string }
  /** A call could not be decided about, and was refused. */
  | { readonly told: "failed"; readonly listener: number; readonly error: Error }
  /** So many calls were not told of, for too many were. */
  | { readonly told: "more"; readonly listener: number; readonly count: number }
  /** Nobody has the filter any more. */
  | { readonly told: "over"; readonly listener: number };

/** The largest order. */
export const ORDER_SIZE = 128 * 1024;
/** How many calls of one filter may wait for the main thread's answers: of callers that were ended meanwhile, it knows nothing. */
export const MOST_ASKED = 1024;
/** How many calls may be told of that the main thread has not taken yet. */
export const MOST_UNTAKEN = 1024;
