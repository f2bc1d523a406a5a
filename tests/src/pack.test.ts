import { describe, expect, test } from "bun:test";
import { ProtocolViolation } from "../../src/error.ts";
import { decode, encode, LIMITS, type Packer, type Unpacker } from "../../src/message.ts";
import { nested, random } from "./values.ts";

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
