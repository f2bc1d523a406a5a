import { describe, expect, test } from "bun:test";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { MSG, SOCK } from "../../syscalls/linux/constants.ts";
import { close, createMemoryFile, writeAll } from "../../syscalls/linux/file.ts";
import { accept, connectTo, listenOn, openSocket } from "../../syscalls/linux/network.ts";
import { CLONE, F, FD } from "../../syscalls/linux/numbers.ts";
import {
  askForSender,
  peerCredentials,
  receiveDescriptors,
  sendDescriptors,
  socketPair,
} from "../../syscalls/linux/socket.ts";
import { hold, testRoot } from "../platform/strings.ts";

/** A pair that closes with its block. */
function pair() {
  const [left, right] = socketPair(self, SOCK.SEQPACKET).map((number) => new Descriptor(number)) as [
    Descriptor,
    Descriptor,
  ];
  return {
    left: left.number,
    right: right.number,
    [Symbol.dispose]() {
      left.close();
      right.close();
    },
  };
}

function memoryFile(text: string): Descriptor {
  const file = new Descriptor(createMemoryFile(self, "caisson-test"));
  writeAll(self, file.number, Buffer.from(text));
  return file;
}

const closeOnExec = (descriptor: number) => (self.call("fcntl", descriptor, F.GETFD, 0) & FD.CLOEXEC) !== 0;

test("socketPair() makes sockets that close on exec", () => {
  using sockets = pair();
  expect([closeOnExec(sockets.left), closeOnExec(sockets.right)]).toEqual([true, true]);
});

describe("sendDescriptors() and receiveDescriptors()", () => {
  for (const count of [0, 1, 2, 3, 16]) {
    test(`carry ${count} descriptors and the bytes beside them`, () => {
      using sockets = pair();
      const files = Array.from({ length: count }, (_, index) => memoryFile(`file ${index}`));
      sendDescriptors(
        self,
        sockets.left,
        Uint8Array.of(1, 2, 3),
        files.map(({ number }) => number),
      );
      for (const file of files) file.close();
      const into = new Uint8Array(8);
      const { length, descriptors, truncated } = receiveDescriptors(self, sockets.right, into, { most: 16 });
      expect([length, [...into.subarray(0, 4)], descriptors.length, truncated]).toEqual([
        3,
        [1, 2, 3, 0],
        count,
        false,
      ]);
      descriptors.forEach((descriptor, index) => {
        const text = new Uint8Array(32);
        const read = self.call("pread64", descriptor, text, text.length, 0);
        expect(Buffer.from(text.subarray(0, read)).toString()).toBe(`file ${index}`);
        expect(closeOnExec(descriptor)).toBe(true);
        close(self, descriptor);
      });
    });
  }

  test("one more than wanted is received, to be seen and closed", () => {
    using sockets = pair();
    using file = memoryFile("");
    sendDescriptors(self, sockets.left, Uint8Array.of(1), Array(3).fill(file.number));
    const { descriptors } = receiveDescriptors(self, sockets.right, new Uint8Array(1), { most: 2 });
    expect(descriptors.length).toBe(3);
    for (const descriptor of descriptors) close(self, descriptor);
  });

  test("many more than wanted are said to be cut off, and those that came are handed over", () => {
    using sockets = pair();
    using file = memoryFile("");
    sendDescriptors(self, sockets.left, Uint8Array.of(1), Array(40).fill(file.number));
    const { descriptors, truncated } = receiveDescriptors(self, sockets.right, new Uint8Array(1), { most: 2 });
    expect(truncated).toBe(true);
    expect(descriptors.length).toBeGreaterThan(2);
    for (const descriptor of descriptors) close(self, descriptor);
  });

  test("bytes that do not fit are said to be cut off", () => {
    using sockets = pair();
    sendDescriptors(self, sockets.left, new Uint8Array(9), []);
    expect(receiveDescriptors(self, sockets.right, new Uint8Array(8), { most: 1 })).toEqual({
      length: 8,
      descriptors: [],
      truncated: true,
    });
  });

  test("throw EAGAIN with DONTWAIT where nothing waits, EBADF for what is not open, EPIPE without a signal", () => {
    using sockets = pair();
    const into = new Uint8Array(1);
    expect(() => receiveDescriptors(self, sockets.right, into, { most: 1, flags: MSG.DONTWAIT })).toThrow(
      "EAGAIN: recvmsg",
    );
    expect(() => sendDescriptors(self, sockets.left, into, [65535])).toThrow("EBADF: sendmsg");
    const [left, right] = socketPair(self, SOCK.SEQPACKET);
    close(self, right);
    expect(() => sendDescriptors(self, left, into, [])).toThrow("EPIPE: sendmsg");
    close(self, left);
  });
});

describe("askForSender()", () => {
  for (const count of [0, 1, 16]) {
    testRoot(`has a packet with ${count} descriptors tell who sent it, though that has ended`, () => {
      using sockets = pair();
      askForSender(self, sockets.left);
      using file = memoryFile("text");
      const descriptors = Array<number>(count).fill(file.number);
      sendDescriptors(self, sockets.right, Uint8Array.of(1), descriptors);
      const other = hold(CLONE.NEWUSER | CLONE.NEWPID, [sockets.right]);
      expect(other.kernel.call("getpid")).toBe(1);
      sendDescriptors(other.kernel, 0, Uint8Array.of(2), []);
      other[Symbol.dispose]();
      const first = receiveDescriptors(self, sockets.left, new Uint8Array(1), { most: count });
      for (const descriptor of first.descriptors) close(self, descriptor);
      expect(first).toMatchObject({ length: 1, sender: process.pid, truncated: false });
      expect(first.descriptors).toHaveLength(count);
      const second = receiveDescriptors(self, sockets.left, new Uint8Array(1), { most: 1 });
      expect(second).toEqual({ length: 1, descriptors: [], sender: other.pid, truncated: false });
    });
  }

  test("is not done by itself", () => {
    using sockets = pair();
    sendDescriptors(self, sockets.right, Uint8Array.of(1), []);
    expect(receiveDescriptors(self, sockets.left, new Uint8Array(1), { most: 1 }).sender).toBeUndefined();
  });
});

describe("peerCredentials()", () => {
  const own = { uid: process.geteuid!(), gid: process.getegid!() };

  test("tells who made a pair", () => {
    using sockets = pair();
    expect(peerCredentials(self, sockets.left)).toEqual({ pid: process.pid, ...own });
  });

  testRoot("tells who connected, by the numbers of who asks", () => {
    const address = { family: "UNIX", path: `\0caisson-test-${process.pid}` } as const;
    using listening = new Descriptor(listenOn(self, address));
    using other = hold(CLONE.NEWUSER | CLONE.NEWPID);
    connectTo(other.kernel, openSocket(other.kernel, "UNIX"), address);
    using accepted = new Descriptor(accept(self, listening.number)!);
    expect(peerCredentials(self, accepted.number)).toEqual({ pid: other.pid, ...own });
  });

  test("throws for what is no socket", () => {
    using file = memoryFile("");
    expect(() => peerCredentials(self, file.number)).toThrow("ENOTSOCK: getsockopt");
  });
});
