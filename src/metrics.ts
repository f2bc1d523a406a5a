/** `caisson/metrics`: what runs in sandboxes here, as metrics of OpenTelemetry. */
import type { Attributes, BatchObservableResult, Meter, Observable } from "@opentelemetry/api";
import { countDenials } from "./denials.ts";
import type { Exit } from "./exit.ts";
import type { Inspection, State } from "./inspection.ts";
import { inspections, isAlive, onDeparture } from "./roster.ts";

/** Sums are kept by so many names; those of further ones are told together, for names may be made of what a request says. */
const MOST_NAMES = 256;
const OTHERS = "(others)";

/**
 * Has a meter tell how many actors and programs run and what they use, whenever it is read. Sums hold those that ended meanwhile; a name stands for all
 * that were called so. Dispose of what comes back to have it tell no more.
 *
 * | metric | unit | attributes beside `caisson.actor.kind` and `caisson.actor.name` |
 * |---|---|---|
 * | `caisson.actors` | `{actor}` | `caisson.actor.state` |
 * | `caisson.actor.cpu.time` | `s` | `cpu.mode`: `user`, `system` |
 * | `caisson.actor.memory.usage` | `By` | |
 * | `caisson.actor.messages` | `{message}` | `caisson.direction`: `in` (to the actor), `out` |
 * | `caisson.actor.calls.pending` | `{call}` | |
 * | `caisson.denials` | `{denial}` | |
 * | `caisson.actor.exits` | `{exit}` | `caisson.exit.reason`, `caisson.exit.limit` |
 *
 * @example using metering = meterMetrics(provider.getMeter("caisson"));
 */
export function meterMetrics(meter: Meter): Disposable {
  const counter = (name: string, unit: string, description: string) =>
    meter.createObservableCounter(name, { unit, description });
  const level = (name: string, unit: string, description: string) =>
    meter.createObservableUpDownCounter(name, { unit, description });
  const instruments: Instruments = {
    actors: level("caisson.actors", "{actor}", "Actors and programs that run"),
    cpu: counter("caisson.actor.cpu.time", "s", "Processor time"),
    memory: level("caisson.actor.memory.usage", "By", "Resident memory"),
    messages: counter("caisson.actor.messages", "{message}", "Messages between this process and its actors"),
    calls: level("caisson.actor.calls.pending", "{call}", "Calls that wait for an answer"),
    denials: counter("caisson.denials", "{denial}", "What walls refused"),
    exits: counter("caisson.actor.exits", "{exit}", "Ends of actors and programs, by reason"),
  };
  const ended = new Sums();
  const observe = async (result: BatchObservableResult) => {
    const seen = await inspections();
    // Who left while others were looked at is among those that have ended.
    const alive = [...seen].flatMap(([member, inspection]) => (isAlive(member) ? [inspection] : []));
    tell(result, instruments, ended.with(alive));
  };
  const observed = Object.values(instruments);
  meter.addBatchObservableCallback(observe, observed);
  using over = new DisposableStack();
  over.use(countDenials());
  over.use(onDeparture((last, exit) => ended.leave(last, exit)));
  over.defer(() => meter.removeBatchObservableCallback(observe, observed));
  return over.move();
}

type Instruments = Readonly<
  Record<"actors" | "cpu" | "memory" | "messages" | "calls" | "denials" | "exits", Observable>
>;

/** What those of one name came to, and what they are now. */
interface Sum {
  readonly attributes: Attributes;
  userMs: number;
  systemMs: number;
  messagesIn: number;
  messagesOut: number;
  denials: number;
  memoryBytes: number;
  callsPending: number;
  /** How many are in each state that one of them was seen in: an SDK may go on telling what it was not told otherwise. */
  readonly states: Map<State, number>;
  readonly exits: Map<string, { readonly attributes: Attributes; count: number }>;
}

/** Sums by kind and name, of those that have ended. */
class Sums {
  readonly #sums = new Map<string, Sum>();

  leave(last: Inspection, exit: Exit | undefined): void {
    const sum = this.#of(last);
    add(sum, last);
    const reason = exit?.reason ?? "unknown";
    const limit = exit?.reason === "limit" ? exit.limit : undefined;
    const key = JSON.stringify([reason, limit]);
    const known = sum.exits.get(key);
    if (known !== undefined) known.count++;
    else {
      const why = { "caisson.exit.reason": reason, ...(limit === undefined ? {} : { "caisson.exit.limit": limit }) };
      sum.exits.set(key, { attributes: { ...sum.attributes, ...why }, count: 1 });
    }
  }

  /** The same, with those that are alive. */
  with(alive: readonly Inspection[]): Iterable<Sum> {
    // First, for what a name goes by must not change once it was told.
    for (const each of alive) this.#of(each).states.set(each.state, 0);
    const all = new Map(Array.from(this.#sums.values(), (sum) => [sum, { ...sum, states: new Map(sum.states) }]));
    for (const each of alive) {
      const sum = all.get(this.#of(each))!;
      // What one in a reserve used is told once: of whoever takes it, or of its end.
      if (each.state !== "parked") add(sum, each);
      sum.memoryBytes += each.usage.memoryBytes;
      sum.callsPending += each.callsPending;
      sum.states.set(each.state, sum.states.get(each.state)! + 1);
    }
    return all.values();
  }

  #of({ kind, name }: Inspection): Sum {
    const called = this.#sums.has(keyOf(kind, name)) || this.#sums.size < MOST_NAMES ? name : OTHERS;
    const key = keyOf(kind, called);
    let sum = this.#sums.get(key);
    if (sum === undefined) {
      const attributes = { "caisson.actor.kind": kind, "caisson.actor.name": called };
      sum = { attributes, ...NOTHING, states: new Map(), exits: new Map() };
      this.#sums.set(key, sum);
    }
    return sum;
  }
}

const NOTHING = {
  userMs: 0,
  systemMs: 0,
  messagesIn: 0,
  messagesOut: 0,
  denials: 0,
  memoryBytes: 0,
  callsPending: 0,
};

const keyOf = (kind: string, name: string) => JSON.stringify([kind, name]);

/** Adds what only grows. */
function add(sum: Sum, { usage, denials }: Inspection): void {
  sum.userMs += usage.userMs;
  sum.systemMs += usage.systemMs;
  sum.messagesIn += usage.messagesIn ?? 0;
  sum.messagesOut += usage.messagesOut ?? 0;
  sum.denials += denials;
}

function tell(result: BatchObservableResult, instruments: Instruments, sums: Iterable<Sum>): void {
  for (const { attributes, states, exits, ...sum } of sums) {
    for (const [state, count] of states)
      result.observe(instruments.actors, count, { ...attributes, "caisson.actor.state": state });
    result.observe(instruments.cpu, sum.userMs / 1000, { ...attributes, "cpu.mode": "user" });
    result.observe(instruments.cpu, sum.systemMs / 1000, { ...attributes, "cpu.mode": "system" });
    result.observe(instruments.memory, sum.memoryBytes, attributes);
    result.observe(instruments.messages, sum.messagesIn, { ...attributes, "caisson.direction": "in" });
    result.observe(instruments.messages, sum.messagesOut, { ...attributes, "caisson.direction": "out" });
    result.observe(instruments.calls, sum.callsPending, attributes);
    result.observe(instruments.denials, sum.denials, attributes);
    for (const { attributes: why, count } of exits.values()) result.observe(instruments.exits, count, why);
  }
}
