/** Requests that the host makes for who was handed a network: HTTP over a connection to the very address that was decided on. */
import type { Connection } from "./connection.ts";
import { EgressDenied, type Gate, printable, Unreachable } from "./decision.ts";
import { type Answer, frame, readBody, type Wish, writeBody } from "./exchange.ts";
import { Client } from "./listener.ts";

type Fetch = Extract<Wish, { fetch: string }>;

/** A client of HTTP whose connections are made elsewhere, for one request at a time. */
class Door {
  #way: Connection | undefined;
  readonly client = new Client(async () => {
    const way = this.#way;
    this.#way = undefined;
    if (way === undefined) throw new Error("Cannot connect twice for one request");
    return way;
  });

  lead(way: Connection): this {
    this.#way = way;
    return this;
  }

  get used(): boolean {
    return this.#way === undefined;
  }
}

/** Doors that are kept for the next request, for each was a socket with a name for a moment. */
const MOST_IDLE = 8;

export class Fetcher implements Disposable {
  readonly #ca: string | undefined;
  readonly #idle: Door[] = [];
  #closed = false;

  /** @param ca certificates of authorities, in PEM, in place of the usual ones */
  constructor(ca: string | undefined) {
    this.#ca = ca;
  }

  /** Makes the request that a client asks for, over a connection to the very address that was decided on, and carries both bodies. */
  async serve(client: Connection, gate: Gate, wish: Fetch): Promise<void> {
    const timer = setTimeout(() => client.close(), gate.limits.idleMs);
    client.onActivity = () => void timer.refresh();
    try {
      await this.#serve(client, gate, wish);
    } finally {
      clearTimeout(timer);
    }
  }

  close(): void {
    this.#closed = true;
    for (const door of this.#idle.splice(0)) door.client.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async #serve(client: Connection, gate: Gate, wish: Fetch): Promise<void> {
    let request: ReturnType<typeof requestOf>;
    try {
      request = requestOf(wish);
    } catch (error) {
      return farewell(client, mistake(error));
    }
    let server: Connection | undefined;
    let door: Door | undefined;
    let answered = false;
    try {
      server = await gate.reach(request.host, request.port, "actor");
      server.onActivity = client.onActivity;
      door = (this.#idle.pop() ?? new Door()).lead(server);
      const response = await this.#request(door, client, { wish, request });
      const { status, statusText, headers } = response;
      await client.write(frame({ status, statusText, headers: [...headers] } satisfies Answer));
      answered = true;
      await writeBody(client, response.body);
    } catch (error) {
      door?.client.close();
      server?.close();
      if (answered) client.close();
      return farewell(client, refusal(error));
    }
    server.close();
    this.#keep(door);
    return farewell(client);
  }

  #request(
    { client: door }: Door,
    client: Connection,
    { wish, request }: { readonly wish: Fetch; readonly request: ReturnType<typeof requestOf> },
  ): Promise<Response> {
    const abort = new AbortController();
    void client.closed.then(() => abort.abort());
    // Behind its body the client has no more to say: when it does, or ends, it has given up.
    const watch = async () => {
      await client.read().catch(() => {});
      abort.abort();
    };
    const body = wish.body ? readBody(client, (whole) => whole && void watch()) : undefined;
    if (body === undefined) void watch();
    return door.fetch(request.url, {
      method: wish.method,
      headers: request.headers,
      ...(body === undefined ? {} : { body }),
      ...(this.#ca === undefined ? {} : { tls: { ca: this.#ca } }),
      decompress: false,
      timeout: false, // there is one of our own, by silence
      signal: abort.signal,
    });
  }

  /** Keeps a door for the next request, unless a connection of this one could still come. */
  #keep(door: Door): void {
    if (door.used && !this.#closed && this.#idle.length < MOST_IDLE) this.#idle.push(door);
    else door.client.close();
  }
}

const METHODS: readonly string[] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/** Fields that say how a message travels, or to which of a server's names: those are not an actor's to choose. */
const NOT_ITS_OWN =
  /^(connection|content-length|expect|host|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade)$/i;

/** What is asked for, as far as it is the asking one's to say. Throws TypeError for what is not. */
function requestOf({ fetch, method, headers }: Extract<Wish, { fetch: string }>) {
  const url = new URL(fetch);
  if (url.protocol !== "https:" && url.protocol !== "http:") {
    throw new TypeError(`Cannot fetch by ${printable(url.protocol)}: http: and https: are expected`);
  }
  if (url.username !== "" || url.password !== "")
    throw new TypeError("Cannot fetch a URL with a user: send the field authorization");
  if (!METHODS.includes(method))
    throw new TypeError(`Cannot fetch with ${printable(method)}: one of ${METHODS} is expected`);
  const own = headers.find(([name]) => NOT_ITS_OWN.test(name));
  if (own !== undefined) throw new TypeError(`Cannot send the field ${printable(own[0])}: the host decides on it`);
  const port = Number(url.port) || (url.protocol === "https:" ? 443 : 80);
  return { url, host: url.hostname, port, headers: new Headers(headers) };
}

/** What may be known inside of a failure: no stacks, no causes, and no words but our own. */
export function refusal(thrown: unknown): Answer {
  if (thrown instanceof Unreachable)
    return { error: { name: thrown.name, message: thrown.message, code: thrown.code } };
  if (thrown instanceof EgressDenied) return { error: { name: thrown.name, message: thrown.message } };
  const { code } = (thrown ?? {}) as { readonly code?: unknown };
  const how = typeof code === "string" ? printable(code) : "EIO";
  return { error: { name: "Unreachable", message: `Cannot reach it: ${how}`, code: how } };
}

/** What is said of a wish that cannot be. */
export function mistake(thrown: unknown): Answer {
  return { error: { name: "TypeError", message: printable((thrown as Error).message) } };
}

/** Says the last word, if there is one, and leaves it to the other end to close: with bytes unread, closing here would take it back. */
export async function farewell(client: Connection, answer?: Answer): Promise<void> {
  client.onActivity = undefined;
  try {
    if (answer !== undefined) await client.write(frame(answer));
    client.end();
    client.drop();
    await client.closed;
  } catch {
    client.close();
  }
}
