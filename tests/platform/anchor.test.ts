// Children outlive the Worker that started them, and not the host.
import { describe, expect, setDefaultTimeout } from "bun:test";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { anchorThread, runAnchored } from "../../platform/linux/anchor.ts";
import { executable } from "../../syscalls/kernel.ts";
import { Assembler, R } from "../../syscalls/x64.ts";
import { stubThread, testPuppet } from "./strings.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

describe("runAnchored()", () => {
  testPuppet("runs stubs on one thread of this process that is not ours, and gives what they return", () => {
    const given = executable(new Assembler().copy(R.AX, R.DI).return().assemble());
    const thread = stubThread();
    expect(thread).not.toBe(process.pid);
    expect(thread).toBe(anchorThread());
    expect(stubThread()).toBe(thread);
    expect(runAnchored(given, 2 ** 40)).toBe(2 ** 40);
  });

  testPuppet("has one thread for all Workers, and answers each what that one asked", async () => {
    const workers = [1, 2, 3, 4].map((index) => ask({ first: index * 1e6, rounds: 5000 }));
    const thread = stubThread();
    for (const { worker, told } of workers) {
      expect(await told).toEqual({ thread, wrong: 0 });
      await worker.terminate();
    }
  });

  testPuppet("can be asked by others when a Worker is terminated that asks without end", async () => {
    const thread = stubThread();
    for (let round = 0; round < 20; round++) {
      const { worker, told } = ask({ first: 0, rounds: Number.POSITIVE_INFINITY });
      expect(await told).toEqual({ thread });
      await worker.terminate();
      expect(stubThread()).toBe(thread);
    }
  });
});

function ask(workerData: { first: number; rounds: number }): { worker: Worker; told: Promise<unknown> } {
  const worker = new Worker(new URL("fixtures/asker.ts", import.meta.url), { workerData });
  return { worker, told: new Promise((resolve, reject) => worker.on("message", resolve).on("error", reject)) };
}

/** The exit code of an actor whose link was closed. */
const HOST_GONE = 70;

describe("what a Worker started", () => {
  for (const how of ["exits", "throws", "is terminated"]) {
    testPuppet(`lives on when it ${how}, and ends when the host is killed`, async () => {
      const script = fileURLToPath(new URL("fixtures/employer.ts", import.meta.url));
      const host = Bun.spawn([process.execPath, script, how], { stdout: "pipe", stderr: "ignore" });
      const { value } = await host.stdout.getReader().read();
      const { before, after, status } = JSON.parse(Buffer.from(value!).toString()) as Record<
        "before" | "after",
        number[]
      > & { status: number };
      // The first processes of two containers, and zygotes.
      expect(before.length).toBeGreaterThanOrEqual(3);
      expect(after).toEqual(before);
      // The actor's link was the Worker's. It was told so and ended, with its exit handlers run: no signal did that.
      expect(status).toBe(HOST_GONE << 8);
      host.kill("SIGKILL");
      await host.exited;
      for (const pid of before) while (isThere(pid)) await Bun.sleep(5);
    });
  }
});

function isThere(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
