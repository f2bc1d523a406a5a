/** Policies compared: whether one asks for nothing that another one does not grant, and if it does, for what. */
import type { Policy } from "../platform/index.ts";
import { excessive, grantsOf, lettersOf, READ, WRITE } from "./grant.ts";
import { LIMIT_KEYS, printLimit, weightOf } from "./limits.ts";
import { isRuleWithin, parseRule } from "./rule.ts";
import { checked, completed, type Kind, located, type Sandbox } from "./sandbox.ts";

/** The first of what a policy asks for that is beyond another one. */
export interface Excess {
  /** Where it stands, such as `read` or `limits.memory`. */
  readonly key: string;
  readonly value: string;
  /** What the other policy has there, in words. */
  readonly bound: string;
}

/** The policy, if it asks for nothing that `within` does not grant. Throws RangeError that says what exceeds. */
export function policyWithin(policy: Policy, within: Sandbox | undefined, of: Kind = "actor"): Policy {
  const excess = within === undefined ? undefined : excessOf(policy, boundOf(within, of));
  if (excess === undefined) return policy;
  const { key, value, bound } = excess;
  throw new RangeError(`Cannot grant ${key} ${value}: the policy that it is to stay within has ${bound}`);
}

/** A sandbox to compare with: its paths need not be there, and may be more than can be granted. */
export function boundOf(sandbox: Sandbox, of: Kind = "program"): Policy {
  return completed(checked(sandbox), of, located);
}

type Compare = (policy: Policy, bound: Policy) => Excess | undefined;

/** What a policy asks for beyond another one. A key of policies is one entry here. */
export function excessOf(policy: Policy, bound: Policy): Excess | undefined {
  for (const compare of [files, programs, network, variables, limits, promises, breaking, unenforced]) {
    const excess = compare(policy, bound);
    if (excess !== undefined) return excess;
  }
  return undefined;
}

const files: Compare = (policy, bound) => {
  const excess = excessive(grantsOf(policy), grantsOf(bound));
  if (excess === undefined) return undefined;
  const { path, asked, granted } = excess;
  const key = (asked & ~READ) === 0 ? "read" : (asked & ~WRITE) === 0 ? "write" : "unveil";
  return {
    key,
    value: path,
    bound: granted === 0 ? "no grant for that path" : `"${lettersOf(granted)}" for that path`,
  };
};

/** A name and a path are two things, for what a name means is known when it is looked up. */
const programs: Compare = (policy, bound) => {
  const known = bound.run.map(absolute);
  const value = policy.run.find((program) => !known.includes(absolute(program)));
  return value === undefined ? undefined : { key: "run", value, bound: listed(bound.run) };
};

/** Not shortened: behind a link, `..` is where the link leads. */
export function absolute(program: string): string {
  return program.includes("/") && !program.startsWith("/") ? `${process.cwd()}/${program}` : program;
}

const network: Compare = (policy, bound) => {
  const rules = bound.net.map(parseRule);
  const value = policy.net.find((text) => !rules.some((rule) => isRuleWithin(parseRule(text), rule)));
  return value === undefined ? undefined : { key: "net", value, bound: listed(bound.net) };
};

/** An environment is data that is handed on, so the names are to be there with these very values. */
const variables: Compare = (policy, bound) => {
  const value = Object.keys(policy.env).find(
    (name) => !Object.hasOwn(bound.env, name) || policy.env[name] !== bound.env[name],
  );
  if (value === undefined) return undefined;
  return { key: "env", value, bound: Object.hasOwn(bound.env, value) ? "another value for it" : "no such variable" };
};

const limits: Compare = (policy, bound) => {
  const key = LIMIT_KEYS.find((key) => weightOf(policy.limits, key) > weightOf(bound.limits, key));
  if (key === undefined) return undefined;
  const [value, most] = [policy, bound].map(({ limits }) => printLimit(key, limits[key])) as [string, string];
  return { key: `limits.${key}`, value, bound: most };
};

/** Who promises nothing at all keeps to nothing: that is more than any promise. */
const promises: Compare = (policy, { promises: words }) => {
  if (words === undefined) return undefined;
  const bound = words.length === 0 ? "nothing" : words.join(" ");
  if (policy.promises === undefined) return { key: "promises", value: "(everything)", bound };
  const value = policy.promises.find((word) => !words.includes(word));
  return value === undefined ? undefined : { key: "promises", value, bound };
};

const breaking: Compare = (policy, bound) =>
  policy.onBreak === "errno" && bound.onBreak === "kill"
    ? { key: "onBreak", value: "errno", bound: "kill" }
    : undefined;

const unenforced: Compare = (policy, bound) => {
  const value = policy.allowUnenforced.find((guarantee) => !bound.allowUnenforced.includes(guarantee));
  return value === undefined ? undefined : { key: "allowUnenforced", value, bound: listed(bound.allowUnenforced) };
};

const listed = (words: readonly string[]) => (words.length === 0 ? "none" : words.join(", "));
