/** `--audit`: a run in which nothing but secrets is refused, and what the sandbox would have refused of it. */
import { type Denial, describeDenial } from "./denial.ts";
import { madeIn } from "./evidence.ts";
import { inFlags } from "./flags.ts";
import { Gathered, hostAbout } from "./gathered.ts";
import type { About } from "./need.ts";
import { wouldRefuse } from "./refusal.ts";
import { parseRule } from "./rule.ts";
import { policyOf, type Sandbox } from "./sandbox.ts";
import { noSandbox } from "./status.ts";
import { filesOf, gather, startedBy, subjectOf } from "./subject.ts";
import { say } from "./terminal.ts";

/** What would be run, and in which sandbox. */
export interface Trial {
  readonly kind: About["kind"];
  /** The script or the program, and its arguments. */
  readonly argv: readonly string[];
  readonly sandbox: Sandbox;
  /** Whether it would have a `/tmp` of its own. */
  readonly tmp?: boolean;
  readonly cwd?: string;
}

/** Runs it without its walls, says what they would have refused, and returns its exit code. Throws UsageError before anything is started. */
export async function audit({ kind, argv, sandbox, tmp = false, cwd }: Trial): Promise<number> {
  const policy = policyIn(sandbox, kind);
  const subject = await subjectOf({
    kind,
    argv,
    env: policy.env,
    own: {},
    ...(cwd === undefined ? {} : { cwd }),
  });
  if (typeof subject === "number") return subject;
  using _ = subject;
  const gathered = new Gathered();
  let code: number;
  try {
    code = await gather(gathered, subject);
  } catch (error) {
    return await noSandbox(error);
  }
  const { program } = subject;
  const observations = [...gathered];
  const given = filesOf(kind === "program" ? [program, ...policy.run] : []);
  if (tmp) for (const path of madeIn(observations)) if (path.startsWith("/tmp/")) given.add(path);
  const about: About = { ...hostAbout(), kind, program, given };
  const denials = new Map<string, Denial>();
  for (const observation of observations) {
    const denial = wouldRefuse(observation, policy, about);
    // The same file by another call is no other matter.
    if (denial !== undefined) denials.set(JSON.stringify([denial.target, denial.fix]), denial);
  }
  // What a program starts with comes with it: where it is refused, that is said once.
  const started = startedBy(observations);
  const brought = filesOf(started);
  const told = [...denials.values()].filter(({ target }) => started.includes(target) || !brought.has(target));
  await tell(told, gathered);
  return code;
}

function policyIn(sandbox: Sandbox, kind: About["kind"]) {
  try {
    for (const rule of sandbox.net ?? []) parseRule(rule);
    return policyOf(sandbox, kind);
  } catch (error) {
    throw inFlags(error);
  }
}

async function tell(denials: readonly Denial[], gathered: Gathered): Promise<void> {
  for (const denial of denials) await say(describeDenial(denial).replace(/^caisson denied:/, "caisson would deny:"));
  const lost = gathered.lost > 0 ? `; it did more than can be kept, ${gathered.lost} things were not looked at` : "";
  await say(`caisson: ${denials.length} of what it did would be refused (${gathered})${lost}`);
}
