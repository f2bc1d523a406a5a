import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { abilities } from "../../platform/linux/abilities.ts";
import { Batch } from "../../platform/linux/frame.ts";
import { type Ids, idsOf, isRoot } from "../../platform/linux/ids.ts";
import { runtime } from "../../platform/linux/runtime.ts";
import {
  type Bind,
  dropCapabilities,
  enterLandlock,
  enterRoot,
  IDLE_DATA,
  rootOf,
  setLimits,
  withDirectory,
} from "../../platform/linux/walls.ts";
import type { Kernel } from "../../syscalls/kernel.ts";
import { LOCKED_SECUREBITS, lastCapability } from "../../syscalls/linux/capability.ts";
import { close, makeDirectory, open } from "../../syscalls/linux/file.ts";
import { O, type RLIMIT } from "../../syscalls/linux/numbers.ts";
import { getLimit } from "../../syscalls/linux/process.ts";
import { Recorder } from "../syscalls/recorder.ts";
import { hold, statusOf, testPuppet, testRoot } from "./strings.ts";

const bind = (target: string, more: Partial<Bind> = {}): Bind => ({
  source: target,
  target,
  directory: true,
  writable: false,
  executable: false,
  ...more,
});

describe("rootOf()", () => {
  const table: readonly (readonly [
    what: string,
    binds: readonly Bind[],
    directories: string[],
    placeholders: string[],
  ])[] = [
    ["nothing", [], ["/proc"], []],
    ["a directory", [bind("/a/b")], ["/proc", "/a", "/a/b"], []],
    ["a file", [bind("/a/b", { directory: false })], ["/proc", "/a"], ["/a/b"]],
    ["a file at the top", [bind("/b", { directory: false })], ["/proc"], ["/b"]],
    ["two in one directory", [bind("/a/b"), bind("/a/c", { directory: false })], ["/proc", "/a", "/a/b"], ["/a/c"]],
    ["a directory in another, which has it already", [bind("/a/b/c"), bind("/a/b")], ["/proc", "/a", "/a/b"], []],
    ["a file in a directory", [bind("/a"), bind("/a/b/c", { directory: false })], ["/proc", "/a"], []],
    ["names that begin alike", [bind("/a/b"), bind("/a/bc")], ["/proc", "/a", "/a/b", "/a/bc"], []],
  ];
  for (const [what, binds, directories, placeholders] of table) {
    test(what, () => expect(rootOf(binds, "mount")).toMatchObject({ directories, placeholders, proc: "mount" }));
  }

  test("mounts a directory before what lies in it", () => {
    const { binds } = rootOf([bind("/a/b/c"), bind("/a"), bind("/a/b")], "mount");
    expect(binds.map(({ target }) => target)).toEqual(["/a", "/a/b", "/a/b/c"]);
  });
});

test("withDirectory() adds one and those above it, each once", () => {
  const root = rootOf([bind("/a/b")], "mount");
  expect(withDirectory(root, "/a/c/d").directories).toEqual(["/proc", "/a", "/a/b", "/a/c", "/a/c/d"]);
  expect(withDirectory(root, "/a/b")).toEqual(root);
});

const IDS: Ids = { inside: { uid: 0, gid: 0 }, outside: { uid: 65534, gid: 65534 }, dropGroups: true };

/** The calls in order, by name; `mount` and `umount2` with the place. */
function order(act: (kernel: Kernel) => void): string[] {
  const recorder = new Recorder();
  act(recorder);
  return recorder.calls.map(([name, source, target]) => {
    if (name === "mount") return `mount ${target}`;
    return name === "umount2" ? `umount2 ${source}` : name;
  });
}

describe("enterRoot()", () => {
  test("takes its steps in the one order in which each can be taken and none can be got around", () => {
    const root = rootOf([bind("/srv"), bind("/etc/file", { directory: false })], "mount");
    const source = ["openat2", "open_tree", "close"];
    const place = ["mount_setattr", "move_mount", "close"];
    expect(order((kernel) => enterRoot(kernel, root, IDS))).toEqual([
      "mount /", // private: nothing below reaches the host
      ...source, // with the host's rights, before anything lies over a path
      ...source,
      ...["setgroups", "setresgid", "setresuid"],
      "mount /proc", // the tmpfs
      ...["mkdirat", "mkdirat", "mkdirat"],
      ...["openat", "close"],
      ...place,
      ...place,
      "mount /proc/proc",
      ...["chdir", "pivot_root", "umount2 .", "chdir"],
      ...["openat", "mount_setattr", "close"], // read-only, last
    ]);
  });

  test("opens no source where the host has made the mount", () => {
    const recorder = new Recorder();
    enterRoot(recorder, rootOf([bind("/srv", { tree: 7 })], "mount"), IDS);
    const names = recorder.calls.map(([name]) => name);
    expect(names).not.toContain("openat2");
    expect(recorder.calls.find(([name]) => name === "move_mount")![1]).toBe(7);
    expect(recorder.lines).toContain("close (7)");
  });

  test("takes the host's proc with it where none can be mounted", () => {
    const calls = order((kernel) => enterRoot(kernel, rootOf([], "bind"), { ...IDS, dropGroups: false }));
    expect(calls).toEqual([
      ...["mount /", "openat", "open_tree", "close", "setresgid", "setresuid", "mount /proc", "mkdirat"],
      ...["mount_setattr", "move_mount", "close"],
      ...["chdir", "pivot_root", "umount2 .", "chdir", "openat", "mount_setattr", "close"],
    ]);
  });
});

