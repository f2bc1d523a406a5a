import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Type from "typebox";
import { abilities } from "../../platform/linux/abilities.ts";
import { type Actor, ActorExit, file, LimitExceeded, type Sandbox, SchemaMismatch, spawn } from "../../src/index.ts";
import { killAs } from "../../src/killer.ts";
import { testIf } from "../syscalls/requirement.ts";

type Worker = typeof import("./fixtures/worker.ts");
const fixture = (name: string) => new URL(`./fixtures/${name}.ts`, import.meta.url);
const start = (options?: Parameters<typeof spawn>[1]) => spawn<Worker>(fixture("worker"), options);

/** What a promise rejects with. */
async function rejection(promise: Promise<unknown>): Promise<Error & Record<string, unknown>> {
  try {
    await promise;
  } catch (error) {
    return error as never;
  }
  throw new Error("Nothing was thrown");
}

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "caisson-test-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

describe("call", () => {
  let actor: Actor<Worker>;
  beforeAll(async () => {
    actor = await start();
  });
  afterAll(() => actor[Symbol.asyncDispose]());

  test("answers with what the function returns", async () => {
    expect(await actor.call.add(2, 3)).toBe(5);
    const value = {
      date: new Date(0),
      map: new Map([[1n, new Set(["a"])]]),
      bytes: new Uint8Array([1, 2]),
      nothing: undefined,
    };
    expect(await actor.call.echo(value)).toEqual(value);
  });

  test("rejects with what the function throws, its stack in the user's file", async () => {
    for (const promise of [actor.call.fail("early"), actor.call.failLater("late")]) {
      const error = await rejection(promise);
      expect(error).toBeInstanceOf(RangeError);
      expect(error.stack).toContain("tests/src/fixtures/worker.ts:");
      expect(error.stack).not.toContain("[stdin]");
    }
  });

  test("rejects for a result that cannot be sent, naming the path to it", async () => {
    const error = await rejection(actor.call.opaque());
    expect(error).toBeInstanceOf(TypeError);
    expect(error.message).toContain("deep[0]");
  });

  test("rejects for what the module does not export, inherited names too", async () => {
    const call = actor.call as unknown as Record<string, () => Promise<unknown>>;
    for (const name of ["nothing", "toString", "constructor", "__proto__"]) {
      expect((await rejection(call[name]!())).message).toContain(`Cannot call ${name}`);
    }
  });

  test("throws at once for an argument that cannot be sent", async () => {
    expect(await rejection(actor.call.echo({ on: () => {} }))).toBeInstanceOf(TypeError);
  });

  test("with what is no option throws: a misspelt time would be none", () => {
    expect(() => actor.call({ timeout: 20 } as never)).toThrow(
      "Cannot use the option timeout: there is none of this name",
    );
    expect(() => actor.call({ signal: {} } as never)).toThrow(TypeError);
  });

  test("with timeoutMs rejects with a TimeoutError, and the actor lives on", async () => {
    expect((await rejection(actor.call({ timeoutMs: 20 }).hang())).name).toBe("TimeoutError");
    expect(await actor.call.add(1, 1)).toBe(2);
  });

  test("with a signal rejects with its reason, and tells the callee", async () => {
    const controller = new AbortController();
    const messages = actor[Symbol.asyncIterator]();
    const waiting = rejection(actor.call({ signal: controller.signal }).waitForAbort());
    expect((await messages.next()).value).toBe("waiting");
    controller.abort(new Error("changed my mind"));
    expect((await waiting).message).toBe("changed my mind");
    expect((await messages.next()).value).toBe("aborted");
  });

  test("with a schema resolves with what matches, and rejects what does not with the path", async () => {
    const result = Type.Object({ pages: Type.Integer() });
    expect(await actor.call({ result }).echo({ pages: 3 })).toEqual({ pages: 3 });
    const error = await rejection(actor.call({ result }).echo({ pages: "three" }));
    expect(error).toBeInstanceOf(SchemaMismatch);
    expect(error.path).toBe("/pages");
  });

  test("hands over a file to read, which is no path inside", async () => {
    const path = join(directory, "read.txt");
    writeFileSync(path, "x".repeat(100_000));
    const answer = await actor.call.read(file(path));
    expect(answer).toEqual({ mode: "read", size: 100_000, text: "x".repeat(100_000), pieces: 2 });
    expect((await actor.call.read(file(Bun.file(path)))).size).toBe(100_000);
  });

  test("hands over a file to write, or to append to, which cannot be read", async () => {
    const path = join(directory, "write.txt");
    writeFileSync(path, "before");
    expect(await actor.call.write(file(path, "append"), " and after")).toBe("EBADF");
    expect(readFileSync(path, "utf8")).toBe("before and after");
    expect(await actor.call.write(file(path, "write"), "anew")).toBe("EBADF");
    expect(readFileSync(path, "utf8")).toBe("anew");
  });

  test("takes a file back from the actor", async () => {
    const path = join(directory, "back.txt");
    writeFileSync(path, "there and back");
    using back = await actor.call.pass(file(path));
    expect(await back.text()).toBe("there and back");
  });

  test("rejects for a file that is not there, a directory and a FIFO", async () => {
    expect((await rejection(actor.call.read(file(join(directory, "none"))))).code).toBe("ENOENT");
    expect(await rejection(actor.call.read(file(directory)))).toBeInstanceOf(TypeError);
    const fifo = join(directory, "fifo");
    Bun.spawnSync(["mkfifo", fifo]);
    expect(await rejection(actor.call.read(file(fifo)))).toBeInstanceOf(TypeError);
    expect(await actor.call.add(1, 2)).toBe(3);
  });

  test("runs in surroundings built from nothing", async () => {
    const { env, argv, cwd, umask } = await actor.call.surroundings();
    expect(env).toEqual({});
    expect(argv.slice(1)).toEqual(["tests/src/fixtures/worker.ts"]);
    expect(umask).toBe(0o022);
    expect(cwd).not.toBe(process.cwd());
  });
});

