import { afterAll, describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Connection, dial } from "../../src/connection.ts";
import type { Decision } from "../../src/decision.ts";
import { type EgressLimits, egress } from "../../src/egress.ts";
import { Listener } from "../../src/listener.ts";
import { self } from "../../syscalls/kernel.ts";
import { listenOn } from "../../syscalls/linux/network.ts";
import { until } from "../attacks/arena.ts";
import { testIf } from "../syscalls/requirement.ts";

setDefaultTimeout(30_000); // the machine may have other things to do

const curl = Bun.which("curl");
const openssl = Bun.which("openssl");
const testCurl = testIf("curl", curl !== null, "curl is not installed");
const testTls = testIf("openssl", curl !== null && openssl !== null, "curl and openssl are not installed");

/** What a server got, and the answer that it gives to each connection; then it ends, if `ends`. */
function server(answer: string, { ends = true } = {}) {
  const got: string[] = [];
  const listener = Bun.listen<{ index: number }>({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open(socket) {
        socket.data = { index: got.push("") - 1 };
      },
      data(socket, bytes) {
        got[socket.data.index] += bytes.toString("latin1");
        if (!got[socket.data.index]!.includes("\r\n\r\n") || answer === "") return;
        socket.write(answer);
        if (ends) socket.end();
      },
    },
  });
  return { got, port: listener.port, [Symbol.dispose]: () => listener.stop(true) };
}

/** A proxy for these rules, whose names all lead to 127.0.0.1, and who talks to it. */
function proxy(rules: readonly string[], limits: Partial<EgressLimits> = {}) {
  const decisions: Decision[] = [];
  const listener = new Listener(listenOn(self, { family: "INET", address: "127.0.0.1", port: 0 }));
  const way = egress(rules, {
    onDecision: (one) => void decisions.push(one),
    resolve: async () => ["127.0.0.1"],
    limits,
  });
  way.serve(listener);
  return {
    decisions,
    port: listener.port,
    client: () => dial({ hostname: "127.0.0.1", port: listener.port }),
    /** Sends bytes and reads until the proxy ends. */
    async say(bytes: string | Uint8Array, { ends = false } = {}): Promise<string> {
      using client = await this.client();
      await client.write(typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes);
      if (ends) client.end();
      return await all(client);
    },
    [Symbol.dispose]() {
      way.close();
      listener.close();
    },
  };
}

async function all(from: Connection): Promise<string> {
  let text = "";
  for (let bytes = await from.read(); bytes !== undefined; bytes = await from.read())
    text += Buffer.from(bytes).toString("latin1");
  return text;
}

/** Reads as much as is expected. */
async function some(from: Connection, length: number): Promise<string> {
  const bytes = await from.gather(length, (come) => (come.length >= length ? length : undefined));
  return bytes!.toString("latin1");
}

const OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\nhi";
/** Rules that admit a name at 127.0.0.1. */
const rulesFor = (port: number, name = "a.example") => [`${name}:${port}`, `127.0.0.1:${port}`];

