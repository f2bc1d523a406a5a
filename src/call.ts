/** An actor's functions, typed by its module. */
import type { TSchema } from "typebox";
import { ABORT, ANY, checkOptions, type Kinds, OBJECT } from "./option.ts";

type AnyFunction = (...args: never) => unknown;
type Functions<Module> = {
  readonly [Name in keyof Module as Module[Name] extends AnyFunction ? Name : never]: Module[Name] extends (
    ...args: infer Args extends readonly unknown[]
  ) => infer Result
    ? (...args: Args) => Promise<Awaited<Result>>
    : never;
};

export interface CallOptions {
  /** Rejects the call with the signal's reason, and aborts `signal()` inside. */
  readonly signal?: AbortSignal;
  /** Rejects the call with a `TimeoutError` after so many milliseconds. */
  readonly timeoutMs?: number;
  /** What the result must be; anything else rejects with `SchemaMismatch`. */
  readonly result?: TSchema;
}

const KINDS: Kinds<Required<CallOptions>> = { signal: ABORT, timeoutMs: ANY, result: OBJECT };

/** The functions that the module exports; with options first, `call({ timeoutMs: 100 }).parse(pdf)`. */
export type Call<Module> = Functions<Module> & ((options: CallOptions) => Functions<Module>);

/** What a call without options has. */
export const NO_OPTIONS: CallOptions = {};

type MakeCall = (name: string, args: readonly unknown[], options: CallOptions) => Promise<unknown>;

/** `call.name(...)` and `call(options).name(...)`: the exported functions are known by the type alone. */
export function callsOf<Module>(make: MakeCall): Call<Module> {
  const functions = (options: CallOptions) => {
    const known = new Map<string, (...args: unknown[]) => Promise<unknown>>();
    return (_: unknown, name: string | symbol) => {
      // A promise that resolves to it must not take it for a promise.
      if (typeof name === "symbol" || name === "then") return undefined;
      let called = known.get(name);
      if (called === undefined) {
        called = (...args) => make(name, args, options);
        known.set(name, called);
      }
      return called;
    };
  };
  const withOptions = (options: CallOptions) => {
    checkOptions(options, KINDS); // a misspelt time would be none
    return new Proxy({}, { get: functions(options) });
  };
  return new Proxy(withOptions, { get: functions(NO_OPTIONS) }) as unknown as Call<Module>;
}
