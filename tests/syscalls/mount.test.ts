import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { abilities } from "../../platform/linux/abilities.ts";
import { idsOf, isRoot } from "../../platform/linux/ids.ts";
import { close, makeDirectory, makeSymlink, open } from "../../syscalls/linux/file.ts";
import {
  attach,
  attachTo,
  cloneTree,
  configure,
  createFileSystem,
  detach,
  mount,
  mountFileSystem,
  openFileSystem,
  openTree,
  pickFileSystem,
  reconfigureFileSystem,
  setMountAttributes,
} from "../../syscalls/linux/mount.ts";
import { CLONE, MOUNT_ATTR, MS, O } from "../../syscalls/linux/numbers.ts";
import { becomeUser } from "../../syscalls/linux/process.ts";
import { hold, testRoot } from "../platform/strings.ts";
import { Recorder } from "./recorder.ts";

/** A puppet in a mount namespace of its own, with an empty tmpfs on /tmp. */
function inside() {
  const puppet = hold(CLONE.NEWNS | (abilities().namespaces & CLONE.NEWUSER));
  if ((abilities().namespaces & CLONE.NEWUSER) !== 0n) becomeUser(puppet.kernel, idsOf(isRoot()).inside);
  mount(puppet.kernel, null, "/", { flags: MS.REC | MS.PRIVATE });
  mount(puppet.kernel, "caisson-test", "/tmp", { type: "tmpfs", flags: MS.NOSUID | MS.NODEV, data: "size=64k" });
  return puppet;
}

testRoot("mount() and detach() change the mounts of the kernel they are given alone", () => {
  using puppet = inside();
  const mounts = (process: number | string) => readFileSync(`/proc/${process}/mountinfo`, "utf8");
  expect(mounts(puppet.pid)).toContain(" - tmpfs caisson-test rw,size=64k");
  expect(mounts("self")).not.toContain("caisson-test");
  detach(puppet.kernel, "/tmp");
  expect(mounts(puppet.pid)).not.toContain("caisson-test");
});

testRoot("setMountAttributes() makes a copy of a tree read-only, attach() puts it into place", () => {
  using puppet = inside();
  const { kernel } = puppet;
  makeDirectory(kernel, "/tmp/from", 0o777);
  makeDirectory(kernel, "/tmp/to", 0o777);
  const source = open(kernel, "/tmp/from", O.PATH | O.CLOEXEC);
  const tree = cloneTree(kernel, source);
  setMountAttributes(kernel, tree, { set: MOUNT_ATTR.RDONLY | MOUNT_ATTR.NOEXEC });
  attach(kernel, tree, "/tmp/to");
  close(kernel, tree);
  expect(() => makeDirectory(kernel, "/tmp/to/x", 0o777)).toThrow("EROFS: mkdirat");
  makeDirectory(kernel, "/tmp/from/x", 0o777);
  expect(() => makeDirectory(kernel, "/tmp/to/x", 0o777)).toThrow("EEXIST: mkdirat"); // the same files
  expect(readFileSync(`/proc/${puppet.pid}/mountinfo`, "utf8")).toMatch(/ \/from \/tmp\/to ro,nosuid,nodev,noexec/);
});

test("cloneTree() asks for mounts beneath only where it is told to", () => {
  const recorder = new Recorder();
  cloneTree(recorder, 5);
  cloneTree(recorder, 5, { recursive: true });
  const [one, all] = recorder.calls.map((call) => call[3] as number);
  expect(all! ^ one!).toBe(0x8000); // AT_RECURSIVE
});

const mountsOf = (pid: number) => readFileSync(`/proc/${pid}/mountinfo`, "utf8");

testRoot("a file system is opened, configured, created, mounted and attached by descriptor", () => {
  using puppet = inside();
  const { kernel } = puppet;
  makeDirectory(kernel, "/tmp/to", 0o777);
  makeSymlink(kernel, "to", "/tmp/link");
  const target = open(kernel, "/tmp/to", O.PATH | O.NOFOLLOW | O.CLOEXEC);
  const fs = openFileSystem(kernel, "tmpfs");
  configure(kernel, fs, "size", "64k");
  configure(kernel, fs, "mode", "0710");
  expect(() => mountFileSystem(kernel, fs)).toThrow("EINVAL: fsmount"); // it is not created
  createFileSystem(kernel, fs);
  const tree = mountFileSystem(kernel, fs, MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV);
  attachTo(kernel, tree, target);
  expect(mountsOf(puppet.pid)).toMatch(/ \/ \/tmp\/to rw,nosuid,nodev,relatime .*- tmpfs .*size=64k,mode=710/);

  const picked = pickFileSystem(kernel, open(kernel, "/tmp/to", O.PATH | O.CLOEXEC));
  configure(kernel, picked, "ro", true);
  reconfigureFileSystem(kernel, picked);
  expect(() => makeDirectory(kernel, "/tmp/to/x", 0o777)).toThrow("EROFS: mkdirat");
});

testRoot("configure() throws EINVAL for what the file system does not know, and says so in its log", () => {
  using puppet = inside();
  const fs = openFileSystem(puppet.kernel, "tmpfs");
  expect(() => configure(puppet.kernel, fs, "nonsense", "1")).toThrow("EINVAL: fsconfig");
  const log = new Uint8Array(256);
  const length = puppet.kernel.call("read", fs, log, log.length);
  expect(new TextDecoder().decode(log.subarray(0, length))).toMatch(/^e .*nonsense/);
  expect(() => openFileSystem(puppet.kernel, "no-such-file-system")).toThrow("ENODEV: fsopen");
});

test("configure() passes a text, a descriptor and a flag in the place of each", () => {
  const recorder = new Recorder();
  configure(recorder, 5, "size", "64k");
  configure(recorder, 5, "lowerdir+", { descriptor: 7 });
  configure(recorder, 5, "ro", true);
  expect(recorder.lines).toEqual([
    'fsconfig (5, 1, "size", "64k", 0)',
    'fsconfig (5, 5, "lowerdir+", null, 7)',
    'fsconfig (5, 0, "ro", null, 0)',
  ]);
});

testRoot("openTree() names a mount by path, or a copy of it", () => {
  using puppet = inside();
  const { kernel } = puppet;
  makeDirectory(kernel, "/tmp/from", 0o777);
  makeDirectory(kernel, "/tmp/to", 0o777);
  const target = open(kernel, "/tmp/to", O.PATH | O.CLOEXEC);
  expect(() => attachTo(kernel, openTree(kernel, "/tmp/from"), target)).toThrow("EINVAL: move_mount"); // no mount's root
  attachTo(kernel, openTree(kernel, "/tmp/from", { clone: true }), target);
  expect(mountsOf(puppet.pid)).toMatch(/ \/from \/tmp\/to rw/);
});

testRoot("setMountAttributes() sets the propagation", () => {
  using puppet = inside();
  const tree = openTree(puppet.kernel, "/tmp");
  const propagation = () => / \/tmp \S+ (.*)- tmpfs caisson-test/.exec(mountsOf(puppet.pid))?.[1];
  expect(propagation()).toBe("");
  setMountAttributes(puppet.kernel, tree, { propagation: MS.SHARED });
  expect(propagation()).toMatch(/^shared:\d+ $/);
  setMountAttributes(puppet.kernel, tree, { propagation: MS.UNBINDABLE });
  expect(propagation()).toBe("unbindable ");
  setMountAttributes(puppet.kernel, tree, { propagation: MS.PRIVATE });
  expect(propagation()).toBe("");
});