describe("http://", () => {
  test("goes on in the form for a server, by its own name, without what is for the proxy", async () => {
    using to = server(OK);
    using by = proxy(rulesFor(to.port));
    const at = `A.example.:${to.port}`;
    const answer = await by.say(
      `GET http://${at}/x?y HTTP/1.1\r\nHost: a.EXAMPLE:${to.port}\r\nProxy-Authorization: secret\r\nConnection: x-one\r\nX-One: 1\r\nX-Two: 2\r\n\r\n`,
    );
    expect(to.got).toEqual([
      `GET /x?y HTTP/1.1\r\nhost: a.example:${to.port}\r\nx-two: 2\r\nconnection: close\r\n\r\n`,
    ]);
    expect(answer).toBe("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi");
    expect(by.decisions).toMatchObject([{ host: "a.example", via: "http", address: "127.0.0.1", allowed: true }]);
  });

  test("carries a body as far as it goes: what stands behind it reaches no server", async () => {
    const second = "POST /second HTTP/1.1\r\nHost: denied.example\r\nContent-Length: 0\r\n\r\n";
    for (const [field, body] of [["Content-Length: 5", "hello"], ["Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"]]) {
      using to = server(OK);
      using by = proxy(rulesFor(to.port));
      const host = `a.example:${to.port}`;
      expect(await by.say(`POST http://${host}/ HTTP/1.1\r\nHost: ${host}\r\n${field}\r\n\r\n${body}${second}`)).toEndWith("hi");
      expect(to.got.length).toBe(1);
      expect(to.got[0]).toStartWith("POST / HTTP/1.1\r\n");
      expect(to.got[0]).not.toContain("second");
    } // biome-ignore format: short
  });

  test("is one request a connection: a second one, to a host that is denied, is answered by nobody", async () => {
    using to = server(OK);
    using by = proxy(rulesFor(to.port));
    const get = (host: string) => `GET http://${host}/ HTTP/1.1\r\nHost: ${host}\r\n\r\n`;
    const answer = await by.say(get(`a.example:${to.port}`) + get("denied.example"));
    expect(answer.match(/HTTP\/1\.1/g)).toEqual(["HTTP/1.1"]);
    expect([to.got.length, by.decisions.length]).toEqual([1, 1]);
  });

  test("interim answers come through, a change of protocol does not", async () => {
    using early = server(`HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n${OK}`);
    using by = proxy(rulesFor(early.port));
    const get = (port: number) => `GET http://a.example:${port}/ HTTP/1.1\r\nHost: a.example:${port}\r\n\r\n`;
    expect(await by.say(get(early.port))).toMatch(
      /^HTTP\/1.1 100 Continue\r\n\r\nHTTP\/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP\/1.1 200/,
    );
    using change = server("HTTP/1.1 101 Switching Protocols\r\n\r\n");
    using other = proxy(rulesFor(change.port));
    expect(await other.say(get(change.port))).toMatch(/^HTTP\/1.1 502 [\s\S]*nobody asked for/);
  });

  for (const [what, answer] of Object.entries({
    nothing: "HTTP",
    "no HTTP": "220 mail\r\n\r\n",
    "a line feed": "HTTP/1.1 200 OK\nX: y\r\n\r\n",
  })) {
    test(`a server that answers ${what} is a 502`, async () => {
      using to = server(answer);
      using by = proxy(rulesFor(to.port));
      expect(
        await by.say(`GET http://a.example:${to.port}/ HTTP/1.1\r\nHost: a.example:${to.port}\r\n\r\n`),
      ).toStartWith("HTTP/1.1 502 ");
    });
  }

  test("a denial is a 403 that names the rule, a server that is not there a 502", async () => {
    using by = proxy(rulesFor(1));
    expect(await by.say("GET http://b.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n")).toMatch(
      /^HTTP\/1.1 403 [\s\S]*no rule names b.example:80\n$/,
    );
    expect(await by.say("GET http://0x7f.1:2/ HTTP/1.1\r\nHost: 127.0.0.1:2\r\n\r\n")).toMatch(
      /^HTTP\/1.1 403 [\s\S]*no rule names 127.0.0.1:2 \(loopback\)\n$/,
    );
    expect(await by.say("GET http://a%00b/ HTTP/1.1\r\nHost: a%00b\r\n\r\n")).toMatch(/^HTTP\/1.1 403 /);
    expect(await by.say("GET http://a.example:1/ HTTP/1.1\r\nHost: a.example:1\r\n\r\n")).toMatch(
      /^HTTP\/1.1 502 [\s\S]*ECONNREFUSED\n$/,
    );
    expect(by.decisions.map(({ allowed }) => allowed)).toEqual([false, false, false, true]);
  });
});

