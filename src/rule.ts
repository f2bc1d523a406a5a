/** Rules of an egress: `host:port`, `*.example.com:443`, `10.0.0.0/8:5432`, `[fd00::/8]:80`. */
import { type Address, contains, covers, parseHost, parseRange, type Range, specialOf } from "./address.ts";

export type Rule = NameRule | RangeRule;

interface NameRule {
  readonly text: string;
  readonly port: number;
  readonly name: string;
  /** All names that end in the name, behind a dot, and not the name itself. */
  readonly below: boolean;
}

interface RangeRule {
  readonly text: string;
  readonly port: number;
  readonly range: Range;
}

/** Reads a rule. Throws TypeError for anything that is not clearly one: a rule that means nothing, or too much, is a mistake. */
export function parseRule(text: string): Rule {
  const refuse = (why: string) => new TypeError(`Cannot use ${JSON.stringify(text)} as a rule: ${why}`);
  const [, host = "", digits = ""] = /^(.*):([^:\]]*)$/s.exec(text) ?? [];
  if (host === "") throw refuse('"host:port" is expected');
  const port = parsePort(digits);
  if (port === undefined) throw refuse("a port from 1 to 65535 is expected, no other and no `*`");
  const inner = /^\[([^[\]]*:[^[\]]*)\]$/.exec(host)?.[1];
  if (inner === undefined && host.includes(":")) throw refuse("an IPv6 address stands in brackets");
  const range = parseRange(inner ?? host);
  if (range !== undefined) return { text, port, range };
  if (inner !== undefined || host.includes("/")) throw refuse("it is no range of addresses");
  const below = host.startsWith("*.");
  const rest = below ? host.slice(2) : host;
  if (rest.includes("*")) throw refuse("`*` is only the whole first label, with a name behind it");
  const parsed = parseHost(rest);
  if ("address" in parsed) throw refuse(below ? "an address has no labels" : `write ${parsed.address.text}:${port}`);
  const { name } = parsed;
  if (name === "localhost" || name.endsWith(".localhost")) {
    throw refuse(`no name admits this machine itself, write 127.0.0.1:${port} or [::1]:${port}`);
  }
  return { text, port, name, below };
}

/** A port in its only form, 1 to 65535. */
function parsePort(digits: string): number | undefined {
  const port = /^[1-9]\d{0,4}$/.test(digits) ? Number(digits) : 0;
  return port >= 1 && port <= 65_535 ? port : undefined;
}

/** Splits `host:port`, `[::1]:port`. Throws TypeError for anything else. */
export function parseTarget(text: string): { readonly host: string; readonly port: number } {
  const [, host, digits] = /^(\[[^[\]]*\]|[^:[\]]+):(\d+)$/s.exec(text) ?? [];
  const port = parsePort(digits ?? "");
  if (host === undefined || port === undefined) {
    throw new TypeError(`Cannot connect to ${JSON.stringify(text.slice(0, 300))}: "host:port" is expected`);
  }
  return { host, port };
}

/** The rule by which a name may be resolved. */
export function ruleForName(rules: readonly Rule[], name: string, port: number): Rule | undefined {
  return rules.find(
    (rule) =>
      "name" in rule && rule.port === port && (rule.below ? name.endsWith(`.${rule.name}`) : name === rule.name),
  );
}

/**
 * The rule that names an address. One that is not public is named by ranges within its own kind only: 0.0.0.0/0 is the public internet,
 * and does not reach into 10.0.0.0/8.
 */
export function ruleForAddress(rules: readonly Rule[], address: Address, port: number): Rule | undefined {
  const least = specialOf(address)?.range.prefix ?? 0;
  return rules.find(
    (rule) => "range" in rule && rule.port === port && contains(rule.range, address) && rule.range.prefix >= least,
  );
}

/** Whatever the rule admits, the other one admits. */
export function isRuleWithin(rule: Rule, outer: Rule): boolean {
  if (rule.port !== outer.port) return false;
  if ("name" in rule && "name" in outer) {
    if (rule.name === outer.name) return rule.below === outer.below;
    return outer.below && rule.name.endsWith(`.${outer.name}`);
  }
  if (!("range" in rule && "range" in outer) || !covers(outer.range, rule.range)) return false;
  // Of addresses that are not public it admits those that its own range is among; the other one must be, too.
  return (specialOf(rule.range)?.range.prefix ?? 0) <= outer.range.prefix;
}

/** The rule in its only form. */
export function formatRule(rule: Rule): string {
  if ("name" in rule) return `${rule.below ? "*." : ""}${rule.name}:${rule.port}`;
  const { text, prefix, length } = rule.range;
  const range = prefix === length ? text : `${text}/${prefix}`;
  return `${length === 32 ? range : `[${range}]`}:${rule.port}`;
}
