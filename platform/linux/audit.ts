/** The kernel's audit log as events: what Landlock and seccomp refused, to whom, and about what. */
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { AUDIT, decodeRecord, isAuditEnabled, openAudit } from "../../syscalls/linux/audit.ts";
import { MSG } from "../../syscalls/linux/constants.ts";
import { AUDIT_ARCH, type Machine, NUMBERS, SECCOMP_RET, type SyscallName } from "../../syscalls/linux/numbers.ts";

/** One record: its type, the event that it belongs to, and its fields as text. */
export interface AuditRecord {
  readonly type: number;
  /** The number of the event, which the records of one call share. */
  readonly event: string;
  readonly fields: Readonly<Record<string, string>>;
}

/** Something that was refused. */
export interface AuditDenial {
  /** The process that was refused, by its number out here, and what it calls itself. Left out where the kernel did not say. */
  readonly pid?: number;
  readonly comm?: string;
  readonly call?: SyscallName;
  /** The rights that it lacked, in the words of `RIGHTS`; `ptrace` or `fs.change_topology`; or what a filter did, such as `seccomp.errno`. */
  readonly blockers: readonly string[];
  /** As the process sees it; that of a directory for what was to be created, removed or moved in it; a NUL before an abstract socket's. */
  readonly path?: string;
  readonly address?: string;
  readonly port?: number;
  /** The process that a signal was for, or that was to be traced. */
  readonly target?: number;
  /** The Landlock domain; and the process that entered it, by its number out here. Left out if that was before anyone listened. */
  readonly domain?: string;
  readonly confined?: number;
}

const HEAD = /^audit\((\d+\.\d+:\d+)\): ?/;
const FIELD = /(?:^|\s)([A-Za-z][\w-]*)=("[^"]*"|\S*)/g;
/** Whose values are others' words: in quotation marks, or in hexadecimal if there is a mark, a space or anything else in them that is not plain. */
const UNTRUSTED = new Set(["path", "name", "comm", "exe", "ocomm"]);

/** A record from its text. Undefined for what is none. */
export function parseRecord(type: number, text: string): AuditRecord | undefined {
  const head = HEAD.exec(text);
  if (head === null) return undefined;
  const fields: Record<string, string> = Object.create(null);
  for (const [, name, value] of text.slice(head[0].length).matchAll(FIELD)) fields[name!] ??= fieldValue(name!, value!);
  return { type, event: head[1]!, fields };
}

function fieldValue(name: string, value: string): string {
  if (value.startsWith('"') && value.endsWith('"') && value.length > 1) return value.slice(1, -1);
  const encoded = UNTRUSTED.has(name) && /^(?:[0-9A-F]{2})+$/.test(value);
  return encoded ? Buffer.from(value, "hex").toString() : value;
}

/** How long the records of one event may be apart. A kernel that has no context of the call does not say which is the last. */
const PATIENCE_MS = 50;
/** Of a flood the oldest are forgotten. */
const MOST_EVENTS = 256;
const MOST_DOMAINS = 4096;

/** Puts denials together from records, and gives each to `take` once it is whole. */
export function assembler(take: (denial: AuditDenial) => void): { add(record: AuditRecord): void; flush(): void } {
  const events = new Map<string, AuditRecord[]>();
  const domains = new Map<string, number>();
  const finish = (event: string) => {
    const records = events.get(event) ?? [];
    events.delete(event);
    for (const record of records) {
      const denial = denialOf(record, { call: records.find(({ type }) => type === AUDIT.SYSCALL), domains });
      if (denial !== undefined) take(denial);
    }
  };
  const flush = () => {
    for (const event of [...events.keys()]) finish(event);
  };
  return {
    add(record) {
      const { type, event, fields } = record;
      if (type === AUDIT.EOE) finish(event);
      else if (type === AUDIT.LANDLOCK_DOMAIN) {
        if (fields.status === "deallocated") flush(); // what was refused in it came before
        enter(domains, fields);
      } else if (DENIES.has(type)) {
        events.set(event, [...(events.get(event) ?? []), record]);
        if (events.size > MOST_EVENTS) finish(events.keys().next().value!);
      } else if (type === AUDIT.SYSCALL) events.get(event)?.push(record);
    },
    flush,
  };
}

const DENIES: ReadonlySet<number> = new Set([AUDIT.LANDLOCK_ACCESS, AUDIT.SECCOMP]);

function enter(domains: Map<string, number>, { domain, status, pid }: AuditRecord["fields"]): void {
  if (domain === undefined) return;
  if (status === "deallocated") domains.delete(domain);
  else if (pid !== undefined) domains.set(domain, Number(pid));
  if (domains.size > MOST_DOMAINS) domains.delete(domains.keys().next().value!);
}

/** What is known of an event beside the record itself. */
interface Known {
  readonly call: AuditRecord | undefined;
  readonly domains: ReadonlyMap<string, number>;
}

