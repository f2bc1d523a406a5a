/**
 * A server that gives the text of the PDFs that are posted to it. Each is parsed in one of a few actors, which are replaced when they have had enough or when a
 * document was their end; a supervisor starts what else fails again, and ends all in order.
 *
 * `bun examples/supervised-server.ts [port]`, then `curl --data-binary @letter.pdf localhost:3000`
 */
import { type Child, LimitExceeded, type Pool, pool, type Sandbox, supervise } from "caisson";
import Type from "typebox";
import { reason } from "./attempts.ts";

type Parser = typeof import("./parse-upload.ts");

const sandbox: Sandbox = { limits: { memory: "256 MiB" } };
/** What the parser answers is untrusted too: whatever does not look like this rejects the call. */
const Parsed = Type.Object({ totalPages: Type.Integer({ minimum: 1 }), text: Type.String({ maxLength: 1_000_000 }) });
const LARGEST_UPLOAD = 4 * 2 ** 20;

/** Each actor has one document at a time, so a document strikes no other; and fifty in its life, so what one left behind does not stay. */
const startParsers = () =>
  pool<Parser>(new URL("./parse-upload.ts", import.meta.url), {
    size: 2,
    calls: 50,
    memoryGrowth: "128 MiB",
    queue: 64,
    sandbox,
    stderr: "ignore",
  });

async function answer(request: Request, parsers: Pool<Parser>): Promise<Response> {
  const pdf = new Uint8Array(await request.arrayBuffer());
  try {
    return Response.json(await parsers.call({ timeoutMs: 10_000, result: Parsed }).parse(pdf));
  } catch (error) {
    const full = error instanceof LimitExceeded && error.limit === "queue";
    return Response.json({ error: full ? "Come back later" : reason(error) }, { status: full ? 503 : 422 });
  }
}

/** Ends this process where it is none. */
function portOf(text: string): number {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN;
  if (port <= 65_535) return port;
  console.error(`Cannot listen on ${text}: a port from 0 to 65535 is expected`);
  process.exit(2);
}

/** A server as a child: asked to end it answers what it has begun with, killed it does not. */
class Server implements Child {
  readonly #ended = Promise.withResolvers<number>();
  readonly exited = this.#ended.promise;
  readonly server: Bun.Server<undefined>;

  constructor(port: number, parsers: Pool<Parser>) {
    this.server = Bun.serve({
      port,
      hostname: "127.0.0.1",
      maxRequestBodySize: LARGEST_UPLOAD,
      fetch: (request) => answer(request, parsers),
    });
  }

  disconnect(): void {
    void this.server.stop().then(() => this.#ended.resolve(0));
  }

  kill(): void {
    void this.server.stop(true).then(() => this.#ended.resolve(1));
  }
}

const port = portOf(process.argv[2] ?? "3000");
let parsers: Pool<Parser>;
// The server needs the parsers: it starts after them, ends before them, and is started again when they are.
const supervisor = await supervise({
  strategy: "rest_for_one",
  children: [
    {
      id: "parsers",
      async start() {
        parsers = await startParsers();
        return parsers;
      },
      shutdown: "brutal_kill",
    },
    { id: "server", start: async () => new Server(port, parsers), shutdown: "10 s" },
  ],
});
console.log(`Listening on ${supervisor.child("server")?.server.url}`);

for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => supervisor.disconnect());
for await (const event of supervisor.events) {
  if (event.kind === "ended") console.log(`${event.id} ended: ${event.exit.reason}`);
  if (event.kind === "failed") console.error(`${event.id} did not start: ${event.error}`);
}
const exit = await supervisor.exited;
process.exitCode = exit.reason === "shutdown" && exit.because === "asked" ? 0 : 1;
