import { expect, test } from "bun:test";
import { fileURLToPath } from "node:url";
import { type Kernel, self } from "../../syscalls/kernel.ts";
import { setNoNewPrivileges } from "../../syscalls/linux/process.ts";
import { hasFilters, setFilter } from "../../syscalls/linux/seccomp.ts";
import { hold, statusOf } from "../platform/strings.ts";
import { Recorder } from "./recorder.ts";
import { testIf } from "./requirement.ts";

const testSeccomp = testIf("seccomp", hasFilters(), "this kernel takes no filters, or something refuses seccomp(2)");

/** Load the call's number; getppid (110 on x64) fails with errno 99; everything else is allowed. */
const PROGRAM = new Uint8Array(
  Uint16Array.of(0x20, 0, 0, 0, 0x15, 0x0100, 110, 0, 0x06, 0, 99, 0x0005, 0x06, 0, 0, 0x7fff).buffer,
);

test("hasFilters() is false where the call is refused, and true where it is not", () => {
  const refusing: Kernel = { call: () => self.call("close", -1) };
  expect(hasFilters(refusing)).toBe(false);
  expect(hasFilters(new Recorder())).toBe(true);
});

testSeccomp("setFilter() throws EACCES without no-new-privileges, then filters", () => {
  using puppet = hold();
  const { kernel } = puppet;
  kernel.call("capset", Uint8Array.of(0x22, 5, 8, 0x20, 0, 0, 0, 0), new Uint8Array(24));
  expect(() => setFilter(kernel, PROGRAM)).toThrow("EACCES: seccomp");
  setNoNewPrivileges(kernel);
  expect(kernel.call("getppid")).toBe(process.pid);
  setFilter(kernel, PROGRAM);
  expect(() => kernel.call("getppid")).toThrow("EADDRNOTAVAIL: getppid");
  expect(kernel.call("getpid")).toBe(puppet.pid);
  expect(statusOf(puppet.pid).Seccomp).toBe("2");
});

testSeccomp("setFilter() throws EINVAL for a program that does not end", () => {
  using puppet = hold();
  setNoNewPrivileges(puppet.kernel);
  expect(() => setFilter(puppet.kernel, PROGRAM.subarray(0, 8))).toThrow("EINVAL: seccomp");
});

testSeccomp("setFilterOnAllThreads() binds every thread of Bun, setFilter() one", () => {
  const script = fileURLToPath(new URL("fixtures/threads.ts", import.meta.url));
  const { stdout, stderr } = Bun.spawnSync([process.execPath, script, Buffer.from(PROGRAM).toString("hex")]);
  expect(stderr.toString()).toBe("");
  const { one, all } = JSON.parse(stdout.toString()) as Record<"one" | "all", string[]>;
  expect(one.length).toBeGreaterThan(1);
  expect(one.filter((count) => count === "1").length).toBe(1);
  expect(new Set(all)).toEqual(new Set(["1"]));
});
