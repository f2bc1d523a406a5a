import { expect, test } from "bun:test";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { socketPair } from "../../syscalls/linux/socket.ts";
import { ready } from "../../syscalls/ready.ts";
import { openDescriptors, until } from "../attacks/arena.ts";

const send = (socket: number, text: string) => self.call("write", socket, Buffer.from(text), text.length);

test("ready() settles when there is something to read, and reads nothing of it", async () => {
  const before = openDescriptors();
  const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
  using socket = new Descriptor(ours);
  using other = new Descriptor(theirs);
  let settled = false;
  const waiting = ready(socket.number, "read").done.then(() => {
    settled = true;
  });
  for (let turns = 0; turns < 20; turns++) await Bun.sleep(0);
  expect(settled).toBe(false);
  send(other.number, "packet");
  await waiting;
  const into = Buffer.alloc(16);
  expect(into.toString("utf8", 0, self.call("read", socket.number, into, into.length))).toBe("packet");
  await until(() => openDescriptors() <= before + 2);
});

test("ready() settles at the other's end", async () => {
  const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
  using socket = new Descriptor(ours);
  const waiting = ready(socket.number, "read").done;
  self.call("close", theirs);
  await waiting;
});
