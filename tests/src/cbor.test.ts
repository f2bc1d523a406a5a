import { afterAll, describe, expect, spyOn, test } from "bun:test";
import { Decoder } from "cbor-x/index-no-eval";
import { ProtocolViolation } from "../../src/error.ts";
import { TAGS, VIEWS, validate } from "../../src/grammar.ts";
import { decode, encode, LIMITS } from "../../src/message.ts";
import { nested, random } from "./values.ts";

const PROTOTYPE = Reflect.ownKeys(Object.prototype);
afterAll(() => expect(Reflect.ownKeys(Object.prototype)).toEqual(PROTOTYPE));

/** Bytes from numbers, hexadecimal text and tags: `tagged(TAGS.MAP, "80")`. */
function cbor(...parts: (string | number)[]): Uint8Array {
  return Uint8Array.from(
    Buffer.from(
      `00${parts.map((part) => (typeof part === "string" ? part : part.toString(16))).join("")}`.replaceAll(" ", ""),
      "hex",
    ),
  );
}

function tag({ number }: { readonly number: number }): string {
  return `d9${number.toString(16).padStart(4, "0")}`;
}

function text(value: string): string {
  const bytes = Buffer.from(value);
  if (bytes.length > 255) return `79${bytes.length.toString(16).padStart(4, "0")}${bytes.toString("hex")}`;
  return `${bytes.length < 24 ? (0x60 + bytes.length).toString(16) : `78${bytes.length.toString(16)}`}${bytes.toString("hex")}`;
}

function json(value: string): Uint8Array {
  return new Uint8Array([1, ...new TextEncoder().encode(value)]);
}

/** What decoding throws; where it does not, a word short enough to print. */
function outcome(bytes: Uint8Array): unknown {
  try {
    decode(bytes);
    return "a value";
  } catch (error) {
    return error;
  }
}

