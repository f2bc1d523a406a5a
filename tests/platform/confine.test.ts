// What the kernel says of a confined process, looked at from outside.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { abilities, NAMESPACES } from "../../platform/linux/abilities.ts";
import { confine } from "../../platform/linux/confine.ts";
import { idsOf, isRoot } from "../../platform/linux/ids.ts";
import { IDLE_DATA } from "../../platform/linux/walls.ts";
import type { Confined } from "../../platform/platform.ts";
import { type Actor, spawn } from "../../src/index.ts";
import { policyOf } from "../../src/sandbox.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { open } from "../../syscalls/linux/file.ts";
import { CLONE, O } from "../../syscalls/linux/numbers.ts";
import { socketPair } from "../../syscalls/linux/socket.ts";
import { testIf } from "../syscalls/requirement.ts";
import { children, descriptorsOf, statusOf, testPuppet, testRoot } from "./strings.ts";

const able = abilities();
const testSeccomp = testIf("seccomp", able.seccomp, "this kernel takes no filters, or something refuses seccomp(2)");
const fixture = (name: string) => fileURLToPath(new URL(`fixtures/${name}.ts`, import.meta.url));
const NONE = "0000000000000000";

describe("an actor", () => {
  let actor: Actor<typeof import("./fixtures/idle.ts")>;
  const proc = (name: string) => readFileSync(`/proc/${actor.pid}/${name}`, "utf8");
  beforeAll(async () => {
    actor = await spawn(fixture("idle"), {
      sandbox: { limits: { memory: "256 MiB", files: 100, fileSizeBytes: 4096, cpuTimeSeconds: 20 } },
    });
    await actor.call.thread();
  });
  afterAll(() => actor[Symbol.asyncDispose]());

  testSeccomp("has no capabilities, no new privileges and two filters, on every thread", () => {
    const ours = Number(statusOf("self").Seccomp_filters);
    const threads = threadsOf(actor.pid);
    expect(threads.length).toBeGreaterThan(2);
    for (const status of threads) {
      expect(status).toMatchObject({
        ...{ CapInh: NONE, CapPrm: NONE, CapEff: NONE, CapAmb: NONE },
        ...{ NoNewPrivs: "1", Seccomp: "2", Seccomp_filters: `${ours + 2}` },
      });
    }
  });

  testRoot("has an empty bounding set, and shares no namespace that can be its own", () => {
    expect(statusOf(actor.pid).CapBnd).toBe(NONE);
    const files: Readonly<Record<string, string>> = { mount: "mnt", network: "net" };
    for (const [name, bit] of Object.entries({ ...NAMESPACES, user: CLONE.NEWUSER })) {
      const file = files[name] ?? name;
      const shared = readlinkSync(`/proc/${actor.pid}/ns/${file}`) === readlinkSync(`/proc/self/ns/${file}`);
      expect([name, shared]).toEqual([name, (able.namespaces & bit) === 0n]);
    }
  });

  testRoot("has one id, which on the host is nobody for root and stays what it is for others", () => {
    const { inside, outside } = idsOf(isRoot());
    const { Uid, Gid, Groups } = statusOf(actor.pid);
    expect(Uid).toBe(Array(4).fill(outside.uid).join("\t"));
    expect(Gid).toBe(Array(4).fill(outside.gid).join("\t"));
    if (isRoot()) expect([outside, Groups]).toEqual([{ uid: 65534, gid: 65534 }, ""]);
    else expect(outside).toEqual({ uid: process.geteuid!(), gid: process.getegid!() });
    if ((able.namespaces & CLONE.NEWUSER) === 0n) return;
    const numbers = (map: string) => proc(map).trim().split(/\s+/).map(Number);
    expect(numbers("uid_map")).toEqual([inside.uid, outside.uid, 1]);
    expect(numbers("gid_map")).toEqual([inside.gid, outside.gid, 1]);
    expect(proc("setgroups")).toBe(isRoot() ? "allow\n" : "deny\n");
  });

  testPuppet("has its limits", () => {
    const limits = Array.from(proc("limits").matchAll(/^(Max .*?) {2,}(\S+) +(\S+)/gm), ([, name, soft, hard]) => [
      name!,
      [soft!, hard!],
    ]);
    const both = (value: number) => [`${value}`, `${value}`];
    expect(Object.fromEntries(limits)).toMatchObject({
      "Max cpu time": both(26),
      "Max file size": both(4096),
      "Max data size": both(IDLE_DATA + 256 * 2 ** 20),
      "Max core file size": both(0),
      "Max open files": both(100),
      "Max locked memory": both(0),
      "Max msgqueue size": both(0),
      "Max pending signals": both(256),
      "Max processes": [expect.stringMatching(/^\d+$/), expect.stringMatching(/^\d+$/)],
    });
  });

  testPuppet("leads a session of its own, without a terminal", () => {
    const stat = proc("stat");
    const [, , group, session, terminal] = stat
      .slice(stat.lastIndexOf(")") + 2)
      .split(" ")
      .map(Number);
    expect([group, session, terminal]).toEqual([actor.pid, actor.pid, 0]);
  });

  testPuppet("has nothing blocked, and ignores what Bun ignores, not what its host does", () => {
    const { SigBlk, SigIgn } = statusOf(actor.pid);
    expect(SigBlk).toBe(NONE);
    const byBun = (1n << 12n) | (1n << 24n); // SIGPIPE and SIGXFSZ
    expect(BigInt(`0x${SigIgn}`) & ~byBun).toBe(0n);
  });

  testPuppet("has umask 022, no environment of the host's, and no argument that tells of it", () => {
    expect(statusOf(actor.pid).Umask).toBe("0022");
    expect(proc("cmdline")).toBe("bun\0-\0");
    const names = proc("environ")
      .split("\0")
      .filter(Boolean)
      .map((entry) => entry.split("=")[0]!);
    expect(names.every((name) => /^(BUN_JSC|MIMALLOC)_/.test(name))).toBe(true);
  });

  testPuppet("stands in its own root, with no descriptor of the host's but its streams and its lanes", () => {
    if (able.proc !== undefined) expect(readlinkSync(`/proc/${actor.pid}/cwd`)).toBe("/");
    const ours = new Set(
      Object.values(descriptorsOf("self")).filter((name) => !name.startsWith("anon_inode:") && name !== "/dev/null"),
    );
    const theirs = Object.entries(descriptorsOf(actor.pid));
    expect(theirs.filter(([, name]) => ours.has(name))).toEqual([]);
    for (const [, name] of theirs) expect(name).toMatch(/^(socket:|anon_inode:|\/dev\/null|\/dev\/urandom|\/memfd:)/);
  });
});

