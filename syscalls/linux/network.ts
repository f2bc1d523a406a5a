/** Sockets that have addresses: made, bound, listening, connected; and the loopback interface. */
import { SystemError } from "../error.ts";
import type { Kernel } from "../kernel.ts";
import { AF, SOCK } from "./constants.ts";
import { SO, SOL } from "./numbers.ts";

/** Where a socket is. `ip(7)`, `ipv6(7)`, `unix(7)` */
export type SocketAddress =
  | { readonly family: "INET"; readonly address: string; readonly port: number }
  /** `scope` is the index of the interface that a link-local address belongs to. */
  | { readonly family: "INET6"; readonly address: string; readonly port: number; readonly scope?: number }
  /** A path; a name after a NUL for an abstract socket; empty for one without a name. */
  | { readonly family: "UNIX"; readonly path: string };

// From sys/un.h and linux/in6.h, and the largest of all, from linux/socket.h.
const SUN_PATH = 108;
const SOCKADDR_IN6 = 28;
const SOCKADDR_STORAGE = 128;

/** `struct sockaddr_in`, `sockaddr_in6` or `sockaddr_un`, as long as the address needs. */
export function encodeAddress(address: SocketAddress): Uint8Array {
  if (address.family === "UNIX") return encodePath(address.path);
  const { port } = address;
  if (!Number.isInteger(port) || port < 0 || port > 0xffff) {
    throw new RangeError(`Cannot use port ${port}: a whole number up to 65535 is expected`);
  }
  const ip = parseIp(address.address);
  if (ip?.length !== (address.family === "INET" ? 4 : 16)) {
    throw new TypeError(`Cannot use ${JSON.stringify(address.address)} as an address of AF_${address.family}`);
  }
  const bytes = new Uint8Array(address.family === "INET" ? 16 : SOCKADDR_IN6);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, AF[address.family], true);
  view.setUint16(2, port); // in the network's order
  bytes.set(ip, address.family === "INET" ? 4 : 8);
  if (address.family === "INET6") view.setUint32(24, address.scope ?? 0, true);
  return bytes;
}

function encodePath(path: string): Uint8Array {
  const name = new TextEncoder().encode(path);
  const abstract = name[0] === 0;
  if (!abstract && name.includes(0))
    throw new TypeError(`Cannot use ${JSON.stringify(path)} as a path: it holds a NUL`);
  // A path ends with a NUL, an abstract name with its length.
  const length = abstract || name.length === 0 ? name.length : name.length + 1;
  if (length > SUN_PATH) throw new RangeError(`Cannot use a path of ${name.length} bytes: a socket's has 107 at most`);
  const bytes = new Uint8Array(2 + length);
  new DataView(bytes.buffer).setUint16(0, AF.UNIX, true);
  bytes.set(name, 2);
  return bytes;
}

/** The address in `bytes`, which are as long as the kernel says that it is. */
export function decodeAddress(bytes: Uint8Array): SocketAddress {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const family = bytes.length < 2 ? 0 : view.getUint16(0, true);
  if (family === AF.INET) {
    return { family: "INET", address: formatIp(bytes.subarray(4, 8)), port: view.getUint16(2) };
  }
  if (family === AF.INET6) {
    const scope = view.getUint32(24, true);
    const at = { family: "INET6", address: formatIp(bytes.subarray(8, 24)), port: view.getUint16(2) } as const;
    return scope === 0 ? at : { ...at, scope };
  }
  if (family !== AF.UNIX) throw new TypeError(`Cannot read an address of family ${family}`);
  const name = bytes.subarray(2);
  const end = name[0] === 0 ? name.length : name.indexOf(0);
  return { family: "UNIX", path: new TextDecoder().decode(end < 0 ? name : name.subarray(0, end)) };
}

/** A stream socket, close-on-exec. It belongs to the network namespace of who makes it, whoever uses it later. @param flags SOCK */
export function openSocket(kernel: Kernel, family: SocketAddress["family"], flags = 0): number {
  return kernel.call("socket", AF[family], SOCK.STREAM | SOCK.CLOEXEC | flags, 0);
}

