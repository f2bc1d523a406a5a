import { describe, expect, test } from "bun:test";
import { ProtocolViolation } from "../../src/error.ts";
import { decode, encode, encodeInto } from "../../src/message.ts";
import { Writer } from "../../src/writer.ts";
import { nested, random } from "./values.ts";

const CBOR = 0;
const JSON_TEXT = 1;

function roundTrip(value: unknown): unknown {
  return decode(encode(value));
}

describe("encode() and decode() keep what structuredClone() keeps", () => {
  const buffer = new Uint8Array([9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]).buffer;
  const table: Record<string, unknown> = {
    undefined: undefined,
    null: null,
    booleans: [true, false],
    integers: [0, 23, 24, 255, 256, 65535, 65536, 2 ** 31, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER],
    "negative integers": [-1, -24, -25, -256, -257, -65537, -(2 ** 31) - 1, -(2 ** 32), -(2 ** 32) - 1],
    "the same numbers beside what JSON lacks": [
      0n,
      23,
      24,
      255,
      256,
      65536,
      2 ** 32,
      -1,
      -25,
      -257,
      -(2 ** 32),
      2 ** 53,
    ],
    fractions: [0.1, -1.5e300, 5e-324, Number.MAX_VALUE],
    "numbers JSON lacks": [Number.NaN, Infinity, -Infinity, -0],
    bigints: [0n, 1n, -1n, 2n ** 64n, -(2n ** 200n), 0x10n],
    strings: ["", "a", "é", "€", "😀", "\0", '"\\\n', "x".repeat(70_000)],
    "strings beside what JSON lacks": [1n, "", "a", "é", "€", "😀", "\0", "é".repeat(300), "x".repeat(70_000)],
    "lone surrogates": ["\ud800", "a\udc00b"],
    "lone surrogates beside what JSON lacks": [1n, "\ud800", "a\udc00b", "\udc00\ud800"],
    "byte order marks": [1n, "\ufeff", `\ufeff${"x".repeat(100)}`, `x\ufeff${"x".repeat(100)}`],
    dates: [new Date(0), new Date(-1), new Date(8.64e15), new Date(1e12 + 0.5)],
    "regular expressions": [/a\/b/, /\n[/]/giu, /(?:)/, /(?<name>é)/dgimsvy],
    maps: new Map<unknown, unknown>([
      ["a", 1],
      [{ key: 1 }, new Map()],
      [Number.NaN, null],
      [undefined, undefined],
    ]),
    sets: new Set<unknown>([1, "1", null, undefined, new Set([1n])]),
    "an array buffer": buffer,
    "an empty array buffer": new ArrayBuffer(0),
    views: [
      new Uint8Array(buffer, 1, 3),
      new Int8Array(buffer, 1, 3),
      new Uint8ClampedArray(buffer, 1, 3),
      new Int16Array(buffer, 2, 3),
      new Uint16Array(buffer, 2, 3),
      new Int32Array(buffer, 4, 2),
      new Uint32Array(buffer, 4, 2),
      new BigInt64Array(buffer, 8, 1),
      new BigUint64Array(buffer, 8, 1),
      new Float16Array(buffer, 2, 3),
      new Float32Array(buffer, 4, 2),
      new Float64Array(buffer, 8, 1),
      new DataView(buffer, 1, 5),
    ],
    objects: { a: { b: {} }, "": 1, "a b": [], 1: 2 },
    "names that JavaScript also uses": {
      constructor: 1n,
      hasOwnProperty: 1,
      toString: 2,
      toJSON: 3,
      length: 4,
      value: 5,
      tag: 27,
    },
    "odd names": { "\ud800": 1n, [`\ufeff${"x".repeat(100)}`]: 2, é: 3 },
    "odd names in JSON": { "\ud800": 1, "\ufeff": 2 },
    "undefined in objects and arrays": { a: undefined, b: [undefined] },
    "a name that only looks dangerous": { __proto: 1, proto__: "__proto__", "__proto__ ": "\u005f\\u005f" },
  };
  for (const [name, value] of Object.entries(table)) {
    test(name, () => {
      expect(roundTrip(value)).toStrictEqual(structuredClone(value));
    });
  }

  test("the sign of zero", () => {
    expect(Object.is(roundTrip(-0), -0)).toBe(true);
    expect(Object.is(roundTrip([0n, 0]), 0)).toBe(false);
  });

  test("an invalid date", () => {
    expect((roundTrip(new Date(Number.NaN)) as Date).getTime()).toBeNaN();
  });

  test("holes in arrays become undefined", () => {
    // biome-ignore lint/suspicious/noSparseArray: the hole is the point
    expect(roundTrip([1, , 2])).toStrictEqual([1, undefined, 2]);
  });

  test("objects without a prototype become plain ones", () => {
    expect(roundTrip(Object.assign(Object.create(null), { a: 1 }))).toStrictEqual({ a: 1 });
    expect(roundTrip(Object.assign(Object.create(null), { a: 1n }))).toStrictEqual({ a: 1n });
  });

  test("symbols as names and properties that are not enumerable are left out", () => {
    const value = Object.defineProperty({ a: 1n, [Symbol("s")]: 1 }, "hidden", { value: 1 });
    expect(roundTrip(value)).toStrictEqual({ a: 1n });
  });

  test("a Buffer becomes a Uint8Array of the bytes it shows", () => {
    const bytes = encode(Buffer.from("abc"));
    expect(decode(bytes)).toStrictEqual(new Uint8Array([97, 98, 99]));
    expect(bytes.length).toBe(5); // And none of the pool that it is a view of.
  });

  const seed = Number(Bun.env.CAISSON_SEED ?? Date.now());
  test(`a thousand random values, CAISSON_SEED=${seed}`, () => {
    const next = random(seed);
    for (let count = 0; count < 1000; count++) {
      const value = nested(next, 5);
      expect(roundTrip(value)).toStrictEqual(structuredClone(value));
    }
  });
});

