/** `caisson learn`: a run in which nothing but secrets is refused, and the least policy for the next one. */
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { basename, extname, relative, resolve } from "node:path";
import { readDocument, sandboxIn } from "./document.ts";
import { type Learned, learned } from "./evidence.ts";
import { UsageError } from "./flags.ts";
import { Gathered, hostAbout } from "./gathered.ts";
import { asJson, asModule, summary, word } from "./lesson.ts";
import { type About, isPlainVariable } from "./need.ts";
import { extend } from "./policy.ts";
import type { Sandbox } from "./sandbox.ts";
import { noSandbox } from "./status.ts";
import { filesOf, gather, type Observe, startedBy, subjectOf, type Variables } from "./subject.ts";
import { suggestion } from "./suggestion.ts";
import { say } from "./terminal.ts";

/** `caisson learn`, as it was asked for. */
export interface LearnCommand {
  readonly kind: About["kind"];
  readonly argv: readonly [string, ...string[]];
  /** The two files that are written are called this, with an ending each. */
  readonly out: string;
  /** What becomes of those that are there already. */
  readonly over: "force" | "merge" | undefined;
  /** More variables that it has. They become part of the policy only where their names say that they are no secrets. */
  readonly env: Readonly<Record<string, string>>;
}

const FLAGS = ["--out", "--merge", "--force", "--env", "--help"];

/** `caisson learn`'s arguments. Returns undefined where help is asked for; throws UsageError. */
export function learnCommandOf(args: readonly string[], own: Variables): LearnCommand | undefined {
  let out: string | undefined;
  let over: LearnCommand["over"];
  const env: Record<string, string> = {};
  let at = 0;
  for (; at < args.length && args[at]!.startsWith("-") && args[at] !== "--"; at++) {
    const [, name = args[at]!, value] = /^(--\w+)=(.*)$/s.exec(args[at]!) ?? [];
    if (name === "--help" || name === "-h") return undefined;
    if (name === "--force" && value === undefined) over = "force";
    else if (name === "--merge" && value === undefined) over = "merge";
    else if (name === "--out" && value) out = value;
    else if (name === "--env" && value) Object.assign(env, variableOf(value, own));
    else if (name === "--out") throw new UsageError("Cannot use --out without a value: --out=path is expected");
    else if (name === "--env") throw new UsageError("Cannot use --env without a value: --env=NAME is expected");
    else throw new UsageError(`Cannot understand ${args[at]}: there is no such flag${suggestion(name, FLAGS)}`);
  }
  const kind = args[at] === "--" ? "program" : "actor";
  const [first, ...rest] = args.slice(kind === "program" ? at + 1 : at);
  if (first === undefined)
    throw new UsageError("Cannot learn of nothing: caisson learn script.ts or caisson learn -- program is expected");
  return {
    kind,
    argv: [first, ...rest],
    out: resolve(out?.replace(/\.(?:json|ts)$/, "") ?? nameFor(first)),
    over,
    env,
  };
}

function nameFor(program: string): string {
  const name = basename(program);
  return `${name.slice(0, name.length - extname(name).length) || name}.policy`;
}

function variableOf(value: string, own: Variables): Record<string, string> {
  const end = value.indexOf("=");
  const name = end < 0 ? value : value.slice(0, end);
  const given = end < 0 ? own[name] : value.slice(end + 1);
  if (name === "") throw new UsageError(`Cannot use --env=${value}: a name is expected`);
  if (given === undefined)
    throw new UsageError(`Cannot pass on ${name}: it is not set here; --env=${name}=value would set it`);
  return { [name]: given };
}

interface Files {
  readonly json: string;
  readonly module: string;
}

/** Runs it, writes what it needs, and returns its exit code. Throws UsageError before anything is started. */
export async function learn(command: LearnCommand, watch?: Observe): Promise<number> {
  const files = { json: `${command.out}.json`, module: `${command.out}.ts` };
  const before = earlier(files, command.over);
  const subject = await subjectOf({ ...command, own: process.env });
  if (typeof subject === "number") return subject;
  using _ = subject;
  const gathered = new Gathered();
  let code: number;
  try {
    code = await gather(gathered, subject, watch);
  } catch (error) {
    return await noSandbox(error);
  }
  const { kind, program, variables: env } = subject;
  const given = filesOf([...(kind === "program" ? [program] : []), ...startedBy(gathered)]);
  const lesson = learned(gathered, { ...hostAbout(), kind, program, env, given });
  const whole = before === undefined ? lesson : { ...lesson, sandbox: extend(before, lesson.sandbox) };
  // While it ran, anything may have come to stand there: nothing is replaced that nobody gave up, and no link is followed.
  if (command.over !== undefined) for (const path of Object.values(files)) rmSync(path, { force: true });
  writeFileSync(files.json, asJson(whole.sandbox), { flag: "wx" });
  writeFileSync(files.module, asModule(whole, command.argv.join(" ")), { flag: "wx" });
  await tell(lesson, { command, gathered, code, files });
  return code;
}

/** The policy that is to be added to. Throws UsageError for files that are there and were not given up. */
function earlier(files: Files, over: LearnCommand["over"]): Sandbox | undefined {
  const there = Object.values(files).find((path) => existsSync(path));
  if (there === undefined || over === "force") return undefined;
  if (over === undefined)
    throw new UsageError(
      `Cannot write ${relative("", there)}: it is there already; --merge adds to it, --force replaces it, --out=path names another`,
    );
  return sandboxIn(files.json, readDocument(files.json).value);
}

async function tell(
  lesson: Learned,
  run: { readonly command: LearnCommand; readonly gathered: Gathered; readonly code: number; readonly files: Files },
): Promise<void> {
  const { command, gathered, code } = run;
  const [json, module] = [run.files.json, run.files.module].map((path) => relative("", path)) as [string, string];
  const secret = Object.keys(command.env).filter((name) => !isPlainVariable(name));
  const flags = [`--policy=${json}`, ...(lesson.tmp ? ["--tmp"] : []), ...secret.map((name) => `--env=${name}`)];
  const how = command.kind === "program" ? ["exec", ...flags, "--"] : ["run", ...flags];
  await say(
    [
      `caisson: ${gathered}`,
      summary(lesson),
      ...(gathered.lost > 0 ? [`caisson: it did more than can be kept: ${gathered.lost} things are not in this`] : []),
      ...(code === 0 ? [] : [`caisson: it ended with ${code}: what it would have done behind that was not seen`]),
      `Written: ${json}, ${module}. With that:`,
      `  ${["caisson", ...how, ...command.argv].map(word).join(" ")}`,
    ].join("\n"),
  );
}
