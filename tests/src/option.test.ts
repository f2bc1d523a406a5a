/** Options are checked by name and kind: a slip is a TypeError that names it, and never less than what was asked for. */
import { describe, expect, test } from "bun:test";
import { attach, bind, container, directory, exec, overlay, proc, run, symlink, text, tmpfs } from "../../src/index.ts";

/** What is wrong, and what the message has to say. */
type Wrong = readonly [options: object, told: string];

const PROCESS: readonly Wrong[] = [
  [{ envv: {} }, "Cannot use the option envv: there is none of this name"],
  [{ env: { "A=B": "x" } }, 'Cannot use { "A=B": "x", } as env: an object from names, without =, to strings'],
  [{ env: { A: 5 } }, "as env"],
  [{ cwd: "" }, 'Cannot use "" as cwd: a path or a descriptor is expected'],
  [{ stdin: {} }, "as stdin"],
  [{ stdout: "pip" }, 'Cannot use "pip" as stdout: "pipe", "inherit", "ignore" or a descriptor is expected'],
  [{ terminal: { cols: 80, rows: 24 } }, "as terminal: { columns, rows }"],
  [{ descriptors: { x: 1 } }, "as descriptors"],
  [{ umask: -1 }, "Cannot use -1 as umask: a number from 0 to 0o777 is expected"],
  [{ session: "nw" }, 'Cannot use "nw" as session: "new", "group", "keep" is expected'],
  [{ parentDeathSignal: "KILL" }, "as parentDeathSignal: a signal's name, such as SIGTERM"],
  [{ noNewPrivileges: 0 }, "Cannot use 0 as noNewPrivileges: true or false is expected"],
  [{ rlimits: { NOFILE: -1 } }, "as rlimits"],
  [{ init: 0 }, "as init"],
  [{ signal: 9 }, "Cannot use 9 as signal: an AbortSignal is expected"],
];

const CONTAINER: readonly Wrong[] = [
  [{ hostnme: "x" }, "Cannot use the option hostnme: there is none of this name"],
  [{ root: "" }, 'Cannot use "" as root: a path or an object is expected'],
  [{ files: [{}] }, "made by bind(), tmpfs() and their like"],
  [{ files: "x" }, "as files"],
  [{ user: "root" }, 'Cannot use "root" as user: an id is expected'],
  [{ ids: "rangs" }, 'Cannot use "rangs" as ids: "ranges" or an object is expected'],
  [{ hostname: 5 }, "Cannot use 5 as hostname: a string is expected"],
  [{ loopback: "no" }, "as loopback"],
  [{ join: [-1] }, "as join"],
];

/** The TypeError's message. */
async function refusal(act: () => unknown): Promise<string> {
  try {
    await act();
  } catch (error) {
    expect(error).toBeInstanceOf(TypeError);
    return (error as Error).message;
  }
  throw new Error("It was taken");
}

describe("a TypeError names what is wrong", () => {
  for (const [options, told] of PROCESS)
    test(`with exec() of ${Bun.inspect(options).replaceAll(/\s+/g, " ")}`, async () => {
      expect(await refusal(() => exec(["true"], options))).toContain(told);
    });

  for (const [options, told] of CONTAINER)
    test(`with container() of ${Bun.inspect(options).replaceAll(/\s+/g, " ")}`, async () => {
      expect(await refusal(() => container(options))).toContain(told);
    });

  test("with arguments of a program that are none", async () => {
    for (const argv of ["ls", null, ["true", 5]])
      expect(await refusal(() => run(argv as never))).toContain("an array of strings is expected");
    expect(await refusal(() => run(["true"], { sandbox: { red: [] } as never }))).toContain(
      'it has "red": there is no such key; did you mean read?',
    );
  });

  test.each<[string, () => unknown]>([
    ["wrte", () => bind("/usr", "/usr", { wrte: true } as never)],
    ["execute", () => bind("/usr", "/usr", { execute: "no" } as never)],
    ["what is bound", () => bind("")],
    ["target", () => bind("/usr", { write: true } as never)],
    ["siz", () => tmpfs("/t", { siz: 1 } as never)],
    ["target", () => tmpfs(undefined as never)],
    ["lower", () => overlay("/o", { lower: "/usr" } as never)],
    ["lowr", () => overlay("/o", { lowr: ["/usr"] } as never)],
    ["content", () => proc("/proc", { content: "mask" } as never)],
    ["what a link leads to", () => symlink("/a", undefined as never)],
    ["content", () => text("/a", undefined as never)],
    ["options", () => directory("/a", 0o700 as never)],
    ["what is attached to", () => attach("1" as never)],
  ])("with %s of a mount", async (name, act) => {
    expect(await refusal(act)).toContain(name);
  });
});

test("what is undefined was left out", () => {
  expect(bind("/usr", undefined, { write: undefined } as never)).toEqual(bind("/usr"));
});