describe("relative paths", () => {
  interface Reader {
    read(path: string): string;
  }
  const SOURCE = `import { readFileSync } from "node:fs";
    export function read(path: string): string {
      try { return readFileSync(path, "utf8"); } catch (error) { return (error as NodeJS.ErrnoException).code!; }
    }`;

  /** What an actor finds that is started in `here`. */
  async function found(here: string, sandbox: Sandbox, paths: readonly string[]): Promise<string[]> {
    const before = process.cwd();
    process.chdir(here);
    try {
      await using reader = await spawn<Reader>(join(directory, "reader.ts"), { sandbox });
      return await Promise.all([...paths, "/proc/self/cwd/data"].map((path) => reader.call.read(path)));
    } finally {
      process.chdir(before);
    }
  }

  testIf(
    "mount namespaces",
    abilities().proc !== undefined,
    "an actor has no root of its own here",
  )("are found where the host finds them: in its working directory, above and beside it", async () => {
    // Below a directory that is there for this alone, and not in `directory`, which one of the cases grants.
    const top = mkdtempSync(join(tmpdir(), "caisson-relative-"));
    chmodSync(top, 0o755);
    mkdirSync(join(top, "here"));
    for (const name of ["here/data", "here/kept", "beside"]) writeFileSync(join(top, name), name);
    writeFileSync(join(directory, "reader.ts"), SOURCE);
    const here = join(top, "here");
    try {
      const paths = ["data", "kept", "../beside"];
      expect(await found(here, { read: [top] }, paths)).toEqual(["here/data", "here/kept", "beside", "here/data"]);
      expect(await found(here, { read: [here] }, paths)).toEqual(["here/data", "here/kept", "ENOENT", "here/data"]);
      expect(await found(here, { read: ["data"] }, paths)).toEqual(["here/data", "ENOENT", "ENOENT", "here/data"]);
      // Nothing in the working directory is granted, so inside it is empty.
      expect(await found(here, { read: ["../beside"] }, paths)).toEqual(["ENOENT", "ENOENT", "beside", "ENOENT"]);
    } finally {
      rmSync(top, { recursive: true });
    }
  });
});

