import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import {
  childByInnerPid,
  countersOf,
  countersOfTree,
  grouped,
  lasting,
  parseIo,
  parseStat,
  parseStatus,
  Rising,
  readChildren,
  risen,
  rising,
  searchChildren,
  Tally,
} from "../../platform/linux/usage.ts";
import type { Counters } from "../../platform/platform.ts";
import { exec } from "../../src/exec.ts";
import { scratch, until } from "../attacks/arena.ts";
import { testBox, testUser } from "../src/box.ts";
import { testIf } from "../syscalls/requirement.ts";
import { starve } from "./starve.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

/** The fields behind the name, as numbers of proc_pid_stat(5) from 4 on: each is its own number. */
const FIELDS = Array.from({ length: 49 }, (_, index) => index + 4).join(" ");

describe("parseStat()", () => {
  test.each(["sh", "a b", ") R 9 9", "(((", "x) S 1 (y", "\n7 (z) S 1\n", ""])("of a process called %j", (name) => {
    expect(parseStat(`4711 (${name}) S ${FIELDS}\n`)).toEqual({
      parent: 4,
      threads: 20,
      minorFaults: 10 + 11,
      majorFaults: 12 + 13,
      userMicroseconds: (14 + 16) * 10_000,
      systemMicroseconds: (15 + 17) * 10_000,
      ownMicroseconds: (14 + 15) * 10_000,
      startTicks: 22,
    });
  });
});

describe("parseStatus()", () => {
  const text = (name: string) =>
    `Name:\t${name}\nNSpid:\t4711\t2\t1\nVmHWM:\t    1234 kB\nVmRSS:\t     999 kB\nVmPTE:\t      40 kB\nThreads:\t3\n` +
    "voluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n";

  // The kernel writes the end of a line in a name as \n, with a backslash.
  test.each(["sh", "Threads:\t9", "x\\nThreads:\t9"])("of a process called %j", (name) => {
    expect(parseStatus(text(name))).toEqual({
      memoryKib: 999 + 40,
      tablesKib: 40,
      peakKib: 1234 + 40,
      threads: 3,
      voluntarySwitches: 150,
      involuntarySwitches: 545,
      pids: [4711, 2, 1],
    });
  });

  test("of one that has ended and has no memory any more", () => {
    expect(parseStatus("Name:\tsh\nThreads:\t1\n")).toMatchObject({ memoryKib: 0, peakKib: 0, threads: 1 });
  });
});

test("parseIo() takes storage, not what was read from caches or taken back", () => {
  const text = "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 6\ncancelled_write_bytes: 7\n";
  expect(parseIo(text)).toEqual({ readBytes: 5, writtenBytes: 6 });
});

const PERL = "/usr/bin/perl";
const testPerl = testIf("perl", existsSync(PERL), `there is no ${PERL}`);

/** A child of ours. What it started ends with its input. */
function running(path: string, ...args: string[]) {
  const child = Bun.spawn([path, ...args], { stdin: "pipe", stdout: "ignore", stderr: "ignore" });
  return {
    pid: child.pid,
    stdin: child.stdin,
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.stdin.end();
      await child.exited;
    },
  };
}

