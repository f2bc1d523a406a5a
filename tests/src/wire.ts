/** Two ends of a link for the tests: both ours over a socket pair, or one of them a script of bytes. */
import { expect } from "bun:test";
import type { Pace } from "../../platform/pace.ts";
import { type Channel, connect, type Hooks } from "../../src/channel.ts";
import { ProtocolViolation } from "../../src/error.ts";
import type { Descriptors } from "../../src/frame.ts";
import { LIMITS, type Limits } from "../../src/link.ts";
import { Splitter } from "../../src/splitter.ts";
import type { Turns } from "../../src/turns.ts";
import { self } from "../../syscalls/kernel.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { socketPair } from "../../syscalls/linux/socket.ts";

/** A capability of these tests. */
export class Token {
  disposed = false;
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
  [Symbol.dispose](): void {
    this.disposed = true;
  }
}

/** A descriptor lane in memory: what one end sends, the other takes. */
export class Lane implements Descriptors {
  peer!: Lane;
  readonly arrived: object[] = [];

  static pair(): [Lane, Lane] {
    const ends: [Lane, Lane] = [new Lane(), new Lane()];
    ends[0].peer = ends[1];
    ends[1].peer = ends[0];
    return ends;
  }
  send(capabilities: readonly object[]): void {
    this.peer.arrived.push(...capabilities);
  }
  take(count: number): object[] {
    if (this.arrived.length < count)
      throw new ProtocolViolation(`Cannot find ${count} descriptors: ${this.arrived.length} arrived`);
    return this.arrived.splice(0, count);
  }
  get surplus(): boolean {
    return this.arrived.length > 0;
  }
  isCapability(value: object): boolean {
    return value instanceof Token;
  }
}

/** What a test leaves to be undone. */
export const cleanup: (() => void)[] = [];
/** To be run after each test. */
export function cleanUp(): void {
  for (const step of cleanup.splice(0)) step();
}

// Both ends ours, over a real socket pair.

interface Given {
  readonly hooks?: Hooks;
  readonly limits?: Partial<Limits>;
  /** By which this end hands out messages. */
  readonly turns?: Turns;
  /** By which this end looks at what arrives. */
  readonly pace?: Pace;
  /** What the actor's module exports, and the code that the host sends for it. */
  readonly names?: readonly string[];
  readonly source?: string;
}

/** A host and an actor that is ready. */
export async function link(host: Given = {}, actor: Given = {}) {
  const [near, far] = socketPair(self, SOCK.STREAM);
  const lanes = Lane.pair();
  const ready = Promise.withResolvers<readonly string[]>();
  const parts: { host?: Channel; actor?: Channel } = {};
  parts.actor = await connect(far, {
    role: "actor",
    descriptors: lanes[1],
    limits: actor.limits ?? {},
    hooks: {
      onCall: (_, args) => args[0],
      ...actor.hooks,
      onStart(options, source) {
        actor.hooks?.onStart?.(options, source);
        parts.actor?.ready(actor.names ?? ["echo"]);
      },
    },
  });
  parts.host = await connect(near, {
    role: "host",
    descriptors: lanes[0],
    limits: host.limits ?? {},
    ...(host.turns && { turns: host.turns }),
    ...(host.pace && { pace: host.pace }),
    hooks: {
      ...host.hooks,
      onHello(report) {
        host.hooks?.onHello?.(report);
        parts.host?.start({ name: "m" }, host.source ?? "");
      },
      onReady(names) {
        host.hooks?.onReady?.(names);
        ready.resolve(names);
      },
    },
  });
  const ends = { host: parts.host, actor: parts.actor, lanes };
  cleanup.push(() => {
    ends.host.close();
    ends.actor.close();
  });
  ends.actor.hello({ threads: 1 });
  await ready.promise;
  return ends;
}

// A hostile end: bytes written by hand, as docs/wire.md has them.

export const HELLO = 1;
export const READY = 2;
export const FAILED = 3;
export const RESULT = 4;
export const THREW = 5;
export const UNCAUGHT = 6;
export const START = 8;
export const CALL = 9;
export const CANCEL = 10;
export const MESSAGE = 16;
export const CREDIT = 17;
export const END = 18;

export const u32 = (...words: number[]) => Buffer.from(new Uint32Array(words).buffer);
export const payload = (value: unknown, descriptors = 0) =>
  Buffer.concat([Uint8Array.of(descriptors, 1), Buffer.from(JSON.stringify(value))]);