describe("encode() chooses", () => {
  const own = { a: [1, -1.5, "x", true, null, {}], b: [] };
  const table: [string, unknown, number][] = [
    ["JSON for plain data", own, JSON_TEXT],
    ["JSON for objects without a prototype", Object.assign(Object.create(null), own), JSON_TEXT],
    ["CBOR for a bigint inside", { a: [1n] }, CBOR],
    ["CBOR for undefined inside", { a: undefined }, CBOR],
    ["CBOR for a hole", new Array(1), CBOR],
    ["CBOR for NaN", [Number.NaN], CBOR],
    ["CBOR for a date, which has toJSON", [new Date(0)], CBOR],
    [
      "CBOR for a getter",
      {
        get a() {
          return 1;
        },
      },
      CBOR,
    ],
    ["CBOR for a property named toJSON", { toJSON: 1 }, CBOR],
  ];
  for (const [name, value, codec] of table) test(name, () => expect(encode(value)[0]).toBe(codec));
});

describe("encode() and decode() keep errors", () => {
  for (const Class of [Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError]) {
    test(`${Class.name} with its message and stack`, () => {
      const error = new Class("went wrong");
      const copy = roundTrip(error) as Error;
      expect(Object.getPrototypeOf(copy)).toBe(Class.prototype);
      expect(copy.message).toBe("went wrong");
      expect(copy.stack).toBe(error.stack as string);
      expect(Object.keys(copy)).toEqual([]);
    });
  }

  test("any other class by its name, as an Error", () => {
    class Unusual extends TypeError {
      override name = "Unusual";
    }
    const copy = roundTrip(new Unusual("x")) as Error;
    expect(Object.getPrototypeOf(copy)).toBe(Error.prototype);
    expect(`${copy}`).toBe("Unusual: x");
    expect((roundTrip(new ProtocolViolation("x")) as Error) instanceof ProtocolViolation).toBe(false);
    expect((roundTrip(new DOMException("x", "AbortError")) as Error).name).toBe("AbortError");
  });

  test("the fields of system errors, and no other properties", () => {
    const error = Object.assign(new Error("x"), { code: "EPERM", errno: -1, syscall: "open", path: "/p", other: 1 });
    const copy = roundTrip(error);
    expect(copy).toMatchObject({ code: "EPERM", errno: -1, syscall: "open", path: "/p" });
    expect(copy).not.toHaveProperty("other");
    expect(roundTrip(Object.assign(new Error("x"), { code: {}, errno: -0 }))).toMatchObject({ errno: -0 });
  });

  test("a chain of causes, closed to a ring", () => {
    const inner = new Error("inner", { cause: { reason: 1n } });
    expect((roundTrip(new Error("outer", { cause: inner })) as Error).cause).toMatchObject({
      message: "inner",
      cause: { reason: 1n },
    });
    inner.cause = inner;
    const copy = roundTrip(inner) as Error;
    expect(copy.cause).toBe(copy);
    expect(Object.hasOwn(roundTrip(new Error("x", { cause: undefined })) as Error, "cause")).toBe(true);
  });
});

describe("encode() and decode() keep identity", () => {
  test("of cycles through every kind of container", () => {
    const value: Record<string, unknown> = {};
    value.self = value;
    value.map = new Map([[value, value]]);
    value.set = new Set([value]);
    value.array = [value];
    const copy = roundTrip(value) as { self: unknown; map: Map<unknown, unknown>; set: Set<unknown>; array: unknown[] };
    expect(copy.self).toBe(copy);
    expect(copy.map.get(copy)).toBe(copy);
    expect(copy.set.has(copy)).toBe(true);
    expect(copy.array[0]).toBe(copy);
  });

  test("of every kind of object beside what JSON lacks", () => {
    for (const object of [
      {},
      [],
      new Date(0),
      /a/,
      new Map(),
      new Set(),
      new Error("x"),
      new ArrayBuffer(1),
      new Uint8Array(1),
      new Float64Array(1),
    ]) {
      const [, first, second, { last }] = roundTrip([1n, object, object, { last: object }]) as [
        bigint,
        unknown,
        unknown,
        { last: unknown },
      ];
      expect(second).toBe(first);
      expect(last).toBe(first);
    }
  });

  test("of a graph that would be a billion objects as a tree", () => {
    let value: unknown = {};
    for (let level = 0; level < 30; level++) value = [value, value];
    const bytes = encode(value);
    expect(bytes.length).toBeLessThan(1000);
    const [left, right] = decode(bytes) as [unknown, unknown];
    expect(left).toBe(right);
  });

  test("but not in plain JSON, where shared objects are copied", () => {
    const shared = { a: 1 };
    const [first, second] = roundTrip([shared, shared]) as [unknown, unknown];
    expect(first).not.toBe(second);
    expect(first).toEqual(second);
  });
});

