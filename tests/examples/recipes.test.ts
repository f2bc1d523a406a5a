/** What the documents tell people to write: every block is checked by the compiler, run, and prints what the page says. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { debianTree } from "../../examples/tree.ts";
import { abilities } from "../../platform/linux/abilities.ts";
import * as caisson from "../../src/index.ts";
import * as syscalls from "../../syscalls/index.ts";
import { testIf } from "../syscalls/requirement.ts";

setDefaultTimeout(60_000);

const project = join(import.meta.dir, "../..");

interface Block {
  readonly name: string;
  readonly code: string;
  /** Words behind `ts`: what the machine must have. */
  readonly needs: readonly string[];
  readonly output: string;
}

/** The blocks of a page, or of one section of it, each with the block of text that follows it. */
function blocksOf(page: string, section?: string): Block[] {
  const whole = readFileSync(join(project, page), "utf8");
  const part = section === undefined ? whole : whole.split(/^## /m).find((each) => each.startsWith(section))!;
  const blocks = [...part.matchAll(/^```ts *([^\n]*)\n(.*?)^```\n(?:```text\n(.*?)^```\n)?/gms)];
  return blocks.map(([, needs, code, output], index) => ({
    name: `${page.replace(/\W/g, "-")}-${index + 1}`,
    code: imported(code!),
    needs: needs!.split(" ").filter((need) => need !== ""),
    output: output ?? "",
  }));
}

/** The pages leave out where caisson's own names come from. */
function imported(code: string): string {
  const plain = code.replaceAll(/"(\\.|[^"\\])*"|\/\/.*$/gm, "");
  const names = Object.keys(caisson).filter((name) => new RegExp(`(?<![.\\w])${name}(?![\\w:])`).test(plain));
  const missing = names.filter((name) => !new RegExp(`^import .*\\b${name}\\b`, "m").test(code));
  return `import { ${missing.join(", ")} } from "caisson";\n${code}\nexport {};\n`;
}

const pages = new Map([
  ["docs/containers.md", blocksOf("docs/containers.md")],
  ["docs/egress.md", blocksOf("docs/egress.md")],
  ["README.md", blocksOf("README.md", "Programs and containers")],
]);

// A project that has caisson, and the files that the pages speak of.
const temporary = mkdtempSync(join(tmpdir(), "caisson-recipes-"));
afterAll(() => rmSync(temporary, { recursive: true }));
mkdirSync(join(temporary, "node_modules"));
symlinkSync(project, join(temporary, "node_modules/caisson"));
symlinkSync(join(project, "node_modules/@types"), join(temporary, "node_modules/@types"));
for (const { name, code } of [...pages.values()].flat()) writeFileSync(join(temporary, `${name}.ts`), code);
const place = join(temporary, "place");
mkdirSync(place);
copyFileSync(join(project, "examples/pdf/letter.pdf"), join(place, "letter.pdf"));

const noTree = await debianTree(join(place, "tree"), () => {}).then(
  () => "",
  (error: Error) => error.message,
);

const REQUIREMENTS: Readonly<Record<string, { readonly present: boolean; readonly reason: string }>> = {
  namespaces: { present: abilities().proc !== undefined, reason: "no mount namespace can be made here" },
  debian: { present: noTree === "", reason: noTree },
  pdftotext: { present: Bun.which("pdftotext") !== null, reason: "there is no pdftotext (Debian: poppler-utils)" },
  curl: { present: Bun.which("curl") !== null, reason: "there is no curl" },
};

test("the blocks are what the compiler takes", async () => {
  const settings = {
    extends: join(project, "tsconfig.json"),
    compilerOptions: { noUnusedLocals: false, typeRoots: [join(temporary, "node_modules/@types")] },
    include: ["*.ts"],
  };
  writeFileSync(join(temporary, "tsconfig.json"), JSON.stringify(settings));
  const compiler = Bun.spawn([join(project, "node_modules/.bin/tsc"), "-p", temporary], { stdout: "pipe" });
  const lines = (await compiler.stdout.text()).split("\n");
  // The project has a check of its own, but its types have to be found.
  expect(lines.filter((line) => line.includes(basename(temporary)) || /TS(2307|2688|5\d{3}|18003)/.test(line))).toEqual(
    [],
  );
  expect(await compiler.exited).not.toBe(127);
});

describe.each([...pages])("%s", (page, blocks) => {
  test("has blocks to be tested", () => {
    expect(blocks.length).toBeGreaterThan(0);
  });

  for (const { name, needs, output } of blocks) {
    const lacking = ["namespaces", ...needs].find((need) => !REQUIREMENTS[need]!.present);
    const testHere = lacking === undefined ? test : testIf(lacking, false, REQUIREMENTS[lacking]!.reason);
    testHere(`${name} prints what ${page} says`, async () => {
      const options = { cwd: place, stdin: "ignore", stdout: "pipe", stderr: "pipe" } as const;
      const child = Bun.spawn([process.execPath, join(temporary, `${name}.ts`)], options);
      const [printed, error] = await Promise.all([child.stdout.text(), child.stderr.text()]);
      expect(error).toBe("");
      expect(printed.trimEnd()).toBe(output.trimEnd());
      expect(await child.exited).toBe(0);
    });
  }
});

test("docs/spawn.md names functions and options that there are", () => {
  const sources = ["process", "container", "exec", "sandbox", "mounts"].map((name) => join(project, `src/${name}.ts`));
  sources.push(join(project, "syscalls/linux/mount.ts"));
  const declared = sources.flatMap((path) => [
    ...readFileSync(path, "utf8").matchAll(/^ +(?:readonly |async |get )?(\w+)(?:\??:|\()/gm),
  ]);
  const known = new Set([...Object.keys(syscalls), ...Object.keys(caisson), ...declared.map(([, name]) => name!)]);
  const rows = readFileSync(join(project, "docs/spawn.md"), "utf8").split("\n");
  const ours = rows.filter((row) => row.startsWith("| ")).map((row) => row.split("|").slice(2).join("|"));
  const named = ours.flatMap((cell) =>
    [...cell.matchAll(/`(?:\w+\.)?([a-z][A-Za-z]+)(?=[`(:])/g)].map(([, name]) => name!),
  );
  expect(named.length).toBeGreaterThan(100);
  expect(named.filter((name) => !known.has(name) && name !== "await")).toEqual([]);
});

test("no block leaves a file behind", () => {
  const left = readdirSync(place).filter((name) => name !== "letter.pdf" && name !== "tree");
  expect(left).toEqual([]);
});
