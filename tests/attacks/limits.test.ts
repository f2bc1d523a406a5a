/** Attacks on what the machine has: each limit fires, says which one it was by the kernel's evidence, and lets go on who stays below. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdtempSync, readFileSync, realpathSync, rmSync, statSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { abilities } from "../../platform/linux/abilities.ts";
import { field } from "../../platform/linux/cgroup/counts.ts";
import { hierarchiesOf } from "../../platform/linux/cgroup/hierarchy.ts";
import { findTrees } from "../../platform/linux/cgroup/home.ts";
import { type Container, type ContainerOptions, container } from "../../src/container.ts";
import { type ExecOptions, exec } from "../../src/exec.ts";
import type { Exit, LimitName } from "../../src/exit.ts";
import { ActorExit, LimitExceeded, NotEnforced, type SandboxedProcess } from "../../src/index.ts";
import type { SandboxLimits } from "../../src/limits.ts";
import { bind, dev, proc, tmpfs } from "../../src/mounts.ts";
import type { Sandbox } from "../../src/sandbox.ts";
import type { Usage } from "../../src/usage.ts";
import { testGroups } from "../platform/cgroup/groups.ts";
import { root } from "../src/box.ts";
import { testIf } from "../syscalls/requirement.ts";
import { failure, inside, until } from "./arena.ts";
import { arsenal, survivors, testAttempt } from "./attempt.ts";

type Disk = typeof import("./fixtures/disk.ts");
type Glutton = typeof import("./fixtures/glutton.ts");
type Memory = typeof import("./fixtures/memory.ts");

setDefaultTimeout(60_000); // the machine may have other things to do

const base = arsenal("exhaust");
afterAll(() => base[Symbol.dispose]());

const grouped = (controller: "memory" | "cpu" | "io" | "pids" | "usage") => findTrees().lacks[controller] === undefined;
const testGrouped = (controller: "memory" | "cpu") => (testAttempt === test ? testGroups(controller) : testAttempt);
const MIB = 2 ** 20;

/** Why a container's memory is kept by nobody here; undefined where it is. */
async function whyUnkept(options: ContainerOptions = {}): Promise<NotEnforced | undefined> {
  try {
    await using _ = await container({ ...options, limits: { memory: "64 MiB" } });
    return undefined;
  } catch (error) {
    if (error instanceof NotEnforced) return error;
    throw error;
  }
}
/** Whether a group is to keep it: one that is not its owner's, as root's are, or one that can be fenced off, as those of v2. */
const isKept = findTrees().trees.some(
  ({ version, controllers }) => controllers.includes("memory") && (root || version === 2),
);
const OWNED = "an ordinary user owns the groups of its containers, and can fence off only those of v2";
/** Where the memory of what is tested is limited. */
const testMemoryOf = {
  program: testAttempt,
  container: isKept ? testAttempt : testIf("memory of containers", false, findTrees().lacks.memory ?? OWNED),
};

/** How an actor ends that has used up its memory. */
function mustBeOfMemory(exit: Exit): void {
  // Bun ends itself when the kernel refuses what it cannot do without, and nothing proves why. With a group, that mostly is quicker.
  if (grouped("memory") && exit.reason === "limit") expect(exit.limit).toBe("memory");
  else expect(exit).toMatchObject({ reason: "signal", signal: expect.stringMatching(/^SIG(ILL|TRAP|ABRT|SEGV)$/) });
}

describe("memory of an actor ends", () => {
  const MOST = 256 * MIB;
  for (const way of ["heap", "strings", "smallBuffers", "largeBuffer", "wasm", "maps"] as const) {
    test(`by ${way}: what is refused throws, what is too much by then ends it`, async () => {
      await using greedy = await inside<Memory>("memory", { limits: { memory: "64 MiB" } });
      const outcome = await greedy.call[way](MOST).catch(() => "it ended");
      if (outcome !== "it ended") expect(outcome).toMatch(/^(RangeError|ENOMEM)$/);
      const lives = await greedy.call.alive().catch(() => false);
      if (lives) return;
      mustBeOfMemory(await greedy.exited);
    });

    test(`by ${way} not below the limit`, async () => {
      await using modest = await inside<Memory>("memory");
      expect(await modest.call[way](MOST)).toBe("done");
      expect(await modest.call.alive()).toBe(true);
    });
  }
});