describe("countersOf()", () => {
  test("tells of this process what it knows of itself", () => {
    const before = process.resourceUsage();
    const { rss } = process.memoryUsage();
    const told = countersOf(process.pid)!;
    // By ticks of 10 ms each, and with children that ended before.
    expect(told.userMicroseconds).toBeGreaterThanOrEqual(before.userCPUTime - 10_000);
    expect(told.systemMicroseconds).toBeGreaterThanOrEqual(before.systemCPUTime - 10_000);
    expect(told.cpuMicroseconds).toBe(told.userMicroseconds + told.systemMicroseconds);
    expect(told.minorFaults).toBeGreaterThanOrEqual(before.minorPageFault);
    expect(told.voluntarySwitches).toBeGreaterThan(0);
    expect(told.memoryKib * 1024).toBeWithin(rss / 2, rss * 2);
    expect(told.peakKib).toBeGreaterThanOrEqual(told.memoryKib);
    expect(told.processes).toBeGreaterThan(1);
  });

  test("counts what was to be written to storage by a process and its children, as rusage does in blocks of 512 bytes", async () => {
    using place = scratch();
    const inMemory = `/dev/shm/caisson-usage-test-${process.pid}`;
    const written = (path: string) => {
      const script = `head -c 1000000 /dev/zero > ${path}; echo; read line`;
      return Bun.spawn(["/bin/sh", "-c", script], { stdin: "pipe", stdout: "pipe" });
    };
    const writers = [join(place.path, "file"), inMemory].map(written);
    const told: (number | undefined)[] = [];
    for (const child of writers) {
      await child.stdout.getReader().read();
      told.push(countersOf(child.pid)!.writtenBytes);
      await child.stdin.end();
      await child.exited;
    }
    rmSync(inMemory);
    expect(told).toEqual(writers.map((child) => child.resourceUsage()!.ops.out * 512));
    expect(told[1]).toBe(0);
  });

  test("is undefined for a process that is not there", () => {
    expect(countersOf(2 ** 22 + 1)).toBeUndefined();
    expect(countersOfTree(2 ** 22 + 1)).toBeUndefined();
  });

  test("throws where nothing can be opened, as all do that read here: nobody ended then", () => {
    const { pid } = process;
    for (const read of [countersOf, countersOfTree, readChildren, searchChildren]) {
      const starved = () => {
        using _ = starve();
        read(pid);
      };
      expect(starved).toThrow("EMFILE");
      expect(() => read(pid)).not.toThrow();
    }
  });

  test("is not fooled by what a program is called", async () => {
    using place = scratch();
    const path = join(place.path, ") R 1 (\n9");
    symlinkSync("/bin/cat", path);
    await using child = running(path);
    await until(() => readFileSync(`/proc/${child.pid}/stat`, "latin1").includes(") R 1 (\n9"));
    expect(parseStat(readFileSync(`/proc/${child.pid}/stat`, "latin1")).parent).toBe(process.pid);
    // It has its name before it has its memory.
    await until(() => countersOf(child.pid)!.memoryKib > 100);
    const { memoryKib, processes } = countersOf(child.pid)!;
    expect(processes).toBe(1);
    expect(memoryKib).toBeLessThan(100_000);
    rmSync(path);
  });
});

