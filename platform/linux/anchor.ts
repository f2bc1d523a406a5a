/** The thread that holds this process's children, for as long as it lives. */
import { CFunction } from "bun:ffi";
import { executable, MAX_ERRNO, numberOf } from "../../syscalls/kernel.ts";
import { FUTEX } from "../../syscalls/linux/futex.ts";
import { CLONE } from "../../syscalls/linux/numbers.ts";
import { Assembler, R } from "../../syscalls/x64.ts";
import { forkRefusal } from "./advice.ts";
import { page, STACK } from "./page.ts";
import { SIGNAL } from "./threads.ts";

/*
 * The kernel sends PR_SET_PDEATHSIG when the thread ends whose child a process is, and that of a Worker may end while the host goes on. So what is
 * to live as long as the host is the child of a thread that does: this one, which runs stubs for us and never anything else. It is none of libc's.
 *
 * All realms of the process have the one, in memory that they share (`page.ts`), and ask it one after the other. A Worker can be terminated between
 * any two operations of its JavaScript, but not within machine code: so whoever asks takes the lock, waits and gives it back in there, and no lock is
 * ever left behind. One thread a realm would have to know when its realm is gone and all its children are, and would be a thread each until then.
 *
 * Its memory: the signals to block, room for those that were blocked before, the clone's flags, the top of the stack; the code that it runs, the stub
 * to run next and what that is given, what the last one returned; whether there is a stub to run, whether it has returned; whether
 * somebody asks, and the thread's number.
 */
const MASK = 0;
const OLD_MASK = 8;
const FLAGS = 16;
const TOP = 24;
const SERVE = 32;
const STUB = 40;
const GIVEN = 48;
const RETURNED = 56;
const ASKED = 64;
const DONE = 68;
const LOCK = 72;
const THREAD = 76;

/** The flags of a thread, which shares all there is to share. */
const SHARED = CLONE.VM | CLONE.FS | CLONE.FILES | CLONE.SIGHAND | CLONE.THREAD | CLONE.SYSVSEM;

const memory = (offset: number) => ({ base: R.R12, offset });

const futex = (code: Assembler, word: number, command: number, value: number) =>
  code
    .set(R.AX, numberOf("futex", "x64"))
    .address(R.DI, memory(word))
    .set(R.SI, command)
    .set(R.DX, value)
    .clear(R.R10)
    .syscall();

/** Waits until nobody else asks. */
function lock(code: Assembler): Assembler {
  code.label("lock").set(R.AX, 1).exchange(memory(LOCK), R.AX).test(R.AX, 32).branch("je", "locked");
  return futex(code, LOCK, FUTEX.WAIT_PRIVATE, 1).jump("lock").label("locked");
}

function unlock(code: Assembler): Assembler {
  code.clear(R.AX).exchange(memory(LOCK), R.AX);
  return futex(code, LOCK, FUTEX.WAKE_PRIVATE, 1);
}

/** Waits until the thread has nothing to do. */
function awaitDone(code: Assembler): Assembler {
  code.label("look").load(R.AX, memory(DONE), 32).test(R.AX, 32).branch("jne", "done");
  return futex(code, DONE, FUTEX.WAIT_PRIVATE, 0).jump("look").label("done");
}

/** Has the thread block the signals at `mask`, and puts those that it blocked before at `old`: both from r12 on. */
export function setMask(code: Assembler, mask: number, old?: number): Assembler {
  code.set(R.AX, numberOf("rt_sigprocmask", "x64")).set(R.DI, 2).address(R.SI, memory(mask)); // SIG_SETMASK
  if (old === undefined) code.clear(R.DX);
  else code.address(R.DX, memory(old));
  return code.set(R.R10, 8).syscall();
}

