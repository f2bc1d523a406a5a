/** A hand in a container that others made. */
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { changeDirectory, close, closeRange, duplicate } from "../../syscalls/linux/file.ts";
import { setNamespace } from "../../syscalls/linux/namespace.ts";
import { CLONE, O, SIG } from "../../syscalls/linux/numbers.ts";
import {
  becomeUser,
  clone,
  createSession,
  setDumpable,
  setGroups,
  setParentDeathSignal,
} from "../../syscalls/linux/process.ts";
import { openSignals } from "../../syscalls/linux/signal.ts";
import { socketPair } from "../../syscalls/linux/socket.ts";
import type { ContainerPlan, Namespace } from "../platform.ts";
import { servant } from "./estate.ts";
import { Batch, NEWS, type Prepared, STRINGS } from "./frame.ts";
import { Hand, orNothing } from "./hand.ts";
import { endPuppet, holdChild, startPuppet } from "./launch.ts";
import { CHILD, SIGNALS, TAKEN } from "./places.ts";

/** What such a container is made of, as far as we know. */
const ATTACHED: Omit<ContainerPlan, "namespaces"> = {
  user: 0,
  group: 0,
  groups: undefined,
  maps: undefined,
  hostname: undefined,
  domainname: undefined,
  loopback: false,
  clocks: undefined,
  join: [],
};

/** Starts a puppet that joins the namespaces of `target`, a pidfd, and there becomes another process, for only children are in a PID namespace. */
export async function attachHand(
  target: number,
  { joined, flags }: { readonly joined: readonly Namespace[]; readonly flags: bigint },
): Promise<Hand> {
  const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
  using socket = servant(ours);
  using childs = new Descriptor(theirs);
  const [newsOurs, newsTheirs] = socketPair(self, SOCK.SEQPACKET);
  using news = servant(newsOurs);
  using newsChilds = new Descriptor(newsTheirs);
  const placed = new Map([
    [NEWS, newsChilds.number],
    [CHILD, childs.number],
    [TAKEN, target],
  ]);
  const first = startPuppet({ namespaces: 0n, descriptors: [], placed });
  let pid: number;
  let prepared: Prepared;
  try {
    const batch = new Batch();
    setDumpable(batch, false);
    createSession(batch);
    if (flags !== 0n) setNamespace(batch, TAKEN, flags);
    const forked = batch.entries.length;
    batch.fork(() => clone(batch, { flags: CLONE.PARENT }));
    closeRange(batch, 0, STRINGS);
    close(batch, TAKEN);
    const signals = openSignals(batch, [SIG.CHLD]);
    duplicate(batch, signals, SIGNALS, O.CLOEXEC);
    close(batch, signals);
    // Where there is a root, the hand is that: who joins a user namespace has its capabilities, but none of its ids.
    batch.attempt(() => setGroups(batch, []));
    batch.attempt(() => becomeUser(batch, { uid: 0, gid: 0 }));
    changeDirectory(batch, "/");
    // Who is root inside can stop it, and then it would not see its strings close. Changed ids cleared this before.
    setParentDeathSignal(batch, SIG.KILL);
    prepared = first.kernel.prepare(batch, CHILD);
    pid = first.kernel.carryOut(batch, undefined, CHILD)[forked]!;
  } finally {
    endPuppet(first);
  }
  const pidfd = holdChild(pid);
  const plan: ContainerPlan = { ...ATTACHED, namespaces: joined };
  const puppet = { pid, pidfd, socket: servant(socket.take()) };
  const hand = new Hand(plan, puppet, { news: servant(news.take()), trees: new Map(), strings: CHILD, stops: true });
  childs.close();
  await orNothing(hand, async () => hand.kernel.expect(prepared));
  return hand;
}
