/** Attacks on namespaces, capabilities and ids: the actor cannot leave its own, make others, or gain any right. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";
import type { Actor } from "../../src/index.ts";
import { CLONE } from "../../syscalls/linux/numbers.ts";
import { inside, Outside, scratch } from "./arena.ts";

type Namespaces = typeof import("./fixtures/namespaces.ts");

setDefaultTimeout(30_000); // the machine may have other things to do

const base = scratch();
let actor: Actor<Namespaces>;
/** One that may read, so that its filter lets paths through to the other walls. */
let reader: Actor<Namespaces>;
let control: Outside<Namespaces>;
beforeAll(async () => {
  control = new Outside("namespaces");
  [actor, reader] = await Promise.all([
    inside<Namespaces>("namespaces"),
    inside<Namespaces>("namespaces", { read: [base.directory("granted")] }),
  ]);
});
afterAll(async () => {
  await Promise.all([actor, reader].map((each) => each[Symbol.asyncDispose]()));
  await control[Symbol.asyncDispose]();
  base[Symbol.dispose]();
});

const KINDS = ["NEWUSER", "NEWNS", "NEWPID", "NEWNET", "NEWIPC", "NEWUTS", "NEWCGROUP", "NEWTIME"] as const;

for (const kind of KINDS) {
  describe(`CLONE_${kind}`, () => {
    test("is EPERM for unshare, which without the filter says EINVAL to a process of many threads", async () => {
      expect(await actor.call.call("unshare", CLONE[kind])).toBe("EPERM");
      expect(await control.call.call("unshare", CLONE[kind] | CLONE.NEWUSER)).toBe("EINVAL");
    });

    test("is EPERM for setns", async () => {
      expect(await actor.call.call("setns", 0, CLONE[kind])).toBe("EPERM");
      expect(await control.call.call("setns", 0, CLONE[kind])).toBe("EINVAL"); // /dev/null is no namespace
    });

    if (kind !== "NEWTIME") {
      // As clone's flags CLONE_NEWTIME would be part of the exit signal.
      test("is EPERM for clone, alone, with CLONE_NEWUSER, and as a thread", async () => {
        expect(await actor.call.clone(CLONE[kind])).toBe("EPERM");
        expect(await actor.call.clone(CLONE[kind] | CLONE.NEWUSER)).toBe("EPERM");
        expect(await actor.call.clone(CLONE[kind] | CLONE.THREAD | CLONE.SIGHAND | CLONE.VM)).toBe("EPERM");
        expect(await control.call.clone(CLONE[kind] | CLONE.NEWUSER)).toBe("done");
      });
    }
  });
}

describe("seen from outside", () => {
  const fields = (path: string) => {
    const lines = readFileSync(path, "utf8").trim().split("\n");
    return Object.fromEntries(lines.map((line) => line.split(":\t") as [string, string]));
  };

  test("no namespace of the actor is one of the host's", () => {
    for (const kind of ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"]) {
      expect(readlinkSync(`/proc/${actor.pid}/ns/${kind}`)).not.toBe(readlinkSync(`/proc/self/ns/${kind}`));
      expect(readlinkSync(`/proc/${control.pid}/ns/${kind}`)).toBe(readlinkSync(`/proc/self/ns/${kind}`));
    }
  });

  test("every thread has no capability, no way to one, and both filters", () => {
    const none = "0000000000000000";
    const own = Number(fields("/proc/self/status").Seccomp_filters);
    const threads = readdirSync(`/proc/${actor.pid}/task`).flatMap((thread) => {
      const path = `/proc/${actor.pid}/task/${thread}`;
      try {
        return [fields(`${path}/status`)];
      } catch (error) {
        if (existsSync(path)) throw error;
        return []; // it has ended
      }
    });
    expect(threads.length).toBeGreaterThan(1);
    for (const thread of threads) {
      expect(thread).toMatchObject({
        CapInh: none, CapPrm: none, CapEff: none, CapBnd: none, CapAmb: none,
        NoNewPrivs: "1", Seccomp: "2", Seccomp_filters: `${own + 2}`,
      }); // biome-ignore format: a table
    }
  });

  test("an actor of root's is nobody on the host, and one of a user's that user", () => {
    const uid = process.getuid!() === 0 ? 65534 : process.getuid!();
    expect(fields(`/proc/${actor.pid}/status`).Uid).toBe([uid, uid, uid, uid].join("\t"));
    if (process.getuid!() === 0) expect(fields(`/proc/${actor.pid}/status`).Groups?.trim()).toBe("");
  });
});

