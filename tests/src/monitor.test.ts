// Links and monitors: by children that are nothing but their ends, and by actors and programs.
import { describe, expect, test } from "bun:test";
import { once } from "node:events";
import { exec, link, monitor, spawn } from "../../src/index.ts";
import { testBox } from "./box.ts";
import { Player, quiet, Troupe } from "./troupe.ts";

const players = () => {
  const troupe = new Troupe();
  return [..."abc"].map((id) => new Player(id, troupe, true)) as [Player, Player, Player];
};
const mortal = () => spawn<typeof import("./fixtures/mortal.ts")>(new URL("./fixtures/mortal.ts", import.meta.url));

describe("link", () => {
  test("what ends abnormally ends the other, whichever of the two it is", async () => {
    for (const first of [0, 1]) {
      const both = players().slice(0, 2) as [Player, Player];
      link(...both);
      both[first]!.crash();
      expect(await both[1 - first]!.exited).toMatchObject({ reason: "killed", by: "link" });
    }
  });

  test("what returned 0 ends nobody; what was asked to end does, as `shutdown` does in Erlang", async () => {
    const [a, b, c] = players();
    link(a, b);
    link(b, c);
    a.return();
    await quiet();
    expect([b.alive, c.alive]).toEqual([true, true]);
    b.disconnect();
    await quiet();
    expect(c.alive).toBeFalse();
  });

  test("goes on from one to the next", async () => {
    const [a, b, c] = players();
    link(a, b);
    link(b, c);
    c.return(1);
    await quiet();
    expect([a.alive, b.alive]).toEqual([false, false]);
  });

  test("with one that has ended abnormally ends the other now", async () => {
    const [a, b] = players();
    a.crash();
    link(a, b);
    await quiet();
    expect(b.alive).toBeFalse();
  });

  test("is undone by its disposal", async () => {
    const [a, b] = players();
    {
      using _ = link(a, b);
    }
    a.crash();
    await quiet();
    expect(b.alive).toBeTrue();
  });

  test.each([
    ["throws", () => assertNever()],
    ["rejects", async () => assertNever()],
  ])("what a kill() %s is a warning of this process, and no error that ends it", async (_, kill) => {
    const [a, b] = players();
    const warned = once(process, "warning");
    link(a, { exited: b.exited, kill });
    a.crash();
    const [warning] = await warned;
    expect(warning.message).toContain("Cannot kill what was linked with one that ended: Error: It cannot be killed");
    expect(b.alive).toBeTrue();
  });

  test("throws for what is no child, and for one with itself", () => {
    const [a] = players();
    expect(() => link(a, {} as never)).toThrow(TypeError);
    expect(() => link(a, a)).toThrow("two are expected");
  });

  testBox("ends an actor with a program, and a program with an actor; the exit tells of the link", async () => {
    for (const first of ["actor", "program"]) {
      await using actor = await mortal();
      await using program = await exec(["sleep", "1000"], { stdout: "ignore", stderr: "ignore" });
      link(actor, program);
      if (first === "actor") process.kill(actor.pid, "SIGKILL");
      else program.kill("SIGTERM");
      await Promise.all([actor.exited, program.exited]);
      const exits = [await monitor(actor), await monitor(program)];
      if (first === "program") exits.reverse();
      expect(exits[0]).not.toMatchObject({ by: "link" });
      expect(exits[1]).toMatchObject({ reason: "killed", by: "link" });
    }
  });
});

function assertNever(): never {
  throw new Error("It cannot be killed");
}

describe("monitor", () => {
  test("gives how a child ended, again where it has already", async () => {
    const [a] = players();
    a.return(4);
    expect(await monitor(a)).toEqual({ reason: "returned", code: 4 });
    expect(await monitor(a)).toEqual({ reason: "returned", code: 4 });
  });

  testBox("gives an Exit for actors and programs alike", async () => {
    await using actor = await mortal();
    await using program = await exec(["sh", "-c", "exit 3"]);
    void actor.call.exit(3).catch(() => {});
    expect(await monitor(actor)).toEqual({ reason: "returned", code: 3 });
    expect(await monitor(program)).toEqual({ reason: "returned", code: 3 });
  });

  test("gives one for plain processes of Bun, too", async () => {
    expect(await monitor(Bun.spawn(["sh", "-c", "kill -9 $$"]))).toEqual({ reason: "signal", signal: "SIGKILL" });
    expect(await monitor(Bun.spawn(["true"]))).toEqual({ reason: "returned", code: 0 });
  });
});
