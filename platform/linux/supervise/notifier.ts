/**
 * The supervisor's thread: takes the calls that filters hand over, one after the other, and answers them. It waits in place, for listeners and for
 * orders; so the main thread may be busy, and may itself wait for a program whose calls are answered here.
 */
import { Descriptor } from "../../../syscalls/descriptor.ts";
import { SystemError } from "../../../syscalls/error.ts";
import { machine, type SyscallName, self } from "../../../syscalls/kernel.ts";
import { fileStatus, open, openResolved } from "../../../syscalls/linux/file.ts";
import { isStream } from "../../../syscalls/linux/network.ts";
import {
  injectDescriptor,
  isWaiting,
  type Notification,
  receiveNotification,
  reply,
} from "../../../syscalls/linux/notify.ts";
import { ERRNO, O, RESOLVE, SIG } from "../../../syscalls/linux/numbers.ts";
import { POLLFD, POLLIN, poll } from "../../../syscalls/linux/poll.ts";
import { openProcess, takeDescriptor } from "../../../syscalls/linux/process.ts";
import { signalProcess } from "../../../syscalls/linux/signal.ts";
import type { SupervisedCall } from "../../platform.ts";
import { settled } from "../lookup.ts";
import { explain } from "../seccomp/explain.ts";
import { describeCall, nameOf, pathInside, processOf } from "./caller.ts";
import {
  MOST_ASKED,
  MOST_UNTAKEN,
  ORDER_SIZE,
  type Order,
  type Orders,
  type Settled,
  type Told,
  type Verdict,
} from "./orders.ts";
import { SIGNATURES } from "./signatures.ts";

declare function postMessage(told: Told): void;

const SHUT_RDWR = 2;

interface Watched extends Orders {
  /** Whether the puppet has not become the program yet. */
  beginning: boolean;
  /** Calls that the main thread was asked about, by their ids. */
  readonly asked: Map<string, Notification>;
  untold: number;
  failed: boolean;
}

const watched = new Map<number, Watched>();
/** How many calls the main thread has taken, and how many it was told of. */
let taken: Int32Array;
let told = 0;

/** Serves until the other end of `control` is closed. */
function serve(control: number): void {
  for (;;) {
    const ready = wait(control);
    for (const listener of ready.filter(({ descriptor }) => descriptor !== control)) {
      if ((listener.events & POLLIN) !== 0) takeCall(listener.descriptor);
      else forget(listener.descriptor); // POLLHUP: all that had the filter are gone
    }
    if (ready.some(({ descriptor }) => descriptor === control) && !takeOrder(control)) return;
  }
}

function wait(control: number): { readonly descriptor: number; readonly events: number }[] {
  const descriptors = [control, ...watched.keys()];
  const polled = new Uint8Array(POLLFD * descriptors.length);
  const view = new DataView(polled.buffer);
  descriptors.forEach((descriptor, index) => {
    view.setInt32(POLLFD * index, descriptor, true);
    // Where too many are asked about, the next ones wait in the kernel.
    const isFull = (watched.get(descriptor)?.asked.size ?? 0) >= MOST_ASKED;
    view.setInt16(POLLFD * index + 4, isFull ? 0 : POLLIN, true);
  });
  if (poll(self, polled, -1) === undefined) return [];
  return descriptors
    .map((descriptor, index) => ({ descriptor, events: view.getInt16(POLLFD * index + 6, true) }))
    .filter(({ events }) => events !== 0);
}

function takeOrder(control: number): boolean {
  const bytes = new Uint8Array(ORDER_SIZE);
  const length = self.call("read", control, bytes, bytes.length);
  if (length === 0) return false;
  const order = JSON.parse(new TextDecoder().decode(bytes.subarray(0, length))) as Order;
  if (order.order === "watch")
    watched.set(order.listener, {
      ...order.orders,
      beginning: order.orders.begins.length > 0,
      asked: new Map(),
      untold: 0,
      failed: false,
    });
  else settle(order.listener, order.id, order.answer);
  return true;
}

function forget(listener: number): void {
  const untold = watched.get(listener)?.untold ?? 0;
  if (untold > 0) postMessage({ told: "more", listener, count: untold });
  watched.delete(listener);
  postMessage({ told: "over", listener });
}

