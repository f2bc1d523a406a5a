import { describe, expect, test } from "bun:test";
import type { Transport } from "../../src/frame.ts";
import { encode } from "../../src/message.ts";
import { Outbox } from "../../src/outbox.ts";
import { frame, Lane, MESSAGE, payload, refusal } from "./wire.ts";

describe("Outbox", () => {
  function outbox(take: (length: number) => number) {
    const writes: Buffer[] = [];
    const given: ArrayBufferLike[] = [];
    const transport: Transport = {
      write(bytes, offset, length) {
        const taken = take(length);
        given.push(bytes.buffer);
        if (taken > 0) writes.push(Buffer.from(bytes.subarray(offset, offset + taken)));
        return taken;
      },
      close() {},
    };
    const limits = { frameBytes: 1 << 20, descriptors: 16, outboxBytes: 1024 };
    return { writes, given, box: new Outbox(transport, Lane.pair()[0], limits) };
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

  describe("with large bytes at the end of a frame", () => {
    const large = () => new Uint8Array(100_000).fill(7);
    const sent = (value: unknown) => frame(MESSAGE, Uint8Array.of(0), encode(value));

    test("hands them to the kernel where they lie", () => {
      const { writes, box, given } = outbox((length) => length);
      const bytes = large();
      box.commit(box.append("MESSAGE", 1));
      box.commit(box.append("MESSAGE", [1, "é", bytes]));
      expect(given).toContain(bytes.buffer);
      expect(Buffer.concat(writes)).toEqual(Buffer.concat([sent(1), sent([1, "é", large()])]));
    });

    test.each([0, 10, 50, 99_999])("keeps a copy of what the kernel leaves when it takes %d bytes", async (first) => {
      let room: number = first;
      const { writes, box } = outbox((length) => {
        const taken = Math.min(length, room);
        room -= taken;
        return taken;
      });
      const bytes = large();
      box.commit(box.append("MESSAGE", bytes));
      const flushed = box.flushed;
      expect(box.blocked).toBeTrue();
      bytes.fill(0);
      box.commit(box.append("MESSAGE", "next"));
      room = 1_000_000;
      box.drain();
      await flushed;
      expect(Buffer.concat(writes)).toEqual(Buffer.concat([sent(large()), sent("next")]));
    });

    test("copies them while the kernel takes nothing, and into a frame that is cut", () => {
      let room = 0;
      const { writes, box } = outbox((length) => Math.min(length, room));
      const bytes = large();
      box.commit(box.append("MESSAGE", 1));
      box.flush();
      const start = box.append("MESSAGE", [bytes]);
      expect(box.sizeOf(start)).toBe(sent([bytes]).length - 4);
      expect(box.full).toBeTrue();
      const waiting = box.cut(start);
      box.commit(box.append("MESSAGE", [bytes]));
      bytes.fill(0);
      box.put(waiting);
      room = 1_000_000;
      box.drain();
      expect(Buffer.concat(writes)).toEqual(Buffer.concat([sent(1), sent([large()]), sent([large()])]));
    });
  });
});
