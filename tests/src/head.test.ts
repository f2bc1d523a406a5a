import { describe, expect, test } from "bun:test";
import { BadRequest, Body, type Framing, forwarded, framingOf, parseRequest, parseResponse } from "../../src/head.ts";

const request = (text: string) => parseRequest(Buffer.from(text, "latin1"));
const GET = "GET http://a/ HTTP/1.1\r\n";

test("parseRequest() reads the line and the fields, names in lower case, values without blanks around", () => {
  expect(request(`${GET}Host: a\r\nX-Y:\t b c \t\r\nE:\r\n\r\n`)).toEqual({
    method: "GET",
    target: "http://a/",
    fields: [["host", "a"], ["x-y", "b c"], ["e", ""]],
  }); // biome-ignore format: short
});

describe("parseRequest() refuses", () => {
  for (const [what, text] of Object.entries({
    "a line without a version": "GET http://a/\r\n\r\n", "two spaces": "GET  http://a/ HTTP/1.1\r\n\r\n", "a space in the target": "GET http://a/ b HTTP/1.1\r\n\r\n",
    "a tab for a space": "GET\thttp://a/ HTTP/1.1\r\n\r\n", "a method that is no token": "G(T http://a/ HTTP/1.1\r\n\r\n", "a space first": ` ${GET}\r\n`,
    "an empty line first": `\r\n${GET}\r\n`, "bytes above ASCII in the target": "GET http://\xfc/ HTTP/1.1\r\n\r\n", "a control character in the target": "GET http://a/\x01 HTTP/1.1\r\n\r\n",
    "a bare line feed": `${GET}Host: a\nX: b\r\n\r\n`, "a bare line feed behind the line": "GET http://a/ HTTP/1.1\nHost: a\r\n\r\n", "a bare carriage return": `${GET}Host: a\rX: b\r\n\r\n`,
    "a NUL": `${GET}Host: a\0b\r\n\r\n`, "a folded field": `${GET}Host: a\r\n b\r\n\r\n`, "a field folded by a tab": `${GET}X: a\r\n\tb\r\n\r\n`, "a space before the colon": `${GET}Host : a\r\n\r\n`,
    "a field without a colon": `${GET}Host\r\n\r\n`, "a field without a name": `${GET}: a\r\n\r\n`, "a control character in a value": `${GET}X: a\x7f\r\n\r\n`,
    "an escape in a value": `${GET}X: a\x1b[2J\r\n\r\n`,
  })) test(what, () => expect(() => request(text)).toThrow(BadRequest)); // biome-ignore format: a table

  for (const version of ["HTTP/1.0", "HTTP/2.0", "HTTP/0.9"]) {
    test(version, () => expect(() => request(`GET http://a/ ${version}\r\n\r\n`)).toThrow("Only HTTP/1.1"));
  }
});

test("a line of blanks takes no more than linear time", () => {
  const blanks = `X: a${" ".repeat(2_000_000)}b\r\n\r\n`;
  expect(request(`${GET}${blanks}`).fields[0]![1].length).toBe(2_000_002); // in quadratic time, this would not end
});

describe("framingOf()", () => {
  const framing = (...fields: [string, string][]) => framingOf(fields);
  test("knows a length, chunks, and nothing", () => {
    expect(framing()).toBe(0);
    expect(framing(["content-length", "42"])).toBe(42);
    expect(framing(["transfer-encoding", "Chunked"])).toBe("chunked");
  });
  for (const fields of [
    [["content-length", "1"], ["transfer-encoding", "chunked"]], [["content-length", "1"], ["content-length", "1"]], [["content-length", "1, 1"]],
    [["transfer-encoding", "chunked"], ["transfer-encoding", "chunked"]], [["content-length", "+1"]], [["content-length", "-1"]], [["content-length", "0x1"]],
    [["content-length", ""]], [["content-length", "1 "]], [["content-length", "9".repeat(16)]], [["transfer-encoding", "gzip, chunked"]],
    [["transfer-encoding", "chunked, identity"]], [["transfer-encoding", "xchunked"]], [["transfer-encoding", ""]], [["transfer-encoding", "\x0bchunked"]],
  ] as [string, string][][]) test(`refuses ${JSON.stringify(fields)}`, () => expect(() => framing(...fields)).toThrow(BadRequest)); // biome-ignore format: a table
});

