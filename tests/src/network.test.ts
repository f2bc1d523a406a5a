import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { accepting, carry } from "../../src/connection.ts";
import type { Decision } from "../../src/decision.ts";
import { type Actor, type Network, type NetworkOptions, network, spawn } from "../../src/index.ts";
import { testIf } from "../syscalls/requirement.ts";

setDefaultTimeout(30_000); // the machine may have other things to do

type Reaching = typeof import("./fixtures/reaching.ts");
const MIB = 1024 * 1024;

const silent = Promise.withResolvers<void>();
const arrived = Promise.withResolvers<void>();
let requests = 0;
let aborted = 0;
let made = 0;

async function answer(request: Request): Promise<Response> {
  requests++;
  const { pathname } = new URL(request.url);
  switch (pathname) {
    case "/echo":
      return Response.json({
        method: request.method,
        text: await request.text(),
        headers: Object.fromEntries(request.headers),
      });
    case "/count": {
      let count = 0;
      for await (const bytes of request.body!) count += bytes.length;
      return new Response(String(count));
    }
    case "/early":
      return new Response("early");
    case "/elsewhere":
      return Response.redirect("http://169.254.169.254/latest/meta-data/", 302);
    case "/nothing":
      return new Response(null, { status: 204 });
    case "/packed":
      return new Response(Bun.gzipSync(Buffer.from("here")), { headers: { "content-encoding": "gzip" } });
    case "/silent":
      request.signal.addEventListener("abort", () => void aborted++);
      arrived.resolve();
      await silent.promise;
      return new Response();
    case "/endless":
      return new Response(
        new ReadableStream({
          pull(controller) {
            made++;
            controller.enqueue(new Uint8Array(MIB));
          },
        }),
      );
    default:
      return new Response("here", { headers: { "x-server": "ours" } });
  }
}

const server = Bun.serve({ hostname: "127.0.0.1", port: 0, idleTimeout: 0, fetch: answer });
const place = `127.0.0.1:${server.port}`;
const at = (path: string) => `http://${place}${path}`;
/** Sends its bytes back, a word ahead of them. */
const echo = Bun.listen({
  hostname: "127.0.0.1",
  port: 0,
  allowHalfOpen: true,
  socket: accepting(async (connection) => {
    await connection.write(Buffer.from("> "));
    await carry(connection, connection);
  }),
});
/** Breaks off inside of what it has announced. */
const liar = Bun.listen({
  hostname: "127.0.0.1",
  port: 0,
  socket: {
    data(socket) {
      socket.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nnot all");
      socket.end();
    },
  },
});

let actor: Actor<Reaching>;
const decisions: Decision[] = [];
const nets: Network[] = [];

/** A network that tells what it decides, closed after the test. */
function net(rules: readonly string[] = [place], options: NetworkOptions = {}): Network {
  const made = network(rules, { onDecision: (decision) => void decisions.push(decision), ...options });
  nets.push(made);
  return made;
}

beforeAll(async () => {
  actor = await spawn<Reaching>(new URL("./fixtures/reaching.ts", import.meta.url));
});
afterEach(() => {
  for (const each of nets.splice(0)) each.close();
  decisions.length = 0;
});
afterAll(async () => {
  await actor[Symbol.asyncDispose]();
  silent.resolve();
  await server.stop(true);
  echo.stop(true);
  liar.stop(true);
});

test("network() throws TypeError for a rule that is not clearly one", () => {
  expect(() => network(["example.com"])).toThrow(TypeError);
});

