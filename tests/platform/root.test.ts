import { describe, expect, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Furniture, furnish, mustBe, openSource } from "../../platform/linux/root.ts";
import type { Mount } from "../../platform/platform.ts";
import { bind, dev, directory, overlay, proc, symlink, text, tmpfs } from "../../src/mounts.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { fileStatus } from "../../syscalls/linux/file.ts";
import { scratch } from "../attacks/arena.ts";
import { box, said, testBox } from "../src/box.ts";
import { Recorder } from "../syscalls/recorder.ts";

/** Writes down how a root is furnished. */
class Writing extends Recorder {
  attempt(calls: () => void): void {
    calls();
  }
}

function calls(mounts: readonly Mount[], more: Partial<Furniture> = {}) {
  const writing = new Writing();
  const plain = mounts.map((each) => ("idmap" in each ? { ...each, idmap: undefined } : each)) as readonly Mount[];
  furnish(writing, {
    mounts: plain,
    trees: new Map(),
    takeIds: (kernel) => void kernel.call("setresuid", 1, 1, 1),
    user: true,
    rootInside: false,
    readonlyRoot: false,
    ...more,
  });
  return writing;
}

describe("furnish()", () => {
  const mounts = [
    bind("/usr"),
    symlink("/bin", "usr/bin"),
    proc(),
    dev(),
    tmpfs("/tmp"),
    directory("/d"),
    text("/f", "x"),
  ];

  test("makes the host's mounts private first, opens what it shows as who it was, and moves in last", () => {
    const { calls: all } = calls(mounts);
    const first = (name: string) => all.findIndex(([each]) => each === name);
    const last = (name: string) => all.findLastIndex(([each]) => each === name);
    expect(all[0]![0]).toBe("mount");
    const order = [
      first("mount"),
      first("openat2"),
      first("open_tree"),
      first("setresuid"),
      first("move_mount"),
      first("pivot_root"),
      last("umount2"),
    ];
    expect(order).not.toContain(-1);
    expect(order).toEqual(order.toSorted((a, b) => a - b));
    expect(last("move_mount")).toBeLessThan(first("pivot_root"));
    // Nothing of the host is opened once ids have changed.
    const openedLater = all.slice(first("setresuid")).filter(([name, place]) => name === "openat2" && place === -100);
    expect(openedLater).toEqual([]);
  });

  test("mounts nothing by a path but what it mounts in order to begin", () => {
    const { calls: all } = calls(mounts);
    const byPath = all.filter(([name]) => name === "mount").map(([, , target]) => target);
    expect(byPath.every((target) => target === "/" || target === "/proc")).toBe(true);
  });

  test("makes an empty root read-only where that is said, at the end", () => {
    const count = (readonlyRoot: boolean) =>
      calls(mounts, { readonlyRoot }).calls.filter(([name]) => name === "mount_setattr").length;
    expect(count(true)).toBe(count(false) + 1);
  });

  test("asks nothing of the file system of the host: neither creates, nor writes", () => {
    const { calls: all } = calls([bind("/usr"), bind("/usr", "/usr/share"), tmpfs("/usr/lib"), directory("/usr/none")]);
    // What is made is made at one place: the empty root.
    const made = all
      .filter(([name]) => ["mkdirat", "symlinkat", "mknodat", "openat"].includes(name))
      .map(([, ...args]) => args[1]);
    expect(made.filter((path) => typeof path === "string" && /none|share|lib/.test(path))).toEqual([]);
  });

  test("refuses links that lead in a circle, and links in what is the host's", () => {
    expect(() => calls([symlink("/a", "b"), symlink("/b", "a"), directory("/a/x")])).toThrow("in a circle");
    expect(() => calls([bind("/usr"), symlink("/usr/link", "x")])).toThrow(TypeError);
  });

  test("follows the links that it made itself, wherever they lead, and never above the root", () => {
    const made = (mounts: readonly Mount[]) =>
      calls(mounts)
        .calls.filter(([name]) => name === "mkdirat")
        .map(([, , path]) => path);
    expect(made([symlink("/a", "deep/er"), directory("/a/x")])).toEqual(["deep", "deep/er", "deep/er/x"]);
    expect(made([symlink("/a", "/else"), directory("/a/x")])).toEqual(["else", "else/x"]);
    expect(made([symlink("/a", "../../../up"), directory("/a/x")])).toEqual(["up", "up/x"]);
  });
});