describe("what could be read in two ways is a 400, and reaches nobody", () => {
  const H = "Host: a.example\r\n";
  const G = "GET http://a.example/ HTTP/1.1\r\n";
  for (const [what, bytes] of Object.entries({
    "a path alone": `GET / HTTP/1.1\r\n${H}\r\n`, "https": `GET https://a.example/ HTTP/1.1\r\n${H}\r\n`, "another scheme": `GET ftp://a.example/ HTTP/1.1\r\n${H}\r\n`,
    "a user": `GET http://u@a.example/ HTTP/1.1\r\n${H}\r\n`, "a user that looks like a host": `GET http://a.example:80@b.example/ HTTP/1.1\r\n${H}\r\n`,
    "a fragment": `GET http://a.example/#x HTTP/1.1\r\n${H}\r\n`, "no host": `GET http:///x HTTP/1.1\r\n${H}\r\n`, "an empty port": `GET http://a.example:/ HTTP/1.1\r\n${H}\r\n`,
    "no Host": `${G}\r\n`, "two Hosts": `${G}${H}${H}\r\n`, "another Host": `${G}Host: b.example\r\n\r\n`, "another port in Host": `${G}Host: a.example:81\r\n\r\n`,
    "an empty Host": `${G}Host:\r\n\r\n`, "a length and chunks": `${G}${H}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n`, "two lengths": `${G}${H}Content-Length: 1\r\nContent-Length: 1\r\n\r\n`,
    "a bare line feed": `${G}${H}X: y\nZ: z\r\n\r\n`, "a folded field": `${G}${H} b\r\n\r\n`, "a space before a colon": `${G}Host : a.example\r\n\r\n`,
    "Connection: Host": `${G}${H}Connection: Host\r\n\r\n`, "CONNECT without a port": `CONNECT a.example HTTP/1.1\r\n${H}\r\n`, "CONNECT to a URI": `CONNECT http://a.example:80 HTTP/1.1\r\n${H}\r\n`,
    "CONNECT with a user": `CONNECT u:p@a.example:80 HTTP/1.1\r\n${H}\r\n`, "CONNECT with a path": `CONNECT a.example:80/x HTTP/1.1\r\n${H}\r\n`,
    "CONNECT with a body": `CONNECT a.example:80 HTTP/1.1\r\n${H}Content-Length: 1\r\n\r\nx`, "an empty line first": `\r\n${G}${H}\r\n`,
    "SOCKS4": "\x04\x01\x00\x50\x7f\x00\x00\x01\x00\r\n\r\n", "TLS": "\x16\x03\x01\x00\x05hello\r\n\r\n", "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
  })) {
    test(what, async () => {
      using by = proxy(["a.example:80", "b.example:80"]);
      expect(await by.say(bytes)).toMatch(what === "HTTP/2" ? /^HTTP\/1.1 505 / : /^HTTP\/1.1 400 /);
      expect(by.decisions).toEqual([]);
    });
  } // biome-ignore format: a table

  test("a chunk that is malformed ends the request, of which the server got no more", async () => {
    using to = server("");
    using by = proxy(rulesFor(to.port));
    const host = `a.example:${to.port}`;
    expect(
      await by.say(
        `POST http://${host}/ HTTP/1.1\r\nHost: ${host}\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n`,
      ),
    ).toStartWith("HTTP/1.1 400 ");
    expect(to.got.join("")).not.toContain("hello");
  });

  test("a head without an end is a 431 at its limit, a 400 is no matter of how it is cut up", async () => {
    using by = proxy([], { headBytes: 2000 });
    expect(await by.say(`GET http://a/ HTTP/1.1\r\n${"X: y\r\n".repeat(1000)}`)).toStartWith("HTTP/1.1 431 ");
    using client = await by.client();
    for (const byte of Buffer.from("GET / HTTP/1.1\r\n\r\n")) await client.write(Uint8Array.of(byte));
    expect(await all(client)).toStartWith("HTTP/1.1 400 ");
  });
});

