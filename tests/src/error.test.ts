import { expect, test } from "bun:test";
import { NotEnforced } from "../../platform/index.ts";
import { ActorExit, LimitExceeded, ProtocolViolation, SchemaMismatch } from "../../src/error.ts";

test("the named errors print their name, and carry their data", () => {
  const cause = new Error("why");
  const violation = new ProtocolViolation("Cannot go on", { cause });
  expect(`${violation}`).toBe("ProtocolViolation: Cannot go on");
  expect(violation.cause).toBe(cause);

  const exit = new ActorExit("The actor was killed", { signal: "SIGKILL" });
  expect(`${exit} ${exit.exit.signal}`).toBe("ActorExit: The actor was killed SIGKILL");

  const limit = new LimitExceeded("Cannot call parse: 65536 calls wait", "calls");
  expect(`${limit} ${limit.limit}`).toBe("LimitExceeded: Cannot call parse: 65536 calls wait calls");

  const missing = new NotEnforced("network", "Landlock ABI 4 (Linux 6.7)", "run a newer kernel");
  expect(`${missing}`).toBe(
    'NotEnforced: Cannot guarantee "network": Landlock ABI 4 (Linux 6.7). run a newer kernel, or allow it with allowUnenforced: ["network"]',
  );
  expect(missing).toMatchObject({
    guarantee: "network",
    missing: "Landlock ABI 4 (Linux 6.7)",
    remedy: "run a newer kernel",
  });

  const mismatch = new SchemaMismatch("/pages/0", "expected a string");
  expect(`${mismatch}`).toBe("SchemaMismatch: Cannot accept the value at /pages/0: expected a string");
  expect(new SchemaMismatch("", "expected a string").message).toBe(
    "Cannot accept the value at its root: expected a string",
  );
});