describe("messages", () => {
  test("go both ways in order, and end", async () => {
    await using actor = await start();
    const relayed = actor.call.relay();
    for (let index = 0; index < 3; index++) await actor.send({ index });
    actor.end();
    const received: unknown[] = [];
    for await (const message of actor) {
      received.push(message);
      if (message === "end of inbox") break;
    }
    expect(received).toEqual([{ got: { index: 0 } }, { got: { index: 1 } }, { got: { index: 2 } }, "end of inbox"]);
    await relayed;
  });

  test("sent just before the end arrive", async () => {
    await using actor = await start();
    const exited = rejection(actor.call.sendAndExit(100));
    const received: unknown[] = [];
    const iterated = rejection(
      (async () => {
        for await (const message of actor) received.push(message);
        throw new Error("over");
      })(),
    );
    await exited;
    await iterated;
    expect(received).toEqual(Array.from({ length: 100 }, (_, index) => index));
  });

  test("that nobody takes hold the sender up", async () => {
    await using actor = await start();
    let done = false;
    const flooded = actor.call.flood(5000).then(() => {
      done = true;
    });
    // The window is 1024 messages, so the sender stands still with most of them unsent while calls go on.
    for (let index = 0; index < 50; index++) await actor.call.add(1, index);
    expect(done).toBe(false);
    let next = 0;
    for await (const message of actor) {
      expect(message).toBe(next++);
      if (next === 5000) break;
    }
    await flooded;
  });

  test("are checked by a schema", async () => {
    await using actor = await start({ messages: Type.Integer({ maximum: 1 }) });
    const flooded = actor.call.flood(3);
    const received: unknown[] = [];
    const error = await rejection(
      (async () => {
        for await (const message of actor) received.push(message);
      })(),
    );
    expect(received).toEqual([0, 1]);
    expect(error).toBeInstanceOf(SchemaMismatch);
    await flooded;
  });
});

describe("spawn rejects", () => {
  test.each([
    // Limits belong into the sandbox: what nobody reads would hold for nobody.
    [{ limits: { cpuTime: "1 s" } }, "Cannot use the option limits: there is none of this name"],
    [{ stdout: "inherits" }, 'Cannot use "inherits" as stdout: "inherit", "pipe", "ignore" is expected'],
    [{ onMemoryWarning: 1 }, "Cannot use 1 as onMemoryWarning: a function is expected"],
    [{ signal: {} }, "Cannot use {} as signal: an AbortSignal is expected"],
    [{ scheduler: {} }, "Cannot use {} as scheduler: a Scheduler is expected"],
    [null, "Cannot use null as options: an object is expected"],
  ])("what is no option, or none of its kind: %j", async (options, message) => {
    const error = await rejection(spawn(fixture("hangs"), options as never));
    expect(error).toBeInstanceOf(TypeError);
    expect(error.message).toBe(message);
  });

  test("with what the module throws while it loads", async () => {
    const error = await rejection(spawn(fixture("throws")));
    expect(error).toBeInstanceOf(RangeError);
    expect(error.message).toBe("not today");
    expect(error.stack).toContain("tests/src/fixtures/throws.ts:2");
  });

  test("with LimitExceeded for a module that never ends loading", async () => {
    const error = await rejection(spawn(fixture("hangs"), { loadTimeoutMs: 300 }));
    expect(error).toBeInstanceOf(LimitExceeded);
    expect(error.limit).toBe("loadTime");
  });

  test("with how it ended for a module that ends itself", async () => {
    expect((await rejection(spawn(fixture("exits")))).exit).toEqual({ reason: "returned", code: 7 });
    const aborted = await rejection(spawn(fixture("aborts"), { stderr: "ignore" }));
    expect(aborted).toBeInstanceOf(ActorExit);
    expect((aborted.exit as { reason: string }).reason).toBe("signal");
  });

  test("with a SyntaxError for what cannot be bundled, naming it", async () => {
    const error = await rejection(spawn(fixture("unresolved")));
    expect(error).toBeInstanceOf(SyntaxError);
    expect(error.message).toContain("nowhere.ts");
  });

  test("with the signal's reason when it has aborted", async () => {
    expect(
      (await rejection(spawn(fixture("worker"), { signal: AbortSignal.abort(new Error("never mind")) }))).message,
    ).toBe("never mind");
  });

  test("for a sandbox that is none, before anything starts", async () => {
    const wrong = { reed: ["/tmp"] } as object;
    expect(await rejection(spawn(fixture("worker"), { sandbox: wrong }))).toBeInstanceOf(TypeError);
  });
});

test("spawn() loads modules with top-level await and dynamic imports", async () => {
  await using actor = await spawn<typeof import("./fixtures/waits.ts")>(fixture("waits"));
  expect(await actor.call.value()).toBe("late");
});