describe("decode() throws ProtocolViolation for", () => {
  const error = (fields: string) => cbor(tag(TAGS.ERROR), fields);
  const named = `${text("name")}${text("Error")}${text("message")}${text("x")}`;
  const pattern = (source: string, flags = "") => cbor(tag(TAGS.REGEXP), "82", text(source), text(flags));
  const table: Record<string, Uint8Array> = {
    "no bytes": new Uint8Array(0),
    "an unknown codec": new Uint8Array([2, 0xf6]),
    "a codec without an item": cbor(),
    "bytes after the item": cbor("f6f6"),
    "bytes after undefined": cbor("f7f7"),

    "an indefinite byte string": cbor("5f4100ff"),
    "an indefinite text": cbor("7f6161ff"),
    "an indefinite array": cbor("9f01ff"),
    "an indefinite map": cbor("bf616101ff"),
    "a break": cbor("ff"),
    "reserved additional information": cbor("1c"),
    "an integer of eight bytes": cbor("1b0000000100000000"),
    "an integer longer than it needs": cbor("1817"),
    "an integer longer than it needs, two bytes": cbor("1900ff"),
    "an integer longer than it needs, four bytes": cbor("1a0000ffff"),
    "a length of eight bytes": cbor("5b0000000000000001 00"),
    "a length beyond the end": cbor("4400"),
    "a huge byte string": cbor("5affffffff"),
    "a huge text": cbor("7affffffff"),
    "a huge array": cbor("9affffffff"),
    "a huge map": cbor("baffffffff"),
    "an array without its items": cbor("8201"),
    "a half float": cbor("f93c00"),
    "a single float": cbor("fa3f800000"),
    "a simple value that cbor-x packs": cbor("e0"),
    "a simple value of two bytes": cbor("f8ff"),

    "text that is no UTF-8": cbor("61ff"),
    "text with an overlong form": cbor("62c0af"),
    "text with a surrogate": cbor("63eda080"),
    "text with half a character": cbor("62e282"),

    "a key that is a number": cbor("a10101"),
    "a key that is bytes": cbor("a1416101"),
    "a key that is tagged": cbor("a1", tag(TAGS.STRING), "4261d8 01"),
    "a key twice": cbor("a2", text("a"), "01", text("a"), "02"),
    "a property named __proto__": cbor("a1", text("__proto__"), "a0"),
    "a property named __proto__, deep inside": cbor("81a1", text("a"), "81a1", text("__proto__"), "a0"),
    "a property named __proto__ among odd names": cbor(tag(TAGS.OBJECT), "82", text("__proto__"), "a0"),
    "a property named __proto__ in UTF-16": cbor(
      tag(TAGS.OBJECT),
      "82",
      tag(TAGS.STRING),
      "52",
      Buffer.from("__proto__", "utf16le").toString("hex"),
      "a0",
    ),

    "a tagged item after a tag": cbor(tag(TAGS.DATE), tag(TAGS.DATE), "00"),
    "a tag without an item": cbor(tag(TAGS.DATE)),
    "a tag in a longer form than it needs": cbor("da0000ca0a00"),
    "a tag of eight bytes": cbor("db000000000000ca0a00"),
    "a tag next to ours": cbor("d9cb0000"),

    "a reference to nothing": cbor(tag(TAGS.REFERENCE), "00"),
    "a reference to what comes later": cbor("82", tag(TAGS.REFERENCE), "0180"),
    "a reference that is negative": cbor("81", tag(TAGS.REFERENCE), "20"),
    "a reference that is a fraction": cbor("81", tag(TAGS.REFERENCE), "fb3fe0000000000000"),
    "a capability without a lane": cbor(tag(TAGS.CAPABILITY), "00"),
    "a negative zero that is none": cbor(tag(TAGS.NEGATIVE_ZERO), "01"),
    "half a unit of UTF-16": cbor(tag(TAGS.STRING), "4161"),

    "a bigint of no digits": cbor(tag(TAGS.BIGINT), "60"),
    "a bigint in decimal syntax of its own": cbor(tag(TAGS.BIGINT), text("0x10")),
    "a bigint with a leading zero": cbor(tag(TAGS.BIGINT), text("01")),
    "a bigint that is negative zero": cbor(tag(TAGS.BIGINT), text("-0")),
    "a bigint with a newline after it": cbor(tag(TAGS.BIGINT), text("1\n")),
    "a bigint in capital letters": cbor(tag(TAGS.BIGINT), text("FF")),
    "a bigint beyond a megabit": cbor(tag(TAGS.BIGINT), "7a00040001", "31".repeat(2 ** 18 + 1)),
    "a bigint as bytes, as RFC 8949 has it": cbor("c24101"),

    "a date out of range": cbor(tag(TAGS.DATE), "fb433eb208c2dc0001"),
    "a date with a fraction": cbor(tag(TAGS.DATE), "fb3fe0000000000000"),
    "a date that is undefined": cbor(tag(TAGS.DATE), "f7"),
    "a date as text, as RFC 8949 has it": cbor("c0", text("2020-01-01")),

    "a regular expression of one part": cbor(tag(TAGS.REGEXP), "81", text("a")),
    "a regular expression of three parts": cbor(tag(TAGS.REGEXP), "83", text("a"), "6060"),
    "a regular expression that is no text": cbor(tag(TAGS.REGEXP), "820160"),
    "a malformed regular expression": pattern("("),
    "a regular expression with an unknown flag": pattern("a", "x"),
    "a regular expression with a flag twice": pattern("a", "gg"),
    "a long regular expression": pattern("a".repeat(4097)),
    "many regular expressions": cbor(
      "85",
      Buffer.from(pattern("a".repeat(4096)).subarray(1))
        .toString("hex")
        .repeat(5),
    ),

    "a map with a key and no value": cbor(tag(TAGS.MAP), "8101"),
    "a map with a key twice": cbor(tag(TAGS.MAP), "8401020103"),
    "a map with NaN twice": cbor(tag(TAGS.MAP), "84", "fb7ff8000000000000", "01", "fb7ff8000000000001", "01"),
    "a set with an item twice": cbor(tag(TAGS.SET), "820101"),
    "a set that is a map": cbor(tag(TAGS.SET), "a0"),
    "an object with a name and no value": cbor(tag(TAGS.OBJECT), "81", text("a")),
    "an object with a name twice": cbor(tag(TAGS.OBJECT), "84", text("a"), "01", text("a"), "01"),
    "an object with a name that is no text": cbor(tag(TAGS.OBJECT), "820101"),

    "an error without a name": error(`a1${text("message")}60`),
    "an error without a message": error(`a1${text("name")}60`),
    "an error with a name that is no text": error(`a2${text("name")}01${text("message")}60`),
    "an error with a stack that is no text": error(`a3${named}${text("stack")}80`),
    "an error with a code that is an object": error(`a3${named}${text("code")}a0`),
    "an error with another field": error(`a3${named}${text("toString")}01`),

    "a DataView that is text": cbor(tag(VIEWS[0]), text("a")),
    "three bytes of Int16Array": cbor(tag(VIEWS[3]), "43000000"),
    "seven bytes of Float64Array": cbor(tag(VIEWS[11]), "4700000000000000"),

    "JSON of nothing": json(""),
    "JSON that is cut": json('{"a":1'),
    "JSON with more after it": json("1 2"),
    "JSON with a byte order mark": json("\ufeff1"),
    "JSON with an invalid byte": new Uint8Array([1, 0x22, 0xff, 0x22]),
    "JSON with NaN": json("NaN"),
    "JSON with a property named __proto__": json('{"a":[{"__proto__":{"polluted":1}}]}'),
    "JSON with an escaped __proto__": json('{"\\u005f_proto__":1}'),
    "JSON with an escaped __proto__ in capitals": json('{"_\\u005Fproto__":1}'),
    "JSON with another letter of __proto__ escaped": json('{"__pr\\u006fto__":1}'),
    "JSON nested a million deep": json("[".repeat(1e6) + "]".repeat(1e6)),
    "JSON nested a million deep and cut": json('{"a":'.repeat(1e6)),
    "JSON with a million and one items": json(`[${"0,".repeat(1e6 - 1)}0]`),
    "JSON with a million and one empty arrays": json(`[${"[],".repeat(1e6 - 1)}[]]`),
  };
  for (const [name, bytes] of Object.entries(table)) {
    test(name, () => expect(outcome(bytes)).toBeInstanceOf(ProtocolViolation));
  }

  test("every tag that is not ours, whatever it holds", () => {
    const ours = new Set<number>([...Object.values(TAGS), ...VIEWS].map(({ number }) => number));
    for (let number = 0; number < 0x10000; number++) {
      if (ours.has(number)) continue;
      const head =
        number < 24 ? (0xc0 + number).toString(16) : number < 256 ? `d8${number.toString(16)}` : tag({ number });
      expect(() => decode(cbor(head, "80"))).toThrow(`tag ${number}`);
    }
  });

  test("every tag of ours on what it does not hold", () => {
    const contents = ["00", "20", "40", "60", "80", "a0", "c100", "f6"];
    for (const { number, holds } of Object.values(TAGS)) {
      for (const [major, content] of contents.entries()) {
        if (!(holds as readonly number[]).includes(major)) {
          expect(() => decode(cbor(tag({ number }), content))).toThrow(`tag ${number} on major type ${major}`);
        }
      }
    }
  });
});

