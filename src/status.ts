/** Exit codes of what we run, as a shell expects them, and what is said where a code does not say it. */
import { constants } from "node:os";
import { NotEnforced } from "../platform/index.ts";
import { say } from "./terminal.ts";

/** Exit codes that are not the script's or program's own: those of timeout(1), as far as it has them. */
export const CODE = {
  uncaught: 1,
  wallTime: 124,
  noSandbox: 125,
  notRunnable: 126,
  notFound: 127,
  signal: 128,
} as const;
export const KILLED = CODE.signal + constants.signals.SIGKILL;

/** The signals that ask us to end, and so what we run. */
export const ENDINGS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
export type Ending = (typeof ENDINGS)[number];

/** Says why there is no sandbox. Nothing ran. */
export async function noSandbox(error: unknown): Promise<number> {
  await say(`caisson: ${messageOf(error)}`);
  if (error instanceof NotEnforced) await say("Nothing was run. caisson doctor shows what this machine can enforce");
  return CODE.noSandbox;
}

/** Our own output failed. A reader that had enough, such as head(1), is no error: we end as its SIGPIPE would have ended us. */
export async function noOutput(error: unknown, what: "script" | "program"): Promise<number> {
  if ((error as NodeJS.ErrnoException | undefined)?.code === "EPIPE") return CODE.signal + constants.signals.SIGPIPE;
  await say(`caisson: Cannot pass on what the ${what} prints: ${messageOf(error)}`);
  return CODE.uncaught;
}

/** Says that a limit of time ended it. */
export async function outOfTime(
  limit: "cpuTime" | "wallTime",
  what: "script" | "program",
  limits: { readonly cpuTime?: number; readonly wallTime?: number },
): Promise<number> {
  const [why, flag] =
    limit === "cpuTime"
      ? ["it used up its processor time", `--cpu-time=${limits.cpuTime}s`]
      : ["its time was over", `--wall-time=${limits.wallTime! / 1000}s`];
  await say(`caisson: the ${what} was ended, for ${why}: ${flag}`);
  return limit === "cpuTime" ? KILLED : CODE.wallTime;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
