/** What an egress refused, told to the person who can add a rule. */
import type { Decision } from "./decision.ts";
import type { Denial } from "./denial.ts";
import { harmless } from "./output.ts";
import { parseRule, type Rule, ruleForName } from "./rule.ts";
import { say } from "./terminal.ts";

/** So many hosts are told of; a program can ask for any number. */
const MOST = 64;

/** Tells of each host once: at once, or in the end, lest it be drawn over. */
export class Denials {
  readonly #rules: readonly Rule[];
  readonly #atOnce: boolean;
  readonly #known = new Set<string>();
  readonly #held: string[] = [];
  #more = 0;

  constructor(rules: readonly Rule[], { atOnce }: { readonly atOnce: boolean }) {
    this.#rules = rules;
    this.#atOnce = atOnce;
  }

  readonly take = (decision: Decision): void => {
    if (decision.allowed) return;
    const text = describeDenial(denialOf(decision, this.#rules));
    if (this.#known.has(text)) return;
    if (this.#known.size === MOST) {
      this.#more++;
      return;
    }
    this.#known.add(text);
    if (this.#atOnce) void say(text);
    else this.#held.push(text);
  };

  /** Tells what was not yet. */
  async tell(): Promise<void> {
    for (const text of this.#held) await say(text);
    if (this.#more > 0) await say(`caisson denied: ${this.#more} more`);
  }
}

export function denialOf({ host, port, address, reason }: Decision, rules: readonly Rule[]): Denial {
  const place = (name: string) => (name.includes(":") ? `[${name}]:${port}` : `${name}:${port}`);
  // Where a rule has the name, what is missing is the address that it led to, or there is none.
  const named = ruleForName(rules, host, port) !== undefined;
  return {
    what: `connect ${place(host)}`,
    wall: `proxy of the host: ${reason}`,
    guarantee: "network",
    fix:
      named && address === undefined ? "None: there is nothing to connect to" : ruleFor(place(named ? address! : host)),
  };
}

function ruleFor(place: string): string {
  try {
    return `--net=${parseRule(place).text}`;
  } catch (error) {
    return `None: ${(error as Error).message}`;
  }
}

/** Lines for a person; parts of them may be the words of what was denied. */
export function describeDenial({ what, wall, guarantee, fix }: Denial): string {
  const line = (text: string) => harmless(text);
  return `caisson denied: ${line(what)}\n  by wall:     ${line(wall)}\n  guarantee:   ${guarantee}\n  to allow it: ${line(fix)}`;
}
