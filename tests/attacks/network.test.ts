/** Attacks on the network: nothing can be reached, and nothing can listen. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync } from "node:fs";
import { join } from "node:path";
import type { Actor } from "../../src/index.ts";
import { inside, Outside, scratch } from "./arena.ts";

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
    });

    test("a unix socket is out of reach even where its directory is granted", async () => {
      const before = connections;
      expectRefused(await actor().call.local(path));
      expect(connections).toBe(before);
      expect(await control.call.local(path)).toEqual({ bun: "done", raw: "done" });
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
  expect(await nothing.call.detour(4, path)).toBe("EISCONN");
  expect(await nothing.call.detour(4, name)).toBe("EISCONN");
  expect(connections).toBe(before);
});
