import { expect, test } from "bun:test";
import { resetSignals, unblockSignals } from "../../syscalls/linux/signal.ts";
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