describe("memory of an actor", () => {
  test("used up: what is refused and not caught is mostly told, and never an end that looks like a return", async () => {
    const errors: string[] = [];
    for (let times = 0; times < 8; times++) {
      await using greedy = await inside<Glutton>("glutton", { limits: { memory: "200 MiB" } });
      const error = await failure(greedy.call.buffersOf(MIB));
      errors.push((error as Error).message);
      if (error instanceof ActorExit || error instanceof LimitExceeded) mustBeOfMemory(await greedy.exited);
    }
    expect(errors).toContain("Out of memory");
  });

  /** Machines that tests run on have no more. */
  const TOUCHED = 420 * MIB;
  for (const mib of [64, 128, 256, 512, 640, 700, 768, 832, 1024, 2048, 8192])
    test(`of ${mib} MiB can be had, nearly all, and lets it start`, async () => {
      await using actor = await inside<Memory>("memory", { limits: { memory: `${mib} MiB` } });
      expect(await actor.call.largeBuffers(Math.min(0.8 * mib * MIB, TOUCHED))).toBe("done");
    });
});

/** The program that uses up what there is in a sandbox: what it said, and how it ended. */
const exhaust = (args: readonly string[], limits: SandboxLimits = {}, options: ExecOptions = {}) =>
  ending([base.program, ...args], { ...options, sandbox: { ...options.sandbox, limits } });

/** The same in a container, whose limits are of all that runs there. */
function contained(args: readonly string[], limits?: SandboxLimits) {
  const files = [bind(base.program), proc(), dev(), tmpfs("/room")];
  return ending([base.program, ...args], { container: { files, ...(limits === undefined ? {} : { limits }) } });
}

async function ending(argv: readonly string[], options: ExecOptions) {
  await using program = await exec(argv, options);
  const [said] = await Promise.all([program.stdout, program.stderr].map((stream) => new Response(stream).text()));
  await program.exited;
  return { said: said!.trim(), exit: program.exit, usage: program.usage() };
}

const returned = (code = 0) => ({ reason: "returned", code }) as const;
const limit = (name: LimitName): Exit => ({ reason: "limit", limit: name });

for (const [where, started] of [
  ["program", exhaust],
  ["container", contained],
] as const)
  describe(`a ${where}`, () => {
    const done = { said: "done", exit: returned() };

    const testMemory = testMemoryOf[where];
    testMemory("that asks for more memory than the limit in one process is refused it", async () => {
      expect(await started(["memory", "128"], { memory: "64 MiB" })).toMatchObject({
        said: "ENOMEM",
        exit: returned(),
      });
      expect(await started(["memory", "128"])).toMatchObject(done);
    });

    testMemory("whose processes are over the memory limit together is ended for it", async () => {
      const { exit, usage } = await started(["share-for-ever", "16"], { memory: "64 MiB" });
      expect(exit).toEqual(limit("memory"));
      expect(usage.memoryBytes).toBe(0);
      expect(await started(["share", "16"], { memory: "512 MiB" })).toMatchObject(done);
      expect(survivors(base.program)).toEqual([]);
    });

    for (const way of ["spin", "spin-deaf", "spin-many", "spin-shortly"])
      testAttempt(`that uses up its processor time by ${way} is ended for that`, async () => {
        const { exit, usage } = await started([way, "3"], { cpuTime: "200 ms" });
        expect(exit).toEqual(limit("cpuTime"));
        expect(usage.cpuMs).toBeGreaterThanOrEqual(200);
        expect(survivors(base.program)).toEqual([]);
      });

    for (const way of ["sleep", "stop", "spin-deaf"])
      testAttempt(`that goes on by ${way} is ended when its time is over`, async () => {
        expect((await started([way], { wallTime: "100 ms" })).exit).toEqual(limit("wallTime"));
        expect(survivors(base.program)).toEqual([]);
      });

    testAttempt("that ends within its times returns", async () => {
      expect(await started(["memory", "1"], { wallTime: "1 h", cpuTime: "1 h" })).toMatchObject(done);
    });

    for (const way of ["stdout", "stderr", "both"])
      testAttempt(`that prints too much to ${way} is ended for that, and not for what it may`, async () => {
        expect((await started([way], { output: "64 KiB" })).exit).toEqual(limit("output"));
        expect((await started([way, "32"], { output: "64 KiB" })).exit).toMatchObject({ reason: "returned" });
      });

    testAttempt("that opens too much gets EMFILE", async () => {
      expect((await started(["files", "100"], { files: 64 })).said).toBe("EMFILE");
      expect((await started(["files", "100"], { files: 256 })).said).toBe("done");
    });
  });

