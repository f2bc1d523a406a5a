import { describe, expect, test } from "bun:test";
import { ProtocolViolation } from "../../src/error.ts";
import { decode, encode, encodeInto, LIMITS, type Packer, type Unpacker } from "../../src/message.ts";
import { Writer } from "../../src/writer.ts";
import { nested, random } from "./values.ts";

const CBOR = 0;
const JSON_TEXT = 1;

function roundTrip(value: unknown): unknown {
  return decode(encode(value));
}

function thrown(act: () => unknown): unknown {
  try {
    act();
  } catch (error) {
    return error;
  }
  throw new Error("Nothing was thrown");
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

describe("encode() throws a TypeError that names the place", () => {
  class Foo {}
  const table: [string, unknown, string][] = [
    ["a function", () => {}, "Cannot send a function at value"],
    [
      "a function deep inside",
      { handlers: [0, 1, { onClick() {} }] },
      "Cannot send a function at value.handlers[2].onClick",
    ],
    ["a function under an odd name", { "a b": () => {} }, 'Cannot send a function at value["a b"]'],
    ["a symbol", [Symbol("s")], "Cannot send a symbol at value[0]"],
    ["an instance of a class", { a: new Foo() }, "Cannot send an instance of Foo at value.a"],
    ["an instance of a nameless class", new (class {})(), "Cannot send an instance of an unnamed class at value"],
    [
      "an array of a class of its own",
      new (class Stack extends Array {})(),
      "Cannot send an instance of Stack at value",
    ],
    ["a promise", [Promise.resolve()], "Cannot send an instance of Promise at value[0]"],
    ["a WeakMap", new WeakMap(), "Cannot send an instance of WeakMap at value"],
    ["a boxed primitive", [Object(1)], "Cannot send an instance of Number at value[0]"],
    ["shared memory", new SharedArrayBuffer(1), "Cannot send an instance of SharedArrayBuffer at value"],
    [
      "a view of shared memory",
      [new Uint8Array(new SharedArrayBuffer(1))],
      "Cannot send a view of shared memory at value[0]",
    ],
    ["a key of a map", new Map([[Foo, 1]]), "Cannot send a function at value.keys()[0]"],
    [
      "a value of a map",
      {
        m: new Map([
          [1, 1],
          [2, Foo as unknown],
        ]),
      },
      "Cannot send a function at value.m.values()[1]",
    ],
    ["an item of a set", new Set([Foo]), "Cannot send a function at value.values()[0]"],
    ["a cause", new Error("x", { cause: Foo }), "Cannot send a function at value.cause"],
    [
      "a property named __proto__",
      { a: JSON.parse('{"__proto__":1}') },
      "Cannot send a property named __proto__ at value.a",
    ],
    [
      "the same beside an odd name",
      JSON.parse('{"\\ud800":1,"__proto__":1,"a":1}'),
      "Cannot send a property named __proto__ at value",
    ],
    ["a proxy that throws", [new Proxy({}, { ownKeys: fail })], "Cannot send what is at value[0]: reading it failed"],
    ["a proxy that was revoked", [revoked()], "Cannot send what is at value[0]: reading it failed"],
    [
      "a getter that throws",
      {
        a: {
          get b() {
            return fail();
          },
        },
      },
      "Cannot send what is at value.a.b: reading it failed",
    ],
    ["a detached buffer", [detached()], "Cannot send what is at value[0]: reading it failed"],
    ["a date that is none", [Object.create(Date.prototype)], "Cannot send what is at value[0]: reading it failed"],
  ];
  for (const [name, value, message] of table) {
    test(name, () => {
      const error = thrown(() => encode(value)) as Error;
      expect(error).toBeInstanceOf(TypeError);
      expect(error.message).toBe(message);
    });
  }

  test("with what a getter threw as its cause", () => {
    const error = thrown(() =>
      encode({
        get a() {
          return fail();
        },
      }),
    ) as Error;
    expect(error.cause).toEqual(new Error("on purpose"));
  });

  function fail(): never {
    throw new Error("on purpose");
  }
  function revoked(): object {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    return proxy;
  }
  function detached(): ArrayBuffer {
    const buffer = new ArrayBuffer(8);
    buffer.transfer();
    return buffer;
  }
});

test("encode() calls each getter once", () => {
  for (const beside of [1, 1n]) {
    let calls = 0;
    expect(
      roundTrip({
        get a() {
          calls++;
          return calls;
        },
        beside,
      }),
    ).toStrictEqual({ a: 1, beside });
    expect(calls).toBe(1);
  }
});

test("encode() survives a getter that encodes", () => {
  expect(
    roundTrip({
      get a() {
        return encode("inner").length;
      },
      b: 1n,
    }),
  ).toStrictEqual({ a: 8, b: 1n });
});

describe("Limits", () => {
  const deep = (levels: number, seed: unknown) => {
    let value = seed;
    for (let level = 0; level < levels; level++) value = level % 2 ? [value] : { a: value };
    return value;
  };

  for (const [codec, seed] of [
    ["JSON", 1],
    ["CBOR", 1n],
  ] as const) {
    test(`encode() and decode() take a value at the depth limit in ${codec}`, () => {
      expect(roundTrip(deep(LIMITS.depth, seed))).toStrictEqual(deep(LIMITS.depth, seed));
    });

    test(`encode() throws RangeError beyond the depth limit in ${codec}`, () => {
      const error = thrown(() => encode(deep(LIMITS.depth + 1, seed))) as Error;
      expect(error).toBeInstanceOf(RangeError);
      expect(error.message).toEndWith("it is nested deeper than 100 levels");
    });

    test(`decode() throws ProtocolViolation beyond the depth limit in ${codec}`, () => {
      const bytes = encode(deep(LIMITS.depth + 1, seed), undefined, { ...LIMITS, depth: LIMITS.depth + 1 });
      expect(() => decode(bytes)).toThrow(ProtocolViolation);
      expect(() => decode(bytes)).toThrow("nest");
    });

    test(`encode() and decode() agree on the number of items in ${codec}`, () => {
      const value = [seed, [], {}, { a: 1, b: [2, 3] }, "x,[{"]; // 10 in all
      const bytes = encode(value);
      expect(decode(bytes, undefined, { depth: 5, items: 10 })).toStrictEqual(value);
      expect(() => decode(bytes, undefined, { depth: 5, items: 9 })).toThrow(/more than 9 items/);
      expect(encode(value, undefined, { depth: 5, items: 10 })).toEqual(bytes);
      expect(() => encode(value, undefined, { depth: 5, items: 9 })).toThrow(/more than 9 items/);
    });
  }

  test("encode() and decode() agree on depth and items for every kind", () => {
    const next = random(1);
    for (let count = 0; count < 300; count++) {
      const value = nested(next, 4);
      const limits = { depth: Math.floor(next() * 5), items: 1 + Math.floor(next() * 12) };
      let bytes: Uint8Array | undefined;
      try {
        bytes = encode(value, undefined, limits);
      } catch (error) {
        expect(error).toBeInstanceOf(RangeError);
      }
      const unlimited = encode(value);
      if (bytes === undefined) expect(() => decode(unlimited, undefined, limits)).toThrow(ProtocolViolation);
      else expect(decode(bytes, undefined, limits)).toStrictEqual(structuredClone(value));
    }
  });

  test("encode() ends where getters do not", () => {
    const endless = (): object => ({
      get next() {
        return endless();
      },
    });
    expect(() => encode(endless())).toThrow(RangeError);
  });

  test("encode() throws RangeError for what takes a receiver long", () => {
    expect(() => encode(2n ** (1n << 20n))).toThrow(RangeError);
    for (const most of [2n ** (1n << 20n) - 1n, 1n - 2n ** (1n << 20n)]) expect(roundTrip(most) === most).toBe(true);
    expect(() => encode(-(2n ** (1n << 20n)))).toThrow(RangeError);
    expect(() => encode(new RegExp("a".repeat(4097)))).toThrow(RangeError);
    expect(() => encode(Array.from({ length: 5 }, () => new RegExp("a".repeat(4096))))).toThrow(RangeError);
    expect(roundTrip(new RegExp("a".repeat(4096)))).toStrictEqual(new RegExp("a".repeat(4096)));
  });
});

describe("Packer and Unpacker", () => {
  class Door {
    readonly #opens = true;
    get open(): boolean {
      return this.#opens;
    }
  }

  function lane(): { doors: object[]; packer: Packer; unpacker: Unpacker } {
    const doors: object[] = [];
    const taken = new Set<number>();
    return {
      doors,
      packer: { capability: (value) => (value instanceof Door ? doors.push(value) - 1 : undefined) },
      unpacker: {
        capability(index) {
          if (index >= doors.length || taken.has(index)) throw new ProtocolViolation(`No capability ${index}`);
          taken.add(index);
          return doors[index];
        },
      },
    };
  }

  test("carry capabilities beside the value, each once", () => {
    const { doors, packer, unpacker } = lane();
    const [front, back] = [new Door(), new Door()];
    const value = { front, list: [back, front], more: new Map([[front, new Date(0)]]) };
    const copy = decode(encode(value, packer), unpacker) as typeof value;
    expect(doors).toEqual([front, back]);
    expect(copy.front).toBe(front);
    expect(copy.list).toEqual([back, front]);
    expect(copy.more.get(front)).toStrictEqual(new Date(0));
  });

  test("are not asked about plain data", () => {
    const asked: object[] = [];
    const value = { a: [1n, new Map(), new Set(), new Date(), new Uint8Array(), /a/] };
    encode(value, { capability: (object) => void asked.push(object) });
    expect(asked).toEqual([]);
  });

  test("throw their own errors through encode() and decode()", () => {
    const error = new RangeError("Too many descriptors");
    const fail = () => {
      throw error;
    };
    expect(thrown(() => encode(new Door(), { capability: fail }))).toBe(error);
    const { packer } = lane();
    expect(thrown(() => decode(encode(new Door(), packer), { capability: fail }))).toBe(error);
  });

  test("are needed for a capability", () => {
    const { packer } = lane();
    expect(() => encode(new Door())).toThrow("Cannot send an instance of Door at value");
    expect(() => decode(encode(new Door(), packer))).toThrow(ProtocolViolation);
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
