/** The network at the end of whoever was handed it: a queue of streams to the host, one for each thing that is asked for (docs/wire.md). */
import type { Descriptor } from "../syscalls/descriptor.ts";
import { self } from "../syscalls/kernel.ts";
import { MSG } from "../syscalls/linux/constants.ts";
import { receiveDescriptors } from "../syscalls/linux/socket.ts";
import type { NetworkCapability } from "./capability.ts";
import { type Connection, connection } from "./connection.ts";
import { type Answer, frame, MOST_WISH, readBody, readValue, type Wish, writeBody } from "./exchange.ts";

/** More than the heads of any server that the host would take. */
const MOST_ANSWER = 16 * 1024 * 1024;
/** Statuses of answers that have no body. */
const BODILESS: readonly number[] = [204, 205, 304];

export class Reach implements NetworkCapability {
  readonly #queue: Descriptor;
  /** Settles when there is a stream in the queue that nobody waits for. */
  #turn: Promise<void> = Promise.resolve();

  constructor(queue: Descriptor) {
    this.#queue = queue;
  }

  async connect(target: string): Promise<Connection> {
    const stream = await this.#ask({ connect: target });
    try {
      await answerOn(stream);
      return stream;
    } catch (error) {
      stream.close();
      throw error;
    }
  }

  async fetch(url: string | URL, init: RequestInit = {}): Promise<Response> {
    if ((init.redirect ?? "manual") !== "manual") {
      throw new TypeError('Cannot follow redirections: each is to be asked for anew, redirect: "manual" is expected');
    }
    const request = new Request(String(url), init);
    const { signal, method, body } = request;
    signal.throwIfAborted();
    const headers = [...request.headers];
    const stream = await this.#ask({ fetch: request.url, method, headers, body: body !== null });
    const abort = () => stream.close();
    signal.addEventListener("abort", abort);
    void stream.closed.then(() => signal.removeEventListener("abort", abort));
    let failure: unknown;
    try {
      signal.throwIfAborted();
      const sending = body === null ? undefined : writeBody(stream, body);
      sending?.catch((error) => {
        failure = error;
        stream.close();
      });
      const answer = (await answerOn(stream)) as Extract<Answer, { status: number }>;
      const empty = method === "HEAD" || BODILESS.includes(answer.status);
      if (empty) stream.close();
      const response = new Response(empty ? null : readBody(stream, () => stream.close()), answer);
      return Object.defineProperty(response, "url", { value: request.url });
    } catch (error) {
      stream.close();
      signal.throwIfAborted();
      throw failure ?? error;
    }
  }

  close(): void {
    this.#queue.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Takes the stream that waits, says what is wanted, and lets the next one go when the host has put another there. */
  async #ask(wish: Wish): Promise<Connection> {
    const bytes = frame(wish);
    if (bytes.length > MOST_WISH)
      throw new RangeError(`Cannot ask for that in ${bytes.length} bytes: ${MOST_WISH} are allowed`);
    const before = this.#turn;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#turn = promise;
    await before;
    let stream: Connection | undefined;
    try {
      stream = await connection(this.#take());
      await stream.write(bytes);
      if ((await stream.gather(1, () => 1)) === undefined) throw closed();
      return stream;
    } catch (error) {
      stream?.close();
      throw error;
    } finally {
      resolve();
    }
  }

  #take(): number {
    const { descriptors } = receiveDescriptors(self, this.#queue.number, new Uint8Array(1), {
      most: 1,
      flags: MSG.DONTWAIT,
    });
    if (descriptors[0] === undefined) throw closed();
    return descriptors[0];
  }
}

function closed(): Error {
  return new Error("Cannot reach anything: the host has closed this network");
}

/** What the host answers. Throws the error that it tells of. */
async function answerOn(stream: Connection): Promise<Answer> {
  const answer = (await readValue(stream, MOST_ANSWER)) as Answer | undefined;
  if (answer === undefined) throw closed();
  if (!("error" in answer)) return answer;
  const { message, ...rest } = answer.error;
  throw Object.assign(rest.name === "TypeError" ? new TypeError(message) : new Error(message), rest);
}
