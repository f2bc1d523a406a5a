/** Attacks by what is printed: more than may be, seen when the end is told already, and so much at once that the host does nothing else. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Actor, type Exit, LimitExceeded, type SpawnOptions, spawn } from "../../src/index.ts";
import { failure, until } from "./arena.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

type Printing = typeof import("./fixtures/printing.ts");
const module = fileURLToPath(new URL("./fixtures/printing.ts", import.meta.url));
const start = (outputBytes: number, options: SpawnOptions = {}): Promise<Actor<Printing>> =>
  spawn(module, { name: "loud", stderr: "ignore", ...options, sandbox: { limits: { outputBytes } } });

const { log } = console;
const { setImmediate } = globalThis;
afterEach(() => {
  console.log = log;
  globalThis.setImmediate = setImmediate;
});

describe("more than limits.output that is read behind the end", () => {
  /** Prints twice: what comes second waits until somebody reads. */
  async function printTwice(outputBytes: number): Promise<Actor<Printing>> {
    const actor = await start(outputBytes, { stdout: "pipe" });
    await actor.call.print("a".repeat(500));
    await actor.call.answer(); // the host has seen by now what was printed before the last answer
    void actor.call.printAndGo("b".repeat(60_000)).catch(() => {});
    expect(await actor.exited).toEqual({ reason: "returned", code: 0 });
    return actor;
  }

  test("fails the stream, behind what may be printed", async () => {
    const actor = await printTwice(1000);
    let length = 0;
    const error = await failure(
      (async () => {
        for await (const bytes of actor.stdout!) length += bytes.length;
      })(),
    );
    expect(error).toBeInstanceOf(LimitExceeded);
    expect(error).toMatchObject({
      limit: "output",
      message: "Cannot read all that actor loud printed: it reached its limit output",
    });
    expect(length).toBe(1000);
  });

  test("control: what is no more than that is read to its end", async () => {
    const actor = await printTwice(60_500);
    expect(await new Response(actor.stdout).text()).toHaveLength(60_500);
  });

  test("is told behind the lines that are passed on, or by the exit where that was not too late", async () => {
    const LINES = 1000;
    const printed: string[] = [];
    let exit: Exit | undefined;
    console.log = (line: string) => {
      // It prints the rest and ends when one line is printed. The others wait, a turn each, until its end is told.
      if (printed.push(line) === 1) {
        process.kill(actor.pid, "SIGTERM");
        while (!/^State:\tZ/m.test(readFileSync(`/proc/${actor.pid}/status`, "utf8"))) Bun.sleepSync(1);
      }
      if (exit === undefined) Bun.sleepSync(6);
    };
    const actor = await start(LINES + 6);
    await actor.call.printAndGoLater("x".repeat(1000));
    void actor.call.print("\n".repeat(LINES)).catch(() => {});
    exit = await actor.exited;
    const lines = [...Array<string>(LINES).fill("[loud] "), "[loud] xxxxxx"];
    if (exit.reason !== "limit") lines.push("[loud] ... what follows is dropped: it reached its limit output");
    await until(() => printed.length >= lines.length);
    expect(printed).toEqual(lines);
  });
});

describe("lines that are passed on", () => {
  const LINES = 10_000;
  const LINE_MS = 0.05;

  /** Has an actor print empty lines at once, each of which takes the host a while: how many it printed at most between two rings of a timer. */
  async function most(before: () => void = () => {}): Promise<number> {
    let total = 0;
    let since = 0;
    let most = 0;
    console.log = () => {
      const began = performance.now();
      while (performance.now() - began < LINE_MS);
      total++;
      since++;
    };
    await using actor = await spawn<Printing>(module, { stderr: "ignore" });
    const timer = setInterval(() => {
      most = Math.max(most, since);
      since = 0;
    }, 1);
    before();
    void actor.call.print("\n".repeat(LINES)).catch(() => {});
    await until(() => total === LINES && since === 0);
    clearInterval(timer);
    return most;
  }

  test("are few between two rings of the host's timers, however many come at once", async () => {
    expect(await most()).toBeLessThan(LINES / 10);
  });

  test("control: without turns they are all that came", async () => {
    const atOnce = () => {
      globalThis.setImmediate = ((work: () => void) => queueMicrotask(work)) as typeof setImmediate;
    };
    expect(await most(atOnce)).toBe(LINES);
  });
});
