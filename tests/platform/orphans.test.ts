import { describe, expect } from "bun:test";
import { fileURLToPath } from "node:url";
import { Batch } from "../../platform/linux/frame.ts";
import { startPuppet } from "../../platform/linux/launch.ts";
import { reapOrphans } from "../../platform/linux/orphans.ts";
import { execute } from "../../syscalls/linux/process.ts";
import { awaitEnd, children, testPuppet } from "./strings.ts";

const leaderless = fileURLToPath(new URL("fixtures/leaderless.ts", import.meta.url));
const stateOf = (pid: number) => children().find((child) => child.pid === pid)?.state;

describe("reapOrphans()", () => {
  testPuppet("reaps a child that has ended and of which nobody has a descriptor", async () => {
    const { pid, pidfd, socket } = startPuppet({ namespaces: 0n, descriptors: [] });
    pidfd.close();
    reapOrphans();
    while (stateOf(pid) !== "S") await Bun.sleep(2); // it lives, and soon waits for its strings
    socket.close();
    for (; stateOf(pid) !== undefined; reapOrphans()) await Bun.sleep(2);
  });

  testPuppet("leaves one to whoever has a descriptor of it, and what others started to them", async () => {
    const puppet = startPuppet({ namespaces: 0n, descriptors: [] });
    const others = Bun.spawn(["/bin/sh", "-c", "exit 7"]);
    puppet.socket.close();
    while (stateOf(puppet.pid) !== "Z") await Bun.sleep(2);
    reapOrphans();
    expect(stateOf(puppet.pid)).toBe("Z");
    expect(awaitEnd(puppet)).toMatchObject({ code: 0 });
    expect(await others.exited).toBe(7);
  });

  testPuppet("says that there may be more while one lives of which /proc says that it has ended", async () => {
    const { pid, kernel, pidfd, socket } = startPuppet({ namespaces: 0n, descriptors: [] });
    const batch = new Batch();
    execute(batch, process.execPath, ["bun", leaderless], []);
    kernel.post(kernel.prepare(batch));
    while (stateOf(pid) !== "Z") await Bun.sleep(2); // its first thread has ended
    pidfd.close();
    expect(reapOrphans()).toBe(true);
    expect(stateOf(pid)).toBe("Z");
    socket.close();
    while (reapOrphans()) await Bun.sleep(2);
    expect(stateOf(pid)).toBeUndefined();
  });

  testPuppet("reaps nothing where it cannot see what is held, and says that there may be more", async () => {
    const script = fileURLToPath(new URL("fixtures/starved.ts", import.meta.url));
    const host = Bun.spawn(["/bin/sh", "-c", 'ulimit -n 128; exec "$0" "$1"', process.execPath, script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    expect(await host.stdout.json()).toEqual({ again: true, state: "Z" });
  });
});
