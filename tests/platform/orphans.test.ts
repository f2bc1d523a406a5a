import { describe, expect } from "bun:test";
import { fileURLToPath } from "node:url";
import { startPuppet } from "../../platform/linux/launch.ts";
import { reapOrphans } from "../../platform/linux/orphans.ts";
import { PR } from "../../syscalls/linux/numbers.ts";
import { awaitEnd, children, testPuppet } from "./strings.ts";

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

  testPuppet("says that there may be more while one lives that calls itself as if it had ended", async () => {
    const { kernel, pidfd, socket } = startPuppet({ namespaces: 0n, descriptors: [] });
    kernel.call("prctl", PR.SET_NAME, Buffer.from(") Z (\0"), 0, 0, 0);
    pidfd.close();
    expect(reapOrphans()).toBe(true);
    socket.close();
    while (reapOrphans()) await Bun.sleep(2);
  });

  testPuppet("reaps nothing where it cannot see what is held, and says that there may be more", async () => {
    const script = fileURLToPath(new URL("fixtures/starved.ts", import.meta.url));
    const host = Bun.spawn(["/bin/sh", "-c", 'ulimit -n 128; exec "$0" "$1"', process.execPath, script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    expect(await host.stdout.json()).toEqual({ again: true, state: "Z" });
  });
});
