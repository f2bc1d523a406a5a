/** Policies as values: `caisson/policy`. Read, compared, joined and printed; all of it before anything is started. */
import { resolve } from "node:path";
import type { Policy } from "../platform/index.ts";
import { bitsOf, common, covers, type Grants, grantAt, grantsOf, lettersOf, united } from "./grant.ts";
import { heldOf, joined, LIMIT_KEYS, type SandboxLimits, weightOf, writtenOf } from "./limits.ts";
import { formatRule, isRuleWithin, parseRule, type Rule } from "./rule.ts";
import { checked, type Kind, type Sandbox } from "./sandbox.ts";
import { readJson } from "./strict.ts";
import { absolute, boundOf, type Excess, excessOf } from "./within.ts";

export { print } from "./print.ts";
export type { Kind, Sandbox } from "./sandbox.ts";
export type { Excess } from "./within.ts";

/**
 * A sandbox from JSON text, or from a value of unknown origin. Relative paths are of `directory`, by default the working directory. Throws TypeError
 * or RangeError with the place of what is wrong. What paths lead to is not looked at.
 */
export function parse(policy: unknown, { directory = "." }: { readonly directory?: string } = {}): Sandbox {
  const sandbox = structuredClone(checked(typeof policy === "string" ? readJson(policy) : policy));
  const at = (path: string) => resolve(directory, path);
  const { read, write, run, unveil } = sandbox;
  return {
    ...sandbox,
    ...(read === undefined ? {} : { read: read.map(at) }),
    ...(write === undefined ? {} : { write: write.map(at) }),
    ...(run === undefined ? {} : { run: run.map((name) => programAt(directory, name)) }),
    ...(unveil === undefined ? {} : { unveil: moved(unveil, at) }),
  };
}

/** Not shortened: behind a link, `..` leads elsewhere than its text says. */
function programAt(directory: string, name: string): string {
  return name.startsWith("/") || !name.includes("/")
    ? name
    : `${resolve(directory)}/${name.replace(/^(?:\.\/+)+/, "")}`;
}

function moved(unveil: Readonly<Record<string, string>>, at: (path: string) => string): Record<string, string> {
  const paths = Map.groupBy(Object.entries(unveil), ([path]) => at(path));
  return Object.fromEntries(
    [...paths].map(([path, all]) => [path, lettersOf(bitsOf(all.map(([, letters]) => letters).join("")))]),
  );
}

/**
 * Whether whatever `sandbox` allows, `parent` allows. Paths are compared as they lead now, hosts as rules admit them, amounts as amounts, and what
 * is left out as what it then is: no grant, the usual limit, no promise. Variables of the environment must have the same values.
 * In doubt it is not. Throws as `parse` does, and the SystemError of a path that cannot be followed.
 */
export function isWithin(sandbox: Sandbox, parent: Sandbox, of: Kind = "program"): boolean {
  return excess(sandbox, parent, of) === undefined;
}

/** What `isWithin` found first that `parent` does not allow; undefined where it is within. */
export function excess(sandbox: Sandbox, parent: Sandbox, of: Kind = "program"): Excess | undefined {
  return excessOf(boundOf(sandbox, of), boundOf(parent, of));
}

/** Whether two sandboxes allow the same, whatever the words. */
export function equals(a: Sandbox, b: Sandbox): boolean {
  const [one, other] = [boundOf(a), boundOf(b)];
  return excessOf(one, other) === undefined && excessOf(other, one) === undefined;
}

/** The same in its shortest words: paths real and sorted, none that another one says already. */
export function normal(sandbox: Sandbox): Sandbox {
  return union(sandbox, sandbox);
}

/**
 * A sandbox that allows what either does. A limit or a promise that only one of them has does not bind the other one, so it is none of both; to add
 * grants to a sandbox that keeps its limits and promises is `extend`. Throws TypeError where a variable has two values.
 */
export function union(a: Sandbox, b: Sandbox): Sandbox {
  const [one, other] = [boundOf(a), boundOf(b)];
  for (const name of Object.keys(one.env)) {
    if (Object.hasOwn(other.env, name) && one.env[name] !== other.env[name])
      throw new TypeError(`Cannot unite two sandboxes: their variable ${name} has two values`);
  }
  return sandboxOf({
    grants: united(grantsOf(one), grantsOf(other)),
    run: [...one.run, ...other.run],
    rules: [...one.net, ...other.net].map(parseRule),
    env: { ...one.env, ...other.env },
    limits: limitsOf([a, one], [b, other], (first, second) => first >= second),
    allowUnenforced: [...one.allowUnenforced, ...other.allowUnenforced],
    promises: one.promises && other.promises && [...one.promises, ...other.promises],
    onBreak: one.onBreak === "kill" ? other.onBreak : one.onBreak,
    names: [...one.names, ...other.names],
  });
}

