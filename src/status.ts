/** Exit codes of what we run, as a shell expects them, and what is said where a code does not say it. */
import { constants } from "node:os";
import { type Limits, NotEnforced } from "../platform/index.ts";
import type { LimitName } from "./exit.ts";
import { printLimit } from "./limits.ts";
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

const UNENFORCED =
  "Nothing was run. caisson doctor shows what this machine can enforce; allowUnenforced is a key of the file for --policy";

/** Says why there is no sandbox. Nothing ran. */
export async function noSandbox(error: unknown): Promise<number> {
  await say(`caisson: ${messageOf(error)}`);
  if (error instanceof NotEnforced) await say(UNENFORCED);
  return CODE.noSandbox;
}

/** Our own output failed. A reader that had enough, such as head(1), is no error: we end as its SIGPIPE would have ended us. */
export async function noOutput(error: unknown, what: "script" | "program"): Promise<number> {
  if ((error as NodeJS.ErrnoException | undefined)?.code === "EPIPE") return CODE.signal + constants.signals.SIGPIPE;
  await say(`caisson: Cannot pass on what the ${what} prints: ${messageOf(error)}`);
  return CODE.uncaught;
}

/** What came to its end at a limit. */
const SPENT: Readonly<Record<LimitName, string>> = {
  memory: "it used up its memory",
  cpuTime: "it used up its processor time",
  wallTime: "its time was over",
  loadTime: "its start took too long",
  output: "it printed too much",
  disk: "it wrote too much to disk",
};

/** Says that a limit ended it. */
export async function outOfLimit(limit: LimitName, what: "script" | "program", limits: Limits): Promise<number> {
  const flag = limit === "loadTime" ? "" : `: ${flagOf(limit, limits[limit])}`;
  await say(`caisson: the ${what} was ended, for ${SPENT[limit]}${flag}`);
  return limit === "wallTime" ? CODE.wallTime : KILLED;
}

/** A limit as it is asked for: `--cpu-time=5s`. */
function flagOf(limit: Exclude<LimitName, "loadTime">, amount: number | undefined): string {
  const name = limit.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  return `--${name}=${printLimit(limit, amount).replace(" ", "")}`;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
