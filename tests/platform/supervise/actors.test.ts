// Actors whose refused calls are handed over: nothing else is different.
import { describe, expect, setDefaultTimeout } from "bun:test";
import { readdirSync, readlinkSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type DenialEvent, spawn } from "../../../src/index.ts";
import { hasFilters } from "../../../syscalls/linux/seccomp.ts";
import { openDescriptors, until } from "../../attacks/arena.ts";
import type * as Observed from "../../attacks/fixtures/observed.ts";
import { threads } from "../../attacks/supervised.ts";
import { testIf } from "../../syscalls/requirement.ts";

setDefaultTimeout(30_000); // the machine may have other things to do

const testSeccomp = testIf("seccomp", hasFilters(), "this kernel takes no filters, or something refuses seccomp(2)");
const module = fileURLToPath(new URL("../../attacks/fixtures/observed.ts", import.meta.url));
const observed = () => spawn<typeof Observed>(module, { observe: true, stdout: "ignore", stderr: "ignore" });

const linksOf = (pid: number) =>
  readdirSync(`/proc/${pid}/fd`).map((number) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${number}`);
    } catch {
      return ""; // it was that of the directory
    }
  });

describe("an observed actor", () => {
  testSeccomp("has no listener when its code runs, and is refused what any actor is", async () => {
    await using actor = await observed();
    await using plain = await spawn<typeof Observed>(module, { stdout: "ignore", stderr: "ignore" });
    expect(linksOf(actor.pid).filter((link) => link.includes("seccomp"))).toEqual([]);
    expect(linksOf(process.pid).some((link) => link.includes("seccomp"))).toBe(true);
    expect(await actor.call.listeners()).toEqual(await plain.call.listeners());
    for (const each of [actor, plain]) {
      expect(await each.call.mount()).toBe("EPERM");
      expect(await each.call.read("/etc/passwd")).toBe("EPERM");
      expect(await each.call.readInWorker("/etc/passwd")).toBe("EPERM");
    }
  });

  testSeccomp("tells of what it is refused, in any of its threads", async () => {
    await using actor = await observed();
    const told: DenialEvent[] = [];
    const reading = (async () => {
      for await (const denial of actor.denials) told.push(denial);
    })();
    await actor.call.mount();
    await actor.call.read("/etc/passwd");
    await actor.call.readInWorker("/etc/group");
    const has = (target: string) =>
      told.some((denial) => denial.target === target && denial.wall.startsWith("seccomp"));
    await until(() => has("/etc/passwd") && has("/etc/group") && told.some(({ call }) => call === "mount"));
    expect(told.find(({ call }) => call === "mount")).toMatchObject({ actor: "observed", guarantee: "privileges" });
    expect(told.find(({ target }) => target === "/etc/passwd")).toMatchObject({
      guarantee: "files",
      fix: expect.stringContaining("/etc/passwd"),
    });
    actor.kill();
    await reading;
  });

  testSeccomp("that floods is told of in bounds, and this process goes on", async () => {
    await using actor = await observed();
    let ticks = 0;
    const timer = setInterval(() => ticks++, 5);
    expect(await actor.call.flood(5_000)).toBe("EPERM");
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(0);
    let lost = 0;
    const reader = actor.denials[Symbol.asyncIterator]();
    actor.kill();
    let count = 0;
    for (;;) {
      const { done, value } = await reader.next();
      if (done) break;
      count++;
      lost += value.lost;
    }
    // While it is read, more comes: what is not read is counted.
    expect(count).toBeGreaterThan(0);
    expect(lost).toBeGreaterThan(0);
    console.log(`${count} told, ${lost} lost`);
  });

  testSeccomp("that is killed or crashes leaves nothing", async () => {
    const round = async (end: "kill" | "crash") => {
      await using actor = await observed();
      await actor.call.mount();
      if (end === "kill") actor.kill();
      else void actor.call.crash().catch(() => {});
      await actor.exited;
    };
    await round("kill");
    const before = { descriptors: openDescriptors(), threads: threads() };
    for (let count = 0; count < 4; count++) await round(count % 2 === 0 ? "kill" : "crash");
    await until(() => openDescriptors() <= before.descriptors && threads() <= before.threads);
  });
});
