import { expect, test } from "bun:test";
import { devices, field, legacyDevices, stallOf } from "../../../platform/linux/cgroup/counts.ts";

// As Linux 6.18 and 6.12 wrote them.
const OOM = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
const EVENTS = "low 0\nhigh 7\nmax 12\noom 1\noom_kill 2\noom_group_kill 1\n";
const IO =
  "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=5 dios=0\n254:0 rbytes=1 wbytes=2 rios=1 wios=1 dbytes=0 dios=0\n";
const BLKIO =
  "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 0\n254:0 Total 12288\n8:0 Read 1\n8:0 Write 2\nTotal 12291\n";

test("field() takes the line of the name, not of one that begins like it", () => {
  expect(field(OOM, "oom_kill")).toBe(3);
  expect([field(EVENTS, "high"), field(EVENTS, "oom"), field(EVENTS, "oom_kill")]).toEqual([7, 1, 2]);
  expect(field("", "oom_kill")).toBe(0);
});

test("devices() and legacyDevices() add up disks, and nothing else of the same line", () => {
  expect(devices(IO)).toEqual([4097, 8194]);
  expect(devices("254:0 \n")).toEqual([0, 0]); // a disk that was never used
  expect(legacyDevices(BLKIO)).toEqual([4097, 8194]);
  expect(legacyDevices("")).toEqual([0, 0]);
});

test("stallOf() takes the totals, and 0 for what an older kernel has no line of", () => {
  const some = "some avg10=0.10 avg60=0.20 avg300=0.30 total=4711\n";
  expect(stallOf(`${some}full avg10=0.00 avg60=0.00 avg300=0.00 total=815\n`)).toEqual({ some: 4711, full: 815 });
  expect(stallOf(some)).toEqual({ some: 4711, full: 0 });
});
