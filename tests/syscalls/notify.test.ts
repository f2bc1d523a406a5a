import { describe, expect, test } from "bun:test";
import { SystemError } from "../../syscalls/error.ts";
import { type Argument, type Kernel, self } from "../../syscalls/kernel.ts";
import {
  injectDescriptor,
  isWaiting,
  listenerFlags,
  readMemory,
  receiveNotification,
  reply,
} from "../../syscalls/linux/notify.ts";
import {
  ERRNO,
  MAP,
  PROT,
  SECCOMP_ADDFD_FLAG,
  SECCOMP_FILTER_FLAG,
  SECCOMP_IOCTL,
} from "../../syscalls/linux/numbers.ts";
import { knowsFilterFlags } from "../../syscalls/linux/seccomp.ts";
import type { Memory } from "../../syscalls/struct.ts";

/** Keeps what was asked of ioctl(2), and answers with these results in turn; a number below 0 is an errno. */
function answering(...results: readonly number[]): Kernel & { readonly made: { request: number; memory: Memory }[] } {
  const left = [...results];
  const made: { request: number; memory: Memory }[] = [];
  return {
    made,
    call(_, ...args: readonly Argument[]) {
      made.push({ request: Number(args[1]), memory: args[2] as Memory });
      const result = left.shift() ?? 0;
      if (result < 0) throw new SystemError("ioctl", -result);
      return result;
    },
  };
}

const sizeIn = (request: number) => (request >>> 16) & 0x3fff;
const view = ({ bytes }: Memory) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const given = { descriptor: 7, flags: 0 };

describe("notify:", () => {
  test("structs have the sizes that the kernel's requests say", () => {
    const kernel = answering();
    receiveNotification(kernel, 3);
    isWaiting(kernel, 3, 1n);
    reply(kernel, 3, 1n, { value: 0n });
    injectDescriptor(kernel, 3, 1n, given);
    const { NOTIF_RECV, NOTIF_ID_VALID, NOTIF_SEND, NOTIF_ADDFD } = SECCOMP_IOCTL;
    expect(kernel.made.map(({ request }) => request)).toEqual([NOTIF_RECV, NOTIF_ID_VALID, NOTIF_SEND, NOTIF_ADDFD]);
    for (const { request, memory } of kernel.made) expect(memory.bytes.length).toBe(sizeIn(request));
  });

  test("reply() says an errno below 0, a value as it is, and lets go on by the flag alone", () => {
    const said = (answer: Parameters<typeof reply>[3]) => {
      const kernel = answering();
      expect(reply(kernel, 3, 5n, answer)).toBe(true);
      const at = view(kernel.made[0]!.memory);
      return [at.getBigUint64(0, true), at.getBigInt64(8, true), at.getInt32(16, true), at.getUint32(20, true)];
    };
    expect(said({ errno: ERRNO.EACCES })).toEqual([5n, 0n, -13, 0]);
    expect(said({ value: 2n ** 40n })).toEqual([5n, 2n ** 40n, 0, 0]);
    expect(said({ value: -1n })).toEqual([5n, -1n, 0, 0]);
    expect(said("continue")).toEqual([5n, 0n, 0, 1]);
  });

  test("injectDescriptor() replaces a number only where one is given, 0 too, and leaves the answer to reply()", () => {
    const { SETFD } = SECCOMP_ADDFD_FLAG;
    const said = (more: object) => {
      const kernel = answering(9);
      expect(injectDescriptor(kernel, 3, 5n, { ...given, ...more })).toBe(9);
      const at = view(kernel.made[0]!.memory);
      return [8, 12, 16, 20].map((offset) => at.getUint32(offset, true));
    };
    expect(said({})).toEqual([0, 7, 0, 0]);
    expect(said({ at: 0 })).toEqual([SETFD, 7, 0, 0]);
    expect(said({ at: 12, flags: 0o2000000 })).toEqual([SETFD, 7, 12, 0o2000000]);
  });

  test("who is gone, or answered, gives false, own signals try again, and anything else throws", () => {
    for (const gone of [-ERRNO.ENOENT, -ERRNO.EINPROGRESS]) {
      expect(receiveNotification(answering(gone), 3)).toBeUndefined();
      expect(isWaiting(answering(gone), 3, 1n)).toBe(false);
      expect(reply(answering(gone), 3, 1n, "continue")).toBe(false);
      expect(injectDescriptor(answering(gone), 3, 1n, given)).toBeUndefined();
    }
    const interrupted = answering(-ERRNO.EINTR, -ERRNO.EINTR, 0);
    expect(isWaiting(interrupted, 3, 1n)).toBe(true);
    expect(interrupted.made.length).toBe(3);
    expect(() => injectDescriptor(answering(-ERRNO.EMFILE), 3, 1n, given)).toThrow("EMFILE");
    expect(() => reply(answering(-ERRNO.EINVAL), 3, 1n, "continue")).toThrow("EINVAL");
  });

  test("listenerFlags() asks for calls that signals leave alone where the kernel has that", () => {
    const { NEW_LISTENER, WAIT_KILLABLE_RECV } = SECCOMP_FILTER_FLAG;
    const able = knowsFilterFlags(self, NEW_LISTENER | WAIT_KILLABLE_RECV);
    expect(listenerFlags()).toBe(able ? NEW_LISTENER | WAIT_KILLABLE_RECV : NEW_LISTENER);
  });

  test("readMemory() stops at the first byte that is not there, and throws EFAULT for none", () => {
    const page = 4096;
    const { PRIVATE, ANONYMOUS } = MAP;
    const at = self.call("mmap", 0, 2 * page, PROT.READ | PROT.WRITE, PRIVATE | ANONYMOUS, -1, 0);
    self.call("munmap", at + page, page);
    try {
      const into = new Uint8Array(16).fill(1);
      expect(readMemory(self, process.pid, BigInt(at + page - 4), into)).toBe(4);
      expect([...into.subarray(0, 6)]).toEqual([0, 0, 0, 0, 1, 1]);
      expect(() => readMemory(self, process.pid, BigInt(at + page), into)).toThrow("EFAULT");
    } finally {
      self.call("munmap", at, page);
    }
  });
});