describe("container()", () => {
  const files = [bind(base.program), proc(), dev()];
  const two = (made: Container, args: readonly string[]) =>
    Promise.all([1, 2].map(() => made.exec([base.program, ...args], { stdin: "pipe" })));

  /** In which a container and two programs are there for sure: much more than that takes here, and what a machine that is busy may take beside. */
  async function enoughMs(): Promise<number> {
    const before = performance.now();
    await using made = await container({ files });
    await two(made, ["sleep"]);
    return 2000 + 5 * (performance.now() - before);
  }

  const ENDS: readonly (readonly [LimitName, () => Promise<SandboxLimits>, readonly string[]])[] = [
    ["cpuTime", async () => ({ cpuTime: "300 ms" }), ["spin-told"]],
    ["wallTime", async () => ({ wallTimeMs: await enoughMs() }), ["stop"]],
    ["memory", async () => ({ memory: "64 MiB" }), ["share-for-ever", "6"]],
  ];
  for (const [name, limits, args] of ENDS)
    (name === "memory" ? testMemoryOf.container : testAttempt)(
      `ends for the ${name} of all its programs together`,
      async () => {
        await using made = await container({ files, limits: await limits() });
        const programs = await two(made, args);
        for (const program of programs) await program.stdin!.getWriter().close();
        await made.exited;
        expect(made.exit).toEqual(limit(name));
        for (const program of programs) expect(await program.exited).toBe(128 + constants.signals.SIGKILL);
        expect(survivors(base.program)).toEqual([]);
      },
    );

  testAttempt("goes on below its limits, and ends when it is killed", async () => {
    const limits = { cpuTime: "1 h", wallTime: "1 h" };
    await using made = await container({ files, limits });
    const programs = await Promise.all([1, 2].map(() => made.exec([base.program, "share", "6"])));
    for (const program of programs) expect(await program.exited).toBe(0);
    expect(made.exit).toBeUndefined();
    made.kill();
    await made.exited;
    expect(made.exit).toEqual({ reason: "killed", by: "kill" });
  });
});

describe("memory of a container", () => {
  const refused = { name: "NotEnforced", guarantee: "memory" };

  test("is kept where a group can keep it, and refused elsewhere", async () => {
    const why = await whyUnkept({ files: [proc(), dev()] });
    if (isKept) expect(why).toBeUndefined();
    else expect(why).toMatchObject(refused);
  });

  test("is refused to one of an ordinary user that sees the host's groups, and kept of root's", async () => {
    const why = await whyUnkept();
    if (isKept && root) expect(why).toBeUndefined();
    else expect(why).toMatchObject(refused);
  });

  test("is not refused where nothing is said of it", async () => {
    await using _ = await container({ limits: {} });
  });

  // Who owns its group outside could change that.
  test("is refused to one whose user is the host's own", async () => {
    expect(await whyUnkept({ namespaces: ["mount", "pid"] })).toMatchObject(refused);
  });
});

describe("memory and files in memory", () => {
  const room = [tmpfs("/room")];

  testAttempt("a tmpfs ends with ENOSPC at limits.tmpfs", async () => {
    const limits = { tmpfs: "8 MiB" };
    expect((await exhaust(["fill", "/room/file", "16"], limits, { files: room })).said).toBe("ENOSPC");
    expect((await contained(["fill", "/room/file", "16"], limits)).said).toBe("ENOSPC");
    expect((await exhaust(["fill", "/room/file", "16"], {}, { files: room })).said).toBe("done");
  });

  testGrouped("memory")("what is in a tmpfs counts for memory where a group counts", async () => {
    const large = { tmpfs: "256 MiB", fileSize: "256 MiB" };
    const fill = ["fill", "/room/file", "128"];
    const { exit } = await exhaust(fill, { ...large, memory: "64 MiB" }, { files: room });
    expect(exit).toEqual(limit("memory"));
    expect((await exhaust(fill, { ...large, memory: "512 MiB" }, { files: room })).said).toBe("done");
  });

  testAttempt("a container warns once at memoryWarning, goes on, and not below", async () => {
    const warned = async (processes: number) => {
      const warnings: Usage[] = [];
      await using made = await container({
        files: [bind(base.program), proc(), dev()],
        limits: { memoryWarning: "64 MiB" },
        onMemoryWarning: (usage) => warnings.push(usage),
      });
      const program = await made.exec([base.program, "share-for-ever", `${processes}`]);
      await program.stdout!.getReader().read();
      if (processes > 8) await until(() => warnings.length > 0);
      expect(program.exit).toBeUndefined();
      return warnings;
    };
    expect(await warned(12)).toHaveLength(1);
    expect(await warned(2)).toEqual([]);
  });

  testAttempt("nothing is swapped where that is said and a group can keep it; else it is refused", async () => {
    const asked = exhaust(["memory", "8"], { swap: "0 B" });
    if (grouped("memory")) expect((await asked).said).toBe("done");
    else expect(await failure(asked)).toMatchObject({ name: "NotEnforced", guarantee: "memory" });
    expect((await exhaust(["memory", "8"])).said).toBe("done");
  });
});

