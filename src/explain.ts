/** `caisson explain`: what a policy says of a system call, and why. */
import { release } from "node:os";
import { type Policy, parsePromises, platform, promiseOf } from "../platform/index.ts";
import * as seccomp from "../platform/seccomp.ts";
import { errnoName } from "../syscalls/error.ts";
import { machine, type SyscallName } from "../syscalls/kernel.ts";
import { NUMBERS } from "../syscalls/linux/numbers.ts";
import { type Asked, accessesOf, answerFor } from "./access.ts";
import { argumentsOf } from "./argument.ts";
import { readDocument, reasonOf, sandboxIn } from "./document.ts";
import { UsageError } from "./flags.ts";
import { extend, print } from "./policy.ts";
import { type Kind, policyOf, type Sandbox } from "./sandbox.ts";
import { suggestion } from "./suggestion.ts";
import { say } from "./terminal.ts";

/** What is asked. */
export interface Question {
  /** The file of the policy. */
  readonly policy: string;
  readonly of: Kind;
  readonly json: boolean;
  /** Without one, the policy itself is told. */
  readonly call?: string;
  readonly args: readonly string[];
}

/** What becomes of a call. */
interface Verdict {
  readonly allowed: boolean;
  /** What happens, in words. */
  readonly outcome: string;
  readonly because: string;
  /** The rule of a filter that gave it. */
  readonly rule?: seccomp.Rule;
  /** What would allow it. */
  readonly fix?: string;
  /** The same as data, for a sandbox. */
  readonly grant?: Sandbox;
}

const FLAGS = ["--policy", "--program", "--json", "--help"];

/** The arguments of `caisson explain`. Returns undefined where help is asked for; throws UsageError. */
export function questionOf(args: readonly string[]): Question | undefined {
  let policy: string | undefined;
  let [of, json, at]: [Kind, boolean, number] = ["actor", false, 0];
  for (; args[at]?.startsWith("-"); at++) {
    const [flag, value] = args[at]!.split(/=(.*)/s) as [string, string | undefined];
    if (flag === "--help" || flag === "-h") return undefined;
    if (flag === "--policy" && policy === undefined) policy = value ?? args[++at];
    else if (flag === "--policy") throw new UsageError("Cannot use --policy twice: once is expected");
    else if (args[at] === "--program") of = "program";
    else if (args[at] === "--json") json = true;
    else throw new UsageError(`Cannot understand ${args[at]}: there is no such flag${suggestion(flag, FLAGS)}`);
  }
  if (policy === undefined || policy === "")
    throw new UsageError(
      "Cannot explain nothing: a policy is expected, as in caisson explain --policy=policy.json openat /etc/passwd",
    );
  const [call, ...rest] = args.slice(at);
  return { policy, of, json, args: rest, ...(call === undefined ? {} : { call }) };
}

/** Answers on standard output. Returns 0 for a call that is let through, 1 for one that is not. Throws UsageError. */
export async function explain(question: Question): Promise<number> {
  const { text, allowed } = answer(question);
  await say(text, 1);
  return allowed ? 0 : 1;
}

/** What there is to say. Throws UsageError. */
export function answer({ policy, of, json, call, args }: Question): {
  readonly text: string;
  readonly allowed: boolean;
} {
  const subject = subjectOf(policy, of);
  const told = (value: unknown, words: () => string) => (json ? JSON.stringify(value, bigints, 2) : words());
  if (call === undefined) return { text: told(subject.plain, subject.print), allowed: true };
  const asked = callOf(call);
  const verdict = subject.verdict({ call: asked, ...argumentsOf(asked, args) });
  return { text: told({ call, ...verdict }, () => describe(verdict)), allowed: verdict.allowed };
}

const bigints = (_key: string, value: unknown) => (typeof value === "bigint" ? `0x${value.toString(16)}` : value);

function describe({ outcome, because, fix }: Verdict): string {
  return [`verdict:  ${outcome}`, `because:  ${because}`, ...(fix === undefined ? [] : [`to allow: ${fix}`])].join(
    "\n",
  );
}

