/** Connected stream sockets that are read and written by who awaits: what nobody reads stays with the peer. */
import { Descriptor } from "../syscalls/descriptor.ts";
import { self } from "../syscalls/kernel.ts";
import { isStream } from "../syscalls/linux/network.ts";

/** Bytes that have come and that nobody has read, from which on no more are taken from the kernel. */
const HIGH_WATER = 256 * 1024;
/** What a piece costs beside its bytes, lest a flood of single ones be cheap to send and dear to hold. */
const PIECE = 256;

type Socket = Bun.Socket<Connection | undefined>;

/** What Bun calls with a socket's events; the socket's data is its connection. */
const HANDLERS: Bun.SocketHandler<Connection | undefined> = {
  // Here, for bytes may come before a promise of the socket resolves.
  open: (socket) => void new Connection(socket),
  data: ({ data: connection }, bytes) => connection?.received(bytes),
  drain: ({ data: connection }) => connection?.drained(),
  end: ({ data: connection }) => connection?.ended(),
  close: ({ data: connection }, error) => connection?.gone(error),
  error: ({ data: connection }, error) => connection?.gone(error),
};

/** The handlers of a listener, which hand each connection over as it opens. */
export function accepting(accept: (connection: Connection) => void): Bun.SocketHandler<Connection | undefined> {
  return { ...HANDLERS, open: (socket) => accept(new Connection(socket)) };
}

/** The connection over a connected stream socket, TCP or unix, whose descriptor becomes the connection's to close. */
export async function connection(descriptor: number): Promise<Connection> {
  using owned = new Descriptor(descriptor);
  if (!isStream(self, descriptor)) {
    throw new TypeError(`Cannot use descriptor ${descriptor} as a connection: it is no stream socket`);
  }
  // @types/bun does not know `fd` beside `allowHalfOpen`.
  const options = { fd: owned.take(), allowHalfOpen: true, socket: HANDLERS } as unknown as Bun.TCPSocketConnectOptions<
    Connection | undefined
  >;
  return (await Bun.connect<Connection | undefined>(options)).data!;
}

/** A new connection. Rejects as the kernel refuses, `error.code` saying how. */
export async function dial(to: { hostname: string; port: number } | { unix: string }): Promise<Connection> {
  const options = { ...to, allowHalfOpen: true, socket: HANDLERS } as Bun.TCPSocketConnectOptions<
    Connection | undefined
  >;
  return (await Bun.connect<Connection | undefined>(options)).data!;
}

/** One connection. One reader and one writer at a time; both are asynchronous, and so is the end of either direction. */
export class Connection implements Disposable {
  readonly #socket: Socket;
  /** Settles when both directions are over; never rejects. */
  readonly closed: Promise<void>;
  readonly #closed = Promise.withResolvers<void>();
  #over = false;
  #error: Error | undefined;
  /** Called when bytes pass, either way. */
  onActivity: (() => void) | undefined;

