/** Attacks on the network: nothing can be reached, and nothing can listen. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync } from "node:fs";
import { join } from "node:path";
import { type Actor, network } from "../../src/index.ts";
import { failure, inside, Outside, openDescriptors, scratch, until } from "./arena.ts";

type Network = typeof import("./fixtures/network.ts");

setDefaultTimeout(30_000); // the machine may have other things to do

const base = scratch();
const granted = base.directory("granted");
const path = join(granted, "socket");
const name = `@caisson-${crypto.randomUUID()}`;

/** What the host offers to everyone who can reach it. */
let connections = 0;
const handlers = { data() {}, open: () => void connections++ };
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request, self) {
    connections++;
    return self.upgrade(request) ? undefined : new Response("reached");
  },
  websocket: { message() {} },
});
const port = server.port!;
const abstract = Bun.listen({ unix: name.replace("@", "\0"), socket: handlers });
const named = Bun.listen({ unix: path, socket: handlers });
chmodSync(path, 0o777);

let nothing: Actor<Network>;
let writer: Actor<Network>;
let control: Outside<Network>;
beforeAll(async () => {
  control = new Outside("network");
  [nothing, writer] = await Promise.all([inside<Network>("network"), inside<Network>("network", { write: [granted] })]);
});
afterAll(async () => {
  await Promise.all([nothing, writer].map((actor) => actor[Symbol.asyncDispose]()));
  await control[Symbol.asyncDispose]();
  await server.stop(true);
  abstract.stop(true);
  named.stop(true);
  base[Symbol.dispose]();
});

/** Every outcome is a failure; the raw one is the filter's. */
function expectRefused(outcomes: Readonly<Record<string, string>>): void {
  expect(Object.entries(outcomes).filter(([, outcome]) => outcome === "done")).toEqual([]);
  if ("raw" in outcomes) expect(outcomes.raw).toBe("EPERM");
}

for (const [grants, actor] of [
  ["nothing", () => nothing],
  ["a directory", () => writer],
] as const) {
  describe(`with ${grants} granted`, () => {
    test("a server on the host's loopback is out of reach: fetch, Bun.connect, node:net, WebSocket, connect(2)", async () => {
      const before = connections;
      expectRefused(await actor().call.reach(port));
      expect(connections).toBe(before);
      expect(await control.call.reach(port)).toEqual({
        fetch: "done",
        connect: "done",
        node: "done",
        webSocket: "done",
        raw: "done",
      });
      expect(connections).toBeGreaterThan(before);
    });

    test("nothing can listen: Bun.listen, Bun.serve, bind(2)", async () => {
      expectRefused(await actor().call.listen());
      expect(await control.call.listen()).toEqual({ listen: "done", serve: "done", raw: "done" });
    });

    test("no datagram leaves", async () => {
      expectRefused(await actor().call.datagram(port));
      expect(await control.call.datagram(port)).toEqual({ bun: "done", node: "done", raw: "done" });
    });

    test("no name resolves, and so none carries anything out", async () => {
      expectRefused(await actor().call.resolve("localhost"));
      expect(await control.call.resolve("localhost")).toEqual({ node: "done", libc: "done", bun: "done" });
    });

    test("abstract unix sockets are out of reach", async () => {
      const before = connections;
      expectRefused(await actor().call.local(name));
      expect(connections).toBe(before);
      expect(await control.call.local(name)).toEqual({ bun: "done", raw: "done" });
      await until(() => connections >= before + 2); // who connects is through before who listens hears of it
    });

    test("a unix socket is out of reach even where its directory is granted", async () => {
      const before = connections;
      expectRefused(await actor().call.local(path));
      expect(connections).toBe(before);
      expect(await control.call.local(path)).toEqual({ bun: "done", raw: "done" });
      await until(() => connections >= before + 2); // who connects is through before who listens hears of it
    });
  });
}

/** socket(2) of each family, with a type and protocol that some kernel has; what one lacks is EAFNOSUPPORT outside. */
const FAMILIES = {
  UNIX: [1, 1, 0], INET: [2, 1, 0], "INET ICMP": [2, 2, 1], "INET RAW": [2, 3, 1], "INET SCTP": [2, 1, 132], INET6: [10, 1, 0],
  NETLINK: [16, 3, 0], "NETLINK AUDIT": [16, 3, 9], "NETLINK KOBJECT": [16, 3, 15], "NETLINK XFRM": [16, 3, 6], PACKET: [17, 3, 0],
  TIPC: [30, 5, 0], BLUETOOTH: [31, 3, 0], ALG: [38, 5, 0], VSOCK: [40, 1, 0], KCM: [41, 5, 0], SMC: [43, 1, 0], XDP: [44, 3, 0],
} as const; // biome-ignore format: a table

