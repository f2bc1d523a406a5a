// Calls that are answered here, and whoever makes them has it answered about something else, or has nobody answer at all.
import { afterAll, describe, expect, setDefaultTimeout } from "bun:test";
import { chmodSync, closeSync, openSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { settleEstates } from "../../platform/linux/estate.ts";
import { endSupervision } from "../../platform/linux/supervise/supervisor.ts";
import { type Answer, type Broker, type DenialEvent, exec, type Supervise } from "../../src/index.ts";
import { Pipe } from "../../src/pipe.ts";
import { self } from "../../syscalls/kernel.ts";
import { AF, MSG, SOCK } from "../../syscalls/linux/constants.ts";
import { makePipe } from "../../syscalls/linux/file.ts";
import { listenerFlags } from "../../syscalls/linux/notify.ts";
import { SECCOMP_FILTER_FLAG } from "../../syscalls/linux/numbers.ts";
import { testIf } from "../syscalls/requirement.ts";
import { openDescriptors, until } from "./arena.ts";
import { testAttempt } from "./attempt.ts";
import { act, linesOf, outcome, rebellion, threads } from "./supervised.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const RACE_MS = "2000";
const SOL_SOCKET = 1;
const SO_TYPE = 3;
const base = rebellion();
afterAll(() => base[Symbol.dispose]());

/** Gives what it allows by name, and counts what it gave. */
function serving() {
  const given = { open: 0, connect: 0 };
  const broker: Broker = {
    open({ path }) {
      if (path !== "/allowed") return { errno: "EACCES" };
      given.open++;
      return "allowed";
    },
    connect({ port }) {
      if (port !== 2) return { errno: "EACCES" };
      given.connect++;
      return (connection) => connection.write(Buffer.from("2"));
    },
  };
  return { broker, given };
}

/** What this process had before is all that it has after. */
async function leavesNothing(act: () => Promise<unknown>): Promise<void> {
  await act(); // what is there once is there after the first time
  const before = { descriptors: openDescriptors(), threads: threads() };
  await act();
  await until(() => openDescriptors() <= before.descriptors && threads() <= before.threads);
}

describe("a race of the program with its supervisor:", () => {
  testAttempt("the path changes after the check: only what was answered about is opened", async () => {
    const { broker, given } = serving();
    const { lines, code } = await act([base.supervised, "race-path", RACE_MS, "/allowed", "/secrets"], { broker });
    expect([code, lines.wrong, lines.right]).toEqual([0, "0", `${given.open}`]);
    expect(Number(lines.right) + Number(lines.refused)).toBeGreaterThan(0);
    console.log(`${lines.tries} tries: ${lines.right} opened, ${lines.refused} refused`);
  });

  testAttempt("the path changes after the check, and is passed on: the walls hold", async () => {
    const supervise: Supervise = { asked: ["openat"], answer: () => "pass" };
    const argv = [base.supervised, "race-path", RACE_MS, "/proc/self/comm", "/proc/../etc/pw"];
    const { lines, code } = await act(argv, { supervise });
    expect([code, lines.right]).toEqual([0, "0"]); // the text is another one: it was opened, and was no secret
    expect(Number(lines.wrong)).toBeGreaterThan(0);
  });

  testAttempt("the address changes after the check: only who was answered about is connected to", async () => {
    const { broker, given } = serving();
    const { lines, code } = await act([base.supervised, "race-address", RACE_MS], { broker });
    expect([code, lines.wrong, lines.right]).toEqual([0, "0", `${given.connect}`]);
    expect(Number(lines.right) + Number(lines.refused)).toBeGreaterThan(0);
  });

  testAttempt("the socket's number is closed and used again while it connects: nothing is left anywhere", async () => {
    await leavesNothing(async () => {
      const { broker } = serving();
      const { lines, code } = await act([base.supervised, "race-number", "1000"], { broker });
      expect([code, lines.left]).toEqual([0, "0"]);
      expect(Number(lines.calls)).toBeGreaterThan(0);
    });
  });
});

describe("signals during a call that waits:", () => {
  const killable = (listenerFlags() & SECCOMP_FILTER_FLAG.WAIT_KILLABLE_RECV) !== 0;
  const testKillable = testIf("killable", killable, "signals interrupt calls that were received, before Linux 5.19");
  for (const how of ["restart", "interrupt"] as const) {
    testKillable(`handlers that ${how}: each call that was received gets its one answer`, async () => {
      const { broker, given } = serving();
      const { lines, code } = await act([base.supervised, "interrupted", RACE_MS, "/allowed", how], { broker });
      expect([code, lines.other, lines.left, lines.alarms]).toEqual([0, "0", "0", "1"]);
      expect([lines.opened, lines.connected]).toEqual([`${given.open}`, `${given.connect}`]);
      // Before it is received a signal interrupts it as it would a call to a slow device.
      if (how === "restart") expect(lines.interrupted).toBe("0");
    });
  }

  testKillable("a host that is stopped and goes on: each call has the file that it was answered with", async () => {
    const fixture = fileURLToPath(new URL("./fixtures/paused.ts", import.meta.url));
    const argv = [process.execPath, fixture, base.supervised, RACE_MS];
    const host = Bun.spawn(argv, { stdio: ["ignore", "pipe", "inherit"] });
    let over = false;
    void host.exited.then(() => {
      over = true;
    });
    while (!over) {
      host.kill("SIGSTOP");
      await Bun.sleep(1);
      host.kill("SIGCONT");
      await Bun.sleep(Math.random() * 10);
    }
    const { given, opened, left } = await host.stdout.json();
    expect([opened, left]).toEqual([given, 0]);
    expect(given).toBeGreaterThan(0);
  });

  testAttempt("SIGKILL: nothing is left here", async () => {
    await leavesNothing(async () => {
      const { broker } = serving();
      const { lines } = await act([base.supervised, "killed", "100", "/allowed"], { broker });
      expect(lines.killed).toBe("100");
    });
  });

  testAttempt("SIGSTOP: the answer waits until it goes on", async () => {
    const asked = Promise.withResolvers<number>();
    const answer = Promise.withResolvers<Answer>();
    const program = await exec([base.supervised, "waits", "/a"], {
      supervise: {
        asked: ["openat"],
        answer({ pid }) {
          asked.resolve(pid);
          return answer.promise;
        },
      },
    });
    const pid = await asked.promise;
    process.kill(pid, "SIGSTOP");
    answer.resolve({ value: 9 });
    process.kill(pid, "SIGCONT");
    expect((await outcome(program)).lines.open).toBe("9");
  });
});

describe("without a supervisor", () => {
  /** Programs of which one is at work and one waits for an answer. */
  async function bereft(end: () => void) {
    const { broker } = serving();
    const working = await exec([base.supervised, "until-gone", "/allowed"], { broker });
    let asked = false;
    const waiting = await exec([base.supervised, "waits", "/a"], {
      supervise: {
        asked: ["openat"],
        answer() {
          asked = true;
          return new Promise<Answer>(() => {});
        },
      },
    });
    await until(() => asked);
    end();
    const [one, other] = await Promise.all([outcome(working), outcome(waiting)]);
    expect([one.lines.open, one.lines.again, one.code]).toEqual(["ENOSYS", "ENOSYS", 0]);
    expect([other.lines.open, other.code]).toEqual(["ENOSYS", 0]);
    const { lines } = await act([base.supervised, "crowd", "4", "/allowed"], { broker });
    expect(lines.failed).toBe("0"); // a new one serves what is started now
  }

  testAttempt("every call that waits and every later one is ENOSYS, and a new program has a new one", async () => {
    await leavesNothing(() => bereft(endSupervision));
  });

  testAttempt("so it is when its thread fails", async () => {
    await leavesNothing(async () => {
      while (orders() === undefined) {
        endSupervision(); // the next one's sockets may have numbers by which they are found
        await act([base.supervised, "crowd", "1", "/allowed"], { broker: serving().broker });
      }
      await bereft(() => {
        const nonsense = Buffer.from("{");
        self.call("sendto", orders()!, nonsense, nonsense.length, MSG.NOSIGNAL, null, 0);
      });
    });
  });

  testAttempt(
    "so it is when the Worker has ended that started the program, once something else is started",
    async () => {
      const { read, write } = makePipe(self);
      using ours = new Pipe(read);
      const worker = new Worker(new URL("./fixtures/forsaking.ts", import.meta.url), {
        workerData: { argv: [base.supervised, "until-gone", "/allowed"], stdout: write },
      });
      await new Promise((resolve, reject) => worker.on("message", resolve).on("error", reject));
      closeSync(write);
      let over = false;
      const said = new Response(ours.readable).text().finally(() => {
        over = true;
      });
      await worker.terminate();
      for (; !over; settleEstates()) await Bun.sleep(2);
      expect(linesOf(await said)).toMatchObject({ open: "ENOSYS", again: "ENOSYS" });
    },
  );

  testAttempt(
    "one is ended between programs again and again, and none is answered by the orders of another",
    async () => {
      for (let round = 0; round < 10; round++) {
        const { broker } = serving();
        const first = exec([base.supervised, "until-gone", "/allowed"], { broker });
        first.catch(() => {}); // it is looked at below
        await Bun.sleep(4 * round);
        endSupervision();
        const refusing: Broker = { open: () => ({ errno: "EACCES" }) };
        const { lines } = await act([base.supervised, "crowd", "2", "/allowed"], { broker: refusing });
        expect(lines.failed).toBe("2");
        const [how] = await Promise.allSettled([first]);
        endSupervision(); // it may have begun behind all that, with a supervisor of its own
        // One that had not begun does not become the program.
        if (how.status === "fulfilled") expect((await outcome(how.value)).lines.again).toBe("ENOSYS");
        else expect(how.reason).toMatchObject({ code: "ENOSYS" });
      }
    },
  );
});

/**
 * Where the supervisor's thread gets its orders from: of the pairs of packet sockets, the one that this process has both ends of, with
 * numbers in a row. Mostly the kernel gives out such.
 */
function orders(): number | undefined {
  const kind = new Uint8Array(4);
  const sockets = new Map<number, number>();
  for (const number of readdirSync("/proc/self/fd").map(Number)) {
    try {
      const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${number}`))?.[1];
      if (inode === undefined) continue;
      self.call("getsockopt", number, SOL_SOCKET, SO_TYPE, kind, Uint8Array.of(4, 0, 0, 0));
      if (kind[0] === SOCK.SEQPACKET) sockets.set(Number(inode), number);
    } catch {} // it is closed by now
  }
  const [ours] = [...sockets].filter(([inode]) => sockets.has(inode + 1)).map(([, number]) => number);
  return ours;
}

describe("the host", () => {
  testAttempt("that is busy keeps no program waiting that only the thread answers", async () => {
    const printed = join(base.path, "printed");
    const output = openSync(printed, "w+");
    const steps = ["mount =none =/ =tmpfs 0 0", "openat -100 =/proc 0", "getuid"];
    const program = await exec([base.program, ...steps], {
      sandbox: { promises: "stdio", onBreak: "errno" },
      stdout: output,
    });
    const lines = () => readFileSync(printed, "utf8");
    for (let looks = 0; looks < 3000 && !/^getuid .*\n/m.test(lines()); looks++) Bun.sleepSync(10);
    // Nothing was taken meanwhile, and it got its answers all the same.
    const said = lines();
    closeSync(output);
    expect(said).toMatch(/^mount EPERM\nopenat EPERM\ngetuid \d+\n$/);
    expect(await program.exited).toBe(0);
  });

  testAttempt("that a flood of refused calls is told to goes on, and holds no more than it may", async () => {
    const before = process.memoryUsage.rss();
    let worst = 0;
    let last = performance.now();
    const timer = setInterval(() => {
      const now = performance.now();
      worst = Math.max(worst, now - last);
      last = now;
    }, 10);
    const program = await exec([base.supervised, "flood", RACE_MS], { observe: true });
    const { lines } = await outcome(program);
    clearInterval(timer);
    expect([lines.flooded, lines.mount]).toEqual(["1", "EPERM"]);
    const told: DenialEvent[] = [];
    for await (const denial of program.denials) told.push(denial);
    const first = told[0]!;
    expect([first.call, first.guarantee]).toEqual(["mount", "privileges"]);
    expect(told.reduce((sum, { times, lost }) => sum + times + lost, 0)).toBeGreaterThan(1);
    const grown = (process.memoryUsage.rss() - before) / 2 ** 20;
    console.log(`${first.times} told, ${Math.round(grown)} MiB more, at most ${Math.round(worst)} ms late`);
    expect(grown).toBeLessThan(256);
  });

  testAttempt("that answers nothing is asked about a bounded number of calls", async () => {
    let asked = 0;
    const program = await exec([base.supervised, "killed", "1200", "/a"], {
      sandbox: { limits: { processes: 16 } },
      supervise: {
        asked: ["openat"],
        answer() {
          asked++;
          return new Promise<Answer>(() => {});
        },
      },
    });
    const { lines } = await outcome(program);
    expect(lines.killed).toBe("1200");
    expect(asked).toBeLessThanOrEqual(1024);
    console.log(`asked about ${asked}`);
  });

  testAttempt("answers a bomb of processes, and several programs at once", async () => {
    await leavesNothing(async () => {
      const { broker } = serving();
      const sandbox = { limits: { processes: 20 } };
      const bomb = await exec([base.supervised, "bomb", "500", "/allowed"], { broker, sandbox });
      const others = Array.from({ length: 4 }, () => act([base.supervised, "crowd", "8", "/allowed"], { broker }));
      for (const { lines } of await Promise.all(others)) expect(lines.failed).toBe("0");
      expect((await outcome(bomb)).lines).toMatchObject({ bombed: "1", fork: "EAGAIN" });
    });
  });
});

describe("a program", () => {
  const sandbox = { limits: { files: 64 } };

  testAttempt("with all numbers in use gets EMFILE, or the lowest that is free", async () => {
    const { lines } = await act([base.supervised, "taken", "/allowed"], { broker: serving().broker, sandbox });
    expect(lines).toEqual({ full: "1", open: "EMFILE", lowest: "50", cloexec: "1" });
  });

  testAttempt(
    "gets no listener of its own, no more rights by a second filter, and loses nothing by closing all",
    async () => {
      const { broker } = serving();
      const { said, lines } = await act([base.supervised, "mutiny", "/allowed", "64"], { broker, sandbox });
      expect(lines).toMatchObject({ listener: "EPERM", second: "0", open: "3", mount: "EPERM", listeners: "0" });
      // The number by which the listener was sent is none that it can have.
      expect(lines).toMatchObject({ strings: "EBADF", "strings at that number": "EBADF", limit: "EPERM" });
      expect(said).toContain("closed 0 read");
    },
  );

  testAttempt("reaches no unix socket of the host by datagrams, which need no connect", async () => {
    const room = base.directory("room");
    const bound = join(room, "socket");
    const listener = self.call("socket", AF.UNIX, SOCK.DGRAM, 0);
    try {
      const address = Buffer.concat([Uint8Array.of(AF.UNIX, 0), Buffer.from(bound), Uint8Array.of(0)]);
      self.call("bind", listener, address, address.length);
      chmodSync(bound, 0o777);
      const send = `sendto 3 =x 1 0 @${address.toString("hex")} ${address.length}`;
      const pair = (type: number) => `socketpair ${AF.UNIX} ${type} 0 @0000000000000000`;
      // The kernel makes a raw one a datagram one.
      const steps = [SOCK.DGRAM, 3, SOCK.DGRAM | SOCK.CLOEXEC].flatMap((type) => [pair(type), send]);
      for (const options of [{}, { broker: serving().broker }, { observe: true }]) {
        const { said } = await act([base.program, ...steps], { sandbox: { write: [room] }, ...options });
        const outcomes = said.trim().split("\n");
        expect(outcomes).toEqual(steps.map((_, at) => (at % 2 === 0 ? "socketpair EPERM" : "sendto EBADF")));
      }
      expect(() => self.call("recvfrom", listener, new Uint8Array(8), 8, MSG.DONTWAIT, null, null)).toThrow("EAGAIN");
      const outside = Bun.spawnSync([base.program, ...steps.slice(0, 2)]);
      expect(outside.stdout.toString()).toEndWith("sendto 1\n");
    } finally {
      self.call("close", listener);
    }
  });
});