describe("a client that does not say in time what it wants is cut off", () => {
  for (const start of [
    "",
    "GET http://a.example/ HTTP/1.1\r\n",
    "\x05",
    "\x05\x01\x00",
    "\x05\x01\x00\x05\x01\x00\x03\xff",
  ]) {
    test(`that says ${JSON.stringify(start)}, and then one byte after the other`, async () => {
      using by = proxy([], { headMs: 300 });
      for (const drips of [false, true]) {
        using client = await by.client();
        let open = true;
        void client.closed.then(() => {
          open = false;
        });
        await client.write(Buffer.from(start, "latin1")).catch(() => {}); // its time may be over by now
        // Ends by the proxy alone: the client never does.
        const ended = all(client).catch(() => {});
        while (drips && start !== "" && open) {
          await client.write(Buffer.from("x")).catch(() => {});
          await Bun.sleep(5);
        }
        await ended;
      }
      expect(by.decisions).toEqual([]);
    });
  }
});

test("a tunnel that is silent for idleMs ends", async () => {
  using to = server("", { ends: false });
  using by = proxy(rulesFor(to.port), { idleMs: 50 });
  expect(await by.say(`CONNECT a.example:${to.port} HTTP/1.1\r\n\r\n`)).toBe(
    "HTTP/1.1 200 Connection established\r\n\r\n",
  );
});

test("one that is not silent goes on: whatever comes, its time begins anew", async () => {
  const idleMs = 1_234_567_890; // no other timer's
  using timers = spyOn(globalThis, "setTimeout");
  using to = server("", { ends: false });
  using by = proxy(rulesFor(to.port), { idleMs });
  using client = await by.client();
  await client.write(Buffer.from(`CONNECT a.example:${to.port} HTTP/1.1\r\n\r\n`));
  await some(client, 39);
  const { value: timer } = timers.mock.results[timers.mock.calls.findIndex(([, delayMs]) => delayMs === idleMs)]!;
  using anew = spyOn(timer as Timer, "refresh");
  for (const said of ["x", "xx", "xxx"]) {
    anew.mockClear();
    await client.write(Buffer.from("x"));
    await until(() => to.got[0] === said);
    expect(anew).toHaveBeenCalled();
  }
});

