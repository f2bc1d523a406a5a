/** The contestants, seen from the host: one door for all, so that a bench is a loop over them. */
import { type Actor, spawn } from "../src/index.ts";
import type { Request } from "./peers/answer.ts";
import { type Name, SMALL } from "./peers/work.ts";

export interface Peer {
  readonly title: string;
  call(name: Name, ...args: unknown[]): Promise<unknown>;
  /** Sends so many small messages, and waits until the peer has taken them. */
  pour(count: number): Promise<unknown>;
  /** Has the peer send so many small messages, and takes them. */
  draw(count: number): Promise<unknown>;
  close(): Promise<unknown>;
}

const at = (name: string) => new URL(`peers/${name}.ts`, import.meta.url);

export async function actor(): Promise<Peer> {
  type Module = typeof import("./peers/actor.ts");
  const actor: Actor<Module> = await spawn<Module>(at("actor"));
  const call = actor.call as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>;
  const messages = actor[Symbol.asyncIterator]();
  return {
    title: "caisson",
    call: (name, ...args) => call[name]!(...args),
    async pour(count) {
      const taken = actor.call.pour(count);
      for (let left = count; left > 0; left--) await actor.send(SMALL);
      await taken;
    },
    async draw(count) {
      const sent = actor.call.draw(count);
      for (let left = count; left > 0; left--) await messages.next();
      await sent;
    },
    async close() {
      actor.kill();
      await actor.exited;
    },
  };
}

export async function child(serialization: "json" | "advanced"): Promise<Peer> {
  const line = new Line();
  const child = Bun.spawn([process.execPath, at("child").pathname], {
    serialization,
    ipc: (message) => line.take(message),
    stdio: ["ignore", "inherit", "inherit"],
  });
  await line.answer();
  return line.peer(
    `Bun.spawn, IPC ${serialization}`,
    (message) => child.send(message),
    () => {
      child.kill();
      return child.exited;
    },
  );
}

export async function worker(): Promise<Peer> {
  const line = new Line();
  const worker = new Worker(at("worker"));
  worker.onmessage = ({ data }: MessageEvent) => line.take(data);
  await line.answer();
  return line.peer(
    "Worker",
    (message) => worker.postMessage(message),
    async () => worker.terminate(),
  );
}

/** Answers in the order of the requests, over whatever carries messages. */
class Line {
  #waiting: ((message: unknown) => void)[] = [];
  #drawing = 0;

  take(message: unknown): void {
    if (this.#drawing > 0 && --this.#drawing > 0) return;
    this.#waiting.shift()!(message);
  }

  answer(): Promise<unknown> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  peer(title: string, send: (message: unknown) => void, close: () => Promise<unknown>): Peer {
    const request = (request: Request) => {
      send(request);
      return this.answer();
    };
    return {
      title,
      call: (name, ...args) => request([name, ...args]),
      pour(count) {
        const taken = request(["pour", count]);
        for (let left = count; left > 0; left--) send(SMALL);
        return taken;
      },
      draw: (count) => {
        this.#drawing = count;
        return request(["draw", count]);
      },
      close,
    };
  }
}
