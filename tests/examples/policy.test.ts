/** The tables of docs/policy.md and docs/promises.md: that they say what the code says, all of it, and nothing else. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { handledBy, RIGHTS, unveilAccess } from "../../platform/linux/landlock.ts";
import { parsePromises } from "../../platform/linux/promises.ts";
import { PROMISES } from "../../platform/linux/words.ts";
import { checked, SCHEMA } from "../../src/sandbox.ts";
import { type Action, type Condition, compile, GROUPS, type Test } from "../../src/seccomp.ts";

const docs = join(import.meta.dir, "../../docs");

/** The rows of the table under a line that begins so: cell by cell, without the marks of code. */
function tableOf(page: string, heading: string): string[][] {
  const lines = readFileSync(join(docs, page), "utf8").split("\n");
  const start = lines.findIndex((line) => line.startsWith(heading));
  if (start < 0) throw new Error(`No table of ${page} begins with ${heading}`);
  const rows = lines.slice(start + 2);
  const end = rows.findIndex((line) => !line.startsWith("|"));
  return rows.slice(0, end).map((row) => row.split(" | ").map((cell) => cell.replaceAll(/^\| ?| ?\|$/g, "").trim()));
}

const codes = (cell: string) => [...cell.matchAll(/`([^`]+)`/g)].map(([, code]) => code!);

test("each key of a sandbox is in the table of keys, with a value that one may have", () => {
  const rows = tableOf("policy.md", "| key | grants |");
  const keys = rows.map(([key]) => codes(key!)[0]!);
  for (const [key, , example] of rows) checked({ [codes(key!)[0]!]: JSON.parse(codes(example!).at(-1)!) });
  expect(keys.toSorted()).toEqual(
    Object.keys(SCHEMA.properties)
      .filter((key) => key !== "$schema")
      .toSorted(),
  );
});

test("each limit is in its table by each of its keys, with amounts that it may have", () => {
  const rows = tableOf("limits.md", "| key | as a number |");
  const keys = rows.flatMap(([key, number]) => [...codes(key!), ...codes(number!)]);
  expect(keys).toEqual(Object.keys(SCHEMA.properties.limits.properties));
  for (const [key, , , examples] of rows)
    for (const amount of codes(examples!)) checked({ limits: { [codes(key!)[0]!]: JSON.parse(amount) } });
});

test("each group of calls is in its table with its calls, in their order", () => {
  const rows = tableOf("policy.md", "| group |").map(
    ([group, calls]) => [codes(group!)[0]!, calls!.split(" ")] as const,
  );
  expect(Object.fromEntries(rows)).toEqual(
    Object.fromEntries(Object.entries(GROUPS).map(([group, calls]) => [`@${group}`, [...calls]])),
  );
});

describe("each right of Landlock is in its table", () => {
  const rows = tableOf("policy.md", "| right |");
  const everything = handledBy(Number.MAX_SAFE_INTEGER, ~0);

  test("and no others", () => {
    expect(rows.map(([right]) => codes(right!)[0]!)).toEqual(Object.keys(RIGHTS));
  });

  test.each(rows)("%s, with its ABI and the letters that grant it", (right, abi, of, letters) => {
    const name = codes(right!)[0]! as keyof typeof RIGHTS;
    const granting = [..."rwxc"].filter((letter) => {
      const access = unveilAccess(letter, true, everything) | unveilAccess(letter, false, everything);
      return name.startsWith("fs.") && (access & RIGHTS[name].bit) !== 0n;
    });
    expect({ abi: Number(abi), of, letters }).toEqual({
      abi: RIGHTS[name].abi,
      of: RIGHTS[name].of,
      letters: granting.map((letter) => `\`${letter}\``).join(" "),
    });
  });
});

type Keys<Union> = Union extends string ? Union : keyof Union;

/** What else there comes to be is an error of types here. */
const ACTIONS: Readonly<Record<Keys<Action>, true>> = {
  allow: true,
  log: true,
  notify: true,
  errno: true,
  trap: true,
  trace: true,
  "kill-thread": true,
  "kill-process": true,
};
const OPERATORS: Readonly<Record<Test["op"] | "all" | "any", true>> = {
  eq: true,
  ne: true,
  lt: true,
  le: true,
  gt: true,
  ge: true,
  masked: true,
  all: true,
  any: true,
};

test("each action is in the table of actions, as filters take it", () => {
  const written = tableOf("policy.md", "| action |").flatMap(([cell]) => codes(cell!).map((code) => JSON.parse(code)));
  for (const action of written) compile({ machine: "x64", default: action as Action, rules: [] });
  const names = written.map((action: Action) => (typeof action === "string" ? action : Object.keys(action)[0]!));
  expect([...new Set(names)].toSorted()).toEqual(Object.keys(ACTIONS).toSorted());
});

test("each condition is in the table of conditions, as filters take it", () => {
  const rows = tableOf("policy.md", "| condition |");
  const written = rows.map(([cell]) => JSON.parse(codes(cell!)[0]!) as Condition);
  for (const condition of written) {
    compile({
      machine: "x64",
      default: "allow",
      rules: [{ call: "read", action: { errno: "EPERM" }, when: [condition] }],
    });
  }
  const first = written.map((condition) => ("op" in condition ? condition.op : Object.keys(condition)[0]!));
  const others = rows.flatMap(([, meaning]) => codes(meaning!)).filter((word) => Object.hasOwn(OPERATORS, word));
  expect([...first, ...others].toSorted()).toEqual(Object.keys(OPERATORS).toSorted());
});

test("each promise is in the table of promises, and each word of it is one", () => {
  const words = tableOf("promises.md", "| word |").flatMap(([cell]) => codes(cell!));
  expect(words.toSorted()).toEqual([...PROMISES].toSorted());
  expect(parsePromises(words.join(" ")).length).toBe(words.length);
});