function denialOf({ type, fields }: AuditRecord, { call, domains }: Known): AuditDenial | undefined {
  if (!DENIES.has(type)) return undefined;
  const who = type === AUDIT.SECCOMP ? fields : (call?.fields ?? {});
  const { domain } = fields;
  const denial = {
    pid: numberOf(who.pid),
    comm: who.comm,
    call: callOf(who),
    path: fields.path,
    address: fields.daddr ?? fields.saddr,
    port: numberOf(fields.dest ?? fields.src),
    target: numberOf(fields.opid),
    domain,
    confined: domain === undefined ? undefined : domains.get(domain),
  };
  const known = Object.entries(denial).filter(([, value]) => value !== undefined);
  const blockers = type === AUDIT.SECCOMP ? [`seccomp.${resultOf(fields.code)}`] : (fields.blockers ?? "").split(",");
  return { ...Object.fromEntries(known), blockers };
}

const numberOf = (text: string | undefined) => (text === undefined || !/^\d+$/.test(text) ? undefined : Number(text));

const MACHINES: Readonly<Record<string, Machine>> = {
  [AUDIT_ARCH.X86_64.toString(16)]: "x64",
  [AUDIT_ARCH.AARCH64.toString(16)]: "arm64",
};

/** By its number on the machine that it was made for. */
function callOf({ arch, syscall }: AuditRecord["fields"]): SyscallName | undefined {
  const machine = MACHINES[arch ?? ""];
  if (machine === undefined) return undefined;
  const found = Object.entries(NUMBERS[machine]).find(([, number]) => `${number}` === syscall);
  return found?.[0] as SyscallName | undefined; // the names are the table's
}

function resultOf(code: string | undefined): string {
  const result = (Number(code) & SECCOMP_RET.ACTION_FULL) >>> 0;
  const found = Object.entries(SECCOMP_RET).find(([, value]) => value === result);
  return found === undefined ? "unknown" : found[0].toLowerCase();
}

/** One who listens. */
export interface Listening extends Disposable {
  /** Takes what has come already, without waiting for the event loop. */
  drain(): void;
}

/**
 * Has `take` called for each denial that is logged on this machine, whoever was refused, until it is disposed of; this process may end meanwhile.
 * Undefined where it cannot be, and `refused` is told why.
 */
export function listenToAudit(
  take: (denial: AuditDenial) => void,
  refused: (reason: string) => void = () => {},
): Listening | undefined {
  const reason = auditLacks();
  if (reason !== undefined) {
    refused(reason);
    return undefined;
  }
  const { add, flush } = assembler(take);
  let waiting: Timer | undefined;
  const heard = (packet: Uint8Array) => {
    const { type, text } = decodeRecord(packet) ?? { type: 0, text: "" };
    const record = parseRecord(type, text);
    if (record === undefined) return;
    add(record);
    waiting ??= setTimeout(catchUp, PATIENCE_MS).unref();
  };
  const socket = openAudit(self);
  const watching = watched(socket, heard);
  let over = false;
  /** Takes what has come already, and says whether that was all. */
  const takeSome = (most: number): boolean => {
    const packet = new Uint8Array(MOST_BYTES);
    for (let count = 0; count < most; count++) {
      const length = receivedNow(socket, packet);
      if (length === undefined) return true;
      heard(packet.subarray(0, length));
    }
    return false;
  };
  const catchUp = () => {
    waiting = undefined;
    // The rest of an event may have come while this process was busy.
    if (takeSome(MOST_AT_ONCE)) flush();
  };
  return {
    drain() {
      if (over) return;
      takeSome(MOST_AT_END);
      flush();
    },
    [Symbol.dispose]() {
      if (over) return;
      over = true;
      clearTimeout(waiting);
      watching[Symbol.dispose]();
    },
  };
}

/** Larger than any record. */
const MOST_BYTES = 16 * 1024;
/** In a flood there is always one more packet, and other work waits. */
const MOST_AT_ONCE = 128;
const MOST_AT_END = 1024;

/** The length of the next packet; undefined where none waits. */
function receivedNow(socket: number, into: Uint8Array): number | undefined {
  try {
    return self.call("recvfrom", socket, into, into.length, MSG.DONTWAIT, null, null);
  } catch (error) {
    if (error instanceof SystemError && error.code === "EAGAIN") return undefined;
    throw error;
  }
}

/** Why nothing can be heard; undefined where it can. */
export function auditLacks(): string | undefined {
  try {
    self.call("close", openAudit(self));
    if (isAuditEnabled(self)) return undefined;
    return "The audit log is off: switch it on with `auditctl -e 1`, or boot with audit=1";
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    const reason = error.syscall === "socket" ? NO_LOG : NO_RIGHT;
    return `${reason} (${error.message})`;
  }
}

const NO_LOG = "This kernel has no audit log: one with CONFIG_AUDIT is needed";
const NO_RIGHT = "The audit log is for root of the machine, with CAP_AUDIT_READ and CAP_AUDIT_CONTROL, in no namespace";

/** Watches without keeping the process alive. */
function watched(fd: number, data: (packet: Uint8Array) => void): Disposable {
  let over = false;
  const handlers = { data: (_: unknown, packet: Uint8Array) => over || data(packet) };
  // @types/bun does not know that a descriptor will do. It is Bun's from here on.
  const opened = Bun.connect({ fd, socket: handlers } as never);
  void opened.then((socket) => {
    socket.unref();
    if (over) socket.terminate();
  });
  return {
    [Symbol.dispose]() {
      over = true;
      void opened.then((socket) => socket.terminate());
    },
  };
}
