import { describe, expect } from "bun:test";
import { readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { attach, contain, execute } from "../../platform/linux/container.ts";
import { Batch } from "../../platform/linux/frame.ts";
import { mapsFor } from "../../platform/linux/ids.ts";
import type { Contained, ContainerPlan, Mount, Namespace, ProcessPlan } from "../../platform/platform.ts";
import {
  bind,
  chmod,
  dev,
  directory,
  mqueue,
  overlay,
  proc,
  readonly,
  symlink,
  text,
  tmpfs,
} from "../../src/mounts.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { MSG } from "../../syscalls/linux/constants.ts";
import { close, makePipe, open } from "../../syscalls/linux/file.ts";
import { F, O } from "../../syscalls/linux/numbers.ts";
import { failure, scratch } from "../attacks/arena.ts";
import { holdings, root, settled, testAsRoot, testBox, tree } from "../src/box.ts";
import { processPlan } from "./process.ts";
import { children } from "./strings.ts";

const FILES: Readonly<Record<string, string>> = { mount: "mnt", network: "net" };
const ALL: readonly Namespace[] = ["user", "mount", "pid", "network", "ipc", "uts", "cgroup"];

/** A container as `container()` plans it. */
function plan(namespaces: readonly Namespace[], mounts?: readonly Mount[]): ContainerPlan {
  const user = namespaces.includes("user");
  const maps = user ? mapsFor(undefined) : undefined;
  const plain = (mounts ?? []).map((each) => ("idmap" in each ? { ...each, idmap: undefined } : each));
  return {
    namespaces,
    ...(mounts === undefined ? {} : { root: { mounts: plain, readonly: false } }),
    user: maps?.uids[0]?.inside ?? process.getuid!(),
    group: maps?.gids[0]?.inside ?? process.getgid!(),
    groups: undefined,
    maps,
    hostname: undefined,
    domainname: undefined,
    loopback: false,
    clocks: undefined,
    join: [],
  };
}

const program = (argv: readonly string[], more: Partial<ProcessPlan> = {}) =>
  processPlan(argv, { env: { PATH: "/usr/bin:/bin" }, ...more });

/** How many descriptors a puppet has, one of them for this question. */
function held(contained: Contained): number {
  const { kernel } = contained;
  const fds = open(kernel, "/proc/self/fd", O.RDONLY | O.DIRECTORY | O.CLOEXEC);
  const into = new Uint8Array(8192);
  let entries = 0;
  for (let length = 1; length > 0; ) {
    length = kernel.call("getdents64", fds, into, into.length);
    const view = new DataView(into.buffer);
    for (let at = 0; at < length; at += view.getUint16(at + 16, true)) entries++;
  }
  close(kernel, fds);
  return entries - 2; // . and ..
}

/** Ends a container, and waits for that. */
async function end(contained: Contained): Promise<void> {
  contained.kill();
  await contained.ended;
}

describe("namespaces", () => {
  for (const name of ALL) {
    const alone = async (namespaces: readonly Namespace[]) => {
      const contained = await contain(plan(namespaces));
      for (const each of ALL) {
        const file = `ns/${FILES[each] ?? each}`;
        const own = readlinkSync(`/proc/${contained.pid}/${file}`) !== readlinkSync(`/proc/self/${file}`);
        expect([each, own]).toEqual([each, namespaces.includes(each)]);
      }
      expect(contained.kernel.call("getpid")).toBe(namespaces.includes("pid") ? 1 : contained.pid);
      await end(contained);
    };
    testBox(`${name} can be had with a user namespace and no other`, () =>
      alone([...new Set<Namespace>(["user", name])]),
    );
    testAsRoot(`${name} can be had by root alone`, () => alone([name]));
  }

  testBox("none at all is a puppet as we are", async () => {
    const contained = await contain(plan([]));
    expect(contained.kernel.call("getuid")).toBe(process.getuid!());
    const running = await contained.execute(program(["/bin/sh", "-c", "exit 6"]));
    expect(await running.ended).toMatchObject({ code: 6 });
    await end(contained);
  });

  testBox("those that an ordinary user may not have without a user namespace are refused: EPERM", async () => {
    const before = holdings();
    if (root) return; // root may
    for (const name of ALL.slice(1))
      expect([name, await failure(contain(plan([name])))]).toEqual([
        name,
        expect.objectContaining({
          code: "EPERM",
          syscall: name === "cgroup" ? "unshare" : expect.stringMatching(/^clone3?$/),
        }),
      ]);
    await settled(before);
  });

  testBox("time is for programs, the first process of which may be one of them", async () => {
    const ahead = 777_777;
    const timed = { ...plan([...ALL, "time"], tree), clocks: { monotonic: 0, boottime: ahead } };
    const ours = Number.parseFloat(readFileSync("/proc/uptime", "utf8"));
    for (const init of [true, false]) {
      const { read, write } = makePipe(self);
      const running = await execute(
        timed,
        program(["/bin/cat", "/proc/uptime"], { init, descriptors: new Map([[1, write]]) }),
      );
      close(self, write);
      using pipe = new Descriptor(read);
      const uptime = Number.parseFloat(await Bun.file(pipe.number).text());
      expect(await running.ended).toMatchObject({ code: 0 });
      expect([init, uptime - ours > ahead - 1]).toEqual([init, true]);
    }
  });
});

describe("contain()", () => {
  testBox("sets up what is longer than a frame, and leaves the puppet no descriptor of it", async () => {
    using place = scratch();
    const lower = place.directory("lower");
    for (const name of ["there", "here"]) place.directory(join("lower", name));
    const small = await contain(plan(ALL, [...tree]));
    const expected = held(small);
    await end(small);
    const many = Array.from({ length: 300 }, (_, index) => bind("/etc/hostname", `/many/${index}/name`));
    const over = [
      overlay("/over", { lower: [lower] }),
      directory("/over/there"),
      directory("/over/here"),
      directory("/over/new"),
    ];
    const contained = await contain(plan(ALL, [...tree, ...many, ...over]));
    expect(held(contained)).toBe(expected);
    const running = await contained.execute(
      program(["/bin/sh", "-c", "test -f /many/299/name && test -d /over/new && test -d /over/there && exit 5"]),
    );
    expect(await running.ended).toMatchObject({ code: 5 });
    await end(contained);
  });

  testBox("passes descriptors also where there is no room for them before the puppet reads on", async () => {
    const contained = await contain(plan(ALL, tree));
    const { kernel, pid } = contained;
    const frame = new Batch();
    frame.call("getpid");
    const { bytes } = kernel.prepare(frame);
    let answered = 0;
    /** Sends as many frames as there is room for, and no more than `most`. */
    const fill = (most: number) => {
      let sent = 0;
      kernel.whenRoom((socket) => {
        try {
          for (; sent < most; sent++) {
            self.call("sendto", socket, bytes, bytes.length, MSG.DONTWAIT, null, 0);
            kernel.await(() => answered++);
          }
        } catch (error) {
          if (!(error instanceof SystemError && error.code === "EAGAIN")) throw error;
        }
      });
      return sent;
    };
    const stop = async () => {
      process.kill(pid, "SIGSTOP");
      while (children().find((child) => child.pid === pid)!.state !== "T") await Bun.sleep(2);
    };
    await stop();
    const most = fill(Number.POSITIVE_INFINITY);
    expect(most).toBeWithin(50, 10_000);
    process.kill(pid, "SIGCONT");
    kernel.settle();
    await stop();
    expect(fill(most - 1)).toBe(most - 1); // the frame that receives them fills it
    const waker = Bun.spawn(["/bin/sh", "-c", `sleep 0.1; kill -CONT ${pid}`]);
    const [number] = contained.pass([1]);
    expect(kernel.call("fcntl", number!, F.GETFD, 0)).toBe(1); // FD_CLOEXEC
    expect(answered).toBe(2 * most - 1);
    expect(await waker.exited).toBe(0);
    await end(contained);
  });

  testBox("refuses a set-up of which a step fails, whichever that is, and leaves nothing", async () => {
    using place = scratch();
    const path = place.directory("tree");
    writeFileSync(join(path, "file"), "");
    await end(await contain(plan(ALL, tree)));
    const before = holdings();
    const gone = (mount: Mount) => ({ ...mount, source: join(path, "gone") }) as Mount;
    const host = bind(path, "/host");
    const failing: Record<string, [readonly Mount[], string, string]> = {
      "a bind whose source is gone": [[gone(bind(path, "/x"))], "ENOENT", "openat2"],
      "a bind of a directory that has become a file": [
        [{ ...bind(path, "/x"), source: join(path, "file") } as Mount],
        "ENOTDIR",
        "openat2",
      ],
      "a bind where the host has nothing": [[host, bind(path, "/host/none")], "ENOENT", "openat2"],
      "a directory on a file": [[host, bind(path, "/host/file")], "EINVAL", "move_mount"],
      "a tmpfs where the host has nothing": [[host, tmpfs("/host/none")], "ENOENT", "openat2"],
      "a tmpfs of a size that is none": [[{ ...tmpfs("/x"), size: Number.NaN } as Mount], "EINVAL", "fsconfig"],
      "an overlay of a file": [
        [{ ...overlay("/x", { lower: [path] }), lower: [join(path, "file")] } as Mount],
        "ENOTDIR",
        "openat2",
      ],
      "a proc where the host has nothing": [[host, proc("/host/none")], "ENOENT", "openat2"],
      "a dev where the host has nothing": [[host, dev("/host/none")], "ENOENT", "openat2"],
      "queues where the host has nothing": [[host, mqueue("/host/none")], "ENOENT", "openat2"],
      "a text where the host has nothing": [[host, text("/host/none", "x")], "ENOENT", "openat2"],
      "a mode for what is not there": [[chmod("/none", 0o700)], "ENOENT", "openat2"],
      "read-only, what is not there": [[readonly("/none")], "ENOENT", "openat2"],
      "read-only, what is no mount": [[directory("/d"), readonly("/d")], "EINVAL", "mount_setattr"],
      "a symbolic link twice": [[symlink("/x", "a"), symlink("/x", "b")], "EEXIST", "symlinkat"],
    };
    for (const [what, [mounts, code, syscall]] of Object.entries(failing)) {
      const error = await failure(contain(plan(ALL, mounts)).then(end));
      expect([what, error]).toEqual([what, expect.objectContaining({ code, syscall })]);
      const short = await failure(execute(plan(ALL, mounts), program(["/bin/true"])));
      expect([what, short]).toEqual([what, expect.objectContaining({ code, syscall })]);
    }
    await settled(before);
  });

  testBox("two hundred of them, twenty at once, leave what was there before", async () => {
    await end(await contain(plan(ALL, tree)));
    const before = holdings();
    for (let round = 0; round < 10; round++)
      await Promise.all(Array.from({ length: 20 }, async () => end(await contain(plan(ALL, tree)))));
    await settled(before);
  });
});

describe("execute()", () => {
  testBox("gives the program's end, and the container's with it", async () => {
    for (const [script, how] of [
      ["exit 0", { code: 0 }],
      ["exit 200", { code: 200 }],
      ["kill -KILL $$", { signal: 9 }],
      ["kill -TERM $$", { signal: 15 }],
      ["sleep 1000 & exit 3", { code: 3 }],
    ] as const) {
      const running = await execute(plan(ALL, tree), program(["/bin/sh", "-c", script]));
      expect([script, await running.ended]).toEqual([script, expect.objectContaining(how)]);
    }
  });

  testBox("gives the end of a program that ends before its start is told", async () => {
    const ends = await Promise.all(
      Array.from({ length: 40 }, async () => await (await execute(plan(ALL, tree), program(["/bin/true"]))).ended),
    );
    expect(ends.map(({ code }) => code)).toEqual(Array.from({ length: 40 }, () => 0));
  });

  testBox("sets up what is longer than a frame as well", async () => {
    const many = Array.from({ length: 300 }, (_, index) => directory(`/many/${"x".repeat(200)}/${index}`));
    const texts = Array.from({ length: 300 }, (_, index) => text(`/text/${index}`, "x".repeat(500)));
    const running = await execute(
      plan(ALL, [...tree, ...many, ...texts]),
      program(["/bin/sh", "-c", "test -f /text/299 && exit 8"]),
    );
    expect(await running.ended).toMatchObject({ code: 8 });
  });

  testBox("lays a frame out once for the same program, and again for another", async () => {
    for (const code of [1, 2, 1, 2]) {
      const running = await execute(plan(ALL, tree), program(["/bin/sh", "-c", `exit ${code}`]));
      expect(await running.ended).toMatchObject({ code });
    }
  });
});

describe("attach()", () => {
  testBox("leaves nothing, and a puppet that those inside cannot look into", async () => {
    const contained = await contain(plan(ALL, tree));
    const before = holdings();
    const hand = await attach(contained.pid);
    // Whoever has every capability inside still may not.
    const looking = await contained.execute(
      program(
        [
          "/bin/sh",
          "-c",
          `for f in mem environ; do head -c 1 /proc/${hand.kernel.call("getpid")}/$f && exit 1; done; exit 0`,
        ],
        {
          capabilities: (1n << 40n) - 1n,
          descriptors: new Map(),
        },
      ),
    );
    expect(await looking.ended).toMatchObject({ code: 0 });
    await end(hand);
    await settled(before);
    await end(contained);
  });
});
