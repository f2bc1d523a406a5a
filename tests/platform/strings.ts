/** Puppets for tests: one that ends with its block, and what /proc tells of it. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { abilities } from "../../platform/linux/abilities.ts";
import { runAnchored } from "../../platform/linux/anchor.ts";
import { idsOf, isRoot, writeIdMaps } from "../../platform/linux/ids.ts";
import { type Puppet, startPuppet } from "../../platform/linux/launch.ts";
import { executable, machine, numberOf, self } from "../../syscalls/kernel.ts";
import { CLONE } from "../../syscalls/linux/numbers.ts";
import { type Ended, reap } from "../../syscalls/linux/process.ts";
import { signalProcess } from "../../syscalls/linux/signal.ts";
import { Assembler, R } from "../../syscalls/x64.ts";
import { testIf } from "../syscalls/requirement.ts";

const SIGKILL = 9;
const POLLIN = 1;

/** Puppets run on x64 so far. */
export const testPuppet = testIf(
  "puppet",
  process.platform === "linux" && machine() === "x64",
  "there is no puppet for this machine",
);
/** A root of its own needs a mount namespace. */
export const testRoot = testIf("namespaces", abilities().proc !== undefined, "no mount namespace can be made here");

export interface Held extends Puppet, Disposable {}

/** A puppet, with its id maps written where it has a user namespace, that is ended and reaped when its block ends. */
export function hold(namespaces = 0n, descriptors: readonly number[] = []): Held {
  const puppet = startPuppet({ namespaces, descriptors });
  const dispose = () => {
    puppet.socket.close();
    if (puppet.pidfd.closed) return;
    signalProcess(self, puppet.pidfd.number, SIGKILL);
    awaitEnd(puppet);
  };
  try {
    if ((namespaces & CLONE.NEWUSER) !== 0n) writeIdMaps(puppet.pid, idsOf(isRoot()));
    // The clone returns in the middle of the child's execve. What answers is the puppet, and /proc then tells of it.
    puppet.kernel.call("getpid");
  } catch (error) {
    dispose();
    throw error;
  }
  return { ...puppet, [Symbol.dispose]: dispose };
}

/** Waits in place until the process has ended, for 10 seconds at most, reaps it and lets go of it. */
export function awaitEnd({ pid, pidfd }: Puppet): Ended {
  const poll = new Uint8Array(8);
  new DataView(poll.buffer).setInt32(0, pidfd.number, true);
  poll[4] = POLLIN;
  if (self.call("poll", poll, 1, 10_000) === 0) throw new Error(`Process ${pid} does not end`);
  const end = reap(self, pidfd.number)!;
  pidfd.close();
  return end;
}

/** The thread that stubs run on. */
export function stubThread(): number {
  const code = new Assembler().set(R.AX, numberOf("gettid", "x64")).syscall().return();
  return runAnchored(executable(code.assemble()), 0);
}

/** The fields of /proc/<process>/status. */
export function statusOf(process: string | number): Record<string, string> {
  const lines = readFileSync(`/proc/${process}/status`, "utf8").trimEnd().split("\n");
  return Object.fromEntries(
    lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]),
  );
}

/** What each open descriptor of a process is. */
export function descriptorsOf(process: string | number): Record<number, string> {
  const numbers = readdirSync(`/proc/${process}/fd`).map(Number);
  const entries = numbers.map((number): [number, string][] => {
    try {
      return [[number, readlinkSync(`/proc/${process}/fd/${number}`)]];
    } catch {
      return []; // the directory itself was open while it was read
    }
  });
  return Object.fromEntries(entries.flat());
}

/** The children of this process that run, or wait to be reaped. */
export function children(of: number = process.pid): { readonly pid: number; readonly state: string }[] {
  return readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      const text = readFileSync(`/proc/${name}/stat`, "utf8");
      const [state, parent] = text.slice(text.lastIndexOf(")") + 2).split(" ");
      return Number(parent) === of ? [{ pid: Number(name), state: state! }] : [];
    } catch {
      return []; // it ended meanwhile
    }
  });
}
