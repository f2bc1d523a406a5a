/** An end for want of memory that was not the limit's doing is not told as the limit's. */
import { afterAll, expect, setDefaultTimeout } from "bun:test";
import { writeGroup } from "../../platform/linux/cgroup/claim.ts";
import { directoryIn, findTrees } from "../../platform/linux/cgroup/home.ts";
import { exec } from "../../src/exec.ts";
import type { Exit } from "../../src/exit.ts";
import { testGroups } from "../platform/cgroup/groups.ts";
import { arsenal } from "./attempt.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const base = arsenal("exhaust");
afterAll(() => base[Symbol.dispose]());

/** How a program ends whose processes together take that many MiB, or for ever more. */
async function ending(mib: number, memory: string): Promise<Exit | undefined> {
  const argv = [base.program, "share", `${Math.ceil(mib / 8)}`];
  await using program = await exec(argv, { sandbox: { limits: { memory } }, stderr: "ignore" });
  await new Response(program.stdout).text();
  await program.exited;
  return program.exit;
}

/** Limits the memory of all that this process starts, by the group above theirs; -1 limits nothing. */
function limitAbove(bytes: number): void {
  const tree = findTrees().trees.find(({ controllers }) => controllers.includes("memory"))!;
  const file = tree.version === 1 ? "memory.limit_in_bytes" : "memory.max";
  writeGroup(directoryIn(tree), file, tree.version === 2 && bytes < 0 ? "max" : `${bytes}`);
}

testGroups("memory")(
  "a program that the kernel ends for the limit of a group above did not reach its own",
  async () => {
    limitAbove(96 * 2 ** 20);
    try {
      expect(await ending(160, "512 MiB")).toEqual({ reason: "signal", signal: "SIGKILL" });
      expect(await ending(64, "32 MiB")).toEqual({ reason: "limit", limit: "memory" });
    } finally {
      limitAbove(-1);
    }
    expect(await ending(160, "512 MiB")).toEqual({ reason: "returned", code: 0 });
  },
);