describe("exited", () => {
  test("tells of an exit by itself", async () => {
    const actor = await start();
    const error = await rejection(actor.call.exit(3));
    expect(await actor.exited).toEqual({ reason: "returned", code: 3 });
    expect(error).toBeInstanceOf(ActorExit);
  });

  test("tells of an error that nobody caught", async () => {
    const actor = await start();
    await actor.call.throwUncaught("unnoticed");
    const exit = await actor.exited;
    expect(exit).toMatchObject({ reason: "threw", error: { name: "TypeError", message: "unnoticed" } });
  });

  test("tells of what was thrown without making text of it, which could take forever, and without what a terminal acts on", async () => {
    for (const [throwIt, told] of [
      ["throwShared", "it threw an array"],
      ["throwUntellable", "it threw an object"],
      ["throwEscape", "\\x1b[2J"],
    ] as const) {
      const actor = await start();
      const pending = rejection(actor.call.hang());
      await actor.call[throwIt]();
      expect((await actor.exited).reason).toBe("threw");
      expect((await pending).message).toContain(told);
    }
  });

  test("tells of who ended it: the end of an await using, or whoever looks after it", async () => {
    const disposed = await start();
    await disposed[Symbol.asyncDispose]();
    expect(await disposed.exited).toEqual({ reason: "killed", by: "dispose" });
    const supervised = await start();
    killAs(supervised, "supervisor");
    supervised.kill();
    expect(await supervised.exited).toEqual({ reason: "killed", by: "supervisor" });
  });

  test("tells of kill(), and what is pending rejects", async () => {
    const actor = await start();
    const pending = rejection(actor.call.hang());
    actor.kill();
    expect(await actor.exited).toEqual({ reason: "killed", by: "kill" });
    expect(await pending).toBeInstanceOf(ActorExit);
    expect(await rejection(actor.call.add(1, 1))).toBeInstanceOf(ActorExit);
  });

  test("tells that the host let go, and the actor could still do something", async () => {
    const actor = await start({ stdout: "pipe" });
    await actor.call.printAtExit("last words");
    actor.disconnect();
    expect(await actor.exited).toEqual({ reason: "host gone" });
    expect(await new Response(actor.stdout).text()).toBe("last words");
  });

  test("tells of the signal given to spawn()", async () => {
    const controller = new AbortController();
    const actor = await start({ signal: controller.signal });
    controller.abort();
    expect(await actor.exited).toEqual({ reason: "killed", by: "signal" });
  });

  test("tells of a signal from elsewhere", async () => {
    const actor = await start();
    process.kill(actor.pid, "SIGKILL");
    expect(await actor.exited).toEqual({ reason: "signal", signal: "SIGKILL" });
  });

  test("tells of the limits on time", async () => {
    // On a busy machine that may be over before it is loaded.
    const slow = await start({ sandbox: { limits: { wallTime: "2 s" } } }).catch((error) => error);
    const exit = slow instanceof LimitExceeded ? { reason: "limit", limit: slow.limit } : await slow.exited;
    expect(exit).toEqual({ reason: "limit", limit: "wallTime" });
    const busy = await start({ sandbox: { limits: { cpuTime: "1 s" } } });
    expect(await rejection(busy.call.spin())).toBeInstanceOf(LimitExceeded);
    expect(await busy.exited).toEqual({ reason: "limit", limit: "cpuTime" });
  });

  test("has settled, and the process is gone, when `await using` ends", async () => {
    let pid: number;
    {
      await using actor = await start();
      pid = actor.pid;
      expect(process.kill(pid, 0)).toBe(true);
    }
    expect(() => process.kill(pid, 0)).toThrow("ESRCH");
  });
});

test("spawn() bounds what RLIMIT_DATA does not count, whatever the host's own are", async () => {
  await using actor = await start({ sandbox: { limits: { memory: "64 MiB" } } });
  const limits = readFileSync(`/proc/${actor.pid}/limits`, "utf8");
  expect(limits).toMatch(/Max stack size +8388608 +8388608/);
  expect(limits).toMatch(new RegExp(`Max address space +${16 * 2 ** 30 + 64 * 2 ** 20} `));
});

