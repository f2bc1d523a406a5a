/** Hosts in processes of their own, to which something is done: `fixtures/faults.ts`. */
import { fileURLToPath } from "node:url";
import { scratch } from "./arena.ts";
import type { Act, Report } from "./fixtures/faults.ts";
import { Saboteur } from "./saboteur.ts";

const fixture = fileURLToPath(new URL("./fixtures/faults.ts", import.meta.url));

type Outcome = Pick<Report, "walls" | "refused">;

/** One that acts whenever it is asked to. */
export class Victim implements AsyncDisposable {
  readonly #host: Bun.Subprocess<"pipe", "pipe", "pipe">;
  readonly #lines: AsyncIterator<string>;
  readonly #complaint: Promise<string>;
  readonly #base = scratch();
  #saboteur: Promise<Saboteur> | undefined;

  /** @param wrapper the program that is to become the host, with its arguments */
  constructor(act: Act, what: "none" | "served", { wrapper = [], env = {} }: Partial<Around> = {}) {
    this.#host = Bun.spawn([...wrapper, process.execPath, fixture, act, what], {
      cwd: "/",
      env: { ...process.env, ...placesIn(this.#base), ...env },
      stdio: ["pipe", "pipe", "pipe"],
    });
    this.#lines = linesOf(this.#host.stdout);
    this.#complaint = this.#host.stderr.text();
  }

  get pid(): number {
    return this.#host.pid;
  }

  /** Answers the calls that it hands over. */
  saboteur(): Promise<Saboteur> {
    this.#saboteur ??= Saboteur.of(this.#host.pid);
    return this.#saboteur;
  }

  /** @param room for how many more processes and threads of its user there is room meanwhile; for all that the machine has by default */
  async act(room?: number): Promise<Report> {
    this.#host.stdin.write(`${room ?? ""}\n`);
    await this.#host.stdin.flush();
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`The host ended, and said ${await this.#complaint}`);
    return JSON.parse(value);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#host.stdin.end();
    await this.#host.exited;
    await (await this.#saboteur)?.[Symbol.asyncDispose]();
    this.#base[Symbol.dispose]();
  }
}

interface Around {
  readonly wrapper: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/** One that acts once, or twice; then what came of that. */
export async function acts(act: Act, ...words: readonly string[]): Promise<{ last: Report; first: Outcome }> {
  using base = scratch();
  const host = Bun.spawn([process.execPath, fixture, act, ...words], {
    cwd: "/",
    env: { ...process.env, ...placesIn(base) },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [output, complaint] = await Promise.all([host.stdout.text(), host.stderr.text()]);
  const reports: Report[] = output
    .trim()
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  const [first, last] = [reports[0], reports.at(-1)];
  if (first === undefined || last === undefined)
    throw new Error(`The host ended with ${await host.exited}, and said ${complaint}`);
  return { first, last };
}

/** Where nobody else leaves anything. */
const placesIn = (base: ReturnType<typeof scratch>) => ({
  TMPDIR: base.directory("temporary"),
  XDG_RUNTIME_DIR: base.directory("running"),
});

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let text = "";
  const decoder = new TextDecoder();
  for await (const piece of stream) {
    const lines = `${text}${decoder.decode(piece, { stream: true })}`.split("\n");
    text = lines.pop()!;
    yield* lines;
  }
}
