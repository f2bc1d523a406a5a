/** What a test needs of the machine beyond caisson itself. */
import { test } from "bun:test";

const required = (process.env.CAISSON_REQUIRE ?? "").split(",");

/** `test` where `name` is there, otherwise `test.skip` with the reason printed. `CAISSON_REQUIRE=objdump,cc` makes such a skip a failure. */
export function testIf(name: string, present: boolean, reason: string): typeof test {
  if (present) return test;
  if (required.includes(name)) throw new Error(`CAISSON_REQUIRE has ${name}, but ${reason}`);
  console.warn(`Skipped without ${name}: ${reason}`);
  return test.skip as typeof test;
}
