// What a program does, as strace tells it: observations for tests, from another source than ours.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

import type { Observation } from "../../src/need.ts";
import type { Observe } from "../../src/subject.ts";

export const STRACE = Bun.which("strace");

/** Runs it as it is, and then tells what it did. What is in `within` before it starts is what was there. */
export function stracing(within: string): Observe {
  return async (argv, { env = {} }) => {
    const there = new Set(readdirSync(within, { recursive: true, encoding: "utf8" }).map((name) => join(within, name)));
    const directory = mkdtempSync(join(tmpdir(), "caisson-strace-"));
    const log = join(directory, "log");
    const strace = [STRACE!, "-f", "-y", "-xx", "-s", "8192", "-e", "trace=%file,connect", "-o", log];
    const child = Bun.spawn([...strace, ...argv], { env, cwd: within, stdio: ["ignore", "ignore", "inherit"] });
    const code = await child.exited;
    const lines = whole(readFileSync(log, "latin1"));
    rmSync(directory, { recursive: true });
    const exists = (path: string) => (path.startsWith(`${within}/`) ? there.has(path) : existsSync(path));
    const observations = lines.flatMap((line) => observationsOf(line, within, exists));
    return { observations: each(observations), exited: Promise.resolve(code), lost: 0 };
  };
}

async function* each(observations: readonly Observation[]): AsyncIterable<Observation> {
  yield* observations;
}

/** Calls that another one came between are told in two pieces. */
function whole(log: string): string[] {
  const begun = new Map<string, string>();
  return log.split("\n").flatMap((line) => {
    const [, pid = "", rest = ""] = /^(\d+) +(.*)$/s.exec(line) ?? [];
    const [, resumed] = /^<\.\.\. \w+ resumed>(.*)$/s.exec(rest) ?? [];
    if (rest.endsWith("<unfinished ...>")) {
      begun.set(pid, rest.slice(0, -"<unfinished ...>".length));
      return [];
    }
    return [resumed === undefined ? rest : `${begun.get(pid)}${resumed}`];
  });
}

const unescaped = (text: string) =>
  Buffer.from(
    text.replace(/\\x([0-9a-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
    "latin1",
  ).toString();

function observationsOf(line: string, cwd: string, exists: (path: string) => boolean): Observation[] {
  const [, call, args, result] = /^(\w+)\((.*)\) += (-?\d+)/s.exec(line) ?? [];
  if (call === undefined || args === undefined || call === "getcwd") return [];
  const paths = [...args.matchAll(/(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:\\x[0-9a-f]{2})*)"/g)].map(([, base, name]) =>
    resolve(base === undefined ? cwd : unescaped(base), unescaped(name!)),
  );
  const made = (access: Observation["access"], path = paths[0]!, there = exists(path)): Observation => {
    return { call, access, target: path, exists: there, program: "" };
  };
  if (paths[0] === undefined) return [];
  if (/^(?:unlink|rmdir)/.test(call)) return [made("remove")];
  if (/^mkdir/.test(call)) return [made(result === "0" ? "create" : "look")];
  if (/^rename/.test(call)) return [made("remove"), made("create", paths[1]!)];
  if (/^execve/.test(call)) return [made("run")];
  if (!/^open|^creat/.test(call)) return [made("look")];
  if (/O_CREAT/.test(args) && !exists(paths[0])) return [made("create")];
  if (/O_WRONLY|O_RDWR/.test(args)) return [made("write")];
  return [made(/O_DIRECTORY/.test(args) ? "list" : "read")];
}
