/** The thread that holds this process's children, for as long as it lives. */
import { CFunction, toArrayBuffer } from "bun:ffi";
import { SystemError } from "../../syscalls/error.ts";
import { executable, numberOf, self } from "../../syscalls/kernel.ts";
import { FUTEX, waitWhileZero } from "../../syscalls/linux/futex.ts";
import { CLONE, MAP, PROT } from "../../syscalls/linux/numbers.ts";
import { Assembler, R } from "../../syscalls/x64.ts";
import { SIGNAL } from "./threads.ts";

/*
 * The kernel sends PR_SET_PDEATHSIG when the thread ends whose child a process is, and that of a Worker may end while the host goes on. So what is
 * to live as long as the host is the child of a thread that does: this one, which runs stubs for us and never anything else. It is none of libc's.
 *
 * Its memory: the signals to block, room for those that were blocked before, the clone's flags, the top of the stack that lies behind; the code that
 * it runs, the stub to run next and what that is given, what the last one returned; whether there is a stub to run, whether it has returned.
 */
const MASK = 0;
const OLD_MASK = 8;
const FLAGS = 16;
const STACK = 24;
const SERVE = 32;
const STUB = 40;
const GIVEN = 48;
const RETURNED = 56;
const ASKED = 64;
const DONE = 68;
/** By a signal every thread is had to make calls (`threads.ts`), and what the kernel puts on the stack for that grows with the processor's registers. */
const SIZE = 64 * 1024;

/** For how long at once we wait. */
const LOOK_NS = 100_000_000n;

/** The flags of a thread, which shares all there is to share. */
const THREAD = CLONE.VM | CLONE.FS | CLONE.FILES | CLONE.SIGHAND | CLONE.THREAD | CLONE.SYSVSEM;

const memory = (offset: number) => ({ base: R.R12, offset });

/** Starts the thread on the memory at rdi, and returns its id or `-errno`. */
export function beginCode(): Assembler {
  const setMask = (code: Assembler, mask: number, old: number | undefined) => {
    code.set(R.AX, numberOf("rt_sigprocmask", "x64")).set(R.DI, 2).address(R.SI, memory(mask)); // SIG_SETMASK
    if (old === undefined) code.clear(R.DX);
    else code.address(R.DX, memory(old));
    return code.set(R.R10, 8).syscall();
  };
  const code = new Assembler().push(R.BP).push(R.R12).copy(R.R12, R.DI);
  setMask(code, MASK, OLD_MASK)
    .set(R.AX, numberOf("clone", "x64"))
    .load(R.DI, memory(FLAGS))
    .load(R.SI, memory(STACK))
    .clear(R.DX)
    .clear(R.R10)
    .clear(R.R8)
    .syscall()
    .test(R.AX, 64)
    .branch("je", "thread")
    .copy(R.BP, R.AX);
  return setMask(code, OLD_MASK, undefined)
    .copy(R.AX, R.BP)
    .pop(R.R12)
    .pop(R.BP)
    .return()
    .label("thread")
    .load(R.AX, memory(SERVE))
    .jumpTo(R.AX);
}

/** What the thread does: says what the last stub returned, waits for another one, and runs that, which returns to where this begins. */
export function serveCode(): Assembler {
  const futex = (code: Assembler, word: number, command: number, value: number) =>
    code
      .set(R.AX, numberOf("futex", "x64"))
      .address(R.DI, memory(word))
      .set(R.SI, command)
      .set(R.DX, value)
      .clear(R.R10)
      .syscall();
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

interface Anchor {
  readonly address: number;
  readonly view: DataView;
}

let anchor: Anchor | undefined;

/**
 * Runs a stub, and waits in place for what it returns. Children that it makes are those of a thread that ends with the process. Throws the SystemError
 * of `clone(2)` where there can be no such thread.
 * @param stub the address of a function of one word
 */
export function runAnchored(stub: number, given: number): number {
  anchor ??= begin();
  const { address, view } = anchor;
  view.setBigUint64(STUB, BigInt(stub), true);
  view.setBigUint64(GIVEN, BigInt(given), true);
  view.setUint32(DONE, 0, true);
  view.setUint32(ASKED, 1, true);
  self.call("futex", address + ASKED, FUTEX.WAKE_PRIVATE, 1);
  wait(anchor);
  return Number(view.getBigInt64(RETURNED, true));
}

function wait({ address, view }: Anchor): void {
  while (view.getUint32(DONE, true) === 0) waitWhileZero(self, address + DONE, LOOK_NS);
}

function begin(): Anchor {
  const address = self.call("mmap", 0, SIZE, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0);
  const view = new DataView(toArrayBuffer(address as never, 0, SIZE));
  view.setBigUint64(MASK, (2n ** 64n - 1n) & ~(1n << BigInt(SIGNAL - 1)), true);
  view.setBigUint64(FLAGS, THREAD, true);
  view.setBigUint64(STACK, BigInt(address + SIZE), true);
  view.setBigUint64(SERVE, BigInt(executable(serveCode().assemble())), true);
  const start = CFunction({
    ptr: executable(beginCode().assemble()) as never,
    args: ["ptr"],
    returns: "i64_fast" as never,
  }) as unknown as (memory: number) => number; // one word in, one word out
  const thread = start(address);
  if (thread < 0) {
    self.call("munmap", address, SIZE);
    throw new SystemError("clone", -thread, "(a thread of this process)");
  }
  const made = { address, view };
  wait(made);
  return made;
}
