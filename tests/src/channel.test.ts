import { afterEach, describe, expect, spyOn, test } from "bun:test";
import { type CallOptions, Channel, connect, type Hooks, LIMITS, type Limits } from "../../src/channel.ts";
import { LimitExceeded, ProtocolViolation, SchemaMismatch } from "../../src/error.ts";
import { type Descriptors, Outbox, Splitter, type Transport, Window } from "../../src/frame.ts";
import { self } from "../../syscalls/kernel.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { socketPair } from "../../syscalls/linux/socket.ts";

/** A capability of these tests. */
class Token {
  disposed = false;
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
  [Symbol.dispose](): void {
    this.disposed = true;
  }
}

/** A descriptor lane in memory: what one end sends, the other takes. */
class Lane implements Descriptors {
  peer!: Lane;
  readonly arrived: object[] = [];

  static pair(): [Lane, Lane] {
    const ends: [Lane, Lane] = [new Lane(), new Lane()];
    ends[0].peer = ends[1];
    ends[1].peer = ends[0];
    return ends;
  }
  send(capabilities: readonly object[]): void {
    this.peer.arrived.push(...capabilities);
  }
  take(count: number): object[] {
    if (this.arrived.length < count)
      throw new ProtocolViolation(`Cannot find ${count} descriptors: ${this.arrived.length} arrived`);
    return this.arrived.splice(0, count);
  }
  get surplus(): boolean {
    return this.arrived.length > 0;
  }
  isCapability(value: object): boolean {
    return value instanceof Token;
  }
}

const cleanup: (() => void)[] = [];
afterEach(() => {
  for (const step of cleanup.splice(0)) step();
});

// Both ends ours, over a real socket pair.

interface Given {
  readonly hooks?: Hooks;
  readonly limits?: Partial<Limits>;
  /** What the actor's module exports, and the code that the host sends for it. */
  readonly names?: readonly string[];
  readonly source?: string;
}

/** A host and an actor that is ready. */
async function link(host: Given = {}, actor: Given = {}) {
  const [near, far] = socketPair(self, SOCK.STREAM);
  const lanes = Lane.pair();
  const ready = Promise.withResolvers<readonly string[]>();
  const parts: { host?: Channel; actor?: Channel } = {};
  parts.actor = await connect(far, {
    role: "actor",
    descriptors: lanes[1],
    limits: actor.limits ?? {},
    hooks: {
      onCall: (_, args) => args[0],
      ...actor.hooks,
      onStart(options, source) {
        actor.hooks?.onStart?.(options, source);
        parts.actor?.ready(actor.names ?? ["echo"]);
      },
    },
  });
  parts.host = await connect(near, {
    role: "host",
    descriptors: lanes[0],
    limits: host.limits ?? {},
    hooks: {
      ...host.hooks,
      onHello(report) {
        host.hooks?.onHello?.(report);
        parts.host?.start({ name: "m" }, host.source ?? "");
      },
      onReady(names) {
        host.hooks?.onReady?.(names);
        ready.resolve(names);
      },
    },
  });
  const ends = { host: parts.host, actor: parts.actor, lanes };
  cleanup.push(() => {
    ends.host.close();
    ends.actor.close();
  });
  ends.actor.hello({ threads: 1 });
  await ready.promise;
  return ends;
}

// A hostile end: bytes written by hand, as docs/wire.md has them.

const HELLO = 1;
const READY = 2;
const FAILED = 3;
const RESULT = 4;
const THREW = 5;
const UNCAUGHT = 6;
const START = 8;
const CALL = 9;
const CANCEL = 10;
const MESSAGE = 16;
const CREDIT = 17;
const END = 18;

const u32 = (...words: number[]) => Buffer.from(new Uint32Array(words).buffer);
const payload = (value: unknown, descriptors = 0) =>
  Buffer.concat([Uint8Array.of(descriptors, 1), Buffer.from(JSON.stringify(value))]);
function frame(kind: number, ...body: Uint8Array[]): Buffer {
  const bytes = Buffer.concat([Uint8Array.of(kind), ...body]);
  return Buffer.concat([u32(bytes.length), bytes]);
}
const GREETING = Buffer.from("caisson\x01");
const hello = frame(HELLO, GREETING, payload(null));
const ready = frame(READY, payload(["echo"]));

/** A host's channel whose peer is this script. */
class Script {
  readonly host: Channel;
  readonly lanes: [Lane, Lane];
  /** The frames that the host sent. */
  readonly seen: { kind: number; body: Buffer }[] = [];
  readonly violations: ProtocolViolation[] = [];
  readonly #socket: Bun.Socket;
  readonly #waiting: (() => void)[] = [];
  #unsent = Buffer.alloc(0);
  gone = false;

  private constructor(host: Channel, lanes: [Lane, Lane], socket: Bun.Socket) {
    this.host = host;
    this.lanes = lanes;
    this.#socket = socket;
  }

  static async start(given: Given = {}): Promise<Script> {
    const [near, far] = socketPair(self, SOCK.STREAM);
    const lanes = Lane.pair();
    let script!: Script;
    const early: Buffer[] = [];
    const splitter = new Splitter(LIMITS.frameBytes, (bytes, start, end) => {
      script.seen.push({ kind: bytes[start]!, body: bytes.subarray(start + 1, end) });
      script.#wake();
    });
    const host = await connect(near, {
      role: "host",
      descriptors: lanes[0],
      limits: given.limits ?? {},
      hooks: {
        onHello: () => host.start({}, ""),
        ...given.hooks,
        onViolation(violation) {
          script.violations.push(violation);
          given.hooks?.onViolation?.(violation);
        },
      },
    });
    const socket = (await Bun.connect({
      fd: far,
      socket: {
        data: (_: unknown, chunk: Buffer) => (script === undefined ? early.push(chunk) : splitter.push(chunk)),
        drain: () => script.#flush(),
        close: () => {
          script.gone = true;
          script.#wake();
        },
      },
    } as never)) as Bun.Socket;
    script = new Script(host, lanes, socket);
    for (const chunk of early) splitter.push(chunk);
    cleanup.push(() => {
      host.close();
      socket.terminate();
    });
    return script;
  }

