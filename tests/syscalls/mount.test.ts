import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { abilities } from "../../platform/linux/abilities.ts";
import { idsOf, isRoot } from "../../platform/linux/ids.ts";
import { close, makeDirectory, open } from "../../syscalls/linux/file.ts";
import { attach, cloneTree, detach, mount, setMountAttributes } from "../../syscalls/linux/mount.ts";
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