test("forwarded() takes away what is for one hop, and what Connection names; Connection cannot take away what frames", () => {
  const fields = Object.entries({
    host: "a", connection: "close, X-Secret", "x-secret": "1", "keep-alive": "1", "proxy-authorization": "x", "proxy-connection": "close", te: "trailers",
    trailer: "x", upgrade: "websocket", accept: "*/*", "transfer-encoding": "chunked",
  }); // biome-ignore format: a table
  expect(forwarded(fields)).toEqual([["host", "a"], ["accept", "*/*"], ["transfer-encoding", "chunked"]]); // biome-ignore format: short
  for (const name of ["Host", "content-length", "TRANSFER-ENCODING"]) {
    expect(() => forwarded([["connection", `close, ${name}`]])).toThrow("Connection names");
  }
});

describe("Body", () => {
  /** How many bytes are the body's, fed in pieces of every size. */
  function taken(framing: Framing, text: string): { taken: number; done: boolean } {
    const bytes = Buffer.from(text, "latin1");
    const results = Array.from({ length: Math.max(bytes.length, 1) }, (_, index) => {
      const body = new Body(framing);
      let total = 0;
      for (let at = 0; at < bytes.length && !body.done; at += index + 1)
        total += body.take(bytes.subarray(at, at + index + 1));
      return { taken: total, done: body.done };
    });
    for (const result of results) expect(result).toEqual(results[0]!);
    return results[0]!;
  }

  test("ends where it says, whatever stands behind it", () => {
    expect(taken(0, "GET")).toEqual({ taken: 0, done: true });
    expect(taken(5, "helloGET / HTTP/1.1")).toEqual({ taken: 5, done: true });
    expect(taken(5, "hell")).toEqual({ taken: 4, done: false });
    expect(taken("chunked", "5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1")).toEqual({ taken: 15, done: true });
    expect(taken("chunked", "A\r\n0123456789\r\n01\r\nx\r\n000\r\n\r\nrest")).toEqual({ taken: 29, done: true });
    expect(taken("chunked", "5\r\nhello\r\n0\r\n")).toEqual({ taken: 13, done: false });
  });

  for (const text of [
    "5\nhello\n0\n\n", "5 \r\nhello", " 5\r\nhello", "5;a=b\r\nhello", "0x5\r\nhello", "-5\r\nhello", "\r\n", "g\r\n", "123456789\r\n", "5\rhello", "5\r\nhelloX\r\n",
    "5\r\nhello0\r\n", "0\r\nX: y\r\n\r\n", "0\r\n\n", "5\r\nhello\n0\r\n\r\n", "5\r\r\nhello",
  ]) test(`refuses ${JSON.stringify(text)}`, () => expect(() => taken("chunked", text)).toThrow(BadRequest)); // biome-ignore format: a table
});

test("parseResponse() reads a status, and refuses what is no response", () => {
  const response = (text: string) => parseResponse(Buffer.from(text, "latin1"));
  expect(response("HTTP/1.1 200 OK\r\nA: b\r\n\r\n")).toEqual({
    status: 200,
    line: "HTTP/1.1 200 OK",
    fields: [["a", "b"]],
  });
  expect(response("HTTP/1.0 204\r\n\r\n").status).toBe(204);
  for (const text of ["", "HTTP/1.1 20 OK", "HTTP/1.1 600 OK", "HTTP/2 200", "ICY 200 OK", "HTTP/1.1 200 a\x1bb"]) {
    expect(() => response(`${text}\r\n\r\n`)).toThrow(BadRequest);
  }
});
