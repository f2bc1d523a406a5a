/** What a Worker leaves that has ended: descriptors that nobody will close, children that nobody will wait for. */
import { Descriptor, keepLedger } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { MAX_ERRNO, numberOf, self } from "../../syscalls/kernel.ts";
import { close } from "../../syscalls/linux/file.ts";
import { SIG } from "../../syscalls/linux/numbers.ts";
import { openProcess, reap } from "../../syscalls/linux/process.ts";
import { signalProcess } from "../../syscalls/linux/signal.ts";
import { Assembler, R } from "../../syscalls/x64.ts";
import { callable } from "./anchor.ts";
import { reapOrphans } from "./orphans.ts";
import { LEDGERS, NAME, page, REALMS, RECORDS, SEARCH, THREADS } from "./page.ts";

/*
 * `terminate()` stops a Worker between any two operations: no handler runs, no `finally`, no `using`. So each Worker writes down, where all realms of
 * the process find it, which descriptors it owns, and whoever starts something next settles the estates of those whose thread is gone. Bun itself
 * closes what its event loop owns.
 *
 * What a Worker started lives on. While a child of its lives, nothing is closed that this may need: its strings, the lock on the directory of its
 * group. Servants are what is of use to the realm alone: its zygotes, its actors and what it is still starting, which are ended at once, and the
 * listeners of filters, which are closed at once, for whoever makes a call that nobody answers would wait for as long as they are open.
 *
 * A descriptor is written down behind its opening and struck out before its end. So one may be lost for good where a Worker is stopped
 * in between, but nobody ever closes a number that has become somebody else's. That of a child must not be lost, for nobody would reap what seems to be
 * held: machine code opens it and writes it down, and in there no Worker is stopped.
 */

/** In place of the thread's number: the estate of one that is gone, where children live still; a place that was taken once; and from there on none was. */
const NOBODIES = -1;
const VACANT = -2;
const UNUSED = 0;
/** A record is the descriptor's number and one, for zero is none; negative where it belongs to a servant. */
const SERVANT = -1;
const OTHER = 1;

/** In a realm's global object, for two copies of this library in it have one ledger. */
const MARK = Symbol.for(NAME);
const realm = globalThis as { [MARK]?: number };

const threads = () => new Int32Array(page().memory, THREADS, REALMS);
const ledgerAt = (index: number) => new Int32Array(page().memory, LEDGERS + 4 * RECORDS * index, RECORDS);

/** How many estates were settled, and how many had been when a search for orphans last found none that lived: whoever is next goes on with that. */
const SETTLED = 0;
const SEARCHED = 1;
const searches = () => new Int32Array(page().memory, SEARCH, 2);

let thread: number | undefined;

