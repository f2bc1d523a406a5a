/** Unix sockets, and the descriptors that travel over them. */
import type { Kernel } from "../kernel.ts";
import { type Memory, Struct } from "../struct.ts";
import { AF, MSG, SCM, SOCK } from "./constants.ts";
import { SO, SOL } from "./numbers.ts";

const MSGHDR = new Struct({
  name: "pointer",
  namelen: "u32",
  iov: "pointer",
  iovlen: "u64",
  control: "pointer",
  controllen: "u64",
  flags: "i32",
});
const IOVEC = new Struct({ base: "pointer", len: "u64" });
const CMSGHDR = new Struct({ len: "u64", level: "i32", type: "i32" });
const UCRED = new Struct({ pid: "i32", uid: "u32", gid: "u32" });

/** A connected pair of unix sockets, close-on-exec. @param type `SOCK.STREAM` or `SOCK.SEQPACKET` */
export function socketPair(kernel: Kernel, type: number): [number, number] {
  const pair = new Uint8Array(8);
  kernel.call("socketpair", AF.UNIX, type | SOCK.CLOEXEC, 0, pair);
  const view = new DataView(pair.buffer);
  return [view.getInt32(0, true), view.getInt32(4, true)];
}

/** Bounds what a socket holds for its peer. The kernel doubles it, and takes no more than `net.core.wmem_max`. `SO_SNDBUF` of socket(7) */
export function setSendBuffer(kernel: Kernel, socket: number, sizeBytes: number): void {
  const size = new Uint8Array(Int32Array.of(sizeBytes).buffer);
  kernel.call("setsockopt", socket, SOL.SOCKET, SO.SNDBUF, size, size.length);
}

/** Has each packet that a socket receives tell who sent it. `SO_PASSCRED` of unix(7) */
export function askForSender(kernel: Kernel, socket: number): void {
  const on = new Uint8Array(Int32Array.of(1).buffer);
  kernel.call("setsockopt", socket, SOL.SOCKET, SO.PASSCRED, on, on.length);
}

/** Who is at the other end of a connected unix socket, as of when it connected; as this process numbers them. `SO_PEERCRED` of unix(7) */
export function peerCredentials(kernel: Kernel, socket: number): ReturnType<typeof UCRED.decode> {
  const credentials = new Uint8Array(UCRED.size);
  const length = new Uint8Array(Uint32Array.of(UCRED.size).buffer);
  kernel.call("getsockopt", socket, SOL.SOCKET, SO.PEERCRED, credentials, length);
  return UCRED.decode(credentials);
}

/** Sends one packet with descriptors beside it. `sendmsg(2)`, `SCM_RIGHTS` of unix(7). @param flags MSG */
export function sendDescriptors(
  kernel: Kernel,
  socket: number,
  bytes: Uint8Array,
  descriptors: readonly number[],
  flags = 0,
): number {
  const control = new Uint8Array(CMSGHDR.size + Math.ceil((4 * descriptors.length) / 8) * 8);
  control.set(
    CMSGHDR.encode({ len: BigInt(CMSGHDR.size + 4 * descriptors.length), level: SOL.SOCKET, type: SCM.RIGHTS }).bytes,
  );
  const view = new DataView(control.buffer);
  descriptors.forEach((descriptor, index) => {
    view.setInt32(CMSGHDR.size + 4 * index, descriptor, true);
  });
  const header = messageHeader(bytes, descriptors.length > 0 ? control : null);
  return kernel.call("sendmsg", socket, header, MSG.NOSIGNAL | flags);
}

/** One packet as it came. */
export interface Packet {
  readonly length: number;
  readonly descriptors: number[];
  /** The process that sent it, by its number here, even if that has ended; where the socket asks for it. */
  readonly sender?: number;
  /** True when bytes or descriptors were lost because the buffers were too small. */
  readonly truncated: boolean;
}

/** Receives one packet and the descriptors beside it, close-on-exec. They are the caller's to close, whatever else is wrong. @param flags MSG */
export function receiveDescriptors(
  kernel: Kernel,
  socket: number,
  into: Uint8Array,
  { most, flags = 0 }: { readonly most: number; readonly flags?: number },
): Packet {
  const { header, packetOf } = receipt(into, most);
  return packetOf(kernel.call("recvmsg", socket, header, MSG.CMSG_CLOEXEC | flags));
}

/** What `recvmsg(2)` is given for a packet with so many descriptors, and what reads that when the call has been made. */
export function receipt(into: Uint8Array, most: number): { header: Memory; packetOf(length: number): Packet } {
  // Room for one more than is wanted, so that a surplus is seen rather than cut off; for who sent it; and for one more header.
  const control = new Uint8Array(3 * CMSGHDR.size + 4 * (most + 2) + Math.ceil(UCRED.size / 8) * 8);
  const header = messageHeader(into, control);
  return { header, packetOf: (length) => ({ length, ...attached(header, control) }) };
}

/** What came beside the bytes of a packet. */
function attached(header: Memory, control: Uint8Array): Omit<Packet, "length"> {
  const { controllen, flags } = MSGHDR.decode(header.bytes);
  const descriptors: number[] = [];
  let sender: number | undefined;
  const view = new DataView(control.buffer);
  for (let at = 0; at + CMSGHDR.size <= Number(controllen); ) {
    const { len, level, type } = CMSGHDR.decode(control.subarray(at));
    if (level === SOL.SOCKET && type === SCM.RIGHTS) {
      for (let each = at + CMSGHDR.size; each + 4 <= at + Number(len); each += 4)
        descriptors.push(view.getInt32(each, true));
    } else if (level === SOL.SOCKET && type === SCM.CREDENTIALS)
      sender = UCRED.decode(control.subarray(at + CMSGHDR.size)).pid;
    at += Math.max(CMSGHDR.size, Math.ceil(Number(len) / 8) * 8);
  }
  const truncated = (flags & (MSG.CTRUNC | MSG.TRUNC)) !== 0;
  return { descriptors, ...(sender === undefined ? {} : { sender }), truncated };
}

function messageHeader(bytes: Uint8Array, control: Uint8Array | null): Memory {
  return MSGHDR.encode({
    iov: IOVEC.encode({ base: bytes, len: BigInt(bytes.length) }),
    iovlen: 1n,
    control,
    controllen: BigInt(control?.length ?? 0),
  });
}
