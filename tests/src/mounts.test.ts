import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  closeSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { container } from "../../src/container.ts";
import {
  bind,
  chmod,
  dev,
  directory,
  type Mount,
  mqueue,
  overlay,
  proc,
  readonly,
  symlink,
  text,
  tmpfs,
} from "../../src/mounts.ts";
import { failure, scratch } from "../attacks/arena.ts";
import { box, ending, root, SCRIPT, said, shell, testAsRoot, testBox, testScript, tree } from "./box.ts";

/** Everything beneath a directory: kinds, modes, sizes, targets and content. */
function snapshot(path: string): string[] {
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .map((entry) => {
      const name = join(entry.parentPath, entry.name);
      const { mode, uid, gid, mtimeMs } = lstatSync(name);
      const content = entry.isFile() ? readFileSync(name, "utf8") : entry.isSymbolicLink() ? readlinkSync(name) : "";
      return `${name} ${mode.toString(8)} ${uid}:${gid} ${mtimeMs} ${content}`;
    })
    .sort();
}

/** A tree of the host with a file, a directory and a program in it. */
function furnished() {
  const place = scratch();
  const path = place.directory("tree");
  mkdirSync(join(path, "deep"));
  writeFileSync(join(path, "file"), "of the host", { mode: 0o666 });
  writeFileSync(join(path, "deep/file"), "deeper", { mode: 0o666 });
  writeFileSync(join(path, "run"), "#!/bin/sh\necho ran\n", { mode: 0o755 });
  // Through an overlay, root's files are nobody's.
  for (const name of ["file", "deep/file"]) chmodSync(join(path, name), 0o666);
  return { ...place, path, [Symbol.dispose]: () => place[Symbol.dispose]() };
}

const text_ = (content: string) => new TextEncoder().encode(content);

describe("what is no mount is refused before anything exists", () => {
  const makers: Record<string, (target: string) => Mount> = {
    bind: (target) => bind("/usr", target),
    tmpfs: (target) => tmpfs(target),
    overlay: (target) => overlay(target, { lower: ["/usr"] }),
    proc: (target) => proc(target),
    dev: (target) => dev(target),
    mqueue: (target) => mqueue(target),
    directory: (target) => directory(target),
    symlink: (target) => symlink(target, "x"),
    text: (target) => text(target, ""),
    readonly: (target) => readonly(target),
    chmod: (target) => chmod(target, 0o700),
  };
  for (const [name, make] of Object.entries(makers)) {
    test(`${name}() throws a TypeError for a target that is empty, relative, leads up, or has a NUL`, () => {
      for (const target of ["", "relative", "./x", "../x", "/a/../b", "/..", "/a\0b"]) {
        expect(() => make(target)).toThrow(TypeError);
        expect(() => make(target)).toThrow(JSON.stringify(target));
      }
    });
    test(`${name}() takes a target with surplus slashes and dots in one form`, () => {
      expect(make("//a/./b//").target).toBe("/a/b");
    });
  }

  test("modes, sizes and sources are checked", () => {
    for (const mode of [-1, 0o10000, 1.5, Number.NaN]) {
      expect(() => directory("/x", { mode })).toThrow(RangeError);
      expect(() => tmpfs("/x", { mode })).toThrow(RangeError);
      expect(() => text("/x", "", { mode })).toThrow(RangeError);
      expect(() => chmod("/x", mode)).toThrow(RangeError);
    }
    for (const size of [0, -1, "", "1", "64 MIB", "x MiB", Number.NaN, Number.POSITIVE_INFINITY])
      expect(() => tmpfs("/x", { size })).toThrow(RangeError);
    // To the kernel, a size of 0 is no limit.
    expect(tmpfs("/x", { size: 0.5 })).toMatchObject({ size: 1 });
    expect(tmpfs("/x", { size: "64 MiB" })).toMatchObject({ size: 64 * 2 ** 20 });
    expect(() => bind("/no/such/file")).toThrow("ENOENT");
    expect(() => bind(65000)).toThrow();
    expect(() => overlay("/x", { lower: [] })).toThrow(TypeError);
    expect(() => overlay("/x", { lower: ["/no/such"] })).toThrow("ENOENT");
  });

  test("overlay() wants upper and work together, apart, and neither in the other", () => {
    using place = scratch();
    for (const name of ["lower", "upper", "work", "upper/deep"]) place.directory(name);
    const at = (name: string) => join(place.path, name);
    const lower = [at("lower")];
    expect(() => overlay("/x", { lower, upper: at("upper") })).toThrow(TypeError);
    expect(() => overlay("/x", { lower, work: at("work") })).toThrow(TypeError);
    expect(() => overlay("/x", { lower, upper: at("upper"), work: at("upper") })).toThrow(TypeError);
    expect(() => overlay("/x", { lower, upper: at("upper"), work: at("upper/deep") })).toThrow(TypeError);
    expect(() => overlay("/x", { lower, upper: at("upper/deep"), work: at("upper") })).toThrow(TypeError);
    expect(overlay("/x", { lower, upper: at("upper"), work: at("work") })).toMatchObject({
      upper: at("upper"),
      work: at("work"),
    });
  });
});

