/** Hosts that show what runs in them, as who reads that sees them. */
import { Type } from "typebox";
import { type Connection, dial } from "./connection.ts";
import { listens } from "./rundir.ts";
import { checkerOf } from "./schema.ts";
import type { Snapshot } from "./snapshot.ts";

const COUNT = Type.Number({ minimum: 0 });
/** What a table needs. A host of another version may say more. */
const MEMBER = Type.Object({
  kind: Type.String(),
  name: Type.String(),
  pid: COUNT,
  state: Type.String(),
  startedAt: COUNT,
  usage: Type.Object({
    cpuMs: COUNT,
    memoryBytes: COUNT,
    peakBytes: COUNT,
    messagesIn: Type.Optional(COUNT),
    messagesOut: Type.Optional(COUNT),
  }),
  callsPending: COUNT,
  denials: COUNT,
});
const SNAPSHOT = Type.Object({
  version: Type.Literal(1),
  pid: COUNT,
  host: Type.String(),
  at: COUNT,
  members: Type.Array(MEMBER),
  more: COUNT,
});

/** The longest line of a host that is read. */
const LONGEST_LINE = 4 * 2 ** 20;

/** The snapshots of one host, until it ends. Throws for what is no snapshot. */
export async function* snapshots(
  path: string,
  intervalMs: number,
  signal: AbortSignal,
): AsyncGenerator<Snapshot, void> {
  using host = await dial({ unix: path });
  const leave = () => host.close();
  signal.addEventListener("abort", leave);
  void host.closed.then(() => signal.removeEventListener("abort", leave));
  if (signal.aborted) return;
  await host.write(new TextEncoder().encode(`${JSON.stringify({ intervalMs })}\n`)).catch(() => {}); // it may be gone, and have said something
  for (let line = await nextLine(host); line !== undefined; line = await nextLine(host))
    yield snapshotOf(JSON.parse(line.toString()));
}

function snapshotOf(value: { readonly version?: unknown } | null): Snapshot {
  if (typeof value?.version === "number" && value.version !== 1)
    throw new Error(`Cannot read version ${value.version} of its snapshots: 1 is expected, of this version of caisson`);
  return checkerOf(SNAPSHOT)(value) as Snapshot;
}

async function nextLine(host: Connection): Promise<Buffer | undefined> {
  return await host
    .gather(LONGEST_LINE, (bytes, fresh) => bytes.indexOf(10, bytes.length - fresh) + 1 || undefined)
    .catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ECONNRESET") return undefined; // so ends a host that was killed
      throw error;
    });
}

/** What is done with what is read. */
export interface Viewer {
  /** Further snapshots of this host wait for what this returns. */
  sees(path: string, snapshot: Snapshot): void | Promise<void>;
  /** @param error why it is read no more, unless it ended */
  loses(path: string, error: unknown): void;
  /** There is no host left. */
  ends(): void;
}

/** Reads from the hosts that there are, and from those that come while there are any. */
export class Watch implements Disposable {
  readonly #find: () => readonly string[];
  readonly #intervalMs: number;
  readonly #viewer: Viewer;
  readonly #timer: Timer;
  readonly #followed = new Set<string>();
  /** Those that were no use. */
  readonly #left = new Set<string>();
  readonly #over = new AbortController();

  constructor(find: () => readonly string[], intervalMs: number, viewer: Viewer) {
    this.#find = find;
    this.#intervalMs = intervalMs;
    this.#viewer = viewer;
    this.#timer = setInterval(() => this.#look(), intervalMs);
    this.#look();
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#over.abort();
  }

  #look(): void {
    const found = this.#find().filter((path) => !this.#left.has(path));
    for (const path of found) if (!this.#followed.has(path)) void this.#follow(path);
    if (this.#followed.size === 0) this.#viewer.ends();
  }

  async #follow(path: string): Promise<void> {
    this.#followed.add(path);
    let error: unknown;
    let silent = true;
    try {
      for await (const snapshot of snapshots(path, this.#intervalMs, this.#over.signal)) {
        silent = false;
        await this.#viewer.sees(path, snapshot);
      }
    } catch (thrown) {
      error = thrown;
    }
    if (this.#over.signal.aborted) return;
    this.#followed.delete(path);
    // The last connections of one that ends are closed before anybody accepts them.
    if (!listens(path)) error = undefined;
    else if (silent) error ??= new Error("it turned us away");
    // A socket that a killed host left is no other host.
    if (error !== undefined || silent) this.#left.add(path);
    this.#viewer.loses(path, error);
    this.#look();
  }
}
