/** `caisson top`: what runs in the hosts of this user, as a table that lives, a table once, or lines of JSON. */
import { existsSync } from "node:fs";
import { constants } from "node:os";
import { isatty } from "node:tty";
import type { WindowSize } from "../syscalls/linux/terminal.ts";
import { UsageError } from "./flags.ts";
import { snapshots, Watch } from "./hosts.ts";
import { Live, type Picture } from "./live.ts";
import { type Order, overview, type Sight } from "./overview.ts";
import { secondsOf } from "./quantity.ts";
import { hostSockets, listens, sweep } from "./rundir.ts";
import { jsonLine, type Snapshot } from "./snapshot.ts";
import { CODE, messageOf } from "./status.ts";
import { suggestion } from "./suggestion.ts";
import { fit } from "./table.ts";
import { say, writerOf } from "./terminal.ts";

/** `caisson top`, as it was asked for. */
export interface TopCommand {
  /** The one host that is meant: its process id, or the path of its socket. */
  readonly host: string | undefined;
  readonly json: boolean;
  readonly once: boolean;
  readonly intervalMs: number;
}

const FLAGS = ["--json", "--once", "--interval", "--help"];

/** `caisson top`'s arguments. Returns undefined where help is asked for; throws UsageError. */
export function topCommandOf(args: readonly string[]): TopCommand | undefined {
  let [json, once, intervalMs] = [false, false, 1000];
  const hosts: string[] = [];
  for (const arg of args) {
    const [, name = arg, value] = /^(--\w+)=(.*)$/s.exec(arg) ?? [];
    if (name === "--help" || name === "-h") return undefined;
    if (arg === "--json") json = true;
    else if (arg === "--once") once = true;
    else if (name === "--interval") intervalMs = intervalOf(value);
    else if (!arg.startsWith("-")) hosts.push(arg);
    else if (FLAGS.includes(name)) throw new UsageError(`Cannot use ${name} with a value: it takes none`);
    else throw new UsageError(`Cannot understand ${arg}: there is no such flag${suggestion(name, FLAGS)}`);
  }
  const [host, ...others] = hosts;
  if (host !== undefined && !/\/|^\d+$/.test(host))
    throw new UsageError(`Cannot look at ${host}: a process id is expected, or the path of a socket, with a / in it`);
  if (others.length > 0)
    throw new UsageError("Cannot look at several: one process id is expected, or none for all hosts");
  return { host, json, once, intervalMs };
}

function intervalOf(value = ""): number {
  if (value === "") throw new UsageError("Cannot use --interval without a value: --interval=time is expected");
  const seconds = (() => {
    try {
      return secondsOf(/^[\d.]+$/.test(value) ? Number(value) : value, "--interval");
    } catch (error) {
      throw new UsageError(messageOf(error), { cause: error });
    }
  })();
  if (seconds < 0.1 || seconds > 60)
    throw new UsageError(`Cannot use --interval=${value}: a time from 100ms to 1min is expected`);
  return seconds * 1000;
}

/** How long a host may take to answer, where its answer is waited for. */
const ANSWER_MS = 5000;

/** Shows what runs in the hosts, and returns the exit code. */
export async function top(command: TopCommand): Promise<number> {
  for (const path of hostSockets()) sweep(path);
  const find: Find = () => socketsOf(command.host);
  if (!find().some(listens)) return await nobody(command.host);
  if (command.json) return await (command.once ? printOnce(find(), asJson) : printLines(find, command));
  return command.once || !isatty(0) || !isatty(1) ? await printOnce(find(), asTable) : await show(find, command);
}

type Find = () => string[];

function socketsOf(host: string | undefined): string[] {
  if (host?.includes("/")) return existsSync(host) ? [host] : [];
  const all = hostSockets();
  return host === undefined ? all : all.filter((path) => path.endsWith(`/${host}.sock`));
}

async function nobody(host: string | undefined): Promise<number> {
  const whom = host === undefined ? "any host" : `host ${host}`;
  await say(`caisson: Cannot find ${whom}: a program of this user is expected that calls exposeStatus() of caisson`);
  return CODE.uncaught;
}

const asJson = (seen: readonly Snapshot[]) => seen.map(jsonLine).join("");

function asTable(seen: readonly Snapshot[]): string {
  const { titles, rows } = overview(
    seen.map((now) => ({ now })),
    "cpu",
    Number.POSITIVE_INFINITY,
  );
  return [titles, ...rows, ""].join("\n");
}