describe("CONNECT", () => {
  test("makes a tunnel, which carries what was sent ahead, either way, and each end by itself", async () => {
    using to = server("pong", { ends: false });
    using by = proxy(rulesFor(to.port));
    using client = await by.client();
    await client.write(Buffer.from(`CONNECT a.example:${to.port} HTTP/1.1\r\nHost: a.example\r\n\r\nping\r\n\r\n`));
    expect(await some(client, 43)).toBe("HTTP/1.1 200 Connection established\r\n\r\npong");
    expect(to.got).toEqual(["ping\r\n\r\n"]);
    client.end();
    expect(await all(client)).toBe("");
  });

  test("a client that ends without a word is heard to end, and the server may still answer", async () => {
    using to = new Listener(listenOn(self, { family: "INET", address: "127.0.0.1", port: 0 }));
    to.accept(async (connection) => {
      if ((await connection.read()) === undefined) await connection.write(Buffer.from("after the end"));
      connection.close();
    });
    using by = proxy(rulesFor(to.port));
    const connect = `CONNECT a.example:${to.port} HTTP/1.1\r\n\r\n`;
    expect(await by.say(connect, { ends: true })).toEndWith("\r\n\r\nafter the end");
  });

  test("a server that speaks first is heard", async () => {
    const listener = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: { open: (socket) => void socket.write("220 hello"), data() {} },
    });
    using by = proxy(rulesFor(listener.port));
    using client = await by.client();
    await client.write(Buffer.from(`CONNECT a.example:${listener.port} HTTP/1.1\r\n\r\n`));
    expect(await some(client, 48)).toEndWith("220 hello");
    listener.stop(true);
  });

  test("a denial is a 403, by name, by address and by what the name leads to", async () => {
    using by = proxy(["a.example:443", "*.b.example:443"]);
    const connect = (to: string) => by.say(`CONNECT ${to} HTTP/1.1\r\n\r\n`);
    expect(await connect("c.example:443")).toMatch(/^HTTP\/1.1 403 [\s\S]*no rule names c.example:443\n$/);
    expect(await connect("a.example:80")).toStartWith("HTTP/1.1 403 ");
    expect(await connect("b.example:443")).toStartWith("HTTP/1.1 403 ");
    expect(await connect("[::ffff:127.0.0.1]:443")).toMatch(/no rule names 127.0.0.1:443 \(loopback\)\n$/);
    expect(await connect("a.example:443")).toMatch(
      /^HTTP\/1.1 403 [\s\S]*it is at 127.0.0.1 \(loopback\), and no rule names 127.0.0.1:443\n$/,
    );
    expect(by.decisions.every(({ allowed, via }) => !allowed && via === "connect")).toBe(true);
  });

  test("holds back a server whose client does not read, and a client whose server does not", async () => {
    let sent = 0;
    const piece = new Uint8Array(256 * 1024);
    const push = (socket: Bun.Socket<undefined>) => {
      for (let taken = piece.length; taken === piece.length; ) {
        taken = Math.max(0, socket.write(piece));
        sent += taken;
      }
    };
    const flood = Bun.listen<undefined>({
      hostname: "127.0.0.1",
      port: 0,
      socket: { open: push, drain: push, data: (socket) => void socket.pause() },
    });
    using by = proxy(rulesFor(flood.port));
    using client = await by.client();
    await client.write(Buffer.from(`CONNECT a.example:${flood.port} HTTP/1.1\r\n\r\n`));
    await client.gather(1, () => 1);
    client.cancel();
    for (let before = -1; before !== sent; await Bun.sleep(200)) before = sent;
    expect(sent).toBeLessThan(48 * 1024 * 1024);
    let written = 0;
    void (async () => {
      for (; written < 256; written++) await client.write(new Uint8Array(1024 * 1024));
    })().catch(() => {});
    for (let before = -1; before !== written; await Bun.sleep(200)) before = written;
    expect(written).toBeLessThan(48);
    flood.stop(true);
  });
});

