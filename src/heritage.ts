/** What a process has of the one that started it, behind what Bun made of it. */
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { SystemError } from "../syscalls/error.ts";
import { type Kernel, self } from "../syscalls/kernel.ts";
import { capget } from "../syscalls/linux/capability.ts";
import { close } from "../syscalls/linux/file.ts";
import { ERRNO, F, RLIMIT, SIG } from "../syscalls/linux/numbers.ts";
import { getLimit } from "../syscalls/linux/process.ts";
import { unblockSignals } from "../syscalls/linux/signal.ts";
import { terminalModes } from "../syscalls/linux/terminal.ts";
import type { Caller } from "./bwrap.ts";

/**
 * The descriptors that the caller gave this process. Bun has marked them all close-on-exec, as its own are; of those it has two by now, an epoll
 * and the eventfd that this watches.
 */
export function descriptors(): Set<number> {
  const own = new Set<number>();
  const open = readdirSync("/proc/self/fd").map(Number).filter(isOpen);
  for (const number of open) {
    if (number <= 2 || readlinkSync(`/proc/self/fd/${number}`) !== "anon_inode:[eventpoll]") continue;
    const watched = [...readFileSync(`/proc/self/fdinfo/${number}`, "utf8").matchAll(/^tfd:\s+(\d+)/gm)].map(
      ([, digits]) => Number(digits),
    );
    const events = watched.filter((each) => readlinkSync(`/proc/self/fd/${each}`) === "anon_inode:[eventfd]");
    if (events.length > 0) for (const each of [number, ...events]) own.add(each);
  }
  return new Set(open.filter((number) => !own.has(number)));
}

function isOpen(number: number): boolean {
  try {
    self.call("fcntl", number, F.GETFD, 0);
    return true;
  } catch {
    return false;
  }
}

/** Who calls. @param lent its descriptors; those that are read are taken out */
export function callerWith(lent: Set<number>, warn: Caller["warn"]): Caller {
  return {
    uid: process.getuid!(),
    gid: process.getgid!(),
    capabilities: capget(self).effective,
    userNamespaces: hasUserNamespaces(),
    env: process.env,
    warn,
    read(descriptor) {
      if (!lent.delete(descriptor)) throw badDescriptor("read", descriptor);
      const pieces: Uint8Array[] = [];
      try {
        for (;;) {
          const piece = new Uint8Array(64 * 1024);
          const length = self.call("read", descriptor, piece, piece.length);
          if (length === 0) return Buffer.concat(pieces);
          pieces.push(piece.subarray(0, length));
        }
      } finally {
        close(self, descriptor);
      }
    },
  };
}

function hasUserNamespaces(): boolean {
  const most = "/proc/sys/user/max_user_namespaces";
  return existsSync("/proc/self/ns/user") && !(existsSync(most) && readFileSync(most, "utf8") === "0\n");
}

/** The error of a call with a descriptor that the caller did not give. */
export const badDescriptor = (syscall: string, descriptor: number) =>
  new SystemError(syscall, ERRNO.EBADF, `(${descriptor})`);

/** By the name that the caller knows it by, if that is right. */
export function currentDirectory(): string {
  const { PWD } = process.env;
  try {
    if (PWD?.startsWith("/")) {
      const [named, found] = [statSync(PWD), statSync(".")];
      if (named.ino === found.ino && named.dev === found.dev) return PWD;
    }
  } catch {
    // it leads nowhere
  }
  return process.cwd();
}

/** The terminal that a descriptor is, by the name that it has on the host. */
export function terminalOf(descriptor: number): string | undefined {
  try {
    terminalModes(self, descriptor);
  } catch {
    return undefined;
  }
  const path = readlinkSync(`/proc/self/fd/${descriptor}`);
  return path.startsWith("/dev/") ? path : undefined;
}

const SIGNALS = 64;
/** Ignored by Bun itself. */
const BUN_IGNORES: readonly number[] = [SIG.PIPE, SIG.XFSZ];

/** Gives signals back the disposition that they had for the caller: what it ignores, the program ignores. */
export function leaveSignals(kernel: Kernel): void {
  const ignored = BigInt(`0x${/^SigIgn:\s+(\w+)$/m.exec(readFileSync("/proc/self/status", "utf8"))![1]}`);
  for (let signal = 1; signal <= SIGNALS; signal++) {
    if (signal === SIG.KILL || signal === SIG.STOP) continue;
    const ignores = (ignored & (1n << BigInt(signal - 1))) !== 0n;
    if (ignores && !BUN_IGNORES.includes(signal)) continue;
    kernel.call("rt_sigaction", signal, new Uint8Array(32), null, 8);
  }
  unblockSignals(kernel);
}

/** Bun raised its own limit of descriptors as far as it could. The caller's is that of who started it. */
export function limitDescriptors(kernel: Kernel): void {
  const { soft, hard } = getLimit(self, "NOFILE");
  const limits = textOf(`/proc/${process.ppid}/limits`);
  const [, before, most] = /^Max open files\s+(\d+)\s+(\d+)/m.exec(limits) ?? [];
  if (soft !== hard || before === undefined || BigInt(most!) !== hard || BigInt(before) > hard) return;
  const limit = new Uint8Array(new BigUint64Array([BigInt(before), hard]).buffer);
  kernel.call("prlimit64", 0, RLIMIT.NOFILE, limit, null);
}

function textOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