describe("output", () => {
  test("is passed on line by line, with the actor's name and made harmless", async () => {
    const script = `
      import { spawn } from ${JSON.stringify(new URL("../../src/index.ts", import.meta.url).pathname)};
      await using actor = await spawn(${JSON.stringify(fixture("worker").href)}, { name: "loud" });
      await actor.call.print("plain\\n\\x1b[2Jcleared\\nunended");
      await actor.call.exit(0).catch(() => {});
      await actor.exited;`;
    const { stdout } = Bun.spawnSync([process.execPath, "-e", script], { stdin: "ignore" });
    expect(stdout.toString().split("\n")).toEqual(["[loud] plain", "[loud] \\x1b[2Jcleared", "[loud] unended", ""]);
  });

  test("is a stream where that is asked for", async () => {
    await using actor = await start({ stdout: "pipe" });
    await actor.call.print("\x1b[1mraw\n");
    await rejection(actor.call.exit(0));
    expect(await new Response(actor.stdout).text()).toBe("\x1b[1mraw\n");
  });

  test("is no more than limits.output, of both streams, which ends the actor", async () => {
    const limits = { outputBytes: 1000 };
    await using loud = await start({ stdout: "pipe", stderr: "pipe", sandbox: { limits } });
    await loud.call.warn("!".repeat(400));
    await loud.call.print("x".repeat(200_000)).catch(() => {});
    expect(await loud.exited).toEqual({ reason: "limit", limit: "output" });
    const [printed, warned] = await Promise.all(
      [loud.stdout, loud.stderr].map((stream) => new Response(stream).text()),
    );
    expect(printed!.length + warned!.length).toBe(1000);

    await using quiet = await start({ stdout: "pipe", stderr: "ignore", sandbox: { limits } });
    await quiet.call.print("x".repeat(1000));
    await quiet.call.warn("!");
    await rejection(quiet.call.exit(0));
    expect(await quiet.exited).toEqual({ reason: "returned", code: 0 });
    expect(await new Response(quiet.stdout).text()).toHaveLength(1000);
  });
});

describe("usage() and inspect()", () => {
  test("tell what an actor used so far, and at last what it came to", async () => {
    const actor = await start();
    await actor.call.add(1, 2);
    const now = actor.usage();
    expect(now.memoryBytes).toBeGreaterThan(2 ** 20);
    expect(now.processes).toBeGreaterThan(0);
    expect(now.bytesIn).toBeGreaterThan(0);
    expect(now.messagesIn).toBe(0);
    await actor.send("counted");
    expect(actor.usage().messagesIn).toBe(1);
    const pending = rejection(actor.call.hang());
    const running = { kind: "actor", name: "worker", pid: actor.pid, state: "running", callsPending: 1 } as const;
    expect(actor.inspect()).toMatchObject(running);
    actor.kill();
    expect(actor.inspect().state).toBe("ending");
    await actor.exited;
    await pending;
    const last = actor.inspect();
    expect(last).toMatchObject({ state: "ended", callsPending: 0 });
    expect(last.usage).toMatchObject({ memoryBytes: 0, processes: 0, messagesIn: 1 });
    expect(last.usage.cpuMs).toBeGreaterThan(0);
    for (const name of ["cpuMs", "peakBytes", "minorFaults"] as const)
      expect(last.usage[name]).toBeGreaterThanOrEqual(now[name]);
  });
});

describe("limits.messages and limits.inFlight", () => {
  const module = new URL("./fixtures/pooled.ts", import.meta.url);
  type Pooled = typeof import("./fixtures/pooled.ts");

  /** How many messages an actor gets rid of while nobody reads. */
  async function sentUnread(limits: NonNullable<Sandbox["limits"]>, value: unknown): Promise<number> {
    await using actor = await spawn<Pooled>(module, { sandbox: { limits } });
    let flooding = true;
    const flood = actor.call.flood(2000, value).then(() => {
      flooding = false;
    });
    let before = -1;
    // Nothing more comes once the actor waits: a call is answered behind what was sent before.
    for (let now = 0; now !== before; now = actor.usage().messagesOut ?? 0) {
      before = now;
      await actor.call.later(1);
      await actor.call.add(1, 1);
    }
    expect(flooding).toBe(true);
    let read = 0;
    for await (const _ of actor) if (++read === 2000) break;
    await flood;
    return before;
  }

  test("hold an actor back that sends more than is read, and let all through in the end", async () => {
    expect(await sentUnread({ messages: 10 }, "x")).toBe(10);
    expect(await sentUnread({}, "x")).toBe(1024);
    const few = await sentUnread({ inFlight: "64 KiB" }, "x".repeat(8000));
    expect(few).toBeGreaterThan(4);
    expect(few).toBeLessThanOrEqual(8);
  });
});
