// JSON text: what JSON.parse reads, but for what stands there twice.
import { describe, expect, test } from "bun:test";
import { readJson } from "../../src/strict.ts";

describe("readJson()", () => {
  for (const text of ['{"a":[1,{"a":null}],"b":{"a":"\\u0061"}}', "[]", ' "x" ', "-0.5e3"])
    test(`reads ${text} as JSON.parse does`, () => expect(readJson(text)).toEqual(JSON.parse(text)));

  for (const [text, told] of [
    ['{"a":1,"a":1}', 'line 1, column 8: "a" stands there twice'],
    ['{\n "a": {},\n "\\u0061": {} }', 'line 3, column 2: "a" stands there twice'],
    ['[{"b":{"a":1,"a":1}}]', '"a" stands there twice'],
    ['{"__proto__":1,"__proto__":2}', '"__proto__" stands there twice'],
    ['{"a":1,}', "line 1, column 8: property name expected"],
    ["{'a':1}", "line 1, column 2"],
    ["// no\n{}", "line 1, column 1: invalid comment token"],
    ["{} {}", "line 1, column 4: end of file expected"],
    ["", "line 1, column 1: value expected"],
    ["\ufeff{}", ""],
    ["NaN", "line 1, column 1"],
    ["[".repeat(100_000), ""],
    ['"\n"', ""],
    ['"\\x"', ""],
    ["01", ""],
  ] as const)
    test(`throws TypeError for ${JSON.stringify(text.slice(0, 30))}`, () => {
      expect(() => readJson(text)).toThrow(TypeError);
      expect(() => readJson(text)).toThrow(told);
    });
});
