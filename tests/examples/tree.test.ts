/** The Debian tree of the examples: that it is made, and that its programs run in it and from it alone. */
import { afterAll, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { debianTree } from "../../examples/tree.ts";
import { testIf } from "../syscalls/requirement.ts";

const temporary = mkdtempSync(join(tmpdir(), "caisson-tree-"));
const tree = join(temporary, "tree");
/** Where packages are downloaded to, and nobody else leaves anything. */
const archives = mkdtempSync(join(tmpdir(), "caisson-archives-"));
chmodSync(archives, 0o755); // root's apt-get downloads as a user of its own
const clean = () => {
  for (const each of [temporary, archives]) rmSync(each, { recursive: true, force: true });
};
afterAll(clean);

const lines: string[] = [];
const { TMPDIR } = process.env;
process.env.TMPDIR = archives;
// A machine of another kind, without lists of packages or without a mirror cannot make one, which is no fault of ours.
const failure = await debianTree(tree, (line) => lines.push(line)).then(
  () => "",
  (error: Error) => {
    clean(); // where a tree is required, the next line throws
    return error.cause instanceof Error ? `${error.message}: ${error.cause.message}` : error.message;
  },
);
if (TMPDIR === undefined) delete process.env.TMPDIR;
else process.env.TMPDIR = TMPDIR;
const inTree = testIf("debian", failure === "", failure);

inTree("debianTree() says what it does, and leaves no package behind", () => {
  expect(lines).toEqual([
    "Downloading base-files, dash, coreutils, apt and what they depend on",
    expect.stringMatching(new RegExp(`^Unpacking \\d+ packages into ${tree}$`)),
  ]);
  expect(readdirSync(archives)).toEqual([]);
});

const bubblewrap = Bun.which("bwrap");
const inside =
  bubblewrap === null || failure !== "" ? testIf("bubblewrap", false, "bwrap or a tree is missing") : inTree;

inside("debianTree() makes a root in which a shell and apt-get run", () => {
  const root = ["--unshare-all", "--ro-bind", tree, "/", "--proc", "/proc", "--dev", "/dev"];
  const script = "apt-get --version; ls /etc/debian_version; python3";
  const { stdout, stderr, exitCode } = Bun.spawnSync([bubblewrap!, ...root, "/bin/sh", "-c", script], { env: {} });
  expect(stderr.toString()).toBe("/bin/sh: 1: python3: not found\n"); // of the tree, not of the host
  expect(stdout.toString()).toMatch(/^apt \d+\.\d+.*\n\/etc\/debian_version\n$/s);
  expect(exitCode).toBe(127);
});

test("debianTree() throws what to install where there is no apt-get, before it makes anything", async () => {
  const other = join(temporary, "other");
  const module = new URL("../../examples/tree.ts", import.meta.url).pathname;
  const script = `import { debianTree } from "${module}"; await debianTree("${other}").catch(({ message }) => console.log(message));`;
  // Bun looks programs up in the PATH that it was started with.
  const { stdout } = Bun.spawnSync([process.execPath, "-e", script], { env: { PATH: temporary } });
  expect(stdout.toString()).toStartWith("Cannot make a Debian tree: there is no apt-get, expected");
  expect(existsSync(other)).toBe(false);
});
