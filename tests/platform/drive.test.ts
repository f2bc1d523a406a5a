import { expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { drive } from "../../platform/linux/drive.ts";
import type { DrivePlan } from "../../platform/platform.ts";
import { SystemError } from "../../syscalls/error.ts";
import type { Kernel } from "../../syscalls/kernel.ts";
import { execute } from "../../syscalls/linux/process.ts";
import { unblockSignals } from "../../syscalls/linux/signal.ts";

const PLAN: DrivePlan = {
  namespaces: [],
  user: undefined,
  processes: undefined,
  maps: undefined,
  descriptors: new Map(),
  forks: false,
};

/** Gives a file in which a program leaves what it says. */
function recorded(act: (file: number, path: string) => void): string {
  const directory = mkdtempSync("/tmp/caisson-drive-");
  const path = join(directory, "said");
  writeFileSync(path, "");
  const file = openSync(path, "r+");
  try {
    act(file, path);
    return readFileSync(path, "utf8");
  } finally {
    closeSync(file);
    rmSync(directory, { recursive: true });
  }
}

function shell(kernel: Kernel, script: string): void {
  unblockSignals(kernel);
  execute(kernel, "/bin/sh", ["sh", "-c", script], ["PATH=/usr/bin:/bin"]);
}

test("drive() gives its descriptors the numbers that were asked for, also those that puppets use themselves", () => {
  const numbers = [1, 3, 4, 5, 100, 101, 201];
  const said = recorded((file) => {
    const puppet = drive({ ...PLAN, descriptors: new Map(numbers.map((number) => [number, file])) });
    puppet.become((kernel) => {
      for (const number of [0, 2]) kernel.call("close", number);
      shell(kernel, "ls /proc/$$/fd; true");
    });
    expect(puppet.wait()).toMatchObject({ code: 0 });
  });
  expect(
    said
      .trim()
      .split("\n")
      .map(Number)
      .toSorted((a, b) => a - b),
  ).toEqual(numbers);
});

test("together() gives the result of the call whose stand-in was returned, and writes what calls write", () => {
  const puppet = drive(PLAN);
  const bytes = new Uint8Array(8);
  const read = puppet.together((kernel) => {
    const file = kernel.call("memfd_create", "x", 0);
    kernel.call("write", file, new TextEncoder().encode("hello"), 5);
    kernel.attempt(() => kernel.call("close", 9999));
    kernel.call("lseek", file, 1, 0);
    return kernel.call("read", file, bytes, bytes.length);
  });
  expect(read).toBe(4);
  expect(new TextDecoder().decode(bytes.subarray(0, 4))).toBe("ello");
  puppet.kill();
  expect(puppet.wait()).toMatchObject({ signal: 9 });
});

test.each([
  ["exit 5", 5],
  ["kill -TERM $$", 143],
])("fork() makes one that the first ends as: %s", (script, code) => {
  // Number 4 is where a puppet tells of its children.
  const said = recorded((file) => {
    const puppet = drive({ ...PLAN, descriptors: new Map([[4, file]]), forks: true });
    const child = puppet.fork();
    expect(child.kernel.call("getppid")).toBe(puppet.pid);
    expect(puppet.retire([4])).not.toContain(4);
    child.become((kernel) => shell(kernel, script));
    expect(puppet.wait()).toMatchObject({ code });
  });
  expect(said).toBe("");
});

test("become() throws the errno of what could not be done, and the puppet can try again", () => {
  const puppet = drive(PLAN);
  const failing = () => puppet.become((kernel) => execute(kernel, "/nonexistent", ["x"], []));
  expect(failing).toThrow(expect.objectContaining({ code: "ENOENT", syscall: "execve" }));
  expect(failing).toThrow(SystemError);
  puppet.become((kernel) => shell(kernel, "exit 3"));
  expect(puppet.wait()).toMatchObject({ code: 3 });
});

test("drive() throws the errno of what cannot be entered", () => {
  const file = openSync("/dev/null", "r");
  expect(() => drive({ ...PLAN, user: file })).toThrow(expect.objectContaining({ code: "EINVAL", syscall: "setns" }));
  expect(() => drive({ ...PLAN, processes: file })).toThrow(
    expect.objectContaining({ code: "EINVAL", syscall: "setns" }),
  );
  closeSync(file);
});