describe("bind()", () => {
  testBox("shows a directory read-only, and nothing of the host changes", async () => {
    using place = furnished();
    const before = snapshot(place.path);
    await using made = await box([bind(place.path, "/shown")]);
    expect(await said(made, "cat /shown/file /shown/deep/file")).toBe("of the hostdeeper");
    for (const act of [
      "echo x > /shown/new",
      "echo x >> /shown/file",
      "rm -f /shown/file",
      "chmod 700 /shown/run",
      "mkdir /shown/d",
    ]) {
      const { code, complained } = await shell(made, act);
      expect([act, code === 0, complained]).toEqual([act, false, expect.stringContaining("Read-only file system")]);
    }
    expect(snapshot(place.path)).toEqual(before);
  });

  testBox("shows it to be written where that is said, as the same files", async () => {
    using place = furnished();
    await using made = await box([bind(place.path, "/shown", { write: true })]);
    await said(made, "echo x > /shown/new; echo more >> /shown/file");
    expect(readFileSync(join(place.path, "new"), "utf8")).toBe("x\n");
    expect(readFileSync(join(place.path, "file"), "utf8")).toBe("of the hostmore\n");
    const { uid } = statSync(join(place.path, "new"));
    expect(uid).toBe(process.getuid!());
  });

  testBox("shows one file, at a place that is made for it", async () => {
    using place = furnished();
    await using made = await box([
      bind(join(place.path, "file"), "/made/on/the/way"),
      bind(join(place.path, "deep/file"), "/written", { write: true }),
    ]);
    expect(await said(made, "cat /made/on/the/way; echo; ls /made/on/the")).toBe("of the host\nway");
    expect((await shell(made, "echo x > /made/on/the/way")).complained).toContain("Read-only file system");
    await said(made, "echo changed > /written");
    expect(readFileSync(join(place.path, "deep/file"), "utf8")).toBe("changed\n");
  });

  testBox("lets nothing be executed where that is said: EACCES", async () => {
    using place = furnished();
    await using made = await box([bind(place.path, "/a"), bind(place.path, "/b", { execute: false })]);
    expect(await said(made, "/a/run")).toBe("ran");
    expect(await shell(made, "/b/run")).toMatchObject({
      code: 126,
      complained: expect.stringContaining("Permission denied"),
    });
    expect(await failure(made.exec(["/b/run"]))).toMatchObject({ code: "EACCES", syscall: "execve" });
  });

  testBox("lets devices work where that is said alone: EACCES", async () => {
    await using made = await box([bind("/dev/zero", "/off"), bind("/dev/zero", "/on", { devices: true })]);
    expect(await said(made, "head -c 3 /on | wc -c")).toBe("3");
    expect((await shell(made, "head -c 3 /off")).complained).toContain("Permission denied");
  });

  // The host's own /proc is a mount on every machine.
  testBox(
    "shows what is mounted beneath, or not: who is not root may not uncover what that covers (EINVAL)",
    async () => {
      await using made = await box([bind("/", "/all")]);
      expect(await said(made, "test -e /all/proc/self/status && echo there")).toBe("there");
      const one = () => box([bind("/", "/one", { recursive: false })]);
      if (!root) {
        expect(await failure(one())).toMatchObject({ code: "EINVAL", syscall: "open_tree" });
        return;
      }
      await using alone = await one();
      expect(await said(alone, "ls /one/proc")).toBe("");
    },
  );

  testBox("of a descriptor shows what that names, wherever it has gone, and nothing in its place", async () => {
    using place = furnished();
    const file = openSync(join(place.path, "file"), "r");
    try {
      const mount = bind(file, "/shown");
      await using made = await box([mount]);
      expect(await said(made, "cat /shown")).toBe("of the host");
      renameSync(join(place.path, "file"), join(place.path, "moved"));
      writeFileSync(join(place.path, "file"), "another");
      expect((await failure(box([mount]))) as Error).toMatchObject({
        message: expect.stringContaining("another file has taken its place"),
      });
      await using again = await box([bind(file, "/shown")]);
      expect(await said(again, "cat /shown")).toBe("of the host");
    } finally {
      closeSync(file);
    }
  });

  testBox("finds its source now: a link that comes later is not followed (ELOOP)", async () => {
    using place = furnished();
    const source = join(place.path, "deep");
    const mount = bind(source, "/shown");
    renameSync(source, join(place.path, "gone"));
    symlinkSync("/etc", source);
    expect(await failure(box([mount]))).toMatchObject({ code: "ELOOP", syscall: "openat2" });
  });
});

