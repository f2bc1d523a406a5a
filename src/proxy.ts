/** The two protocols of a proxy on one connection: HTTP/1.1 with `CONNECT` (RFC 9110), and SOCKS5 (RFC 1928). */
import { parseHost } from "./address.ts";
import { type Connection, carry, couple } from "./connection.ts";
import { EgressDenied, type Gate, printable, Unreachable, type Via } from "./decision.ts";
import {
  BadRequest,
  Body,
  type Field,
  forwarded,
  framingOf,
  HEAD_END,
  only,
  parseRequest,
  parseResponse,
  type RequestHead,
  writeHead,
} from "./head.ts";
import { readHello } from "./hello.ts";
import { parseTarget } from "./rule.ts";

/** What a client is still listened to after the last word to it: closing with bytes unread would take that word back. */
const LINGER_MS = 2_000;
const LINGER_BYTES = 1024 * 1024;
/** More than the first message of a TLS client and what may have come with it. */
const MOST_HELLO = 1024 * 1024;

/** One request, whose client says what it wants in time, and then is not silent for too long. */
export async function serveProxy(client: Connection, gate: Gate): Promise<void> {
  const session = new Session(client, gate);
  try {
    await session.serve();
  } catch {
    // The client broke off, or was too slow. It has nothing to be told.
  } finally {
    session.close();
  }
}

/** A tunnel for a client that has said where to. Before anything else passes, it is told what `answer` makes of how that went. */
export async function serveTunnel(
  client: Connection,
  gate: Gate,
  to: { readonly host: string; readonly port: number; readonly via: Via; answer(failure?: unknown): Uint8Array },
): Promise<void> {
  const session = new Session(client, gate);
  try {
    await session.open(to);
  } catch {
    // As above.
  } finally {
    session.close();
  }
}

class Session {
  readonly #client: Connection;
  readonly #gate: Gate;
  #server: Connection | undefined;
  #timer: Timer;
  /** The request's body, which may still be on its way when the answer is there. */
  #sending: Promise<void> | undefined;

  constructor(client: Connection, gate: Gate) {
    this.#client = client;
    this.#gate = gate;
    // Not refreshed by bytes: who sends one now and then gets no longer.
    this.#timer = setTimeout(() => this.close(), gate.limits.headMs);
  }

  async serve(): Promise<void> {
    const first = await this.#client.gather(1, () => 1);
    if (first === undefined) return;
    this.#client.unread(first);
    if (first[0] === SOCKS.VERSION) await this.#serveSocks();
    else await this.#serveHttp();
  }

  async open({ answer, ...to }: Parameters<typeof serveTunnel>[2]): Promise<void> {
    let server: Connection;
    try {
      server = await this.#reach(to.host, to.port, to.via);
    } catch (error) {
      return this.#farewell(answer(error));
    }
    await this.#client.write(answer());
    await this.#tunnel(server, to);
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#client.close();
    this.#server?.close();
  }

  /** Connects the client's way on. From here on it is silence that counts. */
  async #reach(host: string, port: number, via: Via): Promise<Connection> {
    clearTimeout(this.#timer); // connecting has a limit of its own
    const server = await this.#gate.reach(host, port, via);
    this.#server = server;
    this.#timer = setTimeout(() => this.close(), this.#gate.limits.idleMs);
    this.#client.onActivity = server.onActivity = () => void this.#timer.refresh();
    // The client may have gone while that was under way.
    void this.#client.closed.then(() => server.cancel());
    return server;
  }

