/** Hosts as programs write them, brought to one form: names and addresses; and the addresses that are not the public internet's. */
import { domainToASCII } from "node:url";
import { formatIp, parseIp } from "../syscalls/linux/network.ts";

/** An IP address. One that is IPv4 inside of IPv6 (`::ffff:1.2.3.4`) is the IPv4 one, as it is to the kernel. */
export interface Address {
  /** In its only form, as RFC 5952 has it. */
  readonly text: string;
  readonly bits: bigint;
  readonly length: 32 | 128;
}

/** The addresses that begin with the same `prefix` bits. */
export interface Range extends Address {
  readonly prefix: number;
}

/** What stands for a host: a name in ASCII, in lower case and without a final dot, or an address. */
export type Host = { readonly name: string } | { readonly address: Address };

const MAPPED = 0xffffn;
/** RFC 6052: the address of an IPv4 host where only IPv6 is routed. */
const NAT64 = range("64:ff9b::/96");

/**
 * Reads a host in every form that some resolver or library takes for one: `0x7f.1`, `2130706433` and `0177.0.0.1` are 127.0.0.1, as they
 * are to inet_aton(3), lest they pass as names. Throws TypeError for what is neither a name nor an address.
 */
export function parseHost(text: string): Host {
  const refuse = (why: string) => new TypeError(`Cannot read ${JSON.stringify(text)} as a host: ${why}`);
  if (text.length > 1024) throw new TypeError(`Cannot read ${text.length} characters as a host`);
  if (text.startsWith("[") || text.includes(":")) {
    const inner = /^\[([^[\]]*)\]$/.exec(text)?.[1] ?? text;
    const address = inner.includes(":") ? parseAddress(inner) : undefined;
    if (address === undefined) throw refuse("it is no IPv6 address, or has a zone");
    return { address };
  }
  if (/[\0-\x20\x7f%/\\?#@<>^|"`{}]/.test(text)) throw refuse("no name has these characters");
  // IDNA maps wide digits and dots to plain ones, so it comes before anything is looked for.
  const ascii = /^[\x21-\x7e]*$/.test(text) ? text.toLowerCase() : domainToASCII(text).toLowerCase();
  const name = ascii.endsWith(".") ? ascii.slice(0, -1) : ascii;
  const labels = name.split(".");
  if (/^(\d+|0x[0-9a-f]*)$/.test(labels.at(-1)!)) {
    const address = parseNumbers(labels);
    if (address === undefined) throw refuse("it ends in a number, and is no IPv4 address");
    return { address };
  }
  if (name.length > 253 || !labels.every((label) => /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/.test(label))) {
    throw refuse("a name has labels of 1 to 63 letters, digits and hyphens, 253 in all");
  }
  return { name };
}

/** inet_aton(3): one to four numbers, each decimal, octal or hexadecimal; the last fills what is left. */
function parseNumbers(parts: readonly string[]): Address | undefined {
  if (parts.length > 4) return undefined;
  let bits = 0n;
  for (const [index, part] of parts.entries()) {
    if (!/^(0x[0-9a-f]{0,12}|0[0-7]{0,15}|[1-9]\d{0,11})$/.test(part)) return undefined;
    const value = /^0x/.test(part) ? BigInt(part === "0x" ? 0 : part) : BigInt(/^0./.test(part) ? `0o${part}` : part);
    const room = index === parts.length - 1 ? 8n * BigInt(5 - parts.length) : 8n;
    if (value >= 1n << room) return undefined;
    bits = (bits << room) | value;
  }
  return addressOf(bits, 32);
}

/** An address in the forms of inet_pton(3), or undefined. */
export function parseAddress(text: string): Address | undefined {
  const bytes = parseIp(text);
  if (bytes === undefined) return undefined;
  const bits = BigInt(`0x${Buffer.from(bytes).toString("hex")}`);
  if (bytes.length === 4) return addressOf(bits, 32);
  return bits >> 32n === MAPPED ? addressOf(bits & 0xffff_ffffn, 32) : addressOf(bits, 128);
}

function addressOf(bits: bigint, length: 32 | 128): Address {
  const bytes = Buffer.from(bits.toString(16).padStart(length / 4, "0"), "hex");
  return { text: formatIp(bytes), bits, length };
}

/** Reads `10.0.0.0/8`, or an address for it alone. Throws TypeError where bits are set behind the prefix. */
export function parseRange(text: string): Range | undefined {
  const [, base, digits] = /^([^/]*)(?:\/(0|[1-9]\d{0,2}))?$/.exec(text) ?? [];
  const address = base === undefined ? undefined : parseAddress(base);
  if (address === undefined) return undefined;
  const prefix = digits === undefined ? address.length : Number(digits);
  if (prefix > address.length) return undefined;
  const rest = BigInt(address.length - prefix);
  if ((address.bits >> rest) << rest !== address.bits) {
    throw new TypeError(`Cannot use ${text} as a range: bits are set behind the first ${prefix}`);
  }
  return { ...address, prefix };
}

/** The address lies in the range. */
export function contains(range: Range, address: Address): boolean {
  const rest = BigInt(range.length - range.prefix);
  return range.length === address.length && range.bits >> rest === address.bits >> rest;
}

/** All addresses of the inner range lie in the outer one. */
export function covers(outer: Range, inner: Range): boolean {
  return inner.prefix >= outer.prefix && contains(outer, inner);
}

function range(text: string): Range {
  return parseRange(text)!;
}

/** Ranges that are not the public internet's: IANA's special-purpose registries, and what clouds answer metadata at. The first that fits counts. */
const SPECIAL = Object.entries({
  "0.0.0.0/8": "unspecified", "10.0.0.0/8": "private", "100.64.0.0/10": "shared by a carrier (CGNAT)", "127.0.0.0/8": "loopback",
  "168.63.129.16/32": "metadata", "169.254.169.254/32": "metadata", "169.254.0.0/16": "link-local", "172.16.0.0/12": "private",
  "192.0.0.0/24": "reserved", "192.0.2.0/24": "documentation", "192.88.99.0/24": "6to4 relay", "192.168.0.0/16": "private",
  "198.18.0.0/15": "benchmarking", "198.51.100.0/24": "documentation", "203.0.113.0/24": "documentation", "224.0.0.0/4": "multicast",
  "255.255.255.255/32": "broadcast", "240.0.0.0/4": "reserved",
  "::1/128": "loopback", "::/128": "unspecified", "64:ff9b:1::/48": "NAT64 of a local network", "fe80::/10": "link-local",
  "fec0::/10": "site-local", "fc00::/7": "unique-local", "ff00::/8": "multicast", "2001::/32": "Teredo", "2001::/23": "reserved",
  "2001:db8::/32": "documentation", "2002::/16": "6to4", "3fff::/20": "documentation",
  // All that is not 2000::/3, from which alone public addresses are given.
  "::/3": "reserved", "4000::/2": "reserved", "8000::/1": "reserved",
}).map(([text, what]) => ({ range: range(text), what })); // biome-ignore format: a table

/**
 * The range that makes an address one of those that no name may lead to, and what it is. Undefined for a public address. For a range, the one
 * that it lies in as a whole.
 */
export function specialOf(address: Address | Range): { readonly range: Range; readonly what: string } | undefined {
  const asked: Range = { prefix: address.length, ...address };
  if (!covers(NAT64, asked)) return SPECIAL.find(({ range }) => covers(range, asked));
  const inner = specialOf({ ...addressOf(address.bits & 0xffff_ffffn, 32), prefix: asked.prefix - NAT64.prefix });
  if (inner === undefined) return undefined;
  const outer = addressOf(NAT64.bits | inner.range.bits, 128);
  return { range: { ...outer, prefix: NAT64.prefix + inner.range.prefix }, what: `${inner.what}, behind NAT64` };
}
