/** A module and all that it imports as one text, for a process that cannot open files. */
import { existsSync, readFileSync, realpathSync, statSync } from "node:fs";
import { dirname, extname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { numberOf } from "../syscalls/kernel.ts";
import * as numbers from "../syscalls/linux/numbers.ts";

/** The modules that an actor is given from inside. */
const PROVIDED = ["caisson/actor"];

interface Bundle {
  readonly text: string;
  /** What it was made from, and each file's time of change in milliseconds. */
  readonly inputs: ReadonlyMap<string, number>;
}

/** So many are kept: a host may run any number of files, each of them once. */
const MOST_BUNDLES = 64;
/** Those that were used last, the latest at the end. */
const bundles = new Map<string, Bundle>();
/** Those that were asked for, by the same key. */
const building = new Map<string, Promise<Bundle>>();
const keyOf = (entry: string, scope: readonly string[]) => JSON.stringify([resolve(entry), scope]);

/**
 * The text of a module with its dependencies, made once for as long as no file of it changes and few others are asked for.
 *
 * An import names any file of the host, and its text ends up inside, so files may only come from `scope` (directories, or files) and from
 * packages. Throws SyntaxError for what does not resolve or parse, or lies elsewhere.
 */
export async function bundle(entry: string, scope: readonly string[]): Promise<string> {
  const key = keyOf(entry, scope);
  const known = bundled(entry, scope);
  if (known !== undefined) return known;
  let built = building.get(key);
  if (built === undefined) {
    built = build(resolve(entry), scope).finally(() => building.delete(key));
    building.set(key, built);
  }
  const made = await built;
  keep(key, made);
  return made.text;
}

function keep(key: string, made: Bundle): void {
  bundles.delete(key);
  bundles.set(key, made);
  if (bundles.size > MOST_BUNDLES) bundles.delete(bundles.keys().next().value!);
}

/** The same at once, where it is made and no file of it has changed. */
export function bundled(entry: string, scope: readonly string[]): string | undefined {
  const key = keyOf(entry, scope);
  const known = bundles.get(key);
  if (known === undefined) return undefined;
  for (const [path, changed] of known.inputs) if (timeOf(path) !== changed) return undefined;
  keep(key, known);
  return known.text;
}

/** Where the files of an actor's module may come from: the package that it belongs to, and what its policy lets it read anyway. */
export function scopeOf(entry: string, granted: readonly string[]): readonly string[] {
  let directory = dirname(entry);
  while (!existsSync(join(directory, "package.json")) && dirname(directory) !== directory)
    directory = dirname(directory);
  const found = existsSync(join(directory, "package.json"));
  return [realpathSync(found ? directory : dirname(entry)), ...granted];
}

/** The same for a script, which may lie anywhere: only its own directory. */
export function scriptScope(entry: string, granted: readonly string[]): readonly string[] {
  return [realpathSync(dirname(entry)), ...granted];
}

/** What Bun runs, and not only carries along. */
const MODULES = ["", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx"];

async function build(entry: string, scope: readonly string[]): Promise<Bundle> {
  if (!MODULES.includes(extname(entry)))
    throw new SyntaxError(`Cannot bundle ${entry}: JavaScript or TypeScript is expected, by its name`);
  const inputs = new Map<string, number>();
  const guard: Bun.BunPlugin = {
    name: "guard",
    setup(builder) {
      builder.onLoad({ filter: /.*/ }, ({ path }) => {
        if (!isWithin(path, scope))
          throw new Error(
            `Cannot bundle ${path}: it lies outside of ${scope[0]}, of all packages, and of what is granted by read or sources`,
          );
        inputs.set(path, timeOf(path));
        // A command has no extension, and the bundler would take it for a file to be carried along.
        if (extname(path) === "" && isSame(path, entry)) return { contents: readFileSync(path, "utf8"), loader: "tsx" };
        return undefined; // to be loaded as it would be
      });
    },
  };
  const result = await Bun.build({
    entrypoints: [entry],
    target: "bun",
    format: "esm",
    sourcemap: "external",
    external: PROVIDED,
    // A macro is a function that the bundler calls, here in the host.
    macros: false,
    plugins: [guard],
    throw: false,
  } as Bun.BuildConfig); // the types do not know `macros`
  if (!result.success) throw new SyntaxError(`Cannot bundle ${entry}: ${result.logs.map(describe).join("; ")}`);
  const code = result.outputs.find(({ kind }) => kind === "entry-point");
  const map = result.outputs.find(({ kind }) => kind === "sourcemap");
  if (code === undefined || map === undefined) throw new Error(`Cannot bundle ${entry}: Bun.build gave no code`);
  const parsed: { sources: string[]; sourcesContent: null[] } = await map.json();
  // The files are named as the user does, from the working directory, and so they are in stacks. The texts themselves are of no use inside.
  parsed.sourcesContent = parsed.sources.map(() => null);
  const inline = Buffer.from(JSON.stringify(parsed)).toString("base64");
  const text = (await code.text()).replace(/\n\/\/# (sourceMappingURL|debugId)=.*/g, "");
  return { text: `${text}\n//# sourceMappingURL=data:application/json;base64,${inline}\n`, inputs };
}

const isSame = (path: string, other: string) => realpathSync(path) === realpathSync(other);

const PACKAGES = "/node_modules/";

/** Whether a file lies in the scope, or in a package that modules there would find by name. No hidden ones of the scope: keys and passwords are kept there. */
function isWithin(path: string, scope: readonly string[]): boolean {
  const real = realpathSync(path);
  const below = (inner: string, outer: string) =>
    inner === outer || inner.startsWith(outer === "/" ? "/" : `${outer}/`);
  if (real.includes(PACKAGES)) {
    const home = real.slice(0, real.indexOf(PACKAGES)) || "/";
    return scope.some((root) => below(root, home) || below(home, root));
  }
  return scope.some((root) => below(real, root) && !real.slice(root.length).includes("/."));
}

function describe(log: BuildMessage | ResolveMessage): string {
  const { position } = log;
  return position === null ? log.message : `${log.message} (${position.file}:${position.line}:${position.column})`;
}

function timeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

let boot: Promise<string> | undefined;

/** The boot file, which every actor runs first. */
export function bootText(): Promise<string> {
  boot ??= buildBoot();
  return boot;
}

/** What stacks call the boot file; by this name it leaves its own lines out of them. */
const BOOT_NAME = "caisson:boot";

/**
 * Makes the boot file quick to start, for every actor starts it. As a module it would cost some 80 µs for each KiB; as the text of a
 * function, of which Bun parses no more than it runs, a third. The thorough half of the codec waits as a comment until a value needs it, and
 * so does the network until one comes: a comment is passed over. The tables become constants of their own, which the bundler can drop, and
 * of the numbers only those of the calls that the boot file makes remain.
 */
async function buildBoot(): Promise<string> {
  const calls = Object.fromEntries(CALLS_INSIDE.map((name) => [name, numberOf(name)]));
  const tables = Object.entries({ ...numbers, NUMBERS: { [numbers.MACHINE]: calls }, FLAGS: null });
  const lean = replace(
    /syscalls[/]linux[/]numbers\.ts$/,
    tables.map(([name, table]) => `export const ${name} = ${literal(table)};`).join("\n"),
  );
  const codec = await functionOf("./cbor.ts", [leave(/[/]error\.ts$/)]);
  const codecWaits = `
    import { textOf } from ${TEXTS};
    import * as error from "./error.ts";
    export const { read, write } = ${called('textOf("codec")', "() => error")};`;
  // What the boot file has of these is there once: the kernel's trap could not be made again.
  const reach = await functionOf("./reach.ts", [lean, leave(/[/](descriptor|frame|kernel|message|socket)\.ts$/)]);
  const late = `
    import { forget, textOf } from ${TEXTS};
    export { forget };
    export const loadReach = (inside) => ${called('textOf("reach")', "() => inside")};`;
  const boot = await functionOf("./boot.ts", [
    leave(/^caisson:texts$/),
    replace(/src[/]cbor\.ts$/, codecWaits),
    replace(/src[/]late\.ts$/, late),
    lean,
  ]);
  const modules = `(name) => name === ${TEXTS} ? texts : ffi`;
  // The first line tells Bun that there is nothing to transpile.
  return `// @bun
import * as ffi from "bun:ffi";
const waiting = { ${comment("codec", codec)}, ${comment("reach", reach)} };
const texts = {
  textOf: (name) => waiting[name].toString().slice(name.length + 6, -3).replaceAll("*\\0/", "*/"),
  forget: (url) => void delete import.meta.require.cache[url],
};
${called(JSON.stringify(`${boot}\n//# sourceURL=${BOOT_NAME}`), modules)};
`;
}

/** The module that gives the boot file the texts that wait in comments. */
const TEXTS = '"caisson:texts"';

/** A method that is nothing but a comment. */
function comment(name: string, text: string): string {
  return `${name}() {/*${text.replaceAll("*/", "*\0/")}*/}`;
}

/** A module of ours with what it imports, as the text of a function of `exports`, `require` and `module`. */
async function functionOf(name: string, plugins: Bun.BunPlugin[]): Promise<string> {
  const entry = fileURLToPath(new URL(name, import.meta.url));
  const result = await Bun.build({ entrypoints: [entry], target: "bun", format: "cjs", minify: true, plugins });
  return (await result.outputs[0]!.text()).replace("// @bun @bun-cjs\n", "");
}

/** An expression that runs such a function, whose text an expression gives, and gives what it exports. */
function called(text: string, require: string): string {
  return `((module) => ((0, eval)(${text})(module.exports, ${require}, module), module.exports))({ exports: {} })`;
}

/** Has the bundler leave a module to whoever runs the bundle. */
function leave(filter: RegExp): Bun.BunPlugin {
  return {
    name: `leave ${filter}`,
    setup: (builder) => void builder.onResolve({ filter }, ({ path }) => ({ path, external: true })),
  };
}

/** Has the bundler take a text for a module. */
function replace(filter: RegExp, contents: string): Bun.BunPlugin {
  return {
    name: `replace ${filter}`,
    setup: (builder) => void builder.onLoad({ filter }, () => ({ contents, loader: "js" })),
  };
}

/** Every system call that caisson's own code makes inside. */
const CALLS_INSIDE = [
  "close",
  "dup3",
  "fcntl",
  "fstat",
  "getsockopt",
  "mmap",
  "mprotect",
  "munmap",
  "openat",
  "pread64",
  "read",
  "recvmsg",
  "seccomp",
  "sendmsg",
  "write",
] as const;

function literal(value: unknown): string {
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "undefined";
  return `{${Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}:${literal(each)}`)}}`;
}

/** The path of a module that was given as a file URL or a path. */
export function modulePath(module: string | URL): string {
  if (!(module instanceof URL || typeof module === "string"))
    throw new TypeError(`Cannot use ${Bun.inspect(module)} as a module: a path or a file: URL is expected`);
  if (module instanceof URL || module.startsWith("file:")) return fileURLToPath(module);
  return resolve(module);
}
