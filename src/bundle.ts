/** A module and all that it imports as one text, for a process that cannot open files. */
import { statSync } from "node:fs";
import { relative, resolve } from "node:path";
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

const bundles = new Map<string, Promise<Bundle>>();

/** The text of a module with its dependencies, made once for as long as no file of it changes. Throws what does not resolve or parse. */
export async function bundle(entry: string): Promise<string> {
  const known = await bundles.get(entry)?.catch(() => undefined);
  if (known !== undefined && [...known.inputs].every(([path, changed]) => timeOf(path) === changed)) return known.text;
  const made = build(entry);
  bundles.set(entry, made);
  return (await made).text;
}

async function build(entry: string): Promise<Bundle> {
  const result = await Bun.build({
    entrypoints: [entry],
    target: "bun",
    format: "esm",
    sourcemap: "external",
    external: PROVIDED,
    throw: false,
  });
  if (!result.success) throw new SyntaxError(`Cannot bundle ${entry}: ${result.logs.map(String).join("; ")}`);
  const code = result.outputs.find(({ kind }) => kind === "entry-point");
  const map = result.outputs.find(({ kind }) => kind === "sourcemap");
  if (code === undefined || map === undefined) throw new Error(`Cannot bundle ${entry}: Bun.build gave no code`);
  const parsed: { sources: string[]; sourcesContent: null[] } = await map.json();
  const inputs = parsed.sources.map((source) => resolve(source));
  // Stacks then name files as the user does, from the working directory. The texts themselves are of no use inside.
  parsed.sources = inputs.map((path) => relative(process.cwd(), path));
  parsed.sourcesContent = inputs.map(() => null);
  const inline = Buffer.from(JSON.stringify(parsed)).toString("base64");
  const text = (await code.text()).replace(/\n\/\/# (sourceMappingURL|debugId)=.*/g, "");
  return {
    text: `${text}\n//# sourceMappingURL=data:application/json;base64,${inline}\n`,
    inputs: new Map([entry, ...inputs].map((path) => [path, timeOf(path)])),
  };
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

/**
 * Makes the boot file small: every actor parses it, some 10 KiB a millisecond. The thorough half of the codec stays text until a value
 * needs it. The tables become constants of their own, which the bundler can drop, and of the numbers only those of the calls that
 * the boot file makes remain.
 */
async function buildBoot(): Promise<string> {
  const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));
  const options = { target: "bun", minify: true } as const;
  const codec = await Bun.build({
    ...options,
    entrypoints: [here("./cbor.ts")],
    format: "cjs",
    plugins: [replace(/[/]error\.ts$/)],
  });
  const text = await codec.outputs[0]!.text();
  const lazy = `
    import * as error from "./error.ts";
    const module = { exports: {} };
    // A bundle in CommonJS is the text of a function of these.
    (0, eval)(${JSON.stringify(text)})(module.exports, () => error, module);
    export const { read, write } = module.exports;`;
  const calls = Object.fromEntries(CALLS_INSIDE.map((name) => [name, numberOf(name)]));
  const tables = Object.entries({ ...numbers, NUMBERS: { [numbers.MACHINE]: calls }, FLAGS: null });
  const lean = tables.map(([name, table]) => `export const ${name} = ${literal(table)};`).join("\n");
  const plugins = [replace(/src[/]cbor\.ts$/, lazy), replace(/syscalls[/]linux[/]numbers\.ts$/, lean)];
  const result = await Bun.build({ ...options, entrypoints: [here("./boot.ts")], format: "esm", plugins });
  return result.outputs[0]!.text();
}

/** Has the bundler take a text for a module, or leave it to whoever runs the bundle. */
function replace(filter: RegExp, contents?: string): Bun.BunPlugin {
  return {
    name: `replace ${filter}`,
    setup(build) {
      if (contents === undefined) build.onResolve({ filter }, ({ path }) => ({ path, external: true }));
      else build.onLoad({ filter }, () => ({ contents, loader: "js" }));
    },
  };
}

/** Every system call that caisson's own code makes inside. */
const CALLS_INSIDE = [
  "close",
  "dup3",
  "fcntl",
  "fstat",
  "mmap",
  "mprotect",
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
  if (module instanceof URL || module.startsWith("file:")) return fileURLToPath(module);
  return resolve(module);
}
