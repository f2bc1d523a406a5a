import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { SupervisedCall } from "../../platform/index.ts";
import type { Observation } from "../../src/need.ts";
import { observationsOf, observe } from "../../src/observe.ts";
import type { SyscallName } from "../../syscalls/kernel.ts";
import { O } from "../../syscalls/linux/numbers.ts";
import { arsenal, testAttempt } from "../attacks/attempt.ts";
import { testBox } from "./box.ts";

setDefaultTimeout(30_000);

const call = (call: SyscallName, more: Partial<SupervisedCall> = {}): SupervisedCall => ({
  call,
  args: [0n, 0n, 0n, 0n, 0n, 0n],
  pid: 1,
  tid: 1,
  program: "p",
  paths: ["/a"],
  ...more,
});

describe("observationsOf()", () => {
  const opening = (flags: number) => call("openat", { flags });
  const CASES: readonly (readonly [SupervisedCall, exists: boolean, string])[] = [
    [opening(O.RDONLY), true, "read /a"],
    [opening(O.RDONLY | O.DIRECTORY), true, "list /a"],
    [opening(O.PATH), true, "look /a"],
    [opening(O.PATH | O.CREAT), false, "look /a"],
    [opening(O.RDONLY | O.TRUNC), true, "write /a"],
    [opening(O.WRONLY), true, "write /a"],
    [opening(O.RDWR), true, "write /a"],
    [opening(3), true, "write /a"],
    [opening(O.RDONLY | O.CREAT), true, "read /a"],
    [opening(O.RDONLY | O.CREAT), false, "create /a"],
    [opening(O.RDWR | O.CREAT), true, "write /a"],
    [call("stat"), true, "look /a"],
    [call("execve"), true, "run /a"],
    [call("unlinkat"), true, "remove /a"],
    [call("chmod"), true, "write /a"],
    [call("mount", { paths: ["/a", "/b"] }), true, "other /a, other /b"],
    [call("rename", { paths: ["/a", "/b"] }), true, "remove /a, create /b"],
    [call("linkat", { paths: ["/a", "/b"] }), true, "read /a, create /b"],
    [call("openat", { paths: [""], flags: 0 }), true, ""],
    [call("connect", { paths: [], address: "203.0.113.5:443" }), true, "connect 203.0.113.5:443"],
    [call("bind", { paths: [], address: "unix:/run/x" }), true, "bind unix:/run/x"],
    [call("connect", { paths: [] }), true, ""],
  ];
  for (const [given, exists, expected] of CASES) {
    const { call, flags, address } = given;
    test(`${call} ${flags ?? address ?? ""}${exists ? "" : " of what is not there"}: ${expected || "nothing"}`, () => {
      const said = observationsOf(given, exists).map(({ access, target }) => `${access} ${target}`);
      expect(said.join(", ")).toBe(expected);
    });
  }
});

/** Whoever is not root is observed in a root of its own, which takes mount_setattr(2). */
const testSeen = testBox === test ? testAttempt : testBox;

describe("observe()", () => {
  const base = arsenal();
  afterAll(() => base[Symbol.dispose]());
  const seen = async (steps: readonly string[], options: Parameters<typeof observe>[1] = {}) => {
    const program = await observe([base.program, ...steps], options);
    const all: Observation[] = [];
    for await (const each of program.observations) all.push(each);
    return { all, code: await program.exited, lost: program.lost };
  };
  const has = (all: readonly Observation[], access: string, target: string) =>
    all.some((each) => each.access === access && each.target === target);

  testSeen("tells what a program names, whether it is there, and refuses none of it", async () => {
    const file = join(base.path, "file");
    writeFileSync(file, "");
    const { all, code, lost } = await seen([
      `openat -100 =${file} ${O.RDONLY}`,
      `openat -100 =${file}-none ${O.RDONLY}`,
      `mkdirat -100 =${file}-made 0700`,
    ]);
    expect([code, lost]).toEqual([0, 0]);
    expect(all.find(({ target }) => target === file)).toMatchObject({
      access: "read",
      exists: true,
      call: "openat",
      program: "attempt",
    });
    expect(all.find(({ target }) => target === `${file}-none`)).toMatchObject({ exists: false });
    expect(has(all, "create", `${file}-made`)).toBe(true);
    expect(has(all, "run", base.program)).toBe(false); // its own beginning is no wish of its
    rmSync(`${file}-made`, { recursive: true }); // it was made, on the host
  });

  testBox("hides what it is to hide, and tells of it all the same", async () => {
    const secret = join(base.path, "secret");
    writeFileSync(secret, "text");
    const cat = async (hidden: readonly string[]) => {
      const program = await observe(["/bin/sh", "-c", `test -s ${secret}`], { hidden });
      const all: Observation[] = [];
      for await (const each of program.observations) all.push(each);
      return { code: await program.exited, told: all.some(({ target }) => target === secret) };
    };
    expect(await cat([])).toEqual({ code: 0, told: true });
    expect(await cat([secret])).toEqual({ code: 1, told: true });
  });

  testSeen("a marker begins it, and names variables", async () => {
    const marker = "/caisson-marker";
    const { all } = await seen(
      ["openat -100 =/before 0", `openat -100 =${marker} 0`, `openat -100 =${marker}/HOME 0`, "openat -100 =/after 0"],
      { marker },
    );
    expect(all.map(({ access, target }) => `${access} ${target}`)).toEqual(["environment HOME", "read /after"]);
  });
});
