/** Zygotes: puppets that stay, and from which those of containers are forked. */
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { changeDirectory, close, closeRange, duplicate, open } from "../../syscalls/linux/file.ts";
import { CLONE, F, O } from "../../syscalls/linux/numbers.ts";
import { clone, cloneInto, getLimit } from "../../syscalls/linux/process.ts";
import { receiveDescriptors, sendDescriptors, socketPair } from "../../syscalls/linux/socket.ts";
import type { IdMaps, IdRange } from "../platform.ts";
import { abilities } from "./abilities.ts";
import { forkRefusal } from "./advice.ts";
import type { Doors } from "./cgroup/group.ts";
import { servant, settleEstates } from "./estate.ts";
import { Batch, NEWS, STRINGS } from "./frame.ts";
import { mapsFor, writeMaps } from "./ids.ts";
import { endChild, endPuppet, holdChild, namesOf, type Puppet, startPuppet } from "./launch.ts";

/*
 * A puppet that is forked from another need not be executed anew, and what is inside a container cannot look into it, whatever capabilities
 * it has there: the memory belongs to the user namespace in which the zygote was executed, the host's.
 *
 * A network namespace costs as much as all the rest, and in one that has no sockets nothing can happen. So programs that cannot make
 * sockets share one. Who has no rights on the host can only begin in it, which takes a parent there: a second zygote.
 *
 * Children of zygotes are the host's own (CLONE_PARENT). Zygotes run nothing, and end with the host, as their strings do.
 */
const zygotes: { apart?: Zygote; shared?: Zygote } = {};

interface Zygote extends Puppet {
  readonly limits: string;
}

/** What counts for all that a zygote forks as it was when that was made. Where this process has others by now, it takes another zygote. */
function currentLimits(): string {
  return [getLimit(self, "NPROC"), getLimit(self, "NOFILE")].map(({ soft, hard }) => `${soft} ${hard}`).join();
}

/** What the zygote gets of the host, in this order, at the first numbers that it has free. */
export const CHILDS_STRINGS = NEWS + 1;
const OTHERS = NEWS + 2;

/** SCM_MAX_FD: what the kernel sends at once. */
const MOST_SENT = 253;

/** What a puppet forked from the zygote begins with. */
export interface Birth {
  /** CLONE.NEW* */
  readonly namespaces: bigint;
  /** Whether it is in the empty network that sandboxes share; then it has a user namespace, and no network among `namespaces`. */
  readonly sharedNetwork: boolean;
  /** The maps of its user namespace, if it has one. */
  readonly maps: IdMaps | undefined;
  /** The host's descriptor of its news, where it is to tell of children. */
  readonly news?: number;
  /** Of the group that it is in from the start, if it has one. */
  readonly doors?: Doors | undefined;
  /** More of the host's descriptors, by the numbers, from 100 on, that they get. */
  readonly placed: ReadonlyMap<number, number>;
}

/** A puppet that was forked. */
export interface Born extends Omit<Puppet, "kernel"> {
  /** Its number of its strings. */
  readonly strings: number;
  /** What it answers first of all: that it has its descriptors. Throws if it has not. */
  take(answer: Uint8Array): void;
}

/** Forks a puppet, which serves this realm. Throws the SystemError of what failed. */
export function forkPuppet(birth: Birth): Born {
  settleEstates();
  const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
  using unfinished = new DisposableStack();
  const socket = unfinished.use(servant(ours));
  using strings = new Descriptor(theirs);
  const child = fork(birth, strings.number);
  unfinished.move();
  return { ...child, socket };
}

/** Forks it from a zygote that there is, or else a new one. */
function fork(birth: Birth, strings: number): Omit<Born, "socket"> {
  const kind = birth.sharedNetwork ? "shared" : "apart";
  const limits = currentLimits();
  if (zygotes[kind] !== undefined && zygotes[kind].limits !== limits) drop(kind);
  if (zygotes[kind] !== undefined) {
    try {
      return forkFrom(kind, birth, strings);
    } catch (error) {
      // EPIPE: someone had ended the zygote, before it was told anything. There is another one.
      if (zygotes[kind] !== undefined || !(error instanceof SystemError && error.code === "EPIPE")) throw error;
    }
  }
  zygotes[kind] = { ...makeZygote(kind), limits };
  return forkFrom(kind, birth, strings);
}

/** Ends a zygote; there will be another one. Killed, for one that waits for descriptors would go on without them when its strings close. */
function drop(kind: keyof typeof zygotes): void {
  const { pidfd, socket } = zygotes[kind]!;
  delete zygotes[kind];
  endChild(pidfd);
  socket.close();
}

