/** `caisson exec`: a program in a sandbox, with a terminal of its own on that of whoever runs it, or with their streams. */
import { existsSync, fstatSync } from "node:fs";
import { constants } from "node:os";
import { resolve } from "node:path";
import { isatty } from "node:tty";
import { NotRunnable, type Policy } from "../platform/index.ts";
import { Descriptor } from "../syscalls/descriptor.ts";
import { SystemError } from "../syscalls/error.ts";
import { self } from "../syscalls/kernel.ts";
import { makePipe } from "../syscalls/linux/file.ts";
import { denials } from "./denials.ts";
import { type ExecOptions, exec, type SandboxedProcess } from "./exec.ts";
import { inFlags, type ProgramCommand, UsageError } from "./flags.ts";
import { Foreground } from "./foreground.ts";
import { grantsOf, startFrom } from "./grant.ts";
import { bind, directory, type Mount, tmpfs } from "./mounts.ts";
import { Pipe } from "./pipe.ts";
import type { Pty } from "./pty.ts";
import { lastOf, report } from "./report.ts";
import { parseRule } from "./rule.ts";
import { policyOf, type Sandbox } from "./sandbox.ts";
import { ScreenText } from "./screen.ts";
import { CODE, ENDINGS, type Ending, noOutput, noSandbox, outOfLimit } from "./status.ts";
import { passThrough, say } from "./terminal.ts";

/** How long a program that was asked to end may take for it. */
const GRACE_MS = 2000;

/** Ends by which somebody else, or the program itself, has what they wanted. */
const QUIET: ReadonlySet<string> = new Set(["SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGPIPE"]);

/** Runs a program, and returns the exit code that a shell expects. Throws UsageError before anything is started. */
export async function command(given: ProgramCommand): Promise<number> {
  const policy = policyIn(given.sandbox);
  // Inside, the way up from it would lead out.
  if (fstatSync(0).isDirectory()) throw new UsageError("Cannot pass on a directory as standard input");
  const ending = new Asked();
  const onTerminal = !given.plain && isatty(0) && isatty(1);
  // On a terminal it would be drawn over: there it is told in the end.
  const held: string[] = [];
  const events = denials();
  const telling = report(events, onTerminal ? (text) => void held.push(text) : say);
  const options = { ...optionsOf(given, policy, onTerminal), signal: ending.over };
  let ran: Ran;
  try {
    ran = onTerminal ? await withTerminal(given.argv, options, ending) : await withStreams(given.argv, options, ending);
  } catch (error) {
    if (ending.received !== undefined) return CODE.signal + constants.signals[ending.received];
    if (error instanceof NotRunnable) return await notRunnable(error);
    return await noSandbox(nowhere(error, options.cwd) ?? error);
  }
  await lastOf(ran.program.denials);
  events.end();
  await telling;
  for (const text of held) await say(text);
  return await codeOf(ran, policy, ending);
}

/** What came of a program. */
interface Ran {
  readonly program: SandboxedProcess;
  /** Why what it printed is lost. */
  readonly lost: { readonly error: unknown } | undefined;
}

/** The signals that ask us to end: they are passed on, and what does not follow is ended. */
class Asked {
  received: Ending | undefined;
  #program: SandboxedProcess | undefined;
  readonly #over = new AbortController();

