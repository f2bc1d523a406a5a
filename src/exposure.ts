/** A host's status on a unix socket that only its user can open: a snapshot a second, as a line of JSON. */
import { rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { Descriptor } from "../syscalls/descriptor.ts";
import { SystemError } from "../syscalls/error.ts";
import { self } from "../syscalls/kernel.ts";
import { changeMode, makeLink } from "../syscalls/linux/file.ts";
import { bindTo, openSocket } from "../syscalls/linux/network.ts";
import { peerCredentials } from "../syscalls/linux/socket.ts";
import { accepting, Connection } from "./connection.ts";
import { countDenials } from "./denials.ts";
import { checkOptions, PATH } from "./option.ts";
import { hostSockets, makeRunDirectory, sweep } from "./rundir.ts";
import { jsonLine, snapshot } from "./snapshot.ts";

export interface ExposeOptions {
  /** Where the socket is made, in a directory that is there. Where nothing is said, `caisson top` finds it. */
  readonly path?: string;
}

/** So many read at once; more are turned away. */
const MOST_READERS = 16;
/** A reader that has not taken one snapshot while so many more were due is turned away. */
const MOST_MISSED = 10;
const INTERVAL_MS = 1000;
const SHORTEST_MS = 100;
const LONGEST_MS = 60_000;
/** The longest line that a reader may say. */
const LONGEST_LINE = 256;
/** How long a snapshot is new, and so many times as long as it took to make: however many read, this process has time for other things. */
const FRESH_MS = 50;
const FRESH_TIMES = 10;

/**
 * Shows this process's user, and root, what runs in sandboxes here, by `caisson top` or to whoever reads the socket: JSON, a line a second. One who
 * writes `{"intervalMs":250}` gets them as often. While nobody reads, nothing is looked at; the process ends as if the socket were not there.
 *
 * Throws a SystemError where the socket cannot be made: `EEXIST` where there is something at `path` that is no dead host's socket.
 *
 * @example using status = exposeStatus();
 */
export function exposeStatus(options: ExposeOptions = {}): Exposure {
  checkOptions(options, { path: PATH });
  return new Exposure(options.path ?? join(ownDirectory(), `${process.pid}.sock`));
}

function ownDirectory(): string {
  const directory = makeRunDirectory();
  for (const path of hostSockets([directory])) sweep(path);
  return directory;
}

/** A status that can be read, until it is closed or the process ends. */
export class Exposure implements Disposable {
  /** Where the socket is. */
  readonly path: string;
  readonly #stop: () => void;
  readonly #readers = new Set<Reader>();
  readonly #counting: Disposable;
  #line: Promise<Uint8Array> | undefined;
  /** Until when that is new. */
  #fresh = Number.POSITIVE_INFINITY;
  #closed = false;

  constructor(path: string) {
    this.path = resolve(path); // it is removed from wherever this process works by then
    const socket = { ...accepting(() => {}), open: (opened: Bun.Socket<Connection | undefined>) => this.#open(opened) };
    const owned = listenOrSay(this.path);
    // @types/bun does not know `fd`.
    const how = { fd: owned.take(), allowHalfOpen: true, socket } as unknown as Bun.TCPSocketListenOptions<
      Connection | undefined
    >;
    const listener = Bun.listen<Connection | undefined>(how);
    listener.unref();
    this.#stop = () => listener.stop(true);
    process.on("exit", this.#remove);
    this.#counting = countDenials();
  }

  /** Shows nothing any more, and removes the socket. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    process.off("exit", this.#remove);
    this.#remove();
    this.#stop();
    for (const reader of this.#readers) reader.close();
    this.#counting[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  readonly #remove = (): void => rmSync(this.path, { force: true });

  #open(socket: Bun.Socket<Connection | undefined>): void {
    socket.unref();
    // The directory keeps others out; a `path` of the user's own may not.
    const { uid } = peerCredentials(self, (socket as unknown as { fd: number }).fd); // which @types/bun does not know
    if ((uid !== process.geteuid!() && uid !== 0) || this.#readers.size >= MOST_READERS) {
      socket.terminate();
      return;
    }
    const connection = new Connection(socket);
    const reader = new Reader(connection, () => this.#latest());
    this.#readers.add(reader);
    void connection.closed.then(() => {
      reader.close();
      this.#readers.delete(reader);
    });
  }

  #latest(): Promise<Uint8Array> {
    if (this.#line === undefined || performance.now() >= this.#fresh) {
      this.#fresh = Number.POSITIVE_INFINITY; // while it is made
      this.#line = this.#make();
    }
    return this.#line;
  }

  async #make(): Promise<Uint8Array> {
    const began = performance.now();
    try {
      return new TextEncoder().encode(jsonLine(await snapshot()));
    } finally {
      const end = performance.now();
      this.#fresh = end + Math.max(FRESH_MS, FRESH_TIMES * (end - began));
    }
  }
}

/** What a path lacks where no socket can be made at it. The calls' own words are of other names. */
const LACKING: Readonly<Record<string, string>> = {
  EEXIST: "there is something already, such as another status, which has to be closed first",
  ENOENT: "its directory is not there",
};

function listenOrSay(path: string): Descriptor {
  try {
    return listenAt(path);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    const { syscall, errno, code } = error;
    const why = LACKING[code] ?? "no socket can be made there";
    throw new SystemError(syscall, errno, `${path}: ${why}`, { cause: error });
  }
}

/** A socket that listens at a path, which nobody but its user could ever open. */
function listenAt(path: string): Descriptor {
  using socket = new Descriptor(openSocket(self, "UNIX"));
  // Before it has a name: bind(2) gives the file what the socket has, less the umask.
  changeMode(self, socket.number, 0o600);
  const name = `${path}.${process.pid}`;
  sweep(name);
  bindTo(self, socket.number, { family: "UNIX", path: name });
  try {
    self.call("listen", socket.number, MOST_READERS);
    // Its own name only now, that others may take one on which nobody listens for a dead host's; and by link(2), which takes nothing's place.
    link(name, path);
  } finally {
    rmSync(name, { force: true });
  }
  return new Descriptor(socket.take());
}

function link(name: string, path: string): void {
  try {
    makeLink(self, name, path);
  } catch (error) {
    if (!(error instanceof SystemError && error.code === "EEXIST" && sweep(path))) throw error;
    makeLink(self, name, path);
  }
}

/** One that reads snapshots. It is given the next only when the kernel has all of the one before. */
class Reader {
  readonly #connection: Connection;
  readonly #latest: () => Promise<Uint8Array>;
  #timer: Timer | undefined;
  #intervalMs = 0;
  #busy = false;
  /** How many were due since it was given one that it has not taken; undefined where it has. */
  #missed: number | undefined;

  constructor(connection: Connection, latest: () => Promise<Uint8Array>) {
    this.#connection = connection;
    this.#latest = latest;
    this.#every(INTERVAL_MS);
    void this.#send();
    void this.#listen();
  }

  close(): void {
    clearInterval(this.#timer);
    this.#connection.close();
  }

  #every(intervalMs: number): void {
    this.#intervalMs = intervalMs;
    clearInterval(this.#timer);
    this.#timer = setInterval(() => void this.#send(), intervalMs).unref();
  }

  async #send(): Promise<void> {
    if (this.#missed !== undefined && ++this.#missed > MOST_MISSED) this.close();
    if (this.#busy) return;
    this.#busy = true;
    try {
      const line = await this.#latest();
      this.#missed = 0;
      await this.#connection.write(line);
    } catch {
      this.close();
    }
    this.#missed = undefined;
    this.#busy = false;
  }

  /** Takes what it asks for, one wish in a while. One that says what makes no sense is turned away. */
  async #listen(): Promise<void> {
    try {
      for (;;) {
        const line = await this.#connection.gather(LONGEST_LINE, (bytes) => bytes.indexOf(10) + 1 || undefined);
        if (line === undefined) return; // it only listens now
        const { intervalMs } = JSON.parse(line.toString());
        if (!(intervalMs >= SHORTEST_MS && intervalMs <= LONGEST_MS)) throw new RangeError("Cannot keep to that");
        if (intervalMs !== this.#intervalMs) this.#every(intervalMs); // who says the same again is given no less
        // What it says meanwhile stays with the kernel: to read wishes without end would leave no time for anything else.
        await new Promise<void>((resolve) => setTimeout(resolve, SHORTEST_MS).unref());
      }
    } catch {
      this.close();
    }
  }
}
