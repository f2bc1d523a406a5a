/** Frames with which a container's puppet starts programs. */
import type { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { allCapabilities, capget, capset } from "../../syscalls/linux/capability.ts";
import { MSG } from "../../syscalls/linux/constants.ts";
import { closeRange, duplicate } from "../../syscalls/linux/file.ts";
import { CAP, CLONE } from "../../syscalls/linux/numbers.ts";
import { clone, setDumpable, setNoNewPrivileges } from "../../syscalls/linux/process.ts";
import { receiveDescriptors } from "../../syscalls/linux/socket.ts";
import { setControllingTerminal } from "../../syscalls/linux/terminal.ts";
import { ready } from "../../syscalls/ready.ts";
import type { ContainerPlan, ProcessPlan } from "../platform.ts";
import { abilities } from "./abilities.ts";
import { rlimitsOf } from "./bounds.ts";
import { servant } from "./estate.ts";
import { becomeProgram } from "./execute.ts";
import { Batch, NEWS, type Prepared, STRINGS } from "./frame.ts";
import { SIGNALS, stringsFor } from "./places.ts";
import type { Plan } from "./plan.ts";

/** What a program of a container is started with. */
export interface Start {
  /** The host's end of its strings. */
  readonly strings: Descriptor;
  /** The puppet's numbers of its descriptors, by its own. */
  readonly held: ReadonlyMap<number, number>;
  readonly landlock: Plan["landlock"] | undefined;
  /** Takes the listener of its last filter, where that hands over calls. The program does not begin before. */
  readonly supervise?: Supervise | undefined;
}
/** @param pid the program's process, by its number on the host */
export type Supervise = (listener: Descriptor, pid: number) => void;

/** The puppet that starts them. */
export interface Puppeteer {
  readonly plan: ContainerPlan;
  /** Its number of its own strings. */
  readonly own: number;
  /** Whether a group keeps the number of processes. */
  readonly counted: boolean;
}

/** Adds to a batch what makes a program, and returns which of its calls forks. */
export function addProgram(
  batch: Batch,
  process: ProcessPlan,
  {
    plan,
    own,
    counted,
    held,
    landlock,
    strings,
  }: Pick<Start, "held" | "landlock"> & Puppeteer & { readonly strings?: number },
): number {
  const capable = plan.namespaces.includes("user") || abilities().capable;
  const tid = new Uint8Array(4);
  if (process.init && process.terminal) setControllingTerminal(batch, held.get(0)!);
  // Who has the ids of the puppet, or may trace any process inside, must not look into it. Until then whoever owns the container may.
  if (process.init && (process.capabilities & (1n << BigInt(CAP.SYS_PTRACE))) !== 0n) setDumpable(batch, false);
  const forked = batch.entries.length;
  if (process.init)
    batch.fork(() => clone(batch, { flags: CLONE.CHILD_SETTID, childTid: tid }), { main: strings === undefined });
  else if (process.descriptors.has(own)) duplicate(batch, own, stringsFor(process));
  // Where the capabilities are the host's, all of them are those that it has.
  const chosen = plan.namespaces.includes("user") || process.capabilities !== allCapabilities();
  const capabilities = chosen ? process.capabilities : capget(self).permitted;
  becomeProgram(
    batch,
    { ...process, capabilities, limits: { ...rlimitsOf(plan, process, counted), ...process.limits } },
    {
      strings: strings ?? (process.init ? stringsFor(process) : ownStrings(process, own)),
      descriptors: held,
      capable,
      landlock,
      tid,
    },
  );
  return forked;
}

/** Where the puppet's own strings stand when it becomes the program. */
export function ownStrings(process: ProcessPlan, own: number): number {
  return process.descriptors.has(own) ? stringsFor(process) : own;
}

/** What the puppet gives up when its program has begun: everything but looking after it. */
export function retirement(): Batch {
  const batch = new Batch();
  closeRange(batch, 0, STRINGS - 1);
  // Where it could not have its descriptors at their numbers, they are still at others, and its child's strings among them.
  closeRange(batch, NEWS + 2, SIGNALS - 1);
  setDumpable(batch, false);
  setNoNewPrivileges(batch);
  const kill = 1n << BigInt(CAP.KILL);
  batch.attempt(() => capset(batch, { effective: kill, permitted: kill, inheritable: 0n }));
  return batch;
}

/** Takes the listener that a puppet sends before it becomes the program; or nothing, where it says instead why it cannot: that is still to be read. */
export async function introduce(strings: Descriptor, supervise: Supervise): Promise<void> {
  await ready(strings.number, "read").done;
  // A look first: what is no byte with a descriptor is an answer.
  const flags = MSG.DONTWAIT | MSG.PEEK;
  const { length, descriptors } = receiveDescriptors(self, strings.number, new Uint8Array(2), { most: 1, flags });
  for (const descriptor of descriptors) self.call("close", descriptor);
  if (length !== 1) return;
  const taken = receiveDescriptors(self, strings.number, new Uint8Array(1), { most: 1, flags: MSG.DONTWAIT });
  const [listener] = taken.descriptors.map(servant);
  if (listener !== undefined) supervise(listener, taken.sender!);
}

export interface ProgramFrame {
  readonly prepared: Prepared;
  /** What the puppet is told behind it. */
  readonly retired: Prepared;
  /** Which of its calls forks. */
  readonly forked: number;
}

/** Frames of programs that were started already: to lay one out takes as long as to carry it out. */
const frames = new Map<string, ProgramFrame>();
const MOST_FRAMES = 64;

/** The frame for what `key` says, made where it is not known; undefined where it does not fit. */
export function frameFor(key: string, make: () => ProgramFrame | undefined): ProgramFrame | undefined {
  const known = frames.get(key);
  if (known !== undefined) return known;
  const made = make();
  if (made === undefined) return undefined;
  if (frames.size === MOST_FRAMES) frames.clear();
  frames.set(key, made);
  return made;
}

/** What a program's frame depends on. */
export function keyOf(
  process: ProcessPlan,
  { plan, own, counted, held, landlock }: Puppeteer & Pick<Start, "held" | "landlock">,
): string {
  const plain = (_: string, value: unknown) => {
    if (typeof value === "bigint") return `${value}n`;
    if (value instanceof Map) return [...value];
    return value instanceof Uint8Array ? Buffer.from(value).toString("base64") : value;
  };
  return JSON.stringify([plan, { ...process, descriptors: undefined }, [...held], landlock, own, counted], plain);
}