describe("countersOfTree()", () => {
  for (const [name, childrenOf] of Object.entries({ readChildren, searchChildren })) {
    test(`sums up a process, its children and theirs, with ${name}()`, async () => {
      // Both shells hold some MiB: of small processes Linux 6.1 tells late what they have, up to 64 pages a thread and kind.
      const hold = "text=$(head -c 4000000 /dev/zero | tr '\\0' x); exec 3<&0";
      await using child = running("/bin/sh", "-c", `${hold}; (cat <&3 & cat <&3; :) & cat <&3; :`);
      await until(() => countersOfTree(child.pid, { childrenOf })?.processes === 5);
      const [one, all] = [countersOf(child.pid)!, countersOfTree(child.pid, { childrenOf })!];
      expect(one.processes).toBe(1);
      expect(all.memoryKib).toBeGreaterThan(one.memoryKib + 3500);
      expect(all.minorFaults).toBeGreaterThan(one.minorFaults);
    });
  }

  test("counts those who were waited for, by what their parents say", async () => {
    const burn = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    await using child = running("/bin/sh", "-c", `(${burn}); exec cat`);
    await until(() => readFileSync(`/proc/${child.pid}/comm`, "latin1") === "cat\n");
    expect(countersOfTree(child.pid)!.cpuMicroseconds).toBeGreaterThan(0);
  });

  test("counts nobody else who has got a child's number meanwhile", async () => {
    await using child = running("/bin/cat");
    await using other = running("/bin/cat");
    const childrenOf = () => [child.pid, other.pid];
    expect(countersOfTree(child.pid, { childrenOf })!.processes).toBe(1);
    // This process counts by its threads, and Bun's come and go between two looks.
    const whole = () => countersOfTree(process.pid, { childrenOf })!.processes;
    await until(() => whole() === countersOf(process.pid)!.processes + 2);
  });

  test("looks no longer than it may, and tells of whom it came to", async () => {
    await using child = running("/bin/sh", "-c", "exec 3<&0; cat <&3 & cat <&3 & cat <&3; :");
    await until(() => countersOfTree(child.pid)?.processes === 4);
    const tally = new Tally();
    const known = new Rising();
    known.with({ ...countersOfTree(child.pid, { tally })!, minorFaults: 1e9 });
    const part = countersOfTree(child.pid, { tally, mostMs: 0 })!;
    expect(part.processes).toBe(1);
    // Whom it did not come to counts as before.
    expect(known.with(part).minorFaults).toBe(1e9);
  });

  test("goes on while processes come and go", async () => {
    await using child = running("/bin/sh", "-c", "while :; do (true; (true) & true) & (true); wait; done");
    let most = 0;
    const read = rising(() => countersOfTree(child.pid));
    let faults = 0;
    await until(() => {
      const { processes, minorFaults } = read();
      expect(minorFaults).toBeGreaterThanOrEqual(faults);
      faults = minorFaults;
      most = Math.max(most, processes);
      return faults > 10_000 && most > 1;
    });
  });
});

describe("Tally", () => {
  const nobody = 2 ** 22 + 1;
  const stat = (startTicks: number, ownMicroseconds: number) => ({
    ...parseStat(`1 (x) S ${FIELDS}`),
    startTicks,
    ownMicroseconds,
  });

  test("keeps the time of who has ended, as it was seen last, and of who had its number before", () => {
    const tally = new Tally();
    for (const [start, used] of [
      [1, 100],
      [1, 250],
      [2, 30],
    ] as const)
      tally.see(nobody, stat(start, used));
    for (const _ of ["seen", "settled", "settled again"]) {
      expect(tally.total()).toBe(280);
      tally.settle();
    }
  });

  test("counts nobody twice whom it could not look at in between", () => {
    const tally = new Tally();
    const { startTicks } = parseStat(readFileSync(`/proc/${process.pid}/stat`, "latin1"));
    tally.see(process.pid, stat(startTicks, 100));
    tally.settle();
    const starved = () => {
      using _ = starve();
      tally.settle();
    };
    expect(starved).toThrow("EMFILE");
    tally.settle(); // it is still there, though no look came to it
    tally.see(process.pid, stat(startTicks, 100));
    expect(tally.total()).toBe(100);
  });

  testPerl("counts children of one that ignores their ends, whose time the kernel adds to nobody", async () => {
    const script = '$SIG{CHLD} = "IGNORE"; if (!fork) { $i++ while times < 0.05; <STDIN>; exit } wait; <STDIN>';
    await using child = running(PERL, "-e", script);
    const tally = new Tally();
    const look = () => countersOfTree(child.pid, { tally })!;
    // What is used between the last look and the end nobody knows of: it is told to end when it has been seen to use its time.
    await until(() => look().cpuMicroseconds > countersOf(child.pid)!.cpuMicroseconds + 30_000);
    child.stdin.write("\n");
    await child.stdin.flush();
    await until(() => look().processes === 1);
    expect(look().cpuMicroseconds).toBeGreaterThan(countersOfTree(child.pid)!.cpuMicroseconds);
  });
});

const COUNTERS: Counters = {
  cpuMicroseconds: 30,
  userMicroseconds: 10,
  systemMicroseconds: 20,
  memoryKib: 100,
  peakKib: 200,
  minorFaults: 5,
  majorFaults: 6,
  voluntarySwitches: 7,
  involuntarySwitches: 8,
  processes: 3,
};