describe("processors", () => {
  testGrouped("cpu")("a share of one holds back who wants more, and nobody who does not", async () => {
    const limits: SandboxLimits = { cpu: "0.1 cpu" };
    await using idle = await exec([base.program, "sleep"], { sandbox: { limits } });
    await using busy = await exec([base.program, "spin"], { sandbox: { limits } });
    await using free = await exec([base.program, "spin"]);
    // By the kernel's word: how often its time was over before it was through. Where the machine is slow, once for its start.
    const held = (program: SandboxedProcess) => throttled(program.inspect().pid);
    await until(() => held(busy) > 2);
    const [before, since] = [held(idle), held(busy)];
    await until(() => held(busy) > since + 2 && free.usage().cpuMs > 100);
    expect(held(idle)).toBe(before);
    expect(held(free)).toBe(0);
  });

  function throttled(pid: number): number {
    const read = (path: string) => readFileSync(path, "utf8");
    const found = hierarchiesOf({ mountinfo: read("/proc/self/mountinfo"), cgroup: read(`/proc/${pid}/cgroup`) });
    const texts = found.flatMap(({ version, own, controllers }) =>
      version === 2 || controllers.includes("cpu") ? [read(join(own, "cpu.stat"))] : [],
    );
    return Math.max(0, ...texts.map((text) => field(text, "nr_throttled")));
  }

  testAttempt("a share is refused where no group can keep it", async () => {
    const asked = exhaust(["memory", "1"], { cpu: 0.5 });
    if (grouped("cpu")) expect((await asked).said).toBe("done");
    else expect(await failure(asked)).toMatchObject({ name: "NotEnforced", guarantee: "cpu" });
  });
});

describe("disks", () => {
  /** File systems that are on none, or on several, have numbers without a driver. */
  const onDisk = (path: string) => statSync(path).dev >> 8 !== 0;
  /** On a disk: /tmp can be in memory. */
  let disk: string;
  let sandbox: Sandbox;
  beforeAll(() => {
    disk = realpathSync(mkdtempSync("/var/tmp/caisson-limits-"));
    chmodSync(disk, 0o777);
    sandbox = { write: [disk] };
  });
  afterAll(() => rmSync(disk, { recursive: true }));

  testAttempt("a file grows to fileSize, and ends who goes on by SIGXFSZ", async () => {
    const fill = (limits: SandboxLimits) => exhaust(["fill", join(disk, "file"), "8"], limits, { sandbox });
    expect((await fill({ fileSize: "4 MiB" })).exit).toEqual({ reason: "signal", signal: "SIGXFSZ" });
    expect((await fill({ fileSize: "8 MiB" })).said).toBe("done");
  });

  testAttempt("a rate is refused where no group can keep it, and taken where one can", async () => {
    const asked = exhaust(["fill", join(disk, "rated"), "1"], { diskWrite: "100 MiB/s" }, { sandbox });
    // All that is granted must be on a disk, and the programs of this machine are.
    if (grouped("io") && onDisk("/usr")) expect((await asked).said).toBe("done");
    else expect(await failure(asked)).toMatchObject({ name: "NotEnforced", guarantee: "disk" });
  });

  test("an actor that writes more to disk than its limit in all is ended for it", async () => {
    const sandboxed = (limits: SandboxLimits) => inside<Disk>("disk", { ...sandbox, limits });
    await using greedy = await sandboxed({ disk: "16 MiB" });
    void greedy.call.scatter(disk, 400).catch(() => {}); // it can be through before this process looks
    expect(await greedy.exited).toEqual(limit("disk"));
    await using modest = await sandboxed({ disk: "16 MiB" });
    await modest.call.scatter(disk, 8);
    await using free = await sandboxed({});
    await free.call.scatter(disk, 32);
  });

  testAttempt("what writes more to files that stay small than its limit in all is ended for it", async () => {
    expect((await exhaust(["scatter", disk, "32"], {}, { sandbox })).said).toBe("done");
    // One alone, for of children that nobody waited for groups of v2 alone count what they wrote.
    const limits: SandboxLimits = { disk: "16 MiB", processes: 1 };
    const asked = exhaust(["scatter", disk], limits, { sandbox });
    if (abilities().groups?.io !== "cgroup v2") {
      const boxed = exec(["true"], { container: { limits: { disk: "16 MiB" } } });
      expect(await failure(boxed)).toMatchObject({ name: "NotEnforced", guarantee: "disk" });
      if (!root) {
        expect(await failure(asked)).toMatchObject({ name: "NotEnforced", guarantee: "disk" });
        return;
      }
    }
    const { exit, usage } = await asked;
    expect(exit).toEqual(limit("disk"));
    expect(usage.writtenBytes).toBeGreaterThanOrEqual(16 * MIB);
    expect((await exhaust(["scatter", disk, "8"], limits, { sandbox })).said).toBe("done");
  });
});
