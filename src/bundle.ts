/** A module and all that it imports as one text, for a process that cannot open files. */
import { statSync } from "node:fs";
import { relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

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
  const result = await Bun.build({ entrypoints: [entry], target: "bun", format: "esm", sourcemap: "external", external: PROVIDED, throw: false });
  if (!result.success) throw new SyntaxError(`Cannot bundle ${entry}: ${result.logs.map(String).join("; ")}`);
  const code = result.outputs.find(({ kind }) => kind === "entry-point");
  const map = result.outputs.find(({ kind }) => kind === "sourcemap");
  if (code === undefined || map === undefined) throw new Error(`Cannot bundle ${entry}: Bun.build gave no code`);
  const parsed: { sources: string[]; sourcesContent?: unknown; file?: unknown } = await map.json();
  const inputs = parsed.sources.map((source) => resolve(source));
  // Stacks then name files as the user does, from the working directory; the texts themselves are of no use inside.
  parsed.sources = inputs.map((path) => relative(process.cwd(), path));
  delete parsed.sourcesContent;
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
  boot ??= (async () => {
    const entry = fileURLToPath(new URL("./boot.ts", import.meta.url));
    const result = await Bun.build({ entrypoints: [entry], target: "bun", format: "esm", minify: true });
    return (await result.outputs[0]!.text());
  })();
  return boot;
}

/** The path of a module that was given as a file URL or a path. */
export function modulePath(module: string | URL): string {
  if (module instanceof URL || module.startsWith("file:")) return fileURLToPath(module);
  return resolve(module);
}

