/** Calls that every thread of this process makes for itself, for what the kernel keeps by thread: credentials, Landlock, no-new-privileges. */
import { toArrayBuffer } from "bun:ffi";
import { readdirSync, readFileSync } from "node:fs";
import { executable, numberOf, self } from "../../syscalls/kernel.ts";
import { FUTEX, waitWhileZero } from "../../syscalls/linux/futex.ts";
import { MAP, PROT, SA } from "../../syscalls/linux/numbers.ts";
import { Struct } from "../../syscalls/struct.ts";
import { Assembler, R } from "../../syscalls/x64.ts";
import { PartlyConfined } from "../platform.ts";
import { Batch, type Frame, layOut } from "./frame.ts";
import { carryOut } from "./puppet.ts";

/**
 * The signal by which glibc changes the ids of all threads, and by which we do the rest: its wrappers never block it, where Bun's
 * own threads block nearly all others. What is meant for glibc goes on to glibc.
 */
export const SIGNAL = 33;

/*
 * The memory that the handler works in: the thread whose turn it is, the number of calls, how many were left when it gave up, whether it
 * is through, the handler that was there before; then the calls.
 */
const TURN = 0;
const COUNT = 4;
const LEFT = 8;
const THROUGH = 12;
const BEFORE = 16;
const HEADER = 24;
const ROOM = 16 * 1024;

/** `si_code` of a signal that was queued, which glibc's own are not. */
const SI_QUEUE = -1;
const SIGINFO = new Struct({ signo: "i32", errno: "i32", code: "i32" });
const SIGINFO_SIZE = 128;
const SIGACTION = new Struct({ handler: "u64", flags: "u64", restorer: "u64", mask: "u64" });
const SET_SIZE = 8;

/** For how long a thread may keep everyone waiting; and how often it is looked at, for one that ends does not say so. */
const PATIENCE_MS = 10_000;
const LOOK_NS = 20_000_000n;

/**
 * The handler: carries out the calls of the block, if it is this thread's turn. It runs on a thread that may hold any lock of Bun's or of
 * libc's, so it makes system calls and nothing else. Signals are blocked meanwhile, and the kernel puts every register back.
 */
export function handlerCode(block: number): Assembler {
  const at = (offset: number) => ({ base: R.R12, offset });
  const code = new Assembler()
    .setWide(R.R12, BigInt(block))
    .load(R.AX, { base: R.SI, offset: SIGINFO.offsets.code }, 32)
    .increment(R.AX) // zero for SI_QUEUE
    .branch("jne", "other")
    .set(R.AX, numberOf("gettid", "x64"))
    .syscall()
    .load(R.CX, at(TURN), 32)
    .compareRegisters(R.AX, R.CX)
    .branch("jne", "other")
    .clear(R.AX)
    .store(at(TURN), R.AX, 32)
    .load(R.BP, at(COUNT), 32)
    .address(R.BX, at(HEADER))
    .jump("calls")
    .label("other") // glibc's, or that of another of our instances: each Worker has its own
    .load(R.AX, at(BEFORE))
    .test(R.AX, 64)
    .branch("je", "none")
    .jumpTo(R.AX)
    .label("none")
    .return()
    .label("calls");
  return carryOut(code)
    .store(at(LEFT), R.BP, 32)
    .set(R.AX, 1)
    .store(at(THROUGH), R.AX, 32)
    .address(R.DI, at(THROUGH)) // futex(through, FUTEX_WAKE, 1)
    .set(R.SI, FUTEX.WAKE_PRIVATE)
    .set(R.DX, 1)
    .set(R.AX, numberOf("futex", "x64"))
    .syscall()
    .return();
}

/** Where a handler returns to. */
function restorerCode(): Assembler {
  return new Assembler().set(R.AX, numberOf("rt_sigreturn", "x64")).syscall();
}

/** A thread of this process. */
interface Thread {
  readonly id: number;
  readonly name: string;
}

/** The fields of a thread's status, by the names that proc_pid_status(5) has. */
type Status = Readonly<Record<string, string>>;

/** Undefined where the thread has ended. */
export function statusOf(thread: number): Status | undefined {
  try {
    const lines = readFileSync(`/proc/self/task/${thread}/status`, "utf8").trimEnd().split("\n");
    return Object.fromEntries(lines.map((line) => line.split(/:\s*/, 2)));
  } catch (error) {
    if (hasEnded(error)) return undefined;
    throw error;
  }
}

/** Threads end when they like. */
const hasEnded = (error: unknown) => ["ENOENT", "ESRCH"].includes((error as { code?: string }).code ?? "");

/** The threads of this process. Throws for the kernel's own among them. */
export function threads(): Thread[] {
  return readdirSync("/proc/self/task").flatMap((name) => {
    const status = statusOf(Number(name));
    return status === undefined ? [] : [threadOf(Number(name), status)];
  });
}

/** Throws for one of the kernel's, which take no signals and would keep what the others give up. In their first moments they have other names. */
function threadOf(id: number, { Name = "" }: Status): Thread {
  if (!Name.startsWith("iou-")) return { id, name: Name };
  throw new Error(
    `Cannot confine this process: io_uring works for it in thread ${id} (${Name}), which no signal reaches; confine before a ring is made`,
  );
}

