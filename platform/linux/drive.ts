/** A puppet that is driven all the way: each step from its namespaces to the program that it becomes is the caller's. */
import { readFileSync } from "node:fs";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { type Kernel, self } from "../../syscalls/kernel.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { close, closeAllBut, duplicate, setCloseOnExec } from "../../syscalls/linux/file.ts";
import { setNamespace } from "../../syscalls/linux/namespace.ts";
import { CLONE, O, SIG } from "../../syscalls/linux/numbers.ts";
import { awaitEnd, clone, type Ended } from "../../syscalls/linux/process.ts";
import { openSignals, signalProcess } from "../../syscalls/linux/signal.ts";
import { receiveDescriptors, sendDescriptors, socketPair } from "../../syscalls/linux/socket.ts";
import type { Attempting, Driven, DrivePlan } from "../platform.ts";
import { Batch, FRAME_SIZE, NEWS, prepare, STRINGS } from "./frame.ts";
import { writeMaps } from "./ids.ts";
import { endPuppet, startPuppet } from "./launch.ts";
import { settled } from "./lookup.ts";
import { PuppetKernel } from "./remote.ts";
import { FLAGS } from "./setup.ts";

/** Starts a puppet. Throws the SystemError of the namespace that could not be made or entered. */
export function drive(plan: DrivePlan): Driven {
  const numbers = numbersAbove(plan.descriptors.keys());
  const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
  using held = new Descriptor(ours);
  using childs = new Descriptor(theirs);
  const placed = new Map<number, number>();
  if (plan.forks) placed.set(numbers.child, childs.number);
  // A puppet begins with its strings at that number.
  for (const [number, descriptor] of plan.descriptors)
    placed.set(number === STRINGS ? numbers.away : number, descriptor);
  const flags = plan.namespaces.reduce((bits, name) => bits | FLAGS[name], 0n);
  const entering = plan.user !== undefined || plan.processes !== undefined;
  const { pid, pidfd, socket } = entering
    ? enter(plan, { numbers, placed, flags })
    : startPuppet({ namespaces: flags, descriptors: [], placed });
  const puppet = new Puppet({ pid, pidfd, socket }, { numbers, child: new Descriptor(held.take()) });
  try {
    if (plan.maps !== undefined) writeMaps(pid, plan.maps);
    puppet.together((kernel) => {
      if (!entering) duplicate(kernel, STRINGS, numbers.strings, O.CLOEXEC);
      if (plan.descriptors.has(STRINGS)) {
        duplicate(kernel, numbers.away, STRINGS);
        close(kernel, numbers.away);
      } else close(kernel, STRINGS);
      if (!plan.forks) return;
      setCloseOnExec(kernel, numbers.child);
      duplicate(kernel, numbers.strings, numbers.signals, O.CLOEXEC); // so that no file is opened there
    });
    return puppet;
  } catch (error) {
    puppet.kill();
    puppet.wait();
    throw error;
  }
}

/** Numbers of the puppet's own descriptors, which the program's do not reach. */
interface Numbers {
  readonly strings: number;
  readonly child: number;
  readonly signals: number;
  readonly away: number;
  readonly user: number;
  readonly processes: number;
  readonly middle: number;
}

function numbersAbove(taken: Iterable<number>): Numbers {
  const first = Math.max(NEWS, ...taken) + 1;
  return {
    strings: first,
    child: first + 1,
    signals: first + 2,
    away: first + 3,
    user: first + 4,
    processes: first + 5,
    middle: first + 6,
  };
}

interface Held {
  readonly pid: number;
  readonly pidfd: Descriptor;
  readonly socket: Descriptor;
}

/** Has a puppet enter what exists already, and there fork the one that is wanted: new namespaces then belong to what was entered. */
function enter(
  plan: DrivePlan,
  { numbers, placed, flags }: { numbers: Numbers; placed: Map<number, number>; flags: bigint },
): Held {
  using ends = new DisposableStack();
  const stringsAt = (number: number): Descriptor => {
    const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
    placed.set(number, ends.use(new Descriptor(theirs)).number);
    return ends.use(new Descriptor(ours));
  };
  const last = stringsAt(numbers.strings);
  const middle = stringsAt(numbers.middle);
  if (plan.user !== undefined) placed.set(numbers.user, plan.user);
  if (plan.processes !== undefined) placed.set(numbers.processes, plan.processes);
  const first = startPuppet({ namespaces: 0n, descriptors: [], placed });
  try {
    const batch = new Batch();
    if (plan.user !== undefined) setNamespace(batch, numbers.user, CLONE.NEWUSER);
    if (plan.processes !== undefined) setNamespace(batch, numbers.processes, CLONE.NEWPID);
    first.kernel.carryOut(batch);
    const parent = { kernel: first.kernel, strings: STRINGS };
    // Whose children are in another process namespace cannot make a new one for them.
    if (plan.processes === undefined || (flags & CLONE.NEWPID) === 0n)
      return {
        ...beget(parent, { strings: numbers.strings, socket: last, flags }),
        socket: new Descriptor(last.take()),
      };
    const between = beget(parent, { strings: numbers.middle, socket: middle, flags: 0n });
    const kernel = new PuppetKernel(middle.number, { strings: numbers.middle });
    try {
      const begotten = beget({ kernel, strings: numbers.middle }, { strings: numbers.strings, socket: last, flags });
      return { ...begotten, socket: new Descriptor(last.take()) };
    } finally {
      endPuppet({ ...between, kernel, socket: new Descriptor(middle.take()) });
    }
  } finally {
    endPuppet(first);
  }
}

