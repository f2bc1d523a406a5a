/** What Bun needs in order to start: its program, its loader, and the libraries it is linked to. */
import { readFileSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { dynamicOf } from "./elf.ts";

/** A file of the host and where it is expected. */
interface Placed {
  readonly source: string;
  readonly target: string;
}

export interface Runtime {
  readonly program: string;
  readonly loader: Placed;
  readonly libraries: readonly Placed[];
}

let found: Runtime | undefined;

/** Read off this very process, so that it is what runs here and not what a search path says. */
export function runtime(): Runtime {
  found ??= find();
  return found;
}

function find(): Runtime {
  const program = process.execPath;
  const { interpreter, needed } = dynamicOf(program);
  const maps = readFileSync("/proc/self/maps", "utf8");
  // address, permissions, offset, device, inode, path
  const mapped = new Set(Array.from(maps.matchAll(/^\S+ r-xp \S+ \S+ \d+ +(\/.*)$/gm), ([, path]) => path!));
  const loader = { source: realpathSync(interpreter), target: interpreter };
  const libraries: Placed[] = [];
  for (const name of needed) {
    // A library is mapped from the file that its name leads to, but looked up by the name.
    const source = [...mapped].find((path) => resolves(join(dirname(path), name), path));
    if (source === undefined)
      throw new Error(`Cannot run ${program} inside: its library ${name} is not mapped from a file of that name`);
    if (source !== loader.source) libraries.push({ source, target: join(dirname(source), name) });
  }
  return { program, loader, libraries };
}

function resolves(path: string, to: string): boolean {
  try {
    return realpathSync(path) === to;
  } catch {
    return false;
  }
}
