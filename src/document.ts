/** Policies kept in files, for the command line. */
import { closeSync, openSync, readSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { inFlags, UsageError } from "./flags.ts";
import { extend, parse } from "./policy.ts";
import { type Kind, policyOf, type Sandbox } from "./sandbox.ts";
import { readJson } from "./strict.ts";

/** A file of JSON: its text, and the value of that. Throws UsageError that names the file. */
export function readDocument(path: string): { readonly text: string; readonly value: unknown } {
  try {
    const text = readAll(path);
    return { text, value: readJson(text) };
  } catch (error) {
    throw new UsageError(`Cannot use ${path}: ${reasonOf(error)}`, { cause: error });
  }
}

/** No policy is longer. */
const MOST = 2 ** 20;

/** What is in a file or comes out of a pipe, which may be without end. */
function readAll(path: string): string {
  const file = openSync(path, "r");
  try {
    const bytes = Buffer.alloc(MOST + 1);
    let length = 0;
    for (let more = -1; more !== 0 && length < bytes.length; length += more)
      more = readSync(file, bytes, length, bytes.length - length, null);
    if (length > MOST) throw new RangeError("it is longer than 1 MiB, which no policy is");
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes.subarray(0, length));
  } finally {
    closeSync(file);
  }
}

/** A sandbox of such a value; its relative paths begin where the file is. Throws UsageError that names the file. */
export function sandboxIn(path: string, value: unknown): Sandbox {
  try {
    return parse(value, { directory: dirname(resolve(path)) });
  } catch (error) {
    throw new UsageError(`Cannot use ${path}: ${reasonOf(error)}`, { cause: error });
  }
}

/** What the policy in a file grants, and what flags grant beside it: a limit or a variable that both have is that of the flag. */
export function underPolicy(path: string, flags: Sandbox, of: Kind): Sandbox {
  const sandbox = sandboxIn(path, readDocument(path).value);
  try {
    policyOf(sandbox, of); // what is wrong with it alone
  } catch (error) {
    throw new UsageError(`Cannot use ${path}: ${reasonOf(error)}`, { cause: error });
  }
  try {
    return extend(sandbox, flags);
  } catch (error) {
    throw inFlags(error);
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file or directory",
  EISDIR: "it is a directory",
  EACCES: "it may not be read",
  ENOTDIR: "part of its path is no directory",
};

/** Why a file cannot be used, or what it names. */
export function reasonOf(error: unknown): string {
  const { code = "", path, syscall, message } = error as NodeJS.ErrnoException;
  if (!Object.hasOwn(REASONS, code)) return message.replace(/^Cannot (?:use this sandbox|read this as JSON): /, "");
  return syscall === "open" || syscall === "read" ? REASONS[code]! : `${path}: ${REASONS[code]}`;
}
