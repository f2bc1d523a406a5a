/** What was observed in one run, and the host as it is behind that. */
import { readdirSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { looker } from "./look.ts";
import type { About, Observation } from "./need.ts";

/** So many different things are kept; a program can do any number. */
const MOST_OBSERVATIONS = 100_000;

/** What was observed, each thing once. */
export class Gathered implements Iterable<Observation> {
  readonly #known = new Map<string, Observation>();
  readonly #counts = { files: new Set<string>(), programs: new Set<string>(), addresses: new Set<string>() };
  /** How many there was no room for. */
  lost = 0;

  take(observation: Observation): void {
    const { call, access, target, exists, program } = observation;
    const key = JSON.stringify([call, access, target, exists, program]);
    if (this.#known.has(key)) return;
    if (this.#known.size === MOST_OBSERVATIONS) {
      this.lost++;
      return;
    }
    this.#known.set(key, observation);
    if (access === "run") this.#counts.programs.add(target);
    else if (access === "connect" || access === "bind") this.#counts.addresses.add(target);
    else if (target.startsWith("/")) this.#counts.files.add(target);
  }

  [Symbol.iterator](): Iterator<Observation> {
    return this.#known.values();
  }

  /** `123 files, 4 programs, 1 address` */
  toString(): string {
    const { files, programs, addresses } = this.#counts;
    const some = (count: number, one: string, more: string) =>
      count === 0 ? [] : [`${count} ${count === 1 ? one : more}`];
    const told = [
      ...some(files.size, "file", "files"),
      ...some(programs.size, "program", "programs"),
      ...some(addresses.size, "address", "addresses"),
    ];
    return told.join(", ") || "nothing";
  }
}

/** More files than these are not looked through for secrets. */
const MOST_BENEATH = 4000;

/** The host, as it is after the run. */
export function hostAbout(): Pick<About, "home" | "cwd" | "look" | "beneath"> {
  const known = new Map<string, readonly string[] | undefined>();
  const beneath = (directory: string) => {
    if (!known.has(directory)) known.set(directory, filesBeneath(directory));
    return known.get(directory);
  };
  return { home: homedir(), cwd: process.cwd(), look: looker(), beneath };
}

function filesBeneath(directory: string): readonly string[] | undefined {
  const files: string[] = [];
  const waiting = [""];
  let seen = 0;
  for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
    for (const entry of entriesOf(join(directory, at))) {
      if (++seen > MOST_BENEATH) return undefined;
      const path = join(at, entry.name);
      if (entry.isDirectory()) waiting.push(path);
      else files.push(path);
    }
  }
  return files;
}

function entriesOf(directory: string) {
  try {
    return readdirSync(directory, { withFileTypes: true });
  } catch {
    return []; // what we may not list, nobody who is started by us may
  }
}
