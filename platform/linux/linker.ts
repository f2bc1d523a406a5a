/** Where a program's loader finds its libraries, and what it must find inside to find them again. `ld.so(8)` */
import { readFileSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { machine } from "../../syscalls/kernel.ts";
import { NotRunnable } from "../platform.ts";
import { type Elf, elfOf } from "./elf.ts";

/** A file of the host, and the path by which it is looked up inside. */
export interface Placed {
  /** Absolute, through no symbolic link. */
  readonly source: string;
  readonly target: string;
}

/** The tree whose files are meant. */
export interface Tree {
  /** The real path on the host of a regular file, undefined where there is none. */
  readonly locate: (path: string) => string | undefined;
  /** What relative paths start from. */
  readonly directory: string;
}

/**
 * A path of the tree, and the same inside: they differ for a program that is called by a link, for inside there are no
 * links.
 */
export interface Path {
  readonly host: string;
  readonly inside: string;
}

interface Found extends Path {
  readonly source: string;
  readonly elf: Elf;
}

interface Loaded extends Path {
  readonly elf: Elf;
  readonly neededBy: Loaded | undefined;
}

/** How one C library's loader looks for what no object names a directory for. */
interface Loader {
  /** Whether a name is the loader's own and needs no file. */
  owns(name: string): boolean;
  /** What `$LIB` stands for, undefined where it stands for itself. */
  readonly lib: string | undefined;
  /** Whether DT_RUNPATH counts for the libraries of libraries, too, as DT_RPATH does. */
  readonly inherits: boolean;
  /** Directories beneath each directory, for better processors. */
  readonly beneath: readonly string[];
  /** Paths for a name that its configuration has, all for the same library. */
  cached(name: string): readonly string[];
  readonly directories: readonly string[];
  /** Those of the directories that it knows without its configuration. */
  readonly builtIn: readonly string[];
  readonly configuration: string;
}

const ARCHITECTURES = {
  x64: {
    platform: "x86_64",
    multiarch: "x86_64-linux-gnu",
    cacheFlags: 0x303,
    beneath: ["x86-64-v4", "x86-64-v3", "x86-64-v2"].map((level) => `glibc-hwcaps/${level}/`),
  },
  arm64: { platform: "aarch64", multiarch: "aarch64-linux-gnu", cacheFlags: 0xa03, beneath: [] },
} as const;

export const CACHE = "/etc/ld.so.cache";
/** Some hundred times what a large system has. Of a file beyond that, nothing is believed. */
const MOST_CONFIGURATION = 4 * 1024 * 1024;
/** The largest programs have some hundred libraries. */
const MOST_LIBRARIES = 1024;
const MOST_LOOKUPS = 65536;
const NAME_MAX = 255;
const PATH_MAX = 4096;
/** Of how many files an error tells why they could not be loaded. */
const MOST_REFUSED = 3;
const ABSENT = "is not there";

/**
 * The loader of a dynamic program and all libraries that it loads at the start.
 *
 * Where a library is in none of the directories that the loader knows by itself, the loader's configuration
 * (`/etc/ld.so.cache`, musl's `/etc/ld-musl-*.path`) is among them: without it the library would be there and not be
 * found. Otherwise it is left out, for it names what else the host has. Of a library that is there for several
 * generations of the processor all are placed, as the loader takes the best that it knows of. Only ELF files of this
 * machine are placed, whatever paths a program names.
 */
export function librariesOf(given: Tree, program: Path, elf: Elf): readonly Placed[] {
  if (elf.interpreter === undefined) return [];
  const tree = bounded(given, program);
  const start = found(tree, at(tree, elf.interpreter));
  if (typeof start === "string")
    throw new NotRunnable(program.inside, `its loader ${JSON.stringify(elf.interpreter)} ${start}`);
  const loader = loaderOf(tree, elf.interpreter, start.source);

  const files = new Files(program);
  files.add(start);
  const known = new Set([elf.interpreter, basename(elf.interpreter), start.elf.soname]);
  const queue: Loaded[] = [{ ...program, elf, neededBy: undefined }];
  for (const by of queue) {
    for (const name of by.elf.needed) {
      if (known.has(name) || loader.owns(name)) continue;
      known.add(name);
      const objects = search(tree, loader, name, by);
      if (typeof objects === "string")
        throw new NotRunnable(program.inside, `the library ${JSON.stringify(name)} of ${by.host} ${objects}`);
      for (const object of objects) {
        files.add(object);
        known.add(object.elf.soname);
        queue.push({ ...object, neededBy: by });
        if (object.configured) files.addConfiguration(tree, loader.configuration);
      }
      if (queue.length > MOST_LIBRARIES)
        throw new NotRunnable(program.inside, `it needs more than ${MOST_LIBRARIES} libraries`);
    }
  }
  return files.all();
}

/** A tree in which a program that names directories without end finds one. */
function bounded({ directory, locate }: Tree, program: Path): Tree {
  let lookups = 0;
  return {
    directory,
    locate(path) {
      if (++lookups > MOST_LOOKUPS)
        throw new NotRunnable(program.inside, `its libraries could be at more than ${MOST_LOOKUPS} places`);
      return locate(path);
    },
  };
}

/**
 * What is placed, with something in each directory that a path climbs out of: `a/../b` is not found where there is no
 * `a`.
 */
class Files {
  readonly #placed = new Map<string, Placed>();
  readonly #climbed = new Map<string, string>();
  readonly #program: string;

  constructor({ inside }: Path) {
    this.#program = inside;
  }

  add({ inside, source }: Pick<Found, "inside" | "source">): void {
    const target = resolve(inside);
    if (!this.#placed.has(target)) this.#placed.set(target, { source, target });
    for (const { index } of inside.matchAll(/\/\.\.(?=\/)/g))
      this.#climbed.set(resolve(inside.slice(0, index)), source);
  }

  addConfiguration(tree: Tree, path: string): void {
    const source = tree.locate(path);
    if (source !== undefined) this.add({ inside: path, source });
  }

  all(): readonly Placed[] {
    for (const [directory, source] of this.#climbed) {
      const there = [this.#program, ...this.#placed.keys()].some((target) => target.startsWith(`${directory}/`));
      if (!there) this.add({ inside: join(directory, basename(source)), source });
    }
    return [...this.#placed.values()];
  }
}

/** Paths for one name, of which the loader takes what is there. */
interface Group {
  readonly paths: readonly Path[];
  /** Whether only its configuration leads the loader there. */
  readonly configured: boolean;
}

/** The files that a name may come to, or why there is none. */
function search(tree: Tree, loader: Loader, name: string, by: Loaded): (Found & { configured: boolean })[] | string {
  const refused: string[] = [];
  for (const { paths, configured } of groups(tree, loader, name, by)) {
    const objects = paths.flatMap((path) => {
      const object = found(tree, path);
      if (typeof object !== "string") return [{ ...object, configured }];
      if (object !== ABSENT && refused.length < MOST_REFUSED) refused.push(`${path.host} ${object}`);
      return [];
    });
    if (objects.length > 0) return objects;
  }
  return refused.length === 0 ? "is nowhere that its loader looks" : `cannot be used: ${refused.join("; ")}`;
}

function* groups(tree: Tree, loader: Loader, name: string, by: Loaded): Iterable<Group> {
  if (name.includes("/")) return yield { paths: [expand(tree, loader, name, by)], configured: false };
  const within = ({ host, inside }: Path) =>
    ["", ...loader.beneath].map((part) => ({ host: `${host}/${part}${name}`, inside: `${inside}/${part}${name}` }));
  for (const [list, of] of ownPaths(loader, by)) {
    for (const directory of list.split(":").filter((part) => part !== ""))
      yield { paths: within(expand(tree, loader, directory, of)), configured: false };
  }
  const cached = loader.cached(name).map((path) => at(tree, path));
  yield { paths: cached, configured: !cached.every(({ host }) => isBuiltIn(loader, dirname(host))) };
  for (const directory of loader.directories)
    yield { paths: within(at(tree, directory)), configured: !isBuiltIn(loader, directory) };
}

function isBuiltIn({ builtIn, beneath }: Loader, directory: string): boolean {
  return builtIn.some((known) => ["", ...beneath].some((part) => join(known, part, ".") === join(directory, ".")));
}

/** The lists of directories that count for what `by` needs, each with the object that its `$ORIGIN` is of. */
function ownPaths({ inherits }: Loader, by: Loaded): (readonly [list: string, of: Loaded])[] {
  const chain: Loaded[] = [];
  for (let object: Loaded | undefined = by; object !== undefined; object = object.neededBy) chain.push(object);
  if (inherits) return chain.map((object) => [object.elf.runpath ?? object.elf.rpath ?? "", object]);
  if (by.elf.runpath !== undefined) return [[by.elf.runpath, by]];
  return chain.map((object) => [object.elf.runpath === undefined ? (object.elf.rpath ?? "") : "", object]);
}

function expand(tree: Tree, { lib }: Loader, text: string, of: Path): Path {
  const { platform } = ARCHITECTURES[machine()];
  const from = (origin: string) => {
    const tokens: Readonly<Record<string, string>> = lib === undefined ? { origin } : { origin, lib, platform };
    return text.replace(
      /\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM)(?!\w))/g,
      (token, braced, bare) => tokens[(braced ?? bare).toLowerCase()] ?? token,
    );
  };
  return { host: absolute(tree, from(dirname(of.host))), inside: absolute(tree, from(dirname(of.inside))) };
}

/** Not made shorter: behind a symbolic link, `..` is where the link leads. */
function absolute({ directory }: Tree, path: string): string {
  return path.startsWith("/") ? path : `${directory}/${path}`;
}

function at(tree: Tree, path: string): Path {
  return { host: absolute(tree, path), inside: absolute(tree, path) };
}

/** What stands at a path, or why it cannot be loaded. */
function found(tree: Tree, path: Path): Found | string {
  const source = tree.locate(path.host);
  if (source === undefined) return ABSENT;
  try {
    return { ...path, source, elf: elfOf(source) };
  } catch (error) {
    if (error instanceof NotRunnable) return `cannot be loaded: ${error.reason}`;
    throw error;
  }
}

function loaderOf(tree: Tree, interpreter: string, source: string): Loader {
  const [, musl] = /\/ld-musl-([^/]+)\.so\.1$/.exec(interpreter) ?? [];
  return musl === undefined ? glibcLoader(tree, source) : muslLoader(tree, interpreter, musl);
}

function glibcLoader(tree: Tree, source: string): Loader {
  const { multiarch, beneath } = ARCHITECTURES[machine()];
  // Distributions build their own directories into it, and there they stand as text. The first gives `$LIB`.
  const text = contentOf(source);
  const builtIn = [`/lib/${multiarch}`, `/usr/lib/${multiarch}`, "/lib64", "/usr/lib64", "/lib", "/usr/lib"].filter(
    (directory) => text.includes(`${directory}/\0`),
  );
  const cache = tree.locate(CACHE);
  return {
    owns: () => false,
    lib: builtIn[0]?.slice(1) ?? "lib",
    inherits: false,
    beneath,
    cached: (name) => (cache === undefined ? [] : cachedPaths(cache, name)),
    directories: builtIn,
    builtIn,
    configuration: CACHE,
  };
}

function muslLoader(tree: Tree, interpreter: string, architecture: string): Loader {
  const configuration = join(dirname(dirname(interpreter)), `etc/ld-musl-${architecture}.path`);
  const source = tree.locate(configuration);
  const builtIn = ["/lib", "/usr/local/lib", "/usr/lib"];
  return {
    // These are all in the loader's own file.
    owns: (name) => /^lib(?:c|pthread|rt|m|dl|util|xnet)\./.test(name),
    lib: undefined,
    inherits: true,
    beneath: [],
    cached: () => [],
    directories: source === undefined ? builtIn : contentOf(source).toString().split(/[:\n]/).filter(Boolean),
    builtIn,
    configuration,
  };
}

function contentOf(source: string): Buffer {
  return statSync(source).size > MOST_CONFIGURATION ? Buffer.alloc(0) : readFileSync(source);
}

let parsed: { readonly key: string; readonly cache: Cache } | undefined;

function cachedPaths(source: string, name: string): readonly string[] {
  const { ino, size, mtimeNs } = statSync(source, { bigint: true });
  const key = [source, ino, size, mtimeNs].join();
  if (parsed?.key !== key) parsed = { key, cache: readCache(contentOf(source)) };
  return parsed.cache(name);
}

/** From a library's name to the paths that the cache has for it. */
type Cache = (name: string) => readonly string[];

const OLD_MAGIC = "ld.so-1.7.0";
const NEW_MAGIC = "glibc-ld.so.cache1.1";

/**
 * Reads an `ld.so.cache` of either format, or of the new one within the old one. A name has an entry for each
 * generation of processors that it is there for; which of them the loader takes is its own affair. What does not hold
 * together is passed over, as the loader does.
 */
export function readCache(bytes: Buffer): Cache {
  const starts = (magic: string, offset: number) => bytes.toString("latin1", offset, offset + magic.length) === magic;
  let [header, entrySize, base] = [0, 24, 0];
  let [first, count] = [48, 20];
  if (starts(OLD_MAGIC, 0) && bytes.length >= 16) {
    const end = 16 + bytes.readUInt32LE(12) * 12;
    const aligned = Math.ceil(end / 8) * 8;
    if (starts(NEW_MAGIC, aligned)) [header, base] = [aligned, aligned];
    else [entrySize, base, first, count] = [12, end, 16, 12];
  } else if (!starts(NEW_MAGIC, 0)) return () => [];
  if (bytes.length < header + first) return () => [];

  const text = (offset: number, most: number) => {
    const end = bytes.subarray(base + offset, base + offset + most + 1).indexOf(0);
    return end === -1 ? "" : bytes.toString("utf8", base + offset, base + offset + end);
  };
  const { cacheFlags } = ARCHITECTURES[machine()];
  const entries = Math.min(bytes.readUInt32LE(header + count), Math.floor((bytes.length - header - first) / entrySize));
  const paths = new Map<string, number[]>();
  for (let index = 0; index < entries; index++) {
    const entry = header + first + index * entrySize;
    if (bytes.readInt32LE(entry) !== cacheFlags) continue;
    const name = text(bytes.readUInt32LE(entry + 4), NAME_MAX);
    const known = paths.get(name);
    if (known === undefined) paths.set(name, [bytes.readUInt32LE(entry + 8)]);
    else known.push(bytes.readUInt32LE(entry + 8));
  }
  return (name) =>
    (paths.get(name) ?? []).map((offset) => text(offset, PATH_MAX)).filter((path) => path.startsWith("/"));
}
