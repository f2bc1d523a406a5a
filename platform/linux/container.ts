/** Containers: a puppet in namespaces of its own, for one program or for several. */
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { CLONE } from "../../syscalls/linux/numbers.ts";
import { openProcess } from "../../syscalls/linux/process.ts";
import { askForSender, socketPair } from "../../syscalls/linux/socket.ts";
import { type Contained, type ContainerPlan, NAMESPACES, type ProcessPlan, type Running } from "../platform.ts";
import { namespaceOf } from "./abilities.ts";
import { attachHand } from "./attached.ts";
import { Hand, orNothing } from "./hand.ts";
import { isUnsettled } from "./lookup.ts";
import { HELD, stringsFor } from "./places.ts";
import type { Plan } from "./plan.ts";
import type { Supervise } from "./programs.ts";
import { FLAGS } from "./setup.ts";

/** Starts a container. */
export function contain(plan: ContainerPlan): Promise<Hand> {
  return again(() => containOnce(plan));
}

async function containOnce(plan: ContainerPlan): Promise<Hand> {
  const hand = Hand.start(plan, new Map());
  return await orNothing(hand, async () => {
    hand.listen();
    await hand.setUp();
    return hand;
  });
}

/** What a sandbox has beside what any container has. */
export interface Sandboxing {
  /** What confines the program beside the container. */
  readonly landlock?: Plan["landlock"];
  /** Whether it is in the empty network that sandboxes share, for it cannot make sockets. */
  readonly sharedNetwork?: boolean;
  /** Whether a policy has been asked already what cannot be kept here. */
  readonly sandboxed?: boolean;
  /** Takes the listener of the program's last filter, where that hands over calls. */
  readonly supervise?: Supervise | undefined;
}

/** Starts one program in a container of its own. */
export function execute(
  plan: ContainerPlan,
  process: ProcessPlan,
  sandboxing: Sandboxing = {},
): Promise<Contained & Running> {
  return again(() => executeOnce(plan, process, sandboxing));
}

const MOST_TIMES = 5;

/** What passes: look-ups disturbed by others; and a user whose other processes have too many descriptors on their way has to wait until those arrive. */
const isPassing = (error: unknown) =>
  isUnsettled(error) || (error instanceof SystemError && error.syscall === "sendmsg" && error.code === "ETOOMANYREFS");

async function again<Result>(start: () => Promise<Result>): Promise<Result> {
  for (let times = 1; ; times++) {
    try {
      return await start();
    } catch (error) {
      if (!isPassing(error) || times === MOST_TIMES) throw error;
    }
  }
}

async function executeOnce(
  plan: ContainerPlan,
  process: ProcessPlan,
  { landlock, sharedNetwork = false, sandboxed = false, supervise }: Sandboxing,
): Promise<Contained & Running> {
  const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
  using strings = new Descriptor(ours);
  using childs = new Descriptor(theirs);
  if (supervise !== undefined) askForSender(self, strings.number);
  const numbers = [...process.descriptors.keys()];
  const held = new Map(numbers.map((number, index) => [number, HELD + index]));
  const placed = new Map(numbers.map((number, index) => [HELD + index, process.descriptors.get(number)!]));
  if (process.init) placed.set(stringsFor(process), childs.number);
  const hand = Hand.start(plan, placed, { sharedNetwork, sandboxed, stays: process.init, stops: process.terminal });
  return await orNothing(hand, async () => {
    childs.close();
    return await hand.main(process, { strings, held, landlock, supervise });
  });
}

/**
 * Puts a puppet into the namespaces of a process. Nothing that is there runs or is read, and the puppet has no memory of the host; nor can
 * anyone inside look into it, whatever capabilities they have there: it began outside, where they count for nothing.
 */
export async function attach(pid: number): Promise<Contained> {
  using target = new Descriptor(openProcess(self, pid));
  const joined = NAMESPACES.filter((name) => namespaceOf(pid, name) !== namespaceOf("self", name));
  const flags = joined.reduce((bits, name) => bits | (name === "time" ? CLONE.NEWTIME : FLAGS[name]), 0n);
  const hand = await attachHand(target.number, { joined, flags });
  return await orNothing(hand, async () => {
    hand.listen();
    return hand;
  });
}
