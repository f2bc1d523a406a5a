import { expect, test } from "bun:test";
import { Batch, prepare } from "../../platform/linux/puppet.ts";
import { self } from "../../syscalls/kernel.ts";
import { setUmask } from "../../syscalls/linux/file.ts";
import { PR } from "../../syscalls/linux/numbers.ts";
import {
  createSession,
  execute,
  getLimit,
  reap,
  setLimit,
  setNoNewPrivileges,
  setParentDeathSignal,
} from "../../syscalls/linux/process.ts";
import { signalProcess } from "../../syscalls/linux/signal.ts";
import { awaitEnd, hold, statusOf, testPuppet } from "../platform/strings.ts";

test("getLimit() reads what /proc says", async () => {
  const limits = await Bun.file("/proc/self/limits").text();
  const [, soft, hard] = /^Max open files +(\d+) +(\d+)/m.exec(limits)!;
  expect(getLimit(self, "NOFILE")).toEqual({ soft: BigInt(soft!), hard: BigInt(hard!) });
});

testPuppet("setLimit() sets both limits, and they cannot be raised without CAP_SYS_RESOURCE", () => {
  using puppet = hold();
  setLimit(puppet.kernel, "MSGQUEUE", 0n);
  expect(getLimit(puppet.kernel, "MSGQUEUE")).toEqual({ soft: 0n, hard: 0n });
  puppet.kernel.call("capset", Uint8Array.of(0x22, 5, 8, 0x20, 0, 0, 0, 0), new Uint8Array(24));
  expect(() => setLimit(puppet.kernel, "MSGQUEUE", 1n)).toThrow("EPERM: prlimit64");
});

testPuppet("setLimit() to no open files makes the next open fail with EMFILE", () => {
  using puppet = hold();
  setLimit(puppet.kernel, "NOFILE", 4n);
  expect(() => puppet.kernel.call("dup", 3)).toThrow("EMFILE: dup");
});

testPuppet(
  "createSession(), setUmask(), setNoNewPrivileges(), setParentDeathSignal() are seen in /proc and prctl",
  () => {
    using puppet = hold();
    expect(puppet.kernel.call("getsid", 0)).not.toBe(puppet.pid);
    createSession(puppet.kernel);
    setUmask(puppet.kernel, 0o027);
    expect(statusOf(puppet.pid)).toMatchObject({ Umask: "0027", NoNewPrivs: "0" });
    setNoNewPrivileges(puppet.kernel);
    expect(statusOf(puppet.pid)).toMatchObject({ NoNewPrivs: "1" });
    expect(puppet.kernel.call("getsid", 0)).toBe(puppet.pid);
    setParentDeathSignal(puppet.kernel, 9);
    const signal = new Uint8Array(4);
    puppet.kernel.call("prctl", PR.GET_PDEATHSIG, signal, 0, 0, 0);
    expect(signal[0]).toBe(9);
  },
);

testPuppet("execute() becomes a program with these arguments and this environment, and no others", async () => {
  const read = (path: string) => Bun.file(path).text();
  using puppet = hold();
  const batch = new Batch();
  execute(batch, "/bin/sh", ["sh", "-c", "read line <&3; exit 7"], ["A=1"]);
  puppet.kernel.post(prepare(batch));
  // The socket stays open in the program, which waits for a line of it.
  // The kernel shows the environment, which the puppet has none of, last of what an execve changes.
  while ((await read(`/proc/${puppet.pid}/environ`)) === "") await Bun.sleep(0);
  expect(await read(`/proc/${puppet.pid}/cmdline`)).toBe("sh\0-c\0read line <&3; exit 7\0");
  expect(await read(`/proc/${puppet.pid}/environ`)).toBe("A=1\0");
  self.call("sendto", puppet.socket.number, Buffer.from("\n"), 1, 0, 0, 0);
  expect(awaitEnd(puppet)).toMatchObject({ code: 7 });
});

testPuppet("reap() gives undefined while the process lives, then how it ended, and only once", () => {
  using puppet = hold();
  expect(reap(self, puppet.pidfd.number)).toBeUndefined();
  const batch = new Batch();
  batch.call("exit_group", 258); // the kernel keeps the low byte
  puppet.kernel.post(prepare(batch));
  const { number } = puppet.pidfd;
  const again = self.call("fcntl", number, 0, 0); // F_DUPFD
  expect(awaitEnd(puppet)).toMatchObject({ code: 2 });
  expect(() => reap(self, again)).toThrow("ECHILD: waitid");
  self.call("close", again);
});

testPuppet("signalProcess() ends a process, and reap() names the signal", () => {
  using puppet = hold();
  signalProcess(self, puppet.pidfd.number, 9);
  const end = awaitEnd(puppet);
  expect(end).toMatchObject({ signal: 9 });
  expect(end.code).toBeUndefined();
});