describe("tmpfs()", () => {
  testBox("is empty, of the mode and size that are said: ENOSPC", async () => {
    await using made = await box([tmpfs("/small", { size: "64 KiB", mode: 0o1777 }), tmpfs("/plain")]);
    expect(await said(made, "stat -c %a /small /plain; ls -A /small")).toBe("1777\n755");
    const full = await shell(made, "head -c 100000 /dev/zero > /small/x");
    expect(full.complained).toContain("No space left on device");
    expect(statSync("/tmp").isDirectory()).toBe(true);
    expect(await said(made, "head -c 100000 /dev/zero > /plain/x && echo fits")).toBe("fits");
  });
});

describe("overlay()", () => {
  testBox("without an upper directory forgets what is written, and nothing of the host changes", async () => {
    using place = furnished();
    const before = snapshot(place.path);
    {
      await using made = await box([overlay("/over", { lower: [place.path] })]);
      const script =
        "echo x > /over/new; echo more >> /over/file; rm /over/run; mkdir /over/d; cat /over/file; ls /over";
      expect(await said(made, script)).toBe("of the hostmore\nd\ndeep\nfile\nnew");
    }
    expect(snapshot(place.path)).toEqual(before);
    await using again = await box([overlay("/over", { lower: [place.path] })]);
    expect(await said(again, "ls /over")).toBe("deep\nfile\nrun");
  });

  testBox("lays several over each other, the first on top", async () => {
    using place = scratch();
    const lower = ["top", "middle", "bottom"].map((name) => place.directory(name));
    lower.forEach((path, index) => {
      for (const name of ["a", "b", "c"].slice(index)) writeFileSync(join(path, name), `${index}`);
    });
    for (const path of lower.slice(1)) writeFileSync(join(path, "c"), "hidden");
    await using made = await box([overlay("/over", { lower })]);
    expect(await said(made, "cat /over/a /over/b /over/c")).toBe("000");
  });

  for (const odd of [
    "plain",
    "with,comma",
    "with:colon",
    "with\\backslash",
    "with space",
    "new\nline",
    "ünïcode",
    "%s=$x",
  ]) {
    testBox(`keeps what is written in upper, in directories named ${JSON.stringify(odd)}`, async () => {
      using place = scratch();
      const [lower, upper, work] = ["lower", "upper", "work"].map((name) => place.directory(`${name}-${odd}`)) as [
        string,
        string,
        string,
      ];
      writeFileSync(join(lower, "old"), "old", { mode: 0o666 });
      const over = overlay("/over", { lower: [lower], upper, work });
      {
        await using made = await box([over]);
        expect(await said(made, "echo kept > /over/new; cat /over/old")).toBe("old");
      }
      expect(readFileSync(join(upper, "new"), "utf8")).toBe("kept\n");
      expect(readdirSync(lower)).toEqual(["old"]);
      {
        await using again = await box([over]);
        expect(await said(again, "cat /over/new")).toBe("kept");
      }
      chmodSync(join(work, "work"), 0o700); // the kernel's own, which nobody may enter
    });
  }

  testBox("of a file is refused: ENOTDIR", async () => {
    using place = furnished();
    expect(await failure(box([overlay("/over", { lower: [join(place.path, "file")] })]))).toMatchObject({
      code: "ENOTDIR",
      syscall: "openat2",
    });
  });

  testBox("can be the root, which others then lie on", async () => {
    using place = scratch();
    const path = place.directory("base");
    const before = snapshot(place.path);
    await using made = await container({ files: [overlay("/", { lower: [path] }), ...tree] });
    expect(await said(made, "echo x > /new; mkdir /etc; ls /")).toContain("new");
    expect(snapshot(place.path)).toEqual(before);
  });
});

