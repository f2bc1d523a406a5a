// Each scenario is a process of its own: what threads gave up, they do not get back.
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { testIf } from "../syscalls/requirement.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const temporary = mkdtempSync(join(tmpdir(), "caisson-threads-"));
afterAll(() => rmSync(temporary, { recursive: true }));

async function run(scenario: string, ...args: string[]): Promise<unknown> {
  const script = join(import.meta.dir, "fixtures/rounds.ts");
  const child = Bun.spawn([process.execPath, script, scenario, ...args], { stdout: "pipe", stderr: "pipe" });
  const [output, error] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  if (child.exitCode !== 0) throw new Error(`${scenario} ended with ${child.signalCode ?? child.exitCode}: ${error}`);
  return JSON.parse(output);
}

test("onEveryThread() has each thread make the calls, where a plain call is one thread's", async () => {
  const found = (await run("all")) as { one: string[]; ids: boolean[] };
  expect(found).toMatchObject({ before: ["0"], all: ["1"], missed: [] });
  expect(found.one.filter((value) => value === "1").length).toBe(1);
  expect(found.one.length).toBeGreaterThan(3);
  expect(new Set(found.ids)).toEqual(new Set([true]));
});

test("onEveryThread() throws what a call failed with, and PartlyConfined where calls had been made before", async () => {
  expect(await run("failing")).toEqual({
    first: { name: "SystemError", message: "EBADF: close (9999)" },
    second: {
      name: "PartlyConfined",
      message: "Cannot confine this process: EBADF: close (9999). In force already: umask on 1 of its threads; end it",
      inForce: ["umask on 1 of its threads"],
    },
    allowed: [-9],
    after: "none",
  });
});

test("glibc still changes the ids of all threads by its signal", async () => {
  expect(await run("ids")).toBe("done");
});

test("what threads wait for meanwhile goes on: reads, sleeps, children, requests, an open of a pipe", async () => {
  const fifo = join(temporary, "fifo");
  self.call("mknod", fifo, 0o010600, 0);
  expect(await run("undisturbed", fifo)).toEqual({
    read: 8,
    waited: ["timed-out", 0],
    child: "echo",
    fetched: "late",
    fifo: "through\n",
    slow: 0,
  });
});

test("onEveryThread() reaches fifty Workers, and those that begin meanwhile", async () => {
  expect(await run("crowd")).toEqual({ all: ["1"], later: ["1"], many: true });
});

test("Workers and the main thread may do so at the same time", async () => {
  expect(await run("together")).toEqual(["done", "done", "done", "done"]);
});

test("reachEveryThread() names a thread that blocks the signal when its patience is over, and nothing has happened", async () => {
  const { id, said } = (await run("deaf")) as { id: number; said: { name: string; message: string } };
  expect(said.name).toBe("Error");
  const [, thread] = /^Cannot reach thread (\d+) \(.+\): it blocks signal 33$/.exec(said.message)!;
  expect(Number(thread)).toBe(id);
});

const rings = () => {
  try {
    self.call("io_uring_setup", 0, null);
  } catch (error) {
    return error instanceof SystemError && error.code === "EFAULT";
  }
  return false;
};
const testRings = testIf("io_uring", rings(), "this kernel has no io_uring, or something refuses it");

testRings("a thread of io_uring makes it throw before anything has happened", async () => {
  const said = (await run("ring")) as { name: string; message: string };
  expect(said.name).toBe("Error");
  expect(said.message).toStartWith("Cannot confine this process: io_uring works for it in thread ");
});
