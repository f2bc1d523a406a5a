/** What a call that waits says: paths and addresses, read from its caller's memory. */
import { readFileSync, readlinkSync } from "node:fs";
import { Descriptor } from "../../../syscalls/descriptor.ts";
import { type Kernel, machine, type SyscallName } from "../../../syscalls/kernel.ts";
import { AF } from "../../../syscalls/linux/constants.ts";
import { decodeAddress, isStream } from "../../../syscalls/linux/network.ts";
import { type Notification, readMemory } from "../../../syscalls/linux/notify.ts";
import { AT_FD, NUMBERS } from "../../../syscalls/linux/numbers.ts";
import { openProcess, takeDescriptor } from "../../../syscalls/linux/process.ts";
import type { SupervisedCall } from "../../platform.ts";
import { type PathPlace, SIGNATURES, type Signature } from "./signatures.ts";

const PAGE = 4096n;
const PATH_MAX = 4096;
const MOST_ADDRESS = 128; // struct sockaddr_storage

const names: ReadonlyMap<number, SyscallName> = new Map(
  Object.entries(NUMBERS[machine()]).map(([name, number]) => [number, name as SyscallName]),
);

/** The name of a call; undefined for a number that no table has. */
export function nameOf(nr: number): SyscallName | undefined {
  return names.get(nr);
}

/**
 * What a call says. All of it is one reading: what the caller's other threads write there later changes nothing here. It is that thread's only if
 * the call waits still when this has returned.
 */
export function describeCall(kernel: Kernel, { tid, nr, args }: Notification): SupervisedCall {
  const call = nameOf(nr) ?? (`syscall ${nr}` as SyscallName);
  const { paths = [], address, message, open } = SIGNATURES[call] ?? {};
  const { pid, program } = processOf(tid);
  const called = address === undefined ? undefined : [args[address.pointer]!, args[address.length]!];
  const given = called ?? (message === undefined ? undefined : nameIn(kernel, tid, args[message]!));
  const caller = { tid, pid };
  const found = given && readAddress(kernel, caller, given[0]!, Number(BigInt.asIntN(32, given[1]!)));
  const flags = open && flagsIn(kernel, tid, { args, open });
  return {
    call,
    args,
    tid,
    pid,
    program,
    paths: paths.map((place) => pathAt(kernel, caller, place, args)),
    ...(found === undefined ? {} : { address: found }),
    ...(call === "connect" ? { datagrams: !isStreamOf(kernel, pid, Number(BigInt.asIntN(32, args[0]!))) } : {}),
    ...(flags === undefined ? {} : { flags: Number(BigInt.asIntN(32, flags)) }),
  };
}

/** A thread and its process. */
interface Caller {
  readonly tid: number;
  readonly pid: number;
}

function flagsIn(
  kernel: Kernel,
  tid: number,
  { args, open }: { readonly args: readonly bigint[]; readonly open: NonNullable<Signature["open"]> },
): bigint {
  if ("always" in open) return BigInt(open.always);
  return "flags" in open ? args[open.flags]! : wordAt(kernel, tid, args[open.how]!);
}

/** A path, absolute as the caller sees it; empty where it named none: memory that is not there, or a name in what is no directory. */
function pathAt(kernel: Kernel, caller: Caller, { path, directory }: PathPlace, args: readonly bigint[]): string {
  const text = readText(kernel, caller.tid, args[path]!);
  if (text === undefined || (text === "" && directory === undefined)) return "";
  return absolute(text, caller, directory === undefined ? AT_FD.CWD : Number(BigInt.asIntN(32, args[directory]!)));
}

function absolute(text: string, caller: Caller, directory: number = AT_FD.CWD): string {
  if (text.startsWith("/")) return ofCaller(text, caller);
  const from = linkAt(`/proc/${caller.tid}/${directory === AT_FD.CWD ? "cwd" : `fd/${directory}`}`);
  // A pipe has no path. What is relative to nothing would be to whoever opens it on the caller's behalf.
  if (from === undefined || !from.startsWith("/")) return "";
  return ofCaller(text === "" ? from : `${from === "/" ? "" : from}/${text}`, caller);
}

/**
 * /proc/self is whoever looks: for whoever opens it on the caller's behalf, it has to be the caller by its number, by whatever way the text leads
 * there.
 */
function ofCaller(path: string, { tid, pid }: Caller): string {
  const own: Readonly<Record<string, string>> = { self: `/proc/${pid}`, "thread-self": `/proc/${pid}/task/${tid}` };
  let written: string[] = [];
  let place: string[] = [];
  for (const part of path.split("/")) {
    written.push(part);
    const [above] = place;
    if (part === "..") place.pop();
    else if (place.length === 1 && above === "proc" && Object.hasOwn(own, part)) {
      written = [own[part]!];
      place = own[part]!.split("/").slice(1);
    } else if (part !== "" && part !== ".") place.push(part);
  }
  return written.join("/");
}

