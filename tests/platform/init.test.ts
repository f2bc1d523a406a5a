// The puppet as the first process: it forks, reaps, tells, passes signals on, and ends as its child.
import { describe, expect } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { abilities } from "../../platform/linux/abilities.ts";
import { Batch, NEWS, NEWS_SIZE, STRINGS } from "../../platform/linux/frame.ts";
import { idsOf, isRoot, writeIdMaps } from "../../platform/linux/ids.ts";
import { type Puppet, startPuppet } from "../../platform/linux/launch.ts";
import { PuppetKernel } from "../../platform/linux/remote.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { MSG, SOCK } from "../../syscalls/linux/constants.ts";
import { closeRange, duplicate } from "../../syscalls/linux/file.ts";
import { CLONE, O, SIG } from "../../syscalls/linux/numbers.ts";
import { CLD, clone, decodeNews, execute, type News, SIGINFO_SIZE } from "../../syscalls/linux/process.ts";
import { openSignals, signalProcess } from "../../syscalls/linux/signal.ts";
import { socketPair } from "../../syscalls/linux/socket.ts";
import { testIf } from "../syscalls/requirement.ts";
import { awaitEnd, children } from "./strings.ts";

const testInit = testIf(
  "namespaces",
  (abilities().namespaces & (CLONE.NEWUSER | CLONE.NEWPID)) === (CLONE.NEWUSER | CLONE.NEWPID),
  "no PID namespace can be made here",
);
const CHILD = 100;
const SIGNALS = 201;

/** A puppet that is the first process, and looks after its children. */
class First implements Disposable {
  readonly puppet: Puppet;
  readonly kernel: PuppetKernel;
  /** What a child answers on. */
  readonly strings: Descriptor;
  readonly news: Descriptor;

  /** @param stops whether it tells of children that stop */
  constructor({ stops = true } = {}) {
    const [news, newsTheirs] = socketPair(self, SOCK.SEQPACKET);
    const [strings, stringsTheirs] = socketPair(self, SOCK.SEQPACKET);
    using theirs = new Descriptor(newsTheirs);
    using childs = new Descriptor(stringsTheirs);
    const placed = new Map([
      [NEWS, theirs.number],
      [CHILD, childs.number],
    ]);
    this.puppet = startPuppet({ namespaces: CLONE.NEWUSER | CLONE.NEWPID, descriptors: [], placed });
    this.news = new Descriptor(news);
    this.strings = new Descriptor(strings);
    writeIdMaps(this.puppet.pid, idsOf(isRoot()));
    this.kernel = new PuppetKernel(this.puppet.socket.number, { signals: SIGNALS, stops });
    const batch = new Batch();
    const signals = openSignals(batch, [SIG.CHLD, SIG.TERM, SIG.USR1]);
    duplicate(batch, signals, SIGNALS, O.CLOEXEC);
    this.kernel.carryOut(batch);
  }

  /** Forks a child that makes these calls. */
  fork(calls: (batch: Batch) => void, options: { readonly main?: boolean } = {}): number {
    const batch = new Batch();
    batch.fork(() => clone(batch, { flags: 0n }), options);
    calls(batch);
    return this.kernel.carryOut(batch, undefined, CHILD)[0]!;
  }

  /** A kernel whose calls the child makes. */
  get child(): PuppetKernel {
    return new PuppetKernel(this.strings.number, { strings: CHILD });
  }

  /** Waits for the next news, or gives nothing where there are none. */
  told(wait: boolean): News | undefined {
    const bytes = new Uint8Array(NEWS_SIZE);
    try {
      const length = self.call("recvfrom", this.news.number, bytes, NEWS_SIZE, wait ? 0 : MSG.DONTWAIT, null, null);
      if (length !== NEWS_SIZE) return undefined;
    } catch (error) {
      if (error instanceof SystemError && error.code === "EAGAIN") return undefined;
      throw error;
    }
    return decodeNews(bytes.subarray(0, SIGINFO_SIZE), bytes.subarray(SIGINFO_SIZE));
  }

  [Symbol.dispose](): void {
    this.puppet.socket.close();
    this.strings.close();
    if (!this.puppet.pidfd.closed) {
      signalProcess(self, this.puppet.pidfd.number, SIG.KILL);
      awaitEnd(this.puppet);
    }
    this.news.close();
  }
}

const signal = (first: First, number: number) => signalProcess(self, first.puppet.pidfd.number, number);

