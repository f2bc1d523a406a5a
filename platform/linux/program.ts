/** What a program needs in order to start: itself, its loader and libraries, and the same of a script's interpreter. */
import { accessSync, closeSync, constants, lstatSync, readlinkSync, readSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { NotRunnable } from "../platform.ts";
import { elfOf, openRegular } from "./elf.ts";
import { CACHE, librariesOf, type Placed, type Tree } from "./linker.ts";

export interface ProgramNeeds {
  /** The absolute path by which it was asked for, and is started inside. */
  readonly program: string;
  readonly files: readonly Placed[];
}

export interface ProgramOptions {
  /** The directories of names without a slash, as `PATH` has them; those of the host's environment by default. */
  readonly path?: string | undefined;
  /** What relative paths start from: the working directory, or the root of a tree. */
  readonly directory?: string | undefined;
  /** The tree whose files are meant, `/` by default. Symbolic links stay within it. */
  readonly root?: string | undefined;
}

/** As in the kernel, which gives up behind the fifth script of a chain. `execve(2)` */
const MOST_SCRIPTS = 5;
const SHEBANG = 256;
const MOST_LINKS = 40;
const MOST_KNOWN = 256;

const known = new Map<string, { readonly needs: ProgramNeeds; readonly stamp: string }>();

/**
 * The files that a program needs in order to start, found as the kernel and its loader find them.
 *
 * A program that is called by a link is placed at the link and where it leads, as its name may say what it does, and
 * its libraries may be looked for beside it. What it opens while it runs is not known here: libraries that it loads by
 * name (NSS, character sets, plug-ins), locales, the modules of Python or Perl, other programs. `LD_LIBRARY_PATH` and
 * `LD_PRELOAD` of the host do not count.
 *
 * Whatever a program's file says, nothing is in the list but ELF files for this machine, executable scripts, and the
 * loader's configuration. The file system is read as it is at the moment: a tree that someone else is changing may give
 * what no longer is when it is mounted. What was found is remembered until one of the files or `/etc/ld.so.cache`
 * changes.
 *
 * Throws NotRunnable.
 */
export function programOf(name: string, options: ProgramOptions = {}): ProgramNeeds {
  if (name === "" || name.includes("\0"))
    throw new TypeError(`Cannot find program ${JSON.stringify(name)}: it is no name`);
  const place = placeOf(options);
  const program = lookUp(place, name);
  const key = JSON.stringify([program, place.path, place.directory, place.root]);
  const before = known.get(key);
  if (before !== undefined && before.stamp === stampOf(place, before.needs)) return before.needs;

  const files = new Map<string, Placed>();
  add(place, files, program, 0);
  const needs = { program, files: [...files.values()] };
  if (known.size === MOST_KNOWN) known.clear();
  known.set(key, { needs, stamp: stampOf(place, needs) });
  return needs;
}

interface Place extends Tree {
  readonly root: string;
  readonly path: string;
}

function placeOf({ path = process.env.PATH ?? "", root = "/", directory }: ProgramOptions): Place {
  const real = realpathSync(root);
  return {
    root: real,
    path,
    directory: real === "/" ? resolve(directory ?? ".") : resolve("/", directory ?? ""),
    locate(path) {
      const source = join(real, realPath(real, path) ?? "");
      return statSync(source, { throwIfNoEntry: false })?.isFile() ? source : undefined;
    },
  };
}

/** Changes when a file does that the needs were read from. */
function stampOf({ root }: Place, { files }: ProgramNeeds): string {
  // Through links, where that leads to the right file: a library's new version is often a link set anew.
  const paths = root === "/" ? files.map(({ target }) => target) : files.map(({ source }) => source);
  return [...paths, join(root, CACHE)]
    .map((path) => {
      const status = statSync(path, { bigint: true, throwIfNoEntry: false });
      return status && [status.dev, status.ino, status.size, status.mtimeNs, status.ctimeNs].join();
    })
    .join(" ");
}

/** The path of a program; `reason` is behind its name in the error. */
function lookUp(place: Place, name: string, reason = ""): string {
  if (name.includes("/")) return pathOf(place, name);
  // An empty entry would mean the working directory: what is empty grants nothing.
  const directories = place.path.split(":").filter((directory) => directory !== "");
  const candidates = directories.map((directory) => pathOf(place, `${directory}/${name}`));
  const program = candidates.find((path) => refusalOf(place, path) === undefined);
  if (program === undefined)
    throw new NotRunnable(name, directories.length === 0 ? "PATH is empty" : `looked in ${directories.join(", ")}`, {
      attempt: `find program ${name}${reason}`,
    });
  return program;
}

/** Absolute and short, unless that is another file: behind a link, `..` is where the link leads. */
function pathOf({ root, directory }: Place, name: string): string {
  const path = name.startsWith("/") ? name : `${directory}/${name}`;
  const real = realPath(root, path);
  return real === undefined || realPath(root, resolve(path)) === real ? resolve(path) : real;
}

/**
 * The path within a tree that links lead to, as for a process that has the tree as its root; undefined where there is
 * nothing.
 */
function realPath(root: string, path: string): string | undefined {
  const rest = path.split("/").reverse();
  let [at, links] = ["/", 0];
  try {
    for (let part = rest.pop(); part !== undefined; part = rest.pop()) {
      if (part === "" || part === ".") continue;
      const next = part === ".." ? dirname(at) : join(at, part);
      const status = lstatSync(join(root, next), { throwIfNoEntry: false });
      if (status === undefined) return undefined;
      if (!status.isSymbolicLink()) {
        at = next;
        continue;
      }
      if (++links > MOST_LINKS) return undefined;
      const link = readlinkSync(join(root, next));
      rest.push(...link.split("/").reverse());
      if (link.startsWith("/")) at = "/";
    }
    return at;
  } catch {
    return undefined;
  }
}

function refusalOf({ root }: Place, path: string): string | undefined {
  const real = realPath(root, path);
  if (real === undefined) return "there is no such file, or no way to it";
  const source = join(root, real);
  const status = statSync(source);
  if (status.isDirectory()) return "it is a directory";
  if (!status.isFile()) return "it is not a regular file";
  try {
    accessSync(source, constants.X_OK);
    return undefined;
  } catch {
    return "it is not executable";
  }
}

/** Adds a program that `scripts` scripts lead to by their first lines. */
function add(place: Place, files: Map<string, Placed>, program: string, scripts: number): void {
  const refusal = refusalOf(place, program);
  if (refusal !== undefined) throw new NotRunnable(program, refusal);
  const real = realPath(place.root, program)!;
  const source = join(place.root, real);
  for (const target of [program, real]) files.set(target, { source, target });

  const start = startOf(source);
  if (start.startsWith("\x7fELF")) {
    const elf = elfOf(source);
    // `$ORIGIN` is where the program is called inside, and where that leads outside.
    for (const inside of dirname(program) === dirname(real) ? [program] : [program, real])
      for (const file of librariesOf(place, { host: real, inside }, elf)) files.set(file.target, file);
    return;
  }

  const line = shebangOf(start);
  if (line === undefined)
    throw new NotRunnable(program, "it is neither an ELF program nor a script with an interpreter");
  if (scripts === MOST_SCRIPTS) throw new NotRunnable(program, `more than ${MOST_SCRIPTS} scripts lead to one another`);
  const interpreter = pathOf(place, line.interpreter);
  const refused = refusalOf(place, interpreter);
  if (refused !== undefined)
    throw new NotRunnable(program, `of its interpreter ${JSON.stringify(line.interpreter)}, ${refused}`);
  add(place, files, interpreter, scripts + 1);
  const name = basename(interpreter) === "env" ? commandOf(line.argument) : undefined;
  if (name === undefined) return;
  const command = lookUp(place, name, `, which ${program} asks for`);
  if (!files.has(command)) add(place, files, command, 0);
}

function startOf(source: string): string {
  const file = openRegular(source);
  try {
    const bytes = Buffer.alloc(SHEBANG);
    return bytes.toString("latin1", 0, readSync(file, bytes));
  } finally {
    closeSync(file);
  }
}

interface Shebang {
  readonly interpreter: string;
  readonly argument: string;
}

/** The first line of a script as the kernel reads it, undefined where it would not. */
export function shebangOf(start: string): Shebang | undefined {
  const [, line, end] = /^#!([^\n\0]*)([\n\0]?)/.exec(start.slice(0, SHEBANG)) ?? [];
  if (line === undefined) return undefined;
  const whole = end !== "" || start.length < SHEBANG;
  const [, interpreter, rest] = /^[ \t]*([^ \t]+)(.*)$/.exec(whole ? line : line.slice(0, -1)) ?? [];
  // Where the line goes on beyond what the kernel reads, a name that ends with it may be cut off.
  if (interpreter === undefined || (!whole && rest === "")) return undefined;
  return { interpreter: utf8(interpreter), argument: utf8(rest!.replace(/^[ \t]+|[ \t]+$/g, "")) };
}

function utf8(latin1: string): string {
  return Buffer.from(latin1, "latin1").toString();
}

/** The program that `env` looks up in PATH. The kernel gives it one argument, which `-S` makes several. `env(1)` */
export function commandOf(argument: string): string | undefined {
  const [, rest] = /^(?:-[^-\s]*S|--split-string[=\s])(.*)$/.exec(argument) ?? [];
  const words = rest === undefined ? [argument] : rest.split(/\s+/);
  for (let index = 0; index < words.length; index++) {
    const word = words[index]!;
    if (["-u", "--unset", "-C", "--chdir"].includes(word)) index++;
    else if (word !== "" && !word.startsWith("-") && !word.includes("=")) return word;
  }
  return undefined;
}