function callOf(text: string): SyscallName | number {
  if (/^\d+$/.test(text)) return Number(text);
  const names = Object.keys(NUMBERS[machine()]);
  if (names.includes(text)) return text as SyscallName;
  throw new UsageError(`Cannot explain ${text}: there is no such call on ${machine()}${suggestion(text, names)}`);
}

/** A policy of one of the three kinds. */
interface Subject {
  /** What was read. */
  readonly plain: unknown;
  print(): string;
  verdict(asked: Asked): Verdict;
}

function subjectOf(path: string, of: Kind): Subject {
  const { text, value } = readDocument(path);
  const has = (key: string) => typeof value === "object" && value !== null && Object.hasOwn(value, key);
  // Whatever is wrong with it shows when it is used.
  const within = <Result>(act: () => Result): Result => {
    try {
      return act();
    } catch (error) {
      if (error instanceof UsageError) throw error;
      throw new UsageError(`Cannot use ${path}: ${reasonOf(error)}`, { cause: error });
    }
  };
  const subject = within(() => {
    if (has("defaultAction"))
      return ofFilter(seccomp.fromOci(text, { machine: machine(), kernel: kernelVersion() }), OCI_RULE);
    if (has("default") && has("rules")) return ofFilter(value as seccomp.Filter, OUR_RULE);
    return ofSandbox(sandboxIn(path, value), of);
  });
  return {
    plain: subject.plain,
    print: () => within(subject.print),
    verdict: (asked) => within(() => subject.verdict(asked)),
  };
}

const kernelVersion = () => /^\d+\.\d+/.exec(release())?.[0] ?? "0.0";

const OUR_RULE = (call: string) => JSON.stringify({ call, action: "allow" });
const OCI_RULE = (call: string) => JSON.stringify({ names: [call], action: "SCMP_ACT_ALLOW" });

function ofFilter(filter: seccomp.Filter, rule: (call: string) => string): Subject {
  return {
    plain: filter,
    print: () => printFilter(filter),
    verdict({ call, words }) {
      const verdict = judged(seccomp.explain(filter, call, words));
      if (verdict.allowed || typeof call === "number") return verdict;
      return { ...verdict, fix: `the rule ${rule(call)}, and none for it beside that` };
    },
  };
}

/** The calls of a filter by what becomes of them. */
function printFilter(filter: seccomp.Filter): string {
  seccomp.compile(filter); // throws for what is wrong with it
  const byAction = Map.groupBy(filter.rules, ({ action }) => outcomeOf(action).outcome);
  const lines = [...byAction].map(([outcome, rules]) => {
    const calls = rules.map(({ call, when }) => (when === undefined ? call : `${call} (for some arguments)`));
    return `${outcome}: ${[...new Set(calls)].join(", ")}`;
  });
  return [...lines, `everything else: ${outcomeOf(filter.default).outcome}`].join("\n");
}

function judged({ action, rule, because }: seccomp.Explanation): Verdict {
  return { ...outcomeOf(action), because, ...(rule === undefined ? {} : { rule }) };
}

function outcomeOf(action: seccomp.Action): Pick<Verdict, "allowed" | "outcome"> {
  if (action === "allow") return { allowed: true, outcome: "allowed" };
  if (action === "log") return { allowed: true, outcome: "allowed, and logged by the kernel" };
  return { allowed: false, outcome: refusalOf(action) };
}

const ENDS = {
  notify: "handed to the host, which decides",
  trap: "refused with the signal SIGSYS",
  "kill-process": "refused, and the process is killed with SIGSYS",
  "kill-thread": "refused, and the thread is killed with SIGSYS",
} as const;

function refusalOf(action: Exclude<seccomp.Action, "allow" | "log">): string {
  if (typeof action === "string") return ENDS[action];
  if ("trap" in action) return ENDS.trap;
  if ("trace" in action) return "handed to the tracer, which decides";
  const errno = typeof action.errno === "number" ? errnoName(action.errno) : action.errno;
  return action.errno === 0 ? "left out, as if it had succeeded" : `refused with ${errno}`;
}