/** The status of each thread. Bun's own come and go. */
function threadsOf(pid: number): Record<string, string>[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((thread) => {
    try {
      return [statusOf(`${pid}/task/${thread}`)];
    } catch {
      return [];
    }
  });
}

/** Starts a boot file as it is, and gives what it wrote to its data lane first. */
async function boot(text: string, act: (confined: Confined, firstByte: Promise<void>) => Promise<void>): Promise<void> {
  using nothing = new Descriptor(open(self, "/dev/null", O.RDWR | O.CLOEXEC));
  const [ours, theirs] = socketPair(self, SOCK.STREAM);
  const { promise: firstByte, resolve } = Promise.withResolvers<void>();
  // The types of Bun.connect do not know that a descriptor will do.
  const lane = await Bun.connect({ fd: ours, socket: { data: () => resolve() } } as never as Parameters<
    typeof Bun.connect
  >[0]);
  const confined = confine(policyOf(), {
    boot: text,
    stdio: [nothing.number, nothing.number, nothing.number],
    lanes: [theirs, theirs],
  });
  self.call("close", theirs);
  try {
    await act(confined, firstByte);
  } finally {
    confined.kill();
    await confined.ended;
    lane.end();
  }
}

describe("confine()", () => {
  testSeccomp(
    "verify() refuses a process whose boot file installed no filter, and names thread and field",
    async () => {
      await boot("setInterval(() => {}, 60_000)", async (confined) => {
        await confined.started;
        const ours = Number(statusOf("self").Seccomp_filters);
        expect(() => confined.verify()).toThrow(
          `Cannot trust process ${confined.pid}: thread ${confined.pid} has Seccomp_filters ${ours + 1}, expected ${ours + 2}`,
        );
      });
    },
  );

  testSeccomp("verify() refuses a process with a thread that the filter does not bind", async () => {
    const built = await Bun.build({ entrypoints: [fixture("careless")], target: "bun", format: "esm" });
    await boot(await built.outputs[0]!.text(), async (confined, firstByte) => {
      await firstByte;
      const tasks = () => readdirSync(`/proc/${confined.pid}/task`);
      const before = tasks(); // of which one may end
      const [, thread] = /thread (\d+) has Seccomp_filters/.exec(message(() => confined.verify())) ?? [];
      expect([...before, ...tasks()]).toContain(thread!);
      expect(Number(thread)).not.toBe(confined.pid); // the one that has the filter
    });
  });

  testSeccomp("verify() says of a process that is gone that there is nothing to check", async () => {
    await boot("", async (confined) => {
      confined.kill();
      await confined.ended;
      expect(confined.verify()).toBe(false);
    });
  });

  testPuppet("kill() and `ended` tell how it ended, once, and leave no child", async () => {
    await boot("", async () => {}); // what stays is there now
    const before = new Set(children().map(({ pid }) => pid));
    await boot("process.exit(3)", async (confined) => {
      expect(await confined.ended).toMatchObject({ code: 3 });
      confined.kill();
    });
    await boot("setInterval(() => {}, 60_000)", async (confined) => {
      await confined.started;
      confined.kill();
      confined.kill();
      expect(await confined.ended).toMatchObject({ signal: 9 });
    });
    while (children().some(({ pid }) => !before.has(pid))) await Bun.sleep(2);
  });

  test("closingFilter is empty only where the kernel takes none", async () => {
    await boot("", async (confined) => {
      expect(confined.closingFilter.length > 0).toBe(able.seccomp);
    });
  });
});

function message(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    return (error as Error).message;
  }
  return "";
}