describe("SOCKS5", () => {
  const GREETING = [5, 1, 0];
  const name = (host: string, port: number) => [
    5,
    1,
    0,
    3,
    host.length,
    ...Buffer.from(host, "latin1"),
    port >> 8,
    port & 0xff,
  ];
  const ipv4 = (bytes: number[], port: number) => [5, 1, 0, 1, ...bytes, port >> 8, port & 0xff];
  const ipv6 = (bytes: number[], port: number) => [
    5,
    1,
    0,
    4,
    ...Array(16 - bytes.length).fill(0),
    ...bytes,
    port >> 8,
    port & 0xff,
  ];
  const hex = (text: string) => Buffer.from(text, "latin1").toString("hex");
  const reply = (code: number) => `0500050${code}0001000000000000`;

  test("connects by name, IPv4 and mapped IPv6, sent at once or byte by byte", async () => {
    using to = server("pong", { ends: false });
    using by = proxy(rulesFor(to.port));
    for (const request of [
      name("A.example.", to.port),
      ipv4([127, 0, 0, 1], to.port),
      ipv6([255, 255, 127, 0, 0, 1], to.port),
      name("0x7f.1", to.port),
    ]) {
      for (const size of [1, 1000]) {
        using client = await by.client();
        const bytes = Buffer.from([...GREETING, ...request, ...Buffer.from("ping\r\n\r\n")]);
        for (let at = 0; at < bytes.length; at += size) await client.write(bytes.subarray(at, at + size));
        expect(hex(await some(client, 16))).toBe(reply(0) + hex("pong"));
      }
    }
    expect(by.decisions.every(({ allowed, via }) => allowed && via === "socks5")).toBe(true);
  });

  for (const [what, request, code] of [
    ["a name without a rule", name("b.example", 1), 2], ["a name at another port", name("a.example", 2), 2], ["loopback", ipv4([127, 0, 0, 1], 80), 2],
    ["metadata", ipv4([169, 254, 169, 254], 80), 2], ["::1", ipv6([1], 80), 2], ["mapped loopback", ipv6([255, 255, 127, 0, 0, 1], 80), 2], ["port 0", name("a.example", 0), 2],
    ["a name with a NUL", name("a.example\0.evil", 1), 2], ["an empty name", name("", 1), 2], ["a name that is an address", name("127.1", 80), 2],
    ["a server that is not there", name("a.example", 1), 5], ["BIND", [5, 2, 0, 1, 127, 0, 0, 1, 0, 1], 7], ["UDP", [5, 3, 0, 1, 127, 0, 0, 1, 0, 1], 7],
    ["an unknown kind of address", [5, 1, 0, 2, 9], 8], ["a reserved byte", [5, 1, 1, 1, 127, 0, 0, 1, 0, 1], 1], ["another version", [4, 1, 0, 1, 127, 0, 0, 1, 0, 1], 1],
  ] as const) {
    test(`replies ${code} to ${what}`, async () => {
      using by = proxy(rulesFor(1));
      expect(hex(await by.say(Uint8Array.from([...GREETING, ...request])))).toBe(reply(code));
    });
  } // biome-ignore format: a table

  test("takes no authentication but none, and half a request is no request", async () => {
    using by = proxy(rulesFor(1));
    expect(hex(await by.say(Uint8Array.of(5, 1, 2)))).toBe("05ff");
    expect(hex(await by.say(Uint8Array.of(5, 0)))).toBe("05ff");
    for (const half of [[5], [5, 3, 0], [...GREETING, 5, 1], [...GREETING, ...name("a.example", 1).slice(0, -1)]]) {
      const answer = await by.say(Uint8Array.from(half), { ends: true });
      expect(hex(answer)).toBe(half.length > 3 ? "0500" : "");
    }
    expect(by.decisions).toEqual([]);
  });
});

describe("a client of TLS", () => {
  const word = (number: number) => [number >> 8, number & 0xff];
  const sized = (bytes: readonly number[]) => [...word(bytes.length), ...bytes];
  function hello(serverName: string): Buffer {
    const extension = [0, 0, ...sized(sized([0, ...sized([...Buffer.from(serverName)])]))];
    const body = [3, 3, ...Array<number>(32).fill(7), 0, ...sized([0x13, 1]), 1, 0, ...sized(extension)];
    return Buffer.from([22, 3, 1, ...sized([1, 0, ...sized(body)])]);
  }
  test("must ask for the name that it was let through by; of another, the server gets nothing", async () => {
    using to = server("", { ends: false });
    using by = proxy(rulesFor(to.port));
    const tunnel = async (first: Buffer) => {
      const client = await by.client();
      await client.write(Buffer.concat([Buffer.from(`CONNECT a.example:${to.port} HTTP/1.1\r\n\r\n`), first]));
      await some(client, 39);
      return client;
    };
    const [good, bad] = [hello("A.EXAMPLE"), hello("b.example")];
    using allowed = await tunnel(good);
    await until(() => to.got[0]?.length === good.length);
    expect(to.got[0]).toBe(good.toString("latin1"));
    for (const first of [bad, Buffer.from([22, 3, 1, 0, 0])]) {
      using denied = await tunnel(first);
      expect(await all(denied).catch(() => "")).toBe("");
    }
    expect(to.got.slice(1).join("")).toBe("");
    expect(by.decisions.filter((one) => !one.allowed).map(({ reason }) => reason)).toEqual([
      'the client asks for "b.example" by TLS',
      "Cannot read the client's first TLS message: it is malformed",
    ]);
    allowed.end();
  });
});