/** Gives a socket its address; port 0 asks for any that is free. `bind(2)` */
export function bindTo(kernel: Kernel, socket: number, address: SocketAddress): void {
  const bytes = encodeAddress(address);
  kernel.call("bind", socket, bytes, bytes.length);
}

/** A socket of datagrams at an address, that does not block. `bind(2)` */
export function bindDatagrams(kernel: Kernel, address: SocketAddress): number {
  const socket = kernel.call("socket", AF[address.family], SOCK.DGRAM | SOCK.CLOEXEC | SOCK.NONBLOCK, 0);
  try {
    bindTo(kernel, socket, address);
    return socket;
  } catch (error) {
    kernel.call("close", socket);
    throw error;
  }
}

/** A socket that listens at an address. `SO_REUSEADDR` lets a port be taken again at once. `listen(2)` */
export function listenOn(
  kernel: Kernel,
  address: SocketAddress,
  options: { readonly backlog?: number; readonly flags?: number } = {},
): number {
  const socket = openSocket(kernel, address.family, options.flags);
  try {
    if (address.family !== "UNIX") setOption(kernel, socket, SO.REUSEADDR, 1);
    bindTo(kernel, socket, address);
    kernel.call("listen", socket, options.backlog ?? 512);
    return socket;
  } catch (error) {
    kernel.call("close", socket);
    throw error;
  }
}

/** Connects a socket; false while that is under way, as it may be with `SOCK.NONBLOCK`: it can be written to when it is done. `connect(2)` */
export function connectTo(kernel: Kernel, socket: number, address: SocketAddress): boolean {
  const bytes = encodeAddress(address);
  try {
    kernel.call("connect", socket, bytes, bytes.length);
    return true;
  } catch (error) {
    if (error instanceof SystemError && error.code === "EINPROGRESS") return false;
    throw error;
  }
}

/** Takes a connection that waits, close-on-exec; with none there a socket that does not block gives undefined. `accept4(2)` @param flags SOCK */
export function accept(kernel: Kernel, socket: number, flags = 0): number | undefined {
  try {
    return kernel.call("accept4", socket, null, null, SOCK.CLOEXEC | flags);
  } catch (error) {
    if (error instanceof SystemError && error.code === "EAGAIN") return undefined;
    throw error;
  }
}

/** Where a socket is bound. `getsockname(2)` */
export function localAddress(kernel: Kernel, socket: number): SocketAddress {
  return named(kernel, "getsockname", socket);
}

/** Where a socket's peer is. Throws ENOTCONN where it has none. `getpeername(2)` */
export function peerAddress(kernel: Kernel, socket: number): SocketAddress {
  return named(kernel, "getpeername", socket);
}

function named(kernel: Kernel, call: "getsockname" | "getpeername", socket: number): SocketAddress {
  const bytes = new Uint8Array(SOCKADDR_STORAGE);
  const length = new Uint8Array(Uint32Array.of(bytes.length).buffer);
  kernel.call(call, socket, bytes, length);
  return decodeAddress(bytes.subarray(0, new DataView(length.buffer).getUint32(0, true)));
}

/** The errno of what failed on a socket since it was last asked, 0 for nothing. `SO_ERROR` of socket(7) */
export function takeError(kernel: Kernel, socket: number): number {
  return getOption(kernel, socket, SO.ERROR);
}

/** The socket listens. Throws ENOTSOCK for what is no socket. `SO_ACCEPTCONN` of socket(7) */
export function isListening(kernel: Kernel, socket: number): boolean {
  return getOption(kernel, socket, SO.ACCEPTCONN) !== 0;
}

/** The socket is one of streams, rather than of packets. `SO_TYPE` of socket(7) */
export function isStream(kernel: Kernel, socket: number): boolean {
  return getOption(kernel, socket, SO.TYPE) === SOCK.STREAM;
}

