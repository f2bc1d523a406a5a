/** A sandbox in words for a person. */
import { printable } from "./decision.ts";
import { grantsOf, lettersOf } from "./grant.ts";
import { LIMITS, type LimitKey, printLimit } from "./limits.ts";
import { parseRule } from "./rule.ts";
import type { Kind, Sandbox } from "./sandbox.ts";
import { boundOf } from "./within.ts";

const DEEDS = { r: "read", w: "write", x: "execute", c: "create, rename and remove" } as const;

/** What a sandbox allows, line by line, and what it does not. Variables are named without their values. Throws as `isWithin` does. */
export function print(sandbox: Sandbox, of: Kind = "program"): string {
  const policy = boundOf(sandbox, of);
  const grants = [...grantsOf(policy)].toSorted(([a], [b]) => (a < b ? -1 : 1));
  const byLetters = Map.groupBy(grants, ([, bits]) => lettersOf(bits));
  const files = [...byLetters].toSorted(([a], [b]) => (a < b ? -1 : 1));
  const rows: (readonly [string, readonly string[]])[] = [
    ...files.map(([letters, paths]) => [`May ${deedsOf(letters)}`, paths.map(([path]) => printable(path))] as const),
    ["May run", policy.run.map(printable)],
    ["May connect to", policy.net.map(hostOf)],
    ["Is given", Object.keys(policy.env).toSorted().map(printable)],
    ["Keeps to", promised(policy)],
    ["Is held to", Object.entries(policy.limits).map(([key, amount]) => limitOf(key as LimitKey, amount))],
    ["May start without", policy.allowUnenforced.map((guarantee) => `the guarantee "${guarantee}"`)],
    ["May not", refusals(policy, grants.map(([, bits]) => lettersOf(bits)).join(""))],
  ];
  const told = rows.filter(([, lines]) => lines.length > 0);
  const width = Math.max(...told.map(([label]) => label.length)) + 2;
  return told.map(([label, lines]) => `${label.padEnd(width)}${lines.join(`\n${" ".repeat(width)}`)}`).join("\n");
}

type Described = ReturnType<typeof boundOf>;

function deedsOf(letters: string): string {
  if (letters === "rwc") return "read and write";
  const deeds = [...letters].map((letter) => DEEDS[letter as keyof typeof DEEDS]);
  return deeds.join(", ");
}

function hostOf(text: string): string {
  const rule = parseRule(text);
  const port = `port ${rule.port}`;
  if ("range" in rule)
    return `${rule.range.text}${rule.range.prefix === rule.range.length ? "" : `/${rule.range.prefix}`}, ${port}`;
  return rule.below ? `any name that ends in .${rule.name}, ${port}` : `${rule.name}, ${port}`;
}

function promised({ promises, onBreak }: Described): string[] {
  if (promises === undefined) return [];
  const end = onBreak === "kill" ? "whatever else it calls ends it" : "whatever else it calls fails";
  return [`${promises.length === 0 ? "no promise but to end" : `the promises ${promises.join(" ")}`}: ${end}`];
}

const limitOf = (key: LimitKey, amount: number) =>
  amount === 1 && key === "processes" ? "1 process" : `${printLimit(key, amount)} ${LIMITS[key].told}`;

function refusals({ run, net, env, promises }: Described, letters: string): string[] {
  const missing = [
    [letters.includes("r"), "read any file that is not its own"],
    [/[wc]/.test(letters), "write any file"],
    [run.length > 0 || letters.includes("x"), "run any program but its own"],
    [net.length > 0, "connect to any host"],
    [Object.keys(env).length > 0, "see any variable of the environment"],
    [promises === undefined || promises.length > 0, "do anything but end"],
  ] as const;
  return missing.flatMap(([may, deed]) => (may ? [] : [deed]));
}
