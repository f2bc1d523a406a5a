import { expect, test } from "bun:test";
import { GROUPS } from "../../../platform/linux/seccomp/index.ts";
import { NUMBERS } from "../../../syscalls/linux/numbers.ts";

const CALLS = Object.keys({ ...NUMBERS.x64, ...NUMBERS.arm64 }).sort();

test("GROUPS has each call of each machine in exactly one group, and nothing else", () => {
  // A call that is new in the generated table shows here: put it where calls alike are.
  expect(Object.values(GROUPS).flat().sort() as string[]).toEqual(CALLS);
});

test("GROUPS names what the other machine calls otherwise beside what is meant", () => {
  const together = [
    ["open", "openat"],
    ["stat", "newfstatat"],
    ["fork", "clone"],
    ["epoll_wait", "epoll_pwait"],
    ["rename", "renameat2"],
    ["getpgrp", "getpgid"],
    ["pipe", "pipe2"],
    ["signalfd", "signalfd4"],
    ["alarm", "setitimer"],
    ["chmod", "fchmodat"],
    ["time", "clock_gettime"],
    ["select", "pselect6"],
  ];
  for (const names of together) {
    const groups = Object.entries(GROUPS).filter(([, calls]) => names.some((name) => calls.includes(name as never)));
    expect([names, groups.length]).toEqual([names, 1]);
  }
});
