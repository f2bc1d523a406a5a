/** What a host shows of itself at one moment, and how that becomes a line. */
import { basename } from "node:path";
import type { Inspection } from "./inspection.ts";
import { count, inspections } from "./roster.ts";
import { spelled } from "./unseen.ts";

export interface Snapshot {
  /** Of the form; a number that a reader does not know is another form. */
  readonly version: 1;
  readonly pid: number;
  /** What the host is called: its script. */
  readonly host: string;
  /** In milliseconds since 1970. */
  readonly at: number;
  readonly members: readonly Inspection[];
  /** How many more there are than are told of. */
  readonly more: number;
}

/** So many are told of at once. */
const MOST_MEMBERS = 1000;
/** The longest name that is told, in characters. */
const NAME = 128;

export async function snapshot(): Promise<Snapshot> {
  const members = [...(await inspections(MOST_MEMBERS)).values()];
  return {
    version: 1,
    pid: process.pid,
    host: basename(process.argv[1] ?? process.execPath).slice(0, NAME),
    at: Date.now(),
    members: members.map((each) => ({ ...each, name: each.name.slice(0, NAME) })),
    more: Math.max(0, count() - members.length),
  };
}

/** A value as one line of JSON on which a terminal does nothing, whatever it quotes. */
export function jsonLine(value: unknown): string {
  return `${spelled(JSON.stringify(value))}\n`;
}