/** Asks each host once. */
async function printOnce(paths: readonly string[], as: (seen: readonly Snapshot[]) => string): Promise<number> {
  const seen: Snapshot[] = [];
  const silent: string[] = [];
  await Promise.all(
    paths.map(async (path) => {
      const signal = AbortSignal.timeout(ANSWER_MS);
      let why = "it turned us away";
      try {
        for await (const snapshot of snapshots(path, 1000, signal)) return void seen.push(snapshot);
        if (signal.aborted) why = "it does not answer";
      } catch (error) {
        why = messageOf(error);
      }
      if (listens(path)) silent.push(`${path}: ${why}`); // or else it has ended meanwhile
    }),
  );
  for (const each of silent) await say(`caisson: Cannot read ${each}`);
  try {
    if (seen.length > 0) await put(as(seen.toSorted((a, b) => a.pid - b.pid)));
  } catch (error) {
    return unprintable(error);
  }
  return silent.length === 0 ? 0 : CODE.uncaught;
}

/** Prints what each host says, as it comes, until the last one has ended. */
async function printLines(find: Find, { intervalMs }: TopCommand): Promise<number> {
  const { promise: over, resolve: end } = Promise.withResolvers<number>();
  using _ = new Watch(find, intervalMs, {
    sees: (_, snapshot) => put(jsonLine(snapshot)).catch((error) => end(unprintable(error))),
    loses: (path, error) => void complain(path, error),
    ends: () => end(0),
  });
  return await over;
}

/** Shows it until somebody quits, or the last host has ended. */
async function show(find: Find, { intervalMs }: TopCommand): Promise<number> {
  const board = new Board();
  const lost: [path: string, error: unknown][] = [];
  const code = await (async () => {
    using live = new Live(board);
    const { promise: left, resolve: end } = Promise.withResolvers<undefined>();
    using _ = new Watch(find, intervalMs, {
      sees(path, snapshot) {
        board.see(path, snapshot);
        live.draw();
      },
      loses(path, error) {
        board.lose(path);
        lost.push([path, error]);
        live.draw();
      },
      ends: () => end(undefined),
    });
    return await Promise.race([live.ended, left]);
  })();
  for (const [path, error] of lost) await complain(path, error);
  if (code === undefined) await say("caisson: the last host has ended");
  return code ?? 0;
}

async function complain(path: string, error: unknown): Promise<void> {
  if (error !== undefined) await say(`caisson: Cannot read ${path}: ${messageOf(error)}`);
}

const put = (text: string) => writerOf(1)(text);

/** A reader that had enough, such as head(1), is no error: we end as its SIGPIPE would have ended us. */
function unprintable(error: unknown): number {
  const enough = (error as NodeJS.ErrnoException).code === "EPIPE";
  return enough ? CODE.signal + constants.signals.SIGPIPE : CODE.uncaught;
}

const KEYS: Readonly<Record<string, Order>> = { c: "cpu", m: "memory", n: "name" };
const FOOT = "q quits; order: c CPU, m memory, n name; up and down (k, j) move";

/** What the terminal shows. */
class Board implements Picture {
  readonly #sights = new Map<string, Sight>();
  #order: Order = "cpu";
  /** The row that is the first to be seen. */
  #first = 0;

  see(path: string, now: Snapshot): void {
    const before = this.#sights.get(path)?.now;
    this.#sights.set(path, before === undefined ? { now } : { now, before });
  }

  lose(path: string): void {
    this.#sights.delete(path);
  }

  key(key: string): void {
    this.#order = KEYS[key] ?? this.#order;
    if (key === "k" || key.endsWith("A")) this.#first--;
    if (key === "j" || key.endsWith("B")) this.#first++;
  }

  lines({ columns, rows: height }: WindowSize): string[] {
    // Not to the last cell: to erase what is behind it would erase that one.
    const width = Math.max(1, columns - 1);
    const { summary, titles, rows } = overview([...this.#sights.values()], this.#order, width);
    const room = Math.max(1, height - 3);
    this.#first = Math.max(0, Math.min(this.#first, rows.length - room));
    const shown = rows.slice(this.#first, this.#first + room);
    const rest = rows.length - shown.length;
    const foot = rest > 0 ? `${rest} more; ${FOOT}` : FOOT;
    return [summary, titles, ...shown, ...Array<string>(room - shown.length).fill(""), fit(foot, width)];
  }
}
