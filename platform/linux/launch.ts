/** Starting a puppet: one clone, and what its child must do before it is a program of its own. */
import { ptr } from "bun:ffi";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { executable, type Kernel, numberOf, type SyscallName, self } from "../../syscalls/kernel.ts";
import { allCapabilities, capset, lastCapability, raiseAmbient } from "../../syscalls/linux/capability.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { closeAllBut, createMemoryFile, duplicate, fillForGood } from "../../syscalls/linux/file.ts";
import { CLONE, ERRNO, MFD, O, SIG } from "../../syscalls/linux/numbers.ts";
import { awaitEnd, CLONE_ARGS_STRUCT, executeDescriptor, WALL } from "../../syscalls/linux/process.ts";
import { signalProcess } from "../../syscalls/linux/signal.ts";
import { socketPair } from "../../syscalls/linux/socket.ts";
import { Assembler, R } from "../../syscalls/x64.ts";
import { forkRefusal } from "./advice.ts";
import { runAnchored, setMask } from "./anchor.ts";
import { servant, servantProcess } from "./estate.ts";
import { Batch, layOut, STRINGS } from "./frame.ts";
import { carryOut, puppetImage } from "./puppet.ts";
import { PuppetKernel } from "./remote.ts";

/*
 * The memory that the stub works in: the clone's number and five arguments, the signal mask to set meanwhile, room for the old one,
 * the number of calls, the number of those left when the child gave up; then the calls.
 */
const MASK = 48;
const OLD_MASK = 56;
const COUNT = 64;
const LEFT = 72;
const HEADER = 80;
const ROOM = 32 * 1024;

/**
 * The stub: clones, and in the child carries out the calls of the block at rdi, the last of which becomes another program.
 *
 * The child shares the host's memory and runs while the calling thread waits (`CLONE_VM|CLONE_VFORK`), so it must not run anything
 * else: it works in registers, touches no stack, and takes no signal, for all are blocked from before the clone.
 * Returns the child's process id or `-errno`.
 */
export function stubCode(): Assembler {
  const block = (offset: number) => ({ base: R.R12, offset });
  const code = new Assembler().push(R.BX).push(R.BP).push(R.R12).copy(R.R12, R.DI);
  setMask(code, MASK, OLD_MASK)
    .load(R.AX, block(0))
    .load(R.DI, block(8))
    .load(R.SI, block(16))
    .load(R.DX, block(24))
    .load(R.R10, block(32))
    .load(R.R8, block(40))
    .syscall()
    .test(R.AX, 64)
    .branch("je", "child")
    .copy(R.BP, R.AX);
  setMask(code, OLD_MASK)
    .copy(R.AX, R.BP)
    .pop(R.R12)
    .pop(R.BP)
    .pop(R.BX)
    .return()
    .label("child")
    .load(R.BP, block(COUNT), 32)
    .address(R.BX, block(HEADER));
  return carryOut(code).store(block(LEFT), R.BP, 32).set(R.DI, 127).set(R.AX, numberOf("exit_group", "x64")).syscall();
}

/** A puppet that runs, and what the host holds of it. */
export interface Puppet {
  readonly pid: number;
  /** Names the process for as long as it is held. */
  readonly pidfd: Descriptor;
  /** The host's end of its strings. */
  readonly socket: Descriptor;
  readonly kernel: PuppetKernel;
}

/** How to start a puppet. */
export interface Start {
  /** CLONE.NEW*, the namespaces to begin in. */
  readonly namespaces: bigint;
  /** The host's descriptors that it gets, in order, as 0, 1, 2, 4, 5 ...; 3 are its strings. They stay the host's. */
  readonly descriptors: readonly number[];
  /** More of them, each with the number that it gets. */
  readonly placed?: ReadonlyMap<number, number>;
}

/**
 * Starts a puppet, which serves this realm. The calling thread waits for as long as the kernel takes to make the namespaces, a millisecond at most.
 * Throws the SystemError of `clone3`, or of the call that failed in the child.
 */
export function startPuppet({ namespaces, descriptors, placed = new Map() }: Start): Puppet {
  const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
  using strings = new Descriptor(theirs);
  using unfinished = new DisposableStack();
  const socket = unfinished.use(servant(ours));
  const entries = new Batch();
  // Whoever passes no standard streams gets the strings there, so that no file opened later takes their numbers.
  const standard = Array.from({ length: STRINGS }, (_, index) => descriptors[index] ?? strings.number);
  const inOrder = [...standard, strings.number, ...descriptors.slice(STRINGS)];
  becomePuppet(entries, new Map([...inOrder.entries(), ...placed]), namespaces);

  const block = new Uint8Array(ROOM);
  const base = ptr(block);
  const frame = layOut(entries.entries, base, HEADER, ROOM);
  block.set(frame.bytes);
  const view = new DataView(block.buffer);
  view.setBigUint64(MASK, 2n ** 64n - 1n, true);
  view.setUint32(COUNT, entries.entries.length, true);
  view.setUint32(LEFT, 0, true);

  const { pid, pidfd } = clone(view, base, namespaces);
  const left = view.getUint32(LEFT, true);
  if (left > 0) {
    // The clone waited until the child gave the memory back; it may still be about to end.
    awaitEnd(self, pidfd.number);
    pidfd.close();
    frame.results(block, entries.entries.length - left);
  }
  unfinished.move();
  return { pid, pidfd, socket, kernel: new PuppetKernel(ours) };
}

