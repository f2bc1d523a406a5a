/** Calls that a filter hands to a supervisor, seccomp_unotify(2). */
import { SystemError } from "../error.ts";
import { type Kernel, self } from "../kernel.ts";
import { type Memory, Struct } from "../struct.ts";
import { ERRNO, SECCOMP_ADDFD_FLAG, SECCOMP_FILTER_FLAG, SECCOMP_IOCTL, SECCOMP_USER_NOTIF_FLAG } from "./numbers.ts";
import { knowsFilterFlags } from "./seccomp.ts";

/** struct seccomp_notif, with the struct seccomp_data in it. */
const NOTIF = new Struct({
  id: "u64",
  pid: "u32",
  flags: "u32",
  nr: "i32",
  arch: "u32",
  instruction_pointer: "u64",
  arg0: "u64",
  arg1: "u64",
  arg2: "u64",
  arg3: "u64",
  arg4: "u64",
  arg5: "u64",
});
const NOTIF_RESP = new Struct({ id: "u64", val: "i64", error: "i32", flags: "u32" });
const NOTIF_ADDFD = new Struct({ id: "u64", flags: "u32", srcfd: "u32", newfd: "u32", newfd_flags: "u32" });
const ID = new Struct({ id: "u64" });
const REMOTE_IOVEC = new Struct({ base: "u64", len: "u64" });
const LOCAL_IOVEC = new Struct({ base: "pointer", len: "u64" });

let flags: number | undefined;

/**
 * The flags of a filter with a listener. Where the kernel can (Linux 5.19), signals but those that end the caller leave a call alone that was
 * received; elsewhere an interrupted call is made again, and received a second time.
 */
export function listenerFlags(): number {
  const { NEW_LISTENER, WAIT_KILLABLE_RECV } = SECCOMP_FILTER_FLAG;
  flags ??= NEW_LISTENER | (knowsFilterFlags(self, NEW_LISTENER | WAIT_KILLABLE_RECV) ? WAIT_KILLABLE_RECV : 0);
  return flags;
}

/** A call that waits for its answer. */
export interface Notification {
  readonly id: bigint;
  /** The thread that made it, as the receiver's PID namespace numbers it. */
  readonly tid: number;
  /** The call's number. */
  readonly nr: number;
  readonly args: readonly bigint[];
}

/** Takes the next call, waiting for it. Undefined where whoever made it has ended, or was interrupted, before it could be taken. */
export function receiveNotification(kernel: Kernel, listener: number): Notification | undefined {
  const memory = NOTIF.encode({}); // the kernel takes none that is not zero
  if (!stillThere(() => kernel.call("ioctl", listener, SECCOMP_IOCTL.NOTIF_RECV, memory))) return undefined;
  const { id, pid, nr, arg0, arg1, arg2, arg3, arg4, arg5 } = NOTIF.decode(memory.bytes);
  return { id, tid: pid, nr, args: [arg0, arg1, arg2, arg3, arg4, arg5] };
}

/** Whether the call still waits. What was read by its `tid` before is that thread's only if this holds after. */
export function isWaiting(kernel: Kernel, listener: number, id: bigint): boolean {
  return stillThere(() => kernel.call("ioctl", listener, SECCOMP_IOCTL.NOTIF_ID_VALID, ID.encode({ id })));
}

/** What a call that waits gets: a result, or an errno. `"continue"` has the kernel make it: no verdict, for its memory can be another by then. */
export type Reply = { readonly value: bigint } | { readonly errno: number } | "continue";

/** Answers a call. False where nobody waits for it any more. */
export function reply(kernel: Kernel, listener: number, id: bigint, answer: Reply): boolean {
  return stillThere(() => kernel.call("ioctl", listener, SECCOMP_IOCTL.NOTIF_SEND, response(id, answer)));
}

function response(id: bigint, answer: Reply): Memory {
  if (answer === "continue") return NOTIF_RESP.encode({ id, flags: SECCOMP_USER_NOTIF_FLAG.CONTINUE });
  return "errno" in answer
    ? NOTIF_RESP.encode({ id, error: -answer.errno })
    : NOTIF_RESP.encode({ id, val: answer.value });
}

/**
 * Gives the caller a copy of a descriptor, and returns its number there: `at`, in place of what stands there, or the lowest that is free. Undefined
 * where nobody waits any more. Throws the SystemError of what the caller cannot take, as EMFILE. Linux 5.9
 *
 * The answer is a step of its own. The kernel can do both in one (SECCOMP_ADDFD_FLAG_SEND, Linux 5.14); but where a signal of this thread comes into
 * that, it takes the descriptor back, and the caller has got 0 all the same. Before Linux 5.19 a caller that is interrupted between the two steps has
 * a descriptor that it knows nothing of.
 */
export function injectDescriptor(
  kernel: Kernel,
  listener: number,
  id: bigint,
  given: { readonly descriptor: number; readonly at?: number; readonly flags: number },
): number | undefined {
  const add = NOTIF_ADDFD.encode({
    id,
    flags: given.at === undefined ? 0 : SECCOMP_ADDFD_FLAG.SETFD,
    srcfd: given.descriptor,
    newfd: given.at ?? 0,
    newfd_flags: given.flags,
  });
  let number = 0;
  const there = stillThere(() => {
    number = kernel.call("ioctl", listener, SECCOMP_IOCTL.NOTIF_ADDFD, add);
  });
  return there ? number : undefined;
}

/** ENOENT is the kernel's word for a call that waits no more, EINPROGRESS for one that was answered. */
function stillThere(act: () => void): boolean {
  for (;;) {
    try {
      act();
      return true;
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      if (error.errno === ERRNO.EINTR) continue; // this thread's own signals
      if (error.errno === ERRNO.ENOENT || error.errno === ERRNO.EINPROGRESS) return false;
      throw error;
    }
  }
}

/** Copies memory of another process, up to the first byte that is not there, and returns how much. `process_vm_readv(2)` */
export function readMemory(kernel: Kernel, tid: number, address: bigint, into: Uint8Array): number {
  const local = LOCAL_IOVEC.encode({ base: into, len: BigInt(into.length) });
  const remote = REMOTE_IOVEC.encode({ base: address, len: BigInt(into.length) });
  return kernel.call("process_vm_readv", tid, local, 1, remote, 1, 0);
}