describe("a call that forks", () => {
  testInit("parts the frame: the parent answers at once, the child makes the calls behind it", () => {
    using first = new First();
    const batch = new Batch();
    batch.call("umask", 0o011);
    const forked = batch.fork(() => clone(batch, { flags: 0n }));
    batch.call("umask", 0o077);
    const results = first.kernel.carryOut(batch, undefined, CHILD);
    expect(forked).toBeGreaterThan(0);
    expect(results[1]).toBe(2);
    expect(results.length).toBe(3);
    expect(first.kernel.call("umask", 0o011)).toBe(0o011); // what the child set is its own
    expect(first.kernel.call("getpid")).toBe(1);
  });

  testInit("makes a puppet with strings of its own, which answers there and ends with them", () => {
    using first = new First();
    const pid = first.fork((batch) => void batch.call("getppid"));
    // Its answer to the frame in which it was born.
    const answer = new Uint8Array(65536);
    expect(self.call("recvfrom", first.strings.number, answer, answer.length, 0, null, null)).toBeGreaterThan(0);
    const { child } = first;
    expect(child.call("getpid")).toBe(pid);
    expect(child.call("getppid")).toBe(1);
    expect(() => child.call("close", 999)).toThrow("EBADF: close (999)");
    expect(first.kernel.call("getpid")).toBe(1);
    first.kernel.call("close", CHILD); // the parent has a copy
    first.strings.close();
    expect(first.told(true)).toMatchObject({ pid, event: CLD.EXITED, code: 0 });
  });

  testInit("has a child that fails answer which call that was, on its own strings", () => {
    using first = new First();
    const batch = new Batch();
    batch.fork(() => clone(batch, { flags: 0n }));
    batch.call("getpid");
    execute(batch, "/no/such/program", ["x"], []);
    const prepared = first.kernel.prepare(batch, CHILD);
    let parent: number[] | undefined;
    first.kernel.send(prepared, (answer) => {
      parent = prepared.read(answer);
    });
    while (parent === undefined) first.kernel.receive(-1);
    expect(parent[0]).toBe(2);
    const into = new Uint8Array(65536);
    const length = self.call("recvfrom", first.strings.number, into, into.length, 0, null, null);
    expect(() => prepared.read(into.subarray(0, length))).toThrow('ENOENT: execve ("/no/such/program"');
  });

  testInit("of a child that cannot be made fails as any call", () => {
    using first = new First();
    const batch = new Batch();
    // CLONE_NEWNS and CLONE_FS exclude each other.
    batch.fork(() => clone(batch, { flags: CLONE.NEWNS | CLONE.FS }));
    batch.call("getpid");
    expect(() => first.kernel.carryOut(batch, undefined, CHILD)).toThrow("EINVAL: clone");
    expect(first.kernel.call("getpid")).toBe(1);
  });
});

/** Behind it there is nothing of the puppet's but what the program does. */
const run = (batch: Batch, ...argv: string[]) => {
  closeRange(batch, STRINGS);
  batch.call("rt_sigprocmask", 2, new Uint8Array(8), null, 8);
  execute(batch, argv[0]!, argv, ["PATH=/usr/bin:/bin"]);
};

