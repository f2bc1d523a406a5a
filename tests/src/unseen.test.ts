// What a terminal acts on or does not show, and where that is honest text.
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { harmless } from "../../src/output.ts";
import { spelled, UNSEEN } from "../../src/unseen.ts";

describe("harmless()", () => {
  const TOLD: Record<string, string> = {
    "\x1b[2J\x9b1m\r": "\\x1b[2J\\x9b1m\\x0d",
    "a\u202eb\u2066c\u2069": "a\\u202eb\\u2066c\\u2069",
    "a\u200eb\u200fc\u061cd": "a\\u200eb\\u200fc\\u061cd",
    "ad\u200bm\u00adi\u2060n\ufeff": "ad\\u200bm\\xadi\\u2060n\\ufeff",
    "a\u034f\u115f\u17b4\u3164\uffa0": "a\\u034f\\u115f\\u17b4\\u3164\\uffa0",
    "a\ufff9b\ufffac\ufffb": "a\\ufff9b\\ufffac\\ufffb",
    "a\u{e0001}\u{e0041}\u{e007f}\u{1d173}": "a\\u{e0001}\\u{e0041}\\u{e007f}\\u{1d173}",
    "a\u{e0fff}": "a\\u{e0fff}", // of no meaning yet
    "ad\u200dmin ad\u200cmin": "ad\\u200dmin ad\\u200cmin",
    "a\ufe0f 1\ufe0f": "a\\ufe0f 1\\ufe0f",
    "👩\u200d\u200d👧": "👩\\u200d\\u200d👧",
    "❤\ufe0f\ufe0f": "❤\ufe0f\\ufe0f",
    "葛\u{e0100}\u{e0101}": "葛\u{e0100}\\u{e0101}",
    "ن\u200c": "ن\\u200c",
    "🏴\u{e0067}\u{e007f}": "🏴\\u{e0067}\\u{e007f}",
  };
  test.each(Object.entries(TOLD))("spells out what is acted on or not seen: %j", (text, told) => {
    expect(harmless(text)).toBe(told);
    expect(harmless(told)).toBe(told);
  });

  const HONEST = {
    German: "größe\tund Maß",
    Japanese: "日本語 葛\u{e0100}飾",
    Persian: "می\u200cخواهم",
    Hindi: "क\u094d\u200dष क\u094d\u200cष",
    Sinhala: "ශ\u0dca\u200dරී",
    Mongolian: "\u1820\u180b\u1828",
    "Hebrew with points": "שָׁלוֹם",
    "marks that combine": "e\u0301 \u0e17\u0e35\u0e48",
    "a family": "👩\u200d👩\u200d👧",
    "skin and sex": "🏃🏽\u200d♀\ufe0f",
    "a flag": "🏴\u200d☠\ufe0f 🇯🇵",
    "a heart on fire": "❤\ufe0f\u200d🔥",
    "a key cap": "1\ufe0f\u20e3 #\ufe0f\u20e3",
    "a sign as text": "©\ufe0e ☺\ufe0e",
  };
  test.each(Object.entries(HONEST))("leaves honest text as it is: %s", (_, text) => expect(harmless(text)).toBe(text));

  test("keeps two in a row at the most, whatever stands around them", () => {
    const unit = fc.constantFrom(
      ..."👩🏽❤1葛नنa\u094d\u1820",
      "\u200d",
      "\u200c",
      "\ufe0f",
      "\u{e0100}",
      "\u180b",
      "\u{e0041}",
    );
    const row = new RegExp(`(?:${UNSEEN.source}){3}`, "u");
    fc.assert(
      fc.property(fc.string({ unit, maxLength: 20 }), (text) => expect(harmless(text)).not.toMatch(row)),
      { numRuns: 1000 },
    );
  });
});

describe("spelled()", () => {
  test("means the same as JSON, and all of it is seen", () => {
    const unit = fc.oneof(
      fc.string({ unit: "binary", maxLength: 1 }),
      fc.constantFrom("\u200d", "👩", "\u{e0041}", "\u061c"),
    );
    fc.assert(
      fc.property(fc.string({ unit, maxLength: 20 }), (text) => {
        const literal = spelled(JSON.stringify({ text }, null, 2));
        expect(JSON.parse(literal)).toEqual({ text });
        expect(literal.replaceAll("\n", "")).not.toMatch(UNSEEN);
      }),
      { numRuns: 1000 },
    );
  });
});
