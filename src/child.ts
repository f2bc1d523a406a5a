/** What can be supervised, linked and monitored, and how it ended, whatever it is. */
import type { Exit } from "./exit.ts";
import { KILL, type Killable, type Killer } from "./killer.ts";

/**
 * What lives and ends: an actor, a program, a container, a supervisor, or anything else that says when it has ended.
 *
 * What `exited` settles with tells how: an `Exit`, or an exit code, of which 0 is a normal end. What says nothing did not end normally: a container
 * does not end by itself. Nor did what rejects.
 */
export interface Child extends Killable {
  readonly exited: Promise<unknown>;
  /** Ends it at once. */
  kill(): void;
  /** Asks it to end. A program, which is what has a `signalCode`, is asked by SIGTERM instead. */
  disconnect?(): void;
}

/** How a supervisor ended. */
export type SupervisorExit =
  /** By what it was asked, by its children's intensity, or because of significant ones. */
  | {
      readonly reason: "shutdown";
      readonly because: "asked" | "reached intensity" | "significant";
      /** Whose end was the last before it. */
      readonly child?: string;
    }
  | { readonly reason: "killed"; readonly by: Killer };

/** How a child ended. */
export type ChildExit =
  | Exit
  | SupervisorExit
  /** It did not say. */
  | { readonly reason: "unknown" };

/** Settles when it has ended, with how. Never rejects. */
export async function endOf(child: Child): Promise<ChildExit> {
  try {
    return exitFrom(await child.exited, child);
  } catch (error) {
    return { reason: "threw", error };
  }
}

function exitFrom(said: unknown, child: Child): ChildExit {
  if (typeof said === "object" && said !== null && "reason" in said) return said as Exit | SupervisorExit;
  if (typeof said !== "number") return { reason: "unknown" };
  const { exit, signalCode } = child as { readonly exit?: Exit; readonly signalCode?: string | null };
  if (exit !== undefined) return exit;
  if (typeof signalCode === "string") return { reason: "signal", signal: signalCode };
  return { reason: "returned", code: said };
}

/** Whether it came to its end by itself, and all was well. */
export function isNormal(exit: ChildExit): boolean {
  return exit.reason === "returned" && exit.code === 0;
}

/** Whether it ended normally, or was asked to end and did. */
export function isOrderly(exit: ChildExit): boolean {
  return isNormal(exit) || exit.reason === "host gone" || exit.reason === "shutdown";
}

/** Asks it to end, on behalf of a supervisor. Returns false where there is no way to ask. */
export function ask(child: Child): boolean {
  // A plain process of Bun has a `disconnect` as well, which ends nothing.
  if (!("signalCode" in child)) return disconnect(child);
  if (child[KILL] !== undefined) child[KILL]("supervisor", "SIGTERM");
  else (child.kill as (signal: NodeJS.Signals) => void)("SIGTERM");
  return true;
}

function disconnect(child: Child): boolean {
  if (child.disconnect === undefined) return false;
  child.disconnect();
  return true;
}

/** Closes the streams of a program that has ended which nobody reads or writes: each holds a descriptor. */
export function release(child: Child): void {
  const { stdin, stdout, stderr } = child as { readonly [stream in "stdin" | "stdout" | "stderr"]?: unknown };
  for (const stream of [stdout, stderr])
    if (stream instanceof ReadableStream && !stream.locked) void stream.cancel().catch(() => {});
  if (stdin instanceof WritableStream && !stdin.locked) void stdin.abort().catch(() => {});
}

/** Throws a TypeError for what is none. */
export function checkChild(value: unknown): asserts value is Child {
  const { exited, kill } = Object(value) as Partial<Child>;
  if (!(exited instanceof Promise) || typeof kill !== "function")
    throw new TypeError(
      `Cannot supervise ${Bun.inspect(value, { depth: 0 })}: an actor, a program, or what else has exited and kill is expected`,
    );
}