describe("encodeInto()", () => {
  test("writes many values one after another", () => {
    const writer = new Writer(16);
    const values = [
      { a: 1 },
      1n,
      undefined,
      "é".repeat(5000),
      new Uint8Array(100_000).fill(7),
      new Map([[1, 2]]),
      "end",
    ];
    const ends = values.map((value) => {
      encodeInto(value, writer);
      return writer.length;
    });
    const copies = ends.map((end, index) => decode(writer.written.subarray(ends[index - 1] ?? 0, end)));
    expect(copies).toStrictEqual(values);
  });

  test("lends large bytes at the end of a value, and so writes what encode() returns without them", () => {
    const large = new Uint8Array(65_537).fill(7);
    const { buffer } = new Uint8Array(70_000);
    const lent = [
      large,
      [large],
      [1, "é", null, undefined, -0, 1n, large],
      Buffer.from(large),
      new Uint8Array(buffer, 3, 65_536),
    ];
    for (const value of lent) {
      const writer = new Writer();
      const bytes = encodeInto(value, writer, { lends: true });
      expect(bytes?.buffer).toBe((Array.isArray(value) ? large : value).buffer);
      expect(Buffer.concat([writer.written, bytes!])).toEqual(Buffer.from(encode(value)));
    }
  });

  test("lends no bytes that are small, in the middle, of another kind, shared, or perhaps referred to", () => {
    const large = new Uint8Array(70_000);
    class Odd extends Uint8Array {}
    const kept = [
      large.subarray(0, 65_535),
      [large, 1],
      [[large], large],
      [large, large],
      { large },
      new Float64Array(large.buffer),
      large.buffer,
      new Array(17).fill(large),
    ];
    for (const value of kept) {
      const writer = new Writer();
      expect(encodeInto(value, writer, { lends: true })).toBeUndefined();
      expect(new Uint8Array(writer.written)).toEqual(encode(value));
    }
    for (const value of [new Odd(70_000), new Uint8Array(new SharedArrayBuffer(70_000)), new Proxy(large, {})]) {
      expect(() => encodeInto(value, new Writer(), { lends: true })).toThrow(TypeError);
    }
  });

  test("leaves the writer as it was when it throws", () => {
    const writer = new Writer();
    writer.byte(42);
    expect(() => encodeInto({ a: [1, () => {}] }, writer)).toThrow(TypeError);
    expect([...writer.written]).toEqual([42]);
  });

  test("writes what encode() returns", () => {
    for (const value of [{ a: 1 }, [1n], undefined]) {
      const writer = new Writer();
      encodeInto(value, writer);
      expect(new Uint8Array(writer.written)).toEqual(encode(value));
    }
  });

  test("does not let other users of cbor-x write into its buffer", async () => {
    const { encode: foreign } = await import("cbor-x/index-no-eval");
    const writer = new Writer();
    encodeInto([1n], writer);
    const before = new Uint8Array(writer.written);
    const theirs = foreign({ theirs: true });
    encodeInto([2n], writer);
    expect(theirs.buffer).not.toBe(writer.written.buffer);
    expect(new Uint8Array(writer.written.subarray(0, before.length))).toEqual(before);
  });
});

test("decode() takes replacement characters that were sent, and no bytes that a decoder would replace", () => {
  expect(decode(encode("a\ufffdb"))).toBe("a\ufffdb");
  for (const bytes of [[0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xe2, 0x82], [0x80]]) {
    expect(() => decode(Uint8Array.of(1, 0x22, ...bytes, 0x22))).toThrow(ProtocolViolation);
  }
});

test("decode() shares no memory with the bytes it was given", () => {
  const source = encode([new Uint8Array([1, 2]), new ArrayBuffer(2), new Int16Array([3])]);
  const before = structuredClone(decode(source));
  const copy = decode(source);
  source.fill(0xff);
  expect(copy).toStrictEqual(before);
});

test("the codec bundles without native code, code from text, and modules of the platform", async () => {
  const { outputs } = await Bun.build({ entrypoints: [`${import.meta.dir}/../../src/message.ts`], target: "bun" });
  const text = (await outputs[0]?.text()) ?? "";
  expect(text).toContain("encodeInto");
  expect(text).not.toMatch(/cbor-extract|\bnew Function\b|\beval\(|\bnode:|\brequire\(["']|^import /m);
});