describe("fetch() of an actor", () => {
  test("reaches what a rule names, and the decision is told", async () => {
    const got = await actor.call.get(net(), at("/"));
    expect(got).toMatchObject({ status: 200, url: at("/"), text: "here", headers: { "x-server": "ours" } });
    expect(decisions).toEqual([
      { host: "127.0.0.1", port: server.port!, via: "actor", address: "127.0.0.1", allowed: true, rule: place },
    ]);
  });

  test("is refused without a network: the actor itself has none", async () => {
    expect(await actor.call.own()).not.toContain("Response");
  });

  test("sends method, fields and body", async () => {
    const { text } = await actor.call.get(net(), at("/echo"), {
      method: "PUT",
      body: "hello",
      headers: { "x-mine": "1" },
    });
    expect(JSON.parse(text)).toMatchObject({ method: "PUT", text: "hello", headers: { "x-mine": "1", host: place } });
  });

  test("carries a large body out, and hears an answer that comes before its end", async () => {
    expect(await actor.call.upload(net(), at("/count"), 20)).toBe(String(20 * MIB));
    expect(await actor.call.upload(net(), at("/early"), 20)).toBe("early");
  });

  test("gives answers without a body", async () => {
    const way = net();
    expect(await actor.call.get(way, at("/nothing"))).toMatchObject({ status: 204, text: "" });
    expect(await actor.call.get(way, at("/"), { method: "HEAD" })).toMatchObject({ status: 200, text: "" });
  });

  test("gives bodies as they were sent: nothing is unpacked in the host", async () => {
    const { headers, text } = await actor.call.get(net(), at("/packed"));
    expect(headers["content-encoding"]).toBe("gzip");
    expect(text).not.toBe("here");
  });

  test("follows no redirection", async () => {
    const { status, headers } = await actor.call.get(net(), at("/elsewhere"));
    expect([status, headers.location]).toEqual([302, "http://169.254.169.254/latest/meta-data/"]);
    expect(decisions).toHaveLength(1);
  });

  test("rejects with EgressDenied for what no rule names, and nothing is reached", async () => {
    const before = requests;
    const way = net(["api.test:443"], { resolve: async () => ["127.0.0.1"] });
    for (const url of [
      at("/"),
      "http://169.254.169.254/",
      "https://127.1:443/",
      "http://api.test/",
      "https://other.test/",
    ]) {
      expect(await actor.call.fails(way, url)).toMatchObject({ name: "EgressDenied" });
    }
    // The name has a rule; where it leads has none.
    expect(await actor.call.fails(way, "https://api.test/")).toMatchObject({ name: "EgressDenied" });
    expect(decisions.map(({ allowed }) => allowed)).toEqual(new Array(6).fill(false));
    expect(requests).toBe(before);
  });

  test("goes to the address that was decided on: the name is asked for once", async () => {
    const asked: string[] = [];
    const way = net([`api.test:${server.port}`, place], {
      resolve: async (name) => [asked.push(name) === 1 ? "127.0.0.1" : "127.0.0.2"],
    });
    expect(await actor.call.get(way, `http://api.test:${server.port}/`)).toMatchObject({ status: 200, text: "here" });
    expect(asked).toEqual(["api.test"]);
  });

  test("rejects with Unreachable and a code where nothing listens", async () => {
    expect(await actor.call.fails(net(["127.0.0.1:1"]), "http://127.0.0.1:1/")).toMatchObject({
      name: "Unreachable",
      code: "ECONNREFUSED",
    });
  });

  test("rejects where the server breaks off: less than all is no answer", async () => {
    expect(await actor.call.fails(net([`127.0.0.1:${liar.port}`]), `http://127.0.0.1:${liar.port}/`)).toMatchObject({
      name: "Error",
    });
  });

  test("rejects with TypeError for other protocols, users in URLs, methods and fields that are the host's", async () => {
    const way = net();
    const user = at("/").replace("//", "//me:secret@");
    for (const url of ["ftp://127.0.0.1/", "file:///etc/passwd", "data:,x", "s3://bucket/key", user]) {
      expect(await actor.call.fails(way, url)).toMatchObject({ name: "TypeError" });
    }
    for (const name of [
      "host",
      "Connection",
      "transfer-encoding",
      "content-length",
      "upgrade",
      "proxy-authorization",
    ]) {
      expect(await actor.call.fails(way, at("/"), { headers: { [name]: "1" } })).toMatchObject({ name: "TypeError" });
    }
    expect(await actor.call.fails(way, at("/"), { method: "PROPFIND" })).toMatchObject({ name: "TypeError" });
    expect(decisions).toEqual([]);
  });

  test("rejects with what the body threw", async () => {
    expect(await actor.call.breakOff(net(), at("/count"))).toBe("no more");
  });

  test("aborts by its signal, and the server is told", async () => {
    const answer = actor.call.abort(net(), at("/silent"));
    await arrived.promise;
    await actor.call.giveUp("enough");
    expect(await answer).toBe("enough");
    while (aborted === 0) await Bun.sleep(2);
  });

  test("waits where more is asked for than may be under way", async () => {
    expect(await actor.call.many(net(), at("/"), 300)).toBe(300);
  });

  test("brings no more than is read", async () => {
    await actor.call.taste(net(), at("/endless"));
    let before = -1;
    // The buffers on the way fill up, and then nothing moves any more.
    for (; made !== before; await Bun.sleep(200)) before = made;
    expect(made).toBeLessThan(64);
  });

  const openssl = Bun.which("openssl");
  testIf(
    "openssl",
    openssl !== null,
    "openssl is not installed",
  )("speaks TLS from the host: by the server's name, which its certificate must have", async () => {
    const directory = mkdtempSync(join(tmpdir(), "caisson-test-"));
    const [key, cert] = [join(directory, "key"), join(directory, "cert")];
    const done = Bun.spawnSync([
        openssl!, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
        "-subj", "/CN=api.test", "-addext", "subjectAltName=DNS:api.test",
      ]); // biome-ignore format: a command line
    expect(done.exitCode).toBe(0);
    const tls = { key: Bun.file(key), cert: Bun.file(cert) };
    await using secure = Bun.serve({ hostname: "127.0.0.1", port: 0, tls, fetch: () => new Response("secret") });
    const rules = ["api.test", "other.test", "127.0.0.1"].map((host) => `${host}:${secure.port}`);
    const resolve = async () => ["127.0.0.1"];
    const way = net(rules, { resolve, ca: await Bun.file(cert).text() });
    const trusting = (host: string) => `https://${host}:${secure.port}/`;
    expect(await actor.call.get(way, trusting("api.test"))).toMatchObject({ text: "secret" });
    expect(await actor.call.fails(way, trusting("other.test"))).toMatchObject({
      name: "Unreachable",
      code: "ERR_TLS_CERT_ALTNAME_INVALID",
    });
    // Nobody vouches for it.
    expect(await actor.call.fails(net(rules, { resolve }), trusting("api.test"))).toMatchObject({
      name: "Unreachable",
    });
    rmSync(directory, { recursive: true });
  });
});

