// The puppet is a clean room: nothing of the host that made it can be found in it.
import { afterAll, expect } from "bun:test";
import { randomBytes } from "node:crypto";
import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { testPuppet } from "./strings.ts";

interface Look {
  readonly found: string[];
  readonly environ: string;
  readonly cmdline: string;
  readonly cwd: string;
  readonly descriptors: string[];
}
interface Report {
  readonly before: Look;
  readonly behind?: Look;
  readonly own: boolean[];
}

const directory = realpathSync(mkdtempSync(join(tmpdir(), "caisson-clean-")));
afterAll(() => rmSync(directory, { recursive: true }));

testPuppet(
  "a puppet holds nothing of its host's memory, arguments, environment and descriptors",
  () => {
    const secret = randomBytes(16).toString("hex");
    const script = fileURLToPath(new URL("fixtures/secretive.ts", import.meta.url));
    const { stdout, stderr } = Bun.spawnSync([process.execPath, script, secret], {
      cwd: directory,
      env: { ...process.env, SECRET: secret },
    });
    expect(stderr.toString()).toBe("");
    const { before, behind, own }: Report = JSON.parse(stdout.toString());

    // The same search finds it in the host, where its arguments and environment lie and where the buffer lies.
    expect(own).toEqual([true, true]);
    const nothing = { found: [], environ: "", cmdline: "puppet\0", descriptors: ["0", "1", "2", "3"] };
    expect(before).toMatchObject(nothing);
    // A process begins where its parent is. The new root is where that ends.
    expect(before.cwd).toBe(directory);
    if (behind !== undefined) expect(behind).toEqual({ ...nothing, cwd: "/" });
  },
  60_000,
);
