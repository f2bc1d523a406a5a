/** Few directories in place of many files, where that opens little more than was used. */
import { covers } from "./grant.ts";

/** So many files that were used make a directory worth it. */
const FEW = 4;
/** One file in so many has to be one that was used. */
const ONE_IN = 3;

export interface Ground {
  /** Whether this directory could be granted as a whole. */
  may(directory: string): boolean;
  /** How many files are beneath a directory. */
  count(directory: string): number;
}

/** Files, by what to grant for them: the highest directory that is mostly these files, or each by itself. */
export function cover(files: readonly string[], ground: Ground): Map<string, string[]> {
  const grants = new Map<string, string[]>();
  descend("", [...new Set(files)].toSorted(), ground, grants);
  return grants;
}

function descend(directory: string, files: readonly string[], ground: Ground, grants: Map<string, string[]>): void {
  const parts = Map.groupBy(files, (file) => file.slice(0, `${file}/`.indexOf("/", directory.length + 1)));
  // What lies all in one part is better named by that.
  if (parts.size > 1 && isWorth(directory, files, ground)) {
    grants.set(directory, [...files]);
    return;
  }
  for (const [part, inner] of parts) {
    if (inner.includes(part)) grants.set(part, inner);
    else descend(part, inner, ground, grants);
  }
}

function isWorth(directory: string, files: readonly string[], { may, count }: Ground): boolean {
  return files.length >= FEW && directory !== "" && may(directory) && files.length * ONE_IN >= count(directory);
}

/** Those that lie in none of the others, nor in `beside`, in order. */
export function outermost(paths: Iterable<string>, beside: readonly string[] = []): string[] {
  const sorted = [...new Set(paths)].toSorted((a, b) => a.length - b.length || (a < b ? -1 : 1));
  const kept: string[] = [];
  for (const path of sorted) {
    if (![...kept, ...beside].some((each) => covers(each, path))) kept.push(path);
  }
  return kept.toSorted();
}
