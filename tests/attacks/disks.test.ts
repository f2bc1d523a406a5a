/** Attacks on disks, and on file systems in memory, by every way to take space that is no plain writing. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync } from "node:fs";
import { join } from "node:path";
import { abilities } from "../../platform/linux/abilities.ts";
import { type ExecOptions, exec } from "../../src/exec.ts";
import type { SandboxLimits } from "../../src/limits.ts";
import { bind, overlay, tmpfs } from "../../src/mounts.ts";
import { root } from "../src/box.ts";
import { testIf } from "../syscalls/requirement.ts";
import { failure, inside } from "./arena.ts";
import { arsenal, testAttempt } from "./attempt.ts";

type Disk = typeof import("./fixtures/disk.ts");

setDefaultTimeout(60_000); // the machine may have other things to do

const base = arsenal("writes");
/** On a disk: /tmp can be in memory. */
const disk = realpathSync(mkdtempSync("/var/tmp/caisson-disks-"));
chmodSync(disk, 0o777);
afterAll(() => {
  base[Symbol.dispose]();
  rmSync(disk, { recursive: true });
});

async function take(way: string, place: string, options: ExecOptions & { readonly pieces?: number }) {
  const { pieces = 0, ...rest } = options;
  await using program = await exec([base.program, way, place, `${pieces}`], { ...rest, stdin: "ignore" });
  const [said] = await Promise.all([program.stdout, program.stderr].map((stream) => new Response(stream).text()));
  await program.exited;
  return { said: said!.trim(), exit: program.exit };
}

const done = { said: "done", exit: { reason: "returned", code: 0 } } as const;
const refused = (said: string) => ({ ...done, said });

const counted = root || abilities().groups?.io === "cgroup v2";
const UNCOUNTED = "for an ordinary user only groups of v2 count all that is written";
const testDisk = counted ? testAttempt : testIf("a count of what is written", false, UNCOUNTED);

describe("limits.disk", () => {
  const fresh = (): string => {
    const place = mkdtempSync(join(disk, "place-"));
    chmodSync(place, 0o777);
    return place;
  };
  const within = (limits: SandboxLimits): ExecOptions => ({
    sandbox: { write: [disk], limits: { wallTime: "100 s", processes: 1, ...limits } },
  });

  // Directories are the journal's, where there is one.
  for (const way of ["write", "mmap", "tmpfile", "rename", "link", "holes", "posix_fallocate"])
    testDisk(`is reached by ${way}, and not by less`, async () => {
      const { exit } = await take(way, fresh(), within({ disk: "16 MiB" }));
      expect(exit).toEqual({ reason: "limit", limit: "disk" });
      expect(await take(way, fresh(), { ...within({ disk: "16 MiB" }), pieces: 4 })).toEqual(done);
      expect(await take(way, fresh(), { ...within({}), pieces: 24 })).toEqual(done);
    });

  for (const way of ["fallocate", "fallocate-beyond", "fallocate-zeroes", "ioctl"])
    testDisk(`is not evaded by ${way}, which nothing would count: EOPNOTSUPP`, async () => {
      expect(await take(way, disk, { ...within({ disk: "16 MiB" }), pieces: 1 })).toEqual(refused("EOPNOTSUPP"));
    });
});

describe("limits.disk of an actor", () => {
  const within = (limits: SandboxLimits) => inside<Disk>("disk", { write: [disk], limits });

  for (const way of ["replace", "hide", "map"] as const)
    test(`is reached by ${way}(), and not by less`, async () => {
      await using greedy = await within({ disk: "16 MiB" });
      void greedy.call[way](disk, 4000).catch(() => {}); // it can be through before this process looks
      expect(await greedy.exited).toEqual({ reason: "limit", limit: "disk" });
      await using modest = await within({ disk: "16 MiB" });
      await modest.call[way](disk, 4);
      await using free = await within({});
      await free.call[way](disk, 24);
    });
});

testAttempt("limits.disk counts what children wrote for whom nobody waited, or is refused", async () => {
  const within = (limits: SandboxLimits): ExecOptions => ({ sandbox: { write: [disk], limits } });
  expect(await take("orphans", disk, { ...within({}), pieces: 4 })).toEqual(done);
  const asked = take("orphans", disk, within({ disk: "16 MiB" }));
  if (abilities().groups?.io === "cgroup v2") expect((await asked).exit).toEqual({ reason: "limit", limit: "disk" });
  else expect(await failure(asked)).toMatchObject({ name: "NotEnforced", guarantee: "disk" });
});

describe("limits.fileSize", () => {
  const limits: SandboxLimits = { fileSize: "512 KiB" };

  for (const way of ["fallocate-beyond", "fallocate-zeroes", "ioctl"])
    testAttempt(`is not evaded by ${way}, which takes space beyond the size of a file: EOPNOTSUPP`, async () => {
      expect(await take(way, disk, { sandbox: { write: [disk], limits }, pieces: 1 })).toEqual(refused("EOPNOTSUPP"));
      const free = Bun.spawnSync([base.program, way, disk, "1"]);
      expect(free.stdout.toString().trim()).toBe("done");
    });

  testAttempt("holds fallocate(2), which goes on below it", async () => {
    const over = await take("fallocate", disk, { sandbox: { write: [disk], limits }, pieces: 1 });
    expect(over.exit).toEqual({ reason: "signal", signal: "SIGXFSZ" });
    expect(await take("fallocate", disk, { sandbox: { write: [disk] }, pieces: 1 })).toEqual(done);
  });
});

describe("limits.tmpfs", () => {
  const room = "/room";
  const FULL = {
    write: "ENOSPC",
    mmap: "SIGBUS",
    tmpfile: "ENOSPC",
    link: "ENOSPC",
    holes: "ENOSPC",
    posix_fallocate: "ENOSPC",
    fallocate: "ENOSPC",
    names: "ENOSPC",
    directories: "ENOSPC",
  } as const;
  const small: SandboxLimits = { tmpfs: "8 MiB" };
  const large: SandboxLimits = { tmpfs: "64 MiB" };

  for (const [way, full] of Object.entries(FULL)) {
    testAttempt(`ends ${way} with ${full}, in a sandbox and in a container`, async () => {
      const sandboxed = (limits: SandboxLimits): ExecOptions => ({ sandbox: { limits }, files: [tmpfs(room)] });
      const boxed = (limits: SandboxLimits): ExecOptions => ({
        container: { files: [bind(base.program), tmpfs(room)], limits },
      });
      for (const options of [sandboxed, boxed]) {
        expect(await take(way, room, { ...options(small), pieces: 24 })).toEqual(refused(full));
        expect(await take(way, room, { ...options(large), pieces: 24 })).toEqual(done);
      }
    });
  }

  testAttempt("ends what is written over an overlay that keeps it in memory", async () => {
    const lower = join(base.path, "lower");
    mkdirSync(lower);
    chmodSync(lower, 0o777);
    const over = (limits: SandboxLimits): ExecOptions => ({
      container: { files: [bind(base.program), overlay(room, { lower: [lower] })], limits },
    });
    expect(await take("write", room, { ...over(small), pieces: 24 })).toEqual(refused("ENOSPC"));
    expect(await take("write", room, { ...over(large), pieces: 24 })).toEqual(done);
  });
});