  async #serveHttp(): Promise<void> {
    try {
      const bytes = await this.#head(this.#client);
      if (bytes === undefined) return;
      const request = parseRequest(bytes);
      if (request.method === "CONNECT") await this.#connect(request);
      else await this.#forward(request);
    } catch (error) {
      const answer = answerTo(error);
      if (answer === undefined) throw error;
      await this.#farewell(answer);
    }
  }

  /** `CONNECT host:port`: a tunnel. */
  async #connect({ target, fields }: RequestHead): Promise<void> {
    if (framingOf(fields) !== 0) throw new BadRequest(400, "CONNECT has no body");
    const { host, port } = targetOf(target);
    const server = await this.#reach(host, port, "connect");
    await this.#client.write(Buffer.from("HTTP/1.1 200 Connection established\r\n\r\n"));
    await this.#tunnel(server, { host, port, via: "connect" });
  }

  /**
   * `GET http://host/path`: the request goes on with its host as decided, the answer comes back, and both connections end. So there is no
   * second request on either that could be meant for another host.
   */
  async #forward(request: RequestHead): Promise<void> {
    const { authority, host, port, path } = placeOf(request);
    const body = new Body(framingOf(request.fields));
    const fields = forwarded(request.fields).filter(([name]) => name !== "host");
    const server = await this.#reach(host, port, "http");
    const head: Field[] = [["host", authority], ...fields, ["connection", "close"]];
    await server.write(writeHead(`${request.method} ${path} HTTP/1.1`, head));
    let broken: BadRequest | undefined;
    this.#sending = this.#sendBody(body, server).catch((error) => {
      // A server that takes no more may have answered already; a client that breaks the rules has no answer coming.
      if (!(error instanceof BadRequest)) return;
      broken = error;
      server.close();
    });
    try {
      await this.#answer(server);
    } catch (error) {
      throw broken ?? error;
    }
    await this.#farewell();
  }

  async #sendBody(body: Body, server: Connection): Promise<void> {
    while (!body.done) {
      const bytes = await this.#client.read();
      if (bytes === undefined) throw new BadRequest(400, "The body ends before it should");
      const length = body.take(bytes);
      await server.write(bytes.subarray(0, length));
    }
  }

  /** Carries the server's answer to the client: interim heads, the final one, and whatever follows until the server ends. */
  async #answer(server: Connection): Promise<void> {
    for (;;) {
      const { status, line, fields } = await this.#answerHead(server);
      const interim = status < 200;
      await this.#client.write(writeHead(line, interim ? fields : [...fields, ["connection", "close"]]));
      if (!interim) break;
    }
    await carry(server, this.#client);
  }

  async #answerHead(server: Connection) {
    try {
      const bytes = await this.#head(server);
      if (bytes === undefined) throw new BadRequest(502, "The server ended without an answer");
      const head = parseResponse(bytes);
      if (head.status === 101) throw new BadRequest(502, "The server changed to a protocol that nobody asked for");
      return { ...head, fields: forwarded(head.fields) };
    } catch (error) {
      throw new BadRequest(502, error instanceof BadRequest ? error.message : "The server's answer broke off");
    }
  }

  async #serveSocks(): Promise<void> {
    const greeting = await this.#client.gather(257, (bytes) =>
      bytes.length < 2 ? undefined : whole(bytes, 2 + bytes[1]!),
    );
    if (greeting === undefined) return;
    if (!greeting.subarray(2).includes(SOCKS.NO_AUTHENTICATION)) {
      return this.#farewell(Uint8Array.of(SOCKS.VERSION, SOCKS.NO_METHOD));
    }
    await this.#client.write(Uint8Array.of(SOCKS.VERSION, SOCKS.NO_AUTHENTICATION));
    const bytes = await this.#client.gather(262, (all) => whole(all, socksLength(all)));
    if (bytes === undefined) return;
    const request = parseSocks(bytes);
    if (typeof request === "number") return this.#farewell(socksReply(request));
    let server: Connection;
    try {
      server = await this.#reach(request.host, request.port, "socks5");
    } catch (error) {
      return this.#farewell(socksReply(socksCode(error)));
    }
    await this.#client.write(socksReply(SOCKS.SUCCEEDED));
    await this.#tunnel(server, { ...request, via: "socks5" });
  }

  /** Carries both ways. Where the client speaks TLS, to a name, it must ask for that name: another would be another's server. */
  async #tunnel(server: Connection, to: { host: string; port: number; via: Via }): Promise<void> {
    const host = parseHost(to.host);
    if ("address" in host) return couple(this.#client, server);
    // The server may speak first, so its bytes must not wait for the client's.
    const back = carry(server, this.#client);
    back.catch(() => this.close());
    let needed = 1;
    let foreign: string | undefined;
    const first = await this.#client.gather(MOST_HELLO, (bytes) => {
      if (bytes.length < needed) return undefined;
      try {
        const hello = readHello(bytes);
        if (typeof hello === "number") {
          needed = hello;
          return undefined;
        }
        if (hello.tls && hello.name !== undefined && !isName(hello.name, host.name)) {
          foreign = `the client asks for ${JSON.stringify(hello.name)} by TLS`;
        }
      } catch (error) {
        foreign = (error as Error).message;
      }
      return bytes.length;
    });
    if (foreign !== undefined) {
      this.#gate.deny({ host: host.name, port: to.port, via: to.via, reason: printable(foreign) });
      return this.close();
    }
    if (first === undefined) server.end();
    else {
      await server.write(first);
      await carry(this.#client, server);
    }
    await back;
  }

  /** The bytes of a head, or undefined when the peer ends before. */
  async #head(from: Connection): Promise<Buffer | undefined> {
    const { headBytes } = this.#gate.limits;
    try {
      return await from.gather(headBytes, (bytes, fresh) => {
        const at = bytes.indexOf(HEAD_END, Math.max(0, bytes.length - fresh - HEAD_END.length + 1));
        return at < 0 ? undefined : at + HEAD_END.length;
      });
    } catch (error) {
      throw error instanceof RangeError ? new BadRequest(431, `A head has ${headBytes} bytes at most`) : error;
    }
  }

  /** Says the last word, and waits until the client has it. */
  async #farewell(bytes?: Uint8Array): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.close(), LINGER_MS);
    this.#client.onActivity = undefined;
    if (bytes !== undefined) await this.#client.write(bytes);
    this.#client.end();
    this.#server?.close();
    await this.#sending;
    let heard = 0;
    for (let more = await this.#client.read(); more !== undefined; more = await this.#client.read()) {
      heard += more.length;
      if (heard > LINGER_BYTES) return;
    }
  }
}

