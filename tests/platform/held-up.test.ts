/** A host that other work of the machine holds up, each time that it is about to watch something: programs are quicker, and have ended by then. */
import { afterAll, beforeAll, describe, expect } from "bun:test";
import { container, type ExecOptions, exec } from "../../src/index.ts";
import { testBox } from "../src/box.ts";

/** In which a program ends whose start is through. */
const HELD_MS = 200;
const { connect } = Bun;
beforeAll(() => {
  Bun.connect = ((options: Parameters<typeof connect>[0]) => {
    Bun.sleepSync(HELD_MS);
    return connect(options);
  }) as typeof connect;
});
afterAll(() => {
  Bun.connect = connect;
});

describe("a program that has ended before it is watched is told of", () => {
  for (const [how, options] of Object.entries({
    "with streams": {},
    "with a terminal": { terminal: { columns: 80, rows: 24 } },
  } satisfies Record<string, ExecOptions>)) {
    testBox(`${how}, in a sandbox of its own`, async () => {
      await using program = await exec(["/bin/sh", "-c", "exit 3"], options);
      await program.exited;
      expect(program.exit).toEqual({ reason: "returned", code: 3 });
    });

    testBox(`${how}, in a container`, async () => {
      await using held = await container();
      await using program = await held.exec(["/bin/sh", "-c", "exit 3"], options);
      await program.exited;
      expect(program.exit).toEqual({ reason: "returned", code: 3 });
    });
  }
});