describe("decode() lets nothing of cbor-x's own extensions run", () => {
  const raw = new Decoder({ useRecords: false });
  const call = (name: string, argument: string) => cbor("d81b82", text(name), text(argument));

  test("tag 27, which calls the function that the sender names", () => {
    const called = spyOn(Object.prototype, "toString");
    try {
      const bytes = call("toString", "the sender's argument");
      expect(() => decode(bytes)).toThrow(ProtocolViolation);
      const given = (): unknown[] => called.mock.calls.flat();
      expect(given()).not.toContain("the sender's argument");
      raw.decode(bytes.subarray(1)); // The control: without the validator it does run.
      expect(given()).toContain("the sender's argument");
    } finally {
      called.mockRestore();
    }
  });

  test("tag 27, which builds a regular expression", () => {
    const bytes = call("RegExp", "a+");
    expect(() => decode(bytes)).toThrow(ProtocolViolation);
    expect(raw.decode(bytes.subarray(1))).toEqual(/a+/);
  });

  test("records, packed values, shared values and bundled strings", () => {
    const table = [
      ["d9dfff84 19e000 81", text("a"), "01 02"],
      ["d833 84 8161788080e0"],
      ["d81c 81 d81d00"],
      ["d9dff9 82 01 60 60"],
      ["d90102 8101"],
      ["d90103 a10101"],
      ["d84041ff"],
    ];
    for (const parts of table) expect(() => decode(cbor(...parts))).toThrow(ProtocolViolation);
  });
});

describe("decode() takes", () => {
  const table: Record<string, [Uint8Array, unknown]> = {
    "JSON with white space": [json(' { "a" : [ 1 , { } ] } '), { a: [1, {}] }],
    "JSON with names that only look dangerous": [json('{"a":"__proto__","b":"\\u005f"}'), { a: "__proto__", b: "_" }],
    "JSON with brackets in long strings": [
      json(JSON.stringify({ a: '[{"\\'.repeat(500) })),
      { a: '[{"\\'.repeat(500) },
    ],
    "a float where an integer would do": [cbor("fb3ff0000000000000"), 1],
    "NaN of any kind": [cbor("fbfff8000000000123"), Number.NaN],
    "an error with no stack": [
      cbor(tag(TAGS.ERROR), "a2", text("name"), text("TypeError"), text("message"), text("x")),
      new TypeError("x"),
    ],
  };
  for (const [name, [bytes, value]] of Object.entries(table)) {
    test(name, () => expect(decode(bytes)).toStrictEqual(value));
  }

  test("an error with no stack, without giving it one of the decoder's", () => {
    const bytes = cbor(tag(TAGS.ERROR), "a2", text("name"), text("Odd"), text("message"), text("x"));
    expect((decode(bytes) as Error).stack).toBe("Odd: x");
  });
});