function takeCall(listener: number): void {
  const orders = watched.get(listener)!;
  const notification = receiveNotification(self, listener);
  if (notification === undefined) return;
  try {
    decide(listener, orders, notification);
  } catch (error) {
    // Whatever went wrong here, nothing is let through for it.
    reply(self, listener, notification.id, { errno: ERRNO.EPERM });
    if (!orders.failed) postMessage({ told: "failed", listener, error: error as Error });
    orders.failed = true;
  }
}

function decide(listener: number, orders: Watched, notification: Notification): void {
  const { id, nr, args } = notification;
  const name = nameOf(nr);
  if (orders.beginning && orders.begins.some((begins) => begins === name)) {
    orders.beginning = false;
    reply(self, listener, id, "continue");
    return;
  }
  const verdict = orders.verdicts[nr] ?? (isBreach(orders, name, args) ? orders.promised!.breach : orders.otherwise);
  if (verdict.act === "refuse" && !verdict.told && orders.lent.length === 0) {
    reply(self, listener, id, { errno: verdict.errno });
    return;
  }
  const call = describeCall(self, notification);
  if (!isWaiting(self, listener, id)) return; // what was read may be another process's
  if (orders.lent.length > 0 && lend(listener, orders, { id, call, verdict })) return;
  carryOut(listener, orders, { notification, call, verdict });
}

/** Whether it is a promise that the call breaks, and not only a wall that it runs into. Its registers decide, which do not change. */
function isBreach({ promised }: Orders, call: SyscallName | undefined, args: readonly bigint[]): boolean {
  if (promised === undefined) return false;
  const rules = call && promised.rules[call];
  // explain() asks for rules that name what the machine has.
  return (
    rules === undefined ||
    explain({ machine: machine(), default: "kill-process", rules }, call!, args).action !== "allow"
  );
}

function carryOut(
  listener: number,
  orders: Watched,
  { notification, call, verdict }: { notification: Notification; call: SupervisedCall; verdict: Verdict },
): void {
  const { id } = notification;
  switch (verdict.act) {
    case "refuse":
      if (verdict.told) tell(listener, orders, call);
      reply(self, listener, id, { errno: verdict.errno });
      return;
    case "pass":
      tell(listener, orders, call, isThere(call));
      reply(self, listener, id, "continue");
      return;
    case "end":
      tell(listener, orders, call);
      end(listener, id, call);
      return;
    case "ask":
      orders.asked.set(`${id}`, notification);
      postMessage({ told: "asked", listener, id: `${id}`, call });
  }
}

/** Ends the process whose call waits: by a handle, that was opened while it waited. */
function end(listener: number, id: bigint, { pid }: SupervisedCall): void {
  using target = new Descriptor(openProcess(self, pid));
  if (isWaiting(self, listener, id)) signalProcess(self, target.number, SIG.KILL);
}

/** Tells the main thread, unless that is so far behind that telling would fill its memory. */
function tell(listener: number, orders: Watched, call: SupervisedCall, exists = true): void {
  if (((told - Atomics.load(taken, 0)) | 0) >= MOST_UNTAKEN) {
    orders.untold++;
    return;
  }
  if (orders.untold > 0) postMessage({ told: "more", listener, count: orders.untold });
  orders.untold = 0;
  told = (told + 1) | 0;
  postMessage({ told: "call", listener, call, exists });
}

/** What may be asked of open(2) beside reading: nothing here changes a file. */
const HARMLESS = O.CLOEXEC | O.NONBLOCK | O.LARGEFILE | O.NOCTTY | O.NOFOLLOW;

/** Whether a call asks what is there, as loaders do before they open a file. */
const looks = (call: SyscallName) => SIGNATURES[call]?.paths?.every(({ does }) => does === "look") === true;

/** Opens a file on the caller's behalf that its program needs in order to start. Where it looks for one in vain, that is nobody's breach. */
function lend(
  listener: number,
  orders: Watched,
  { id, call, verdict }: { readonly id: bigint; readonly call: SupervisedCall; readonly verdict: Verdict },
): boolean {
  const opens = call.flags !== undefined && (call.flags & ~HARMLESS) === O.RDONLY;
  if (!opens && !looks(call.call)) return false;
  const found = look(call);
  if (typeof found === "number") {
    if (verdict.act === "ask") return false;
    reply(self, listener, id, { errno: found });
    return true;
  }
  using place = found;
  if (!opens || !orders.lent.includes(identityOf(place.number))) return false;
  // By its inode: no path is looked up a second time.
  using file = new Descriptor(open(self, `/proc/self/fd/${place.number}`, O.RDONLY | O.CLOEXEC));
  try {
    give(listener, id, { descriptor: file.number, flags: call.flags! & O.CLOEXEC });
  } catch (error) {
    reply(self, listener, id, { errno: error instanceof SystemError ? error.errno : ERRNO.EPERM });
  }
  return true;
}

