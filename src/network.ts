/** The network as a capability: who is handed it asks, and this process decides and reaches (docs/wire.md). */
import { Descriptor } from "../syscalls/descriptor.ts";
import { SystemError } from "../syscalls/error.ts";
import { self } from "../syscalls/kernel.ts";
import { MSG, SOCK } from "../syscalls/linux/constants.ts";
import { sendDescriptors, socketPair } from "../syscalls/linux/socket.ts";
import { NETWORK, type NetworkCapability, Source } from "./capability.ts";
import { type Connection, connection } from "./connection.ts";
import { EgressDenied, type Gate } from "./decision.ts";
import type { Denials } from "./denials.ts";
import { type Egress, type EgressOptions, egress } from "./egress.ts";
import { frame, MOST_WISH, readValue, TAKEN, type Wish } from "./exchange.ts";
import { Fetcher, farewell, mistake, refusal } from "./fetcher.ts";
import { serveTunnel } from "./proxy.ts";
import { Reach } from "./reach.ts";
import { parseTarget } from "./rule.ts";
import { checkerOf } from "./schema.ts";
import { denialOf } from "./verdict.ts";

export interface NetworkOptions extends EgressOptions {
  /** Certificates of authorities, in PEM, that `fetch` trusts in place of the usual ones. */
  readonly ca?: string;
}

/**
 * A network to hand to actors, in which nothing can be reached but what `rules` name: `"api.example.com:443"`, `"*.example.com:443"`,
 * `"10.0.0.0/8:5432"`. Throws TypeError for a rule that is not clearly one.
 *
 * @example await actor.call.work(network(["api.example.com:443"]))
 */
export function network(rules: readonly string[], { ca, ...options }: NetworkOptions = {}): Network {
  return new Network(egress(rules, options), ca);
}

export class Network extends Source implements NetworkCapability {
  readonly #egress: Egress;
  readonly #fetcher: Fetcher;
  readonly #grants = new Set<Grant>();
  #own: Reach | undefined;
  #closed = false;

  constructor(egress: Egress, ca: string | undefined) {
    super();
    this.#egress = egress;
    this.#fetcher = new Fetcher(ca);
  }

  get tag(): number {
    return NETWORK;
  }