describe("the first process", () => {
  testInit("tells of each child that ends: how, and what it used", () => {
    using first = new First();
    const ends = ["exit 0", "exit 7", "kill -KILL $$"].map((script) => {
      const pid = first.fork((batch) => run(batch, "/bin/sh", "-c", script));
      const { event, code, signal, pid: whose, peakKib } = first.told(true)!;
      expect(whose).toBe(pid);
      expect(peakKib).toBeGreaterThan(100);
      return [event, code, signal];
    });
    expect(ends).toEqual([
      [CLD.EXITED, 0, undefined],
      [CLD.EXITED, 7, undefined],
      [CLD.KILLED, undefined, SIG.KILL],
    ]);
  });

  testInit("answers while children end, and children end while it answers", () => {
    using first = new First();
    const pids = Array.from({ length: 50 }, () => {
      const pid = first.fork((batch) => run(batch, "/bin/true"));
      expect(first.kernel.call("getpid")).toBe(1);
      return pid;
    });
    expect(pids.map(() => first.told(true)!.pid).sort((a, b) => a - b)).toEqual(pids.toSorted((a, b) => a - b));
    expect(children(first.puppet.pid)).toEqual([]);
  });

  testInit("reaps orphans by the hundred, and of them tells nothing when there is a main child", () => {
    using first = new First();
    const script = "i=0; while [ $i -lt 300 ]; do (true &); i=$((i+1)); done; sleep 0.1; exit 4";
    const pid = first.fork((batch) => run(batch, "/bin/sh", "-c", script), {
      main: true,
    });
    // None of them stays, running or waiting to be reaped.
    expect(first.told(true)).toMatchObject({ pid, event: CLD.EXITED, code: 4 });
    expect(first.told(false)).toBeUndefined();
    expect(awaitEnd(first.puppet)).toMatchObject({ code: 4 });
  });

  testInit("ends as its main child does: 128 and the signal's number for a signal", () => {
    for (const [script, code] of [
      ["exit 0", 0],
      ["exit 3", 3],
      ["exit 255", 255],
      ["kill -KILL $$", 137],
      ["kill -SEGV $$", 139],
      ["kill -TERM $$", 143],
    ] as const) {
      using first = new First();
      first.fork((batch) => run(batch, "/bin/sh", "-c", script), { main: true });
      expect([script, awaitEnd(first.puppet).code]).toEqual([script, code]);
    }
  });

  testInit("takes everything along when its main child ends", () => {
    using first = new First();
    first.fork((batch) => run(batch, "/bin/sh", "-c", "setsid sleep 1000 & (sleep 1000 &) ; exit 1"), { main: true });
    expect(awaitEnd(first.puppet).code).toBe(1);
  });

  testInit("passes signals on to its main child, and only those it was told to", async () => {
    using first = new First();
    const pid = first.fork(
      (batch) => run(batch, "/bin/sh", "-c", "trap 'exit 21' TERM; while :; do sleep 0.01; done"),
      {
        main: true,
      },
    );
    expect(pid).toBe(2);
    const child = () => children(first.puppet.pid).find(Boolean)!.pid;
    // The trap must be there.
    while (!/^SigCgt:\t.*[4-7c-f]...$/m.test(readFileSync(`/proc/${child()}/status`, "utf8"))) await Bun.sleep(1);
    signal(first, SIG.TERM);
    expect(awaitEnd(first.puppet).code).toBe(21);
  });

  testInit("takes no harm from signals without a main child", () => {
    using first = new First();
    for (const number of [SIG.TERM, SIG.USR1]) signal(first, number);
    expect(first.kernel.call("getpid")).toBe(1);
    const pid = first.fork((batch) => run(batch, "/bin/true"));
    expect(first.told(true)).toMatchObject({ pid, code: 0 });
  });

  testInit("tells of a main child that stops, and goes on", () => {
    using first = new First();
    const pid = first.fork((batch) => run(batch, "/bin/sleep", "1000"), { main: true });
    first.kernel.call("kill", pid, SIG.STOP);
    expect(first.told(true)).toMatchObject({ pid, event: CLD.STOPPED, signal: SIG.STOP });
    first.kernel.call("kill", pid, SIG.KILL);
    expect(first.told(true)).toMatchObject({ pid, event: CLD.KILLED, signal: SIG.KILL });
    expect(awaitEnd(first.puppet).code).toBe(128 + constants.signals.SIGKILL);
  });

  testInit("tells of no child that stops where nobody wants to know", () => {
    using first = new First({ stops: false });
    const pid = first.fork((batch) => run(batch, "/bin/sleep", "1000"), { main: true });
    first.kernel.call("kill", pid, SIG.STOP);
    while (children(first.puppet.pid)[0]?.state !== "T");
    first.kernel.call("kill", pid, SIG.KILL);
    expect(first.told(true)).toMatchObject({ pid, event: CLD.KILLED, signal: SIG.KILL });
  });

  testInit("ends all when its strings are cut", () => {
    using first = new First();
    first.fork((batch) => run(batch, "/bin/sleep", "1000"));
    first.fork((batch) => run(batch, "/bin/sh", "-c", "sleep 1000 & wait"));
    const inside = children(first.puppet.pid).map(({ pid }) => pid);
    expect(inside.length).toBe(2);
    first.puppet.socket.close();
    expect(awaitEnd(first.puppet)).toMatchObject({ code: 0 });
    for (const pid of inside) expect(() => writeFileSync(`/proc/${pid}/comm`, "x")).toThrow("ENOENT");
  });
});
