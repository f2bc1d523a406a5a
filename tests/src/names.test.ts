import { describe, expect, test } from "bun:test";
import { decode, encode, RECURSION_DESIRED } from "dns-packet";
import fc from "fast-check";
import { answerTo } from "../../src/names.ts";
import { runs } from "../platform/seccomp/random.ts";

const HEADER = 12;
const known = async (name: string) => (name === "known.example" ? ["203.0.113.5", "2001:db8::1"] : undefined);
const query = (name: string, type: "A" | "AAAA" | "MX" | "PTR" = "A", more: object = {}) =>
  encode({ type: "query", id: 7, flags: RECURSION_DESIRED, questions: [{ type, name }], ...more });
const asked = async (bytes: Uint8Array, lookup: Parameters<typeof answerTo>[1] = known) => {
  const answer = await answerTo(bytes, lookup);
  if (answer === undefined) return undefined;
  const { id, rcode, questions, answers } = decode(Buffer.from(answer)) as ReturnType<typeof decode> & {
    rcode: string;
  };
  return { id, rcode, question: questions?.[0]?.name, data: answers?.map((each) => (each as { data: unknown }).data) };
};

describe("answerTo()", () => {
  const CASES = [
    ["known.example", "A", "NOERROR", ["203.0.113.5"]],
    ["known.example", "AAAA", "NOERROR", ["2001:db8::1"]],
    ["KNOWN.Example", "A", "NOERROR", ["203.0.113.5"]],
    ["known.example", "MX", "NOERROR", []],
    ["unknown.example", "A", "NXDOMAIN", []],
    ["5.113.0.203.in-addr.arpa", "PTR", "NXDOMAIN", []],
  ] as const;
  for (const [name, type, rcode, data] of CASES) {
    test(`tells ${type} of ${name}: ${rcode}`, async () => {
      expect(await asked(query(name, type))).toEqual({ id: 7, rcode, question: name, data: [...data] });
    });
  }

  test("says SERVFAIL where the look-up throws, or gives what is no address", async () => {
    const rcode = async (lookup: Parameters<typeof answerTo>[1]) => (await asked(query("a.example"), lookup))?.rcode;
    expect(await rcode(async () => Promise.reject(new Error("no")))).toBe("SERVFAIL");
    expect(await rcode(async () => ["localhost"])).toBe("SERVFAIL");
    expect(await rcode(async () => ["127.1"])).toBe("SERVFAIL");
    expect(await rcode(async () => [])).toBe("NOERROR");
  });

  test("is silent to answers, to several questions and to none, and looks nothing up for them", async () => {
    const never = () => Promise.reject(new Error("It was looked up"));
    const question = { type: "A", name: "known.example" } as const;
    expect(await answerTo(encode({ type: "response", questions: [question] }), never)).toBeUndefined();
    expect(await answerTo(query("", "A", { questions: [question, question] }), never)).toBeUndefined();
    expect(await answerTo(query("", "A", { questions: [] }), never)).toBeUndefined();
    expect(await answerTo(new Uint8Array(0), never)).toBeUndefined();
    expect(await answerTo(new Uint8Array(HEADER), never)).toBeUndefined();
  });

  test("is silent to each beginning of a query", async () => {
    const whole = query("known.example");
    for (let length = 0; length < whole.length; length++)
      expect(await answerTo(whole.subarray(0, length), known)).toBeUndefined();
  });

  test("a name that leads to itself ends", async () => {
    const loop = Buffer.concat([query("a").subarray(0, HEADER), Uint8Array.of(0xc0, HEADER, 0, 1, 0, 1)]);
    expect(await answerTo(loop, known)).toBeUndefined();
    const hops = Buffer.concat([
      query("a").subarray(0, HEADER),
      Uint8Array.of(1, 97, 0xc0, HEADER + 4, 1, 98, 0xc0, HEADER, 0, 1, 0, 1),
    ]);
    expect(await answerTo(hops, known)).toBeUndefined();
  });

  test("never rejects, whatever a datagram says", async () => {
    const head = fc.constantFrom(query("a").subarray(0, HEADER), query("known.example"));
    const bytes = fc.tuple(
      head,
      fc.uint8Array({ maxLength: 512 }),
      fc.nat(HEADER + 20),
      fc.integer({ min: 0, max: 255 }),
    );
    await fc.assert(
      fc.asyncProperty(bytes, async ([start, rest, at, byte]) => {
        const datagram = Buffer.concat([start, rest]);
        if (at < datagram.length) datagram[at] = byte;
        const answer = await answerTo(datagram, async () => ["203.0.113.5"]);
        if (answer !== undefined) expect(answer.length).toBeLessThan(2048);
      }),
      runs(3000),
    );
  });
});
