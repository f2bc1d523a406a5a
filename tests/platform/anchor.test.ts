// Children outlive the Worker that started them, and not the host.
import { describe, expect } from "bun:test";
import { fileURLToPath } from "node:url";
import { runAnchored } from "../../platform/linux/anchor.ts";
import { executable, numberOf } from "../../syscalls/kernel.ts";
import { Assembler, R } from "../../syscalls/x64.ts";
import { testPuppet } from "./strings.ts";

describe("runAnchored()", () => {
  testPuppet("runs stubs on one thread of this process that is not ours, and gives what they return", () => {
    const gettid = executable(new Assembler().set(R.AX, numberOf("gettid", "x64")).syscall().return().assemble());
    const given = executable(new Assembler().copy(R.AX, R.DI).return().assemble());
    const thread = runAnchored(gettid, 0);
    expect(thread).not.toBe(process.pid);
    expect(runAnchored(gettid, 0)).toBe(thread);
    expect(runAnchored(given, 2 ** 40)).toBe(2 ** 40);
  });
});

/** The exit code of an actor whose link was closed. */
const HOST_GONE = 70;

describe("what a Worker started", () => {
  for (const how of ["exits", "throws", "is terminated"]) {
    testPuppet(
      `lives on when it ${how}, and ends when the host is killed`,
      async () => {
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
      },
      60_000,
    );
  }
});

function isThere(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
