// Containers of an ordinary user's, who owns the groups that limit them: what is in there has all rights there, and is that user outside.
import { describe, expect } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { directoryIn, findTrees } from "../../platform/linux/cgroup/home.ts";
import { bind, tmpfs } from "../../src/mounts.ts";
import { box, root, said } from "../src/box.ts";
import { testIf } from "../syscalls/requirement.ts";
import { failure } from "./arena.ts";

const NEEDED = ["memory", "pids", "cpu"] as const;
const unified = findTrees().trees.find(
  ({ version, controllers }) => version === 2 && NEEDED.every((each) => controllers.includes(each)),
);
const testOwner = testIf(
  "cgroup",
  !root && unified !== undefined,
  root
    ? "it is run by root, whose containers are nobody outside"
    : "that takes a group of v2 with memory, pids and cpu",
);

const limits = { memory: "128 MiB", processes: 16, cpu: 0.5 } as const;
const mighty = { capabilities: "all" } as const;

/** What limits the container that was made last, as the host sees it. */
function kept(): Record<string, string> {
  const directory = directoryIn(unified!);
  const groups = readdirSync(directory, { withFileTypes: true }).filter((each) => each.isDirectory());
  const last = join(directory, `${Math.max(...groups.map(({ name }) => Number(name)))}`);
  const files = ["memory.max", "memory.swap.max", "pids.max", "cpu.max"];
  return Object.fromEntries(files.map((file) => [file, readFileSync(join(last, file), "utf8").trim()]));
}

describe("a container of an ordinary user's in v2", () => {
  testOwner("is kept to limits whose files it does not see, whatever it mounts", async () => {
    await using made = await box([tmpfs("/mnt")], { user: 0, group: 0, limits });
    const before = kept();
    expect(before).toEqual({
      "memory.max": `${128 * 2 ** 20}`,
      "memory.swap.max": "0",
      "pids.max": "17",
      "cpu.max": "50000 100000",
    });
    const seen = await said(
      made,
      `cat /proc/self/cgroup; mkdir /mnt/m; mount -t cgroup2 none /mnt/m; cd /mnt/m; ls | grep -E "^(memory|pids|cpu)[.](max|swap)" || echo none
       find . -name "*.max" -exec sh -c 'echo max > {}' ";" 2>/dev/null
       mkdir deep; echo $$ > deep/cgroup.procs; cat /proc/self/cgroup`,
      mighty,
    );
    expect(seen.split("\n")).toEqual(["0::/", "none", "0::/deep"]);
    expect(kept()).toEqual(before);
    // What is in a group of its own making counts, too.
    const children = "sleep 1000 & ".repeat(30);
    const crowd = `cd /mnt/m; echo $$ > deep/cgroup.procs; (${children}) >/dev/null 2>&1
      count=0; while read -r _; do count=$((count + 1)); done < deep/cgroup.procs; echo $count`;
    expect(Number(await said(made, crowd, mighty))).toBeWithin(5, 18);
  });

  testOwner("is refused limits where it sees control groups", async () => {
    for (const files of [[bind("/sys", "/mnt")], [bind("/sys/fs/cgroup", "/mnt")]])
      expect(await failure(box(files, { limits }))).toMatchObject({ name: "NotEnforced" });
    for (const namespaces of [["user", "mount", "pid"]] as const)
      expect(await failure(box([], { limits, namespaces }))).toMatchObject({ name: "NotEnforced" });
  });
});
