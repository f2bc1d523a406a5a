/** The way out for what has no network: by name, port and the address that is really used, each decision told (the rules are in rule.ts). */
import { lookup } from "node:dns/promises";
import { type Address, type Host, parseAddress, parseHost, specialOf } from "./address.ts";
import { type Connection, dial } from "./connection.ts";
import { type Decision, EgressDenied, type Gate, printable, Unreachable, type Via } from "./decision.ts";
import type { Listener } from "./listener.ts";
import { serveProxy } from "./proxy.ts";
import { parseRule, parseTarget, type Rule, ruleForAddress, ruleForName } from "./rule.ts";

export interface EgressOptions {
  readonly onDecision?: (decision: Decision) => void;
  /** The addresses of a name. Asked once a decision, and only for names that a rule has; by default the system's resolver. */
  readonly resolve?: (name: string) => Promise<readonly string[]>;
  readonly limits?: Partial<EgressLimits>;
}

export interface EgressLimits {
  /** Connections at once, of clients and of the host's own code; more are closed. */
  readonly connections: number;
  /** Bytes of a head of HTTP. */
  readonly headBytes: number;
  /** For a client to say what it wants. */
  readonly headMs: number;
  /** For a name to resolve and one of its addresses to answer. */
  readonly connectMs: number;
  /** Without a byte in either direction. */
  readonly idleMs: number;
}

const LIMITS: EgressLimits = {
  connections: 256,
  headBytes: 64 * 1024,
  headMs: 15_000,
  connectMs: 15_000,
  idleMs: 300_000,
};

/** A way out by `rules`. Nothing else passes: `[]` allows nothing. Throws TypeError for a rule that is not clearly one. */
export function egress(rules: readonly string[], options: EgressOptions = {}): Egress {
  return new Egress(rules.map(parseRule), options);
}

export class Egress implements Gate, Disposable {
  readonly #rules: readonly Rule[];
  readonly #onDecision: (decision: Decision) => void;
  readonly #resolve: (name: string) => Promise<readonly string[]>;
  readonly limits: EgressLimits;
  readonly #connections = new Set<Connection>();
  #pending = 0;
  #closed = false;

  constructor(rules: readonly Rule[], { onDecision, resolve, limits }: EgressOptions) {
    this.#rules = rules;
    this.#onDecision = onDecision ?? (() => {});
    this.#resolve = resolve ?? resolveBySystem;
    this.limits = { ...LIMITS, ...limits };
  }

  /** Is the proxy for who connects there: HTTP, `CONNECT` and SOCKS5, told apart by the first byte. */
  serve(listener: Listener): void {
    listener.accept((connection) => this.accept(connection));
  }

