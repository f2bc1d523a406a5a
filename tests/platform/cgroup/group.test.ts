// What groups keep, shown by what the kernel counts; each with the same act outside of one.
import { afterEach, describe, expect, setDefaultTimeout } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { field } from "../../../platform/linux/cgroup/counts.ts";
import { disksOf } from "../../../platform/linux/cgroup/disks.ts";
import { Group } from "../../../platform/linux/cgroup/group.ts";
import type { Controller } from "../../../platform/linux/cgroup/hierarchy.ts";
import { directoryIn, findTrees } from "../../../platform/linux/cgroup/home.ts";
import type { Budget } from "../../../platform/linux/cgroup/settings.ts";
import { busyUntil, isZombie } from "../../attacks/arena.ts";
import { testIf } from "../../syscalls/requirement.ts";
import { runs, testGroups, until } from "./groups.ts";

setDefaultTimeout(60_000);

const MIB = 2 ** 20;
/** Takes as many MiB as it is told, once it has read a line. */
const EATER = "my $n = <STDIN>; my @a = map { my $x = 'x' x 1048576; $x } 1..$n; print 'full'; <STDIN>";
/** Starts as many children as it is told that wait, and says how many it has. */
const FORKER =
  "my $n = <STDIN>; my $have = 0; for (1..$n) { my $p = fork(); if (!defined $p) { next } if (!$p) { sleep 1000; exit } $have++ } print $have; <STDIN>";

let groups: Group[] = [];
afterEach(async () => {
  for (const group of groups) await group.end();
  groups = [];
});

function make(budget: Budget, counted: readonly Controller[] = []): Group {
  const group = Group.make(budget, counted)!;
  groups.push(group);
  return group;
}

/** A program that waits for its first line, in a group or in none. */
function start(group: Group | undefined, script: string) {
  const child = Bun.spawn(["perl", "-e", `$| = 1; ${script}`], { stdin: "pipe", stdout: "pipe", stderr: "ignore" });
  group?.place(child.pid);
  return child;
}

async function tell(child: ReturnType<typeof start>, line: string | number): Promise<string> {
  child.stdin.write(`${line}\n`);
  await child.stdin.flush();
  const reader = child.stdout.getReader();
  const { value } = await reader.read();
  reader.releaseLock();
  return Buffer.from(value ?? []).toString();
}