  /** The end to hand over; this one is served. */
  override open(to?: Denials): Descriptor {
    if (this.#closed) throw new Error("Cannot hand over a network that is closed");
    const [mine, theirs] = socketPair(self, SOCK.SEQPACKET);
    using end = new Descriptor(theirs);
    const grant = new Grant(new Descriptor(mine), this.#egress, { fetcher: this.#fetcher, denials: to });
    this.#grants.add(grant);
    void grant.ended.then(() => this.#grants.delete(grant));
    return new Descriptor(end.take());
  }

  /** As an actor connects that was handed this. Used here, a network keeps this process alive until it is closed. */
  connect(target: string): Promise<Connection> {
    return this.#reach().connect(target);
  }

  /** As an actor fetches that was handed this. */
  fetch(url: string | URL, init?: RequestInit): Promise<Response> {
    return this.#reach().fetch(url, init);
  }

  /** Ends every connection, whoever made it; from here on nothing passes. */
  close(): void {
    this.#closed = true;
    this.#own?.close();
    for (const grant of this.#grants) grant.close();
    this.#egress.close();
    this.#fetcher.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #reach(): Reach {
    this.#own ??= new Reach(this.open());
    return this.#own;
  }
}

const SHUT_RD = 0;
/** Streams in use at once of one that was handed a network; whoever wants more waits. */
const MOST_STREAMS = 64;

/** This process has no number for another descriptor, or this user too many on their way: nobody tells when that is over. */
const PASSING = ["EMFILE", "ENFILE", "ETOOMANYREFS"];
const PATIENCE_MS = 20;

const string = { type: "string" } as const;
const header = { type: "array", items: [string, string], additionalItems: false, minItems: 2 } as const;
const wish = (properties: Readonly<Record<string, object>>) => ({
  type: "object",
  required: Object.keys(properties),
  properties,
  additionalProperties: false,
});

const checkWish = checkerOf({
  anyOf: [
    wish({ connect: string }),
    wish({ fetch: string, method: string, headers: { type: "array", items: header }, body: { type: "boolean" } }),
  ],
});

/** One that was handed a network, taken to be hostile. What the protocol does not allow ends it, and all its streams. */
class Grant {
  /** Settles when no new stream is asked for any more. */
  readonly ended: Promise<void>;
  readonly #end = Promise.withResolvers<void>();
  readonly #queue: Descriptor;
  readonly #egress: Egress;
  readonly #fetcher: Fetcher;
  readonly #denials: Denials | undefined;
  readonly #streams = new Set<Connection>();
  /** Resolves when there is one stream less. */
  #room: PromiseWithResolvers<void> | undefined;

  constructor(
    queue: Descriptor,
    egress: Egress,
    { fetcher, denials }: { readonly fetcher: Fetcher; readonly denials: Denials | undefined },
  ) {
    this.#queue = queue;
    this.#egress = egress;
    this.#fetcher = fetcher;
    this.#denials = denials;
    this.ended = this.#end.promise;
    try {
      // Nobody reads here, so nobody shall fill it: descriptors under way count against the host's user.
      self.call("shutdown", queue.number, SHUT_RD);
      this.#offer();
    } catch (error) {
      queue.close();
      throw error;
    }
  }

  close(): void {
    this.#stop();
    for (const stream of this.#streams) stream.close();
  }

  /** Offers no more. */
  #stop(): void {
    this.#queue.close();
    this.#end.resolve();
    this.#room?.resolve();
  }

  /** Puts a fresh stream into the queue: there is one at a time. */
  #offer(): void {
    const [mine, theirs] = socketPair(self, SOCK.STREAM | SOCK.NONBLOCK);
    using given = new Descriptor(theirs);
    using kept = new Descriptor(mine);
    sendDescriptors(self, this.#queue.number, Uint8Array.of(0), [given.number], MSG.DONTWAIT);
    void this.#attend(kept.take());
  }

  /** The same, as soon as the kernel lets this process. Who asks waits meanwhile, and finds no end of the network. */
  async #offerInTime(): Promise<void> {
    while (!this.#queue.closed) {
      try {
        return this.#offer();
      } catch (error) {
        if (!(error instanceof SystemError && PASSING.includes(error.code))) throw error;
      }
      await Bun.sleep(PATIENCE_MS);
    }
  }

  /** Waits for what is wanted on a stream, and sees to it. */
  async #attend(descriptor: number): Promise<void> {
    let stream: Connection | undefined;
    try {
      stream = await connection(descriptor);
      if (this.#queue.closed) return stream.close();
      const held = stream;
      this.#streams.add(held);
      void held.closed.then(() => this.#leave(held));
      const wish = await this.#wish(held);
      if (wish === undefined) {
        // Whoever had the queue has gone, or let go of it.
        held.close();
        return this.#stop();
      }
      while (this.#streams.size > MOST_STREAMS && !this.#queue.closed) {
        this.#room ??= Promise.withResolvers();
        await this.#room.promise;
      }
      await this.#offerInTime();
      if (this.#queue.closed) return held.close();
      this.#egress.accept(held, (client, gate) => this.#serve(client, this.#told(gate), wish));
    } catch {
      // No wish at all, or nobody there who would hear of it.
      stream?.close();
      this.close();
    }
  }

  async #wish(stream: Connection): Promise<Wish | undefined> {
    const first = await stream.gather(1, () => 1); // which may be long in coming
    if (first === undefined) return undefined;
    stream.unread(first);
    const timer = setTimeout(() => stream.close(), this.#egress.limits.headMs);
    try {
      const value = await readValue(stream, MOST_WISH);
      return value === undefined ? undefined : (checkWish(value) as Wish);
    } finally {
      clearTimeout(timer);
    }
  }

  /** The gate, with whose refusals it is. */
  #told(gate: Gate): Gate {
    const denials = this.#denials;
    if (denials === undefined) return gate;
    const tell = (error: unknown) => {
      if (error instanceof EgressDenied && denials.wanted)
        denials.report(denialOf(error.decision, { actor: denials.actor, kind: "actor" }));
    };
    return {
      limits: gate.limits,
      reach: async (...asked) => {
        try {
          return await gate.reach(...asked);
        } catch (error) {
          tell(error);
          throw error;
        }
      },
      deny: (decision) => {
        const error = gate.deny(decision);
        tell(error);
        return error;
      },
    };
  }

  async #serve(client: Connection, gate: Gate, wish: Wish): Promise<void> {
    try {
      await client.write(Uint8Array.of(TAKEN));
      if ("fetch" in wish) await this.#fetcher.serve(client, gate, wish);
      else await serveConnect(client, gate, wish.connect);
    } catch {
      client.close();
    }
  }

  #leave(stream: Connection): void {
    this.#streams.delete(stream);
    this.#room?.resolve();
    this.#room = undefined;
  }
}

/** A connection that whoever asked uses as it likes, save that it asks for no other name by TLS. */
async function serveConnect(client: Connection, gate: Gate, target: string): Promise<void> {
  let to: ReturnType<typeof parseTarget>;
  try {
    to = parseTarget(target);
  } catch (error) {
    return farewell(client, mistake(error));
  }
  const answer = (failure?: unknown) => frame(failure === undefined ? { connected: true } : refusal(failure));
  return serveTunnel(client, gate, { ...to, via: "actor", answer });
}
