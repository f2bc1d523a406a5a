/** What was learned, as a module, as a policy file, and for a person. What was observed chose its own names: none of them is more than text here. */
import type { Evidence, Learned, Undecided } from "./evidence.ts";
import { isPlainVariable, type Observation } from "./need.ts";
import { harmless } from "./output.ts";
import type { Sandbox } from "./sandbox.ts";
import { spelled } from "./unseen.ts";

/** A policy file, for `--policy`. */
export function asJson(sandbox: Sandbox): string {
  return `${spelled(JSON.stringify(sandbox, null, 2))}\n`;
}

/** A module that exports the sandbox, with the evidence beside each grant, and what is left to decide behind. */
export function asModule({ sandbox, tmp, evidence, undecided }: Learned, command: string): string {
  const because = new Map(evidence.map((each) => [each.grant, each]));
  const body = Object.entries(sandbox).flatMap(([key, value]) => [
    `  ${key}: ${Array.isArray(value) ? "[" : "{"}`,
    ...entriesOf(key, value).flatMap(({ grant, text }) => [...comment(because.get(grant)), `    ${text},`]),
    `  ${Array.isArray(value) ? "]" : "}"},`,
  ]);
  return [
    `// What was needed by: ${inline(command)}`,
    "// Written by caisson learn. Read it before you rely on it: what was not done, was not seen.",
    'import type { Sandbox } from "caisson";',
    "",
    ...(tmp ? ['// Beside it, temporary files need a place: files: [tmpfs("/tmp")], or --tmp.'] : []),
    ...(body.length === 0
      ? ["export const sandbox: Sandbox = {};"]
      : ["export const sandbox: Sandbox = {", ...body, "};"]),
    "",
    "export default sandbox;",
    ...(undecided.length === 0 ? [] : ["", "// Left for you to decide:", ...undecided.flatMap(question)]),
    "",
  ].join("\n");
}

/** What a person is told in the end: each grant with a reason, and what is left. */
export function summary({ evidence, undecided, tmp }: Learned): string {
  const granted = evidence.map((each) => `  ${inline(each.grant)}\n      ${reason(each)}`);
  const open = undecided.flatMap((each) => {
    const flags = flagsOf(each);
    return [
      `  ${inline(each.what)}\n      ${inline(each.why)}`,
      ...(flags === "" ? [] : [`      ${flags} would allow it`]),
    ];
  });
  return [
    ...(granted.length === 0 ? ["It needs nothing beyond itself."] : ["It needs to", ...granted]),
    ...(tmp ? ["  have a place for temporary files (--tmp)"] : []),
    ...(open.length === 0 ? [] : ["Left for you to decide", ...open]),
  ].join("\n");
}

/** The entries of one key, each with the grant that it is. */
function entriesOf(key: string, value: unknown): { readonly grant: string; readonly text: string }[] {
  if (Array.isArray(value)) return value.map((each: string) => ({ grant: `${key} ${each}`, text: literal(each) }));
  const verb = key === "unveil" ? "load" : key;
  return Object.entries(value as Record<string, string>).map(([name, text]) => ({
    grant: `${verb} ${name}`,
    // Without brackets it would be no property.
    text: `${name === "__proto__" ? '["__proto__"]' : literal(name)}: ${literal(text)}`,
  }));
}

function comment(evidence: Evidence | undefined): string[] {
  return evidence === undefined ? [] : [`    // ${reason(evidence)}`];
}

function question(open: Undecided): string[] {
  const flags = flagsOf(open);
  return [
    `// - ${inline(open.what)}: ${inline(open.why)}`,
    `//   ${reason({ because: open.evidence, more: open.more })}${flags === "" ? "" : `; ${flags} would allow it`}`,
  ];
}

/** `openat by node: /a, /b, and 3 more`. */
function reason({ because, more }: Pick<Evidence, "because" | "more">): string {
  const acts = Map.groupBy(
    because,
    ({ call, program }: Observation) => `${call}${program === "" ? "" : ` by ${program}`}`,
  );
  const told = [...acts].map(([act, seen]) => `${act}: ${[...new Set(seen.map(({ target }) => target))].join(", ")}`);
  return inline(`${told.join("; ")}${more > 0 ? `, and ${more} more` : ""}`);
}

/** The flags that grant what was left to decide. */
function flagsOf({ grant = {}, evidence }: Undecided): string {
  const lists = (["read", "write", "run", "net"] as const).flatMap((key) =>
    (grant[key] ?? []).map((value) => word(`--${key}=${value.replaceAll(",", ",,")}`)),
  );
  const names = evidence.filter(({ access, target }) => access === "environment" && !isPlainVariable(target));
  return [...lists, ...new Set(names.map(({ target }) => word(`--env=${target}`)))].join(" ");
}

/** A word as a shell takes it. */
export function word(text: string): string {
  return inline(/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
}

/** Text that ends no line, and that no reader or terminal takes for anything but itself. */
function inline(text: string): string {
  return spelled(harmless(text));
}

function literal(text: string): string {
  return spelled(JSON.stringify(text));
}