test("rising() never falls, but for what is there now, and keeps what was when there is nothing any more", () => {
  const looks = [
    COUNTERS,
    { ...COUNTERS, minorFaults: 4, memoryKib: 50, processes: 1 },
    { ...COUNTERS, minorFaults: 9 },
    undefined,
  ];
  const read = rising(() => looks.shift());
  expect(read()).toEqual(COUNTERS);
  expect(read()).toEqual({ ...COUNTERS, memoryKib: 50, processes: 1 });
  expect(read()).toEqual({ ...COUNTERS, minorFaults: 9 });
  expect(read()).toEqual({ ...COUNTERS, minorFaults: 9, memoryKib: 0, processes: 0 });
});

test("lasting() has what was known last where nothing can be opened, and hides no other error", () => {
  const looks = [
    () => COUNTERS,
    () => readFileSync("/proc/self/stat"),
    () => {
      throw new Error("Failed");
    },
  ] as unknown as (() => Counters)[];
  const read = lasting(() => looks.shift()!());
  expect(read()).toEqual(COUNTERS);
  {
    using _ = starve();
    expect(read()).toEqual(COUNTERS);
  }
  expect(read).toThrow("Failed");
});

test("risen() takes no part of the processor time for the whole", () => {
  const now = { ...COUNTERS, cpuMicroseconds: 31, userMicroseconds: 26, systemMicroseconds: 5 };
  expect(risen(COUNTERS, now)).toMatchObject({ userMicroseconds: 26, systemMicroseconds: 20, cpuMicroseconds: 46 });
  expect(risen(COUNTERS, { ...COUNTERS, readBytes: 4 }).readBytes).toBe(4);
  expect(risen({ ...COUNTERS, readBytes: 4 }, COUNTERS).readBytes).toBe(4);
  const [before, after] = [1, 2].map((some) => ({
    cpu: { some, full: 0 },
    memory: { some, full: 0 },
    io: { some, full: 0 },
  }));
  expect(risen({ ...COUNTERS, stalls: before! }, { ...COUNTERS, stalls: after! }).stalls).toEqual(after!);
  expect(risen({ ...COUNTERS, stalls: before! }, COUNTERS).stalls).toEqual(before!);
});

test("grouped() has what a control group counts, and else what was known", () => {
  expect(grouped(COUNTERS, {})).toEqual(COUNTERS);
  const counts = {
    cpuMicroseconds: 99,
    memory: 2 ** 20,
    memoryPeak: 2 ** 21,
    processes: 8,
    processesRefused: 4,
    readBytes: 1,
    writtenBytes: 2,
  };
  expect(grouped({ ...COUNTERS, readBytes: 7 }, counts)).toEqual({
    ...COUNTERS,
    cpuMicroseconds: 99,
    memoryKib: 1024,
    peakKib: 2048,
    processes: 8,
    refusedProcesses: 4,
    readBytes: 7,
    writtenBytes: 2,
  });
});

describe("of a container", () => {
  testBox("childByInnerPid() finds a program by the number that it has inside", async () => {
    await using program = await exec(["sh", "-c", "read line"], { stdin: "pipe" });
    const { pid } = program.inspect();
    const found = childByInnerPid(pid, program.pid)!;
    expect(readChildren(pid)).toEqual([found]);
    expect(parseStatus(readFileSync(`/proc/${found}/status`, "latin1")).pids.at(-1)).toBe(program.pid);
    expect(childByInnerPid(pid, 4711)).toBeUndefined();
  });

  testUser(
    "storage is left out where the first process may not be looked into, and told of the program itself",
    async () => {
      await using program = await exec(["sh", "-c", "read line"], { stdin: "pipe" });
      const { pid } = program.inspect();
      await until(() => countersOf(pid)?.readBytes === undefined);
      expect(countersOfTree(pid)!.readBytes).toBeUndefined();
      expect(countersOf(childByInnerPid(pid, program.pid)!)!.readBytes).toBeDefined();
    },
  );
});