/** Closes and reaps what was left by Workers that have ended. */
export function settleEstates(): void {
  thread ??= self.call("gettid");
  const owners = threads();
  const search = searches();
  for (let index = 0; index < REALMS; index++) {
    const owner = Atomics.load(owners, index);
    if (owner === UNUSED) break;
    if (owner === VACANT || index === realm[MARK] || !(owner === NOBODIES || hasEnded(owner))) continue;
    // Another realm may be about to do the same; and one that is terminated while it does leaves this to the next.
    if (Atomics.compareExchange(owners, index, owner, thread) !== owner) continue;
    const whole = settle(ledgerAt(index));
    if (whole || owner !== NOBODIES) Atomics.add(search, SETTLED, 1);
    Atomics.store(owners, index, whole ? VACANT : NOBODIES);
  }
  const settled = Atomics.load(search, SETTLED);
  if (Atomics.load(search, SEARCHED) !== settled && !reapOrphans()) Atomics.store(search, SEARCHED, settled);
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
  const numberOf = (at: number) => Math.abs(ledger[at]!) - 1;
  const strike = (at: number) => {
    const number = numberOf(at);
    ledger[at] = 0;
    attempt(() => close(self, number));
  };
  const servants = records.filter((at) => ledger[at]! < 0);
  for (const at of servants) attempt(() => signalProcess(self, numberOf(at), SIG.KILL));
  servants.filter((at) => !isLiving(numberOf(at))).forEach(strike);
  // No servant is waited for: the first process of a namespace ends behind all that joined it, which this realm may have to reap.
  const held = records.filter((at) => ledger[at] !== 0);
  if (held.filter((at) => isLiving(numberOf(at))).length > 0) return false;
  held.forEach(strike);
  return true;
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

const addressOf = ({ ledger, at }: { ledger: Int32Array; at: number }) => page().address + ledger.byteOffset + 4 * at;

function own(): Int32Array | undefined {
  realm[MARK] ??= enter()!;
  return realm[MARK] === undefined ? undefined : ledgerAt(realm[MARK]);
}

/** The record of this realm that reads `word`, if there is one. */
function find(word: number): { ledger: Int32Array; at: number } | undefined {
  try {
    const ledger = own();
    const at = ledger?.indexOf(word) ?? -1;
    return at < 0 ? undefined : { ledger: ledger!, at };
  } catch {
    return undefined; // the next time tries again
  }
}

/** Where there is no room, or no memory to share, it is not written down: it would be lost if the Worker were terminated, and does its service till then. */
function replace(from: number, to: number): void {
  const found = find(from);
  if (found !== undefined) found.ledger[found.at] = to;
}

/** Of the records that are being written; undefined while they are written already. */
let mark: typeof SERVANT | typeof OTHER | undefined = OTHER;

function owner(number: number, as: typeof mark): Descriptor {
  mark = as;
  try {
    return new Descriptor(number);
  } finally {
    mark = OTHER;
  }
}

/**
 * An owner for what is of no use to anyone but this realm; that of a process, and so is the process, until it `outlives()`. Written down in one step:
 * where a Worker is stopped in between, what it was starting would keep its own strings from being closed.
 */
export function servant(number: number): Descriptor {
  return owner(number, SERVANT);
}

/** Opens the process rdi, and writes that into the record at rsi as a servant. Returns the descriptor's number or `-errno`. */
export function holdCode(): Assembler {
  return new Assembler()
    .copy(R.R8, R.SI)
    .clear(R.SI)
    .set(R.AX, numberOf("pidfd_open", "x64"))
    .syscall()
    .compareResult(-MAX_ERRNO)
    .branch("jae", "end")
    .copy(R.CX, R.AX)
    .increment(R.CX)
    .clear(R.DX)
    .subtract(R.DX, R.CX)
    .store({ base: R.R8, offset: 0 }, R.DX, 32)
    .label("end")
    .return();
}

let hold: ReturnType<typeof callable> | undefined;

/** The process of that number, a child that serves this realm. Throws the SystemError of `pidfd_open(2)`. */
export function servantProcess(pid: number): Descriptor {
  const free = Bun.isMainThread ? undefined : find(0);
  if (free === undefined) return servant(openProcess(self, pid));
  hold ??= callable(holdCode(), 2);
  const number = hold(pid, addressOf(free));
  if (number < 0) throw new SystemError("pidfd_open", -number, `(${pid}, 0)`);
  return owner(number, undefined);
}

/** What served this realm, as a process does while it is being started, lives on from here, whatever becomes of the realm. */
export function outlives(descriptor: Descriptor): void {
  if (Bun.isMainThread || descriptor.closed) return;
  const record = descriptor.number + 1;
  replace(SERVANT * record, record);
}

// The main thread's end is that of the process.
if (!Bun.isMainThread) {
  keepLedger({
    opened: (number) => {
      if (mark !== undefined) replace(0, mark * (number + 1));
    },
    closed: (number) => {
      replace(number + 1, 0);
      replace(SERVANT * (number + 1), 0);
    },
  });
}
