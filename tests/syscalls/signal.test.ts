import { expect, test } from "bun:test";
import { self } from "../../syscalls/kernel.ts";
import { SFD, SIG } from "../../syscalls/linux/numbers.ts";
import { blockSignals, openSignals, resetSignals, signalProcess, unblockSignals } from "../../syscalls/linux/signal.ts";
import { hold, statusOf, testPuppet } from "../platform/strings.ts";
import { Recorder } from "./recorder.ts";

const NONE = "0000000000000000";

testPuppet("resetSignals() and unblockSignals() leave nothing blocked, ignored or caught", () => {
  using puppet = hold();
  puppet.kernel.call("rt_sigaction", 10, Uint8Array.of(1, ...new Uint8Array(31)), null, 8); // SIGUSR1 is ignored
  const before = statusOf(puppet.pid);
  expect(BigInt(`0x${before.SigIgn}`) & (1n << 9n)).not.toBe(0n);
  expect(before.SigBlk).not.toBe(NONE); // the stub blocked all for the clone, and nobody unblocked them since
  resetSignals(puppet.kernel);
  unblockSignals(puppet.kernel);
  expect(statusOf(puppet.pid)).toMatchObject({ SigBlk: NONE, SigIgn: NONE, SigCgt: NONE });
});

test("resetSignals() names every signal but the two that have no disposition", () => {
  const recorder = new Recorder();
  resetSignals(recorder);
  const expected = Array.from({ length: 64 }, (_, index) => index + 1).filter(
    (signal) => signal !== 9 && signal !== 19,
  );
  expect(recorder.calls.map(([, signal]) => signal)).toEqual(expected);
});

testPuppet("blockSignals() adds to what is blocked, all that can be blocked if it is told so", () => {
  using puppet = hold();
  unblockSignals(puppet.kernel);
  blockSignals(puppet.kernel, [SIG.USR1]);
  blockSignals(puppet.kernel, [SIG.HUP, 64]);
  expect(statusOf(puppet.pid).SigBlk).toBe("8000000000000201");
  blockSignals(puppet.kernel, "all");
  expect(statusOf(puppet.pid).SigBlk).toBe("fffffffffffbfeff"); // SIGKILL and SIGSTOP are not
});

testPuppet("openSignals() gives a descriptor from which the signals named are read, and no others", () => {
  using puppet = hold();
  blockSignals(puppet.kernel, "all");
  const signals = openSignals(puppet.kernel, [SIG.USR1, SIG.TERM], SFD.CLOEXEC | SFD.NONBLOCK);
  const info = new Uint8Array(128); // struct signalfd_siginfo, whose head is the number
  const read = () => puppet.kernel.call("read", signals, info, info.length);
  expect(read).toThrow("EAGAIN: read");
  signalProcess(self, puppet.pidfd.number, SIG.USR2);
  expect(read).toThrow("EAGAIN: read");
  signalProcess(self, puppet.pidfd.number, SIG.TERM);
  expect(read()).toBe(info.length);
  expect(new DataView(info.buffer).getUint32(0, true)).toBe(SIG.TERM);
});

test("a set of signals takes no number that is none", () => {
  const recorder = new Recorder();
  for (const signal of [0, 65, -1, 1.5, Number.NaN])
    expect(() => blockSignals(recorder, [signal])).toThrow(
      new RangeError(`Cannot put signal ${signal} into a set: it is no number from 1 to 64`),
    );
  expect(recorder.calls).toEqual([]);
});
