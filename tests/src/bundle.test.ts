import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bundle, bundled as ready, scopeOf, scriptScope } from "../../src/bundle.ts";

let directory: string;
const at = (...names: string[]) => join(directory, ...names);
const write = (name: string, text: string) => {
  writeFileSync(at(name), text);
  return at(name);
};
beforeAll(() => {
  directory = realpathSync(mkdtempSync(join(tmpdir(), "caisson-bundle-")));
  for (const name of [
    "app",
    "app/lib",
    "app/node_modules",
    "app/node_modules/dep",
    "app/.keys",
    "other",
    "other/node_modules",
    "other/node_modules/dep",
  ])
    mkdirSync(at(name));
  write("app/package.json", "{}");
  write("app/lib/own.ts", "export const own = 'of the package';");
  write("app/node_modules/dep/index.js", "export const dep = 'of a dependency';");
  write("app/.env", "TOKEN=secret");
  write("app/.keys/id", "secret");
  write("other/secret.txt", "secret");
  write("other/node_modules/dep/index.js", "export const dep = 'secret';");
  write("other/code.ts", "export const code = 'secret';");
  symlinkSync(at("other/secret.txt"), at("app/lib/link.txt"));
});
afterAll(() => rmSync(directory, { recursive: true }));

const bundled = (source: string) => {
  const entry = write("app/lib/entry.ts", source);
  return bundle(entry, scopeOf(entry, []));
};

test("bundle() takes files of the module's package and of its dependencies", async () => {
  const text = await bundled(
    `import { own } from "./own.ts"; import { dep } from "dep"; export const both = [own, dep];`,
  );
  expect(text).toContain("of the package");
  expect(text).toContain("of a dependency");
});

// Each of these would put a file of the host into the actor, where nothing else could.
test.each([
  ["a file outside, as text", `import text from "../../other/secret.txt" with { type: "text" }; console.log(text);`],
  [
    "a file outside, by its absolute path",
    `import text from "DIRECTORY/other/secret.txt" with { type: "text" }; console.log(text);`,
  ],
  ["code outside", `import { code } from "../../other/code.ts"; console.log(code);`],
  ["code outside, imported late", `console.log(await import("../../other/code.ts"));`],
  ["a package of others", `import { dep } from "../../other/node_modules/dep/index.js"; console.log(dep);`],
  ["a link to a file outside", `import text from "./link.txt" with { type: "text" }; console.log(text);`],
  ["a hidden file of the package", `import text from "../.env" with { type: "text" }; console.log(text);`],
  ["a file in a hidden directory", `import text from "../.keys/id" with { type: "text" }; console.log(text);`],
])("bundle() refuses %s", async (_, source) => {
  const made = bundled(source.replace("DIRECTORY", directory));
  const error = await made.catch((error: Error) => error);
  expect(error).toBeInstanceOf(SyntaxError);
  expect((error as Error).message).toContain("lies outside");
});

test("bundle() takes files outside where the scope has them", async () => {
  const entry = write(
    "app/lib/entry.ts",
    `import text from "../../other/secret.txt" with { type: "text" }; console.log(text);`,
  );
  expect(await bundle(entry, scopeOf(entry, [at("other")]))).toContain("secret");
});

test("bundle() takes packages from above the module's own, where a workspace keeps them", async () => {
  mkdirSync(at("app/packages/inner"), { recursive: true });
  write("app/packages/inner/package.json", "{}");
  const entry = write("app/packages/inner/entry.ts", `export { dep } from "dep";`);
  expect(await bundle(entry, scopeOf(entry, []))).toContain("of a dependency");
});

test("bundle() gives a script no more than its own directory", async () => {
  const entry = write("app/lib/entry.ts", `import up from "../package.json"; console.log(up);`);
  expect(await bundle(entry, scopeOf(entry, []))).toContain("package.json");
  expect(await bundle(entry, scriptScope(entry, [])).catch((error: Error) => error)).toBeInstanceOf(SyntaxError);
});