/** Where an absolute URI leads: only `http`, and the Host field must say the same. */
function placeOf({ target, fields }: RequestHead) {
  const [, authority, path = ""] = /^http:\/\/([^/?#@]+)([/?][^#]*)?$/i.exec(target) ?? [];
  if (authority === undefined) {
    throw new BadRequest(
      400,
      "This is a proxy: http://host/path is expected, without user or fragment; https by CONNECT",
    );
  }
  const named = only(fields, "host");
  if (named === undefined) throw new BadRequest(400, "There is no Host field");
  const [place, other] = [authority, named].map((text) => targetOf(/:\d*$/.test(text) ? text : `${text}:80`));
  if (place!.host !== other!.host || place!.port !== other!.port) {
    throw new BadRequest(400, "The Host field and the URI name different hosts");
  }
  const { host, port } = place!;
  // As it was decided on, in one form: what stood there may mean another host to another reader.
  return {
    host,
    port,
    authority: port === 80 ? host : `${host}:${port}`,
    path: path.startsWith("/") ? path : `/${path}`,
  };
}

/** A host in its only form, if it has one, and a port. */
function targetOf(text: string): { readonly host: string; readonly port: number } {
  let target: ReturnType<typeof parseTarget>;
  try {
    target = parseTarget(text);
  } catch (error) {
    throw new BadRequest(400, printable((error as Error).message));
  }
  try {
    const parsed = parseHost(target.host);
    if ("name" in parsed) return { ...target, host: parsed.name };
    const { text: address, length } = parsed.address;
    return { ...target, host: length === 128 ? `[${address}]` : address };
  } catch {
    return target; // whoever decides will refuse it, and tell of it
  }
}

function isName(asked: string, name: string): boolean {
  try {
    const host = parseHost(asked);
    return "name" in host && host.name === name;
  } catch {
    return false;
  }
}

const REASONS: Readonly<Record<number, string>> = {
  400: "Bad Request",
  403: "Forbidden",
  413: "Content Too Large",
  431: "Request Header Fields Too Large",
  501: "Not Implemented",
  502: "Bad Gateway",
  504: "Gateway Timeout",
  505: "HTTP Version Not Supported",
};

/** What a client of HTTP is told, if it is anything that it should know. */
function answerTo(error: unknown): Uint8Array | undefined {
  if (error instanceof BadRequest) return answer(error.status, error.message);
  if (error instanceof EgressDenied) return answer(403, error.message);
  if (error instanceof Unreachable) return answer(error.code === "ETIMEDOUT" ? 504 : 502, error.message);
  return undefined;
}

function answer(status: number, message: string): Uint8Array {
  const body = Buffer.from(`${message}\n`);
  const fields: Field[] = [
    ["content-type", "text/plain; charset=utf-8"],
    ["content-length", `${body.length}`],
    ["connection", "close"],
  ];
  return Buffer.concat([writeHead(`HTTP/1.1 ${status} ${REASONS[status]}`, fields), body]);
}

const SOCKS = {
  VERSION: 5, NO_AUTHENTICATION: 0, NO_METHOD: 0xff, CONNECT: 1, IPV4: 1, NAME: 3, IPV6: 4,
  SUCCEEDED: 0, FAILED: 1, NOT_ALLOWED: 2, HOST_UNREACHABLE: 4, REFUSED: 5, EXPIRED: 6, NO_COMMAND: 7, NO_FAMILY: 8,
} as const; // biome-ignore format: a table

function whole(bytes: Uint8Array, length: number | undefined): number | undefined {
  return length !== undefined && bytes.length >= length ? length : undefined;
}

/** The length of a request, as soon as its first five bytes tell. */
function socksLength(bytes: Uint8Array): number | undefined {
  if (bytes.length < 5) return undefined;
  if (bytes[3] === SOCKS.IPV4) return 10;
  if (bytes[3] === SOCKS.IPV6) return 22;
  return bytes[3] === SOCKS.NAME ? 7 + bytes[4]! : 5;
}

/** Where a request leads, or the code of the reply that refuses it. */
function parseSocks(bytes: Buffer): { readonly host: string; readonly port: number } | number {
  if (bytes[0] !== SOCKS.VERSION || bytes[2] !== 0) return SOCKS.FAILED;
  if (bytes[1] !== SOCKS.CONNECT) return SOCKS.NO_COMMAND;
  const port = bytes.readUInt16BE(bytes.length - 2);
  const at = bytes.subarray(4, -2);
  if (bytes[3] === SOCKS.IPV4) return { host: at.join("."), port };
  if (bytes[3] === SOCKS.NAME) return { host: at.subarray(1).toString("latin1"), port };
  if (bytes[3] !== SOCKS.IPV6) return SOCKS.NO_FAMILY;
  return { host: `[${at.toString("hex").match(/.{4}/g)!.join(":")}]`, port };
}

function socksReply(code: number): Uint8Array {
  return Uint8Array.of(SOCKS.VERSION, code, 0, SOCKS.IPV4, 0, 0, 0, 0, 0, 0);
}

function socksCode(error: unknown): number {
  if (error instanceof EgressDenied) return SOCKS.NOT_ALLOWED;
  if (!(error instanceof Unreachable)) return SOCKS.FAILED;
  if (error.code === "ECONNREFUSED") return SOCKS.REFUSED;
  return error.code === "ETIMEDOUT" ? SOCKS.EXPIRED : SOCKS.HOST_UNREACHABLE;
}
