import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { dynamicOf } from "../../platform/linux/elf.ts";
import { puppetImage } from "../../platform/linux/puppet.ts";
import { runtime } from "../../platform/linux/runtime.ts";
import { testIf } from "../syscalls/requirement.ts";

const testReadelf = testIf("objdump", Bun.which("readelf") !== null, "there is no readelf (Debian: binutils)");
const directory = mkdtempSync(join(tmpdir(), "caisson-runtime-"));
afterAll(() => rmSync(directory, { recursive: true }));

describe("dynamicOf()", () => {
  const programs = [process.execPath, "/bin/sh", "/usr/bin/env"].filter(existsSync);
  for (const program of programs) {
    testReadelf(`reads of ${basename(program)} what readelf reads`, () => {
      const run = (option: string) =>
        Bun.spawnSync(["readelf", "-W", option, program], { env: { ...process.env, LC_ALL: "C" } });
      const needed = Array.from(
        run("-d")
          .stdout.toString()
          .matchAll(/\(NEEDED\).*\[(.*)\]/g),
        ([, name]) => name!,
      );
      const [, interpreter] = /Requesting program interpreter: (.*)\]/.exec(run("-l").stdout.toString())!;
      expect(needed.length).toBeGreaterThan(0);
      expect(dynamicOf(program)).toEqual({ interpreter: interpreter!, needed });
    });
  }

  test("throws for a static program", () => {
    const path = join(directory, "static");
    writeFileSync(path, puppetImage());
    expect(() => dynamicOf(path)).toThrow(`Cannot run ${path} inside: it is not a dynamic program`);
  });
});

describe("runtime()", () => {
  test("is what this process runs: its program, its loader, and the libraries that it is linked to", () => {
    const { program, loader, libraries } = runtime();
    const { interpreter, needed } = dynamicOf(process.execPath);
    expect(program).toBe(process.execPath);
    expect(loader).toEqual({ source: realpathSync(interpreter), target: interpreter });
    const names = [loader, ...libraries].map(({ target }) => basename(target));
    for (const name of needed) expect(names).toContain(name);
    expect(libraries.length).toBeLessThanOrEqual(needed.length);
  });

  test("places each library where its name leads to the file that is mapped", () => {
    const maps = Bun.spawnSync(["/bin/cat", `/proc/${process.pid}/maps`]).stdout.toString();
    for (const { source, target } of runtime().libraries) {
      expect(maps).toContain(source);
      expect(realpathSync(target)).toBe(source);
    }
  });
});
