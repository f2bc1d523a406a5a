/** `caisson doctor`: what this machine can enforce, and the line that fixes what it cannot. */
import { type Ability, GUARANTEES, type Guarantee, NotEnforced, type Platform } from "../platform/index.ts";
import { policyOf, type Sandbox } from "./sandbox.ts";

/** What becomes of one guarantee here. */
interface Finding {
  readonly guarantee: Guarantee;
  readonly kept: boolean;
  /** What keeps it. Empty where it is not kept, and where nothing is promised unless a sandbox sets a limit. */
  readonly enforcers: readonly string[];
  readonly missing?: string;
  readonly remedy?: string;
}

export interface Diagnosis {
  /** Whether the strictest sandbox can be kept: every guarantee, nothing granted. */
  readonly strict: boolean;
  /** Whether paths can be granted as well. */
  readonly grants: boolean;
  /** Whether programs can be run: no sandbox of theirs goes without these walls. */
  readonly programs: boolean;
  readonly guarantees: readonly Finding[];
  readonly mechanisms: readonly Ability[];
}

/** The strictest sandbox that says something of each guarantee. */
const STRICTEST: Sandbox = { limits: { cpuTime: "1 s", wallTime: "1 s" } };

/** What every program's sandbox is made of. */
const PROGRAMS: readonly string[] = ["mount namespace", "pid namespace", "network namespace", "own root"];

/** What is asked of a machine. */
export type Machine = Pick<Platform, "enforcement" | "abilities">;

/** Asks the machine. */
export function diagnose(machine: Machine): Diagnosis {
  const find = (guarantee: Guarantee, sandbox: Sandbox): Finding => {
    // Alone, so that each guarantee tells of itself.
    const allowUnenforced = GUARANTEES.filter((other) => other !== guarantee);
    try {
      return {
        guarantee,
        kept: true,
        enforcers: machine.enforcement(policyOf({ ...sandbox, allowUnenforced }))[guarantee],
      };
    } catch (error) {
      if (!(error instanceof NotEnforced)) throw error;
      return { guarantee, kept: false, enforcers: [], missing: error.missing, remedy: error.remedy };
    }
  };
  const guarantees = GUARANTEES.map((guarantee) => find(guarantee, STRICTEST));
  const mechanisms = machine.abilities();
  return {
    strict: guarantees.every(({ kept }) => kept),
    grants: find("files", { read: ["/usr"] }).kept,
    guarantees,
    programs: mechanisms.every(({ mechanism, present }) => present || !PROGRAMS.includes(mechanism)),
    mechanisms,
  };
}

/** How wide a text for people may be. */
const WIDTH = 80;
/** Where what is said of a thing begins. */
const INDENT = 26;

/** A diagnosis for people. */
export function describe({ strict, grants, programs, guarantees, mechanisms }: Diagnosis, colours: boolean): string {
  const paint = (code: number, text: string) => (colours ? `\x1b[${code}m${text}\x1b[0m` : text);
  const [good, bad, note, title] = [32, 31, 33, 1].map((code) => (text: string) => paint(code, text)) as [
    Paint,
    Paint,
    Paint,
    Paint,
  ];
  const line = (mark: string, name: string, told: string) =>
    `  ${mark} ${name.padEnd(INDENT - 7)}${wrap(told, INDENT)}`;
  const cure = (told: string) => `${" ".repeat(INDENT)}${note("fix")}  ${wrap(told, INDENT + 5)}`;

  const promised = guarantees.flatMap(({ guarantee, kept, enforcers, missing, remedy }) => {
    if (!kept) return [line(bad("none"), guarantee, missing ?? ""), cure(remedy ?? "")];
    return enforcers.length > 0
      ? [line(good("kept"), guarantee, enforcers.join(", "))]
      : [line("  - ", guarantee, "no limit unless a sandbox sets one")];
  });
  const found = mechanisms.flatMap(({ mechanism, present, detail, remedy }, index) => {
    if (present) return [line(good("  ok"), mechanism, detail)];
    // What helps several in a row is told once, behind them.
    const told = remedy === undefined || remedy === mechanisms[index + 1]?.remedy;
    return [line(bad("miss"), mechanism, detail), ...(told ? [] : [cure(remedy)])];
  });
  const verdict = strict
    ? good("The strictest sandbox can be kept on this machine.")
    : bad("The strictest sandbox cannot be kept on this machine: nothing would be run.");
  const paths = grants ? [] : ["Paths cannot be granted here: that takes Landlock."];
  const runs = programs
    ? []
    : ["Programs cannot be run here: that takes a root, processes and a network of their own."];
  return [title("Guarantees"), ...promised, "", title("Mechanisms"), ...found, "", verdict, ...paths, ...runs].join(
    "\n",
  );
}

type Paint = (text: string) => string;

/** Breaks a text into lines, all but the first indented. Words are not broken: they may be typed in. */
function wrap(text: string, indent: number): string {
  const lines = [""];
  for (const word of text.split(" ")) {
    const last = lines.at(-1)!;
    if (last === "") lines[lines.length - 1] = word;
    else if (indent + last.length + 1 + word.length <= WIDTH) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines.join(`\n${" ".repeat(indent)}`);
}