  /** Is the proxy on a connection, which is closed in the end. @param serve what it is instead; never rejects */
  accept(connection: Connection, serve: typeof serveProxy = serveProxy): void {
    if (this.#full) connection.close();
    else void serve(this.#hold(connection), this);
  }

  /** A connection for the host's own code, to `"host:port"`. Rejects with EgressDenied, or with Unreachable. */
  async connect(target: string): Promise<Connection> {
    const { host, port } = parseTarget(target);
    if (this.#full) throw new Unreachable(target, this.#closed ? "ECANCELED" : "EMFILE");
    this.#pending++;
    try {
      return this.#hold(await this.reach(host, port, "direct"));
    } finally {
      this.#pending--;
    }
  }

  /** Decides, and connects to the very address that was decided on. What is proxied counts with its client. */
  async reach(host: string, port: number, via: Via): Promise<Connection> {
    const deadline = AbortSignal.timeout(this.limits.connectMs);
    const { name, rule, addresses } = await this.#decide(host, port, { via, deadline });
    let refusal: unknown;
    for (const address of addresses) {
      if (deadline.aborted) break;
      this.#onDecision({ host: name, port, via, address: address.text, allowed: true, rule: rule.text });
      try {
        const connection = await within(deadline, dial({ hostname: address.text, port }), (late) => late.close());
        if (!this.#closed) return connection;
        connection.close();
        throw new Unreachable(`${name}:${port}`, "ECANCELED");
      } catch (error) {
        refusal = error;
      }
    }
    throw new Unreachable(`${name}:${port}`, codeOf(refusal), { cause: refusal });
  }

  /** Tells of a refusal, and gives the error for it. */
  deny(decision: Omit<Decision, "allowed">): EgressDenied {
    const denied = { ...decision, allowed: false };
    this.#onDecision(denied);
    return new EgressDenied(denied);
  }

  /** Ends every connection; from here on nothing passes. */
  close(): void {
    this.#closed = true;
    for (const connection of this.#connections) connection.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Where a host may be connected to, at least one address. Names without a rule are not resolved: asking would tell their servers. */
  async #decide(
    asked: string,
    port: number,
    { via, deadline }: { readonly via: Via; readonly deadline: AbortSignal },
  ): Promise<{ readonly name: string; readonly rule: Rule; readonly addresses: readonly Address[] }> {
    let host: Host;
    try {
      host = parseHost(asked);
    } catch (error) {
      throw this.deny({ host: printable(asked), port, via, reason: printable((error as Error).message) });
    }
    if ("address" in host) {
      const { address } = host;
      const rule = ruleForAddress(this.#rules, address, port);
      if (rule !== undefined) return { name: address.text, rule, addresses: [address] };
      const reason = `no rule names ${placeOf(address, port)}${kindOf(address)}`;
      throw this.deny({ host: address.text, port, via, address: address.text, reason });
    }
    const { name } = host;
    const rule = ruleForName(this.#rules, name, port);
    if (rule === undefined) throw this.deny({ host: name, port, via, reason: `no rule names ${name}:${port}` });
    const found = await this.#resolved(name, { port, via, deadline });
    const addresses = found.filter((address) => specialOf(address) === undefined || this.#names(address, port));
    if (addresses.length > 0) return { name, rule, addresses };
    const address = found[0]!;
    const reason = `it is at ${address.text}${kindOf(address)}, and no rule names ${placeOf(address, port)}`;
    throw this.deny({ host: name, port, via, address: address.text, reason });
  }

  #names(address: Address, port: number): boolean {
    return ruleForAddress(this.#rules, address, port) !== undefined;
  }

  /** All addresses of a name, at least one. */
  async #resolved(
    name: string,
    { deadline, ...decision }: { readonly port: number; readonly via: Via; readonly deadline: AbortSignal },
  ): Promise<readonly Address[]> {
    let cause: unknown;
    try {
      const texts = await within(deadline, this.#resolve(name), () => {});
      const addresses = texts.map(parseAddress).filter((address) => address !== undefined);
      if (addresses.length > 0) return addresses;
    } catch (error) {
      cause = error;
    }
    const code = cause === undefined ? "ENOTFOUND" : codeOf(cause);
    this.deny({ ...decision, host: name, reason: `it does not resolve: ${code}` });
    throw new Unreachable(name, code, { cause });
  }

  get #full(): boolean {
    return this.#closed || this.#connections.size + this.#pending >= this.limits.connections;
  }

  #hold(connection: Connection): Connection {
    this.#connections.add(connection);
    void connection.closed.then(() => this.#connections.delete(connection));
    return connection;
  }
}

async function resolveBySystem(name: string): Promise<readonly string[]> {
  const found = await lookup(name, { all: true });
  return found.map(({ address }) => address);
}

/** The promise, unless it takes too long; what it gives then goes to `late`. */
async function within<T>(deadline: AbortSignal, promise: Promise<T>, late: (value: T) => void): Promise<T> {
  const over = Promise.withResolvers<never>();
  const end = () => {
    promise.then(late, () => {});
    over.reject(Object.assign(new Error("It took too long"), { code: "ETIMEDOUT" }));
  };
  if (deadline.aborted) end();
  else deadline.addEventListener("abort", end, { once: true });
  try {
    return await Promise.race([promise, over.promise]);
  } finally {
    deadline.removeEventListener("abort", end);
  }
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === "string" ? code : "EIO";
}

function placeOf({ text, length }: Address, port: number): string {
  return length === 128 ? `[${text}]:${port}` : `${text}:${port}`;
}

function kindOf(address: Address): string {
  const special = specialOf(address);
  return special === undefined ? "" : ` (${special.what})`;
}