test("bundle() calls no macro", async () => {
  write("app/lib/macro.ts", `export function leak() { return process.env.HOME; }`);
  const made = bundled(`import { leak } from "./macro.ts" with { type: "macro" }; console.log(leak());`);
  expect(await made.catch((error: Error) => error)).toBeInstanceOf(SyntaxError);
});

test("bundle() tells where a syntax error is", async () => {
  const error = (await bundled("export const a = 1;\nexport const = 2;").catch((error: Error) => error)) as Error;
  expect(error.message).toMatch(/entry\.ts:2:\d+/);
});

test("bundle() takes an entry without an extension for a module, and only that", async () => {
  write("app/lib/license", "no code");
  const entry = write(
    "app/lib/tool",
    `#!/usr/bin/env bun\nimport text from "./license" with { type: "text" }; const all: string = text; console.log(all);`,
  );
  const text = await bundle(entry, scopeOf(entry, []));
  expect(text).toContain("console.log(");
  expect(text).toContain("no code");
});

test("bundle() refuses an entry that is no module by its name, which would run nothing", async () => {
  for (const name of ["app/lib/data.json", "app/lib/notes.txt", "app/lib/page.html"]) {
    const entry = write(name, "1");
    const error = (await bundle(entry, scopeOf(entry, [])).catch((error: Error) => error)) as Error;
    expect(error).toBeInstanceOf(SyntaxError);
    expect(error.message).toBe(`Cannot bundle ${entry}: JavaScript or TypeScript is expected, by its name`);
  }
});

test("bundle() makes it anew when a file has changed", async () => {
  const entry = write("app/lib/entry.ts", `export { own } from "./own.ts";`);
  const scope = scopeOf(entry, []);
  const first = await bundle(entry, scope);
  expect(await bundle(entry, scope)).toBe(first);
  write("app/lib/own.ts", "export const own = 'changed meanwhile';");
  expect(await bundle(entry, scope)).toContain("changed meanwhile");
});

test("bundled() gives the same at once where it is made, and nothing where a file has changed or another scope is asked for", async () => {
  const entry = write("app/lib/ready.ts", `export { own } from "./own.ts";`);
  const scope = scopeOf(entry, [at("other")]);
  expect(ready(entry, scope)).toBeUndefined();
  const made = await bundle(entry, scope);
  expect(ready(entry, scope)).toBe(made);
  expect(ready(entry, scriptScope(entry, []))).toBeUndefined();
  write("app/lib/own.ts", "export const own = 'changed again';");
  expect(ready(entry, scope)).toBeUndefined();
});

test("bundle() that fails for one fails for all who asked, and is tried again", async () => {
  const entry = write("app/lib/broken.ts", 'import "./missing.ts";');
  const scope = scopeOf(entry, []);
  const asked = [bundle(entry, scope), bundle(entry, scope)].map((each) => each.catch((error: Error) => error.name));
  expect(await Promise.all(asked)).toEqual(["SyntaxError", "SyntaxError"]);
  write("app/lib/broken.ts", "export const whole = 1;");
  expect(await bundle(entry, scope)).toContain("whole");
});

test("bundle() keeps those that were used last, and forgets the others", async () => {
  const entries = Array.from({ length: 65 }, (_, index) =>
    write(`app/lib/many-${index}.ts`, `export const own = ${index};`),
  );
  const [first, second, ...others] = entries as [string, string, ...string[]];
  const scope = scopeOf(first, []);
  for (const entry of [first, second]) await bundle(entry, scope);
  for (const entry of others) {
    await bundle(entry, scope);
    expect(ready(first, scope)).toBeDefined();
  }
  expect(entries.filter((entry) => ready(entry, scope) === undefined)).toEqual([second]);
});

test("bundle() takes a relative path for what it means by then", async () => {
  write("app/here.ts", "export const where = 'in app';");
  write("app/lib/here.ts", "export const where = 'in lib';");
  const before = process.cwd();
  const told = async (name: string) => {
    process.chdir(at(name));
    return await bundle("here.ts", [at("app")]);
  };
  try {
    expect(await told("app")).toContain("in app");
    expect(await told("app/lib")).toContain("in lib");
  } finally {
    process.chdir(before);
  }
});
