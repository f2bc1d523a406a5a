/** Programs that keep their promises, and one that does not: what it lacked is told, and it ends or goes on without. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exec, type Sandbox } from "caisson";

const directory = mkdtempSync(join(tmpdir(), "promises-"));
const fruit = join(directory, "fruit");
writeFileSync(fruit, "pear\napple\nquince\n");

/** Runs it, and prints what it printed, how it ended, and which promises it lacked on the way. */
async function show(argv: readonly [string, ...string[]], promised: Pick<Sandbox, "promises" | "onBreak">) {
  console.log(`${argv.join(" ").replaceAll(directory, ".")}, promising ${promised.promises}`);
  // What is granted is the same each time: the promises alone say what it makes of that.
  const program = await exec(argv, { sandbox: { write: [directory], ...promised }, cwd: directory, observe: true });
  const [text, errors] = await Promise.all([program.stdout?.text(), program.stderr?.text(), program.exited]);
  for (const line of `${text}${errors}`.split("\n").filter(Boolean)) console.log(`  ${line}`);
  if (program.signalCode !== null) console.log(`  ended by ${program.signalCode}`);
  for await (const { call, promise, times } of program.denials) {
    if (promise !== undefined) console.log(`  it lacked ${promise}, for ${call}${times > 1 ? `, ${times} times` : ""}`);
  }
}

try {
  await show(["sort", fruit], { promises: "stdio rpath", onBreak: "kill" });
  await show(["sort", "-o", "sorted", fruit], { promises: "stdio rpath", onBreak: "errno" });
  await show(["sort", "-o", "sorted", fruit], { promises: "stdio rpath wpath cpath", onBreak: "kill" });
  await show(["rm", fruit], { promises: "stdio rpath", onBreak: "kill" });
} finally {
  rmSync(directory, { recursive: true });
}
