import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { findTrees } from "../../../platform/linux/cgroup/home.ts";
import { mostCpuIn } from "../../../platform/linux/cgroup/quota.ts";
import { testIf } from "../../syscalls/requirement.ts";

const base = mkdtempSync(join(tmpdir(), "caisson-quota-"));
afterAll(() => rmSync(base, { recursive: true }));

test("mostCpuIn() takes the least of a group and of those above it, rounded down to what can be said", () => {
  const groups = [base, join(base, "a"), join(base, "a/b"), join(base, "a/b/c")];
  for (const group of groups) mkdirSync(group, { recursive: true });
  const have = (group: string, quota: number, period: number) => {
    writeFileSync(join(group, "cpu.cfs_quota_us"), `${quota}\n`);
    writeFileSync(join(group, "cpu.cfs_period_us"), `${period}\n`);
  };
  expect(mostCpuIn(base)).toBe(Number.POSITIVE_INFINITY);
  have(groups[1]!, 150_000, 100_000);
  have(groups[2]!, 20_000, 30_000);
  have(groups[3]!, -1, 100_000);
  expect(groups.slice(1).map(mostCpuIn)).toEqual([1.5, 0.66666, 0.66666]);
});

const tree = findTrees().trees.find(({ version, controllers }) => version === 1 && controllers.includes("cpu"));
const testLegacy = testIf(
  "cgroup v1 cpu",
  tree !== undefined,
  "no group of v1 that shares processors can be made here",
);

describe("a group of v1 that may have more than the one above it", () => {
  testLegacy("is made, and noted as having what that has", async () => {
    const above = join(tree!.parent, `caisson-quota-${process.pid}`);
    mkdirSync(above);
    try {
      writeFileSync(join(above, "cpu.cfs_quota_us"), "30000");
      const fixture = fileURLToPath(new URL("../fixtures/quota.ts", import.meta.url));
      const begin = 'echo 0 > "$1/tasks"; shift; exec "$@"';
      const host = Bun.spawn(["/bin/sh", "-ec", begin, "sh", above, process.execPath, fixture, "0.5", "0.2"], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      expect(await host.stdout.json()).toEqual({ "0.5": 30_000, "0.2": 20_000 });
      expect(await host.exited).toBe(0);
    } finally {
      rmdirSync(above);
    }
  });
});
