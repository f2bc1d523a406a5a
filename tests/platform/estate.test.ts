import { describe, expect } from "bun:test";
import { existsSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { settleEstates } from "../../platform/linux/estate.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { createMemoryFile } from "../../syscalls/linux/file.ts";
import { testBox } from "../src/box.ts";
import { children, descriptorsOf, testPuppet } from "./strings.ts";

interface Estate {
  readonly worker: Worker;
  readonly owned: number;
  readonly given: number;
  readonly puppet: number;
  readonly servant: number;
}

async function begin(name: string): Promise<Estate> {
  const worker = new Worker(new URL("fixtures/testator.ts", import.meta.url), { workerData: name });
  const told = new Promise<Omit<Estate, "worker">>((resolve, reject) =>
    worker.on("message", resolve).on("error", reject),
  );
  return { worker, ...(await told) };
}

/** The numbers of the files of that name. */
function numbersOf(name: string): number[] {
  const entries = Object.entries(descriptorsOf("self")).filter(([, file]) => file === `/memfd:${name} (deleted)`);
  return entries.map(([number]) => Number(number));
}

const isChild = (pid: number) => children().some((child) => child.pid === pid);

async function end({ puppet, servant, given }: Estate): Promise<void> {
  process.kill(puppet, "SIGKILL");
  for (; isChild(puppet) || isChild(servant); settleEstates()) await Bun.sleep(2);
  new Descriptor(given).close();
}

/** What a Worker tells that is gone now. */
async function passOn(deed: string) {
  const worker = new Worker(new URL("fixtures/predecessor.ts", import.meta.url), { workerData: deed });
  const told = await new Promise<Record<"thread" | "pid" | "strings" | "guest", number>>((resolve, reject) =>
    worker.on("message", resolve).on("error", reject),
  );
  await worker.terminate();
  while (existsSync(`/proc/self/task/${told.thread}`)) await Bun.sleep(2);
  return told;
}

describe("settleEstates()", () => {
  testPuppet("leaves a Worker's own alone while that lives", async () => {
    const estate = await begin("caisson-test-living");
    settleEstates();
    expect(isChild(estate.servant)).toBe(true);
    expect(numbersOf("caisson-test-living")).toEqual([estate.owned, estate.given].toSorted((a, b) => a - b));
    await estate.worker.terminate();
    await end(estate);
  });

  testPuppet("ends what served the Worker, and closes what it owned once nothing lives that it started", async () => {
    const estate = await begin("caisson-test-gone");
    await estate.worker.terminate();
    // Its thread may end a moment behind what terminate() tells.
    for (; isChild(estate.servant); settleEstates()) await Bun.sleep(2);
    expect(isChild(estate.puppet)).toBe(true);
    expect(numbersOf("caisson-test-gone")).toContain(estate.owned);

    process.kill(estate.puppet, "SIGKILL");
    for (; isChild(estate.puppet); settleEstates()) await Bun.sleep(2);
    expect(numbersOf("caisson-test-gone")).toEqual([estate.given]);
    new Descriptor(estate.given).close();
  });

  testPuppet("closes no number twice, which may be another's by then", async () => {
    const estate = await begin("caisson-test-once");
    await estate.worker.terminate();
    await end(estate);
    const before = descriptorsOf("self");
    const files = Array.from({ length: 32 }, () => new Descriptor(createMemoryFile(self, "caisson-test-other")));
    settleEstates();
    expect(numbersOf("caisson-test-other").length).toBe(files.length);
    for (const file of files) file.close();
    expect(descriptorsOf("self")).toEqual(before);
  });

  testPuppet("goes on with the search for orphans, where whoever began it has ended", async () => {
    const { pid, strings } = await passOn("leaves");
    await passOn("settles");
    expect(isChild(pid)).toBe(true);
    self.call("close", strings);
    for (; isChild(pid); settleEstates()) await Bun.sleep(2);
  });

  testBox("waits for no process whose end waits for that of another one that is to be reaped", async () => {
    const { pid, guest } = await passOn("hosts");
    await passOn("settles"); // not this thread, which would hang with it
    for (; isChild(pid) || isChild(guest); settleEstates()) await Bun.sleep(2);
  });

  testPuppet("is done for each by one alone, when several Workers begin at once", async () => {
    const several = (name: string) => Promise.all([1, 2, 3, 4].map((index) => begin(`caisson-test-${name}-${index}`)));
    const estates = await several("gone");
    for (const { worker, puppet } of estates) {
      await worker.terminate();
      process.kill(puppet, "SIGKILL");
    }
    const heirs = await several("heir");
    for (const { puppet, servant, given } of estates) {
      for (; isChild(puppet) || isChild(servant); settleEstates()) await Bun.sleep(2);
      new Descriptor(given).close();
    }
    for (const [index, heir] of heirs.entries()) {
      expect(numbersOf(`caisson-test-gone-${index + 1}`)).toEqual([]);
      expect(numbersOf(`caisson-test-heir-${index + 1}`).length).toBe(2);
      expect(isChild(heir.servant)).toBe(true);
      await heir.worker.terminate();
      await end(heir);
    }
  });
});
