// What a group tells where the host has no descriptor left for a while.
import { afterEach, describe, expect, setDefaultTimeout } from "bun:test";
import { fileURLToPath } from "node:url";
import { Group } from "../../../platform/linux/cgroup/group.ts";
import { isRoot } from "../../../platform/linux/ids.ts";
import { scratch } from "../../attacks/arena.ts";
import { testIf } from "../../syscalls/requirement.ts";
import { starve } from "../starve.ts";
import { testGroups, until } from "./groups.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const MIB = 2 ** 20;
/** Takes as many MiB as it is told by each line, and says so. */
const EATER =
  "$| = 1; my @a; while (my $n = <STDIN>) { push @a, map { my $x = 'x' x 1048576; $x } 1..$n; print 'full' }";

let over: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const each of over) await each();
  over = [];
});

/** A group with a program in it, and what it told. */
function eater() {
  const group = Group.make({ memory: 64 * MIB, swap: 0 })!;
  over.push(() => group.end());
  const told: string[] = [];
  group.onMemory(16 * MIB, () => told.push("warned"));
  group.onMemoryEnd(() => told.push("ended"));
  const child = Bun.spawn(["perl", "-e", EATER], { stdin: "pipe", stdout: "pipe", stderr: "ignore" });
  group.place(child.pid);
  const reader = child.stdout.getReader();
  const ask = async (mib: number) => {
    child.stdin.write(`${mib}\n`);
    await child.stdin.flush();
  };
  const answer = async () => Buffer.from((await reader.read()).value ?? []).toString();
  return { told, ask, answer };
}

/** Lets whoever heard of something look, with no descriptor to look by. */
async function starved(act: () => Promise<void>): Promise<void> {
  using _ = starve();
  await act();
  for (let turns = 0; turns < 20; turns++) await Bun.sleep(10);
}

describe("a host without a descriptor", () => {
  const testMemory = testGroups("memory");

  testMemory("hears later of more memory than the mark, and takes that for no end", async () => {
    const { told, ask, answer } = eater();
    await starved(() => ask(32)); // in v2 the kernel holds back who is above the mark until it is taken away
    expect(told).toEqual([]);
    await until(() => told.length > 0);
    expect(told).toEqual(["warned"]);
    expect(await answer()).toBe("full");
    // It still hears of the next, which is one.
    await ask(64);
    expect(await answer()).toBe("");
    await until(() => told.length > 1);
    expect(told).toEqual(["warned", "ended"]);
  });

  testMemory("hears later of an end, and once", async () => {
    const { told, ask, answer } = eater();
    await ask(32);
    expect(await answer()).toBe("full");
    await until(() => told.length > 0);
    await starved(async () => {
      await ask(64);
      expect(await answer()).toBe("");
    });
    expect(told).toEqual(["warned"]);
    await until(() => told.length > 1);
    expect(told).toEqual(["warned", "ended"]);
  });

  const unshare = isRoot()
    ? ["unshare", "--mount"]
    : ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount"];
  const testMounts = testIf("unshare", Bun.which("unshare") !== null, "there is no unshare (Debian: util-linux)");
  testMounts("takes no news of v2 for an end that it cannot look into", async () => {
    using place = scratch();
    const fixture = fileURLToPath(new URL("./fixtures/changes.ts", import.meta.url));
    await using host = Bun.spawn([...unshare, process.execPath, fixture, place.directory("group")]);
    const told = await new Response(host.stdout).text();
    expect(JSON.parse(told)).toEqual({ before: [], told: ["warned", "ended"] });
  });
});
