/** What killed hosts leave, in places that the next host has no use for. */
import { expect } from "bun:test";
import { existsSync, mkdirSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { claim } from "../../platform/linux/cgroup/claim.ts";
import { findTrees } from "../../platform/linux/cgroup/home.ts";
import { testIf } from "../syscalls/requirement.ts";
import { until } from "./arena.ts";

const host = fileURLToPath(new URL("./fixtures/brief.ts", import.meta.url));
/** Those that a program without particular limits has no need of. */
const others = findTrees().trees.filter(
  ({ controllers }) => !controllers.some((each) => each === "memory" || each === "pids"),
);
const testTrees = testIf(
  "cgroups",
  others.length > 0,
  "there is one tree of control groups at most, or none to be had",
);

/** A directory as a host has it. */
const named = () => `caisson.${Buffer.from(crypto.getRandomValues(new Uint8Array(8))).toString("hex")}`;

testTrees("the next host sweeps all trees of control groups, also those that it has no need of itself", async () => {
  const name = named();
  const left = others.map(({ parent }) => join(parent, name));
  const { directory: living, lock: owner } = claim(others[0]!.parent); // which other hosts do not sweep meanwhile
  using _lock = owner;
  try {
    for (const directory of left) mkdirSync(directory);
    await using _ = Bun.spawn([process.execPath, host], { stdio: ["pipe", "inherit", "inherit"] });
    await until(() => !left.some((directory) => existsSync(directory)));
    expect(existsSync(living)).toBe(true);
  } finally {
    for (const directory of [...left, living]) if (existsSync(directory)) rmdirSync(directory);
  }
});
