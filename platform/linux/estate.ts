/** What a Worker leaves that has ended: descriptors that nobody will close, children that nobody will wait for. */
import { Descriptor, keepLedger } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { close } from "../../syscalls/linux/file.ts";
import { P, SIG, W } from "../../syscalls/linux/numbers.ts";
import { reap, WALL } from "../../syscalls/linux/process.ts";
import { signalProcess } from "../../syscalls/linux/signal.ts";
import { reapOrphans } from "./orphans.ts";
import { LEDGERS, NAME, page, REALMS, RECORDS, THREADS } from "./page.ts";

/*
 * `terminate()` stops a Worker between any two operations: no handler runs, no `finally`, no `using`. So each Worker writes down, where all realms of
 * the process find it, which descriptors it owns, and whoever starts something next settles the estates of those whose thread is gone. Bun itself
 * closes what its event loop owns.
 *
 * What a Worker started lives on. While a child of its lives, nothing is closed that this may need: its strings, the lock on the directory of its
 * group. Servants are what is of use to the realm alone, its zygotes and what it is still starting, and they are ended at once.
 *
 * A descriptor is written down behind its opening and struck out before its end. So one may be lost for good where a Worker is stopped
 * in between, but nobody ever closes a number that has become somebody else's.
 */

/** In place of the thread's number: the estate of one that is gone, where children live still; a place that was taken once; and from there on none was. */
const NOBODIES = -1;
const VACANT = -2;
const UNUSED = 0;
/** A record is the descriptor's number and one, for zero is none; and whether it belongs to a servant. */
const SERVANT = 1 << 30;

/** In a realm's global object, for two copies of this library in it have one ledger. */
const MARK = Symbol.for(NAME);
const realm = globalThis as { [MARK]?: number };

const threads = () => new Int32Array(page().memory, THREADS, REALMS);
const ledgerAt = (index: number) => new Int32Array(page().memory, LEDGERS + 4 * RECORDS * index, RECORDS);

let thread: number | undefined;
/** Whether there were children that nobody holds when we last looked, and which had not ended. */
let orphaned = false;

/** Closes and reaps what was left by Workers that have ended. */
export function settleEstates(): void {
  thread ??= self.call("gettid");
  const owners = threads();
  let gone = false;
  for (let index = 0; index < REALMS; index++) {
    const owner = Atomics.load(owners, index);
    if (owner === UNUSED) break;
    if (owner === VACANT || index === realm[MARK] || !(owner === NOBODIES || hasEnded(owner))) continue;
    // Another realm may be about to do the same; and one that is terminated while it does leaves this to the next.
    if (Atomics.compareExchange(owners, index, owner, thread) !== owner) continue;
    const whole = settle(ledgerAt(index));
    Atomics.store(owners, index, whole ? VACANT : NOBODIES);
    gone ||= whole || owner !== NOBODIES;
  }
  orphaned ||= gone;
  if (orphaned) orphaned = reapOrphans();
}

/** This realm cannot have taken a place that bears its thread's number already: whoever did had the number before. */
function hasEnded(owner: number): boolean {
  if (owner === thread) return true;
  try {
    self.call("tgkill", process.pid, owner, 0);
    return false;
  } catch (error) {
    if (error instanceof SystemError && error.code === "ESRCH") return true;
    throw error;
  }
}

/** Whether nothing is left of it. */
function settle(ledger: Int32Array): boolean {
  const records = [...ledger.keys()].filter((at) => ledger[at] !== 0);
  const numberOf = (at: number) => (ledger[at]! & ~SERVANT) - 1;
  const strike = (at: number) => {
    const number = numberOf(at);
    ledger[at] = 0;
    attempt(() => close(self, number));
  };
  for (const at of records.filter((at) => (ledger[at]! & SERVANT) !== 0)) {
    attempt(() => end(numberOf(at)));
    strike(at);
  }
  const held = records.filter((at) => ledger[at] !== 0);
  if (held.filter((at) => isLiving(numberOf(at))).length > 0) return false;
  held.forEach(strike);
  return true;
}

function end(pidfd: number): void {
  signalProcess(self, pidfd, SIG.KILL);
  self.call("waitid", P.PIDFD, pidfd, null, W.EXITED | WALL, null);
}

/** Whether it is the pidfd of a child that lives. Reaps one that has ended. */
function isLiving(descriptor: number): boolean {
  let living = false;
  attempt(() => {
    living = reap(self, descriptor) === undefined;
  });
  return living;
}

/** The kernel tells by an error that a descriptor is no pidfd, or that of no child. */
function attempt(act: () => void): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
  }
}

/** Takes a place for this realm; undefined where all are taken. */
function enter(): number | undefined {
  settleEstates();
  const owners = threads();
  for (let index = 0; index < REALMS; index++)
    for (const free of [UNUSED, VACANT])
      if (Atomics.compareExchange(owners, index, free, thread!) === free) return index;
  return undefined;
}

function own(): Int32Array | undefined {
  realm[MARK] ??= enter()!;
  return realm[MARK] === undefined ? undefined : ledgerAt(realm[MARK]);
}

/** Where there is no room, or no memory to share, it is not written down: it would be lost if the Worker were terminated, and does its service till then. */
function replace(from: number, to: number): void {
  try {
    const ledger = own();
    const at = ledger?.indexOf(from) ?? -1;
    if (at >= 0) ledger![at] = to;
  } catch {
    // The next record tries again.
  }
}

/** Of the records that are being written. */
let mark = 0;

/**
 * An owner for what is of no use to anyone but this realm; that of a process, and so is the process, until it `outlives()`. Written down in one step:
 * where a Worker is stopped in between, what it was starting would keep its own strings from being closed.
 */
export function servant(number: number): Descriptor {
  mark = SERVANT;
  try {
    return new Descriptor(number);
  } finally {
    mark = 0;
  }
}

/** What served this realm, as a process does while it is being started, lives on from here, whatever becomes of the realm. */
export function outlives(descriptor: Descriptor): void {
  if (Bun.isMainThread || descriptor.closed) return;
  const record = descriptor.number + 1;
  replace(record | SERVANT, record);
}

// The main thread's end is that of the process.
if (!Bun.isMainThread) {
  keepLedger({
    opened: (number) => replace(0, (number + 1) | mark),
    closed: (number) => {
      replace(number + 1, 0);
      replace((number + 1) | SERVANT, 0);
    },
  });
}
