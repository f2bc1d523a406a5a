import { afterEach, describe, expect, spyOn, test } from "bun:test";
import type { CallOptions } from "../../src/calls.ts";
import { LimitExceeded, SchemaMismatch } from "../../src/error.ts";
import { SystemError } from "../../syscalls/error.ts";
import { ERRNO } from "../../syscalls/linux/numbers.ts";
import { CALL, CANCEL, cleanUp, frame, link, payload, RESULT, refusal, Script, THREW, Token, u32 } from "./wire.ts";

afterEach(cleanUp);

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

  test("rejects with what the kernel says where it sends no descriptors of the answer, and the next one comes", async () => {
    const token = new Token("t");
    const onCall = (name: string) => {
      if (name === "later") return Promise.resolve(token);
      if (name === "thrown") throw { token };
      return token;
    };
    const { host, lanes } = await link({}, { hooks: { onCall } });
    for (const name of ["now", "later", "thrown"]) {
      const send = spyOn(lanes[1], "send").mockImplementationOnce(() => {
        throw new SystemError("sendmsg", ERRNO.ETOOMANYREFS);
      });
      const error = { name: "SystemError", code: "ETOOMANYREFS", message: "ETOOMANYREFS: sendmsg" };
      expect(await refusal(host.call(name, []))).toMatchObject(error);
      send.mockRestore();
      expect(await host.call("now", [])).toBe(token);
    }
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
