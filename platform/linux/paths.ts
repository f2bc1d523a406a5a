/** The paths of a policy, each with all that may be done there. */
import type { Policy, Unveiled } from "../platform.ts";
import { narrowed } from "./promises.ts";

/** A path inside, and what of the host stands there. */
export interface Granted extends Unveiled {
  readonly source: string;
}

/** What a policy grants, each path once: `r`ead, `w`rite, e`x`ecute, `c`reate and remove. */
export function pathsOf({ read, write, unveil, names }: Policy): Granted[] {
  const letters = new Map<string, string>();
  const grant = (path: string, some: string) =>
    letters.set(path, [...new Set((letters.get(path) ?? "") + some)].join(""));
  for (const path of read) grant(path, "r");
  for (const path of write) grant(path, "rwc");
  for (const { path, permissions } of unveil) grant(path, permissions);
  const real = [...letters].map(([path, permissions]) => ({ path, source: path, permissions }));
  // By a link as well, what lies beneath is granted for no more than by its own name.
  const further = new Map(
    names.flatMap((name) =>
      real.flatMap(({ path }) => {
        if (path !== name.real && !path.startsWith(`${name.real}/`)) return [];
        return [[name.path + path.slice(name.real.length), path] as const];
      }),
    ),
  );
  // Within a granted directory a link is there already.
  const seen = [...further].filter(([name]) => !real.some(({ path }) => name === path || name.startsWith(`${path}/`)));
  return [...real, ...seen.map(([path, source]) => ({ path, source, permissions: letters.get(source)! }))];
}

export const isWritable = ({ permissions }: Unveiled) => /[wc]/.test(permissions);

/** What of the host is granted for writing, with what is mounted there. */
export function grantedForWriting(policy: Policy): { readonly source: string; readonly recursive: boolean }[] {
  return pathsOf(policy)
    .filter(isWritable)
    .map(({ source }) => ({ source, recursive: true }));
}

/** What promises leave of paths; without any, all. */
export function opened(paths: readonly Unveiled[], promises: Policy["promises"]): readonly Unveiled[] {
  return promises === undefined ? paths : narrowed(paths, promises);
}
