// Directories of hosts that live and of hosts that died: what the next one takes away, and what it leaves alone.
import { afterAll, beforeAll, describe, expect, setDefaultTimeout } from "bun:test";
import { chownSync, existsSync, mkdirSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { claim, dismantle, membersOf, sweep } from "../../../platform/linux/cgroup/claim.ts";
import { findTrees } from "../../../platform/linux/cgroup/home.ts";
import { isRoot } from "../../../platform/linux/ids.ts";
import { testIf } from "../../syscalls/requirement.ts";
import { runs, testGroups, until } from "./groups.ts";

setDefaultTimeout(60_000);

const script = fileURLToPath(new URL("fixtures/owner.ts", import.meta.url));
/** A group of this test's own in each tree, so that no other host looks at what is in it. */
const places = findTrees().trees.map(({ version, parent }) => ({
  version,
  parent: join(parent, `caisson-test-${process.pid}`),
}));
beforeAll(() => {
  for (const { parent } of places) mkdirSync(parent);
});
afterAll(async () => {
  for (const { parent } of places) await dismantle(parent);
});

interface Left {
  readonly directory: string;
  readonly pid: number;
}

async function owner(parent: string): Promise<Left & { readonly host: Bun.Subprocess }> {
  const host = Bun.spawn([process.execPath, script, parent], { stdout: "pipe", stderr: "inherit" });
  const { value } = await host.stdout.getReader().read();
  return { ...(JSON.parse(Buffer.from(value!).toString()) as Left), host };
}

describe("sweep()", () => {
  testGroups("kill")(
    "ends and removes what a killed host left, in every tree, and what a living one has stays",
    async () => {
      for (const { parent } of places) {
        const [dead, living] = [await owner(parent), await owner(parent)];
        dead.host.kill("SIGKILL");
        await dead.host.exited;
        expect([existsSync(dead.directory), runs(dead.pid)]).toEqual([true, true]);
        await sweep(parent);
        expect(existsSync(dead.directory)).toBe(false);
        await until(() => !runs(dead.pid)); // who ends leaves the group a moment before
        expect([existsSync(living.directory), runs(living.pid)]).toEqual([true, true]);
        living.host.kill("SIGKILL");
        await living.host.exited;
        await sweep(parent);
        expect(existsSync(living.directory)).toBe(false);
        await until(() => !runs(living.pid));
      }
    },
  );

  testGroups("kill")("leaves alone what is not ours: other names, and other users' directories", async () => {
    const { parent } = places[0]!;
    const names = ["caisson", "caisson.rest", "caisson.0123", "other.0123456789abcdef", "caisson.0123456789abcdef.x"];
    for (const name of names) mkdirSync(join(parent, name));
    const ours = join(parent, "caisson.0123456789abcdef");
    mkdirSync(ours);
    const theirs = join(parent, "caisson.fedcba9876543210");
    if (isRoot()) {
      mkdirSync(theirs);
      chownSync(theirs, 65_534, 65_534);
    }
    await sweep(parent);
    expect(existsSync(theirs)).toBe(isRoot()); // nobody else can give a directory away
    if (isRoot()) rmdirSync(theirs);
    expect(names.filter((name) => !existsSync(join(parent, name)))).toEqual([]);
    expect(existsSync(ours)).toBe(false);
    for (const name of names) rmdirSync(join(parent, name));
  });

  testGroups("kill")("by many at a time removes each once, and no claim that is made meanwhile", async () => {
    const { parent } = places[0]!;
    const dead = await Promise.all(Array.from({ length: 4 }, () => owner(parent)));
    for (const { host } of dead) host.kill("SIGKILL");
    await Promise.all(dead.map(({ host }) => host.exited));
    const claims: ReturnType<typeof claim>[] = [];
    const making = (async () => {
      for (let count = 0; count < 200; count++) {
        claims.push(claim(parent));
        if (count % 10 === 0) await Bun.sleep(0);
      }
    })();
    await Promise.all([making, ...Array.from({ length: 8 }, () => sweep(parent))]);
    await until(() => dead.every(({ directory, pid }) => !existsSync(directory) && !runs(pid)));
    expect(claims.filter(({ directory }) => !existsSync(directory))).toEqual([]);
    for (const { lock } of claims) lock.close();
    await sweep(parent);
    expect(claims.filter(({ directory }) => existsSync(directory))).toEqual([]);
  });
});

/** A tree of v1's freezer in which this process may make groups. */
const freezer = findTrees().hierarchies.find(
  ({ version, controllers }) => version === 1 && controllers.includes("kill"),
);
const testFreezer = testIf(
  "cgroup v1 freezer",
  freezer !== undefined && isRoot() && Bun.which("perl") !== null,
  "that takes root, a tree of v1's freezer, and perl",
);

// Without the freezer it takes ten times as long, and of a few more it never gets hold.
testFreezer("dismantle() ends who is another process at each look, in the freezer", async () => {
  const runaways = `$SIG{CHLD} = 'IGNORE'; my $end = time + 15; fork for 1 .. 6;
    while (time < $end) { my $next = fork; exit if !defined $next || $next }`;
  const directory = join(freezer!.own, `caisson-test-freezer-${process.pid}`);
  mkdirSync(directory);
  const shell = Bun.spawn(["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec perl -e "$1"', directory, runaways]);
  await until(() => membersOf(directory).some((pid) => pid !== shell.pid));
  expect(await dismantle(directory)).toBe(true);
  expect(existsSync(directory)).toBe(false);
});

testGroups("kill")("dismantle() goes on where its host was held up for as long as it would wait", async () => {
  const { parent } = places[0]!;
  const { directory, host } = await owner(parent);
  const { now } = performance;
  let heldMs = 0;
  performance.now = () => now.call(performance) + heldMs;
  try {
    const gone = dismantle(directory);
    heldMs = 3_600_000;
    expect(await gone).toBe(true);
  } finally {
    performance.now = now;
    host.kill("SIGKILL");
  }
  expect(existsSync(directory)).toBe(false);
});