describe("connect() of an actor", () => {
  const target = `127.0.0.1:${echo.port}`;

  test("carries bytes both ways, and the end of each", async () => {
    expect(await actor.call.talk(net([target]), target, "hello")).toBe("> hello");
    const large = "x".repeat(3 * MIB);
    expect(await actor.call.talk(net([target]), target, large)).toBe(`> ${large}`);
    expect(decisions[0]).toMatchObject({ via: "actor", allowed: true, rule: target });
  });

  test("rejects for what no rule names, what cannot be reached, and what is no target", async () => {
    const way = net(["127.0.0.1:1"]);
    const talk = (to: string) => actor.call.talk(way, to, "");
    await expect(talk(target)).rejects.toMatchObject({ name: "EgressDenied" });
    await expect(talk("127.0.0.1:1")).rejects.toMatchObject({ name: "Unreachable", code: "ECONNREFUSED" });
    await expect(talk("CONNECT evil\r\n")).rejects.toBeInstanceOf(TypeError);
  });

  test("lets nobody ask for another name by TLS", async () => {
    const way = net([`api.test:${echo.port}`, target], { resolve: async () => ["127.0.0.1"] });
    expect(await actor.call.talk(way, `api.test:${echo.port}`, "plain")).toBe("> plain");
    // A ClientHello of TLS 1.2 with the name evil.test.
    const name = "evil.test";
    const list = `\0${String.fromCharCode(0, name.length)}${name}`;
    const sni = `\0\0${String.fromCharCode(0, list.length + 2, 0, list.length)}${list}`;
    const rest = `\x03\x03${"r".repeat(32)}\0\0\x02\x00\x2f\x01\x00${String.fromCharCode(0, sni.length)}${sni}`;
    const hello = `\x01\0${String.fromCharCode(0, rest.length)}${rest}`;
    const heard = await actor.call
      .talk(way, `api.test:${echo.port}`, `\x16\x03\x01${String.fromCharCode(0, hello.length)}${hello}`)
      .catch(() => "");
    expect(heard).not.toContain(name);
    expect(decisions.at(-1)).toMatchObject({ allowed: false, reason: 'the client asks for "evil.test" by TLS' });
  });
});

describe("a network", () => {
  test("is handed over as often as one likes, and works in the host as well", async () => {
    const way = net();
    const [one, two] = await Promise.all([actor.call.get(way, at("/")), actor.call.get(way, at("/"))]);
    expect([one.text, two.text]).toEqual(["here", "here"]);
    expect(await (await way.fetch(at("/"))).text()).toBe("here");
    using connection = await way.connect(place);
    await connection.write(Buffer.from("GET / HTTP/1.1\r\nhost: here\r\n\r\n"));
    expect(Buffer.from((await connection.read())!).toString()).toStartWith("HTTP/1.1 200 OK");
  });

  test("cannot be handed on", async () => {
    await expect(actor.call.pass(net())).rejects.toThrow(/Cannot send an instance of/);
  });

  test("closed by the actor, reaches nothing more there", async () => {
    const way = net();
    expect(await actor.call.close(way)).toContain("closed");
    expect(await actor.call.get(way, at("/"))).toMatchObject({ text: "here" }); // handed over anew
  });

  test("closed by the host, ends what is under way, and cannot be handed over", async () => {
    const way = net();
    const pending = actor.call.fails(way, at("/silent"));
    while (decisions.length === 0) await Bun.sleep(2);
    way.close();
    expect(await pending).toMatchObject({ name: "Error" });
    await expect(actor.call.get(way, at("/"))).rejects.toThrow("Cannot hand over a network that is closed");
  });
});
