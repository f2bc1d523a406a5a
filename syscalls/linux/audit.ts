/** The kernel's audit log as it comes, by netlink(7): whoever may read it is sent each record, beside the one daemon that keeps them. */
import { SystemError } from "../error.ts";
import type { Kernel } from "../kernel.ts";
import { Struct } from "../struct.ts";
import { AF, MSG, SOCK } from "./constants.ts";
import { ERRNO } from "./numbers.ts";
import { readable } from "./poll.ts";

// From linux/netlink.h and linux/audit.h.
const NETLINK_AUDIT = 9;
const SOL_NETLINK = 270;
const NETLINK_NO_ENOBUFS = 5;
const AUDIT_NLGRP_READLOG = 1;
const NLMSG_ERROR = 2;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const AUDIT_STATUS_ENABLED = 1;

/** The types of records. `linux/audit.h` */
export const AUDIT = {
  GET: 1000,
  SET: 1001,
  SYSCALL: 1300,
  EOE: 1320,
  SECCOMP: 1326,
  LANDLOCK_ACCESS: 1423,
  LANDLOCK_DOMAIN: 1424,
} as const;

const SOCKADDR_NL = new Struct({ family: "u16", pad: "u16", pid: "u32", groups: "u32" });
const NLMSGHDR = new Struct({ len: "u32", type: "u16", flags: "u16", seq: "u32", pid: "u32" });
const AUDIT_STATUS = new Struct({
  mask: "u32",
  enabled: "u32",
  failure: "u32",
  pid: "u32",
  rate_limit: "u32",
  backlog_limit: "u32",
  lost: "u32",
  backlog: "u32",
});
/** What a record can have, and a header. MAX_AUDIT_MESSAGE_LENGTH of linux/audit.h */
const MOST = 8970 + NLMSGHDR.size;

/**
 * A socket to which every record is sent from now on, one a packet; those for which it has no room are lost without a word. It takes packets of
 * the kernel's alone. Throws EPERM without CAP_AUDIT_READ, EPROTONOSUPPORT from a kernel without the log. Linux 3.16
 */
export function openAudit(kernel: Kernel): number {
  const socket = kernel.call("socket", AF.NETLINK, SOCK.RAW | SOCK.CLOEXEC | SOCK.NONBLOCK, NETLINK_AUDIT);
  try {
    const on = new Uint8Array(Int32Array.of(1).buffer);
    kernel.call("setsockopt", socket, SOL_NETLINK, NETLINK_NO_ENOBUFS, on, on.length);
    const address = (groups: number) => SOCKADDR_NL.encode({ family: AF.NETLINK, groups });
    kernel.call("bind", socket, address(1 << (AUDIT_NLGRP_READLOG - 1)), SOCKADDR_NL.size);
    // Who is connected to the kernel hears nobody else.
    kernel.call("connect", socket, address(0), SOCKADDR_NL.size);
    return socket;
  } catch (error) {
    kernel.call("close", socket);
    throw error;
  }
}

/** A packet as a record: its type and its text. Undefined for one that is too short. */
export function decodeRecord(packet: Uint8Array): { readonly type: number; readonly text: string } | undefined {
  if (packet.length < NLMSGHDR.size) return undefined;
  // The length in the header leaves the header out, for a daemon that always read it so; the packet's own is right.
  const text = new TextDecoder().decode(packet.subarray(NLMSGHDR.size));
  return { type: NLMSGHDR.decode(packet).type, text };
}

/** Whether anything is logged at all. Throws EPERM without CAP_AUDIT_CONTROL, ECONNREFUSED in a user namespace. */
export function isAuditEnabled(kernel: Kernel): boolean {
  for (const [type, body] of asked(kernel, AUDIT.GET, new Uint8Array(), AUDIT.GET))
    if (type === AUDIT.GET) return AUDIT_STATUS.decode(body).enabled !== 0;
  throw new Error("Cannot tell whether the audit log is on: the kernel did not answer");
}

/** Switches the log on or off, for the whole machine. Throws EPERM without CAP_AUDIT_CONTROL, or where it was locked. */
export function setAuditEnabled(kernel: Kernel, on: boolean): void {
  const status = AUDIT_STATUS.encode({ mask: AUDIT_STATUS_ENABLED, enabled: on ? 1 : 0 });
  asked(kernel, AUDIT.SET, status.bytes, NLMSG_ERROR);
}

/** The answers to a request, up to one of the type `last`. */
function asked(kernel: Kernel, type: number, body: Uint8Array, last: number): [type: number, body: Uint8Array][] {
  const socket = kernel.call("socket", AF.NETLINK, SOCK.RAW | SOCK.CLOEXEC, NETLINK_AUDIT);
  try {
    const request = new Uint8Array(NLMSGHDR.size + body.length);
    const flags = NLM_F_REQUEST | NLM_F_ACK;
    request.set(NLMSGHDR.encode({ len: request.length, type, flags, seq: 1 }).bytes);
    request.set(body, NLMSGHDR.size);
    const address = SOCKADDR_NL.encode({ family: AF.NETLINK });
    kernel.call("sendto", socket, request, request.length, 0, address, SOCKADDR_NL.size);
    const answers: [number, Uint8Array][] = [];
    while (answers.at(-1)?.[0] !== last) answers.push(answer(kernel, socket, type));
    return answers;
  } finally {
    kernel.call("close", socket);
  }
}

function answer(kernel: Kernel, socket: number, asked: number): [type: number, body: Uint8Array] {
  // A thread of the kernel's answers, at once.
  if (kernel.call("poll", readable(socket), 1, 1000) === 0)
    throw new SystemError("recvfrom", ERRNO.ETIMEDOUT, `(audit ${asked})`);
  const packet = new Uint8Array(MOST);
  const length = kernel.call("recvfrom", socket, packet, packet.length, MSG.DONTWAIT, null, null);
  const body = packet.subarray(NLMSGHDR.size, length);
  const { type } = NLMSGHDR.decode(packet);
  const error = type === NLMSG_ERROR ? new DataView(body.buffer, body.byteOffset).getInt32(0, true) : 0;
  if (error < 0) throw new SystemError("sendto", -error, `(audit ${asked})`);
  return [type, body];
}
