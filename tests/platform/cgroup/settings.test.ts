import { describe, expect, test } from "bun:test";
import { CONTROLLERS } from "../../../platform/linux/cgroup/hierarchy.ts";
import { type Budget, controllersOf, settingsOf } from "../../../platform/linux/cgroup/settings.ts";

const table: readonly (readonly [what: string, budget: Budget, v2: readonly string[], v1: readonly string[]])[] = [
  ["nothing", {}, [], []],
  ["memory", { memory: 1e8 }, ["memory.max 100000000", "memory.oom.group 1"], ["memory.limit_in_bytes 100000000", "memory.kmem.tcp.limit_in_bytes 100000000"]],
  [
    "memory without swap, which v1 counts together",
    { memory: 1e8, swap: 0 },
    ["memory.max 100000000", "memory.oom.group 1", "memory.swap.max 0"],
    ["memory.limit_in_bytes 100000000", "memory.memsw.limit_in_bytes 100000000", "memory.kmem.tcp.limit_in_bytes 100000000"],
  ],
  ["processes", { processes: 5 }, ["pids.max 5"], ["pids.max 5"]],
  ["half a processor", { cpu: 0.5 }, ["cpu.max 50000 100000"], ["cpu.cfs_period_us 100000", "cpu.cfs_quota_us 50000"]],
  ["two and a half", { cpu: 2.5 }, ["cpu.max 250000 100000"], ["cpu.cfs_period_us 100000", "cpu.cfs_quota_us 250000"]],
  ["as little as the kernel takes", { cpu: 0.001 }, ["cpu.max 1000 100000"], ["cpu.cfs_period_us 100000", "cpu.cfs_quota_us 1000"]],
  [
    "two disks",
    { diskRead: 1000, diskWrite: 500, devices: ["8:0", "254:0"] },
    ["io.max 8:0 rbps=1000 wbps=500", "io.max 254:0 rbps=1000 wbps=500"],
    [
      "blkio.throttle.read_bps_device 8:0 1000",
      "blkio.throttle.write_bps_device 8:0 500",
      "blkio.throttle.read_bps_device 254:0 1000",
      "blkio.throttle.write_bps_device 254:0 500",
    ],
  ],
  ["one direction", { diskWrite: 500, devices: ["8:0"] }, ["io.max 8:0 wbps=500"], ["blkio.throttle.write_bps_device 8:0 500"]],
]; // biome-ignore format: a table

describe("settingsOf()", () => {
  const written = (budget: Budget, version: 1 | 2) =>
    settingsOf(budget, version, CONTROLLERS).map(({ file, value }) => `${file} ${value}`);
  test.each(table)("%s", (_, budget, v2, v1) => {
    expect([written(budget, 2), written(budget, 1)]).toEqual([[...v2], [...v1]]);
  });

  test("leaves out what the group has no controller for", () => {
    const budget = { memory: 1e8, processes: 5, cpu: 1 };
    expect(settingsOf(budget, 1, ["pids"])).toEqual([{ file: "pids.max", value: "5" }]);
    expect(settingsOf(budget, 2, ["usage", "kill"])).toEqual([]);
  });
});

test("controllersOf() names what a budget needs", () => {
  expect(controllersOf({})).toEqual([]);
  expect(controllersOf({ memory: 1 })).toEqual(["memory"]);
  expect(controllersOf({ swap: 0, processes: 1, cpu: 1, diskRead: 1 })).toEqual(["memory", "pids", "cpu", "io"]);
});
