import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, openSync, readFileSync, readlinkSync, readSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findTrees } from "../../platform/linux/cgroup/home.ts";
import { attach, type Container, container } from "../../src/container.ts";
import { bind, proc, text, tmpfs } from "../../src/mounts.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { close, createMemoryFile, makeDirectory, open, writeAll } from "../../syscalls/linux/file.ts";
import { mount, pivotRoot } from "../../syscalls/linux/mount.ts";
import { MS, O } from "../../syscalls/linux/numbers.ts";
import { setHostname } from "../../syscalls/linux/process.ts";
import { failure, openDescriptors, scratch, until } from "../attacks/arena.ts";
import { children } from "../platform/strings.ts";
import { testIf } from "../syscalls/requirement.ts";
import {
  box,
  holdings,
  PYTHON,
  root,
  said,
  settled,
  shell,
  testAsRoot,
  testBox,
  testPython,
  testUser,
  tree,
} from "./box.ts";

setDefaultTimeout(120_000); // containers and programs by the hundred, on machines that may be busy

const runs = (pid: number) => {
  try {
    return !/^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
};

describe("container.kernel", () => {
  testBox("builds a root call by call, with what JavaScript has between", async () => {
    await using made = await container();
    const { kernel } = made;
    mount(kernel, null, "/", { flags: MS.REC | MS.PRIVATE });
    mount(kernel, "caisson-test", "/tmp", { type: "tmpfs", flags: MS.NOSUID | MS.NODEV });
    for (const name of ["usr", "bin", "lib", "lib64", "old"]) makeDirectory(kernel, `/tmp/${name}`, 0o755);
    for (const name of ["usr", "bin", "lib", "lib64"])
      mount(kernel, `/${name}`, `/tmp/${name}`, { flags: MS.BIND | MS.REC });
    await Bun.sleep(0);
    pivotRoot(kernel, "/tmp", "/tmp/old");
    kernel.call("umount2", "/old", 2);
    setHostname(kernel, "by-hand");
    expect(await said(made, "echo *; uname -n")).toBe("bin lib lib64 old usr\nby-hand");
    expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain("caisson-test");
  });

  testBox("throws the call, its arguments and its errno where one fails, and the container is gone", async () => {
    const made = await box();
    const error = await failure((async () => makeDirectory(made.kernel, "/usr/new", 0o755))());
    expect(error).toBeInstanceOf(SystemError);
    expect(error).toMatchObject({ code: "EROFS", syscall: "mkdirat" });
    expect((error as Error).message).toContain('"/usr/new"');
    await made.exited;
    expect(runs(made.pid)).toBe(false);
    expect(() => made.kernel.call("getpid")).toThrow("EPIPE");
  });

  testBox("attempt() gives the SystemError, and the container goes on", async () => {
    await using made = await box();
    const refused = made.attempt((kernel) => makeDirectory(kernel, "/usr/new", 0o755));
    expect(refused).toBeInstanceOf(SystemError);
    expect(refused).toMatchObject({ code: "EROFS" });
    expect(made.attempt((kernel) => kernel.call("getpid"))).toBe(1);
    expect(await said(made, "echo here")).toBe("here");
  });

  testBox("attempt() throws what is no SystemError, and the container is gone", async () => {
    const made = await box();
    const broken = () =>
      made.attempt(() => {
        throw new Error("broken");
      });
    expect(broken).toThrow("broken");
    await made.exited;
  });
});

describe("pass() and take()", () => {
  testBox("carry open files in and out", async () => {
    await using made = await box();
    using ours = new Descriptor(openSync("/proc/self/comm", "r"));
    const theirs = made.pass(ours.number);
    const bytes = new Uint8Array(64);
    const length = made.kernel.call("read", theirs, bytes, bytes.length);
    expect(new TextDecoder().decode(bytes.subarray(0, length))).toBe(readFileSync("/proc/self/comm", "utf8"));

    const file = createMemoryFile(made.kernel, "caisson-test");
    writeAll(made.kernel, file, Buffer.from("from inside"));
    made.kernel.call("lseek", file, 0, 0);
    using taken = new Descriptor(made.take(file));
    const into = Buffer.alloc(64);
    expect(into.toString("utf8", 0, readSync(taken.number, into))).toBe("from inside");
  });

  testBox("of what is no descriptor throw EBADF, and the next call is answered", async () => {
    await using made = await box();
    expect(() => made.pass(65000)).toThrow("EBADF: sendmsg");
    expect(made.kernel.call("getpid")).toBe(1);
    expect(() => made.take(65000)).toThrow("EBADF: sendmsg");
    expect(made.kernel.call("getpid")).toBe(1);
    expect(await said(made, "echo on")).toBe("on");
  });

  testBox("leave no copy here, and none over there once it is closed", async () => {
    await using made = await box();
    using ours = new Descriptor(openSync("/dev/null", "r"));
    const count = () => readdir(made, made.pid);
    const before = { here: openDescriptors(), there: await count() };
    for (let round = 0; round < 50; round++) {
      const theirs = made.pass(ours.number);
      closeSync(made.take(theirs));
      close(made.kernel, theirs);
    }
    expect(await count()).toBe(before.there);
    await until(() => openDescriptors() <= before.here);
  });
});

/** How many descriptors the puppet has, as its own proc tells it. */
async function readdir(made: Container, _pid: number): Promise<number> {
  const directory = open(made.kernel, "/proc/self/fd", O.RDONLY | O.DIRECTORY | O.CLOEXEC);
  let entries = 0;
  const into = new Uint8Array(4096);
  for (;;) {
    const length = made.kernel.call("getdents64", directory, into, into.length);
    if (length === 0) break;
    const view = new DataView(into.buffer);
    for (let at = 0; at < length; at += view.getUint16(at + 16, true)) entries++;
  }
  close(made.kernel, directory);
  return entries;
}

describe("exec()", () => {
  testBox("starts one program after the other, each with its own streams", async () => {
    await using made = await box();
    for (const word of ["first", "second", "third"]) expect(await said(made, `echo ${word}`)).toBe(word);
  });

  testBox("starts twenty at once, again and again, and tells how each ended", async () => {
    await using made = await box();
    for (let round = 0; round < 5; round++) {
      const codes = Array.from({ length: 20 }, (_, index) => index);
      const ends = await Promise.all(codes.map(async (code) => await shell(made, `echo ${code}; exit ${code}`)));
      expect(ends.map(({ code }) => code)).toEqual(codes);
      expect(ends.map(({ said }) => Number(said))).toEqual(codes);
    }
  });

  testBox(
    "rejects with the errno of what cannot be executed, leaves nothing of it, and the container goes on",
    async () => {
      await using made = await box([text("/tmp/plain", "no program"), text("/tmp/locked", "", { mode: 0o644 })]);
      await said(made, "true");
      const before = holdings();
      const failures: Record<string, string> = {
        "/no/such/program": "ENOENT: execve",
        "/tmp": "EACCES: execve",
        "/tmp/locked": "EACCES: execve",
        "/usr/bin/true/x": "ENOTDIR: execve",
      };
      for (const [path, message] of Object.entries(failures)) {
        expect([path, await failure(made.exec([path]))]).toEqual([
          path,
          expect.objectContaining({ message: expect.stringContaining(message) }),
        ]);
      }
      for (let round = 0; round < 30; round++) await failure(made.exec(["/no/such/program"]));
      await settled(before);
      // Only the puppet, and the shell that counts.
      const processes = async () => await said(made, "set -- /proc/[0-9]*; echo $#");
      while ((await processes()) !== "2") await Bun.sleep(2);
    },
  );

  testBox("keeps telling how programs end where orphans end by the hundred", async () => {
    await using made = await box();
    const many = 'i=0; while [ $i -lt 1500 ]; do (true &); i=$((i+1)); done; exec echo "$i"';
    const [, ...ends] = await Promise.all([
      said(made, many),
      ...Array.from({ length: 30 }, () => shell(made, "exit 5")),
    ]);
    expect(ends.map((end) => (end as { code: number }).code)).toEqual(Array.from({ length: 30 }, () => 5));
    expect(await shell(made, "exit 6")).toMatchObject({ code: 6 });
    while ((await said(made, "set -- /proc/[0-9]*; echo $#")) !== "2") await Bun.sleep(2);
  });

  testBox("refuses what makes no sense before anything happens", async () => {
    await using made = await box();
    await expect(made.exec([])).rejects.toThrow(TypeError);
    await expect(made.exec(["/bin/true"], { init: false })).rejects.toThrow("has one");
    await expect(made.exec(["/bin/true"], { colour: 1 } as never)).rejects.toThrow("Cannot use the option colour");
    expect(await said(made, "echo on")).toBe("on");
  });
});

describe("the end", () => {
  testBox("of a container in which a program is about to begin rejects that", async () => {
    const made = await box();
    const starting = Array.from({ length: 5 }, () => made.exec(["/bin/sleep", "1000"]));
    made.kill();
    for (const each of await Promise.allSettled(starting)) {
      // It may have begun before.
      if (each.status === "rejected") expect(each.reason.message).toContain("ended before");
      else expect(await each.value.exited).toBe(137);
    }
    await made.exited;
    expect((await failure(made.exec(["/bin/true"]))) as Error).toBeInstanceOf(Error);
    expect(made.attempt((kernel) => kernel.call("getpid"))).toMatchObject({ code: "EPIPE" });
  });

  testBox("kill() ends all that runs inside, however far it went away", async () => {
    const made = await box();
    const away = "(setsid sleep 1000 &) ; setsid sh -c 'trap \"\" TERM HUP; sleep 1000 & echo up; wait' & wait";
    const program = await made.exec(["/bin/sh", "-c", away], { env: { PATH: "/usr/bin" } });
    const reader = program.stdout!.getReader();
    await reader.read();
    const inside = children(made.pid).map(({ pid }) => pid);
    expect(inside.length).toBeGreaterThan(1);
    made.kill();
    await made.exited;
    expect(inside.filter(runs)).toEqual([]);
    expect(await program.exited).toBe(137);
    expect(program.signalCode).toBe("SIGKILL");
    await program[Symbol.asyncDispose]();
    made.kill(); // and again does nothing
  });

  testBox("a program that is told to end after its container has ended is not told", async () => {
    const made = await box();
    const program = await made.exec(["/bin/sleep", "1000"]);
    made.kill();
    await Bun.sleep(0);
    program.kill("SIGTERM");
    program.kill();
    await program[Symbol.asyncDispose]();
    expect(await program.exited).toBe(137);
  });

  testBox("a block's end is its end", async () => {
    let pid = 0;
    {
      await using made = await box();
      ({ pid } = made);
      expect(runs(pid)).toBe(true);
    }
    expect(runs(pid)).toBe(false);
  });

  testBox("an AbortSignal ends it: before it starts, while it starts, and later", async () => {
    const before = holdings();
    expect(await failure(box([], { signal: AbortSignal.abort(new Error("never")) }))).toMatchObject({
      message: "never",
    });
    const early = new AbortController();
    const starting = box([], { signal: early.signal });
    early.abort();
    const made = await starting.catch(() => undefined);
    await made?.exited;
    const late = new AbortController();
    const running = await box([], { signal: late.signal });
    const program = await running.exec(["/bin/sleep", "1000"]);
    late.abort();
    await running.exited;
    expect(await program.exited).toBe(137);
    await program[Symbol.asyncDispose]();
    await settled(before);
  });

  testBox(
    "two hundred containers with a program each leave the host's descriptors and children as they were",
    async () => {
      const once = async (round: number) => {
        await using made = await box([text("/tmp/round", `${round}`)]);
        if (round % 2 === 0) expect(await said(made, "cat /tmp/round")).toBe(`${round}`);
      };
      await once(0);
      const before = holdings();
      for (let round = 0; round < 200; round++) await once(round);
      await settled(before);
    },
  );
});

describe("options", () => {
  testBox("hostname and domainname are the container's own", async () => {
    await using made = await box([], { hostname: "inner", domainname: "test.example" });
    expect(await said(made, "uname -n; cat /proc/sys/kernel/domainname")).toBe("inner\ntest.example");
    expect(readFileSync("/proc/sys/kernel/hostname", "utf8")).not.toBe("inner\n");
    expect(await failure(box([], { hostname: "x".repeat(65) }))).toMatchObject({
      code: "EINVAL",
      syscall: "sethostname",
    });
  });

  testBox(
    "a limit that a control group alone keeps is refused to who is the same user inside, and owns the group",
    async () => {
      if (!root || findTrees().lacks.cpu !== undefined) {
        const failed = await failure(container({ limits: { cpu: 0.5 } }));
        expect(failed).toMatchObject({ name: "NotEnforced", guarantee: "cpu" });
        return;
      }
      // Root's is nobody outside.
      await using made = await container({ limits: { cpu: 0.5 } });
      expect(made.exit).toBeUndefined();
    },
  );

  testBox("clocks of a time namespace are ahead by what was asked, and only there", async () => {
    const namespaces = ["user", "mount", "pid", "network", "ipc", "uts", "cgroup", "time"] as const;
    const ahead = 1_000_000;
    const clocks = { monotonic: 2 * ahead, boottime: ahead };
    await using made = await box([], { namespaces, clocks });
    const uptime = (text: string) => Number(text.split(" ", 1)[0]!.replace(".", "")); // hundredths, whose differences are exact
    const ours = uptime(readFileSync("/proc/uptime", "utf8"));
    expect(uptime(await said(made, "cat /proc/uptime")) - ours).toBeWithin(100 * ahead, 100 * (ahead + 60));
    await using plain = await box();
    expect(uptime(await said(plain, "cat /proc/uptime")) - ours).toBeWithin(0, 100 * 60);
    expect(await failure(container({ clocks: { monotonic: 1 } }))).toBeInstanceOf(TypeError);
  });

  testPython("its monotonic clock is ahead, too", async () => {
    const namespaces = ["user", "mount", "pid", "network", "ipc", "uts", "cgroup", "time"] as const;
    await using made = await box([], { namespaces, clocks: { monotonic: 1_000_000 } });
    const here = Number(Bun.spawnSync([PYTHON, "-c", "import time; print(time.monotonic())"]).stdout.toString());
    const there = Number(await said(made, `${PYTHON} -c "import time; print(time.monotonic())"`));
    expect(there - here).toBeWithin(1_000_000, 1_000_060);
  });

  testBox("join puts it into a namespace of another container, by descriptor", async () => {
    const namespaces = ["user", "mount", "pid", "ipc", "uts", "cgroup"] as const;
    await using other = await box([], { hostname: "other" });
    using net = new Descriptor(openSync(`/proc/${other.pid}/ns/net`, "r"));
    if (root) {
      // Only who has CAP_SYS_ADMIN in the user namespace that owns it may join: here, the host's root without one of its own.
      await using joined = await container({ namespaces: ["mount", "pid"], files: tree, join: [net.number] });
      expect(readlinkSync(`/proc/${joined.pid}/ns/net`)).toBe(readlinkSync(`/proc/${other.pid}/ns/net`));
    } else {
      expect(await failure(container({ namespaces, files: tree, join: [net.number] }))).toMatchObject({
        code: "EPERM",
        syscall: "setns",
      });
      using user = new Descriptor(openSync(`/proc/${other.pid}/ns/user`, "r"));
      await using joined = await container({ namespaces: [], join: [user.number, net.number] });
      expect(readlinkSync(`/proc/${joined.pid}/ns/net`)).toBe(readlinkSync(`/proc/${other.pid}/ns/net`));
    }
  });

  testBox("a root directory is read-only unless it is said to be written", async () => {
    using place = scratch();
    const path = place.directory("root");
    for (const name of ["usr", "proc", "bin", "lib", "lib64"]) place.directory(join("root", name));
    const files = [...["usr", "bin", "lib", "lib64"].map((name) => bind(`/${name}`, `/${name}`)), proc()];
    {
      await using made = await container({ root: path, files });
      expect(await shell(made, "echo x > /new")).toMatchObject({ code: 2 });
      expect((await shell(made, "echo x > /new")).complained).toContain("Read-only file system");
    }
    await using made = await container({ root: { path, write: true }, files });
    expect(await said(made, "echo x > /new; cat /new")).toBe("x");
    expect(readFileSync(join(path, "new"), "utf8")).toBe("x\n");
  });

  test("what is no option, no namespace, or fits nothing else, is a TypeError before anything exists", async () => {
    const before = holdings();
    const refused: [object, string][] = [
      [{ hostnam: "x" }, "hostnam"],
      [{ namespaces: ["users"] }, "Cannot make a namespace users"],
      [{ namespaces: ["user"], files: [] }, '"mount" is expected'],
      [{ clocks: {} }, '"time" is expected'],
      [{ root: "/usr", files: [tmpfs("/")] }, "Cannot mount on /"],
      [{ files: [proc(), tmpfs("/")] }, "Cannot mount on /"],
    ];
    for (const [options, message] of refused) {
      const error = await failure(container(options as never));
      expect([message, error]).toEqual([message, expect.any(TypeError)]);
      expect((error as Error).message).toContain(message);
    }
    await settled(before);
  });
});

describe("ids", () => {
  const ID = "id -u; id -g; id -G";

  testBox("any one id inside: our own outside, or nobody for root", async () => {
    for (const [user, group] of [
      [0, 0],
      [1, 2],
      [65533, 12345],
      [4294967293, 7],
    ] as const) {
      await using made = await box([], { user, group });
      expect(await said(made, ID)).toBe(`${user}\n${group}\n${group}`);
      const map = (kind: string) =>
        readFileSync(`/proc/${made.pid}/${kind}_map`, "utf8").trim().split(/\s+/).map(Number);
      const outside = root ? [65534, 65534] : [process.getuid!(), process.getgid!()];
      expect(map("uid")).toEqual([user, outside[0]!, 1]);
      expect(map("gid")).toEqual([group, outside[1]!, 1]);
    }
  });

  testUser("setgroups is refused to an ordinary user who maps one id: EPERM", async () => {
    await using made = await box();
    expect(readFileSync(`/proc/${made.pid}/setgroups`, "utf8")).toBe("deny\n");
    expect(await failure(made.exec(["/bin/true"], { groups: [0] }))).toMatchObject({
      code: "EPERM",
      syscall: "setgroups",
    });
  });

  const lent = ["/etc/subuid", "/etc/subgid"].every((file) => {
    try {
      return readFileSync(file, "utf8").includes(`${root ? "root" : Bun.env.HOME?.split("/").at(-1)}:`);
    } catch {
      return false;
    }
  });
  const testRanges = testIf(
    "subids",
    lent && Bun.which("newuidmap") !== null,
    "no ids are lent, or there is no newuidmap",
  );

  testRanges('"ranges" are many ids, which own what they create', async () => {
    await using made = await box([], { ids: "ranges" });
    expect(await said(made, ID, { user: 0, group: 0, groups: [1, 5] })).toBe("0\n0\n0 1 5");
    expect(await said(made, `${ID}; echo x > /tmp/x; stat -c %u:%g /tmp/x`, { user: 33, group: 34, groups: [] })).toBe(
      "33\n34\n34\n33:34",
    );
  });

  testAsRoot("maps of its own by root: identity, and any other", async () => {
    const all = [{ inside: 0, outside: 0, count: 65536 }];
    await using same = await box([], { ids: { uids: all, gids: all, setgroups: "allow" }, groups: [4, 6] });
    expect(await said(same, ID)).toBe("0\n0\n0 4 6");
    expect(await said(same, ID, { user: 5, group: 6, groups: [7, 8] })).toBe("5\n6\n6 7 8");
    const high = [
      { inside: 0, outside: 100000, count: 10 },
      { inside: 1000, outside: 200000, count: 10 },
    ];
    await using shifted = await box([], {
      ids: { uids: high, gids: high, setgroups: "allow" },
      user: 1003,
      group: 1004,
    });
    expect(await said(shifted, ID)).toBe("1003\n1004\n1004");
    const [uid] = /^Uid:\t(\d+)/m.exec(readFileSync(`/proc/${shifted.pid}/status`, "utf8"))!.slice(1);
    expect(uid).toBe("200003");
  });

  test("maps that no kernel takes are a RangeError", async () => {
    const wrong = [{ inside: 0, outside: 0, count: 0 }];
    expect(await failure(container({ ids: { uids: wrong, gids: wrong, setgroups: "deny" } }))).toBeInstanceOf(
      RangeError,
    );
  });
});

describe("attach()", () => {
  const NAMES = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];
  const where = (pid: number) => NAMES.map((name) => readlinkSync(`/proc/${pid}/ns/${name}`)).join("\n");
  /** The same as the program of a hand sees it: whoever made a hand may not look into it. */
  const WHERE = NAMES.map((name) => `readlink /proc/self/ns/${name}`).join("; ");

  testBox("is a hand in a container's namespaces: what it starts is in there, and nothing is left of it", async () => {
    await using made = await box([], { hostname: "attached", user: root ? 0 : 77 });
    const before = holdings();
    {
      await using hand = await attach(made);
      expect(await said(hand, WHERE)).toBe(where(made.pid));
      expect(await said(hand, "uname -n; readlink /proc/self/ns/net; echo $PPID")).toBe(
        `attached\n${readlinkSync(`/proc/${made.pid}/ns/net`)}\n${hand.kernel.call("getpid")}`,
      );
      expect(await said(hand, "id -u", { user: root ? 0 : 77 })).toBe(root ? "0" : "77");
      // Each of the three streams is the program's own.
      await using cat = await hand.exec(["/bin/cat"], { stdin: "pipe", env: {} });
      const writer = cat.stdin!.getWriter();
      await writer.write(Buffer.from("through"));
      await writer.close();
      expect(await new Response(cat.stdout).text()).toBe("through");
      expect(await failure(hand.exec(["/no/such"]))).toMatchObject({ code: "ENOENT", syscall: "execve" });
      makeDirectory(hand.kernel, "/tmp/by-hand", 0o755);
    }
    expect(await said(made, "ls /tmp")).toBe("by-hand");
    while ((await said(made, "set -- /proc/[0-9]*; echo $#")) !== "2") await Bun.sleep(2);
    await settled(before);
  });

  const testUnshare = testIf("unshare", Bun.which("unshare") !== null, "there is no unshare (util-linux)");
  testUnshare("is a hand in the namespaces of a process that others started", async () => {
    await using child = Bun.spawn(
      [
        "unshare",
        "--user",
        "--map-root-user",
        "--uts",
        "--ipc",
        "--net",
        "sh",
        "-c",
        "hostname others; echo; exec sleep 1000",
      ],
      { stdout: "pipe" },
    );
    await child.stdout.getReader().read();
    await until(() => readFileSync(`/proc/${child.pid}/comm`, "utf8") === "sleep\n");
    await using hand = await attach(child.pid);
    expect(await said(hand, WHERE)).toBe(where(child.pid));
    expect(await said(hand, "uname -n; id -u")).toBe("others\n0");
    hand.kill();
    await hand.exited;
    expect(runs(child.pid)).toBe(true);
    child.kill();
  });

  testBox("to a process in our own namespaces is a hand in those", async () => {
    await using child = Bun.spawn(["sleep", "1000"]);
    await using hand = await attach(child.pid);
    expect(await said(hand, WHERE)).toBe(where(process.pid));
    expect(await said(hand, "echo here")).toBe("here");
    child.kill();
  });

  testBox("to a process that is not there throws ESRCH, and leaves nothing", async () => {
    const child = Bun.spawn(["true"]);
    await child.exited;
    const before = holdings();
    expect(await failure(attach(child.pid))).toMatchObject({ code: "ESRCH" });
    await settled(before);
  });

  testUser("to a process of root's throws EACCES or EPERM", async () => {
    expect((await failure(attach(1))) as { code: string }).toMatchObject({
      code: expect.stringMatching(/^(EACCES|EPERM)$/),
    });
  });
});

testBox("a file of ours written meanwhile is seen through a bind, for it is the same", async () => {
  using place = scratch();
  const file = join(place.path, "shared");
  writeFileSync(file, "before", { mode: 0o644 });
  await using made = await box([bind(file, "/shared")]);
  writeFileSync(file, "after");
  expect(await said(made, "cat /shared")).toBe("after");
});
