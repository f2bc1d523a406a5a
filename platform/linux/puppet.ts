/** The puppet: a process without a will of its own, which makes the system calls that it is told to make. */
import { MAX_ERRNO, numberOf } from "../../syscalls/kernel.ts";
import { SIG } from "../../syscalls/linux/numbers.ts";
import { POLLIN } from "../../syscalls/linux/poll.ts";
import { CLD, SIGINFO, SIGINFO_SIZE } from "../../syscalls/linux/process.ts";
import { Assembler, R } from "../../syscalls/x64.ts";
import {
  ARGUMENTS,
  AWAITED,
  BUFFER,
  CALL,
  CHILD_STRINGS,
  FIRST_POLL,
  FORKS,
  FRAME_SIZE,
  HEADER,
  IS_MAIN,
  MADE,
  MAY_FAIL,
  NEWS,
  NEWS_SIZE,
  OWN_STRINGS,
  POLLED,
  READABLE,
  RESULT,
  SECOND_POLL,
  STRINGS,
  THIRD_POLL,
  TIMED_OUT,
} from "./frame.ts";

/** Where its code lies. */
const CODE = 0x400000;
/** Where the puppet has the kernel write how a child ended: behind the frame. */
const ENDED = BUFFER + FRAME_SIZE;

/**
 * Makes the calls at rbx, as many as ebp says, and falls through to `done` with ebp as the number of calls left: zero, or one
 * more than stand behind the one that failed.
 *
 * A call that forks parts the frame: what stands behind it is the child's, which forgets its parent's children.
 */
export function carryOut(assembler: Assembler): Assembler {
  const call = (offset: number, index8?: (typeof R)["CX"]) =>
    index8 === undefined ? { base: R.BX, offset } : { base: R.BX, offset, index8 };
  return assembler
    .label("next")
    .test(R.BP, 32)
    .branch("jne", "prepare")
    .jump("done")
    .label("prepare")
    .clear(R.CX)
    .label("argument") // an argument may be the result of an earlier call of the same frame
    .testBit(call(4), R.CX)
    .branch("jae", "ready")
    .load(R.AX, call(ARGUMENTS, R.CX))
    .load(R.AX, { base: R.AX, offset: 0 })
    .store(call(ARGUMENTS, R.CX), R.AX)
    .label("ready")
    .increment(R.CX)
    .compare(R.CX, 6)
    .branch("jne", "argument")
    .load(R.AX, call(0), 32)
    .load(R.DI, call(8))
    .load(R.SI, call(16))
    .load(R.DX, call(24))
    .load(R.R10, call(32))
    .load(R.R8, call(40))
    .load(R.R9, call(48))
    .syscall()
    .store(call(RESULT), R.AX)
    .compareResult(-MAX_ERRNO)
    .branch("jb", "made")
    .testByte(call(5), MAY_FAIL)
    .branch("je", "done")
    .label("made")
    .testByte(call(5), FORKS)
    .branch("jne", "forked")
    .label("behind")
    .add(R.BX, CALL)
    .decrement(R.BP)
    .jump("next")
    .label("forked")
    .test(R.AX, 64)
    .branch("je", "born")
    .testByte(call(5), IS_MAIN)
    .branch("je", "parted")
    .copy(R.R13, R.AX)
    .label("parted")
    .clear(R.BP)
    .jump("done")
    .label("born")
    .store({ base: R.R12, offset: POLLED }, R.AX, 32)
    .load(R.AX, { base: R.R12, offset: CHILD_STRINGS }, 32)
    .store({ base: R.R12, offset: OWN_STRINGS }, R.AX, 32)
    .clear(R.R13)
    .jump("behind")
    .label("done");
}

/**
 * The puppet's program: reads a frame, carries it out, answers, and ends when the other end of the socket closes. Meanwhile, if a frame
 * said so, it reaps its children, and ends when its timer expires. Of a main child it tells alone, passes signals on to it, and ends as it does; r13
 * has its process id.
 */
