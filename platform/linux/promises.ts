/** OpenBSD's promises, pledge(2), as rules about system calls, and what they leave of paths, unveil(2). */
import type { Machine, SyscallName } from "../../syscalls/kernel.ts";
import { AF } from "../../syscalls/linux/constants.ts";
import { IPPROTO, MACHINE, MAP, NUMBERS, O, PROT } from "../../syscalls/linux/numbers.ts";
import type { Unveiled } from "../platform.ts";
import { explain } from "./seccomp/explain.ts";
import type { Action, Arg, Condition, Filter, Rule } from "./seccomp/filter.ts";
import {
  ALWAYS,
  allow,
  allowWhen,
  answer,
  bits,
  ELSEWHERE,
  FILES,
  int,
  LISTING,
  LOOKS,
  PROMISES,
  type PromiseWord,
  plain,
  WORDS,
} from "./words.ts";

/** The promises of a text, as pledge(2) reads it: words with spaces between them, once or several times. `""` promises to do nothing but end. */
export function parsePromises(text: string): readonly PromiseWord[] {
  if (typeof text !== "string") throw new TypeError(`Cannot promise ${text}: expected words with spaces between them`);
  return checked(text === "" ? [] : text.replace(/ +$/, "").split(/ +/));
}

function checked(words: readonly string[]): PromiseWord[] {
  for (const word of words) {
    if (ELSEWHERE.includes(word)) {
      throw new TypeError(`Cannot promise ${word}: Linux has no such device, and the word would mean nothing`);
    }
    if (!Object.hasOwn(WORDS, word)) {
      throw new TypeError(`Cannot promise ${JSON.stringify(word)}: expected one of ${PROMISES.join(", ")}`);
    }
  }
  return PROMISES.filter((word) => words.includes(word));
}

/** Whose promises they are: those of this process, or of a program, which must be able to start and whose id may not be known yet. */
export type Promising =
  | { readonly for: "self"; readonly pid: number }
  | { readonly for: "program"; readonly pid?: number };

/**
 * What these promises let through, and what is answered with an errno although it breaks none, for libraries ask for it by themselves.
 * Everything else breaks them: the filter's default says what happens then.
 */
export function promiseRules(words: readonly string[], whose: Promising): Rule[] {
  const promised = checked(words);
  const rules = promised.flatMap((word): readonly Rule[] => WORDS[word]);
  const loads = whose.for === "program" || promised.includes("exec");
  const stdio = promised.includes("stdio") ? [...(loads ? LOADING : []), ...signalling(whose)] : [];
  return [...ALWAYS, ...rules, ...stdio, ...opening(promised), ...tolerated(promised, whose)];
}

/** A program's loader maps libraries as code; what is written to memory does not become code. */
const LOADING: readonly Rule[] = [
  allowWhen("mmap", bits(2, PROT.WRITE | PROT.EXEC, PROT.EXEC), bits(3, MAP.ANONYMOUS | MAP.TYPE, MAP.PRIVATE)),
];

/** Signals to itself: as raise(3), abort(3) and a garbage collector send them. */
function signalling({ pid }: Promising): Rule[] {
  const own = [int(0, 0), ...(pid === undefined ? [] : [int(0, pid)])];
  if (pid === undefined) return [allowWhen("kill", ...own), ...allow("tgkill", "tkill")];
  const calls = ["tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"] as const;
  return [allowWhen("kill", { any: own }), ...calls.map((call) => allowWhen(call, int(0, pid)))];
}

const PERMISSIONS = { r: "rpath", w: "wpath", x: "exec", c: "cpath" } as const satisfies Record<string, PromiseWord>;
type Permission = keyof typeof PERMISSIONS;

/** Whether some path may be opened so: any by its word, or files that another word brings along. */
function reaches(promised: readonly PromiseWord[], permission: Permission): boolean {
  const own = promised.flatMap((word) => Object.values(FILES[word] ?? {}));
  return promised.includes(PERMISSIONS[permission]) || own.some((permissions) => permissions.includes(permission));
}

/** O_TMPFILE without O_DIRECTORY, which it contains. */
const UNNAMED = O.TMPFILE & ~O.DIRECTORY;
const MAKES = O.CREAT | UNNAMED;

/** open(2): how is in its flags. O_TRUNC writes, whatever the mode of access; O_RDWR takes both promises. */
function opening(promised: readonly PromiseWord[]): Rule[] {
  const [reads, writes, creates] = (["r", "w", "c"] as const).map((each) => reaches(promised, each));
  if (!reads && !writes && !creates) return [];
  const modes = [...(reads ? [O.RDONLY] : []), ...(writes ? [O.WRONLY] : []), ...(reads && writes ? [O.RDWR] : [])];
  const never = (creates ? 0 : MAKES) | (writes ? 0 : O.TRUNC);
  const opens = (flags: Arg, mode: Arg): Condition[] => [
    { any: modes.map((access) => bits(flags, O.ACCMODE | never, access)) },
    ...(creates ? [{ any: [bits(flags, MAKES, 0), plain(mode)] }] : []),
  ];
  return [
    ...allow(...LOOKS),
    ...(reads ? LISTING : []),
    ...(modes.length === 0 ? [] : [allowWhen("open", ...opens(1, 2)), allowWhen("openat", ...opens(2, 3))]),
    ...(writes && creates ? [allowWhen("creat", plain(1))] : []),
    answer("openat2", "ENOSYS"), // its flags are in memory; libraries then take openat
  ];
}