describe("a group", () => {
  testGroups("memory")("ends who takes more memory than it has, and counts that", async () => {
    for (const group of [make({ memory: 32 * MIB, swap: 0 }), undefined]) {
      const child = start(group, EATER);
      expect(await tell(child, 64)).toBe(group === undefined ? "full" : "");
      if (group === undefined) child.kill();
      await child.exited;
      expect(child.signalCode).toBe(group === undefined ? "SIGTERM" : "SIGKILL");
      if (group === undefined) continue;
      await until(() => group.counts().memoryEnds! > 0);
    }
  });

  testGroups("memory")("tells of that, and of more memory than the mark: once, and before", async () => {
    const group = make({ memory: 64 * MIB, swap: 0 });
    const told: string[] = [];
    group.onMemory(16 * MIB, () => told.push("warned"));
    group.onMemoryEnd(() => told.push("ended"));
    const child = start(
      group,
      "my @a; while (my $n = <STDIN>) { for (1..$n) { my $x = 'x' x 1048576; push @a, $x } print 'full' }",
    );
    expect(await tell(child, 32)).toBe("full");
    await until(() => told.length > 0); // what is over when it is looked at is not told
    expect(await tell(child, 64)).toBe("");
    await until(() => told.length > 1);
    expect(told).toEqual(["warned", "ended"]);
    // One that stays below hears nothing.
    const calm = make({ memory: 64 * MIB, swap: 0 });
    calm.onMemory(48 * MIB, () => told.push("calm"));
    const other = start(calm, EATER);
    expect(await tell(other, 8)).toBe("full");
    other.kill();
    await other.exited;
    expect(told).not.toContain("calm");
  });

  const memory = findTrees().trees.find(({ controllers }) => controllers.includes("memory"));
  testIf(
    "cgroup v1 memory",
    memory?.version === 1,
    "in v2 who is above the mark is held back until that is heard",
  )("tells of more memory than the mark also where it is less again when that is heard", async () => {
    const group = make({ memory: 64 * MIB, swap: 0 });
    let told = false;
    group.onMemory(16 * MIB, () => {
      told = true;
    });
    const child = start(group, "<STDIN>; my $x = 'x' x (32 << 20);");
    child.stdin.write("\n");
    child.stdin.end();
    busyUntil(() => isZombie(child.pid));
    expect(group.counts().memory).toBeLessThan(16 * MIB);
    await until(() => told);
  });

  testGroups("pids")("refuses processes beyond what it has, and counts them", async () => {
    const group = make({ processes: 5 });
    const child = start(group, FORKER);
    expect(await tell(child, 20)).toBe("4");
    expect(group.counts().processes).toBe(5);
    expect(group.counts().processesRefused).toBeGreaterThan(0);
    const free = make({ processes: 50 });
    expect(await tell(start(free, FORKER), 20)).toBe("20");
    expect(free.counts()).toMatchObject({ processes: 21, processesRefused: 0 });
  });

  testGroups("cpu")("holds back who takes more than a share of a processor", async () => {
    const tree = findTrees().trees.find(({ controllers }) => controllers.includes("cpu"))!;
    const throttled = (group: Group) => {
      const lines = readFileSync(`/proc/${group.members()[0]}/cgroup`, "utf8").split("\n");
      const line = lines.find((each) =>
        tree.version === 2 ? each.startsWith("0::") : /^\d+:(.*,)?cpu[,:]/.test(each),
      )!;
      return field(readFileSync(join(directoryIn(tree), basename(line), "cpu.stat"), "utf8"), "nr_throttled");
    };
    const held = make({ cpu: 0.1 });
    const free = make({ cpu: 4 });
    const children = [held, free].map((group) => start(group, "<STDIN>; print 'begun'; 1 while 1"));
    for (const child of children) expect(await tell(child, "")).toBe("begun");
    await until(() => throttled(held) > 3);
    expect(throttled(free)).toBe(0);
  });

  testGroups("io")("slows down what is written to a disk", async () => {
    const directory = mkdtempSync("/var/tmp/caisson-group-");
    try {
      const [device] = disksOf([directory]);
      const group = make({ diskWrite: MIB, devices: [device!] });
      const write = (to: string) =>
        `<STDIN>; system("dd", "if=/dev/zero", "of=${join(directory, to)}", "bs=1M", "count=16", "oflag=direct"); print 'written'; <STDIN>`;
      const [slow, quick] = [start(group, write("slow")), start(undefined, write("quick"))];
      const slowly = tell(slow, "");
      expect(await tell(quick, "")).toBe("written");
      expect(await Promise.race([slowly, Bun.sleep(1)])).toBeUndefined();
      quick.kill();
    } finally {
      await groups.pop()?.end();
      rmSync(directory, { recursive: true });
    }
  });

  testGroups("usage")("counts the time of all its processes", async () => {
    const group = make({}, ["usage"]);
    const child = start(group, "<STDIN>; print 'begun'; fork(); 1 while 1");
    await tell(child, "");
    await until(() => group.counts().cpuMicroseconds! > 200_000);
  });

  const psi = existsSync("/proc/pressure/cpu") && findTrees().trees.some(({ version }) => version === 2);
  testIf(
    "pressure",
    psi,
    "that takes cgroup v2 and CONFIG_PSI",
  )("counts for how long all waited for a processor", async () => {
    const stalled = (group: Group) => group.counts().stalls!.cpu.some;
    const [crowd, calm] = [make({}, ["usage"]), make({}, ["usage"])];
    const children = [
      start(crowd, "<STDIN>; print 'begun'; fork() for 1..4; 1 while 1"),
      start(calm, "<STDIN>; print 'begun'; <STDIN>"),
    ];
    for (const child of children) expect(await tell(child, "")).toBe("begun");
    // Who is calm waited for one as well when it was started.
    await until(() => stalled(crowd) > stalled(calm) + 100_000);
  });

  testGroups("kill")("ends daemons, who is stopped, and who ignores signals", async () => {
    const group = make({}, ["kill"]);
    // Each of them says so itself when it is what it is to be; who is stopped says it before.
    const script = `
      <STDIN>; use POSIX qw(setsid);
      $SIG{$_} = 'IGNORE' for qw(TERM INT HUP QUIT);
      for my $how (qw(daemon stopped deaf)) {
        next if fork();
        setsid();
        if (fork()) { exit }
        syswrite STDOUT, "$$\n";
        kill 'STOP', $$ if $how eq 'stopped';
        sleep 1000 while 1;
      }
      syswrite STDOUT, "$$\n"; sleep 1000 while 1`;
    const child = start(group, script);
    child.stdin.write("\n");
    await child.stdin.flush();
    let said = "";
    for await (const piece of child.stdout) {
      said += Buffer.from(piece).toString();
      if (said.split("\n").length > 4) break;
    }
    const members = said.trim().split("\n").map(Number);
    expect(members.map((pid) => group.members().includes(pid) && runs(pid))).toEqual([true, true, true, true]);
    group.kill();
    await until(() => !members.some(runs));
    await child.exited;
    expect(await group.end()).toBe(true);
  });

  testGroups("pids")("is gone when it was ended, with all that was in it", async () => {
    const group = make({ processes: 20 });
    const child = start(group, FORKER);
    await tell(child, 10);
    const members = group.members();
    expect(members.length).toBe(11);
    expect(await group.end()).toBe(true);
    expect(() => group.counts()).toThrow("ENOENT");
    await until(() => !members.some(runs)); // who ends leaves the group a moment before
  });

  testGroups("pids")("leaves nothing where one of its settings is refused", () => {
    const tree = findTrees().trees.find(({ controllers }) => controllers.includes("pids"))!;
    const before = within(directoryIn(tree));
    expect(() => Group.make({ processes: -1 })).toThrow("EINVAL");
    expect(within(directoryIn(tree))).toEqual(before);
  });

  testGroups("pids")("is made anew where somebody removed the directory of all", async () => {
    const tree = findTrees().trees.find(({ controllers }) => controllers.includes("pids"))!;
    await make({ processes: 2 }).end();
    const before = directoryIn(tree);
    await until(() => within(before).length === 0); // of whoever ended before
    rmdirSync(before);
    const group = make({ processes: 2 });
    expect(directoryIn(tree)).not.toBe(before);
    expect(group.counts()).toMatchObject({ processes: 0 });
  });

  const fixture = fileURLToPath(new URL("../fixtures/doors.ts", import.meta.url));
  const forked = async (lack: string) => JSON.parse(await Bun.$`${process.execPath} ${fixture} ${lack}`.text());
  const { trees } = findTrees();

  testGroups("pids")("has whom its doors let in before he does anything, in all trees", async () => {
    expect(await forked("")).toEqual({ inside: trees.length, outside: 0, by: "doors" });
  });

  testGroups("pids")("has him where clone3 is refused too, as container engines do", async () => {
    const by = trees.some(({ version }) => version === 2) ? {} : { by: "doors" };
    expect(await forked("clone3")).toEqual({ inside: trees.length, outside: 0, ...by });
  });

  const unified = findTrees().trees.find(({ version }) => version === 2);
  const testBorder = testIf(
    "cgroup",
    unified?.controllers.includes("memory") === true && Bun.which("unshare") !== null,
    "that takes a memory group of v2, and unshare(1)",
  );

  testBorder("with a border is out of reach of who mounts groups inside and is its owner", async () => {
    // What is seen there, then all that can be spoilt: files are written to, threads are asked for, groups are made.
    const inside = `
      mount -t cgroup2 none /mnt && cd /mnt || exit
      [ -e memory.max ] && echo limits
      for file in $(ls | grep -v -e freeze -e kill); do for value in max 1 +memory threaded; do echo $value > $file; done; done 2>/dev/null
      mkdir $(seq 100) 2>/dev/null
      echo made $(ls -d [0-9]* | wc -l)`;
    for (const border of [false, true]) {
      const group = Group.make({ memory: 32 * MIB, swap: 0, processes: 20 }, ["kill"], { border })!;
      groups.push(group);
      const child = start(
        group,
        `<STDIN>; open F, "-|", "unshare", "-UrmC", "sh", "-c", <<'END'; print <F>; <STDIN>\n${inside}\nEND\n`,
      );
      expect(await tell(child, "")).toBe(border ? "made 63\n" : "limits\nmade 100\n");
      if (!border) continue;
      const other = start(group, EATER);
      expect(await tell(other, 64)).toBe("");
      await until(() => group.counts().memoryEnds! > 0);
      group.kill();
      await Promise.all([child.exited, other.exited]);
      expect(await group.end()).toBe(true);
    }
  });

  testGroups("pids")("takes no process that has ended: ESRCH", async () => {
    const child = Bun.spawn(["true"]);
    await child.exited;
    const group = make({ processes: 2 });
    expect(() => group.place(child.pid)).toThrow("ESRCH");
  });
});

/** The groups in a directory. */
const within = (directory: string) =>
  readdirSync(directory, { withFileTypes: true }).flatMap((each) => (each.isDirectory() ? [each.name] : []));