  /** As `start`, with an actor that is ready. */
  static async ready(given: Given = {}): Promise<Script> {
    const loaded = Promise.withResolvers<void>();
    const script = await Script.start({ ...given, hooks: { ...given.hooks, onReady: () => loaded.resolve() } });
    script.write(hello);
    await script.until(START);
    script.write(ready);
    await loaded.promise;
    return script;
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }

  write(...bytes: Uint8Array[]): void {
    this.#unsent = Buffer.concat([this.#unsent, ...bytes]);
    this.#flush();
  }

  #flush(): void {
    if (this.gone) return;
    this.#unsent = this.#unsent.subarray(Math.max(0, this.#socket.write(this.#unsent)));
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  hangUp(): void {
    this.#socket.terminate();
  }

  /** The `count`th frame of a kind, once it is there. */
  async until(kind: number, count = 1): Promise<Buffer> {
    for (;;) {
      const found = this.seen.filter((seen) => seen.kind === kind)[count - 1];
      if (found !== undefined) return found.body;
      if (this.gone) throw new Error(`The host closed the link before frame ${count} of kind ${kind}`);
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** What the channel reports when it closes. */
  async violation(): Promise<string> {
    const reason = await this.host.closed;
    expect(reason).toBeInstanceOf(ProtocolViolation);
    expect(this.violations).toEqual([reason as ProtocolViolation]);
    return (reason as ProtocolViolation).message;
  }
}

/** The error with which a promise rejects. */
async function refusal(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    (value) => {
      throw new Error(`Expected a rejection, got ${Bun.inspect(value)}`);
    },
    (error) => error,
  );
}

/** The next `count` messages. */
async function take(channel: Channel, count: number): Promise<unknown[]> {
  const messages: unknown[] = [];
  const iterator = channel[Symbol.asyncIterator]();
  while (messages.length < count) messages.push((await iterator.next()).value);
  return messages;
}

const small = { window: { messages: 8, bytes: 4096, descriptors: 4 }, descriptors: 2 };

describe("the life of an actor", () => {
  test("hello(), start() and ready() bring what they were given to the other end", async () => {
    const told: unknown[] = [];
    await link(
      {
        source: "export const café = 1",
        hooks: { onHello: (report) => told.push(report), onReady: (names) => told.push(names) },
      },
      {
        names: ["a", "été"],
        hooks: { onStart: (options, source) => told.push(options, Buffer.from(source).toString()) },
      },
    );
    expect(told).toEqual([{ threads: 1 }, { name: "m" }, "export const café = 1", ["a", "été"]]);
  });

  test("start() sends 10 MB of source as it is", async () => {
    const source = "// é\n".repeat(2_000_000);
    let arrived = "";
    const onStart = (_: unknown, bytes: Uint8Array) => {
      arrived = Buffer.from(bytes).toString();
    };
    await link({ source }, { hooks: { onStart } });
    expect(arrived === source).toBeTrue();
  });

  test("failed() before ready() is FAILED, and the host takes nothing after it", async () => {
    const failed = Promise.withResolvers<unknown>();
    const script = await Script.start({ hooks: { onFailed: failed.resolve } });
    script.write(hello, frame(FAILED, payload("no such module")));
    expect(await failed.promise).toBe("no such module");
    script.write(ready);
    expect(await script.violation()).toBe("Cannot accept READY in this phase");
  });

  test("failed() after ready() is UNCAUGHT; pending calls wait for how the process ended", async () => {
    const uncaught = Promise.withResolvers<unknown>();
    const exit = new Error("exit 1");
    const { host, actor } = await link(
      { hooks: { onUncaught: uncaught.resolve, onLost: async () => exit } },
      { hooks: { onCall: () => new Promise(() => {}) } },
    );
    const call = refusal(host.call("echo", []));
    await actor.failed(new RangeError("too far"));
    const error = (await uncaught.promise) as Error;
    expect(error).toBeInstanceOf(RangeError);
    expect(error.message).toBe("too far");
    actor.close();
    expect(await call).toBe(exit);
    expect(await host.closed).toBe(exit);
  });

  test("start() and hello() throw a TypeError in any phase but their own", async () => {
    const { host, actor } = await link();
    expect(() => host.start({}, "")).toThrow(TypeError);
    expect(() => actor.hello(null)).toThrow(TypeError);
    expect(() => host.ready([])).toThrow(TypeError);
  });

  test("what a hook throws closes the channel", async () => {
    const bug = new Error("a bug of the owner");
    const script = await Script.start({
      hooks: {
        onHello() {
          throw bug;
        },
      },
    });
    script.write(hello);
    expect(await script.host.closed).toBe(bug);
    expect(script.violations).toEqual([]);
  });
});

describe("call()", () => {
  test("resolves to what the function returns or resolves to", async () => {
    const { host } = await link(
      {},
      { hooks: { onCall: (name, args) => (name === "later" ? Promise.resolve(args) : { name, args }) } },
    );
    expect(await host.call("now", [1, "é", null])).toEqual({ name: "now", args: [1, "é", null] });
    expect(await host.call("later", [new Map([[1, 2n]])])).toEqual([new Map([[1, 2n]])]);
  });

  test("rejects with what the function throws or rejects with", async () => {
    const onCall = (name: string) => {
      if (name === "later") return Promise.reject(new RangeError("later"));
      throw name === "odd" ? { odd: true } : new TypeError("now");
    };
    const { host } = await link({}, { hooks: { onCall } });
    expect(await refusal(host.call("now", []))).toMatchObject({ name: "TypeError", message: "now" });
    expect(await refusal(host.call("later", []))).toMatchObject({ name: "RangeError", message: "later" });
    expect(await refusal(host.call("odd", []))).toEqual({ odd: true });
  });

  test("rejects with a TypeError where the result, or what was thrown, cannot be sent", async () => {
    const onCall = (name: string) => {
      if (name === "result") return { run() {} };
      throw () => {};
    };
    const { host } = await link({}, { hooks: { onCall } });
    for (const name of ["result", "thrown"]) {
      const error = (await refusal(host.call(name, []))) as Error;
      expect(error).toBeInstanceOf(TypeError);
      expect(error.message).toContain("Cannot send a function");
    }
  });

  test("runs concurrently and is answered in any order", async () => {
    const open = new Map<unknown, (value: unknown) => void>();
    const { host } = await link(
      {},
      { hooks: { onCall: (_, [key]) => new Promise((resolve) => open.set(key, resolve)) } },
    );
    const calls = [1, 2, 3].map((key) => host.call("f", [key]));
    await host.send("flush");
    while (open.size < 3) await Bun.sleep(0);
    for (const key of [3, 1, 2]) open.get(key)?.(key * 10);
    expect(await Promise.all(calls)).toEqual([10, 20, 30]);
  });

  test("rejects arguments that cannot be sent, and leaves the channel as it was", async () => {
    const { host } = await link();
    expect(await refusal(host.call("echo", [{ deep: [Symbol()] }]))).toBeInstanceOf(TypeError);
    expect(await refusal(host.call("", []))).toBeInstanceOf(RangeError);
    expect(await refusal(host.call("x".repeat(256), []))).toBeInstanceOf(RangeError);
    expect(await host.call("echo", ["still here"])).toBe("still here");
  });

  test("rejects what is larger than a frame, and leaves the channel as it was", async () => {
    const limits = { frameBytes: 4096 };
    const { host } = await link({ limits }, { limits });
    expect(await refusal(host.call("echo", ["x".repeat(4096)]))).toBeInstanceOf(RangeError);
    expect(await host.call("echo", ["x".repeat(4000)])).toBe("x".repeat(4000));
  });

  test("rejects at the actor's end", async () => {
    const { actor } = await link();
    expect(await refusal(actor.call("echo", []))).toBeInstanceOf(TypeError);
  });

  test("reads a value whose getter uses the channel without mixing up frames", async () => {
    const { host } = await link();
    const controller = new AbortController();
    const other = refusal(host.call("echo", ["other"], { signal: controller.signal }));
    const inner: Promise<unknown>[] = [];
    const value = {
      get a() {
        inner.push(refusal(host.send("inner")));
        controller.abort("from a getter");
        return 1;
      },
    };
    expect(await host.call("echo", [value])).toEqual({ a: 1 });
    expect(await other).toBe("from a getter");
    expect(await inner[0]).toBeInstanceOf(TypeError);
    expect(await host.call("echo", [2])).toBe(2);
  });

  test("is cancelled where reading its arguments aborts its signal", async () => {
    const script = await Script.ready();
    const controller = new AbortController();
    const value = {
      get a() {
        controller.abort("from a getter");
        return 1;
      },
    };
    expect(await refusal(script.host.call("f", [value], { signal: controller.signal }))).toBe("from a getter");
    expect(await script.until(CANCEL)).toEqual(u32(0));
  });

  test("gives the result to the check, and rejects with what it throws", async () => {
    const { host } = await link();
    const mismatch = new SchemaMismatch("/a", "a number is expected");
    const result: CallOptions["result"] = (value) => {
      if (value === "bad") throw mismatch;
      return `checked ${value}`;
    };
    expect(await host.call("echo", ["good"], { result })).toBe("checked good");
    expect(await refusal(host.call("echo", ["bad"], { result }))).toBe(mismatch);
  });

  test("waits beyond the calls in flight, and rejects with LimitExceeded beyond those that may wait", async () => {
    const script = await Script.ready({ limits: { calls: 2, waiting: 3 } });
    const calls = [0, 1, 2, 3, 4].map((n) => script.host.call("f", [n]));
    const error = (await refusal(script.host.call("f", [5]))) as LimitExceeded;
    expect(error).toBeInstanceOf(LimitExceeded);
    expect(error.limit).toBe("calls");
    await script.until(CALL, 2);
    script.write(frame(RESULT, u32(1), payload("one")));
    expect(await calls[1]).toBe("one");
    // Its place goes to the one that waited longest, and nobody else's.
    expect((await script.until(CALL, 3)).subarray(0, 6)).toEqual(Buffer.concat([u32(2), Buffer.from("\x01f")]));
    expect(script.seen.filter((seen) => seen.kind === CALL)).toHaveLength(3);
    script.host.close();
    for (const call of [0, 2, 3, 4]) await refusal(calls[call]!);
  });
});

describe("call() with a signal", () => {
  test("that has been aborted rejects with its reason and sends nothing", async () => {
    const script = await Script.ready();
    expect(await refusal(script.host.call("f", [], { signal: AbortSignal.abort("never") }))).toBe("never");
    const call = refusal(script.host.call("g", []));
    await script.until(CALL);
    expect(script.seen.filter((seen) => seen.kind === CALL)).toHaveLength(1);
    script.host.close();
    await call;
  });

  test("rejects at once when it aborts, sends CANCEL, and takes the answer once", async () => {
    const script = await Script.ready();
    const controller = new AbortController();
    const call = refusal(script.host.call("f", [], { signal: controller.signal }));
    await script.until(CALL);
    controller.abort("enough");
    expect(await call).toBe("enough");
    expect(await script.until(CANCEL)).toEqual(u32(0));
    script.write(frame(RESULT, u32(0), payload(1)));
    const next = script.host.call("f", []);
    await script.until(CALL, 2);
    script.write(frame(RESULT, u32(1), payload("fine")));
    expect(await next).toBe("fine");
    script.write(frame(RESULT, u32(0), payload(1)));
    expect(await script.violation()).toBe("Cannot read RESULT: no call 0 is in flight");
  });

  test("keeps the number and the place of a cancelled call until it is answered", async () => {
    const script = await Script.ready({ limits: { calls: 1 } });
    const controller = new AbortController();
    const first = refusal(script.host.call("f", [], { signal: controller.signal }));
    await script.until(CALL);
    controller.abort();
    await first;
    const second = script.host.call("f", []);
    await script.until(CANCEL);
    expect(script.seen.filter((seen) => seen.kind === CALL)).toHaveLength(1);
    script.write(frame(THREW, u32(0), payload("cancelled")));
    await script.until(CALL, 2);
    script.write(frame(RESULT, u32(1), payload(2)));
    expect(await second).toBe(2);
  });

  test("that aborts while the call waits never sends it", async () => {
    const script = await Script.ready({ limits: { calls: 1 } });
    const first = script.host.call("first", []);
    const controller = new AbortController();
    const second = refusal(script.host.call("second", [], { signal: controller.signal }));
    const third = script.host.call("third", []);
    controller.abort("enough");
    expect(await second).toBe("enough");
    await script.until(CALL);
    script.write(frame(RESULT, u32(0), payload(1)));
    expect((await script.until(CALL, 2)).subarray(4, 10).toString()).toBe("\x05third");
    script.write(frame(RESULT, u32(1), payload(3)));
    expect(await Promise.all([first, third])).toEqual([1, 3]);
    expect(script.seen.filter((seen) => seen.kind === CANCEL)).toHaveLength(0);
  });

  test("aborts the callee's signal, also where that is looked at late", async () => {
    const aborted = Promise.withResolvers<boolean>();
    const cancelled = Promise.withResolvers<void>();
    const { host } = await link(
      {},
      {
        hooks: {
          async onCall(name, _, call) {
            if (name === "early") call.signal.addEventListener("abort", () => cancelled.resolve());
            else {
              await cancelled.promise;
              aborted.resolve(call.signal.aborted);
            }
            await new Promise(() => {});
          },
        },
      },
    );
    const controller = new AbortController();
    const calls = ["late", "early"].map((name) => refusal(host.call(name, [], { signal: controller.signal })));
    await host.send("after the calls");
    controller.abort();
    await Promise.all(calls);
    expect(await aborted.promise).toBeTrue();
  });

  test("timeoutMs rejects with a TimeoutError and sends CANCEL", async () => {
    const script = await Script.ready();
    const error = (await refusal(script.host.call("slow", [], { timeoutMs: 1 }))) as DOMException;
    expect(error.name).toBe("TimeoutError");
    expect(await script.until(CANCEL)).toEqual(u32(0));
    for (const timeoutMs of [-1, Number.NaN, 2 ** 31]) {
      expect(await refusal(script.host.call("slow", [], { timeoutMs }))).toBeInstanceOf(RangeError);
    }
  });
});

describe("send()", () => {
  test("keeps the order of messages in both directions, with values of every codec", async () => {
    const { host, actor } = await link();
    const values = Array.from({ length: 3000 }, (_, n) => (n % 7 === 0 ? new Set([n]) : { n }));
    const both = [host, actor].map(async (from) => {
      for (const value of values) void from.send(value);
      from.end();
    });
    const received = await Promise.all([host, actor].map((to) => Array.fromAsync(to)));
    await Promise.all(both);
    expect(received[0]).toEqual(values);
    expect(received[1]).toEqual(values);
  });

  test("passes a message larger than the window, and one after another", async () => {
    const { host, actor } = await link({ limits: small }, { limits: small });
    const large = new Uint8Array(1 << 20).fill(7);
    for (let n = 0; n < 4; n++) void host.send(large);
    expect(await take(actor, 4)).toEqual([large, large, large, large]);
  });

  test("lets no small message overtake a large one that waits", async () => {
    const { host, actor } = await link({ limits: small }, { limits: small });
    const values = ["a".repeat(3000), "b".repeat(3000), "c"];
    for (const value of values) void host.send(value);
    await host.call("echo", []);
    expect(await take(actor, 3)).toEqual(values);
  });

  test("waits while the peer's application takes nothing", async () => {
    const { host, actor } = await link({ limits: small }, { limits: small });
    const done: number[] = [];
    const sends = Array.from({ length: 12 }, (_, n) => host.send(n).then(() => done.push(n)));
    // The answer comes after everything that was sent before the call.
    await host.call("echo", []);
    await Promise.all(sends.slice(0, 8));
    expect(done).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(await take(actor, 3)).toEqual([0, 1, 2]);
    await host.call("echo", []);
    expect(done).toHaveLength(8);
    expect(await take(actor, 1)).toEqual([3]);
    await Promise.all(sends);
    expect(await take(actor, 8)).toEqual([4, 5, 6, 7, 8, 9, 10, 11]);
  });

  test("waits while the kernel takes nothing, and no longer", async () => {
    const script = await Script.ready({ limits: { outboxBytes: 64 * 1024 } });
    script.pause();
    const large = "x".repeat(1 << 20);
    let sent = 0;
    const sends = [0, 1, 2].map(() => script.host.send(large).then(() => sent++));
    const call = script.host.call("f", []);
    await Bun.sleep(0);
    expect(sent).toBe(0);
    script.resume();
    await Promise.all(sends);
    await script.until(MESSAGE, 3);
    await script.until(CALL);
    script.write(frame(RESULT, u32(0), payload(1)));
    expect(await call).toBe(1);
  });

  test("before START waits for it", async () => {
    const script = await Script.start();
    const sent = script.host.send("early");
    script.write(hello);
    await script.until(MESSAGE);
    await sent;
    expect(script.seen.map((seen) => seen.kind)).toEqual([START, MESSAGE]);
  });

  test("rejects with LimitExceeded beyond the messages that may wait", async () => {
    const { host } = await link({ limits: { ...small, waiting: 2 } }, { limits: small });
    for (let n = 0; n < 10; n++) void host.send(n);
    expect(await refusal(host.send(10))).toBeInstanceOf(LimitExceeded);
  });

  test("rejects after end(), and end() waits for the messages before it", async () => {
    const { host, actor } = await link({ limits: small }, { limits: small });
    for (let n = 0; n < 20; n++) void host.send(n);
    host.end();
    expect(await refusal(host.send(20))).toBeInstanceOf(TypeError);
    expect(await Array.fromAsync(actor)).toEqual(Array.from({ length: 20 }, (_, n) => n));
    expect(await host.call("echo", ["calls go on"])).toBe("calls go on");
  });

  test("passes capabilities, no more of them than the window holds", async () => {
    const { host, actor, lanes } = await link({ limits: small }, { limits: small });
    const tokens = Array.from({ length: 8 }, (_, n) => new Token(`t${n}`));
    for (let n = 0; n < 8; n += 2) void host.send([tokens[n], tokens[n + 1]]);
    await host.call("echo", []);
    expect(lanes[1].arrived).toEqual([]);
    const received = await take(actor, 4);
    expect(received.flat()).toEqual(tokens);
    expect(await refusal(host.send(tokens.slice(0, 3)))).toBeInstanceOf(RangeError);
  });
});

describe("the iterator", () => {
  test("gives each message to one reader", async () => {
    const { host, actor } = await link();
    const readers = [take(actor, 2), take(actor, 2)];
    for (let n = 0; n < 4; n++) void host.send(n);
    expect((await Promise.all(readers)).flat().toSorted()).toEqual([0, 1, 2, 3]);
  });

  test("goes on after a loop that broke off", async () => {
    const { host, actor } = await link();
    for (let n = 0; n < 3; n++) void host.send(n);
    host.end();
    for await (const first of actor) {
      expect(first).toBe(0);
      break;
    }
    expect(await Array.fromAsync(actor)).toEqual([1, 2]);
  });

  test("gives what arrived before the link was lost, then throws why", async () => {
    const exit = new Error("exit 1");
    const script = await Script.ready({ hooks: { onLost: () => exit } });
    script.write(frame(MESSAGE, payload(1)), frame(MESSAGE, payload(2)));
    script.hangUp();
    expect(await script.host.closed).toBe(exit);
    expect(await take(script.host, 2)).toEqual([1, 2]);
    expect(await refusal(take(script.host, 1))).toBe(exit);
  });
});

describe("close()", () => {
  test("rejects all that is pending with its reason, and aborts what the actor is doing", async () => {
    const aborted = Promise.withResolvers<void>();
    const { host, actor } = await link(
      { limits: { ...small, calls: 1 } },
      {
        limits: small,
        hooks: {
          onCall(_, __, call) {
            call.signal.addEventListener("abort", () => aborted.resolve());
            return new Promise(() => {});
          },
        },
      },
    );
    const calls = [host.call("f", []), host.call("f", [])].map(refusal);
    const sends = Array.from({ length: 9 }, (_, n) => host.send(n));
    const waiting = refusal(sends[8]!);
    const reader = refusal(take(host, 1));
    await sends[0];
    const reason = new Error("over");
    host.close(reason);
    expect(await Promise.all([...calls, waiting, reader, host.closed])).toEqual([
      reason,
      reason,
      reason,
      reason,
      reason,
    ]);
    expect(await refusal(host.call("f", []))).toBe(reason);
    expect(await refusal(host.send(1))).toBe(reason);
    await actor.closed;
    await aborted.promise;
  });

  test("without a reason ends iteration, and lets out what was sent in the same tick", async () => {
    const { host, actor } = await link();
    const messages = Array.fromAsync(host);
    void host.send("last words");
    host.end();
    host.close();
    expect(await messages).toEqual([]);
    expect(await host.closed).toBeUndefined();
    expect(await Array.fromAsync(actor)).toEqual(["last words"]);
    expect(await actor.closed).toBeUndefined();
  });

  test("disposes of capabilities that nobody took", async () => {
    const { host, actor } = await link();
    const token = new Token("lost");
    void actor.send(token);
    void actor.send("next");
    await host.call("echo", []);
    host.close();
    expect(token.disposed).toBeTrue();
  });
});

describe("a hostile actor", () => {
  const value = payload(1);
  const cases: [string, Buffer, string][] = [
    ["a huge length", u32(0xffff_ffff), "Cannot read a frame of 4294967295 bytes"],
    ["one byte more than a frame may have", u32(64 * 1024 * 1024 + 1), "Cannot read a frame of 67108865 bytes"],
    ["no length", u32(0), "Cannot read a frame of 0 bytes"],
    ["an unknown kind", frame(7, value), "Cannot read a frame of kind 7"],
    ["a kind whose bit is another's", frame(32 + MESSAGE, value), "Cannot read a frame of kind 48"],
    ["START", frame(START, u32(3), value), "Cannot accept START in this phase"],
    ["CALL", frame(CALL, u32(0), Buffer.from("\x01f"), payload([])), "Cannot accept CALL in this phase"],
    ["CANCEL", frame(CANCEL, u32(0)), "Cannot accept CANCEL in this phase"],
    ["HELLO twice", hello, "Cannot accept HELLO in this phase"],
    ["READY twice", ready, "Cannot accept READY in this phase"],
    ["FAILED after READY", frame(FAILED, value), "Cannot accept FAILED in this phase"],
    [
      "anything after UNCAUGHT",
      Buffer.concat([frame(UNCAUGHT, value), frame(MESSAGE, value)]),
      "Cannot accept MESSAGE in this phase",
    ],
    ["a forged call number", frame(RESULT, u32(7), value), "Cannot read RESULT: no call 7 is in flight"],
    ["THREW for no call", frame(THREW, u32(0xffff_ffff), value), "Cannot read THREW: no call 4294967295 is in flight"],
    ["RESULT that is too short", frame(RESULT, u32(0), Buffer.from("\0")), "Cannot read RESULT: its body of 5 bytes"],
    ["MESSAGE without a value", frame(MESSAGE), "Cannot read MESSAGE: its body of 0 bytes"],
    ["CREDIT that is too short", frame(CREDIT, u32(1, 1)), "Cannot read CREDIT: its body of 8 bytes"],
    ["END with a body", frame(END, Buffer.from("x")), "Cannot read END: its body of 1 bytes"],
    ["END twice", Buffer.concat([frame(END), frame(END)]), "Cannot accept END in this phase"],
    ["MESSAGE after END", Buffer.concat([frame(END), frame(MESSAGE, value)]), "Cannot accept MESSAGE in this phase"],
    ["more descriptors than it sent", frame(MESSAGE, payload(1, 3)), "Cannot find 3 descriptors: 0 arrived"],
    ["more descriptors than a frame may have", frame(MESSAGE, payload(1, 17)), "Cannot take 17 descriptors"],
    ["more descriptors than a window may have", frame(MESSAGE, payload(1, 255)), "255 descriptors: the window is full"],
    ["credit for nothing", frame(CREDIT, u32(0, 0, 0)), "Cannot take credit for 0 messages"],
    ["credit that nobody owes", frame(CREDIT, u32(1, 1, 0)), "Cannot take credit for 1 messages"],
    [
      "credit that overflows",
      frame(CREDIT, u32(0xffff_ffff, 0xffff_ffff, 0xffff_ffff)),
      "Cannot take credit for 4294967295 messages",
    ],
    ["descriptors in UNCAUGHT", frame(UNCAUGHT, payload(1, 1)), "Cannot read UNCAUGHT: it names descriptors"],
  ];
  test.each(cases)("is ended for %s", async (_, bytes, message) => {
    const script = await Script.ready();
    const reader = refusal(take(script.host, 2));
    script.write(bytes);
    expect(await script.violation()).toContain(message);
    expect(await reader).toBe(script.violations[0]);
    while (!script.gone) await Bun.sleep(0);
  });

  const early: [string, Buffer, string][] = [
    ["RESULT before HELLO", frame(RESULT, u32(0), value), "Cannot accept RESULT in this phase"],
    ["MESSAGE before HELLO", frame(MESSAGE, value), "Cannot accept MESSAGE in this phase"],
    ["READY before HELLO", ready, "Cannot accept READY in this phase"],
    ["another protocol", frame(HELLO, Buffer.from("caissoN\x01"), value), "does not speak version 1"],
    ["another version", frame(HELLO, Buffer.from("caisson\x02"), value), "does not speak version 1"],
    ["descriptors in HELLO", frame(HELLO, GREETING, payload(1, 1)), "Cannot read HELLO: it names descriptors"],
    ["names that are no list", Buffer.concat([hello, frame(READY, payload({ length: 1 }))]), "no list of names"],
    ["a name that is too long", Buffer.concat([hello, frame(READY, payload(["é".repeat(128)]))]), "no list of names"],
  ];
  test.each(early)("is ended for %s", async (_, bytes, message) => {
    const script = await Script.start();
    script.write(bytes);
    expect(await script.violation()).toContain(message);
  });

  test("is ended for a message that does not decode when somebody takes it", async () => {
    const script = await Script.ready();
    script.write(
      frame(MESSAGE, payload("good")),
      frame(MESSAGE, Buffer.from('\0\x01{"a":')),
      frame(MESSAGE, payload("never seen")),
    );
    const iterator = script.host[Symbol.asyncIterator]();
    expect((await iterator.next()).value).toBe("good");
    const error = await refusal(iterator.next());
    expect(error).toBeInstanceOf(ProtocolViolation);
    expect(await script.host.closed).toBe(error as Error);
    expect(script.violations).toEqual([error as ProtocolViolation]);
    expect(await refusal(iterator.next())).toBe(error);
  });

  test.each([RESULT, THREW])(
    "is ended for an answer of kind %d that does not decode; the call rejects",
    async (kind) => {
      const script = await Script.ready();
      const call = refusal(script.host.call("f", []));
      await script.until(CALL);
      script.write(frame(kind, u32(0), Buffer.from("\0\x02")));
      expect(await call).toBeInstanceOf(ProtocolViolation);
      await script.violation();
    },
  );

  test("is ended for a second answer; the first one counts", async () => {
    const script = await Script.ready();
    const calls = [script.host.call("f", []), refusal(script.host.call("g", []))];
    await script.until(CALL, 2);
    const answer = frame(RESULT, u32(0), payload("first"));
    script.write(answer, answer);
    expect(await calls[0]).toBe("first");
    expect(await script.violation()).toBe("Cannot read RESULT: no call 0 is in flight");
    expect(await calls[1]).toBe(script.violations[0]);
  });

  test("is ended for a value that names a descriptor its frame has not, and what it sent is disposed of", async () => {
    const script = await Script.ready();
    const call = refusal(script.host.call("f", []));
    await script.until(CALL);
    const token = new Token("unnamed");
    script.lanes[1].send([token]);
    script.write(frame(RESULT, u32(0), payload("names none of them", 1)));
    expect(await script.violation()).toBe("Cannot accept descriptors that no value names");
    expect(token.disposed).toBeTrue();
    await call;
  });

  test("is ended for descriptors that no frame named, at its END and not before", async () => {
    const script = await Script.ready();
    const call = script.host.call("f", []);
    await script.until(CALL);
    script.lanes[1].send([new Token("early")]);
    script.write(frame(MESSAGE, value), frame(END));
    expect(await Array.fromAsync(script.host)).toEqual([1]);
    script.write(frame(RESULT, u32(0), value));
    expect(await call).toBe(1);
    expect(await script.violation()).toBe("Cannot accept descriptors that no value names");
  });

  test("has the descriptors of an answer that nobody awaits disposed of", async () => {
    const script = await Script.ready();
    const call = refusal(script.host.call("f", [], { timeoutMs: 1 }));
    await script.until(CALL);
    await call;
    const token = new Token("late");
    script.lanes[1].send([token]);
    script.write(frame(RESULT, u32(0), payload("dropped unread", 1)), frame(MESSAGE, value));
    expect(await take(script.host, 1)).toEqual([1]);
    expect(token.disposed).toBeTrue();
  });

  test("cannot fill the host: a flood of messages that nobody takes ends it", async () => {
    const script = await Script.ready();
    const one = frame(MESSAGE, payload("x".repeat(20)));
    const flood = Buffer.alloc(1e6 * one.length, one);
    Bun.gc(true);
    const before = process.memoryUsage.rss();
    script.write(flood);
    expect(await script.violation()).toContain("the window is full");
    // The script's own copy is part of this.
    expect(process.memoryUsage.rss() - before).toBeLessThan(flood.length + 32 * 1024 * 1024);
  });

  test("cannot fill the host with bytes: what counts is bounded by the window", async () => {
    const script = await Script.ready();
    const body = payload("x".repeat(1 << 20));
    for (let n = 0; n < 4; n++) script.write(frame(MESSAGE, body));
    expect(await script.violation()).toContain("the window is full");
  });

  test("gets exactly the window, and more for what is taken", async () => {
    const script = await Script.ready({ limits: small });
    for (let n = 0; n < 8; n++) script.write(frame(MESSAGE, payload(n)));
    expect(await take(script.host, 4)).toEqual([0, 1, 2, 3]);
    const size = frame(MESSAGE, payload(0)).length - 4;
    expect(await script.until(CREDIT)).toEqual(u32(4, 4 * size, 0));
    for (let n = 8; n < 12; n++) script.write(frame(MESSAGE, payload(n)));
    expect(await take(script.host, 8)).toEqual([4, 5, 6, 7, 8, 9, 10, 11]);
    // Two batches are owed back; one more message than that is too many.
    for (let n = 0; n < 9; n++) script.write(frame(MESSAGE, payload(n)));
    await script.violation();
  });

  test("that reads nothing does not fill the host with credit", async () => {
    const script = await Script.ready({ limits: { ...small, outboxBytes: 1024 } });
    script.pause();
    const blocked = refusal(script.host.send("x".repeat(1 << 20)));
    for (let n = 0; n < 8; n++) script.write(frame(MESSAGE, payload(n)));
    expect(await take(script.host, 8)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    // It knows what it was owed, but has not been told.
    script.write(frame(MESSAGE, payload(8)));
    expect(await script.violation()).toContain("the window is full");
    await blocked;
  });

  test("is reported for descriptors that no frame named when the link ends", async () => {
    const script = await Script.ready();
    script.lanes[1].send([new Token("unnamed")]);
    script.hangUp();
    expect((await script.host.closed)?.message).toBe("Cannot accept descriptors that no value names");
  });

  test("is not believed where its frame is cut short by the end of the link", async () => {
    const seen: (Error | undefined)[] = [];
    const script = await Script.ready({
      hooks: {
        onLost: (error) => {
          seen.push(error);
          return error;
        },
      },
    });
    script.write(frame(MESSAGE, value).subarray(0, 7));
    script.hangUp();
    expect((await script.host.closed)?.message).toBe("Cannot read on: the link closed inside a frame");
    expect(seen).toHaveLength(1);
    expect(seen[0]).toBeInstanceOf(ProtocolViolation);
  });
});

describe("frames", () => {
  const script = Buffer.concat([
    hello,
    ready,
    frame(MESSAGE, payload({ a: [1, "é"] })),
    frame(MESSAGE, payload(2)),
    frame(END),
  ]);

  /** A host's channel without a socket. */
  function offline(hooks: Hooks = {}): Channel {
    const transport: Transport = { write: (_, __, length) => length, close() {} };
    const channel: Channel = new Channel(transport, {
      role: "host",
      descriptors: Lane.pair()[0],
      hooks: { onHello: () => channel.start({}, ""), ...hooks },
    });
    return channel;
  }

  test("arrive whole, however the bytes are cut in two", async () => {
    for (let cut = 0; cut <= script.length; cut++) {
      const channel = offline();
      channel.receive(Buffer.from(script.subarray(0, cut)));
      channel.receive(Buffer.from(script.subarray(cut)));
      expect(await Array.fromAsync(channel)).toEqual([{ a: [1, "é"] }, 2]);
    }
  });

  test("arrive whole in chunks of any one size", async () => {
    for (let size = 1; size <= script.length; size++) {
      const channel = offline();
      for (let at = 0; at < script.length; at += size) channel.receive(Buffer.from(script.subarray(at, at + size)));
      expect(await Array.fromAsync(channel)).toEqual([{ a: [1, "é"] }, 2]);
    }
  });

  test("cut anywhere by the end of the link close the channel, with no more than what arrived whole", async () => {
    for (let cut = 0; cut < script.length; cut++) {
      const channel = offline();
      channel.receive(Buffer.from(script.subarray(0, cut)));
      channel.lost();
      expect(await channel.closed).toBeInstanceOf(Error);
    }
  });

  test("with any one byte changed are read or end the channel, and nothing else", async () => {
    for (let at = 0; at < script.length; at++) {
      for (const flip of [0x01, 0x80, 0xff]) {
        const channel = offline();
        const bytes = Buffer.from(script);
        bytes[at]! ^= flip;
        channel.receive(bytes);
        channel.lost();
        const error = await Array.fromAsync(channel).then(
          () => undefined,
          (thrown) => thrown,
        );
        if (error !== undefined && !(error instanceof ProtocolViolation))
          expect(error.message).toBe("The peer closed the link");
      }
    }
    expect(Object.keys(Object.prototype)).toEqual([]);
  });
});

describe("what a channel keeps", () => {
  test("of a chunk is no more than the messages in it, where they are little of it", async () => {
    const channel = new Channel(
      { write: (_, __, length) => length, close() {} },
      { role: "host", descriptors: Lane.pair()[0] },
    );
    channel.receive(Buffer.from(hello));
    channel.start({}, "");
    const chunk = Buffer.concat([
      ready,
      frame(MESSAGE, payload("little")),
      u32(LIMITS.frameBytes),
      Buffer.alloc(10_000),
    ]);
    channel.receive(chunk);
    chunk.fill(0);
    expect(await take(channel, 1)).toEqual(["little"]);
  });

  test("for a kernel that takes nothing is bounded: calls wait their turn, then are rejected", async () => {
    const limits = { outboxBytes: 1000, waiting: 1 };
    const channel = new Channel({ write: () => 0, close() {} }, { role: "host", descriptors: Lane.pair()[0], limits });
    channel.receive(Buffer.from(hello));
    channel.start({}, "");
    channel.receive(Buffer.from(ready));
    await Bun.sleep(0);
    const reasons = [1, 2, 3].map(() => refusal(channel.call("f", ["x".repeat(600)])));
    // There is room for one, and one waits.
    expect(await reasons[2]).toBeInstanceOf(LimitExceeded);
    const reason = new Error("over");
    channel.close(reason);
    expect(await Promise.all(reasons.slice(0, 2))).toEqual([reason, reason]);
  });
});

describe("the actor's end", () => {
  const start = frame(START, u32(payload(null).length), payload(null));
  const call = (id: number, args: unknown) => frame(CALL, u32(id), Buffer.from("\x01f"), payload(args));
  const cases: [string, Buffer, string][] = [
    [
      "a call number in flight twice",
      Buffer.concat([start, call(0, []), call(0, [])]),
      "Cannot read CALL: 0 is in flight already",
    ],
    [
      "arguments that are no array",
      Buffer.concat([start, call(0, {})]),
      "Cannot read CALL: its arguments are no array",
    ],
    [
      "a name past the end",
      Buffer.concat([start, frame(CALL, u32(0), Buffer.from("\xff\0\x01"))]),
      "its name is longer than the frame",
    ],
    [
      "START with a payload past the end",
      frame(START, u32(4000), payload(null)),
      "Cannot read START: its payload has a wrong length",
    ],
    ["RESULT", Buffer.concat([start, frame(RESULT, u32(0), payload(1))]), "Cannot accept RESULT in this phase"],
  ];
  test.each(cases)("is as strict, and ends for %s", async (_, bytes, message) => {
    const transport: Transport = { write: (_, __, length) => length, close() {} };
    const channel: Channel = new Channel(transport, {
      role: "actor",
      descriptors: Lane.pair()[0],
      hooks: { onStart: () => channel.ready(["f"]), onCall: () => new Promise(() => {}) },
    });
    channel.hello(null);
    channel.receive(Buffer.from(bytes));
    expect((await channel.closed)?.message).toContain(message);
  });
});

describe("Splitter", () => {
  test("grows with what arrived, not with what a length claims", () => {
    const alloc = spyOn(Buffer, "alloc");
    cleanup.push(() => alloc.mockRestore());
    const splitter = new Splitter(LIMITS.frameBytes, () => {});
    let arrived = 0;
    for (const bytes of [u32(LIMITS.frameBytes), ...Array.from({ length: 100 }, () => new Uint8Array(1000))]) {
      splitter.push(Buffer.from(bytes));
      arrived += bytes.length;
      expect(splitter.held).toBe(arrived);
      for (const [size] of alloc.mock.calls.splice(0)) expect(size).toBeLessThanOrEqual(64 + 4 * arrived);
    }
  });

  test("delivers a range of the chunk itself where the frame is whole", () => {
    const ranges: [Uint8Array, number, number][] = [];
    const splitter = new Splitter(100, (...range) => ranges.push(range));
    const chunk = Buffer.concat([frame(1, Buffer.from("ab")), frame(2, Buffer.from("c"))]);
    splitter.push(chunk);
    expect(ranges.map(([bytes, start, end]) => [bytes === chunk, start, end])).toEqual([
      [true, 4, 7],
      [true, 11, 13],
    ]);
  });
});

describe("Outbox", () => {
  function outbox(take: (length: number) => number) {
    const writes: Buffer[] = [];
    const transport: Transport = {
      write(bytes, offset, length) {
        const taken = take(length);
        if (taken > 0) writes.push(Buffer.from(bytes.subarray(offset, offset + taken)));
        return taken;
      },
      close() {},
    };
    const limits = { frameBytes: 1 << 20, descriptors: 16, outboxBytes: 1024 };
    return { writes, box: new Outbox(transport, Lane.pair()[0], limits) };
  }

  test("gathers the frames of one tick into one write", async () => {
    const { writes, box } = outbox((length) => length);
    for (let n = 0; n < 5; n++) box.commit(box.append("MESSAGE", n));
    await Promise.resolve().then(() => box.commit(box.append("MESSAGE", 5)));
    await box.flushed;
    expect(writes).toEqual([Buffer.concat(Array.from({ length: 6 }, (_, n) => frame(MESSAGE, payload(n))))]);
  });

  test("keeps what the kernel does not take, in order, and says when it is gone", async () => {
    let room = 3;
    const { writes, box } = outbox((length) => {
      const taken = Math.min(length, room);
      room -= taken;
      return taken;
    });
    box.commit(box.append("MESSAGE", "first"));
    box.flush();
    let done = false;
    const flushed = box.flushed.then(() => {
      done = true;
    });
    box.commit(box.append("MESSAGE", "second"));
    const all = box.flushed;
    expect(box.blocked).toBeTrue();
    while (box.blocked) {
      await Promise.resolve();
      expect(done).toBeFalse();
      room = 5;
      box.drain();
      if (Buffer.concat(writes).length >= frame(MESSAGE, payload("first")).length) break;
    }
    await flushed;
    room = 1000;
    box.drain();
    await all;
    expect(Buffer.concat(writes)).toEqual(
      Buffer.concat([frame(MESSAGE, payload("first")), frame(MESSAGE, payload("second"))]),
    );
  });

  test("writes a large batch at once, without waiting for the end of the tick", () => {
    const { writes, box } = outbox((length) => length);
    box.commit(box.append("MESSAGE", "x".repeat(64 * 1024)));
    expect(writes).toHaveLength(1);
  });

  test("rejects what never left when it is stopped", async () => {
    const { box } = outbox(() => -1);
    box.commit(box.append("MESSAGE", 1));
    box.flush();
    const leaving = refusal(box.flushed);
    box.commit(box.append("MESSAGE", 2));
    const filling = refusal(box.flushed);
    const reason = new Error("over");
    box.stop(reason);
    expect(await Promise.all([leaving, filling])).toEqual([reason, reason]);
  });
});

describe("Window", () => {
  const size = { messages: 4, bytes: 100, descriptors: 4 };
  const cases: [string, [number, number, number], [number, number], boolean][] = [
    ["the first message of any size", [0, 0, 0], [1000, 0], true],
    ["what fits exactly", [1, 60, 0], [40, 0], true],
    ["no byte more once half is taken", [1, 60, 0], [41, 0], false],
    ["a large message while less than half is taken", [1, 49, 0], [1000, 0], true],
    ["no message past their number", [4, 4, 0], [1, 0], false],
    ["descriptors up to their number", [1, 1, 2], [1, 2], true],
    ["no descriptor past their number", [1, 1, 3], [1, 2], false],
  ];
  test.each(cases)("admits %s", (_, taken, [bytes, descriptors], admitted) => {
    const window = new Window(size);
    window.add(...taken);
    expect(window.admits(bytes, descriptors)).toBe(admitted);
  });

  test("lets no sender wait for credit that a receiver does not owe yet", () => {
    // Whatever is taken and not credited is less than half, so the next frame passes.
    for (let messages = 0; messages < 4; messages++) {
      for (let bytes = 0; bytes < 100; bytes++) {
        for (let descriptors = 0; descriptors < 4; descriptors++) {
          const owed = new Window(size);
          owed.add(messages, bytes, descriptors);
          expect(owed.isHalf || owed.admits(1_000_000, 2)).toBeTrue();
        }
      }
    }
  });

  test("remove() refuses more than there is, and changes nothing", () => {
    const window = new Window(size);
    window.add(2, 10, 1);
    expect(window.remove(3, 0, 0)).toBeFalse();
    expect(window.remove(0, 11, 0)).toBeFalse();
    expect(window.remove(0, 0, 2)).toBeFalse();
    expect(window.remove(2, 10, 1)).toBeTrue();
    expect([window.messages, window.bytes, window.descriptors]).toEqual([0, 0, 0]);
  });
});