export function frame(kind: number, ...body: Uint8Array[]): Buffer {
  const bytes = Buffer.concat([Uint8Array.of(kind), ...body]);
  return Buffer.concat([u32(bytes.length), bytes]);
}
export const GREETING = Buffer.from("caisson\x01");
export const hello = frame(HELLO, GREETING, payload(null));
export const ready = frame(READY, payload(["echo"]));

/** A host's channel whose peer is this script. */
export class Script {
  readonly host: Channel;
  readonly lanes: [Lane, Lane];
  /** The frames that the host sent. */
  readonly seen: { kind: number; body: Buffer }[] = [];
  readonly violations: ProtocolViolation[] = [];
  readonly #socket: Bun.Socket;
  readonly #waiting: (() => void)[] = [];
  #unsent = Buffer.alloc(0);
  gone = false;

  private constructor(host: Channel, lanes: [Lane, Lane], socket: Bun.Socket) {
    this.host = host;
    this.lanes = lanes;
    this.#socket = socket;
  }

  static async start(given: Given = {}): Promise<Script> {
    const [near, far] = socketPair(self, SOCK.STREAM);
    const lanes = Lane.pair();
    let script!: Script;
    const early: Buffer[] = [];
    const splitter = new Splitter(LIMITS.frameBytes, (bytes, start, end) => {
      script.seen.push({ kind: bytes[start]!, body: bytes.subarray(start + 1, end) });
      script.#wake();
      return false;
    });
    const host = await connect(near, {
      role: "host",
      descriptors: lanes[0],
      limits: given.limits ?? {},
      hooks: {
        onHello: () => host.start({}, ""),
        ...given.hooks,
        onViolation(violation) {
          script.violations.push(violation);
          given.hooks?.onViolation?.(violation);
        },
      },
    });
    const socket = (await Bun.connect({
      fd: far,
      socket: {
        data: (_: unknown, chunk: Buffer) => (script === undefined ? early.push(chunk) : splitter.push(chunk)),
        drain: () => script.#flush(),
        close: () => {
          script.gone = true;
          script.#wake();
        },
      },
    } as never)) as Bun.Socket;
    script = new Script(host, lanes, socket);
    for (const chunk of early) splitter.push(chunk);
    cleanup.push(() => {
      host.close();
      socket.terminate();
    });
    return script;
  }

  /** As `start`, with an actor that is ready. */
  static async ready(given: Given = {}): Promise<Script> {
    const loaded = Promise.withResolvers<void>();
    const script = await Script.start({ ...given, hooks: { ...given.hooks, onReady: () => loaded.resolve() } });
    script.write(hello);
    await script.until(START);
    script.write(ready);
    await loaded.promise;
    return script;
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }

  write(...bytes: Uint8Array[]): void {
    this.#unsent = Buffer.concat([this.#unsent, ...bytes]);
    this.#flush();
  }

  #flush(): void {
    if (this.gone) return;
    this.#unsent = this.#unsent.subarray(Math.max(0, this.#socket.write(this.#unsent)));
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  hangUp(): void {
    this.#socket.terminate();
  }

  /** The `count`th frame of a kind, once it is there. */
  async until(kind: number, count = 1): Promise<Buffer> {
    for (;;) {
      const found = this.seen.filter((seen) => seen.kind === kind)[count - 1];
      if (found !== undefined) return found.body;
      if (this.gone) throw new Error(`The host closed the link before frame ${count} of kind ${kind}`);
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** What the channel reports when it closes. */
  async violation(): Promise<string> {
    const reason = await this.host.closed;
    expect(reason).toBeInstanceOf(ProtocolViolation);
    expect(this.violations).toEqual([reason as ProtocolViolation]);
    return (reason as ProtocolViolation).message;
  }
}

/** The error with which a promise rejects. */
export async function refusal(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    (value) => {
      throw new Error(`Expected a rejection, got ${Bun.inspect(value)}`);
    },
    (error) => error,
  );
}

/** The next `count` messages. */
export async function take(channel: Channel, count: number): Promise<unknown[]> {
  const messages: unknown[] = [];
  const iterator = channel[Symbol.asyncIterator]();
  while (messages.length < count) messages.push((await iterator.next()).value);
  return messages;
}

export const small = { window: { messages: 8, bytes: 4096, descriptors: 4 }, descriptors: 2 };
