/** What a supervisor is told, and what it tells. */
import type { BackoffTimes } from "./backoff.ts";
import type { Child, ChildExit, SupervisorExit } from "./child.ts";
import { type AutoShutdown, type CheckedSpec, type ChildSpec, checkSpec, millisecondsOf } from "./childspec.ts";
import { ABORT, checkOptions, type Kind, type Kinds, list, OBJECT, TEXT, word } from "./option.ts";
import type { Strategy } from "./strategy.ts";

export interface SupervisorOptions<Specs extends readonly ChildSpec[] = readonly ChildSpec[]> {
  /** `"one_for_one"` where nothing is said. */
  readonly strategy?: Strategy;
  /** How many restarts within the period are well; one more ends all children and the supervisor. 1 where nothing is said. */
  readonly intensity?: number;
  /** `"5 s"` where nothing is said. */
  readonly period?: string;
  /** `"never"` where nothing is said. */
  readonly autoShutdown?: AutoShutdown;
  /**
   * What is waited before the second restart of a child, `"100 ms"` where nothing is said, and at most; it doubles in between, and half of it is
   * chance. The first restart is at once, and so is one after a life as long as the period, and a second at least. Where no most is said, it is so
   * little that a child which only fails still reaches the intensity.
   */
  readonly backoff?: { readonly first?: string; readonly most?: string };
  /** Kills it. */
  readonly signal?: AbortSignal;
  /** Are started in this order, one after the other, and ended in the opposite one. */
  readonly children: Specs;
}

const COUNT: Kind = {
  called: "a whole number of at least 0",
  is: (value) => Number.isInteger(value) && Number(value) >= 0,
};
const KINDS: Kinds<Required<SupervisorOptions>> = {
  strategy: word("one_for_one", "one_for_all", "rest_for_one"),
  intensity: COUNT,
  period: TEXT,
  autoShutdown: word("never", "any_significant", "all_significant"),
  backoff: OBJECT,
  signal: ABORT,
  children: list(OBJECT),
};

/** What happens under a supervisor, in this order. */
export type SupervisorEvent =
  | { readonly kind: "started"; readonly id: string; readonly child: Child }
  /** Its start threw. */
  | { readonly kind: "failed"; readonly id: string; readonly error: unknown }
  /** @property asked whether the supervisor ended it */
  | { readonly kind: "ended"; readonly id: string; readonly exit: ChildExit; readonly asked: boolean }
  /** The supervisor was to end it, and its `kill()` threw. If it has not ended 5 s later, the supervisor goes on without it, and no `ended` follows. */
  | { readonly kind: "not killed"; readonly id: string; readonly error: unknown }
  /** Because of `id`, these are ended, where they run, and started again after the delay. */
  | {
      readonly kind: "restarting";
      readonly id: string;
      readonly children: readonly string[];
      readonly delayMs: number;
    }
  /** Because of `id`, there were more restarts than the intensity allows. */
  | { readonly kind: "gave up"; readonly id: string }
  /** The last one. */
  | { readonly kind: "shutdown"; readonly exit: SupervisorExit };

/** How a supervisor decides. */
export interface Rules {
  readonly strategy: Strategy;
  readonly autoShutdown: AutoShutdown;
  readonly intensity: number;
  readonly periodMs: number;
  readonly backoff: BackoffTimes;
}

/** Throws TypeError or RangeError for what makes no sense, before anything is started. */
export function checkSupervision(options: SupervisorOptions): { rules: Rules; specs: readonly CheckedSpec[] } {
  checkOptions(options, KINDS);
  const { strategy = "one_for_one", autoShutdown = "never", intensity = 1, period = "5 s", children } = options;
  if (children === undefined) throw new TypeError("Cannot supervise nothing: children are expected, or []");
  const periodMs = millisecondsOf(period, "period");
  if (periodMs === 0) throw new RangeError("Cannot count restarts within no time: a period of more than 0 is expected");
  const backoff = backoffOf(options.backoff ?? {}, periodMs, intensity);
  const specs = children.map((spec) => checkSpec(spec, autoShutdown));
  const twice = specs.find(({ id }, index) => specs.findIndex((other) => other.id === id) < index);
  if (twice !== undefined) throw new TypeError(`Cannot supervise two children ${twice.id}: ids are expected to differ`);
  return { rules: { strategy, autoShutdown, intensity, periodMs, backoff }, specs };
}

const FIRST_MS = 100;
/** With less between its starts, what cannot start would keep this process busy. */
const LEAST_MS = 10;

function backoffOf(
  given: NonNullable<SupervisorOptions["backoff"]>,
  periodMs: number,
  intensity: number,
): BackoffTimes {
  checkOptions(given, { first: TEXT, most: TEXT });
  const firstMs = given.first === undefined ? FIRST_MS : millisecondsOf(given.first, "backoff.first");
  if (firstMs < LEAST_MS)
    throw new RangeError(`Cannot wait ${given.first} before a second restart: at least ${LEAST_MS} ms are expected`);
  // All the restarts that the intensity allows and one more take half of the period then, and leave the other half for what the starts take.
  const enoughMs = Math.max(firstMs, periodMs / (2 * (intensity + 1)));
  const mostMs = given.most === undefined ? enoughMs : millisecondsOf(given.most, "backoff.most");
  if (mostMs < firstMs)
    throw new RangeError(
      `Cannot use ${given.most} as backoff.most: as much as backoff.first is expected, which is ${firstMs} ms`,
    );
  return { firstMs, mostMs };
}