const reading = (flags: Arg) => bits(flags, O.ACCMODE | MAKES | O.TRUNC, O.RDONLY);

/** What is refused but breaks no promise: libraries ask for it on the way, and do without. */
function tolerated(promised: readonly PromiseWord[], whose: Promising): Rule[] {
  const has = (...words: readonly PromiseWord[]) => words.some((word) => promised.includes(word));
  const looks = opening(promised).length > 0;
  return [
    // getaddrinfo(3) and getpwnam(3) look for nscd, and for the addresses that this machine has.
    ...(has("dns", "getpw") ? [answer("socket", "EACCES", int(0, AF.UNIX))] : []),
    ...(has("dns", "inet") ? [answer("socket", "EAFNOSUPPORT", int(0, AF.NETLINK))] : []),
    // Go listens by it wherever it can.
    ...(has("inet") ? [answer("socket", "EPROTONOSUPPORT", int(2, IPPROTO.MPTCP))] : []),
    // A static program of glibc asks for its own path before main.
    ...(whose.for === "program" && has("stdio") && !looks
      ? [answer("readlink", "EACCES"), answer("readlinkat", "EACCES")]
      : []),
    // Bun asks how large it is when it collects garbage, where it is, and which zone the clock is in.
    ...(whose.for === "self" && has("stdio")
      ? [answer("open", "EACCES", reading(1)), answer("openat", "EACCES", reading(2))]
      : []),
    ...(whose.for === "self" && has("stdio") && !looks ? LOOKS.map((call) => answer(call, "EACCES")) : []),
  ];
}

/** What becomes of who breaks a promise. `error` among the promises has pledge(2)'s meaning, and counts before `onBreak`. */
export function onBreach(words: readonly string[], onBreak: "kill" | "errno"): Action {
  if (checked(words).includes("error")) return { errno: "ENOSYS" };
  return onBreak === "errno" ? { errno: "EPERM" } : "kill-process";
}

/** The promises as a whole filter: put on top of others it narrows, and never widens. */
export function promiseFilter(
  words: readonly string[],
  { machine, onBreak, ...whose }: Promising & { readonly machine: Machine; readonly onBreak: "kill" | "errno" },
): Filter {
  return { machine, default: onBreach(words, onBreak), rules: promiseRules(words, whose as Promising) };
}

/** A call with its six words. */
export interface Refused {
  readonly call: SyscallName;
  readonly args: readonly bigint[];
}

/**
 * What a call that was refused lacked, as few words as allow it, with spaces between them: `"rpath wpath"` for O_RDWR. Where several
 * words would do, the plainest. `undefined` where none would, and where the promises do allow it.
 */
export function promiseOf(refused: Refused, words: readonly string[], whose: Promising): string | undefined {
  const promised = checked(words);
  const allowed = (some: readonly PromiseWord[]) => allows(promiseRules(some, whose), refused);
  if (allowed(promised) || !allowed(PROMISES)) return undefined;
  // From all words take those away without which it is still allowed: the plainest, which come first, stay.
  const needed = PROMISES.toReversed().reduce((left, word) => {
    const without = left.filter((each) => each !== word);
    return !promised.includes(word) && allowed(without) ? without : left;
  }, PROMISES);
  return needed.filter((word) => !promised.includes(word)).join(" ");
}

function allows(rules: readonly Rule[], { call, args }: Refused): boolean {
  const own = rules.filter((rule) => rule.call === call);
  if (own.length === 0 || !Object.hasOwn(NUMBERS[MACHINE], call)) return false;
  return explain({ machine: MACHINE, default: "kill-process", rules: own }, call, args).action === "allow";
}

const permits = (permissions: string, wanted: string) => [...wanted].every((each) => permissions.includes(each));
const both = (a: string, b: string) => [...a].filter((each) => b.includes(each)).join("");
const isBeneath = (path: string, directory: string) =>
  path === directory || path.startsWith(directory === "/" ? "/" : `${directory}/`);

/** What the promises leave of these paths, for Landlock: with `rpath` alone nothing of them is written. It adds no path and no permission. */
export function narrowed(paths: readonly Unveiled[], words: readonly string[]): Unveiled[] {
  const promised = checked(words);
  const kept = (Object.keys(PERMISSIONS) as Permission[]) // of the table above
    .filter((each) => promised.includes(PERMISSIONS[each]) || (each === "c" && promised.includes("dpath")))
    .join("");
  const own = promised.flatMap((word) => Object.entries(FILES[word] ?? {}));
  const left = new Map<string, string>();
  const keep = (path: string, permissions: string) => {
    if (permissions !== "") left.set(path, [...new Set((left.get(path) ?? "") + permissions)].join(""));
  };
  for (const { path, permissions } of paths) {
    keep(path, both(permissions, kept));
    for (const [file, some] of own) {
      if (isBeneath(file, path)) keep(file, both(permissions, some));
      else if (isBeneath(path, file)) keep(path, both(permissions, some));
    }
  }
  return [...left].map(([path, permissions]) => ({ path, permissions }));
}

/** Whether a filter alone does not keep these promises: some word opens files of its own, and only Landlock tells them from others. */
export function needsPaths(words: readonly string[]): boolean {
  const promised = checked(words);
  const wide = (Object.keys(PERMISSIONS) as Permission[])
    .filter((each) => promised.includes(PERMISSIONS[each]))
    .join("");
  return promised.some((word) => Object.values(FILES[word] ?? {}).some((permissions) => !permits(wide, permissions)));
}