for (const [family, [domain, type, protocol]] of Object.entries(FAMILIES)) {
  test(`socket(AF_${family}) is EPERM`, async () => {
    expect(await nothing.call.call("socket", domain, type, protocol)).toBe("EPERM");
    const outside = await control.call.call("socket", domain, type, protocol);
    // Without the wall root gets a socket, or hears that this kernel has no such family. Users are refused some by the kernel, too.
    if (process.getuid!() === 0) expect(outside).not.toBe("EPERM");
    else expect(outside).toBeString();
  });
}

test("the calls around sockets are EPERM", async () => {
  for (const call of [
    "socketpair",
    "bind",
    "listen",
    "accept",
    "accept4",
    "connect",
    "setsockopt",
    "sendmmsg",
    "recvmmsg",
  ] as const) {
    expect(await nothing.call.call(call, -1, 0, 0, 0, 0)).toBe("EPERM");
    expect(await control.call.call(call, -1, 0, 0, 0, 0)).not.toBe("EPERM");
  }
});

test("the link's sockets carry nothing to another address", async () => {
  const before = connections;
  expect(await nothing.call.detour(3, path)).toBe("EISCONN");
  expect(await nothing.call.detour(3, name)).toBe("EISCONN");
  expect(connections).toBe(before);
});

describe("an actor that was handed a network", () => {
  const rule = `127.0.0.1:${port}`;
  const url = `http://${rule}/`;
  const frame = (text: string) => Buffer.concat([Uint8Array.of(text.length + 1, 0, 0, 0, 1), Buffer.from(text)]);
  const GARBAGE = {
    "a length of 4 GiB": Uint8Array.of(0xff, 0xff, 0xff, 0xff, 1),
    "a length of nothing": Uint8Array.of(0, 0, 0, 0),
    "more bytes than a wish may have": Uint8Array.of(1, 0, 1, 0),
    "an unknown codec": Uint8Array.of(2, 0, 0, 0, 9, 0),
    "no JSON": frame("{"),
    "another value": frame("[]"),
    "a wish of the wrong shape": frame('{"connect":1}'),
    "two wishes in one": frame(`{"connect":"${rule}","fetch":"${url}","method":"GET","headers":[],"body":false}`),
    "a capability": Uint8Array.of(7, 0, 0, 0, 0, 0xd9, 0xca, 0x01, 0x00, 0, 0),
    text: Buffer.from("GET / HTTP/1.1\r\n\r\n"),
  };

  test("reaches nothing but what its rules name by any other way", async () => {
    using net = network([rule]);
    await using actor = await inside<Network>("network");
    expectRefused(await actor.call.withNetwork(net, port));
    expect(await actor.call.use(net, url)).toBe("reached");
  });

  for (const [what, bytes] of Object.entries(GARBAGE)) {
    test(`and says what is no wish (${what}) loses it; others of the same network do not`, async () => {
      using net = network([rule]);
      await using other = await inside<Network>("network");
      expect(await other.call.use(net, url)).toBe("reached");
      await using actor = await inside<Network>("network");
      const [stream, queue] = await actor.call.garbleNetwork(net, bytes);
      expect(["ended", "ECONNRESET"]).toContain(stream!);
      expect(queue).toBe("ended");
      expect(await other.call.use(net, url)).toBe("reached");
    });
  }

  test("can put nothing into the queue: EPIPE", async () => {
    using net = network([rule]);
    await using actor = await inside<Network>("network");
    expect(await actor.call.stuffQueue(net)).toBe("EPIPE");
    expect(await actor.call.use(net, url)).toBe("reached");
  });

  test("and lets go of a stream loses it", async () => {
    using net = network([rule]);
    await using actor = await inside<Network>("network");
    expect(await actor.call.dropStream(net)).toBe("ended");
  });

  test("and says half a wish loses it when its time is over", async () => {
    using net = network([rule], { limits: { headMs: 100 } });
    await using actor = await inside<Network>("network");
    const [, queue] = await actor.call.garbleNetwork(net, Uint8Array.of(50, 0, 0, 0, 1));
    expect(queue).toBe("ended");
  });

  test("and floods it takes no more of the host than its share, and that only while it lives", async () => {
    const before = openDescriptors();
    {
      using net = network([rule]);
      await using actor = await inside<Network>("network");
      expect(await actor.call.floodNetwork(net, rule, 64)).toBe(64);
      // Two for each stream, its own end and the server's; the server of this test has as many.
      expect(openDescriptors() - before).toBeLessThan(3 * 64 + 32);
      await using other = await inside<Network>("network");
      expect(await other.call.use(net, url)).toBe("reached");
      actor.kill();
      await actor.exited;
      await until(() => openDescriptors() < before + 32);
    }
    await until(() => openDescriptors() <= before);
  });

  test("cannot send one to the host", async () => {
    using net = network([rule]);
    await using actor = await inside<Network>("network");
    const { name } = (await failure(actor.call.echo(net))) as Error;
    expect(name).toBe("TypeError");
  });
});