describe("proc()", () => {
  const WRITE = "echo 1 > /proc/sys/kernel/core_pattern";

  testBox(
    "shows the container's processes, and the kernel's settings read-only: EROFS, also with all capabilities",
    async () => {
      await using made = await box();
      expect(await said(made, "cat /proc/1/comm; cat /proc/sys/kernel/ostype")).toContain("Linux");
      expect(await said(made, "set -- /proc/[0-9]*; echo $#")).toBe("2");
      const { complained } = await shell(made, WRITE, { capabilities: "all" });
      expect(complained).toMatch(/Read-only file system|Permission denied/);
      const own = await shell(made, "echo x > /proc/sys/kernel/hostname", { capabilities: "all" });
      expect(own.complained).toContain("Read-only file system");
    },
  );

  testBox('of content "all" can change what is the container\'s own', async () => {
    const forward = "echo 1 > /proc/sys/net/ipv4/ip_forward; cat /proc/sys/net/ipv4/ip_forward";
    await using made = await container({ files: [...tree, proc("/proc", { content: "all" })], user: 0, group: 0 });
    expect(await said(made, forward, { capabilities: "all" })).toBe("1");
    await using masked = await box([], { user: 0, group: 0 });
    expect((await shell(masked, forward, { capabilities: "all" })).complained).toContain("Read-only file system");
  });

  testBox('of content "processes" has no settings at all', async () => {
    await using made = await container({ files: [...tree, proc("/proc", { content: "processes" })] });
    expect(await said(made, "cat /proc/self/comm; ls -d /proc/[a-z]*")).toBe("cat\n/proc/self\n/proc/thread-self");
    expect((await shell(made, WRITE)).complained).toMatch(/Directory nonexistent|No such file/);
  });

  testAsRoot("without a user namespace does not show the kernel's memory", async () => {
    const namespaces = ["mount", "pid", "ipc", "uts", "network"] as const;
    await using made = await container({ namespaces, files: tree });
    // Not every kernel has all of them.
    const covered = "for f in kcore keys timer_list sched_debug; do test ! -e /proc/$f || head -c 1 /proc/$f; done";
    expect(await said(made, covered, { capabilities: "all" })).toBe("");
    const { complained } = await shell(made, "cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern", {
      capabilities: "all",
    });
    expect(complained).toContain("Read-only file system");
    const trigger = await shell(made, "test ! -e /proc/sysrq-trigger || echo h > /proc/sysrq-trigger", {
      capabilities: "all",
    });
    expect(trigger.complained).toMatch(/^$|Read-only file system/);
  });
});

