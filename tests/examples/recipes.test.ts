/** What the documents tell people to write: every block is checked by the compiler, run, and prints what the page says. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  copyFileSync,
  existsSync,
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

setDefaultTimeout(120_000);

const project = join(import.meta.dir, "../..");

interface Block {
  /** Its file, which others can be next to. */
  readonly file: string;
  readonly code: string;
  /** Words behind `ts` and `sh run`: what the machine must have. */
  readonly needs: readonly string[];
  readonly output: string;
}

/**
 * The blocks of a page, or of one section of it, such as `README.md#Policies`, each with the block of text that follows it: `ts`, `sh run` for a shell that knows `caisson`, and
 * `ts name.ts` for a file that others import or run.
 */
function blocksOf(page: string): Block[] {
  const [path, section] = page.split("#") as [string, string | undefined];
  const whole = readFileSync(join(project, path), "utf8");
  const part = section === undefined ? whole : whole.split(/^## /m).find((each) => each.startsWith(section))!;
  const blocks = [...part.matchAll(/^```(ts|sh run)(?: +([^\n]*))?\n(.*?)^```\n(?:```text\n(.*?)^```\n)?/gms)];
  return blocks.map(([, language, words = "", code, output = ""], index) => {
    const name = `${nameOf(page)}-${index + 1}`;
    if (words.endsWith(".ts")) return { file: words, code: code!, needs: [], output };
    const needs = words.split(" ").filter((need) => need !== "");
    if (language === "ts") return { file: `${name}.ts`, code: imported(code!), needs, output };
    return { file: `${name}.sh`, code: `${COMMAND}${code}`, needs, output };
  });
}

const COMMAND = `exec 2>&1\ncaisson() { ${process.execPath} ${join(project, "src/cli.ts")} "$@"; }\n`;

const nameOf = (page: string) => page.replaceAll(/\W/g, "-");

/** The pages leave out where caisson's own names come from. */
function imported(code: string): string {
  const plain = code.replaceAll(/"(\\.|[^"\\])*"|\/\/.*$/gm, "");
  const names = Object.keys(caisson).filter((name) => new RegExp(`(?<![.\\w])${name}(?![\\w:])`).test(plain));
  const missing = names.filter((name) => !new RegExp(`^import .*\\b${name}\\b`, "m").test(code));
  return `import { ${missing.join(", ")} } from "caisson";\n${code}\nexport {};\n`;
}

const pages = new Map(
  [
    ...["docs/containers.md", "docs/egress.md", "docs/limits.md", "docs/policy.md"],
    ...["docs/scheduling.md", "docs/supervision.md"],
    ...["README.md#Policies", "README.md#Programs and containers"],
  ].map((page) => [page, blocksOf(page)]),
);

// A project that has caisson, and the files that the pages speak of.
const temporary = mkdtempSync(join(tmpdir(), "caisson-recipes-"));
afterAll(() => rmSync(temporary, { recursive: true }));
mkdirSync(join(temporary, "node_modules"));
symlinkSync(project, join(temporary, "node_modules/caisson"));
for (const scope of ["@types", "@opentelemetry"])
  symlinkSync(join(project, "node_modules", scope), join(temporary, "node_modules", scope));
const place = join(temporary, "place");
mkdirSync(place);
for (const { file, code } of [...pages.values()].flat()) writeFileSync(join(temporary, file), code);
for (const script of ["total.ts"]) copyFileSync(join(temporary, script), join(place, script));
copyFileSync(join(project, "examples/pdf/letter.pdf"), join(place, "letter.pdf"));
mkdirSync(join(place, "texts"));
writeFileSync(join(place, "texts/fruit"), "pear\nplum\n");
writeFileSync(join(place, "texts/more"), "pear\n");
const profile = process.env.CAISSON_CONTAINERS_PROFILE ?? "/usr/share/containers/seccomp.json";
if (existsSync(profile)) copyFileSync(profile, join(place, "seccomp.json"));
const given = readdirSync(place);

const noTree = await debianTree(join(place, "tree"), () => {}).then(
  () => "",
  (error: Error) => error.message,
);

const REQUIREMENTS: Readonly<Record<string, { readonly present: boolean; readonly reason: string }>> = {
  namespaces: { present: abilities().proc !== undefined, reason: "no mount namespace can be made here" },
  debian: { present: noTree === "", reason: noTree },
  pdftotext: { present: Bun.which("pdftotext") !== null, reason: "there is no pdftotext (Debian: poppler-utils)" },
  "containers-common": {
    present: existsSync(profile),
    reason: `there is no ${profile} (Debian: golang-github-containers-common)`,
  },
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

  for (const { file, needs, output } of blocks.filter(({ file }) => file.startsWith(nameOf(page)))) {
    const lacking = ["namespaces", ...needs].find((need) => !REQUIREMENTS[need]!.present);
    const testHere = lacking === undefined ? test : testIf(lacking, false, REQUIREMENTS[lacking]!.reason);
    testHere(`${file} prints what ${page} says`, async () => {
      const options = { cwd: place, stdin: "ignore", stdout: "pipe", stderr: "pipe" } as const;
      const child = Bun.spawn([file.endsWith(".sh") ? "bash" : process.execPath, join(temporary, file)], options);
      const [printed, error] = await Promise.all([child.stdout.text(), child.stderr.text()]);
      expect(error).toBe("");
      const shown = printed.replaceAll(place, "/srv").replaceAll(`by ${basename(process.execPath)}:`, "by bun:");
      expect(shown.trimEnd()).toBe(output.trimEnd());
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
  const named = ["tree", "policy.json", "total.policy.json", "total.policy.ts"]; // which a page says are written
  expect(readdirSync(place).filter((name) => ![...given, ...named].includes(name))).toEqual([]);
});