/**
 * Has every thread of this process make the same calls, each for itself. A thread that comes into being meanwhile has from its maker what
 * that had, and makes them, too; one that ends does not.
 *
 * A signal interrupts what each thread does, as glibc's own do when ids change: reads and waits go on behind it. Throws the SystemError of the
 * first call, or an Error where a thread does not take the signal for ten seconds; PartlyConfined where calls had been made by then.
 * @param what is in force on those threads, in words for people
 * @param check is given the results of each thread that made the calls, in their order
 */
export function onEveryThread(
  what: string,
  calls: (batch: Batch) => void,
  check: (results: readonly number[], thread: Thread) => void = () => {},
): void {
  const batch = new Batch();
  calls(batch);
  const own = block();
  const round: Round = {
    own,
    frame: layOut(batch.entries, own.address, HEADER, ROOM),
    count: batch.entries.length,
  };
  const begun = new Set<number>();
  const done = new Set<number>();
  try {
    // A directory that is read while threads end may leave one out: so it has to show nothing new twice.
    for (let quiet = 0; quiet < 2; ) {
      const left = threads().filter(({ id }) => !done.has(id));
      quiet = left.length === 0 ? quiet + 1 : 0;
      for (const thread of left) {
        const made = haveMake(thread, round);
        if (made > 0) begun.add(thread.id);
        if (made >= 0) check(round.frame.results(own.bytes, made), thread);
        done.add(thread.id);
      }
    }
  } catch (error) {
    if (begun.size === 0) throw error;
    throw new PartlyConfined([`${what} on ${begun.size} of its threads`], error);
  }
}

/** Throws where `onEveryThread` would not get through, and does nothing else. */
export function reachEveryThread(): void {
  onEveryThread("nothing", () => {});
}

/** The same calls, for one thread after the other. */
interface Round {
  readonly own: Block;
  readonly frame: Frame;
  readonly count: number;
}

/** Has one thread make the calls, and tells how many of them succeeded; -1 where it ended instead. */
function haveMake(thread: Thread, { own, frame, count }: Round): number {
  const deadline = performance.now() + PATIENCE_MS;
  own.bytes.set(frame.bytes.subarray(HEADER), HEADER);
  set(own, COUNT, count);
  set(own, LEFT, count);
  set(own, THROUGH, 0);
  set(own, TURN, thread.id);
  for (let status = statusOf(thread.id); get(own, THROUGH) === 0; status = statusOf(thread.id)) {
    // One whose turn never came made no calls; one that ended on its turn needs them no more.
    if (status === undefined || /^[ZX]/.test(status.State!)) {
      set(own, TURN, 0);
      return -1;
    }
    threadOf(thread.id, status);
    if (performance.now() > deadline) {
      set(own, TURN, 0);
      made = undefined; // it may be in the midst of these calls, and the next are not to be written over them
      throw new Error(`Cannot reach thread ${thread.id} (${thread.name}): ${reasonOf(status)}`);
    }
    // Again where it is gone: another instance of ours that came just now knows nothing of this one yet.
    if (!has(status.SigPnd!)) send(thread.id);
    waitWhileZero(self, own.address + THROUGH, LOOK_NS);
  }
  return count - get(own, LEFT);
}

/** Queues the signal for a thread, unless that has ended. */
function send(thread: number): void {
  const info = new Uint8Array(SIGINFO_SIZE);
  info.set(SIGINFO.encode({ signo: SIGNAL, code: SI_QUEUE }).bytes);
  try {
    self.call("rt_tgsigqueueinfo", process.pid, thread, SIGNAL, info);
  } catch (error) {
    if (!hasEnded(error)) throw error;
  }
}

/** Whether a set of signals, as a status has it, has ours. */
const has = (set: string) => ((BigInt(`0x${set}`) >> BigInt(SIGNAL - 1)) & 1n) === 1n;

function reasonOf({ State, SigBlk }: Status): string {
  return has(SigBlk!) ? `it blocks signal ${SIGNAL}` : `it takes no signals, in state ${State}`;
}

interface Block {
  readonly address: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

const get = ({ view }: Block, offset: number) => view.getUint32(offset, true);
const set = ({ view }: Block, offset: number, value: number) => view.setUint32(offset, value, true);

let made: Block | undefined;

/** The handler's memory, and the handler in place: for good, as a signal that comes late must still find it. */
function block(): Block {
  made ??= install();
  return made;
}

function install(): Block {
  const address = self.call("mmap", 0, ROOM, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0);
  const bytes = new Uint8Array(toArrayBuffer(address as never, 0, ROOM));
  const view = new DataView(bytes.buffer);
  const action = SIGACTION.encode({
    handler: BigInt(executable(handlerCode(address).assemble())),
    flags: BigInt(SA.SIGINFO | SA.ONSTACK | SA.RESTART | SA.RESTORER),
    restorer: BigInt(executable(restorerCode().assemble())),
    mask: 2n ** 64n - 1n,
  });
  const before = new Uint8Array(SIGACTION.size);
  const remember = () => {
    const { handler } = SIGACTION.decode(before);
    view.setBigUint64(BEFORE, handler > 1n ? handler : 0n, true); // 0 and 1 are SIG_DFL and SIG_IGN
  };
  // Asked first, as glibc's signal may come when ours has just taken its place; and told again, as a Worker's may have been quicker.
  self.call("rt_sigaction", SIGNAL, null, before, SET_SIZE);
  remember();
  self.call("rt_sigaction", SIGNAL, action, before, SET_SIZE);
  remember();
  return { address, bytes, view };
}
