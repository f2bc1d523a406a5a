/** What an egress decides, and the errors that say so. */
import type { Connection } from "./connection.ts";

/** How somebody asked: by a protocol of a proxy, as an actor that was handed a network, or by the host's own code. */
export type Via = "connect" | "http" | "socks5" | "actor" | "direct";

/** What was asked for, and what came of it. */
export interface Decision {
  /** The host in its only form, or as it came where it has none. */
  readonly host: string;
  readonly port: number;
  /** The address that is connected to, or that is why not. */
  readonly address?: string;
  readonly allowed: boolean;
  /** The rule that allows it. */
  readonly rule?: string;
  /** Why it is not allowed. */
  readonly reason?: string;
  readonly via: Via;
}

/** No rule allows what was asked for. */
export class EgressDenied extends Error {
  override readonly name = "EgressDenied";
  readonly decision: Decision;

  constructor(decision: Decision) {
    super(`Cannot connect to ${decision.host}:${decision.port}: ${decision.reason}`);
    this.decision = decision;
  }
}

/** A rule allows it, and it cannot be reached. */
export class Unreachable extends Error {
  override readonly name = "Unreachable";
  /** Such as `"ECONNREFUSED"`, `"ETIMEDOUT"` or `"ENOTFOUND"`. */
  readonly code: string;

  constructor(host: string, code: string, options?: ErrorOptions) {
    super(`Cannot connect to ${host}: ${code}`, options);
    this.code = code;
  }
}

/** What a proxy asks of its egress. */
export interface Gate {
  readonly limits: { readonly headBytes: number; readonly headMs: number; readonly idleMs: number };
  /** Decides, and connects to the very address that was decided on. Rejects with EgressDenied, or with Unreachable. */
  reach(host: string, port: number, via: Via): Promise<Connection>;
  /** Tells of a refusal, and gives the error for it. */
  deny(decision: Omit<Decision, "allowed">): EgressDenied;
}

/** Text of others for a log: printable ASCII, and not too long, lest it write lines of its own or move a terminal's cursor. */
export function printable(text: string): string {
  const escaped = text
    .slice(0, 300)
    .replace(/[^\x20-\x7e]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return text.length > 300 ? `${escaped}...` : escaped;
}
