import { expect, test } from "bun:test";
import { readlinkSync } from "node:fs";
import { self } from "../../syscalls/kernel.ts";
import { open } from "../../syscalls/linux/file.ts";
import { setNamespace, unshare } from "../../syscalls/linux/namespace.ts";
import { CLONE, O } from "../../syscalls/linux/numbers.ts";
import { openProcess } from "../../syscalls/linux/process.ts";
import { hold, testRoot } from "../platform/strings.ts";

const uts = (process: number | string) => readlinkSync(`/proc/${process}/ns/uts`);

testRoot("unshare() moves the kernel it is given, and setNamespace() takes it back", () => {
  using puppet = hold(CLONE.NEWUSER | CLONE.NEWUTS);
  const first = uts(puppet.pid);
  const descriptor = open(puppet.kernel, "/proc/self/ns/uts", O.RDONLY | O.CLOEXEC);
  unshare(puppet.kernel, CLONE.NEWUTS);
  expect(uts(puppet.pid)).not.toBe(first);
  expect(uts(puppet.pid)).not.toBe(uts("self"));
  expect(() => setNamespace(puppet.kernel, descriptor, CLONE.NEWNET)).toThrow("EINVAL: setns"); // it is of another kind
  setNamespace(puppet.kernel, descriptor, 0);
  expect(uts(puppet.pid)).toBe(first);
});

testRoot("setNamespace() joins several namespaces of the process that a pidfd names", () => {
  using there = hold(CLONE.NEWUSER | CLONE.NEWUTS);
  using here = hold();
  const pidfd = openProcess(here.kernel, there.pid);
  setNamespace(here.kernel, pidfd, CLONE.NEWUSER | CLONE.NEWUTS);
  expect(uts(here.pid)).toBe(uts(there.pid));
  expect(readlinkSync(`/proc/${here.pid}/ns/user`)).toBe(readlinkSync(`/proc/${there.pid}/ns/user`));
  expect(() => setNamespace(here.kernel, pidfd, CLONE.NEWUSER)).toThrow("EINVAL: setns"); // the one it is in
});

test("unshare() of a user namespace throws EINVAL where there are threads, as in Bun", () => {
  expect(() => unshare(self, CLONE.NEWUSER)).toThrow("EINVAL: unshare");
});
