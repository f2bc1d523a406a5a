import { afterEach, describe, expect, test } from "bun:test";
import { Channel, type Hooks } from "../../src/channel.ts";
import { LimitExceeded, ProtocolViolation } from "../../src/error.ts";
import type { Transport } from "../../src/frame.ts";
import { LIMITS } from "../../src/link.ts";
import {
  CALL,
  CANCEL,
  CREDIT,
  cleanUp,
  END,
  FAILED,
  frame,
  GREETING,
  HELLO,
  hello,
  Lane,
  link,
  MESSAGE,
  payload,
  READY,
  RESULT,
  ready,
  refusal,
  Script,
  START,
  small,
  THREW,
  Token,
  take,
  UNCAUGHT,
  u32,
} from "./wire.ts";

afterEach(cleanUp);

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