/** The first path as the caller's own /proc has it, where processes have other numbers. */
export function pathInside({ paths: [path = ""], tid, pid }: SupervisedCall): string {
  const number = (id: number) => /^NSpid:.*\t(\d+)$/m.exec(readFileSync(`/proc/${id}/status`, "utf8"))?.[1] ?? id;
  if (path !== `/proc/${pid}` && !path.startsWith(`/proc/${pid}/`)) return path;
  return path
    .replace(`/proc/${pid}/task/${tid}`, () => `/proc/${pid}/task/${number(tid)}`)
    .replace(`/proc/${pid}`, () => `/proc/${number(pid)}`);
}

const bytes = new Uint8Array(PATH_MAX);

/** Text up to its NUL. Undefined where it has none within PATH_MAX, as the kernel has it. */
function readText(kernel: Kernel, tid: number, address: bigint): string | undefined {
  let length = 0;
  while (length < PATH_MAX) {
    // A page at a time: the next one may not be there, and need not.
    const at = address + BigInt(length);
    const most = Math.min(PATH_MAX - length, Number(PAGE - (at % PAGE)));
    const count = bytesAt(kernel, tid, at, bytes.subarray(length, length + most));
    const end = bytes.subarray(length, length + count).indexOf(0);
    if (end >= 0) return textOf(bytes.subarray(0, length + end));
    if (count < most) return undefined;
    length += count;
  }
  return undefined;
}

/** Every byte counts: without its mark of a byte order, a relative path could be an absolute one. */
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const textOf = (bytes: Uint8Array): string => decoder.decode(bytes);

/** As much as is there: nothing, where the memory or its owner is gone. */
function bytesAt(kernel: Kernel, tid: number, address: bigint, into: Uint8Array): number {
  try {
    return readMemory(kernel, tid, address, into);
  } catch {
    return 0;
  }
}

function wordAt(kernel: Kernel, tid: number, address: bigint): bigint {
  const bytes = new Uint8Array(8);
  bytesAt(kernel, tid, address, bytes);
  return new DataView(bytes.buffer).getBigUint64(0, true);
}

/** The name in a struct msghdr: where it is, and how long. */
function nameIn(kernel: Kernel, tid: number, address: bigint): [bigint, bigint] {
  return [wordAt(kernel, tid, address), wordAt(kernel, tid, address + 8n) & 0xffff_ffffn];
}

/** How long the kernel expects an address to be at least. */
const LEAST_ADDRESS: Readonly<Record<number, number>> = { [AF.INET]: 16, [AF.INET6]: 24 };

function readAddress(kernel: Kernel, caller: Caller, pointer: bigint, length: number): string | undefined {
  if (pointer === 0n || length < 2 || length > MOST_ADDRESS) return undefined;
  const bytes = new Uint8Array(MOST_ADDRESS);
  if (bytesAt(kernel, caller.tid, pointer, bytes.subarray(0, length)) < length) return undefined;
  const family = new DataView(bytes.buffer).getUint16(0, true);
  if (length < (LEAST_ADDRESS[family] ?? 2)) return undefined;
  return printAddress(family === AF.UNIX ? bytes.subarray(0, length) : bytes, caller);
}

/** A struct sockaddr as text: `203.0.113.5:443`, `[::1]:80`, `unix:/run/x`, `unix:@abstract`; undefined for other families. */
function printAddress(bytes: Uint8Array, caller: Caller): string | undefined {
  try {
    const at = decodeAddress(bytes);
    if (at.family === "INET6") return `[${at.address}]:${at.port}`;
    if (at.family === "INET") return `${at.address}:${at.port}`;
    if (at.path === "") return "unix:";
    return `unix:${at.path.startsWith("\0") ? `@${at.path.slice(1)}` : absolute(at.path, caller)}`;
  } catch {
    return undefined; // of another kind
  }
}

/** Whether a descriptor of another process is a socket of streams. */
function isStreamOf(kernel: Kernel, pid: number, number: number): boolean {
  try {
    using target = new Descriptor(openProcess(kernel, pid));
    using socket = new Descriptor(takeDescriptor(kernel, target.number, number));
    return isStream(kernel, socket.number);
  } catch {
    return false; // nothing that could be connected
  }
}

function linkAt(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}

/** The process that a thread belongs to, and what that calls itself. */
export function processOf(tid: number): { readonly pid: number; readonly program: string } {
  try {
    const status = readFileSync(`/proc/${tid}/status`, "utf8");
    return { pid: Number(/^Tgid:\t(\d+)$/m.exec(status)![1]), program: /^Name:\t(.*)$/m.exec(status)![1]! };
  } catch {
    return { pid: tid, program: "" };
  }
}
