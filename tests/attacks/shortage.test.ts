/** A start where something is short, full or gone: an error that says what, nothing left, and the next start works. */
import { afterEach, describe, expect, setDefaultTimeout } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, readlinkSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { removed } from "../../platform/linux/cgroup/claim.ts";
import { findTrees } from "../../platform/linux/cgroup/home.ts";
import type { Tree } from "../../platform/linux/cgroup/search.ts";
import { isRoot } from "../../platform/linux/ids.ts";
import { container, proc, text, tmpfs } from "../../src/index.ts";
import { testPuppet, testRoot } from "../platform/strings.ts";
import { testIf } from "../syscalls/requirement.ts";
import { failure, scratch, until } from "./arena.ts";
import { surplus } from "./holdings.ts";
import { NO_STRANGER, stranger } from "./stranger.ts";
import { acts, Victim } from "./victim.ts";

setDefaultTimeout(300_000); // dozens of hosts, on a machine that may have other things to do

describe("descriptors", () => {
  // Not an actor: Bun's bundler ends a host that has no descriptor for it.
  testPuppet("for the first start of a host: EMFILE, however few are left, until there are enough", async () => {
    const { last: plain } = await acts("program", "refused", "setns");
    const wrong: string[] = [];
    let room = 0;
    for (; ; room++) {
      const { first, last } = await acts("program", "descriptors", `${room}`, JSON.stringify(plain.after));
      const left = surplus(plain.after, last.after);
      if (last.refused !== undefined || left.length > 0) wrong.push(`${room}: ${last.refused?.message}, left ${left}`);
      if (first.refused === undefined) break;
      if (first.refused.code !== "EMFILE") wrong.push(`${room}: ${first.refused.message}`);
    }
    expect(wrong).toEqual([]);
    expect(room).toBeGreaterThan(5);
  });
});

describe("disks", () => {
  testRoot("full inside a container: the write is named", async () => {
    const files = [proc(), tmpfs("/room", { size: 65_536 }), text("/room/note", "x".repeat(100_000))];
    expect(await failure(container({ files }))).toMatchObject({ code: "ENOSPC", syscall: "write" });
    await using made = await container({ files: [proc(), tmpfs("/room", { size: 65_536 }), text("/room/note", "x")] });
    expect(made.pid).toBeGreaterThan(0);
  });

  const own = isRoot() ? ["unshare", "--mount"] : ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount"];
  const setpriv = ["setpriv", "--inh-caps=-all", "--ambient-caps=-all"];
  const there = Bun.which("unshare") !== null && Bun.which("setpriv") !== null;
  const testMounts = testIf("unshare", there, "there is no unshare or setpriv (Debian: util-linux)");
  for (const act of ["program", "container", "actor"] as const)
    testMounts(`full where temporary files and sockets go: a start (${act}) needs no room there`, async () => {
      using base = scratch();
      const full = base.directory("full");
      const fill = `mount -t tmpfs -o size=64k,nr_inodes=8 none ${full}; ! head -c 100000 /dev/zero 2>&- >${full}/zeroes; exec "$@"`;
      const wrapper = [...own, "--propagation=private", "sh", "-ec", fill, "sh", ...setpriv];
      await using host = new Victim(act, "none", { wrapper, env: { TMPDIR: full, XDG_RUNTIME_DIR: full } });
      const { refused, before, after } = await host.act();
      expect(refused).toBeUndefined();
      expect(surplus(before, after)).toEqual([]);
      expect(after["file zeroes"]).toBe(2); // by either name
    });
});

describe("processes", () => {
  // The kernel counts none of root's.
  const wrapper = isRoot() ? stranger : [];
  const testStranger = testIf("setpriv", wrapper !== undefined, NO_STRANGER);
  /** Threads of Bun's come and go: with so many fewer than there are, there is no room though some end. */
  const NONE = -4;

  for (const act of ["program", "container", "actor"] as const)
    testStranger(
      `that its user may have are used up (${act}): EAGAIN, until there is room for all that it takes`,
      async () => {
        await using host = new Victim(act, "none", { wrapper: wrapper! });
        const plain = await host.act();
        expect(plain.refused).toBeUndefined();
        const wrong: string[] = [];
        let refusals = 0;
        while (wrong.length < 10) {
          const room = NONE + refusals;
          const { refused, before, after } = await host.act(room);
          const left = surplus(before, after);
          if (left.length > 0) wrong.push(`${room}: left ${left}`);
          if (refused === undefined && refusals > 0) break;
          if (refused === undefined) continue; // others of this user ended meanwhile
          refusals++;
          // Bun inside needs threads, and ends without a word where it can have none.
          const inside = act === "actor" && refused.name === "ActorExit";
          const named = refused.code === "EAGAIN" && ["clone", "clone3"].includes(refused.syscall!);
          if (!named && !inside) wrong.push(`${room}: ${refused.message}`);
          const lifted = await host.act();
          if (lifted.walls !== plain.walls)
            wrong.push(`${room}, and lifted: ${lifted.refused?.message ?? lifted.walls}`);
        }
        expect(wrong).toEqual([]);
      },
    );
});

