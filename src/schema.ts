/** TypeBox schemas as checks at the host's edge. */
import type { TSchema } from "typebox";
import { Compile } from "typebox/schema";
import { SchemaMismatch } from "./error.ts";

const checkers = new WeakMap<TSchema, (value: unknown) => unknown>();

/** A function that returns a value that matches and throws SchemaMismatch for any other. Compiled once for each schema. */
export function checkerOf(schema: TSchema): (value: unknown) => unknown {
  let checker = checkers.get(schema);
  if (checker === undefined) {
    const compiled = Compile(schema);
    checker = (value) => {
      if (compiled.Check(value)) return value;
      const [, [first]] = compiled.Errors(value);
      throw new SchemaMismatch(first?.instancePath ?? "", first?.message ?? "does not match the schema");
    };
    checkers.set(schema, checker);
  }
  return checker;
}
