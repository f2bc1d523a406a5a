#!/usr/bin/env -S bun --config=/dev/null --no-env-file
// The working directory may be that of the script nobody vouches for: a bunfig.toml there would have its code preloaded here, outside of any wall.
/** The command line: what is asked for, and with which code it ends. */
import { isatty } from "node:tty";
import { version } from "../package.json";
import { platform } from "../platform/index.ts";
import { describe, diagnose } from "./doctor.ts";
import { commandOf, FLAGS, suggestion, UsageError } from "./flags.ts";
import { run } from "./run.ts";
import { say } from "./terminal.ts";

const USAGE = `caisson runs what you do not trust, in a sandbox that can reach nothing.

  caisson run [grants] script.ts [args]   runs a script with your streams
  caisson run --help                      tells what may be granted
  caisson doctor [--json]                 tells what this machine can enforce,
                                          and what would fix the rest
  caisson --help | --version`;

const GRANTS = `Usage: caisson run [grants] [--] script.ts [args]

Runs a script in a sandbox that can reach nothing but what is granted. What
follows the script is the script's.

${Object.entries(FLAGS)
  .map(
    ([name, { value, help }]) => `  ${`--${name}=${value}`.padEnd(20)} ${help.replaceAll("\n", `\n${" ".repeat(23)}`)}`,
  )
  .join("\n")}

--read, --write and --env may be given several times. A comma in a path is
written twice.

Exit code: the script's own; 1 after an error that nobody caught; 128 and its
number after a signal; 124 when the time was over, 137 when the processor time
was; 125 when there is no sandbox; 2 for a command that makes no sense.`;

const COMMANDS: Readonly<Record<string, (args: readonly string[]) => Promise<number>>> = {
  async run(args) {
    const command = commandOf(args, process.env);
    return command === undefined ? await tell(GRANTS) : await run(command);
  },
  async doctor(args) {
    const wrong = args.find((arg) => arg !== "--json" && arg !== "--help" && arg !== "-h");
    if (wrong !== undefined)
      throw new UsageError(
        `Cannot understand ${wrong}: there is no such flag${suggestion(wrong, ["--json", "--help"])}`,
      );
    if (args.length > 0 && !args.includes("--json")) return await tell(USAGE);
    const diagnosis = diagnose(platform);
    const colours = isatty(1) && (process.env.NO_COLOR ?? "") === "";
    console.log(args.includes("--json") ? JSON.stringify(diagnosis, null, 2) : describe(diagnosis, colours));
    return diagnosis.strict ? 0 : 1;
  },
};

async function main([name, ...args]: readonly string[]): Promise<number> {
  if (name === "--help" || name === "-h" || name === "help") return await tell(USAGE);
  if (name === "--version") return await tell(version);
  try {
    if (name === undefined) throw new UsageError(`Cannot do nothing: a command is expected\n\n${USAGE}`);
    const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
    if (command !== undefined) return await command(args);
    throw new UsageError(
      `Cannot understand ${name}: there is no such command${suggestion(name, Object.keys(COMMANDS))}`,
    );
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    await say(`caisson: ${error.message}`);
    return 2;
  }
}

async function tell(text: string): Promise<number> {
  await say(text, 1);
  return 0;
}

process.exit(await main(process.argv.slice(2)));
