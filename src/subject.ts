/** What `caisson learn` and `--audit` watch: how it is started, and what is known of it beside what it does. */
import { statSync } from "node:fs";
import { homedir } from "node:os";
import { basename, resolve } from "node:path";
import { NotRunnable, platform } from "../platform/index.ts";
import { secretsOf } from "./caution.ts";
import { UsageError } from "./flags.ts";
import type { Gathered } from "./gathered.ts";
import { type About, isPlainVariable, type Observation } from "./need.ts";
import { type Observed, type ObserveOptions, observe } from "./observe.ts";
import { rehearsalOf } from "./rehearsal.ts";
import { CODE, ENDINGS, messageOf } from "./status.ts";
import { say } from "./terminal.ts";

/** Starts something with nothing but secrets refused, and tells what it does. */
export type Observe = (
  argv: readonly string[],
  options: ObserveOptions,
) => Promise<Pick<Observed, "observations" | "exited" | "lost">>;

export type Variables = Readonly<Record<string, string | undefined>>;

/** What is to be watched, as it was asked for. */
export interface Asked {
  readonly kind: About["kind"];
  readonly argv: readonly string[];
  /** Variables that it has. */
  readonly env: Readonly<Record<string, string>>;
  /** Those of whom asks, of which it has what is no secret. */
  readonly own: Variables;
  /** Where a program starts; a script does where we are. */
  readonly cwd?: string;
}

/** What is watched, and how it is started. */
export interface Subject extends Disposable {
  readonly kind: About["kind"];
  /** By its absolute path. */
  readonly program: string;
  readonly argv: readonly string[];
  readonly options: ObserveOptions;
  /** What may become part of the policy: variables that are no secrets. */
  readonly variables: Readonly<Record<string, string>>;
  /** What is known before it is started. */
  readonly known: readonly Observation[];
}

/** What next to every program asks for. */
const USUAL = /^(?:PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_[A-Z]+|TZ)$/;

/** Makes ready what is to be watched; where that cannot be, says so, and gives the exit code. Throws UsageError. */
export async function subjectOf(asked: Asked): Promise<Subject | number> {
  try {
    return asked.kind === "actor" ? await scriptSubject(asked) : programSubject(asked);
  } catch (error) {
    if (error instanceof UsageError) throw error;
    await say(`caisson: ${messageOf(error)}`);
    return error instanceof NotRunnable ? CODE.notFound : CODE.uncaught;
  }
}

async function scriptSubject({ kind, argv: [name = "", ...args], env, own }: Asked): Promise<Subject> {
  const program = resolve(name);
  if (statSync(program, { throwIfNoEntry: false })?.isFile() !== true)
    throw new UsageError(`Cannot run ${name}: there is no such file`);
  const variables = { ...chosen(own, isPlainVariable), ...chosen(env, isPlainVariable) };
  const rehearsal = await rehearsalOf([program, ...args], variables);
  // Which variables it asks for is seen.
  const options = { env, hidden: secretsOf(homedir()), marker: rehearsal.marker };
  const end = () => rehearsal[Symbol.dispose]();
  return { kind, program, argv: rehearsal.argv, options, variables, known: [], [Symbol.dispose]: end };
}

function programSubject({ kind, argv: [name = "", ...args], env, own, cwd = process.cwd() }: Asked): Subject {
  const { program } = platform.programOf(name);
  const given = { ...chosen(own, (each) => USUAL.test(each)), ...env };
  // A program's environment is handed over whole, so all of it counts as asked for.
  const known = Object.keys(given).map(
    (target) => ({ call: "execve", access: "environment", target, exists: true, program: basename(program) }) as const,
  );
  const options = { env: given, hidden: secretsOf(homedir()), cwd };
  const variables = chosen(given, isPlainVariable);
  return { kind, program, argv: [program, ...args], options, variables, known, [Symbol.dispose]() {} };
}

function chosen(env: Variables, is: (name: string) => boolean): Record<string, string> {
  const found = Object.entries(env).filter(([name, value]) => is(name) && value !== undefined);
  return Object.fromEntries(found) as Record<string, string>;
}

/** Runs it to its end, and gives its exit code. Who asks us to end ends it, and has what was seen until then. */
export async function gather(
  gathered: Gathered,
  { argv, options, known }: Subject,
  watch: Observe = observe,
): Promise<number> {
  for (const observation of known) gathered.take(observation);
  const ending = new AbortController();
  for (const name of ENDINGS) process.on(name, () => ending.abort());
  const observed = await watch(argv, { ...options, signal: ending.signal });
  using _ = new Progress(gathered);
  for await (const observation of observed.observations) gathered.take(observation);
  const code = await observed.exited;
  gathered.lost += observed.lost;
  return code;
}

/** The programs that were run. */
export function startedBy(gathered: Iterable<Observation>): string[] {
  return [...gathered].filter(({ access, exists }) => access === "run" && exists).map(({ target }) => target);
}

/** What comes with programs, as each needs it in order to start. */
export function filesOf(programs: Iterable<string>): Set<string> {
  const files = new Set<string>();
  for (const each of new Set(programs)) {
    try {
      for (const { source, target } of platform.programOf(each).files) files.add(source).add(target);
    } catch (error) {
      // Such as one that was run, and is gone.
      if (!(error instanceof NotRunnable)) throw error;
    }
  }
  return files;
}

const FIRST_PROGRESS_MS = 2000;

/** Says how it goes, less and less often: the terminal is the program's. */
class Progress implements Disposable {
  #timer: NodeJS.Timeout | undefined;
  #told = "";

  constructor(gathered: Gathered) {
    this.#wait(gathered, FIRST_PROGRESS_MS);
  }

  #wait(gathered: Gathered, ms: number): void {
    this.#timer = setTimeout(() => {
      const now = String(gathered);
      if (now !== this.#told) void say(`caisson: ${now} so far`);
      this.#told = now;
      this.#wait(gathered, 2 * ms);
    }, ms).unref();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}