describe("curl, as it is", () => {
  const directory = mkdtempSync(join(tmpdir(), "caisson-proxy-"));
  afterAll(() => rmSync(directory, { recursive: true }));
  const run = async (environment: Record<string, string>, ...args: string[]) => {
    const child = Bun.spawn([curl!, "-sS", "-m", "20", ...args], { env: environment, stderr: "pipe" });
    const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
    return { out, err, code };
  };
  const echo = (request: Request) =>
    request.method === "POST"
      ? new Response(request.body)
      : new Response(`${request.method} ${request.headers.get("host")}`);

  testCurl("gets and posts by http_proxy, and hears of a denial", async () => {
    using to = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: echo });
    using by = proxy(rulesFor(to.port!));
    const environment = { http_proxy: `http://127.0.0.1:${by.port}` };
    const url = `http://a.example:${to.port}/`;
    expect((await run(environment, url)).out).toBe(`GET a.example:${to.port}`);
    expect((await run(environment, url, url)).out).toBe(`GET a.example:${to.port}`.repeat(2));
    const big = "x".repeat(3_000_000);
    await Bun.write(join(directory, "body"), big);
    for (const how of [[], ["-H", "Transfer-Encoding: chunked"]]) {
      expect((await run(environment, ...how, "--data-binary", `@${join(directory, "body")}`, url)).out).toBe(big);
    }
    expect((await run(environment, "http://b.example/")).out).toBe(
      "Cannot connect to b.example:80: no rule names b.example:80\n",
    );
  });

  testTls(
    "reaches a server of TLS by CONNECT and by SOCKS5, with the name left to the proxy, and no other by its name",
    async () => {
      const [key, cert] = [join(directory, "key"), join(directory, "cert")];
      const made = Bun.spawnSync([
      openssl!, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
      "-subj", "/CN=a.example", "-addext", "subjectAltName=DNS:a.example,DNS:b.example",
    ]); // biome-ignore format: a command line
      expect(made.exitCode).toBe(0);
      using to = Bun.serve({
        hostname: "127.0.0.1",
        port: 0,
        tls: { key: Bun.file(key), cert: Bun.file(cert) },
        fetch: echo,
      });
      using by = proxy(rulesFor(to.port!));
      const url = `https://a.example:${to.port}/`;
      const at = `127.0.0.1:${by.port}`;
      const trust = ["--cacert", cert];
      for (const environment of [{ https_proxy: `http://${at}` }, { all_proxy: `socks5h://${at}` }]) {
        expect((await run(environment, ...trust, url)).out).toBe(`GET a.example:${to.port}`);
      }
      expect((await run({}, ...trust, "--socks5-hostname", at, url)).out).toBe(`GET a.example:${to.port}`);
      // A tunnel to one name, in which the other is asked for.
      const fronted = await run(
        { https_proxy: `http://${at}` },
        ...trust,
        "--connect-to",
        `b.example:${to.port}:a.example:${to.port}`,
        `https://b.example:${to.port}/`,
      );
      expect([fronted.out, fronted.code]).toEqual(["", 35]);
      expect(by.decisions.at(-1)).toMatchObject({
        host: "a.example",
        allowed: false,
        reason: 'the client asks for "b.example" by TLS',
      });
      const denied = await run({ https_proxy: `http://${at}` }, "https://c.example/");
      expect(denied.err).toContain("403");
      expect((await run({}, "--socks5-hostname", at, "https://c.example/")).code).toBe(97);
    },
  );
});

test("no more clients than allowed are served; when one goes, another may come", async () => {
  using by = proxy([], { connections: 2 });
  const held = [await by.client(), await by.client()];
  // The proxy has both when it answers the second.
  await held[1]!.write(Uint8Array.of(5, 1, 0));
  await some(held[1]!, 2);
  expect(await by.say("GET / HTTP/1.1\r\n\r\n").catch(() => "")).toBe("");
  held[0]!.end();
  held[0]!.close();
  const answer = async () => by.say("GET / HTTP/1.1\r\n\r\n").catch(() => "");
  let text = "";
  while (text === "") text = await answer();
  expect(text).toStartWith("HTTP/1.1 400 ");
  held[1]!.close();
});
