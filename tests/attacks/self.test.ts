/** Attacks of a process on the confinement that it took upon itself. */
import { afterAll, beforeEach, expect, setDefaultTimeout } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { usableAbi } from "../../platform/linux/landlock.ts";
import { hasFilters } from "../../syscalls/linux/seccomp.ts";
import { testIf } from "../syscalls/requirement.ts";
import { scratch } from "./arena.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const testSelf = testIf("landlock", usableAbi() > 0 && hasFilters(), "this kernel has no Landlock or takes no filters");

const base = scratch();
afterAll(() => base[Symbol.dispose]());
function furnish(): void {
  rmSync(join(base.path, "work"), { recursive: true, force: true });
  for (const name of ["open/file", "secret/file", "secret/other", "work/file"]) {
    mkdirSync(join(base.path, name, ".."), { recursive: true });
    writeFileSync(join(base.path, name), "text");
  }
}
beforeEach(furnish);

async function run(scenario: string, ...args: string[]): Promise<Record<string, unknown>> {
  const script = join(import.meta.dir, "fixtures/self.ts");
  const child = Bun.spawn([process.execPath, script, scenario, base.path, ...args], { stdout: "pipe", stderr: "pipe" });
  const [output, error] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  if (child.exitCode !== 0) throw new Error(`${scenario} ended with ${child.signalCode ?? child.exitCode}: ${error}`);
  return JSON.parse(output);
}

/** What Landlock refuses; all else is the filter's, with EPERM. */
const EXPECTED = {
  "by a directory that was open": "EACCES",
  "by the root in /proc": "EACCES",
  "by a thread's root in /proc": "EACCES",
  "what is read, again for writing": "EACCES",
  "by a symbolic link": "EACCES",
  "by a hard link": "EXDEV",
  "by moving it here": "EACCES",
  "the same past the filter": "ENOSYS",
  clone3: "ENOSYS",
};

testSelf("what is given up cannot be had another way, and could be had before", async () => {
  const control = await run("tries");
  furnish();
  const found = await run("tries", "confined");
  expect(Object.keys(found).length).toBeGreaterThan(35);
  const expected = Object.fromEntries(Object.keys(found).map((name) => [name, "EPERM"]));
  expect(found).toEqual({ ...expected, ...EXPECTED });
  for (const [name, outcome] of Object.entries(control)) expect([name, outcome]).not.toEqual([name, found[name]]);
});

testSelf("of what begins behind it nothing succeeds, whatever races with it", async () => {
  expect(await run("races")).toMatchObject({ before: true, behind: true, late: 200 });
  expect(await run("races", "confined")).toEqual({ before: true, behind: true, won: 0, late: 0 });
});