describe("dev()", () => {
  testBox("has the devices that programs expect", async () => {
    await using made = await box();
    expect(
      await said(made, "echo x > /dev/null; head -c 2 /dev/zero /dev/random /dev/urandom | wc -c > /dev/null; ls /dev"),
    ).toBe(
      [
        "fd",
        "full",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
      ].join("\n"),
    );
    expect((await shell(made, "cat /proc/version > /dev/full")).complained).toContain("No space left on device");
    expect(await said(made, "echo through > /dev/stdout; cat /dev/fd/0", { stdin: " and back" })).toBe(
      "through\n and back",
    );
    expect(await said(made, "echo x > /dev/shm/x; cat /dev/shm/x; stat -c %a /dev/shm")).toBe("x\n1777");
    expect((await shell(made, "echo x > /dev/tty")).complained).toContain("No such device or address");
    expect((await shell(made, ": > /dev/new; ls /dev/new")).complained).toBe("");
  });

  testScript("gives terminals of its own", async () => {
    await using made = await box();
    await using program = await made.exec([SCRIPT, "-qec", "tty", "/dev/null"], {
      env: { PATH: "/usr/bin:/bin", SHELL: "/bin/sh" },
    });
    expect((await ending(program)).said.trim()).toBe("/dev/pts/0");
  });
});

describe("the rest", () => {
  testBox("mqueue() has queues of its own", async () => {
    await using made = await box([mqueue()]);
    expect(await said(made, "cat /dev/mqueue/* 2>/dev/null; grep -c ' /dev/mqueue mqueue ' /proc/mounts")).toBe("1");
  });

  testBox("directory() makes it and those above it, of its mode", async () => {
    await using made = await box([
      directory("/a/b/c", { mode: 0o710 }),
      directory("/t", { mode: 0o1777 }),
      directory("/a"),
    ]);
    expect(await said(made, "stat -c %a /a /a/b /a/b/c /t")).toBe("755\n755\n710\n1777");
  });

  testBox("symlink() leads where it says, and what is mounted through it lands there", async () => {
    using place = furnished();
    const before = snapshot(place.path);
    await using made = await box([
      symlink("/link", "real/place"),
      directory("/real/place"),
      symlink("/absolute", "/real"),
      bind(place.path, "/link/shown"),
      text("/absolute/file", "text"),
      symlink("/dangling", "no/where"),
    ]);
    expect(await said(made, "readlink /link /absolute /dangling; cat /real/place/shown/file /real/file")).toBe(
      "real/place\n/real\nno/where\nof the hosttext",
    );
    expect(snapshot(place.path)).toEqual(before);
    expect((await failure(box([symlink("/a", "b"), symlink("/b", "a"), tmpfs("/a/x")]))) as Error).toMatchObject({
      message: expect.stringContaining("in a circle"),
    });
    expect(await failure(box([bind(place.path, "/host"), symlink("/host/new", "x")]))).toBeInstanceOf(TypeError);
    expect(snapshot(place.path)).toEqual(before);
  });

  testBox("text() makes a file, or lies on one of the host, which stays as it is", async () => {
    using place = furnished();
    const before = snapshot(place.path);
    const large = new Uint8Array(300_000).map((_, index) => index % 251);
    await using made = await box([
      text("/etc/name", "a name\n", { mode: 0o640 }),
      text("/large", large),
      text("/empty", ""),
      bind(place.path, "/host"),
      text("/host/file", text_("covered")),
    ]);
    expect(
      await said(made, "cat /etc/name; stat -c %a /etc/name; cat /host/file; wc -c < /large; wc -c < /empty"),
    ).toBe("a name\n640\ncovered300000\n0");
    await using summing = await made.exec(["/usr/bin/cksum", "/large"]);
    const here = Bun.spawnSync(["cksum"], { stdin: large }).stdout.toString().trim();
    expect((await ending(summing)).said).toBe(`${here} /large`);
    expect(snapshot(place.path)).toEqual(before);
  });

  testBox("text() on what is not there in a tree of the host creates nothing: ENOENT", async () => {
    using place = furnished();
    const before = snapshot(place.path);
    for (const each of [
      text("/host/new", "x"),
      directory("/host/new/deep"),
      tmpfs("/host/new"),
      bind("/usr", "/host/new"),
    ]) {
      const made = box([bind(place.path, "/host", { write: true }), each]);
      const error = await failure(
        made.then((it) => it[Symbol.asyncDispose]()).then(() => Promise.reject(new Error("made"))),
      );
      if (each.kind === "directory") continue; // it says nothing about what is the host's
      expect(error).toMatchObject({ code: "ENOENT" });
    }
    expect(snapshot(place.path)).toEqual(before);
  });

  testBox("readonly() keeps what was put there: EROFS", async () => {
    await using made = await box([tmpfs("/kept"), text("/kept/file", "x"), readonly("/kept")]);
    expect(await said(made, "cat /kept/file")).toBe("x");
    expect((await shell(made, "echo y > /kept/file")).complained).toContain("Read-only file system");
    expect(await said(made, "echo y > /tmp/file; cat /tmp/file")).toBe("y");
    await using whole = await box([readonly("/")]);
    expect((await shell(whole, "echo y > /file")).complained).toContain("Read-only file system");
  });

  testBox("chmod() sets the mode of what is there", async () => {
    await using made = await box([
      directory("/d"),
      text("/d/f", "x"),
      chmod("/d", 0o700),
      chmod("/d/f", 0o4600),
      chmod("/", 0o711),
    ]);
    expect(await said(made, "stat -c %a /d /d/f /")).toBe("700\n4600\n711");
    expect(await failure(box([chmod("/none", 0o700)]))).toMatchObject({ code: "ENOENT" });
  });
});

