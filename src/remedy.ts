/** What would allow an act: as a flag, as it is to be typed, and as data to add to a sandbox. */
import { dirname, isAbsolute } from "node:path";
import type { Entry } from "./look.ts";
import { parseRule } from "./rule.ts";
import type { Sandbox } from "./sandbox.ts";

export interface Remedy {
  readonly fix: string;
  /** Only where it suffices: with this granted, the same act is allowed. */
  readonly grant?: Sandbox;
}

export const none = (why: string): Remedy => ({ fix: `None: ${why}` });

/** Words that a shell takes as they are. */
const PLAIN = /^[\w@%+=:,./-]+$/;

/** A flag with its value, as a shell takes it. In a list a comma parts two, and two commas are one that belongs to a path. */
function flag(name: "read" | "write" | "run", path: string): string {
  const value = path.replaceAll(",", ",,");
  return `--${name}=${PLAIN.test(value) ? value : `'${value.replaceAll("'", "'\\''")}'`}`;
}

/** Parts of a path that is looked for; each may cost a look of its own. */
const DEEPEST = 128;

/** The grant of a path, or of the nearest directory above that is there. */
export function pathRemedy(path: string, access: "read" | "write", look: (path: string) => Entry | undefined): Remedy {
  if (!isAbsolute(path)) return none("where that is, is not known");
  if (path.split("/").length > DEEPEST) return none("it lies too deep to be looked for");
  if (kernelsOwn(path) !== undefined) return none(`${kernelsOwn(path)} belongs to the kernel`);
  let there = path;
  let entry = look(there);
  while (there !== "/" && entry === undefined) {
    there = dirname(there);
    entry = look(there);
  }
  const real = entry?.path ?? there;
  if (kernelsOwn(real) !== undefined) return none(`${there} leads to ${kernelsOwn(real)}, which belongs to the kernel`);
  if (real === "/") return none("/ cannot be granted, name a directory beneath it");
  if (dirname(real) === "/" && entry?.directory === false)
    return none(`${real} cannot be granted, as no file of / itself can`);
  // Inside, what is granted stands at its real path alone.
  if (real !== there) return { fix: `${flag(access, real)} and name that: ${there} is a link` };
  return { fix: flag(access, there), grant: { [access]: [there] } };
}

/** The grants of several paths for writing, each once; or why one of them cannot be. */
export function writeRemedy(paths: readonly string[], look: (path: string) => Entry | undefined): Remedy {
  const remedies = paths.map((path) => pathRemedy(path, "write", look));
  const without = remedies.find(({ grant }) => grant === undefined);
  if (without !== undefined) return without;
  const granted = new Set(remedies.flatMap(({ grant }) => grant!.write ?? []));
  return { fix: [...granted].map((path) => flag("write", path)).join(" "), grant: { write: [...granted] } };
}

/** Who is granted something: an actor of a program, the script of `caisson run`, or a program. */
export type Recipient = "actor" | "script" | "program";

export function programRemedy(kind: Recipient, path: string): Remedy {
  if (kind === "actor") return none("an actor starts no programs");
  if (kind === "script") return { fix: "None in this version: --run is not supported, a script starts no programs" };
  return path === "" ? none("name the program") : { fix: flag("run", path), grant: { run: [path] } };
}

/** @param place `host:port`, where it is known */
export function networkRemedy(kind: Recipient, place?: string): Remedy {
  switch (kind) {
    case "actor":
      return none(`an actor has no network of its own, hand it network([${JSON.stringify(place ?? "host:port")}])`);
    case "script":
      return {
        fix: "None in this version: --net is not supported; fetch outside and hand in what came, by --read or standard input",
      };
    case "program":
      return place === undefined ? { fix: "--net=host:port for each host that it may reach" } : placeRemedy(place);
  }
}

function placeRemedy(place: string): Remedy {
  try {
    const { text } = parseRule(place);
    return { fix: `--net=${text}`, grant: { net: [text] } };
  } catch (error) {
    return none((error as Error).message);
  }
}

export const placeOf = (host: string, port: number | string) =>
  host.includes(":") && !host.startsWith("[") ? `[${host}]:${port}` : `${host}:${port}`;

/** @param kept the promises so far */
export function promiseRemedy(kept: readonly string[], promise: string): Remedy {
  return { fix: `--promises="${[...kept, promise].join(" ")}"`, grant: { promises: promise } };
}

export function memoryRemedy(mib: number): Remedy {
  return { fix: `--memory=${mib}MiB`, grant: { limits: { memory: `${mib} MiB` } } };
}

function kernelsOwn(path: string): string | undefined {
  return ["/proc", "/sys", "/dev"].find((own) => path === own || path.startsWith(`${own}/`));
}