/** Starts the thread on the memory at rdi, if there is none. Returns 0 or `-errno`. */
export function beginCode(): Assembler {
  const code = new Assembler().push(R.BP).push(R.R12).copy(R.R12, R.DI);
  lock(code)
    .load(R.AX, memory(THREAD), 32)
    .test(R.AX, 32)
    .branch("je", "begin")
    .clear(R.BP)
    .jump("end")
    .label("thread")
    .load(R.AX, memory(SERVE))
    .jumpTo(R.AX)
    .label("begin");
  setMask(code, MASK, OLD_MASK)
    .set(R.AX, numberOf("clone", "x64"))
    .load(R.DI, memory(FLAGS))
    .load(R.SI, memory(TOP))
    .clear(R.DX)
    .clear(R.R10)
    .clear(R.R8)
    .syscall()
    .test(R.AX, 64)
    .branch("je", "thread")
    .copy(R.BP, R.AX);
  setMask(code, OLD_MASK)
    .copy(R.AX, R.BP)
    .compareResult(-MAX_ERRNO)
    .branch("jae", "end")
    .store(memory(THREAD), R.BP, 32)
    .clear(R.BP);
  awaitDone(code).label("end");
  return unlock(code).copy(R.AX, R.BP).pop(R.R12).pop(R.BP).return();
}

/** Has the thread whose memory is at rdi run the stub at rsi, which is given rdx, and returns what that returns. */
export function askCode(): Assembler {
  const code = new Assembler().push(R.BX).push(R.BP).push(R.R12).copy(R.R12, R.DI).copy(R.BX, R.SI).copy(R.BP, R.DX);
  lock(code)
    .store(memory(STUB), R.BX)
    .store(memory(GIVEN), R.BP)
    .clear(R.AX)
    .store(memory(DONE), R.AX, 32)
    .set(R.AX, 1)
    .store(memory(ASKED), R.AX, 32);
  awaitDone(futex(code, ASKED, FUTEX.WAKE_PRIVATE, 1)).load(R.BP, memory(RETURNED));
  return unlock(code).copy(R.AX, R.BP).pop(R.R12).pop(R.BP).pop(R.BX).return();
}

/** What the thread does: says what the last stub returned, waits for another one, and runs that, which returns to where this begins. */
export function serveCode(): Assembler {
  const code = new Assembler().store(memory(RETURNED), R.AX).set(R.AX, 1).store(memory(DONE), R.AX, 32);
  futex(code, DONE, FUTEX.WAKE_PRIVATE, 1).label("wait");
  return futex(code, ASKED, FUTEX.WAIT_PRIVATE, 0)
    .load(R.AX, memory(ASKED), 32)
    .test(R.AX, 32)
    .branch("je", "wait")
    .clear(R.AX)
    .store(memory(ASKED), R.AX, 32)
    .load(R.AX, memory(SERVE))
    .push(R.AX)
    .load(R.DI, memory(GIVEN))
    .load(R.AX, memory(STUB))
    .jumpTo(R.AX);
}

type Ask = (address: number, stub: number, given: number) => number;

let ask: Ask | undefined;

/**
 * Runs a stub, and waits in place for what it returns. Children that it makes are those of a thread that ends with the process. Throws the SystemError
 * of `clone(2)` where there can be no such thread.
 * @param stub the address of a function of one word
 */
export function runAnchored(stub: number, given: number): number {
  ask ??= begin();
  return ask(page().address, stub, given);
}

function begin(): Ask {
  const { address, memory } = page();
  const view = new DataView(memory);
  if (view.getUint32(THREAD, true) === 0) {
    // Several realms may do this at once. They write the same, but for where the code is, and that is the same code.
    view.setBigUint64(MASK, (2n ** 64n - 1n) & ~(1n << BigInt(SIGNAL - 1)), true);
    view.setBigUint64(FLAGS, SHARED, true);
    view.setBigUint64(TOP, BigInt(address + STACK), true);
    view.setBigUint64(SERVE, BigInt(executable(serveCode().assemble())), true);
    const result = callable(beginCode(), 1)(address);
    if (result < 0) throw forkRefusal("clone", -result, "(a thread of this process)");
  }
  return callable(askCode(), 3);
}

/** The thread's number; 0 where nobody has needed it yet. */
export function anchorThread(): number {
  return new DataView(page().memory).getUint32(THREAD, true);
}

/** Machine code as a function: words in, one word out. */
export function callable(code: Assembler, words: number): (...words: number[]) => number {
  const made = CFunction({
    ptr: executable(code.assemble()) as never,
    args: new Array<"ptr">(words).fill("ptr"),
    returns: "i64_fast" as never, // @types/bun has it as a bigint; it is a number for all results there are
  });
  return made as unknown as (...words: number[]) => number;
}