describe("names of every kind", () => {
  const NAMES = [
    "new\nline",
    "com,ma",
    "co:lon",
    "back\\slash",
    "x".repeat(255),
    "ünï-☃-🦊",
    "  spaces  ",
    "-dash",
    "a=b",
    "'\"$`*?",
  ];
  for (const name of NAMES) {
    testBox(
      `${JSON.stringify(name.length > 40 ? `${name.slice(0, 5)}... of ${name.length}` : name)} in sources, targets, directories and links`,
      async () => {
        using place = furnished();
        const source = place.directory(name);
        writeFileSync(join(source, name), "found", { mode: 0o644 });
        const before = snapshot(place.path);
        await using made = await box([
          bind(source, `/bound/${name}`),
          bind(join(source, name), `/file/${name}`),
          tmpfs(`/tmpfs/${name}`, { size: "1 MiB" }),
          overlay(`/overlay/${name}`, { lower: [source] }),
          directory(`/directory/${name}`),
          text(`/tmpfs/${name}/text`, "text"),
          symlink(`/link-${name.slice(0, 200)}`, `/bound/${name}`),
          readonly(`/tmpfs/${name}`),
          chmod(`/directory/${name}`, 0o700),
        ]);
        const N = name;
        await using program = await made.exec(
          [
            "/bin/cat",
            `/bound/${N}/${N}`,
            `/file/${N}`,
            `/tmpfs/${N}/text`,
            `/overlay/${N}/${N}`,
            `/link-${N.slice(0, 200)}/${N}`,
          ],
          { cwd: `/directory/${N}` },
        );
        expect(await ending(program)).toEqual({ said: "foundfoundtextfoundfound", complained: "", code: 0 });
        expect(snapshot(place.path)).toEqual(before);
      },
    );
  }

  testBox("a name of 256 bytes is one too long: ENAMETOOLONG", async () => {
    expect(await failure(box([directory(`/${"x".repeat(256)}`)]))).toMatchObject({ code: "ENAMETOOLONG" });
  });
});

testAsRoot("root's files are the inner user's own through a bind, unless it is root inside", async () => {
  using place = furnished();
  await using made = await box([bind(place.path, "/shown", { write: true })]);
  expect(root && (await said(made, "stat -c %u /shown/file; echo x > /shown/new; stat -c %u /shown/new"))).toBe("0\n0");
  expect(statSync(join(place.path, "new")).uid).toBe(0);
});
