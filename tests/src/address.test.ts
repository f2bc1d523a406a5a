import { describe, expect, test } from "bun:test";
import { contains, parseAddress, parseHost, parseRange, specialOf } from "../../src/address.ts";

const read = (text: string) => {
  const host = parseHost(text);
  return "name" in host ? host.name : host.address.text;
};

describe("parseHost() brings to one form", () => {
  for (const [text, form] of Object.entries({
    "example.com": "example.com", "EXAMPLE.Com": "example.com", "example.com.": "example.com", "a_b.example": "a_b.example",
    "bücher.example": "xn--bcher-kva.example", "BÜCHER.example.": "xn--bcher-kva.example", "ｅxample。com": "example.com",
    "ex\u00adample.com": "example.com", localhost: "localhost", "localhost.": "localhost", "1.2.3.4.example": "1.2.3.4.example",
    "127.0.0.1": "127.0.0.1", "127.0.0.1.": "127.0.0.1", "127.1": "127.0.0.1", "127.0.1": "127.0.0.1", "2130706433": "127.0.0.1",
    "0x7f000001": "127.0.0.1", "0x7f.1": "127.0.0.1", "0X7F.0.0.1": "127.0.0.1", "0177.0.0.1": "127.0.0.1", "017700000001": "127.0.0.1",
    "0": "0.0.0.0", "0x": "0.0.0.0", "0.0": "0.0.0.0", "00000.0": "0.0.0.0", "4294967295": "255.255.255.255", "10.65536": "10.1.0.0",
    "１２７.0.0.1": "127.0.0.1", "127。0。0。1": "127.0.0.1", "①.1.1.1": "1.1.1.1", "0xa9fea9fe": "169.254.169.254", "2852039166": "169.254.169.254",
    "::1": "::1", "[::1]": "::1", "[::FFFF:127.0.0.1]": "127.0.0.1", "::ffff:7f00:1": "127.0.0.1", "[0:0:0:0:0:0:0:1]": "::1",
    "[2001:DB8::0:1]": "2001:db8::1", "[::127.0.0.1]": "::7f00:1",
  })) test(`${JSON.stringify(text)}: ${form}`, () => expect(read(text)).toBe(form)); // biome-ignore format: a table
});

describe("parseHost() refuses", () => {
  for (const text of [
    "", ".", "..", "a..b", ".a", "a.b..", " a", "a ", "a b", "a\tb", "a\nb", "a\0b", "a%00b", "127.0.0.1%00.example.com", "%31", "a/b", "a\\b",
    "a?b", "a#b", "a@b", "user:pw@a", "a:b", "*.a", "*", "-a.com", "a-.com", `${"a".repeat(64)}.com`, `${"a.".repeat(127)}com`, "a".repeat(2000),
    "256.1.1.1", "1.2.3.4.5", "1.2.3.256", "1.2.65536", "4294967296", "08.1.1.1", "0x7g.1", "foo.1", "foo.0x7f", "example.09",
    "1..1", "0x100000000", "99999999999999999999", "[::1", "::1]", "[127.0.0.1]", "[]", "[::1%lo]", "fe80::1%eth0", "[::g]", "[[::1]]", "1:2",
    "\u202ea.com\u0000", "a\u3000b", "\ud800.com",
  ]) test(JSON.stringify(text.slice(0, 40)), () => expect(() => read(text)).toThrow(TypeError)); // biome-ignore format: a table
});

describe("specialOf()", () => {
  for (const [text, what] of Object.entries({
    "0.0.0.0": "unspecified", "0.1.2.3": "unspecified", "10.0.0.1": "private", "10.255.255.255": "private", "100.64.0.1": "CGNAT",
    "100.100.100.200": "CGNAT", "100.127.255.255": "CGNAT", "127.0.0.1": "loopback", "127.255.255.254": "loopback", "168.63.129.16": "metadata",
    "169.254.169.254": "metadata", "169.254.0.1": "link-local", "172.16.0.1": "private", "172.31.255.255": "private", "192.0.0.192": "reserved",
    "192.0.2.1": "documentation", "192.168.1.1": "private", "198.18.0.1": "benchmarking", "198.19.255.255": "benchmarking", "203.0.113.9": "documentation",
    "224.0.0.1": "multicast", "239.255.255.250": "multicast", "240.0.0.1": "reserved", "255.255.255.255": "broadcast",
    "::": "unspecified", "::1": "loopback", "::7f00:1": "reserved", "::ffff:127.0.0.1": "loopback", "::ffff:0:127.0.0.1": "reserved",
    "64:ff9b::127.0.0.1": "loopback, behind NAT64", "64:ff9b::10.0.0.1": "private, behind NAT64", "64:ff9b::169.254.169.254": "metadata, behind NAT64",
    "64:ff9b:1::1": "NAT64", "fe80::1": "link-local", "febf::1": "link-local", "fec0::1": "site-local", "fc00::1": "unique-local",
    "fd00:ec2::254": "unique-local", "ff02::1": "multicast", "2001::1": "Teredo", "2001:0:7f00:1::": "Teredo", "2001:10::1": "reserved",
    "2001:db8::1": "documentation", "2002:7f00:1::": "6to4", "2002:808:808::": "6to4", "3fff::1": "documentation", "100::1": "reserved",
    "4000::1": "reserved", "5f00::1": "reserved", "9000::1": "reserved", "e000::1": "reserved",
  })) test(`${text} is ${what}`, () => expect(specialOf(parseAddress(text)!)?.what).toContain(what)); // biome-ignore format: a table

  for (const text of [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0", "168.63.129.15",
    "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
    "223.255.255.255", "2001:200::1", "2606:4700::1111", "2a00:1450::1", "2003::1", "3ffe::1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8",
  ]) test(`${text} is public`, () => expect(specialOf(parseAddress(text)!)).toBeUndefined()); // biome-ignore format: a table
});

describe("parseRange()", () => {
  test("contains what begins as it does, of its own family", () => {
    const inside = (range: string, address: string) => contains(parseRange(range)!, parseAddress(address)!);
    expect(inside("10.0.0.0/8", "10.255.0.1")).toBe(true);
    expect(inside("10.0.0.0/8", "11.0.0.0")).toBe(false);
    expect(inside("0.0.0.0/0", "8.8.8.8")).toBe(true);
    expect(inside("::/0", "8.8.8.8")).toBe(false);
    expect(inside("1.2.3.4", "1.2.3.4")).toBe(true);
    expect(inside("fd00::/8", "fdff::1")).toBe(true);
    expect(inside("10.0.0.0/8", "::ffff:10.0.0.1")).toBe(true);
  });
  test("refuses bits behind the prefix, and what is no range", () => {
    expect(() => parseRange("10.0.0.1/8")).toThrow("bits are set behind the first 8");
    for (const text of [
      "10.0.0.0/33",
      "10.0.0.0/08",
      "10.0.0.0/",
      "10/8",
      "/8",
      "::/129",
      "a/8",
      "1.2.3.4/8/8",
      "1.2.3.4/-1",
    ]) {
      expect(parseRange(text)).toBeUndefined();
    }
  });
});
