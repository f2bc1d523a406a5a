/** A script as the actor that it would be, but for the walls: watched from its first line on, and not while Bun starts. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bundle, scriptScope } from "./bundle.ts";

export interface Rehearsal extends Disposable {
  readonly argv: readonly string[];
  /** A path that is nowhere. The script looks for it before it begins, and beneath it for each variable that it asks for. */
  readonly marker: string;
}

/**
 * Bundles a script, as it will be for the actor, and puts it where Bun can run it. Throws SyntaxError for what cannot be bundled.
 * @param shown variables that it finds in `process.env` beside those that it has, so that asking for one is seen; `Bun.env` cannot be watched
 */
export async function rehearsalOf(
  [script, ...args]: readonly [string, ...string[]],
  shown: Readonly<Record<string, string>>,
): Promise<Rehearsal> {
  const text = await bundle(script, scriptScope(script, []));
  const directory = mkdtempSync(join(tmpdir(), "caisson-learn-"));
  const marker = `/${crypto.randomUUID()}`;
  const file = join(directory, "script.js");
  writeFileSync(file, prefixed(text, `(${prologue})(${JSON.stringify({ marker, shown, argv: [script, ...args] })});`));
  return {
    // Whatever stands in the working directory to configure Bun is not the script's.
    argv: [process.execPath, "--config=/dev/null", "--no-env-file", "--no-install", file],
    marker,
    [Symbol.dispose]: () => rmSync(directory, { recursive: true }),
  };
}

/** The first line tells Bun that there is nothing to transpile, so it stays the first. */
function prefixed(text: string, first: string): string {
  const [, pragma = "", rest = text] = /^(\/\/ @bun[^\n]*\n)(.*)$/s.exec(text) ?? [];
  return `${pragma}${first}${rest}`;
}

/** Runs in the watched process: it is sent there as text, so nothing of this module is there. */
function prologue({
  marker,
  shown,
  argv,
}: {
  readonly marker: string;
  readonly shown: object;
  readonly argv: string[];
}): void {
  const { existsSync } = process.getBuiltinModule("node:fs");
  process.argv.splice(1, process.argv.length, ...argv);
  const told = new Set<string | symbol>();
  const tell = (name: string | symbol) => {
    if (typeof name === "string" && !told.has(name)) existsSync(`${marker}/${name}`);
    told.add(name);
  };
  process.env = new Proxy(Object.assign(Object.create(null), shown, process.env), {
    get: (env, name) => {
      tell(name);
      return Reflect.get(env, name);
    },
    has: (env, name) => {
      tell(name);
      return Reflect.has(env, name);
    },
    getOwnPropertyDescriptor: (env, name) => {
      tell(name);
      return Reflect.getOwnPropertyDescriptor(env, name);
    },
  });
  existsSync(marker);
}