/** A sandbox that allows no more than either does. Variables that do not have the same value in both are left out. */
export function intersection(a: Sandbox, b: Sandbox): Sandbox {
  const [one, other] = [boundOf(a), boundOf(b)];
  const [rules, others] = [one.net.map(parseRule), other.net.map(parseRule)];
  const programs = new Set(other.run.map(absolute));
  return sandboxOf({
    grants: common(grantsOf(one), grantsOf(other)),
    run: one.run.filter((program) => programs.has(absolute(program))),
    rules: [
      ...rules.filter((rule) => others.some((outer) => isRuleWithin(rule, outer))),
      ...others.filter((rule) => rules.some((outer) => isRuleWithin(rule, outer))),
    ],
    env: Object.fromEntries(
      Object.entries(one.env).filter(([name, value]) => Object.hasOwn(other.env, name) && other.env[name] === value),
    ),
    limits: limitsOf([a, one], [b, other], (first, second) => first <= second),
    allowUnenforced: one.allowUnenforced.filter((guarantee) => other.allowUnenforced.includes(guarantee)),
    promises:
      one.promises === undefined
        ? other.promises
        : one.promises.filter((word) => other.promises === undefined || other.promises.includes(word)),
    onBreak: one.onBreak === "errno" ? other.onBreak : one.onBreak,
    names: one.names.filter(({ path, real }) => other.names.some((each) => each.path === path && each.real === real)),
  });
}

/**
 * A sandbox with more grants, such as that of a denial. What narrows it stays: limits, promises and `onBreak` are its own where `more` has none,
 * and its promises get those of `more`. A limit or a variable that both have is that of `more`.
 */
export function extend(sandbox: Sandbox, more: Sandbox): Sandbox {
  const [one, other] = [boundOf(sandbox), boundOf(more)];
  const [own, added] = [checked(sandbox), checked(more)];
  return sandboxOf({
    grants: united(grantsOf(one), grantsOf(other)),
    run: [...one.run, ...other.run],
    rules: [...one.net, ...other.net].map(parseRule),
    env: { ...one.env, ...other.env },
    limits: joined(
      LIMIT_KEYS.map((key) => {
        const more = writtenOf(added.limits, key);
        return Object.keys(more).length > 0 ? more : writtenOf(own.limits, key);
      }),
    ),
    allowUnenforced: [...one.allowUnenforced, ...other.allowUnenforced],
    promises: one.promises === undefined ? other.promises : [...one.promises, ...(other.promises ?? [])],
    onBreak: added.onBreak ?? one.onBreak,
    names: [...one.names, ...other.names],
  });
}

/** Of each limit the one that is preferred, as it was written; none where it is the one that holds without a word. */
function limitsOf(
  [a, one]: readonly [Sandbox, Policy],
  [b, other]: readonly [Sandbox, Policy],
  prefers: (first: number, second: number) => boolean,
): SandboxLimits {
  return joined(
    LIMIT_KEYS.map((key) => {
      const first = prefers(weightOf(one.limits, key), weightOf(other.limits, key));
      return first ? heldOf(a.limits, one.limits, key) : heldOf(b.limits, other.limits, key);
    }),
  );
}

interface Parts {
  readonly grants: Grants;
  readonly run: readonly string[];
  readonly rules: readonly Rule[];
  readonly env: Readonly<Record<string, string>>;
  readonly limits: SandboxLimits;
  readonly allowUnenforced: Policy["allowUnenforced"];
  readonly promises: Policy["promises"];
  readonly onBreak: Policy["onBreak"];
  readonly names: Policy["names"];
}

/** A sandbox of its parts: sorted, and without a key for what says nothing. */
function sandboxOf({ names, run, rules, env, limits, allowUnenforced, promises, onBreak, ...parts }: Parts): Sandbox {
  const grants = named(parts.grants, names);
  const as = (letters: string) =>
    sorted([...grants].filter(([, bits]) => lettersOf(bits) === letters).map(([path]) => path));
  const [read, write] = [as("r"), as("rwc")];
  const unveil = [...grants].map(([path, bits]) => [path, lettersOf(bits)] as const);
  const net = rules.filter(
    (rule, index) =>
      // Of two that say the same the first stays.
      !rules.some(
        (outer, at) => at !== index && isRuleWithin(rule, outer) && (at < index || !isRuleWithin(outer, rule)),
      ),
  );
  const whole: Required<Sandbox> = {
    read,
    write,
    run: sorted(run.map(absolute)),
    net: sorted(net.map(formatRule)),
    env: table(Object.entries(env)),
    limits,
    allowUnenforced: sorted(allowUnenforced),
    promises: sorted(promises ?? []).join(" "),
    unveil: table(unveil.filter(([, letters]) => letters !== "r" && letters !== "rwc")),
    onBreak,
  };
  const says = ([key, value]: readonly [string, unknown]) => {
    if (key === "promises") return promises !== undefined;
    return key === "onBreak" ? value !== "errno" : Object.keys(value as object).length > 0;
  };
  return Object.fromEntries(Object.entries(whole).filter(says));
}

/** Grants with the names of what they grant, but for those that stand within one. */
function named(grants: Grants, names: Policy["names"]): Grants {
  const apart = names.filter(({ path }) => ![...grants.keys()].some((grant) => covers(grant, path)));
  const more = apart.map(({ path, real }) => [path, grantAt(grants, real)] as const);
  return new Map([...grants, ...more.filter(([, bits]) => bits !== 0)]);
}

const sorted = <Word extends string>(words: Iterable<Word>): Word[] => [...new Set(words)].toSorted();
const table = (entries: readonly (readonly [string, string])[]) =>
  Object.fromEntries(entries.toSorted(([a], [b]) => (a < b ? -1 : 1)));
