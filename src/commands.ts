/** The commands: what is asked for, and with which code it ends. */
import { isatty } from "node:tty";
import { version } from "../package.json";
import { commandOf, FLAGS, PROGRAM_FLAGS, programCommandOf, spelling, suggestion, UsageError } from "./flags.ts";
import { say } from "./terminal.ts";

const USAGE = `caisson runs what you do not trust, in a sandbox that can reach nothing.

  caisson run [grants] script.ts [args]   runs a script with your streams
  caisson exec [grants] -- program [args] runs a program, with your terminal
  caisson run|exec --help                 tells what may be granted
  caisson bwrap [options] command         does what bubblewrap does
  caisson doctor [--json]                 tells what this machine can enforce,
                                          and what would fix the rest
  caisson --help | --version`;

/** The flags of a command, for people. */
function listed(flags: typeof FLAGS): string {
  return Object.entries(flags)
    .map(([name, flag]) => `  ${spelling(name, flag).padEnd(20)} ${flag.help.replaceAll("\n", `\n${" ".repeat(23)}`)}`)
    .join("\n");
}

const GRANTS = `Usage: caisson run [grants] [--] script.ts [args]

Runs a script in a sandbox that can reach nothing but what is granted. What
follows the script is the script's.

${listed(FLAGS)}

--read, --write and --env may be given several times. A comma in a path is
written twice.

Exit code: the script's own; 1 after an error that nobody caught; 128 and its
number after a signal; 124 when the time was over, 137 when the processor time
was; 125 when there is no sandbox; 2 for a command that makes no sense.`;

const PROGRAM_GRANTS = `Usage: caisson exec [grants] [--] program [args]

Runs a program in a sandbox: it sees itself, what it needs in order to start,
and what is granted. What follows the program is the program's.

${listed(PROGRAM_FLAGS)}

--read, --write, --run, --net and --env may be given several times. A comma in
a path is written twice.

At a terminal the program has one of its own: Ctrl-C, Ctrl-Z and the size of
the window are the program's, TERM is set, and what it prints is drawn, but for
what reaches beyond the screen (titles, the clipboard). Otherwise its streams
are yours.

Exit code: the program's own; 128 and its number after a signal; 124 when the
time was over, 137 when the processor time was; 125 when there is no sandbox;
126 for a program that cannot be run, 127 for one that is not there; 2 for a
command that makes no sense.`;

const COMMANDS: Readonly<Record<string, (args: readonly string[]) => Promise<number>>> = {
  async run(args) {
    const command = commandOf(args, process.env);
    if (command === undefined) return await tell(GRANTS);
    const { run } = await import("./run.ts");
    return await run(command);
  },
  async exec(args) {
    const given = programCommandOf(args, process.env);
    if (given === undefined) return await tell(PROGRAM_GRANTS);
    const { command } = await import("./command.ts");
    return await command(given);
  },
  async bwrap(args) {
    const { bwrap } = await import("./bubble.ts");
    return bwrap(args);
  },
  async doctor(args) {
    const wrong = args.find((arg) => arg !== "--json" && arg !== "--help" && arg !== "-h");
    if (wrong !== undefined)
      throw new UsageError(
        `Cannot understand ${wrong}: there is no such flag${suggestion(wrong, ["--json", "--help"])}`,
      );
    if (args.length > 0 && !args.includes("--json")) return await tell(USAGE);
    const { platform } = await import("../platform/index.ts");
    const { describe, diagnose } = await import("./doctor.ts");
    const diagnosis = diagnose(platform);
    const colours = isatty(1) && (process.env.NO_COLOR ?? "") === "";
    console.log(args.includes("--json") ? JSON.stringify(diagnosis, null, 2) : describe(diagnosis, colours));
    return diagnosis.strict ? 0 : 1;
  },
};

export async function main([name, ...args]: readonly string[]): Promise<number> {
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