/** The file that a call names, as its caller sees files; or the errno with which looking for it ends. */
function look(call: SupervisedCall): Descriptor | number {
  try {
    using root = new Descriptor(open(self, `/proc/${call.tid}/root`, O.PATH | O.DIRECTORY | O.CLOEXEC));
    const how = {
      directory: root.number,
      flags: O.PATH | O.CLOEXEC,
      resolve: RESOLVE.IN_ROOT | RESOLVE.NO_MAGICLINKS,
    };
    return new Descriptor(settled(() => openResolved(self, pathInside(call), how)));
  } catch (error) {
    if (error instanceof SystemError) return error.errno;
    throw error;
  }
}

function identityOf(descriptor: number): string {
  const { dev, inode } = fileStatus(self, descriptor);
  return `${dev}:${inode}`;
}

function isThere(call: SupervisedCall): boolean {
  if (call.paths.length === 0 || call.paths[0] === "") return true;
  const found = look(call);
  if (typeof found === "number") return found !== ERRNO.ENOENT && found !== ERRNO.ENOTDIR;
  found.close();
  return true;
}

/** Carries out an answer of the main thread. */
function settle(listener: number, id: string, answer: Settled): void {
  const orders = watched.get(listener);
  const notification = orders?.asked.get(id);
  if (orders !== undefined && notification !== undefined) {
    orders.asked.delete(id);
    try {
      if (answer === "end") end(listener, notification.id, describeCall(self, notification));
      else if (typeof answer === "object" && "connect" in answer) connect(listener, notification, answer);
      else give(listener, notification.id, answer);
    } catch (error) {
      // As EMFILE: what the caller cannot take.
      const errno = error instanceof SystemError ? error.errno : ERRNO.EPERM;
      reply(self, listener, notification.id, { errno });
    }
  }
  postMessage({ told: "settled", listener, id });
}

/** Connects the caller's socket in its place. One of datagrams, for which nobody has to wait. */
function connect(
  listener: number,
  { id, tid }: Notification,
  { connect, to }: Extract<Settled, { connect: number }>,
): void {
  using target = new Descriptor(openProcess(self, processOf(tid).pid));
  using socket = new Descriptor(takeDescriptor(self, target.number, connect));
  if (!isWaiting(self, listener, id)) return;
  if (isStream(self, socket.number)) throw new SystemError("connect", ERRNO.EOPNOTSUPP);
  self.call("connect", socket.number, Uint8Array.from(to), to.length);
  reply(self, listener, id, { value: 0n });
}

function give(listener: number, id: bigint, answer: Exclude<Settled, "end" | { connect: number }>): void {
  if (answer === "pass") reply(self, listener, id, "continue");
  else if ("value" in answer) reply(self, listener, id, { value: BigInt(answer.value) });
  else if ("errno" in answer) reply(self, listener, id, { errno: answer.errno });
  else giveDescriptor(listener, id, answer);
}

/** What takes a socket's place is answered with 0, as connect(2) is. */
function giveDescriptor(
  listener: number,
  id: bigint,
  given: { readonly descriptor: number; readonly at?: number; readonly flags: number },
): void {
  const number = injectDescriptor(self, listener, id, given);
  if (number !== undefined) reply(self, listener, id, { value: BigInt(given.at === undefined ? number : 0) });
}

// Its type is the main thread's.
(globalThis as { onmessage: unknown }).onmessage = ({
  data,
}: MessageEvent<{ readonly control: number; readonly taken: SharedArrayBuffer }>) => {
  taken = new Int32Array(data.taken);
  try {
    serve(data.control);
  } finally {
    // The main thread closes it. Until that knows, it is not to wait for who reads no more.
    self.call("shutdown", data.control, SHUT_RDWR);
    process.exit(); // of this thread
  }
};