describe("validate() by itself refuses", () => {
  const table: [string, Uint8Array, string][] = [
    ["what is too deep", new Uint8Array(1e6).fill(0x81), "nesting deeper than 100 levels"],
    ["what is cut", Uint8Array.of(0x44, 0), "a length beyond the end"],
    ["what has more after it", Uint8Array.of(0xf6, 0xf6), "more bytes after the item"],
  ];
  for (const [name, bytes, message] of table) {
    test(name, () => expect(() => validate(bytes, LIMITS)).toThrow(message));
  }
});

describe("decode() of damaged frames decodes plain data or throws ProtocolViolation", () => {
  const samples = [
    { id: 1, name: "abc", values: [1, 2, 3], nested: { text: "é€😀", none: null } },
    [1n, new Date(0), /a(b)+/gi, undefined, -0, "\ud800", "text", new Uint8Array([1, 2, 3]), new Int16Array([4, 5])],
    new Map<unknown, unknown>([
      ["a", new Set([1, 2])],
      [{ key: 1 }, new Map([[1n, 2]])],
    ]),
    [
      Object.assign(new TypeError("went wrong", { cause: { reason: "it did" } }), { code: "EPERM", errno: -1 }),
      300,
      70_000,
      -(2 ** 31),
    ],
    cycle(),
    { "\ud800": 1n, odd: [new ArrayBuffer(3), new DataView(new ArrayBuffer(2))] },
  ];

  function cycle(): object {
    const value: Record<string, unknown> = { big: 5n };
    value.self = value;
    value.list = [value, value.self];
    return value;
  }

  const KINDS = new Set<unknown>(
    [
      Object,
      Array,
      Map,
      Set,
      Date,
      RegExp,
      ArrayBuffer,
      DataView,
      Error,
      EvalError,
      RangeError,
      ReferenceError,
      SyntaxError,
      TypeError,
      URIError,
      Uint8Array,
      Int8Array,
      Uint8ClampedArray,
      Int16Array,
      Uint16Array,
      Int32Array,
      Uint32Array,
      BigInt64Array,
      BigUint64Array,
      Float16Array,
      Float32Array,
      Float64Array,
    ].map((kind) => kind.prototype),
  );

  /** Whether the bytes are a value; fails for any other outcome. */
  function survives(bytes: Uint8Array): boolean {
    try {
      expectPlain(decode(bytes), new Set());
      return true;
    } catch (error) {
      if (!(error instanceof ProtocolViolation))
        throw new Error(`Unexpected for ${Buffer.from(bytes).toString("hex")}`, { cause: error });
      return false;
    }
  }

  function expectPlain(value: unknown, seen: Set<object>): void {
    if (typeof value !== "object" || value === null) {
      if (typeof value === "function" || typeof value === "symbol") throw new Error(`A ${typeof value} came out`);
      return;
    }
    if (seen.has(value)) return;
    seen.add(value);
    if (!KINDS.has(Object.getPrototypeOf(value))) throw new Error("An object of an unknown kind came out");
    if (Object.hasOwn(value, "__proto__")) throw new Error("A property named __proto__ came out");
    if (ArrayBuffer.isView(value)) return;
    if (value instanceof Map || value instanceof Set) for (const item of [...value].flat()) expectPlain(item, seen);
    if (value instanceof Error) expectPlain(value.cause, seen);
    for (const item of Object.values(value)) expectPlain(item, seen);
  }

  for (const [index, sample] of samples.entries()) {
    const bytes = encode(sample);

    test(`cut at every position, sample ${index}`, () => {
      expect(survives(bytes)).toBe(true);
      for (let length = 0; length < bytes.length; length++) expect(survives(bytes.subarray(0, length))).toBe(false);
    });

    test(`each byte replaced by each other, sample ${index}`, () => {
      let refused = 0;
      for (let at = 0; at < bytes.length; at++) {
        const damaged = new Uint8Array(bytes);
        for (let byte = 0; byte < 256; byte++) {
          damaged[at] = byte;
          if (!survives(damaged)) refused++;
        }
      }
      expect(refused).toBeGreaterThan(bytes.length);
    });
  }

  const seed = Number(Bun.env.CAISSON_SEED ?? Date.now());
  test(`several bits flipped, pieces moved and swapped, CAISSON_SEED=${seed}`, () => {
    const next = random(seed);
    const below = (count: number) => Math.floor(next() * count);
    let survived = 0;
    for (let count = 0; count < 20_000; count++) {
      const damaged = encode(count % 2 ? samples[below(samples.length)] : nested(next, 3));
      for (let flips = below(4); flips >= 0; flips--) damaged[below(damaged.length)]! ^= 1 << below(8);
      if (below(3) === 0) damaged.copyWithin(below(damaged.length), below(damaged.length), below(damaged.length));
      if (survives(damaged)) survived++;
    }
    expect(survived).toBeGreaterThan(100);
    expect(survived).toBeLessThan(19_000);
  });
});