  #queue: Uint8Array[] = [];
  #queued = 0;
  #paused = false;
  /** The peer has said all that it will, or nobody will read it. */
  #finished = false;
  #reader: PromiseWithResolvers<void> | undefined;
  #rest: Uint8Array | undefined;
  #writer: PromiseWithResolvers<void> | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.closed = this.#closed.promise;
    socket.data = this;
  }

  /** Where the peer is, as far as the kernel says. */
  get remoteAddress(): string {
    return this.#socket.remoteAddress;
  }

  /** The next bytes, or undefined when the peer has ended. Rejects when the connection broke. */
  async read(): Promise<Uint8Array | undefined> {
    if (this.#reader !== undefined) throw new TypeError("Cannot read twice at once");
    while (this.#queue.length === 0) {
      if (this.#error !== undefined && !this.#finished) throw this.#error;
      if (this.#finished || this.#over) return undefined;
      this.#reader = Promise.withResolvers();
      await this.#reader.promise;
      this.#reader = undefined;
    }
    const bytes = this.#queue.shift()!;
    this.#queued -= bytes.length + PIECE;
    if (this.#paused && this.#queued < HIGH_WATER / 2 && !this.#over) {
      this.#paused = false;
      this.#socket.resume();
    }
    return bytes;
  }

  /** Gives bytes back: they are what is read next. */
  unread(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#queue.unshift(bytes);
    this.#queued += bytes.length + PIECE;
  }

  /**
   * Reads until `end` tells how many bytes were wanted, and gives the others back; undefined when the peer ends before. Throws RangeError
   * where that is not within `most` bytes. @param end gets all that came, and how much of it is new
   */
  async gather(most: number, end: (bytes: Buffer, fresh: number) => number | undefined): Promise<Buffer | undefined> {
    let room = Buffer.alloc(1024);
    let length = 0;
    for (;;) {
      const bytes = await this.read();
      if (bytes === undefined) return undefined;
      // Twice the room at a time: bytes that come one by one are not copied again for each.
      if (length + bytes.length > room.length) {
        room = Buffer.concat([room.subarray(0, length)], Math.max(2 * room.length, length + bytes.length));
      }
      room.set(bytes, length);
      length += bytes.length;
      const wanted = end(room.subarray(0, length), bytes.length);
      if (wanted !== undefined && wanted <= most) {
        this.unread(room.subarray(wanted, length));
        return room.subarray(0, wanted);
      }
      if (length > most || wanted !== undefined) throw new RangeError(`Cannot take more than ${most} bytes at once`);
    }
  }

  /** Reads no more: what has come is dropped, what comes stays with the kernel, and who reads is told of an end. */
  cancel(): void {
    this.#finished = true;
    this.#queue = [];
    this.#queued = 0;
    this.#pause();
    this.#reader?.resolve();
  }

  /** Reads no more: what has come is dropped, and so is what comes. Unlike after `cancel()`, the connection still closes when the peer ends. */
  drop(): void {
    this.#finished = true;
    this.#queue = [];
    this.#queued = 0;
    if (this.#paused && !this.#over) this.#socket.resume();
    this.#paused = false;
    this.#reader?.resolve();
  }

  /** Resolves when the kernel has all of `bytes`, which must not change until then. Rejects when it never will. */
  async write(bytes: Uint8Array): Promise<void> {
    if (this.#writer !== undefined) throw new TypeError("Cannot write twice at once");
    this.#rest = bytes;
    this.#push();
    if (this.#rest === undefined) return;
    this.#writer = Promise.withResolvers();
    try {
      await this.#writer.promise;
    } finally {
      this.#writer = undefined;
    }
  }

  /** Says to the peer that nothing more will come. */
  end(): void {
    if (!this.#over) this.#socket.shutdown();
  }

  /** Ends both directions. What was written still arrives. */
  close(): void {
    if (!this.#over) this.#socket.end();
    this.gone();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** The bytes that come, for `for await` and what else takes a stream. */
  get readable(): ReadableStream<Uint8Array> {
    return new ReadableStream(
      {
        pull: async (controller) => {
          const bytes = await this.read();
          if (bytes === undefined) controller.close();
          else controller.enqueue(bytes);
        },
        cancel: () => this.cancel(),
      },
      { highWaterMark: 0 },
    );
  }

  get writable(): WritableStream<Uint8Array> {
    return new WritableStream({
      write: (bytes) => this.write(bytes),
      close: () => this.end(),
      abort: () => this.close(),
    });
  }

  // What Bun tells.

  received(bytes: Uint8Array): void {
    this.onActivity?.();
    if (this.#finished) return;
    this.#queue.push(bytes);
    this.#queued += bytes.length + PIECE;
    if (this.#queued >= HIGH_WATER) this.#pause();
    this.#reader?.resolve();
  }

  drained(): void {
    this.onActivity?.();
    this.#push();
    if (this.#rest === undefined) this.#writer?.resolve();
  }

  ended(): void {
    this.#finished = true;
    this.#reader?.resolve();
  }

  gone(error?: Error): void {
    if (this.#over) return;
    this.#over = true;
    this.#error = error;
    this.#reader?.resolve();
    this.#writer?.reject(error ?? new Error("Cannot write: the connection is closed"));
    this.#closed.resolve();
  }

  #pause(): void {
    if (this.#paused || this.#over) return;
    this.#paused = true;
    this.#socket.pause();
  }

  /** Gives the kernel as much of the rest as it takes. */
  #push(): void {
    if (this.#rest === undefined) return;
    const taken = this.#over ? -1 : this.#socket.write(this.#rest);
    if (taken < 0) {
      this.#rest = undefined;
      const error = this.#error ?? new Error("Cannot write: the connection is closed");
      if (this.#writer === undefined) throw error;
      this.#writer.reject(error);
      return;
    }
    if (taken > 0) this.onActivity?.();
    this.#rest = taken === this.#rest.length ? undefined : this.#rest.subarray(taken);
  }
}

/** Carries bytes both ways between two connections, no faster than either takes them, until both directions or either connection ended. */
export async function couple(left: Connection, right: Connection): Promise<void> {
  // Who has gone altogether will not take what the other still says.
  void left.closed.then(() => right.cancel());
  void right.closed.then(() => left.cancel());
  try {
    await Promise.all([carry(left, right), carry(right, left)]);
  } catch {
    // One of the two broke: that is an end, too.
  } finally {
    left.close();
    right.close();
  }
}

/** Carries bytes one way, and then the end. */
export async function carry(from: Connection, to: Connection): Promise<void> {
  for (let bytes = await from.read(); bytes !== undefined; bytes = await from.read()) await to.write(bytes);
  to.end();
}