/** Has a puppet fork a child that is ours as well, and close-on-exec strings for it that it holds already. */
function beget(
  parent: { readonly kernel: PuppetKernel; readonly strings: number },
  { strings, socket, flags }: { strings: number; socket: Descriptor; flags: bigint },
): Omit<Held, "socket"> {
  const number = new Uint8Array(4);
  const batch = new Batch();
  batch.fork(() =>
    batch.call("clone", flags | CLONE.PARENT | CLONE.PIDFD | BigInt(SIG.CHLD), null, number, null, null),
  );
  setCloseOnExec(batch, strings);
  const prepared = prepare(batch, { strings: parent.strings, child: strings });
  let answer: Uint8Array | undefined;
  parent.kernel.send(prepared, (bytes) => {
    answer = bytes;
  });
  parent.kernel.until(() => answer !== undefined);
  prepared.read(answer!);
  const held = new DataView(number.buffer).getInt32(0, true);
  const sending = new Batch();
  sendDescriptors(sending, parent.strings, new Uint8Array(1), [held]);
  const pidfd = new Descriptor(parent.kernel.taken(sending));
  new PuppetKernel(socket.number).expect(prepared);
  // Where it was forked it has another number than here.
  const pid = Number(/^Pid:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${pidfd.number}`, "utf8"))![1]);
  return { pid, pidfd };
}

class Puppet implements Driven {
  readonly pid: number;
  readonly #pidfd: Descriptor | undefined;
  readonly #socket: Descriptor;
  readonly #numbers: Numbers;
  /** Our end of the strings of the child that it is to fork. */
  readonly #child: Descriptor | undefined;
  #kernel: PuppetKernel;

  constructor(
    { pid, pidfd, socket }: Omit<Held, "pidfd"> & { readonly pidfd?: Descriptor },
    { numbers, child, strings = numbers.strings }: { numbers: Numbers; child?: Descriptor; strings?: number },
  ) {
    this.pid = pid;
    this.#pidfd = pidfd;
    this.#socket = socket;
    this.#numbers = numbers;
    this.#child = child;
    this.#kernel = new PuppetKernel(socket.number, { strings });
  }

  get kernel(): Kernel {
    return this.#kernel;
  }

  together(act: (kernel: Attempting) => number): number;
  together(act: (kernel: Attempting) => void): void;
  together(act: (kernel: Attempting) => unknown): number | undefined {
    const batch = new Batch();
    const wanted = act(batch);
    const carryOut = () => this.#kernel.carryOut(batch);
    // Where the only look-up comes first, nothing has happened when it fails.
    const looks = batch.entries.findLastIndex(({ name }) => name === "openat2") === 0;
    const results = looks ? settled(carryOut) : carryOut();
    return typeof wanted === "number" ? results[batch.indexOf(wanted)] : undefined;
  }

  fork(): Driven {
    const { strings, child, signals } = this.#numbers;
    const batch = new Batch();
    const opened = openSignals(batch, [SIG.CHLD]);
    duplicate(batch, opened, signals, O.CLOEXEC);
    close(batch, opened);
    const forked = batch.fork(() => clone(batch, { flags: 0n }), { main: true });
    close(batch, strings);
    close(batch, signals);
    const prepared = prepare(batch, { strings, child, signals });
    let answer: Uint8Array | undefined;
    this.#kernel.send(prepared, (bytes) => {
      answer = bytes;
    });
    this.#kernel.until(() => answer !== undefined);
    const pid = prepared.read(answer!)[batch.indexOf(forked)]!;
    this.#kernel = new PuppetKernel(this.#socket.number, { strings, signals });
    const begotten = new Puppet({ pid, socket: this.#child! }, { numbers: this.#numbers, strings: child });
    begotten.#kernel.expect(prepared);
    return begotten;
  }

  retire(keep: readonly number[]): number[] {
    const { strings, signals, away } = this.#numbers;
    const batch = new Batch();
    // How a main child ended is written to that number.
    const kept = keep.map((number, index) => (number === NEWS ? away + index : number));
    kept.forEach((number, index) => {
      if (number !== keep[index]) duplicate(batch, keep[index]!, number, O.CLOEXEC);
    });
    closeAllBut(batch, [2, ...kept, strings, signals], Math.min(2, ...kept) + 1);
    this.#kernel.carryOut(batch);
    return kept;
  }

  become(act: (kernel: Attempting) => void): void {
    const batch = new Batch();
    act(batch);
    const { read } = this.#kernel.post(this.#kernel.prepare(batch));
    const answer = new Uint8Array(FRAME_SIZE);
    const length = again(() => self.call("recvfrom", this.#socket.number, answer, answer.length, 0, null, null));
    // The strings closed, for it became the program.
    if (length === 0) return;
    read(answer.subarray(0, length));
    throw new Error("Cannot trust a puppet: it answered, and should have become a program");
  }

  release(): void {
    const batch = new Batch();
    receiveDescriptors(batch, this.#numbers.strings, new Uint8Array(1), { most: 1 });
    const { number } = this.#socket;
    this.#kernel.carryOut(batch, () => sendDescriptors(self, number, new Uint8Array(1), [number]));
  }

  wait(): Ended {
    return awaitEnd(self, this.#pidfd!.number);
  }

  kill(): void {
    signalProcess(self, this.#pidfd!.number, SIG.KILL);
  }
}

/** Makes a call again that a signal's handler interrupted. */
function again(call: () => number): number {
  for (;;) {
    try {
      return call();
    } catch (error) {
      if (!(error instanceof SystemError && error.code === "EINTR")) throw error;
    }
  }
}
