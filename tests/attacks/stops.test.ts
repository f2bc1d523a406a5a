/** A program that stops, and goes on, so often that telling its host of it fills what tells. */
import { expect } from "bun:test";
import { exec } from "../../src/index.ts";
import { testBox } from "../src/box.ts";

/** More than a socket holds of what is told of each. */
const TIMES = 500;
const script = `me=$$
(i=0; while [ $i -lt ${TIMES} ]; do kill -STOP $me; /bin/sleep 0.001; kill -CONT $me; i=$((i+1)); done)
exit 7`;

testBox("a program that stops and goes on without end ends as any other does", async () => {
  await using program = await exec(["/bin/sh", "-c", script], { sandbox: { run: ["/bin/sleep"] } });
  await program.exited;
  expect(program.exit).toEqual({ reason: "returned", code: 7 });
});

testBox("a program that stops and goes on without end is told of where it has a terminal, and ends", async () => {
  await using program = await exec(["/bin/sh", "-c", script], {
    sandbox: { run: ["/bin/sleep"] },
    terminal: { columns: 80, rows: 24 },
  });
  await program.exited;
  expect(program.exit).toEqual({ reason: "returned", code: 7 });
});
