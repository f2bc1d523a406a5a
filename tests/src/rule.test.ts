import { describe, expect, test } from "bun:test";
import { parseAddress } from "../../src/address.ts";
import { parseRule, parseTarget, ruleForAddress, ruleForName } from "../../src/rule.ts";

describe("parseRule() refuses", () => {
  for (const [rule, why] of Object.entries({
    "": "host:port", "example.com": "host:port", ":443": "host:port", "example.com:": "a port", "example.com:*": "a port", "example.com:0": "a port",
    "example.com:65536": "a port", "example.com:0443": "a port", "example.com:443 ": "a port", "example.com:+443": "a port", "example.com:https": "a port",
    "*:443": "`*`", "*.*.com:443": "`*`", "a*.com:443": "`*`", "*a.com:443": "`*`", "a.*.com:443": "`*`", "**.com:443": "`*`", "*.:443": "",
    "*.1.2.3.4:80": "no labels", "0x7f.1:80": "write 127.0.0.1:80", "2130706433:80": "write 127.0.0.1:80", "localhost:80": "write 127.0.0.1:80",
    "LOCALHOST.:80": "write 127.0.0.1:80", "a.localhost:80": "write 127.0.0.1:80", "*.localhost:80": "write 127.0.0.1:80", "::1:80": "brackets",
    "fd00::/8:80": "brackets", "[::1]": "host:port", "[127.0.0.1]:80": "no IPv6", "10.0.0.1/8:80": "bits", "10.0.0.0/33:80": "no range",
    "a.com/8:80": "no range", "http://a.com:80": "brackets", "a b:80": "characters", "[::1/64]:80": "bits", " a.com:80": "characters",
  })) test(JSON.stringify(rule), () => expect(() => parseRule(rule)).toThrow(new RegExp(`^Cannot .*${why}`))); // biome-ignore format: a table
});

/** Whether the one rule is the one for a name and port. */
describe("ruleForName()", () => {
  for (const [rule, host, port, allowed] of [
    ["example.com:443", "example.com", 443, true], ["example.com:443", "example.com", 80, false], ["example.com:443", "a.example.com", 443, false],
    ["EXAMPLE.com.:443", "example.com", 443, true], ["bücher.example:443", "xn--bcher-kva.example", 443, true],
    ["*.example.com:443", "example.com", 443, false], ["*.example.com:443", "a.example.com", 443, true], ["*.example.com:443", "a.b.example.com", 443, true],
    ["*.example.com:443", "aexample.com", 443, false], ["*.example.com:443", "a.example.com.evil.org", 443, false], ["*.example.com:443", "a.example.com", 444, false],
    ["example.com:443", "example.com.evil.org", 443, false], ["example.com:443", "xexample.com", 443, false], ["example.com:443", "examplexcom", 443, false],
    ["10.0.0.0/8:443", "10.com", 443, false], ["0.0.0.0/0:443", "example.com", 443, false], ["db:5432", "db", 5432, true], ["*.com:443", "com", 443, false],
  ] as const) test(`${rule} ${allowed ? "admits" : "does not admit"} ${host}:${port}`, () => {
    expect(ruleForName([parseRule(rule)], host, port) !== undefined).toBe(allowed);
  }); // biome-ignore format: a table
});

describe("ruleForAddress()", () => {
  for (const [rule, address, port, allowed] of [
    ["1.2.3.4:80", "1.2.3.4", 80, true], ["1.2.3.4:80", "1.2.3.4", 81, false], ["1.2.3.4:80", "1.2.3.5", 80, false], ["[::ffff:1.2.3.4]:80", "1.2.3.4", 80, true],
    ["127.0.0.1:80", "127.0.0.1", 80, true], ["127.0.0.0/8:80", "127.9.9.9", 80, true], ["126.0.0.0/7:80", "127.0.0.1", 80, false], ["126.0.0.0/7:80", "126.0.0.1", 80, true],
    ["0.0.0.0/0:80", "8.8.8.8", 80, true], ["0.0.0.0/0:80", "10.0.0.1", 80, false], ["0.0.0.0/0:80", "127.0.0.1", 80, false], ["0.0.0.0/0:80", "169.254.169.254", 80, false],
    ["0.0.0.0/0:80", "168.63.129.16", 80, false], ["10.0.0.0/8:5432", "10.1.2.3", 5432, true], ["10.0.0.0/7:5432", "10.1.2.3", 5432, false],
    ["169.254.0.0/16:80", "169.254.1.1", 80, true], ["169.254.0.0/16:80", "169.254.169.254", 80, false], ["169.254.169.254:80", "169.254.169.254", 80, true],
    ["[::1]:80", "::1", 80, true], ["[::/0]:80", "::1", 80, false], ["[::/0]:80", "2606:4700::1", 80, true], ["[::/0]:80", "fd00::1", 80, false],
    ["[fd00::/8]:80", "fd12::1", 80, true], ["[::/0]:80", "64:ff9b::10.0.0.1", 80, false], ["[64:ff9b::/96]:80", "64:ff9b::10.0.0.1", 80, false],
    ["[64:ff9b::a00:0/104]:80", "64:ff9b::10.0.0.1", 80, true], ["[64:ff9b::/96]:80", "64:ff9b::8.8.8.8", 80, true], ["10.0.0.0/8:80", "64:ff9b::10.0.0.1", 80, false],
    ["[::/0]:80", "5f00::1", 80, false], ["example.com:80", "1.2.3.4", 80, false], ["0.0.0.0:80", "0.0.0.0", 80, true], ["127.0.0.1:80", "0.0.0.0", 80, false],
  ] as const) test(`${rule} ${allowed ? "admits" : "does not admit"} ${address}:${port}`, () => {
    expect(ruleForAddress([parseRule(rule)], parseAddress(address)!, port) !== undefined).toBe(allowed);
  }); // biome-ignore format: a table
});

test("parseTarget() takes host:port and [IPv6]:port alone", () => {
  expect(parseTarget("a.com:443")).toEqual({ host: "a.com", port: 443 });
  expect(parseTarget("[::1]:80")).toEqual({ host: "[::1]", port: 80 });
  for (const text of [
    "",
    "a.com",
    ":443",
    "a.com:",
    "a.com:0",
    "a.com:65536",
    "a.com:080",
    "::1:80",
    "[::1]",
    "a:b:80",
    "a.com:80\n",
    "http://a.com:80",
  ]) {
    expect(() => parseTarget(text)).toThrow('"host:port" is expected');
  }
});
