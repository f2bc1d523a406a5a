/** The commands: what is asked for, and with which code it ends. */
import { isatty } from "node:tty";
import { version } from "../package.json";
import type { Trial } from "./audit.ts";
import {
  type Command,
  commandOf,
  FLAGS,
  PROGRAM_FLAGS,
  type ProgramCommand,
  programCommandOf,
  spelling,
  UsageError,
} from "./flags.ts";
import { suggestion } from "./suggestion.ts";
import { say } from "./terminal.ts";

const USAGE = `caisson runs what you do not trust, in a sandbox that can reach nothing.

  caisson run [grants] script.ts [args]   runs a script with your streams
  caisson exec [grants] -- program [args] runs a program, with your terminal
  caisson run|exec --help                 tells what may be granted
  caisson explain --policy=file call      tells what a policy says of a call
  caisson learn script.ts [args]          runs it with nothing refused, and
  caisson learn -- program [args]         writes the policy that it needs
  caisson top [--json] [PID]              shows what runs in programs of yours
                                          that called exposeStatus()
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

--read, --write, --env and --unveil may be given several times. A comma in a
path of the first two is written twice.

Exit code: the script's own; 1 after an error that nobody caught; 128 and its
number after a signal; 124 when the time was over, 137 when another limit ended
it; 125 when there is no sandbox; 2 for a command that makes no sense.`;

const PROGRAM_GRANTS = `Usage: caisson exec [grants] [--] program [args]

Runs a program in a sandbox: it sees itself, what it needs in order to start,
and what is granted. What follows the program is the program's.

${listed(PROGRAM_FLAGS)}

--read, --write, --run, --net, --env and --unveil may be given several times. A
comma in a path is written twice, but for that of --unveil.

At a terminal the program has one of its own: Ctrl-C, Ctrl-Z and the size of
the window are the program's, TERM is set, and what it prints is drawn, but for
what reaches beyond the screen (titles, the clipboard). Otherwise its streams
are yours.

Exit code: the program's own; 128 and its number after a signal; 124 when the
time was over, 137 when another limit ended it; 125 when there is no sandbox;
126 for a program that cannot be run, 127 for one that is not there; 2 for a
command that makes no sense.`;

const EXPLANATION = `Usage: caisson explain --policy=file [--program] [--json] [call [args]]

Tells whether a policy lets a system call through, which rule says so, and what
would allow it. Without a call it tells what the policy allows.

The file is a sandbox, as caisson run and caisson exec take it, a seccomp
profile of OCI or Docker, or a filter of caisson/seccomp; all as JSON. A sandbox
is a script's, or with --program a program's.

Arguments are numbers, constants such as AF_INET or O_WRONLY|O_CREAT, and paths
where the call takes one. What is left out counts as 0, the directory of a path
as AT_FDCWD:

  caisson explain --policy=policy.json openat /etc/passwd O_RDONLY

Exit code: 0 for a call that is let through, 1 for one that is not, 2 for a
question that makes no sense.`;

/** A command with what its policy file grants. */
async function complete<Given extends Command | ProgramCommand>(
  command: Given,
  of: "actor" | "program",
): Promise<Given> {
  if (command.policy === undefined) return command;
  const { underPolicy } = await import("./document.ts");
  return { ...command, sandbox: underPolicy(command.policy, command.sandbox, of) };
}

async function audited(trial: Trial): Promise<number> {
  const { audit } = await import("./audit.ts");
  return await audit(trial);
}

const LEARN = `Usage: caisson learn [flags] script.ts [args]
       caisson learn [flags] -- program [args]

Runs it with your rights and your streams, and sees what it does: nothing is
refused, but keys and passwords in their usual places are not shown to it. Then
writes the least that it needs as name.policy.json, for --policy, and
name.policy.ts, with the reason for each grant. Do not learn from what you do
not trust.

  --out=path           where they are written, without .json and .ts
  --merge              adds to what was learned before
  --force              replaces it
  --env=NAME[=value]   one more variable of its environment

Exit code: that of what was run; 1, 125, 127 and 2 as with caisson exec.`;

const TOP = `Usage: caisson top [flags] [PID | path]

Shows the actors and programs that run in hosts of this user, as they change:
those that called exposeStatus(), or the one with this process id, or with its
socket at this path (with a / in it). Where standard input or output is no
terminal, it shows them once.

CPU% is of one processor, in the last interval; what is seen for the first time
shows that of its whole life. MEMORY is of all its processes; PEAK, where no
control group counts, is that of the largest. IN and OUT are messages to it and
from it.

  --json               a line of JSON for each host and interval
  --once               once, and no more
  --interval=time      from 100ms to 1min, or else 1s

Keys: q quits, c, m and n order by CPU, memory and name, j and k move.

Exit code: 0; 1 where no host is found, or one cannot be read; 2 for a command
that makes no sense.`;

const DOCTOR = `Usage: caisson doctor [--json]

Tells what this machine can enforce, by trying it: which guarantees are kept and
by what, which mechanisms there are, and for what is missing the line that fixes
it. Nothing is changed.

  --json               the same as JSON

Exit code: 0 where the strictest sandbox can be kept, 1 where it cannot; 2 for a
command that makes no sense.`;

const COMMANDS: Readonly<Record<string, (args: readonly string[]) => Promise<number>>> = {
  async run(args) {
    const command = commandOf(args, process.env);
    if (command === undefined) return await tell(GRANTS);
    const whole = await complete(command, "actor");
    if (command.audit)
      return await audited({ kind: "actor", argv: [whole.script, ...whole.args], sandbox: whole.sandbox });
    const { run } = await import("./run.ts");
    return await run(whole);
  },
  async exec(args) {
    const given = programCommandOf(args, process.env);
    if (given === undefined) return await tell(PROGRAM_GRANTS);
    const whole = await complete(given, "program");
    if (given.audit) return await audited({ ...whole, kind: "program", tmp: whole.tmp !== undefined });
    const { command } = await import("./command.ts");
    return await command(whole);
  },
  async explain(args) {
    const { explain, questionOf } = await import("./explain.ts");
    const question = questionOf(args);
    return question === undefined ? await tell(EXPLANATION) : await explain(question);
  },
  async learn(args) {
    const { learn, learnCommandOf } = await import("./learn.ts");
    const command = learnCommandOf(args, process.env);
    return command === undefined ? await tell(LEARN) : await learn(command);
  },
  async top(args) {
    const { top, topCommandOf } = await import("./top.ts");
    const command = topCommandOf(args);
    return command === undefined ? await tell(TOP) : await top(command);
  },
  async bwrap(args) {
    const { bwrap } = await import("./bubble.ts");
    return bwrap(args);
  },
  async doctor(args) {
    const wrong = args.find((arg) => arg !== "--json" && arg !== "--help" && arg !== "-h");
    if (wrong !== undefined) {
      const why = wrong.startsWith("-")
        ? `there is no such flag${suggestion(wrong, ["--json", "--help"])}`
        : "nothing but flags is expected";
      throw new UsageError(`Cannot understand ${wrong}: ${why}`);
    }
    if (args.some((arg) => arg !== "--json")) return await tell(DOCTOR);
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
    const near = suggestion(name, Object.keys(COMMANDS)) || "; caisson --help tells which there are";
    throw new UsageError(`Cannot understand ${name}: there is no such command${near}`);
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