function forkFrom(kind: keyof typeof zygotes, birth: Birth, strings: number): Omit<Born, "socket"> {
  const { kernel, socket } = zygotes[kind]!;
  const batch = new Batch();
  const { directory, tasks = [] } = birth.doors ?? {};
  const doors = directory === undefined ? tasks : [...tasks, directory];
  const sent = [birth.news ?? strings, strings, ...doors, ...birth.placed.values()];
  if (sent.length > MOST_SENT)
    throw new RangeError(`Cannot hand over ${sent.length} descriptors and mounts: at most ${MOST_SENT} can be`);
  // A zygote that waits for descriptors which cannot be sent would take the next frame for them.
  for (const descriptor of sent) self.call("fcntl", descriptor, F.GETFD, 0);
  receiveDescriptors(batch, STRINGS, new Uint8Array(1), { most: sent.length });
  const forked = batch.entries.length;
  const flags = CLONE.PARENT | birth.namespaces;
  batch.fork(() =>
    directory === undefined
      ? clone(batch, { flags })
      : cloneInto(batch, { flags, group: OTHERS + doors.indexOf(directory) }),
  );
  // Who moves its own only thread need not have the kernel hold up all forks of the machine.
  tasks.forEach((_, index) => {
    batch.call("write", OTHERS + index, "0", 1);
  });
  [...birth.placed.keys()].forEach((number, index) => {
    duplicate(batch, OTHERS + doors.length + index, number);
  });
  closeRange(batch, 0, STRINGS);
  closeRange(batch, OTHERS, 99);
  const closing = new Batch();
  closeRange(closing, NEWS);
  const prepared = kernel.prepare(batch, CHILDS_STRINGS);
  let pid = 0;
  try {
    kernel.send(prepared, (answer) => {
      pid = prepared.read(answer)[forked]!;
    });
    sendDescriptors(self, socket.number, new Uint8Array(1), sent);
    kernel.send(kernel.prepare(closing), () => {});
    kernel.until(() => pid !== 0);
  } catch (error) {
    if (error instanceof SystemError && error.syscall.startsWith("clone"))
      throw forkRefusal(error.syscall, error.errno, `(${namesOf(birth.namespaces)})`);
    // What was sent and not taken, it would take for what it is sent next.
    drop(kind);
    throw error;
  }
  const pidfd = holdChild(pid);
  try {
    if (birth.maps === undefined) {
      // there is no user namespace
    } else if (birth.sharedNetwork && !abilities().root) kernel.carryOut(mapping(pid, birth.maps));
    else writeMaps(pid, birth.maps);
  } catch (error) {
    endChild(pidfd);
    if (birth.sharedNetwork) drop(kind); // it may have kept the file open, and then has other numbers than we think
    throw error;
  }
  return { pid, pidfd, strings: CHILDS_STRINGS, take: (answer) => void prepared.read(answer) };
}

/** Writes the maps as the zygote may, whose user namespace is between: its own ids stand for those that the maps have outside. */
function mapping(pid: number, { uids, gids, setgroups }: IdMaps): Batch {
  const batch = new Batch();
  const own = mapsFor(undefined);
  const lines = (ranges: readonly IdRange[], id: number) =>
    ranges.map(({ inside, count }) => `${inside} ${id} ${count}\n`).join("");
  const write = (name: string, text: string) => {
    const bytes = new TextEncoder().encode(text);
    const file = open(batch, `/proc/${pid}/${name}`, O.WRONLY | O.CLOEXEC);
    batch.call("write", file, bytes, bytes.length);
    close(batch, file);
  };
  if (setgroups === "deny") write("setgroups", "deny");
  write("uid_map", lines(uids, own.uids[0]!.inside));
  write("gid_map", lines(gids, own.gids[0]!.inside));
  return batch;
}

function makeZygote(kind: keyof typeof zygotes): Puppet {
  // Root makes network namespaces without a user namespace, in which it would not be root to the files that it shows.
  const user = kind === "shared" && !abilities().root;
  const network = kind === "shared" ? CLONE.NEWNET : 0n;
  const made = startPuppet({ namespaces: network | (user ? CLONE.NEWUSER : 0n), descriptors: [] });
  try {
    if (user) writeMaps(made.pid, mapsFor(undefined));
    changeDirectory(made.kernel, "/"); // it stays, and should hold no directory of the host's in use
    return made;
  } catch (error) {
    endPuppet(made);
    throw error;
  }
}