function ofSandbox(sandbox: Sandbox, of: Kind): Subject {
  return {
    plain: sandbox,
    print: () => print(sandbox, of),
    verdict(asked) {
      const verdict = verdictOf(asked, policyOf(sandbox, of), of);
      if (verdict.allowed) return verdict;
      // What would allow it is found by trying, so it is no guess.
      const found = candidates(asked, sandbox, of).find(({ grant }) => wouldAllow(asked, sandbox, { grant, of }));
      return { ...verdict, ...(found ?? { fix: "None: no grant allows it" }) };
    },
  };
}

function wouldAllow(asked: Asked, sandbox: Sandbox, { grant, of }: { grant: Sandbox; of: Kind }): boolean {
  try {
    return verdictOf(asked, policyOf(extend(sandbox, grant), of), of).allowed;
  } catch {
    return false; // it cannot be granted
  }
}

interface Candidate {
  readonly grant: Sandbox;
  readonly fix: string;
}

/** Grants that may help, the smallest first. */
function candidates(asked: Asked, { promises }: Sandbox, of: Kind): Candidate[] {
  const paths = accessesOf(asked).map(({ path, needs }): Candidate => {
    const flag = needs.includes("x") ? "run" : needs === "" || needs === "r" ? "read" : "write";
    return { grant: { [flag]: [path] }, fix: `--${flag}=${path}` };
  });
  const grants: Candidate[] = [
    ...(paths.length === 0 ? [] : [paths.reduce(together)]),
    { grant: { net: ["example.com:443"] }, fix: "--net=host:port" },
  ];
  const lacking = promises === undefined ? undefined : promiseLacked(asked, parsePromises(promises), of);
  if (lacking === undefined) return grants;
  const word: Candidate = {
    grant: { promises: lacking },
    fix: `the ${lacking.includes(" ") ? "promises" : "promise"} ${lacking}`,
  };
  return [...grants, word, ...grants.map((grant) => together(grant, word))];
}

const together = (one: Candidate, other: Candidate): Candidate => ({
  grant: extend(one.grant, other.grant),
  fix: one.fix === other.fix ? one.fix : `${one.fix} and ${other.fix}`,
});

function promiseLacked({ call, words }: Asked, promises: readonly string[], of: Kind): string | undefined {
  if (typeof call === "number") return undefined;
  const args = Array.from({ length: 6 }, (_, index) => words[index] ?? 0n);
  return promiseOf({ call, args }, promises, of === "program" ? { for: "program" } : { for: "self", pid: 1 });
}

/** The strictest of a call's verdicts: those of the filters, as the kernel has it, and that of its paths. */
function verdictOf(asked: Asked, policy: Policy, of: Kind): Verdict {
  const verdicts = platform.filters(policy, of).map((filter, index) => {
    const explanation = seccomp.explain(filter, asked.call, asked.words);
    return { explanation, verdict: judged({ ...explanation, because: `${FILTERS[index]}: ${explanation.because}` }) };
  });
  const [strictest] = verdicts.toSorted((a, b) => rankOf(a.explanation.action) - rankOf(b.explanation.action));
  if (!strictest!.verdict.allowed) return strictest!.verdict;
  const answers = accessesOf(asked).map((access) => answerFor(access, policy, of));
  const refused = answers.find(({ granted }) => !granted);
  if (refused !== undefined)
    return { allowed: false, outcome: `refused with ${refused.errno}`, because: refused.because };
  if (answers.length === 0) return strictest!.verdict;
  return { ...strictest!.verdict, because: answers.map(({ because }) => because).join(", ") };
}

const FILTERS = ["its filter", "the filter of its promises"] as const;

/** As the kernel has it, beginning with what counts before all others. `seccomp(2)` */
const STRICTNESS = ["kill-process", "kill-thread", "trap", "errno", "notify", "trace", "log", "allow"];
const rankOf = (action: seccomp.Action) =>
  STRICTNESS.indexOf(typeof action === "string" ? action : Object.keys(action)[0]!);