describe("openSource()", () => {
  test("follows no link, neither at the end nor on the way: ELOOP", () => {
    using place = scratch();
    mkdirSync(join(place.path, "real"));
    writeFileSync(join(place.path, "real/file"), "");
    symlinkSync("real", join(place.path, "link"));
    symlinkSync("file", join(place.path, "real/last"));
    const open = (name: string) =>
      new Descriptor(openSource(self, { source: join(place.path, name), directory: false })).close();
    open("real/file");
    expect(() => open("link/file")).toThrow("ELOOP: openat2");
    expect(() => open("real/last")).toThrow("ELOOP: openat2");
    expect(() => openSource(self, { source: `/proc/self/fd/0`, directory: false })).toThrow("ELOOP: openat2");
    expect(() => openSource(self, { source: join(place.path, "real/file"), directory: true })).toThrow(
      "ENOTDIR: openat2",
    );
  });

  test("mustBe() tells a file from another of the same name", () => {
    using place = scratch();
    const path = join(place.path, "file");
    writeFileSync(path, "");
    const { dev: device, ino: inode } = statSync(path, { bigint: true });
    using file = new Descriptor(openSource(self, { source: path, directory: false }));
    expect(() => mustBe(fileStatus(self, file.number), { device, inode }, path)).not.toThrow();
    expect(() => mustBe(fileStatus(self, file.number), { device, inode: inode + 1n }, path)).toThrow(
      "has taken its place",
    );
  });
});

describe("links that a foreign tree brings", () => {
  /** A tree whose links lead to `outside`, by every way that there is. */
  function hostile() {
    const place = scratch();
    const outside = place.directory("outside");
    const path = place.directory("tree");
    symlinkSync(outside, join(path, "absolute"));
    symlinkSync("../outside", join(path, "relative"));
    symlinkSync(`${"../".repeat(30)}${outside}`, join(path, "up"));
    mkdirSync(join(path, "plain"));
    return { outside, path, [Symbol.dispose]: () => place[Symbol.dispose]() };
  }

  for (const link of ["absolute", "relative", "up"]) {
    testBox(`${link}: nothing lands where it leads on the host`, async () => {
      using tree = hostile();
      const steps: Record<string, (at: string) => Mount> = {
        directory: (at) => directory(`${at}/made`),
        text: (at) => text(`${at}/made`, "x"),
        tmpfs: (at) => tmpfs(`${at}/made`),
        bind: (at) => bind("/etc", `${at}/made`),
        link: (at) => symlink(`${at}/made`, "x"),
        itself: (at) => tmpfs(at),
      };
      for (const [name, step] of Object.entries(steps)) {
        for (const base of [bind(tree.path, "/t", { write: true }), overlay("/t", { lower: [tree.path] })]) {
          const made = await box([base, step(`/t/${link}`)]).catch(() => undefined);
          await made?.[Symbol.asyncDispose]();
          expect([name, base.kind, readdirSync(tree.outside)]).toEqual([name, base.kind, []]);
          expect([name, readdirSync(tree.path).sort()]).toEqual([name, ["absolute", "plain", "relative", "up"]]);
        }
      }
      // The same steps where no link leads away.
      await using made = await box([
        overlay("/t", { lower: [tree.path] }),
        directory("/t/plain/made"),
        text("/t/plain/f", "x"),
      ]);
      expect(await said(made, "ls /t/plain")).toBe("f\nmade");
    });
  }
});

testBox("what is mounted inside is nowhere on the host", async () => {
  const before = readFileSync("/proc/self/mountinfo", "utf8");
  const made = await box([tmpfs("/one"), overlay("/two", { lower: ["/usr"] })]);
  expect(readFileSync("/proc/self/mountinfo", "utf8")).toBe(before);
  made.kill();
  await made.exited;
  expect(readFileSync("/proc/self/mountinfo", "utf8")).toBe(before);
});