describe("ids and rights", () => {
  test("cannot be changed, to what they are included", async () => {
    const ids = ["setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid"] as const;
    for (const name of ids) {
      expect(await actor.call.call(name, -1, -1, -1)).toBe("EPERM");
      expect(await control.call.call(name, -1, -1, -1)).not.toBe("EPERM");
    }
    expect(await actor.call.call("setgroups", 0, null)).toBe("EPERM");
    expect(await actor.call.call("capset", 0, 0)).toBe("EPERM");
    expect(await actor.call.call("capget", 0, 0)).toBe("EPERM");
    expect(await control.call.call("capset", 0, 0)).toBe("EFAULT");
    expect(await control.call.call("capget", 0, 0)).toBe("EFAULT");
  });

  test("id maps and setgroups cannot be written", async () => {
    for (const name of ["uid_map", "gid_map", "setgroups"]) {
      const { read, write } = await reader.call.touch(`/proc/self/${name}`);
      expect(read).toBe("done");
      expect(write).toMatch(/^(EROFS|EACCES)$/);
      expect(await actor.call.touch(`/proc/self/${name}`)).toEqual({ read: "EPERM", write: "EPERM" });
    }
  });

  test("the score by which the kernel chooses whom to end for memory cannot be written", async () => {
    for (const name of ["oom_score_adj", "oom_adj"]) {
      expect((await reader.call.touch(`/proc/self/${name}`)).write).toMatch(/^(EROFS|EACCES)$/);
    }
  });
});

describe("the kernel's own files", () => {
  const PATHS = [
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/fs/binfmt_misc/register", "/proc/sysrq-trigger",
    "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi/scsi", "/proc/kallsyms", "/proc/stat", "/proc/meminfo", "/proc/loadavg",
    "/proc/cmdline", "/proc/version", "/proc/net/tcp", "/proc/modules",
    "/sys/firmware", "/sys/kernel/debug", "/sys/kernel/tracing/trace", "/sys/fs/cgroup/release_agent", "/dev/mem", "/dev/kmsg", "/dev/tty", "/dev/sda",
  ]; // biome-ignore format: a list
  for (const path of PATHS) {
    test(`${path} is not there`, async () => {
      expect((await reader.call.touch(path)).read).toBe("ENOENT");
      expect(await actor.call.touch(path)).toEqual({ read: "EPERM", write: "EPERM" });
    });
  }

  test("most of them are there outside", async () => {
    for (const path of ["/proc/sys/kernel/core_pattern", "/proc/stat", "/proc/meminfo", "/proc/cmdline"]) {
      expect((await control.call.touch(path)).read).toBe("done");
    }
  });
});

describe("names", () => {
  test("of the host are not known, and cannot be set", async () => {
    expect(await actor.call.host()).toBe("actor");
    expect(await control.call.host()).toBe(hostname());
    const name = new TextEncoder().encode("taken");
    expect(await actor.call.call("sethostname", name, name.length)).toBe("EPERM");
    expect(await actor.call.call("setdomainname", name, name.length)).toBe("EPERM");
    expect(hostname()).not.toBe("taken");
    expect(await control.call.call("sethostname", 0, -1)).toMatch(process.getuid!() === 0 ? /^EINVAL$/ : /^EPERM$/);
  });

  test("of the host's cgroups are not shown", async () => {
    const shown = await reader.call.contents("/proc/self/cgroup");
    for (const line of shown.trim().split("\n")) expect(line).toMatch(/:\/$/);
  });
});
