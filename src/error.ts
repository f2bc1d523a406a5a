/** What callers catch: named errors with data. The kernel's refusals are `SystemError`, callers' mistakes `TypeError` and `RangeError`. */

/** The peer sent what the protocol does not allow. The channel it came through is over. */
export class ProtocolViolation extends Error {
  override readonly name = "ProtocolViolation";
}

/** The actor ended; `exit` says how. */
export class ActorExit<Exit = unknown> extends Error {
  override readonly name = "ActorExit";
  readonly exit: Exit;

  constructor(message: string, exit: Exit, options?: ErrorOptions) {
    super(message, options);
    this.exit = exit;
  }
}

/** Something would have gone beyond the limit set for it. */
export class LimitExceeded extends Error {
  override readonly name = "LimitExceeded";
  /** Which limit, such as `"calls"`. */
  readonly limit: string;

  constructor(message: string, limit: string, options?: ErrorOptions) {
    super(message, options);
    this.limit = limit;
  }
}

/** A value does not match the schema that was given for it. */
export class SchemaMismatch extends Error {
  override readonly name = "SchemaMismatch";
  /** Where in the value, as a JSON pointer; empty for the whole. */
  readonly path: string;
  readonly reason: string;

  constructor(path: string, reason: string, options?: ErrorOptions) {
    super(`Cannot accept the value at ${path === "" ? "its root" : path}: ${reason}`, options);
    this.path = path;
    this.reason = reason;
  }
}

/** A scheduler lets nothing more start: it would never fit, or too many wait already. Nothing was started. */
export class SchedulerRefused extends Error {
  override readonly name = "SchedulerRefused";
  /** What is full. */
  readonly full: "starts" | "actors" | "memory" | "processes";

  constructor(message: string, full: SchedulerRefused["full"]) {
    super(message);
    this.full = full;
  }
}
