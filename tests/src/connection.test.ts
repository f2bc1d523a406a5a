import { describe, expect, test } from "bun:test";
import { Connection, connection, couple } from "../../src/connection.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { createMemoryFile } from "../../syscalls/linux/file.ts";
import { accept, connectTo, listenOn, localAddress, openSocket } from "../../syscalls/linux/network.ts";
import { socketPair } from "../../syscalls/linux/socket.ts";

type Pair = readonly [Connection, Connection];
const MIB = 1024 * 1024;

async function unix(): Promise<Pair> {
  const [left, right] = socketPair(self, SOCK.STREAM);
  return [await connection(left), await connection(right)];
}

async function tcp(): Promise<Pair> {
  using listener = new Descriptor(listenOn(self, { family: "INET", address: "127.0.0.1", port: 0 }));
  const client = openSocket(self, "INET");
  connectTo(self, client, localAddress(self, listener.number));
  return [await connection(client), await connection(accept(self, listener.number)!)];
}

const read = async (from: Connection) => {
  const bytes = await from.read();
  return bytes === undefined ? undefined : Buffer.from(bytes).toString();
};

/** Reads to the end, and counts. */
async function drain(from: Connection): Promise<number> {
  let total = 0;
  for (let bytes = await from.read(); bytes !== undefined; bytes = await from.read()) total += bytes.length;
  return total;
}

for (const [kind, pair] of Object.entries({ unix, tcp })) {
  describe(`a connection over ${kind}`, () => {
    test("carries bytes and ends, each direction by itself", async () => {
      const [left, right] = await pair();
      await left.write(Buffer.from("hello"));
      expect(await read(right)).toBe("hello");
      left.end();
      expect(await read(right)).toBeUndefined();
      await right.write(Buffer.from("still here"));
      expect(await read(left)).toBe("still here");
      right.end();
      expect(await read(left)).toBeUndefined();
      left.close();
      right.close();
      await Promise.all([left.closed, right.closed]);
    });

    test("keeps the writer waiting while nobody reads, and holds no more than a part", async () => {
      const [left, right] = await pair();
      let written = 0;
      const piece = new Uint8Array(MIB);
      const writing = (async () => {
        for (let count = 0; count < 64; count++, written += piece.length) await left.write(piece);
        left.end();
      })();
      // The kernel's buffers fill up, and then nothing moves any more.
      for (let before = -1; before !== written; await Bun.sleep(100)) before = written;
      expect(written).toBeLessThan(32 * MIB);
      expect(await drain(right)).toBe(64 * MIB);
      await writing;
      left.close();
      right.close();
    });

    test("what was written is read though the writer closed; then writing rejects", async () => {
      const [left, right] = await pair();
      await left.write(new Uint8Array(100_000));
      left.close();
      expect(await drain(right)).toBe(100_000);
      const write = async () => {
        for (let count = 0; count < 100; count++) await right.write(new Uint8Array(MIB));
      };
      await expect(write()).rejects.toThrow();
      right.close();
    });

    test("close() ends who reads and who writes on either side", async () => {
      const [left, right] = await pair();
      const reading = left.read();
      const writing = right.write(new Uint8Array(64 * MIB)).catch((error: Error) => error.message);
      left.cancel();
      left.close();
      await reading;
      expect(await writing).toBeString();
      right.close();
    });

    test("gather() takes what it wants and gives the rest back", async () => {
      const [left, right] = await pair();
      await left.write(Buffer.from("one\ntwo\nthree"));
      const line = (bytes: Buffer) => (bytes.includes(10) ? bytes.indexOf(10) + 1 : undefined);
      expect((await right.gather(10, line))?.toString()).toBe("one\n");
      expect((await right.gather(10, line))?.toString()).toBe("two\n");
      const rest = right.gather(3, line);
      await expect(rest).rejects.toThrow("Cannot take more than 3 bytes");
      left.end();
      expect(await right.gather(3, line)).toBeUndefined();
      left.close();
      right.close();
    });

    test("is a pair of streams", async () => {
      const [left, right] = await pair();
      const text = new Response(right.readable).text();
      await new Response("streamed").body!.pipeTo(left.writable);
      expect(await text).toBe("streamed");
      left.close();
      right.close();
    });

    test("couple() carries both ways with the ends, and holds back who is faster", async () => {
      const [client, one] = await pair();
      const [two, server] = await pair();
      const coupled = couple(one, two);
      await client.write(Buffer.from("question"));
      client.end();
      expect(await read(server)).toBe("question");
      expect(await read(server)).toBeUndefined();
      let written = 0;
      const writing = (async () => {
        for (let count = 0; count < 64; count++, written += MIB) await server.write(new Uint8Array(MIB));
        server.end();
      })();
      for (let before = -1; before !== written; await Bun.sleep(100)) before = written;
      expect(written).toBeLessThan(48 * MIB);
      expect(await drain(client)).toBe(64 * MIB);
      await writing;
      await coupled;
      client.close();
      server.close();
    });

    test("couple() ends one when the other is gone", async () => {
      const [client, one] = await pair();
      const [two, server] = await pair();
      const coupled = couple(one, two);
      server.end();
      server.close();
      expect(await read(client)).toBeUndefined();
      client.close();
      await coupled;
      await Promise.all([one.closed, two.closed]);
    });
  });
}

test("couple() ends a client that stays silent when the server is gone altogether, as a unix socket tells", async () => {
  const [client, one] = await unix();
  const [two, server] = await unix();
  const coupled = couple(one, two);
  server.close();
  await coupled;
  expect(await read(client)).toBeUndefined();
  client.close();
});

test("a flood of single bytes is stopped as one of many is", async () => {
  const [left, right] = await unix();
  let written = 0;
  const one = Uint8Array.of(1);
  void (async () => {
    for (; written < 1_000_000; written++) await left.write(one);
  })().catch(() => {});
  for (let before = -1; before !== written; await Bun.sleep(50)) before = written;
  expect(written).toBeLessThan(1_000_000);
  left.close();
  right.close();
});

test("pieces of one byte are held as what they cost, not as one byte", () => {
  let paused = false;
  const pause = () => {
    paused = true;
  };
  // Only what is used here of a socket.
  const held = new Connection({ pause } as unknown as Bun.Socket<Connection | undefined>);
  let pieces = 0;
  for (; !paused && pieces < 10_000; pieces++) held.received(Uint8Array.of(1));
  expect([paused, pieces < 2000]).toEqual([true, true]);
});

test("connection() refuses what is no stream socket, and closes it", async () => {
  const file = createMemoryFile(self, "caisson-test");
  await expect(connection(file)).rejects.toThrow("ENOTSOCK");
  expect(() => self.call("fcntl", file, 1, 0)).toThrow("EBADF");
  const [left, right] = socketPair(self, SOCK.SEQPACKET);
  await expect(connection(left)).rejects.toThrow(`Cannot use descriptor ${left} as a connection`);
  self.call("close", right);
});

test("a connection that is still being made is one, and a refusal is told to who reads", async () => {
  using listener = new Descriptor(listenOn(self, { family: "INET", address: "127.0.0.1", port: 0 }));
  const at = localAddress(self, listener.number);
  listener.close();
  const socket = openSocket(self, "INET", SOCK.NONBLOCK);
  expect(connectTo(self, socket, at)).toBe(false);
  using refused = await connection(socket);
  await expect(refused.read()).rejects.toThrow("ECONNREFUSED");
});
