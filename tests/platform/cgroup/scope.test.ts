// A process that systemd is asked to move: in a process of its own, for nothing moves it back.
import { describe, expect } from "bun:test";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { findTrees } from "../../../platform/linux/cgroup/home.ts";
import { hasManager } from "../../../platform/linux/cgroup/scope.ts";
import { testIf } from "../../syscalls/requirement.ts";

const script = fileURLToPath(new URL("fixtures/scoped.ts", import.meta.url));
const ungoverned = findTrees().trees.every(({ version }) => version === 1);
const testSystemd = testIf(
  "systemd",
  hasManager() && ungoverned,
  hasManager() ? "this process has a group of v2 already" : "there is no systemd that this user could ask",
);

async function scoped(environment: Record<string, string>) {
  const host = Bun.spawn([process.execPath, script], { env: { ...process.env, ...environment }, stderr: "inherit" });
  return JSON.parse(await host.stdout.text());
}

describe("CAISSON_CGROUP=systemd", () => {
  testSystemd("moves the process into a scope that is delegated to it, and nothing does unasked", async () => {
    const unasked = await scoped({ CAISSON_CGROUP: "" });
    expect(unasked.after).toBe(unasked.before);
    expect(unasked.lacks.memory).toMatch(/belongs to systemd|not delegated/);
    const { before, after, trees, lacks } = await scoped({ CAISSON_CGROUP: "systemd" });
    expect(before).toBe(unasked.before);
    expect(basename(after)).toMatch(/^caisson-[0-9a-f-]{36}\.scope$/);
    expect(trees[0]).toMatchObject({ version: 2, controllers: expect.arrayContaining(["memory", "pids"]) });
    expect(trees[0].parent.endsWith(after)).toBe(true);
    expect(lacks.memory).toBeUndefined();
  });

  testSystemd("tells why there is no scope", async () => {
    for (const [environment, reason] of [
      [{ PATH: "/nowhere" }, "there is no busctl to ask systemd with"],
      // The address goes before where systemd's own is looked for.
      [
        { DBUS_SESSION_BUS_ADDRESS: "unix:path=/nowhere", DBUS_SYSTEM_BUS_ADDRESS: "unix:path=/nowhere" },
        "systemd gave no scope: ",
      ],
    ] as const) {
      const { before, after, lacks } = await scoped({ CAISSON_CGROUP: "systemd", ...environment });
      expect(after).toBe(before);
      expect(lacks.memory).toStartWith(reason);
    }
  });
});