function getOption(kernel: Kernel, socket: number, option: number): number {
  const value = new Uint8Array(4);
  kernel.call("getsockopt", socket, SOL.SOCKET, option, value, new Uint8Array(Uint32Array.of(4).buffer));
  return new DataView(value.buffer).getInt32(0, true);
}

function setOption(kernel: Kernel, socket: number, option: number, value: number): void {
  const bytes = new Uint8Array(Int32Array.of(value).buffer);
  kernel.call("setsockopt", socket, SOL.SOCKET, option, bytes, bytes.length);
}

// From linux/sockios.h and linux/if.h; `struct ifreq` is a name of 16 bytes and a union of 24.
const SIOCSIFFLAGS = 0x8914;
const IFF_UP = 1;
const IFREQ = 40;
const IFR_FLAGS = 16;

/** Brings `lo` up, with 127.0.0.1 and ::1. A new network namespace has it down. Needs `CAP_NET_ADMIN` in it. `netdevice(7)` */
export function raiseLoopback(kernel: Kernel): void {
  // The other flags of `lo` are not a caller's to change, so none need to be read before; and a batch cannot look at what it reads.
  const request = new Uint8Array(IFREQ);
  request.set(new TextEncoder().encode("lo"));
  new DataView(request.buffer).setUint16(IFR_FLAGS, IFF_UP, true);
  const socket = openSocket(kernel, "INET");
  kernel.call("ioctl", socket, SIOCSIFFLAGS, request);
  kernel.call("close", socket);
}

/** The 4 or 16 bytes of an address as `inet_pton(3)` reads it: four decimal numbers, or IPv6 without a zone. Undefined for anything else. */
export function parseIp(text: string): Uint8Array | undefined {
  return text.includes(":") ? parseIpv6(text) : parseIpv4(text);
}

function parseIpv4(text: string): Uint8Array | undefined {
  const parts = text.split(".");
  const valid = parts.length === 4 && parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) <= 255);
  return valid ? Uint8Array.from(parts, Number) : undefined;
}

function parseIpv6(text: string): Uint8Array | undefined {
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const [head, tail] = halves.map((half, index) => parseGroups(half, index === halves.length - 1));
  if (head === undefined) return undefined;
  if (halves.length === 1) return head.length === 16 ? Uint8Array.from(head) : undefined;
  // "::" stands for at least one group of zeros.
  if (tail === undefined || head.length + tail.length > 14) return undefined;
  return Uint8Array.from([...head, ...Array<number>(16 - head.length - tail.length).fill(0), ...tail]);
}

/** The bytes of groups between colons; the last group of an address may be an IPv4 one. */
function parseGroups(text: string, last: boolean): number[] | undefined {
  if (text === "") return [];
  const groups = text.split(":");
  const bytes: number[] = [];
  for (const [index, group] of groups.entries()) {
    if (/^[0-9a-f]{1,4}$/i.test(group)) {
      const word = Number.parseInt(group, 16);
      bytes.push(word >> 8, word & 0xff);
    } else {
      const embedded = last && index === groups.length - 1 ? parseIpv4(group) : undefined;
      if (embedded === undefined) return undefined;
      bytes.push(...embedded);
    }
  }
  return bytes;
}

/** The text of an address of 4 or 16 bytes, as RFC 5952 has it. */
export function formatIp(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join(".");
  const words = Array.from({ length: 8 }, (_, index) => (bytes[2 * index]! << 8) | bytes[2 * index + 1]!);
  let longest = { start: 0, length: 1 }; // a single zero is not shortened
  for (let start = 0; start < 8; start++) {
    let length = 0;
    while (words[start + length] === 0) length++;
    if (length > longest.length) longest = { start, length };
  }
  const hex = (from: number, to: number) =>
    words
      .slice(from, to)
      .map((word) => word.toString(16))
      .join(":");
  if (longest.length === 1) return hex(0, 8);
  return `${hex(0, longest.start)}::${hex(longest.start + longest.length, 8)}`;
}
