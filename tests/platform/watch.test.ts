import { expect, test } from "bun:test";
import { ended, watch } from "../../platform/linux/watch.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { SIG } from "../../syscalls/linux/numbers.ts";
import { WALL } from "../../syscalls/linux/process.ts";
import { signalProcess } from "../../syscalls/linux/signal.ts";
import { socketPair } from "../../syscalls/linux/socket.ts";
import { openDescriptors, until } from "../attacks/arena.ts";
import { children, descriptorsOf, hold, testPuppet } from "./strings.ts";

const send = (socket: number, text: string) => self.call("write", socket, Buffer.from(text), text.length);

test("watch() gives each packet as it was sent, and then the end, once", async () => {
  const before = openDescriptors();
  const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
  const said: string[] = [];
  let ends = 0;
  watch(ours, { data: (bytes) => said.push(Buffer.from(bytes).toString()), close: () => ends++ });
  for (const text of ["one", "two", "three"]) send(theirs, text);
  await until(() => said.length === 3);
  expect(said).toEqual(["one", "two", "three"]);
  self.call("close", theirs);
  await until(() => ends > 0 && openDescriptors() <= before);
});

test("watch() lets go of the socket when it is told to", async () => {
  const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
  const name = descriptorsOf("self")[ours]!;
  using other = new Descriptor(theirs);
  watch(ours, { data: (_, end) => end(), close() {} });
  send(other.number, "enough");
  await until(() => !Object.values(descriptorsOf("self")).includes(name));
  expect(() => self.call("sendto", other.number, Buffer.from("x"), 1, 0x4000, null, 0)).toThrow("EPIPE");
});

testPuppet("ended() gives how a process ended, reaps it, and lets go of it", async () => {
  const before = openDescriptors();
  for (const [act, how] of [
    [(puppet: ReturnType<typeof hold>) => puppet.socket.close(), { code: 0 }],
    [(puppet: ReturnType<typeof hold>) => signalProcess(self, puppet.pidfd.number, SIG.KILL), { signal: 9 }],
  ] as const) {
    using puppet = hold();
    const end = ended(puppet.pidfd);
    act(puppet);
    expect(await end).toMatchObject(how);
    expect(puppet.pidfd.closed).toBe(true);
    expect(children().map(({ pid }) => pid)).not.toContain(puppet.pid);
  }
  await until(() => openDescriptors() <= before);
});

testPuppet("ended() settles for a process that somebody else has reaped, as if it had been killed", async () => {
  using puppet = hold();
  const end = ended(puppet.pidfd);
  puppet.socket.close();
  self.call("wait4", puppet.pid, null, WALL, null);
  expect(await end).toMatchObject({ signal: SIG.KILL, cpuMicroseconds: 0 });
  expect(puppet.pidfd.closed).toBe(true);
});
