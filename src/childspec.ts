/** What a supervisor is told of a child. */
import type { Child } from "./child.ts";
import { checkOptions, FLAG, FUNCTION, type Kinds, TEXT, word } from "./option.ts";
import { harmless } from "./output.ts";
import { MILLISECONDS, quantityOf } from "./quantity.ts";

/** When a child that ended is started again: always; unless it ended as it should; never. */
export type Restart = "permanent" | "transient" | "temporary";

/** How a child is ended: at once; by asking, however long it takes; by asking, and at once when so much time is over: `"5 s"`. */
export type Shutdown = "brutal_kill" | "infinity" | (string & {});

export interface ChildSpec<Started extends Child = Child> {
  /** What it is called; one of a supervisor's children each. */
  readonly id: string;
  /**
   * Starts it; what throws or rejects did not start. With `"ignore"` there is none now, and that is well. The signal is aborted when the supervisor
   * ends meanwhile, and never later: hand it on, or a start that takes long keeps the supervisor waiting.
   */
  start(signal: AbortSignal): Promise<Started | "ignore">;
  /** `"permanent"` where nothing is said. */
  readonly restart?: Restart;
  /** `"5 s"` where nothing is said, and `"infinity"` for supervisors. */
  readonly shutdown?: Shutdown;
  /** Whether its end may end the supervisor, as `autoShutdown` says. Not for what is permanent. */
  readonly significant?: boolean;
  /** `"worker"` where nothing is said. */
  readonly type?: "worker" | "supervisor";
}

/** The longest text of what its start threw that an error's message quotes: that can be what a hostile module threw. */
const QUOTED = 1024;

/** A child of a supervisor did not start; `cause` is what its start threw. */
export class ChildNotStarted extends Error {
  override readonly name = "ChildNotStarted";
  /** Its id. */
  readonly child: string;

  constructor(child: string, cause: unknown) {
    const why = cause instanceof Error ? harmless(cause.message.slice(0, QUOTED)) : "its start failed";
    super(`Cannot start child ${child}: ${why}`, { cause });
    this.child = child;
  }
}

/** When significant children that ended, and are not started again, end the supervisor: never, after the first, or after the last one. */
export type AutoShutdown = "never" | "any_significant" | "all_significant";

/** A specification, complete. */
export interface CheckedSpec {
  readonly id: string;
  readonly start: ChildSpec["start"];
  readonly restart: Restart;
  readonly shutdown: "brutal_kill" | { readonly patienceMs: number };
  readonly significant: boolean;
  readonly type: "worker" | "supervisor";
}

const KINDS: Kinds<Required<ChildSpec>> = {
  id: TEXT,
  start: FUNCTION,
  restart: word("permanent", "transient", "temporary"),
  shutdown: TEXT,
  significant: FLAG,
  type: word("worker", "supervisor"),
};

/** Throws TypeError or RangeError for a specification that makes no sense. */
export function checkSpec(spec: ChildSpec, autoShutdown: AutoShutdown): CheckedSpec {
  checkOptions(spec, KINDS);
  const { id, restart = "permanent", significant = false, type = "worker" } = spec;
  if (id === undefined || spec.start === undefined)
    throw new TypeError(
      `Cannot supervise ${Bun.inspect(spec, { depth: 1, compact: true })}: id and start are expected`,
    );
  if (significant && restart === "permanent")
    throw new TypeError(
      `Cannot have child ${id} be significant: it is permanent, and never gone; transient or temporary is expected`,
    );
  if (significant && autoShutdown === "never")
    throw new TypeError(`Cannot have child ${id} be significant: autoShutdown is "never"`);
  return {
    id,
    start: async (signal) => await spec.start(signal), // one that throws at once is one that rejects
    restart,
    shutdown: shutdownOf(spec.shutdown ?? (type === "supervisor" ? "infinity" : "5 s"), id),
    significant,
    type,
  };
}

function shutdownOf(shutdown: Shutdown, id: string): CheckedSpec["shutdown"] {
  if (shutdown === "brutal_kill") return "brutal_kill";
  if (shutdown === "infinity") return { patienceMs: Number.POSITIVE_INFINITY };
  return { patienceMs: millisecondsOf(shutdown, `shutdown of child ${id}`) };
}

/** What timers can wait, in milliseconds: some 24 days. */
const LONGEST_MS = 2 ** 31 - 1;

/** A time such as `"5 s"`, in milliseconds. Throws RangeError. */
export function millisecondsOf(time: string, what: string): number {
  const milliseconds = quantityOf(time, MILLISECONDS, what);
  if (milliseconds > LONGEST_MS) throw new RangeError(`Cannot use ${time} as ${what}: at most 24 days are expected`);
  return milliseconds;
}
