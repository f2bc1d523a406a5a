/** `caisson run`: a script in a sandbox, with the standard streams of whoever runs it. */
import { closeSync, constants as file, fstatSync, openSync, statSync } from "node:fs";
import { constants } from "node:os";
import { resolve } from "node:path";
import { isatty } from "node:tty";
import { type Policy, platform } from "../platform/index.ts";
import { type Actor, start } from "./actor.ts";
import { bundle, scriptScope } from "./bundle.ts";
import { describeDenial, isDenied } from "./denial.ts";
import { denials } from "./denials.ts";
import { ActorExit, LimitExceeded } from "./error.ts";
import type { Exit, LimitName } from "./exit.ts";
import { type Command, inFlags, UsageError } from "./flags.ts";
import { grantsOf } from "./grant.ts";
import { lastOf, report } from "./report.ts";
import { policyOf, type Sandbox } from "./sandbox.ts";
import { CODE, ENDINGS, type Ending, KILLED, messageOf, noOutput, noSandbox, outOfLimit } from "./status.ts";
import { passThrough, say } from "./terminal.ts";

/** How Bun ends when it cannot go on, which it also does when a small allocation fails. */
const CRASHES: ReadonlySet<string> = new Set(["SIGILL", "SIGTRAP", "SIGABRT", "SIGSEGV", "SIGBUS"]);

/** Runs a script, and returns the exit code that a shell expects. Throws UsageError before anything is started. */
export async function run({ script, args, sandbox, observe = false }: Command): Promise<number> {
  const path = resolve(script);
  if (!statSync(path, { throwIfNoEntry: false })?.isFile())
    throw new UsageError(`Cannot run ${script}: there is no such file`);
  const policy = policyIn(sandbox);
  try {
    platform.enforcement(policy);
  } catch (error) {
    return await noSandbox(error);
  }
  try {
    await bundle(path, scriptScope(path, [...grantsOf(policy).keys()]));
  } catch (error) {
    await say(messageOf(error));
    return CODE.uncaught;
  }

  const ending = new AbortController();
  let received: Ending | undefined;
  for (const name of ENDINGS) {
    process.on(name, () => {
      received ??= name;
      ending.abort();
    });
  }
  let exit: Exit;
  const events = observe ? denials() : undefined;
  const telling = events && report(events, say);
  try {
    using input = openInput();
    const actor = await start<unknown, unknown>(
      path,
      { sandbox, stdout: "pipe", stderr: "pipe", signal: ending.signal, observe },
      { argv: args, stdin: input.descriptor },
    );
    const lost = passBoth(actor);
    exit = await actor.exited;
    if (observe) await lastOf(actor.denials);
    // Whoever interrupts does not want the rest.
    const failure = received === undefined ? await lost : undefined;
    if (failure?.error instanceof LimitExceeded) throw failure.error;
    if (failure !== undefined) return await noOutput(failure.error, "script");
  } catch (error) {
    if (error instanceof ActorExit) exit = error.exit as Exit;
    else if (error instanceof LimitExceeded) exit = { reason: "limit", limit: error.limit as LimitName };
    else if (received !== undefined) exit = { reason: "killed", by: "signal" };
    else return await noSandbox(error);
  }
  events?.end();
  await telling;
  if (received !== undefined) return CODE.signal + constants.signals[received];
  return await conclude(exit, { policy, observe });
}

/** Passes on what the script prints, to its last byte. Where nobody takes it, ends the script and resolves to what went wrong. */
async function passBoth(actor: Actor): Promise<{ readonly error: unknown } | undefined> {
  try {
    await Promise.all([passThrough(actor.stdout!, 1), passThrough(actor.stderr!, 2)]);
    return undefined;
  } catch (error) {
    actor.kill();
    return { error };
  }
}

/** The policy, or what is wrong with it in the words of the flags. */
function policyIn(sandbox: Sandbox): Policy {
  try {
    return policyOf(sandbox);
  } catch (error) {
    throw inFlags(error);
  }
}

/**
 * Our standard input, for the script. A terminal's descriptor is most often open for writing too, and would let the script draw on it,
 * past all that makes its output harmless: it gets one of its own, to read from.
 */
function openInput(): Disposable & { readonly descriptor: number } {
  if (fstatSync(0).isDirectory()) throw new UsageError("Cannot pass on a directory as standard input");
  if (!isatty(0)) return { descriptor: 0, [Symbol.dispose]() {} };
  const descriptor = openSync("/proc/self/fd/0", file.O_RDONLY | file.O_NOCTTY);
  return { descriptor, [Symbol.dispose]: () => closeSync(descriptor) };
}

/** Says how the script ended, where its code does not, and returns our own. */
async function conclude(
  exit: Exit,
  { policy, observe }: { readonly policy: Policy; readonly observe: boolean },
): Promise<number> {
  switch (exit.reason) {
    case "returned":
      return exit.code;
    case "threw": {
      await say(`Uncaught ${describe(exit.error)}`);
      // Where all are told of, this one was.
      if (isDenied(exit.error) && !observe) await say(`\n${describeDenial(exit.error.denial)}`);
      return CODE.uncaught;
    }
    case "signal": {
      const perhaps = CRASHES.has(exit.signal) ? "; if that was for want of memory, --memory=size gives it more" : "";
      await say(`caisson: ${exit.signal} ended the script${perhaps}`);
      return CODE.signal + (constants.signals[exit.signal as NodeJS.Signals] ?? 0);
    }
    case "limit":
      if (exit.limit === "loadTime") return await noSandbox(new Error("Cannot start the sandbox: it took too long"));
      return await outOfLimit(exit.limit, "script", policy.limits);
    case "protocol":
      await say(`caisson: the script was ended, for what it sent to its host: ${oneLine(exit.violation.message)}`);
      return KILLED;
    case "killed":
    case "host gone":
      await say("caisson: the script was killed");
      return KILLED;
  }
}

/** The longest text of an error that is passed on: it is the script's word. */
const LONGEST = 64 * 1024;
const MOST_CAUSES = 8;

/** What an error says of itself, with the errors that caused it. */
function describe(error: unknown, causes = 0): string {
  if (!(error instanceof Error)) return plain(error).slice(0, LONGEST);
  const text = (error.stack || `${error.name}: ${error.message}`).slice(0, LONGEST);
  if (error.cause === undefined || causes === MOST_CAUSES) return text;
  return `${text}\nCaused by ${describe(error.cause, causes + 1)}`;
}

/** Text of data that is no error. Where arrays or objects share others, what is short to send can be endless to print: one level is shown. */
function plain(value: unknown): string {
  return Bun.inspect(value, { depth: 0 });
}

function oneLine(text: string): string {
  return text.replaceAll("\n", "\\n");
}