  constructor() {
    for (const name of ENDINGS) {
      process.on(name, () => {
        this.received ??= name;
        // Nothing that was not yet started has to be asked.
        if (this.#program === undefined) this.#over.abort();
        else this.#ask(name);
      });
    }
  }

  /** Aborts when what was asked to end has not. */
  get over(): AbortSignal {
    return this.#over.signal;
  }

  pass(program: SandboxedProcess): void {
    this.#program = program;
  }

  #ask(name: Ending): void {
    this.#program!.kill(name);
    setTimeout(() => this.#over.abort(), GRACE_MS).unref();
  }
}

/** The policy, or what is wrong with it in the words of the flags. */
function policyIn(sandbox: Sandbox): Policy {
  try {
    for (const rule of sandbox.net ?? []) parseRule(rule);
    return policyOf(sandbox, "program");
  } catch (error) {
    throw inFlags(error);
  }
}

function optionsOf(
  { sandbox, tmp, cwd, observe = false }: ProgramCommand,
  policy: Policy,
  onTerminal: boolean,
): ExecOptions & { readonly cwd: string } {
  const files: Mount[] = [];
  try {
    if (tmp !== undefined) files.push(tmpfs("/tmp", { size: tmp, mode: 0o1777 }));
  } catch (error) {
    throw inFlags(error);
  }
  const { TERM } = process.env;
  const env = { ...(onTerminal && TERM !== undefined ? { TERM } : {}), ...sandbox.env };
  if (onTerminal && env.TERM !== undefined) files.push(...descriptionOf(env.TERM));
  const place = cwd === undefined ? startFrom(process.cwd(), [...grantsOf(policy).keys(), ...policy.run]) : undefined;
  if (place?.made === true) files.push(directory(place.directory));
  return { sandbox: { ...sandbox, env }, files, observe, cwd: place?.directory ?? resolve(cwd ?? "/") };
}

/** What a terminal of this type can do, as terminfo(5) has it: full-screen programs begin by reading that. */
function descriptionOf(type: string): Mount[] {
  if (!/^[\w+][\w+.-]*$/.test(type)) return [];
  return ["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"]
    .map((directory) => `${directory}/${type[0]}/${type}`)
    .filter((path) => existsSync(path))
    .slice(0, 1)
    .map((path) => bind(path, path, { execute: false }));
}

/**
 * Runs a program on a terminal of its own. What is typed goes there, Ctrl-C and Ctrl-Z too; what it prints comes to ours, but for what would
 * reach beyond the screen.
 */
async function withTerminal(argv: readonly string[], options: ExecOptions, ending: Asked): Promise<Ran> {
  let pty: Pty | undefined;
  using foreground = new Foreground({
    types: (bytes) => pty?.write(bytes).catch(() => {}), // nobody has the other end any more
    resizes: (size) => pty?.resize(size),
  });
  using errors = isatty(2) ? undefined : new ErrorPipe();
  await using program = await exec(argv, {
    ...options,
    terminal: foreground.size,
    ...(errors === undefined ? {} : { descriptors: { 2: errors.theirs.number } }),
  });
  errors?.theirs.close();
  ending.pass(program);
  pty = program.terminal!;
  program.onStop(() => {
    foreground.suspend();
    program.kill("SIGCONT", "group");
  });
  foreground.raw();
  pty.resize(foreground.size); // it may have changed meanwhile
  const lost = await passed(program, [
    passThrough(pty.readable, 1, new ScreenText()),
    ...(errors === undefined ? [] : [passThrough(errors.ours.readable, 2)]),
  ]);
  return { program, lost };
}

/** The program's standard error, where ours does not go to the terminal. */
class ErrorPipe implements Disposable {
  readonly ours: Pipe;
  readonly theirs: Descriptor;

  constructor() {
    const { read, write } = makePipe(self);
    this.ours = new Pipe(read);
    this.theirs = new Descriptor(write);
  }

  [Symbol.dispose](): void {
    this.ours.close();
    this.theirs.close();
  }
}

/** Runs a program with our streams. A terminal is never one of its own: what is typed there is read here. */
async function withStreams(argv: readonly string[], options: ExecOptions, ending: Asked): Promise<Ran> {
  await using program = await exec(argv, { ...options, stdin: isatty(0) ? Bun.stdin.stream() : "inherit" });
  ending.pass(program);
  using _ = new Stopping(program);
  const lost = await passed(program, [passThrough(program.stdout!, 1), passThrough(program.stderr!, 2)]);
  return { program, lost };
}

/** While a program has our streams, Ctrl-Z at our terminal stops it before us. */
class Stopping implements Disposable {
  readonly #program: SandboxedProcess;

  constructor(program: SandboxedProcess) {
    this.#program = program;
    process.on("SIGTSTP", this.#stop);
  }

  [Symbol.dispose](): void {
    process.off("SIGTSTP", this.#stop);
  }

  readonly #stop = (): void => {
    // Not SIGTSTP, which the kernel keeps from groups that no shell would continue.
    this.#program.kill("SIGSTOP", "group");
    process.off("SIGTSTP", this.#stop);
    process.kill(process.pid, "SIGTSTP");
    process.on("SIGTSTP", this.#stop);
    this.#program.kill("SIGCONT", "group");
  };
}

/** Waits for the end of a program and of all that it prints. Where nobody takes that, ends the program and tells what went wrong. */
async function passed(program: SandboxedProcess, streams: readonly Promise<void>[]): Promise<Ran["lost"]> {
  let lost: Ran["lost"];
  try {
    await Promise.all(streams);
  } catch (error) {
    program.kill();
    lost = { error };
  }
  await program.exited;
  return lost;
}

async function notRunnable(error: NotRunnable): Promise<number> {
  await say(`caisson: ${error.message}`);
  return error.path.includes("/") && existsSync(error.path) ? CODE.notRunnable : CODE.notFound;
}

/** What to say where the directory to start in is not one inside. */
function nowhere(error: unknown, directory: string): Error | undefined {
  if (!(error instanceof SystemError && error.syscall === "chdir")) return undefined;
  return new Error(`Cannot start in ${directory}: ${error.code} inside, unless --read or --write shows it`);
}

/** Says how the program ended, where its code does not, and returns our own. */
async function codeOf({ program, lost }: Ran, { limits }: Policy, { over, received }: Asked): Promise<number> {
  if (received !== undefined && (over.aborted || lost !== undefined)) return CODE.signal + constants.signals[received];
  if (lost !== undefined) return await noOutput(lost.error, "program");
  const code = await program.exited;
  const { exit, signalCode: signal } = program;
  if (exit?.reason === "limit") return await outOfLimit(exit.limit, "program", limits);
  if (signal !== null && !QUIET.has(signal)) await say(`caisson: ${signal} ended the program`);
  return code;
}