export function puppetCode(): Assembler {
  const frame = (offset: number) => ({ base: R.R12, offset });
  const info = (offset: number) => ({ base: R.BX, offset });
  const code = new Assembler()
    .set(R.R12, BUFFER)
    .set(R.AX, STRINGS)
    .store(frame(OWN_STRINGS), R.AX, 32)
    .label("frame")
    .clear(R.AX) // read(strings, buffer, size)
    .load(R.DI, frame(OWN_STRINGS), 32)
    .set(R.SI, BUFFER)
    .set(R.DX, FRAME_SIZE)
    .syscall()
    .test(R.AX, 64)
    .branch("jg", "received")
    .clear(R.DI) // nothing came: the host closed its end, or is gone
    .set(R.AX, numberOf("exit_group", "x64"))
    .syscall()
    .label("received")
    .load(R.BP, frame(0), 32)
    .address(R.BX, frame(HEADER));
  return carryOut(code)
    .load(R.AX, frame(0), 32)
    .subtract(R.AX, R.BP)
    .store(frame(MADE), R.AX, 32)
    .load(R.DX, frame(4), 32) // write(strings, buffer, wanted)
    .copy(R.SI, R.R12)
    .load(R.DI, frame(OWN_STRINGS), 32)
    .set(R.AX, 1)
    .syscall()

    .label("serve")
    .load(R.SI, frame(POLLED), 32)
    .test(R.SI, 32)
    .branch("jne", "wait")
    .jump("frame")
    .label("wait") // poll(pollfds, polled, -1)
    .address(R.DI, frame(FIRST_POLL))
    .set(R.DX, 0xffffffff)
    .set(R.AX, numberOf("poll", "x64"))
    .syscall()
    .testByte(frame(FIRST_POLL + 6), READABLE)
    .branch("je", "signal")
    .jump("frame")

    .label("signal")
    .testByte(frame(THIRD_POLL + 6), POLLIN)
    .branch("je", "timely")
    .set(R.DI, TIMED_OUT)
    .jump("end")
    .label("timely")
    .testByte(frame(SECOND_POLL + 6), POLLIN)
    .branch("je", "serve")
    .load(R.DI, frame(SECOND_POLL), 32) // read(signalfd, info, 128)
    .set(R.SI, ENDED)
    .set(R.DX, SIGINFO_SIZE)
    .clear(R.AX)
    .syscall()
    .set(R.BX, ENDED)
    .load(R.SI, info(0), 32)
    .compare(R.SI, SIG.CHLD)
    .branch("je", "reap")
    .test(R.R13, 64)
    .branch("je", "serve")
    .copy(R.DI, R.R13) // kill(main, signal)
    .set(R.AX, numberOf("kill", "x64"))
    .syscall()
    .jump("serve")

    .label("reap") // waitid(P_ALL, 0, info, what happened, usage)
    .clear(R.DI)
    .clear(R.SI)
    .set(R.DX, ENDED)
    .load(R.R10, frame(AWAITED), 32)
    .set(R.R8, ENDED + SIGINFO_SIZE)
    .set(R.AX, numberOf("waitid", "x64"))
    .syscall()
    .test(R.AX, 64)
    .branch("jne", "reaped") // there are no children
    .load(R.AX, info(SIGINFO.offsets.pid), 32)
    .test(R.AX, 32)
    .branch("je", "reaped") // none has ended
    .test(R.R13, 64)
    .branch("je", "tell")
    .compareRegisters(R.AX, R.R13)
    .branch("jne", "reap") // an orphan
    .label("tell")
    .set(R.DI, NEWS) // write(4, info and usage)
    .set(R.SI, ENDED)
    .set(R.DX, NEWS_SIZE)
    .set(R.AX, 1)
    .syscall()
    .test(R.R13, 64)
    .branch("je", "reap")
    .load(R.AX, info(SIGINFO.offsets.code), 32)
    .compare(R.AX, CLD.TRAPPED)
    .branch("jae", "reap") // it only stopped
    .load(R.DI, info(SIGINFO.offsets.status), 32)
    .compare(R.AX, CLD.EXITED)
    .branch("je", "end")
    .add(R.DI, 64) // as a shell has it: 128 and the signal's number
    .add(R.DI, 64)
    .label("end")
    .set(R.AX, numberOf("exit_group", "x64"))
    .syscall()
    .label("reaped")
    .jump("serve");
}

/** A static ELF executable of two segments: the code, and the buffer, which is all zeroes and not in the file. */
export function puppetImage(): Uint8Array {
  const code = puppetCode().assemble();
  const headers = 64 + 3 * 56;
  const image = new Uint8Array(headers + code.length);
  const view = new DataView(image.buffer);
  image.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]); // ELF, 64 bits, little-endian, version 1
  view.setUint16(16, 2, true); // executable
  view.setUint16(18, 62, true); // x86-64
  view.setUint32(20, 1, true);
  view.setBigUint64(24, BigInt(CODE + headers), true); // entry
  view.setBigUint64(32, 64n, true); // program headers follow at once
  view.setUint16(52, 64, true);
  view.setUint16(54, 56, true);
  view.setUint16(56, 3, true);
  const segment = (index: number, type: number, flags: number, address: number, inFile: number, inMemory: number) => {
    const at = 64 + 56 * index;
    view.setUint32(at, type, true);
    view.setUint32(at + 4, flags, true);
    view.setBigUint64(at + 16, BigInt(address), true);
    view.setBigUint64(at + 24, BigInt(address), true);
    view.setBigUint64(at + 32, BigInt(inFile), true);
    view.setBigUint64(at + 40, BigInt(inMemory), true);
    view.setBigUint64(at + 48, 4096n, true);
  };
  segment(0, 1, 5, CODE, image.length, image.length); // PT_LOAD, read and execute
  segment(1, 1, 6, BUFFER, 0, FRAME_SIZE + NEWS_SIZE); // PT_LOAD, read and write
  segment(2, 0x6474e551, 6, 0, 0, 0); // PT_GNU_STACK: not executable
  image.set(code, headers);
  return image;
}