/** A descriptor of a child that was cloned for us, and serves this realm. Without one the child is ended, for nobody could reap it later. */
export function holdChild(pid: number): Descriptor {
  try {
    return servantProcess(pid);
  } catch (error) {
    // One that has ended keeps its number until another realm takes it for an orphan. Then that may be a stranger's.
    if (!(error instanceof SystemError && error.code === "ESRCH")) {
      self.call("kill", pid, SIG.KILL);
      self.call("wait4", pid, null, WALL, null);
    }
    throw error;
  }
}

/** Ends a child that was held, and waits for it. */
export function endChild(pidfd: Descriptor): void {
  signalProcess(self, pidfd.number, SIG.KILL);
  awaitEnd(self, pidfd.number);
  pidfd.close();
}

/** Ends a puppet that has not become anything else, and waits for it: it goes when its strings are cut. */
export function endPuppet({ socket, pidfd }: Puppet): void {
  socket.close();
  awaitEnd(self, pidfd.number);
  pidfd.close();
}

/** Runs the stub on a block: with `clone3`, and with `clone` where something answers that with ENOSYS, as container engines do. */
function clone(block: DataView, base: number, namespaces: bigint): { pid: number; pidfd: Descriptor } {
  // When a Worker is terminated meanwhile, nobody would know that descriptor; a child that nobody holds is found (`orphans.ts`).
  const held = Bun.isMainThread ? CLONE.PIDFD : 0n;
  const share = CLONE.VM | CLONE.VFORK | held;
  const pidfd = new Uint8Array(4);
  const call = (name: SyscallName, words: readonly bigint[]) => {
    [BigInt(numberOf(name)), ...words].forEach((word, index) => {
      block.setBigUint64(8 * index, word, true);
    });
    return runAnchored(stub(), base);
  };
  const args = CLONE_ARGS_STRUCT.encode({
    flags: share | CLONE.CLEAR_SIGHAND | namespaces,
    pidfd: held && BigInt(ptr(pidfd)),
  });
  let name: SyscallName = "clone3";
  let pid = call(name, [BigInt(ptr(args.bytes)), BigInt(CLONE_ARGS_STRUCT.size), 0n, 0n, 0n]);
  if (pid === -ERRNO.ENOSYS) {
    name = "clone";
    // Handlers of the host cannot run in the child, where every signal is blocked; its execve resets them.
    pid = call(name, [share | namespaces, 0n, held && BigInt(ptr(pidfd)), 0n, 0n]);
  }
  if (pid < 0) throw forkRefusal(name, -pid, `(${namesOf(namespaces)})`);
  return { pid, pidfd: held ? servant(new DataView(pidfd.buffer).getInt32(0, true)) : holdChild(pid) };
}

/** The names of namespaces by their flags, for people. */
export function namesOf(namespaces: bigint): string {
  const names = Object.entries(CLONE).filter(([name, bit]) => name.startsWith("NEW") && (namespaces & bit) !== 0n);
  return names.map(([name]) => `CLONE_${name}`).join("|") || "no new namespaces";
}

let made: number | undefined;

function stub(): number {
  made ??= executable(stubCode().assemble());
  return made;
}

let sealed: Descriptor | undefined;

/** The descriptor of the puppet's program: in memory, sealed, made once and held for as long as this realm lives. */
function image(): number {
  sealed ??= makeImage();
  return sealed.number;
}

function makeImage(): Descriptor {
  const made = servant(createExecutableFile("caisson-puppet"));
  fillForGood(self, made.number, puppetImage());
  return made;
}

function createExecutableFile(name: string): number {
  const flags = MFD.CLOEXEC | MFD.ALLOW_SEALING;
  try {
    return createMemoryFile(self, name, flags | MFD.EXEC);
  } catch (error) {
    // Before Linux 6.3 the flag is unknown, and every memory file may be executed.
    if (!(error instanceof SystemError && error.code === "EINVAL")) throw error;
    return createMemoryFile(self, name, flags);
  }
}

/** The calls that turn the host's child into the puppet's own program: nothing of the host is left to it but `descriptors`, at their new numbers. */
function becomePuppet(child: Kernel, descriptors: ReadonlyMap<number, number>, namespaces: bigint): void {
  const program = Math.max(...descriptors.keys()) + 1;
  // Two moves, for a descriptor may stand where another is to go. Whatever these numbers held is closed in the child alone.
  const moves = [...descriptors, [program, image()] as const];
  const taken = new Set(moves.map(([, from]) => from));
  const free: number[] = [];
  for (let number = program + 1; free.length < moves.length; number++) if (!taken.has(number)) free.push(number);
  moves.forEach(([, from], index) => {
    duplicate(child, from, free[index]!);
  });
  // The program itself closes when it is executed.
  moves.forEach(([to], index) => {
    duplicate(child, free[index]!, to, to === program ? O.CLOEXEC : 0);
  });
  closeAllBut(child, [...descriptors.keys(), program]);
  if ((namespaces & CLONE.NEWUSER) !== 0n) {
    // Its id maps are written when it runs. Until then its user id means nothing, and an execve would take its capabilities.
    const all = allCapabilities();
    capset(child, { effective: all, permitted: all, inheritable: all });
    for (let capability = 0; capability <= lastCapability(); capability++) raiseAmbient(child, capability);
  }
  executeDescriptor(child, program, ["puppet"], []);
}
