/** Listening sockets that are held as descriptors, served by this process; and requests to servers that only a descriptor reaches. */
import { mkdtempSync, rmdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Descriptor } from "../syscalls/descriptor.ts";
import { self } from "../syscalls/kernel.ts";
import { open } from "../syscalls/linux/file.ts";
import { isListening, localAddress, type SocketAddress } from "../syscalls/linux/network.ts";
import { O } from "../syscalls/linux/numbers.ts";
import { accepting, type Connection, couple, dial } from "./connection.ts";

/** What `Bun.serve` takes, save where to listen. TLS and WebSockets included. */
export type ServeOptions<Data = undefined> = Omit<
  Bun.Serve.Options<Data>,
  "port" | "hostname" | "unix" | "reusePort" | "ipv6Only" | "development"
>;

/** A socket that listens, wherever it was made: in a container without a route, say. Whoever holds one serves who connects in there. */
export class Listener implements Disposable {
  /** Where it listens, in the network that it was made in. */
  readonly address: SocketAddress;
  readonly #descriptor: Descriptor;
  /** Closes what came of it. */
  readonly #ends: (() => void)[] = [];

  /** @param descriptor a listening stream socket, TCP or unix, which becomes the listener's to close */
  constructor(descriptor: number) {
    using owned = new Descriptor(descriptor);
    if (!isListening(self, descriptor)) {
      throw new TypeError(`Cannot accept on descriptor ${descriptor}: it does not listen`);
    }
    this.address = localAddress(self, descriptor);
    this.#descriptor = new Descriptor(owned.take());
  }

  /** The port it listens at, 0 for a unix socket. */
  get port(): number {
    return this.address.family === "UNIX" ? 0 : this.address.port;
  }

  /** Has connections handled as `Bun.listen` has them handled. A listener accepts, or serves, once. */
  listen<Data>(socket: Bun.SocketHandler<Data>, options: { readonly allowHalfOpen?: boolean } = {}): void {
    if (this.#descriptor.closed) throw new Error("Cannot accept: the listener is closed, or accepts already");
    // @types/bun does not know `fd`. Bun takes the descriptor over, and makes it one that does not block.
    const how = { ...options, fd: this.#descriptor.take(), socket } as unknown as Bun.TCPSocketListenOptions<Data>;
    const listener = Bun.listen<Data>(how);
    this.#ends.push(() => listener.stop(true));
  }

  /** Hands each connection over. They are closed with the listener. */
  accept(take: (connection: Connection) => void): void {
    this.listen(accepting(take), { allowHalfOpen: true });
  }

  /**
   * Serves HTTP as `Bun.serve` does, streams, TLS and WebSockets included; only `server.requestIP` knows nothing. As no API of Bun's
   * server takes a listening socket, each connection is carried to one that listens where nobody else can reach it.
   */
  serve<Data = undefined>(options: ServeOptions<Data>): Bun.Server<Data> {
    const { made: server, path } = nameless((unix) => Bun.serve({ ...options, unix } as Bun.Serve.Options<Data>));
    this.#ends.push(() => {
      void server.stop(true);
      path.close();
    });
    this.accept((connection) => void carryTo(connection, () => dial({ unix: pathOf(path) })));
    return server;
  }

  /** Listens no more, and ends every connection that it accepted. */
  close(): void {
    this.#descriptor.close();
    for (const end of this.#ends.splice(0)) end();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** HTTP to a server that is reached by `reach` alone, such as a connection made inside of a container: a new one for each request. */
export class Client implements Disposable {
  readonly #door: Descriptor;
  readonly #close: () => void;

  constructor(reach: () => Promise<Connection>) {
    const handlers = accepting((connection) => void carryTo(connection, reach));
    const { made, path } = nameless((unix) => Bun.listen({ unix, allowHalfOpen: true, socket: handlers }));
    made.unref(); // requests keep the process alive, a client does not
    this.#door = path;
    this.#close = () => {
      made.stop(true);
      path.close();
    };
  }

  /** As the global `fetch`, but the URL's host is a name alone, and redirections are not followed: where they lead is not in there. */
  fetch(url: string | URL, init: BunFetchRequestInit = {}): Promise<Response> {
    if (init.redirect === "follow") {
      return Promise.reject(new TypeError("Cannot follow redirections: they may lead anywhere, follow them by hand"));
    }
    // Without reuse: the path's number may stand for another door later.
    return fetch(url, { redirect: "manual", ...init, unix: pathOf(this.#door), keepalive: false });
  }

  close(): void {
    if (!this.#door.closed) this.#close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Carries a connection on to another that is yet to be made; where that fails, the first is closed. */
async function carryTo(connection: Connection, reach: () => Promise<Connection>): Promise<void> {
  try {
    await couple(connection, await reach());
  } catch {
    connection.close();
  }
}

/**
 * Has `make` listen on a unix socket, and takes its name away. Who has the descriptor connects through `/proc`; nobody else does, and
 * nothing is left on disk, however this process ends.
 */
function nameless<T>(make: (path: string) => T): { readonly made: T; readonly path: Descriptor } {
  const directory = mkdtempSync(join(tmpdir(), "caisson-")); // 0700: nobody else reaches it meanwhile
  const name = join(directory, "socket");
  try {
    const made = make(name);
    return { made, path: new Descriptor(open(self, name, O.PATH | O.CLOEXEC)) };
  } finally {
    rmSync(name, { force: true });
    rmdirSync(directory);
  }
}

function pathOf(socket: Descriptor): string {
  return `/proc/self/fd/${socket.number}`;
}