describe("a puppet in a root of its own", () => {
  let directory: string;
  beforeAll(() => {
    directory = realpathSync(mkdtempSync(join(tmpdir(), "caisson-walls-")));
    chmodSync(directory, 0o755); // root's actors are nobody to the files
    for (const name of ["read", "write", "hidden"]) {
      mkdirSync(join(directory, name));
      writeFileSync(join(directory, name, "file"), name, { mode: 0o666 });
      chmodSync(join(directory, name), 0o777);
      chmodSync(join(directory, name, "file"), 0o666);
    }
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  function enter(binds: readonly Bind[]) {
    const able = abilities();
    const puppet = hold(able.namespaces);
    try {
      const batch = new Batch();
      enterRoot(batch, rootOf(binds, able.proc!), idsOf(isRoot()));
      puppet.kernel.carryOut(batch);
    } catch (error) {
      puppet[Symbol.dispose]();
      throw error;
    }
    return puppet;
  }

  const granted = () => [bind(join(directory, "read")), bind(join(directory, "write"), { writable: true })];

  /** The names in a directory. */
  function list(kernel: Kernel, path: string): string[] {
    const descriptor = open(kernel, path, O.RDONLY | O.DIRECTORY | O.CLOEXEC);
    const names: string[] = [];
    const buffer = new Uint8Array(4096);
    const read = () => kernel.call("getdents64", descriptor, buffer, buffer.length);
    for (let length = read(); length > 0; length = read()) {
      const view = new DataView(buffer.buffer);
      // struct linux_dirent64: the record's length at 16, the name at 19
      for (let at = 0; at < length; at += view.getUint16(at + 16, true)) {
        names.push(Buffer.from(buffer.subarray(at + 19, buffer.indexOf(0, at + 19))).toString());
      }
    }
    close(kernel, descriptor);
    return names.filter((name) => name !== "." && name !== "..").toSorted();
  }

  testRoot("sees what was granted, the way to it, and proc", () => {
    using puppet = enter(granted());
    const [, first] = directory.split("/");
    expect(list(puppet.kernel, "/")).toEqual([first!, "proc"].toSorted());
    expect(list(puppet.kernel, directory)).toEqual(["read", "write"]);
    expect(list(puppet.kernel, join(directory, "read"))).toEqual(["file"]);
    expect(list(puppet.kernel, "/../../..")).toEqual(list(puppet.kernel, "/"));
    expect(list(puppet.kernel, ".")).toEqual(list(puppet.kernel, "/"));
    for (const path of [join(directory, "hidden"), "/etc/passwd", "/bin/sh", "/dev/null", "/sys"]) {
      expect(() => open(puppet.kernel, path, O.PATH)).toThrow("ENOENT: openat");
    }
  });

  testRoot("sees of the processes only its own, and of the kernel's files none", () => {
    if (abilities().proc !== "mount") return; // the host's proc is Landlock's business
    using puppet = enter([]);
    expect(list(puppet.kernel, "/proc")).toEqual(["1", "self", "thread-self"]);
  });

  testRoot("can change nothing but what was granted for writing", () => {
    using puppet = enter(granted());
    const { kernel } = puppet;
    for (const path of ["/x", `${directory}/x`, join(directory, "read/x")]) {
      expect(() => makeDirectory(kernel, path, 0o777)).toThrow("EROFS: mkdirat");
      expect(() => open(kernel, path, O.CREAT | O.WRONLY, 0o666)).toThrow("EROFS: openat");
    }
    expect(() => open(kernel, join(directory, "read/file"), O.RDWR)).toThrow("EROFS: openat");
    expect(() => kernel.call("fchmodat", -100, join(directory, "read/file"), 0o777)).toThrow("EROFS: fchmodat");
    makeDirectory(kernel, join(directory, "write/made"), 0o777);
    close(kernel, open(kernel, join(directory, "write/file"), O.RDWR));
    expect(list(kernel, join(directory, "write"))).toEqual(["file", "made"]);
  });

  testRoot(
    "has the flags of each mount: read-only, and no setuid programs, devices and execution where not needed",
    () => {
      const bun = runtime().program;
      using puppet = enter([...granted(), bind("/bin/bun", { source: bun, directory: false, executable: true })]);
      const lines = readFileSync(`/proc/${puppet.pid}/mountinfo`, "utf8").trimEnd().split("\n");
      const flags = new Map(
        lines.map((line) => [line.split(" ")[4]!, line.split(" ")[5]!.replace(/,(rel|no|strict)atime/, "")]),
      );
      flags.delete("/proc");
      expect(Object.fromEntries(flags)).toEqual({
        "/": "ro,nosuid,nodev,noexec",
        "/bin/bun": "ro,nosuid,nodev",
        [join(directory, "read")]: "ro,nosuid,nodev,noexec",
        [join(directory, "write")]: "rw,nosuid,nodev,noexec",
      });
      const proc = lines.find((line) => line.split(" ")[4] === "/proc")!;
      expect(proc).toMatch(/ \/ \/proc ro,/);
      if (abilities().proc === "mount") expect(proc).toContain("ro,nosuid,nodev,noexec");
    },
  );

  testRoot("finds no mount of the host but those that were granted", () => {
    using puppet = enter(granted());
    const lines = readFileSync(`/proc/${puppet.pid}/mountinfo`, "utf8").trimEnd().split("\n");
    const places = lines.map((line) => line.split(" ")[4]!).filter((place) => !place.startsWith("/proc/"));
    expect(places.toSorted()).toEqual(["/", "/proc", join(directory, "read"), join(directory, "write")].toSorted());
  });

  testRoot("is refused with ELOOP where a symbolic link took the place of a source, or of a directory above it", () => {
    const [real, moved] = [join(directory, "swapped"), join(directory, "moved")];
    mkdirSync(join(real, "inner"), { recursive: true });
    const binds = [bind(real)];
    const deeper = [bind(join(real, "inner"))];
    enter(binds)[Symbol.dispose](); // as planned, it works
    enter(deeper)[Symbol.dispose]();
    renameSync(real, moved);
    symlinkSync(moved, real);
    expect(() => enter(binds)).toThrow("ELOOP: openat2");
    expect(() => enter(deeper)).toThrow("ELOOP: openat2");
    rmSync(real);
    expect(() => enter(binds)).toThrow("ENOENT: openat2");
    writeFileSync(real, "");
    expect(() => enter(binds)).toThrow("ENOTDIR: openat2");
  });
});

test("dropCapabilities() locks what it clears before it gives up the capability to do so", () => {
  const recorder = new Recorder();
  dropCapabilities(recorder, true);
  const prctls = recorder.calls.slice(0, -1).map(([, operation, argument]) => [operation, argument]);
  const drops = Array.from({ length: lastCapability() + 1 }, (_, capability) => [24, capability]);
  expect(prctls).toEqual([...drops, [47, 4], [28, LOCKED_SECUREBITS]]);
  expect(recorder.calls.at(-1)![0]).toBe("capset");
});

testRoot("dropCapabilities() leaves none in any set", () => {
  using puppet = hold(abilities().namespaces);
  const batch = new Batch();
  dropCapabilities(batch, true);
  puppet.kernel.carryOut(batch);
  const none = "0000000000000000";
  expect(statusOf(puppet.pid)).toMatchObject({ CapInh: none, CapPrm: none, CapEff: none, CapBnd: none, CapAmb: none });
});

testPuppet("setLimits() sets hard limits", () => {
  using puppet = hold();
  const batch = new Batch();
  setLimits(batch, { memory: 2 ** 20, processes: 1, files: 32, fileSize: 1000, tmpfs: 1000, cpuTime: 1.5 }, 128);
  puppet.kernel.carryOut(batch);
  const expected: Partial<Record<keyof typeof RLIMIT, number>> = {
    CORE: 0,
    DATA: IDLE_DATA + 2 ** 20,
    FSIZE: 1000,
    NPROC: 128,
    MEMLOCK: 0,
    MSGQUEUE: 0,
    SIGPENDING: 256,
    CPU: 3,
  };
  for (const [name, value] of Object.entries(expected)) {
    const limit = getLimit(puppet.kernel, name as keyof typeof RLIMIT);
    expect([name, limit.soft, limit.hard]).toEqual([name, BigInt(value), BigInt(value)]);
  }
});

describe("enterLandlock()", () => {
  const steps = (paths: readonly string[]) =>
    order((kernel) =>
      enterLandlock(kernel, {
        handled: { fs: 1n, net: 0n, scoped: 0n },
        rules: paths.map((path) => ({ path, access: 1n })),
      }),
    );

  test("adds a rule for each path and closes what it opened", () => {
    const rule = ["openat", "dup3", "landlock_add_rule", "close"];
    expect(steps(["/a", "/b"])).toEqual([
      "landlock_create_ruleset",
      ...rule,
      ...rule,
      ...["close", "landlock_restrict_self", "close"],
    ]);
    expect(steps([])).toEqual(["landlock_create_ruleset", "landlock_restrict_self", "close"]);
  });
});