const trees = isRoot() ? findTrees().trees : [];
const pids = trees.find(({ controllers, version }) => version === 1 && controllers.includes("pids"));
const testLegacy = testIf(
  "cgroup v1 pids",
  pids !== undefined,
  "processes are not counted by a group of v1 that this user may make",
);

const homeIn = ({ parent }: Tree) => join(parent, `caisson-shortage-${process.pid}`);

/** A group for a host, in each tree of v1; a shell goes there before it becomes the host. */
class Home {
  readonly directories = trees.filter(({ version }) => version === 1).map(homeIn);
  readonly wrapper: readonly string[];

  constructor() {
    for (const directory of this.directories) mkdirSync(directory);
    const enter = this.directories.map((directory) => `echo $$ >${directory}/cgroup.procs`);
    this.wrapper = ["sh", "-ec", [...enter, 'exec "$@"'].join("; "), "sh"];
  }

  /** Moves out who is there, and removes it with all beneath. */
  remove(): void {
    for (const directory of this.directories) remove(directory);
  }
}

function remove(group: string): void {
  for (const entry of readdirSync(group, { withFileTypes: true }))
    if (entry.isDirectory()) remove(join(group, entry.name));
  for (const pid of readFileSync(join(group, "cgroup.procs"), "utf8").split("\n").filter(Boolean))
    writeFileSync(join(group, "..", "cgroup.procs"), pid);
  rmdirSync(group);
}

/** What a host has a lock on: its own directories. */
const claims = (host: number) =>
  readdirSync(`/proc/${host}/fd`).flatMap((number) => {
    try {
      const path = readlinkSync(`/proc/${host}/fd/${number}`);
      return /caisson\.[0-9a-f]{16}$/.test(path) ? [path] : [];
    } catch {
      return []; // it was closed meanwhile
    }
  });

describe("control groups", () => {
  let home: Home | undefined;
  afterEach(() => {
    for (const directory of home?.directories ?? [])
      try {
        remove(directory);
      } catch {
        // the test has removed it
      }
    home = undefined;
  });

  testLegacy("of the host's own have no room for processes: EAGAIN, until there is enough", async () => {
    home = new Home();
    await using host = new Victim("program", "none", { wrapper: home.wrapper });
    await host.act();
    const group = homeIn(pids!);
    const count = () => Number(readFileSync(join(group, "pids.current"), "utf8"));
    const wrong: string[] = [];
    let room = 0;
    for (; ; room++) {
      writeFileSync(join(group, "pids.max"), `${count() + room}`);
      const { refused, before, after } = await host.act();
      writeFileSync(join(group, "pids.max"), "max");
      const left = surplus(before, after);
      if (left.length > 0) wrong.push(`${room}: left ${left}`);
      if (refused === undefined) break;
      if (refused.code !== "EAGAIN") wrong.push(`${room}: ${refused.message}`);
    }
    expect(wrong).toEqual([]);
    expect(room).toBeGreaterThan(0);
  });

  for (const act of ["program", "container", "actor"] as const) {
    testLegacy(`of the host's own removed by somebody between two starts (${act}): there are others`, async () => {
      await using host = new Victim(act, "none");
      const plain = await host.act();
      const gone = claims(host.pid);
      expect(gone.length).toBeGreaterThan(0);
      for (const directory of gone) await until(() => removed(directory)); // the kernel may have something of the first in there still
      const { walls, refused, after } = await host.act();
      expect(refused).toBeUndefined();
      expect(walls).toBe(plain.walls!);
      await until(() => claims(host.pid).every((directory) => !gone.includes(directory)));
      expect(surplus(plain.after, after)).toEqual([]);
    });

    testLegacy(`in which the host was removed by somebody (${act}): it is said, and nothing is left`, async () => {
      home = new Home();
      await using host = new Victim(act, "none", { wrapper: home.wrapper });
      expect((await host.act()).refused).toBeUndefined();
      home.remove();
      const { refused, before, after } = await host.act();
      expect(refused).toMatchObject({ code: "ENOENT", syscall: "mkdir" });
      expect(surplus(before, after)).toEqual([]);
    });
  }
});
