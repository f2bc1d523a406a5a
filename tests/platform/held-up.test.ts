/** A host, or the first process of a container, that other work of the machine holds up. */
import { afterAll, beforeAll, describe, expect } from "bun:test";
import { join } from "node:path";
import { platform } from "../../platform/index.ts";
import { Container, container, containerPlan } from "../../src/container.ts";
import { type ExecOptions, exec } from "../../src/exec.ts";
import { until } from "../attacks/arena.ts";
import { testBox, tree } from "../src/box.ts";

describe("a program that has ended before its host watches it is told of", () => {
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

testBox("a warning that came before anybody could ask for it is told to who asks then", async () => {
  const limits = { memoryWarning: "8 MiB" };
  const contained = await platform.contain(containerPlan({ files: tree, limits }));
  await using held = new Container(contained);
  const warned = new Promise<void>((resolve) => contained.onMemoryWarning(resolve));
  const fill = "x=$(head -c 32000000 /dev/zero | tr '\\0' x); read line";
  await using _ = await held.exec(["/bin/sh", "-c", fill], { env: { PATH: "/usr/bin:/bin" }, stdin: "pipe" });
  await warned;
  let late = 0;
  contained.onMemoryWarning(() => late++);
  await until(() => late > 0);
  expect(late).toBe(1);
});

describe("a host without a descriptor", () => {
  testBox("signals its program all the same", async () => {
    const script = `
      import { closeSync, openSync } from "node:fs";
      import { exec } from "${join(import.meta.dir, "../../src/index.ts")}";
      const program = await exec(["/bin/sleep", "1000"]);
      const held = [];
      try {
        for (;;) held.push(openSync("/dev/null"));
      } catch {}
      for (let times = 0; times < 1000; times++) program.kill("SIGCONT");
      program.kill("SIGTERM");
      for (const each of held) closeSync(each);
      await program.exited;
      console.log(held.length > 10, program.signalCode);`;
    const host = ["/bin/sh", "-c", 'ulimit -n 256; exec "$@"', "sh", process.execPath, "-e", script];
    expect(await Bun.spawn(host, { stdio: ["ignore", "pipe", "inherit"] }).stdout.text()).toBe("true SIGTERM\n");
  });
});

describe("a first process that is held up", () => {
  testBox("holds up what is asked of it, and not its host", async () => {
    await using held = await container();
    await using sleeper = await held.exec(["/bin/sleep", "1000"]);
    process.kill(held.pid, "SIGSTOP");
    const starting = Array.from({ length: 20 }, () => held.exec(["/bin/true"]));
    for (let times = 0; times < 20; times++) sleeper.kill("SIGTERM");
    await Bun.sleep(100); // others have their turns
    expect(sleeper.exit).toBeUndefined();
    process.kill(held.pid, "SIGCONT");
    const started = await Promise.all(starting);
    expect(await Promise.all(started.map(({ exited }) => exited))).toEqual(started.map(() => 0));
    await sleeper.exited;
    expect(sleeper.signalCode).toBe("SIGTERM");
  });
});
