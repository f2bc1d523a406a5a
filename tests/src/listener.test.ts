import { describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { abilities } from "../../platform/linux/abilities.ts";
import { type Connection, connection, dial } from "../../src/connection.ts";
import { Client, Listener } from "../../src/listener.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { connectTo, listenOn, openSocket, raiseLoopback, type SocketAddress } from "../../syscalls/linux/network.ts";
import { CLONE } from "../../syscalls/linux/numbers.ts";
import { receiveDescriptors, sendDescriptors, socketPair } from "../../syscalls/linux/socket.ts";
import { until } from "../attacks/arena.ts";
import { type Held, hold } from "../platform/strings.ts";
import { testIf } from "../syscalls/requirement.ts";

const testNetwork = testIf(
  "namespaces",
  (abilities().namespaces & CLONE.NEWNET) !== 0n,
  "no network namespace can be made here",
);
const LOOPBACK = { family: "INET", address: "127.0.0.1", port: 0 } as const;

/** A puppet in a network of its own, with its loopback up, that hands descriptors out as its descriptor 0. */
class Island implements Disposable {
  readonly #lane: Descriptor;
  readonly #puppet: Held;
  constructor() {
    const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
    this.#lane = new Descriptor(ours);
    this.#puppet = hold(CLONE.NEWNET | (abilities().namespaces & CLONE.NEWUSER), [theirs]);
    self.call("close", theirs);
    raiseLoopback(this.#puppet.kernel);
  }
  #out(descriptor: number): number {
    sendDescriptors(this.#puppet.kernel, 0, Uint8Array.of(0), [descriptor]);
    this.#puppet.kernel.call("close", descriptor);
    return receiveDescriptors(self, this.#lane.number, new Uint8Array(1), { most: 1 }).descriptors[0]!;
  }
  listen(address: SocketAddress = LOOPBACK): Listener {
    return new Listener(this.#out(listenOn(this.#puppet.kernel, address)));
  }
  /** A connection made in there: the socket belongs to that network, whoever connects it. */
  async connect(to: SocketAddress): Promise<Connection> {
    const socket = this.#out(openSocket(this.#puppet.kernel, to.family, SOCK.NONBLOCK));
    connectTo(self, socket, to);
    return connection(socket);
  }
  [Symbol.dispose](): void {
    this.#lane.close();
    this.#puppet[Symbol.dispose]();
  }
}

const text = async (from: Connection) => new Response(from.readable).text();

describe("a listener in a network that has no way out", () => {
  for (const address of [
    LOOPBACK,
    { family: "INET6", address: "::1", port: 0 },
    { family: "UNIX", path: `\0caisson-${crypto.randomUUID()}` },
  ] as const) {
    testNetwork(`of ${address.family} accepts who connects in there, and nobody else can`, async () => {
      using island = new Island();
      using other = new Island();
      using listener = island.listen(address);
      listener.accept(async (connection) => {
        await connection.write(Buffer.from("welcome"));
        connection.close();
      });
      expect(await text(await island.connect(listener.address))).toBe("welcome");
      const elsewhere = other.connect(listener.address).then(text);
      await expect(elsewhere).rejects.toThrow("ECONNREFUSED");
    });
  }

  testNetwork("close() ends what it accepted", async () => {
    using island = new Island();
    using listener = island.listen();
    const accepted = Promise.withResolvers<Connection>();
    listener.accept(accepted.resolve);
    using client = await island.connect(listener.address);
    const connection = await accepted.promise;
    listener.close();
    await connection.closed;
    expect(await client.read()).toBeUndefined();
  });

  testNetwork("has its connections handled as Bun.listen has them, close() ends them", async () => {
    using island = new Island();
    using listener = island.listen();
    listener.listen({ data: (socket, bytes) => void socket.end(`heard ${bytes}`) });
    const connected = await island.connect(listener.address);
    await connected.write(Buffer.from("this"));
    expect(await text(connected)).toBe("heard this");
    const silent = await island.connect(listener.address);
    listener.close();
    expect(await silent.read().catch(() => undefined)).toBeUndefined();
    await expect(island.connect(listener.address).then(text)).rejects.toThrow("ECONNREFUSED");
    expect(() => listener.listen({ data() {} })).toThrow("Cannot accept");
  });
});

describe("serve() and Client", () => {
  /** A server in there, and a client of it. */
  function arena(options: Parameters<Listener["serve"]>[0]) {
    const island = new Island();
    const listener = island.listen();
    const server = listener.serve(options);
    const client = new Client(() => island.connect(listener.address));
    return {
      ...{ island, listener, server, client },
      [Symbol.dispose]() {
        client.close();
        listener.close();
        island[Symbol.dispose]();
      },
    };
  }

  testNetwork("serve HTTP as Bun.serve does: routes, bodies that stream both ways, 20 at once", async () => {
    using at = arena({
      fetch: async (request) => {
        const { pathname } = new URL(request.url);
        if (pathname === "/echo") return new Response(request.body);
        return new Response(`${request.method} ${pathname} ${request.headers.get("host")}`);
      },
    });
    expect(await (await at.client.fetch("http://inside.example/path")).text()).toBe("GET /path inside.example");
    const body = new Uint8Array(8 * 1024 * 1024).fill(7);
    const back = await (await at.client.fetch("http://inside/echo", { method: "POST", body })).bytes();
    expect(Bun.hash(back)).toBe(Bun.hash(body));
    const many = Array.from({ length: 20 }, (_, index) =>
      at.client.fetch(`http://inside/${index}`).then((r) => r.text()),
    );
    expect(await Promise.all(many)).toEqual(many.map((_, index) => `GET /${index} inside`));
  });

  testNetwork(
    "stream: what the server yields is there before it has ended, and a client that goes is noticed",
    async () => {
      const cancelled = Promise.withResolvers<void>();
      using at = arena({
        fetch: () =>
          new Response(
            new ReadableStream({
              pull: async (controller) => {
                controller.enqueue(new Uint8Array(1000));
                await Bun.sleep(1);
              },
              cancel: () => cancelled.resolve(),
            }),
          ),
      });
      const response = await at.client.fetch("http://inside/");
      const reader = response.body!.getReader();
      expect((await reader.read()).value!.length).toBeGreaterThan(0);
      await reader.cancel();
      await cancelled.promise;
    },
  );

  testNetwork("do not follow redirections, which may lead anywhere", async () => {
    using at = arena({ fetch: () => Response.redirect("http://127.0.0.1:1/", 302) });
    expect((await at.client.fetch("http://inside/")).status).toBe(302);
    await expect(at.client.fetch("http://inside/", { redirect: "follow" })).rejects.toThrow("Cannot follow");
  });

  testNetwork("reject where nothing listens in there", async () => {
    using island = new Island();
    using client = new Client(() => island.connect({ ...LOOPBACK, port: 1 }));
    await expect(client.fetch("http://inside/")).rejects.toThrow();
  });

  test("speak WebSocket", async () => {
    using listener = new Listener(listenOn(self, LOOPBACK));
    listener.serve({
      fetch: (request, server) => (server.upgrade(request) ? undefined : new Response("no")),
      websocket: { message: (socket, message) => void socket.send(`echo ${message}`) },
    });
    const socket = new WebSocket(`ws://127.0.0.1:${listener.port}/`);
    const answer = new Promise((resolve, reject) => {
      socket.onmessage = ({ data }) => resolve(data);
      socket.onerror = reject;
    });
    socket.onopen = () => socket.send("x");
    expect(await answer).toBe("echo x");
    const closed = new Promise((resolve) => {
      socket.onclose = resolve;
    });
    listener.close();
    await closed;
  });

  test("hold a server back while its client does not read", async () => {
    using listener = new Listener(listenOn(self, LOOPBACK));
    let sent = 0;
    listener.serve({
      fetch: () =>
        new Response(
          new ReadableStream({
            pull: (controller) => {
              sent += 1024 * 1024;
              if (sent > 256 * 1024 * 1024) controller.close();
              else controller.enqueue(new Uint8Array(1024 * 1024));
            },
          }),
        ),
    });
    using client = await dial({ hostname: "127.0.0.1", port: listener.port });
    await client.write(Buffer.from("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    await client.read();
    for (let before = -1; before !== sent; await Bun.sleep(200)) before = sent;
    expect(sent).toBeLessThan(128 * 1024 * 1024);
  });

  test("leave no file, and no descriptor when closed", async () => {
    using directory = own();
    const files = () => readdirSync(directory.path);
    const descriptors = () => readdirSync("/proc/self/fd").length;
    const cycle = async () => {
      using listener = new Listener(listenOn(self, LOOPBACK));
      listener.serve({ fetch: () => new Response("x") });
      using client = new Client(() => dial({ hostname: "127.0.0.1", port: listener.port }));
      expect(await (await client.fetch("http://inside/")).text()).toBe("x");
      expect(files()).toEqual([]);
    };
    await cycle();
    const open = descriptors();
    for (let count = 0; count < 20; count++) await cycle();
    await until(() => descriptors() <= open + 5);
  });
});

/** A directory for temporary files that nobody else uses meanwhile. */
function own() {
  const path = mkdtempSync(join(tmpdir(), "caisson-test-"));
  const before = process.env.TMPDIR;
  process.env.TMPDIR = path;
  return {
    path,
    [Symbol.dispose]() {
      if (before === undefined) delete process.env.TMPDIR;
      else process.env.TMPDIR = before;
      rmdirSync(path);
    },
  };
}

test("a listener refuses what does not listen, and closes it", () => {
  const socket = openSocket(self, "INET");
  expect(() => new Listener(socket)).toThrow(`Cannot accept on descriptor ${socket}: it does not listen`);
  expect(() => self.call("fcntl", socket, 1, 0)).toThrow("EBADF");
});
