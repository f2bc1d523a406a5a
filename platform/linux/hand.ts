/** The host's hand in a container: what it sets up there, and the programs that it starts. */
import { statSync } from "node:fs";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { type Argument, type Kernel, type SyscallName, self } from "../../syscalls/kernel.ts";
import { allCapabilities, capget, capset } from "../../syscalls/linux/capability.ts";
import { MSG, SOCK } from "../../syscalls/linux/constants.ts";
import { changeDirectory, close, closeRange, duplicate, open } from "../../syscalls/linux/file.ts";
import { setNamespace, unshare } from "../../syscalls/linux/namespace.ts";
import { raiseLoopback } from "../../syscalls/linux/network.ts";
import { CAP, CLONE, F, O, S, SIG } from "../../syscalls/linux/numbers.ts";
import {
  becomeUser,
  CLD,
  clone,
  createSession,
  decodeNews,
  SIGINFO_SIZE,
  setDomainname,
  setDumpable,
  setGroups,
  setHostname,
  setNoNewPrivileges,
  setParentDeathSignal,
} from "../../syscalls/linux/process.ts";
import { openSignals, signalProcess } from "../../syscalls/linux/signal.ts";
import { askForSender, receiveDescriptors, sendDescriptors, socketPair } from "../../syscalls/linux/socket.ts";
import { setControllingTerminal } from "../../syscalls/linux/terminal.ts";
import { ready } from "../../syscalls/ready.ts";
import {
  type Contained,
  type ContainerPlan,
  type Counters,
  type Ended,
  type Mount,
  type Namespace,
  NotEnforced,
  type ProcessPlan,
  type Running,
} from "../platform.ts";
import { abilities, NAMESPACES as NAMESPACE_FLAGS } from "./abilities.ts";
import { type Bounds, boundsOf, rlimitsOf } from "./bounds.ts";
import { becomeProgram } from "./execute.ts";
import { Batch, NEWS, NEWS_SIZE, type Prepared, STRINGS } from "./frame.ts";
import { mappedTree } from "./idmap.ts";
import { endPuppet, holdChild, type Puppet, startPuppet } from "./launch.ts";
import { type Plan, PROC_REMEDY } from "./plan.ts";
import { PuppetKernel } from "./remote.ts";
import { type Attempting, furnish } from "./root.ts";
import { childByInnerPid, countersOfTree, grouped, risen, rising, Tally } from "./usage.ts";
import { answerOf, ended, watch } from "./watch.ts";
import { forkPuppet } from "./zygote.ts";

/** CLONE flags. clone(2) has none for clocks: the puppet unshares those, for its children. */
export const FLAGS: Readonly<Record<Namespace, bigint>> = { user: CLONE.NEWUSER, ...NAMESPACE_FLAGS, time: 0n };

/** Numbers of the puppet's descriptors, away from those that programs ask for: its child's strings, then what it holds for that child. */
const CHILD = 100;
export const HELD = 101;
/** Its signalfd. */
const SIGNALS = 201;
/** What it takes from the host in order to set up: namespaces and mounts. */
const TAKEN = 210;

const MOST_EARLY = 1024;
/** What a container's main program is passed: whatever asks it to do something, and can be caught. */
const PASSED_ON = [SIG.HUP, SIG.INT, SIG.QUIT, SIG.TERM, SIG.USR1, SIG.USR2, SIG.ALRM, SIG.WINCH, SIG.CONT];

/** A container that others made. */
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

/** The kernel says EPERM to a proc in a user namespace whose maker sees parts of its own covered. Instead, that of the host would show everyone. */
function refuseCoveredProc({ maps, root }: ContainerPlan): void {
  if (maps === undefined || !root?.mounts.some(({ kind }) => kind === "proc") || abilities().proc !== "bind") return;
  throw new NotEnforced(
    "processes",
    `no proc can be mounted, for parts of this one are covered: ${abilities().refusals.proc}`,
    `${PROC_REMEDY}, or show the host's processes with bind("/proc")`,
    { allowable: false },
  );
}

/** Ends a container whose making failed, and throws on once nothing of it is left. */
export async function orNothing<Result>(hand: Hand, make: () => Promise<Result>): Promise<Result> {
  try {
    return await make();
  } catch (error) {
    hand.kill();
    await hand.ended;
    throw error;
  }
}

/** What a program of a container is started with. */
interface Start {
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

/** The host's hand in a container. */
export class Hand implements Contained {
  readonly pid: number;
  readonly kernel: PuppetKernel;
  readonly ended: Promise<Ended>;
  readonly #puppet: Omit<Puppet, "kernel">;
  /** The puppet's number of its strings. */
  readonly #strings: number;
  readonly #plan: ContainerPlan;
  readonly #bounds: Bounds | undefined;
  readonly #news: Descriptor;
  /** The puppet's numbers of the mounts that the host made. */
  readonly #trees: ReadonlyMap<Mount, readonly number[]>;
  readonly #programs = new Map<number, Program>();
  /** Ends of programs that were not yet known to have begun. */
  readonly #early = new Map<number, Ended>();
  /** How many programs are not yet known to have begun. */
  #starting = 0;
  #last: Ended | undefined;
  /** The program with which the container ends. */
  #main = false;
  /** Whether the puppet is the program itself. */
  #became = false;
  /** The most that a program used. The puppet's own is that of the host, whose memory it shared before it was a puppet. */
  #peakKib = 0;
  readonly #tally = new Tally();
  readonly #used = rising(() => this.#count());

  private constructor(
    plan: ContainerPlan,
    puppet: Omit<Puppet, "kernel">,
    {
      news,
      trees,
      strings,
      bounds,
    }: {
      news: Descriptor;
      trees: ReadonlyMap<Mount, readonly number[]>;
      strings: number;
      bounds?: Bounds | undefined;
    },
  ) {
    this.#bounds = bounds;
    this.pid = puppet.pid;
    this.#strings = strings;
    this.#plan = plan;
    this.#puppet = puppet;
    this.#news = news;
    this.#trees = trees;
    this.kernel = new PuppetKernel(puppet.socket.number, { strings, signals: SIGNALS });
    this.kernel.onSilence = () => this.kill();
    this.kernel.news = { socket: news.number, take: (bytes) => this.#take(bytes) };
    this.ended = this.#end();
  }

  /** Starts the puppet. @param placed more of the host's descriptors for it, by the numbers that they get */
  static start(
    plan: ContainerPlan,
    placed: Map<number, number>,
    {
      sharedNetwork = false,
      sandboxed = false,
    }: { readonly sharedNetwork?: boolean; readonly sandboxed?: boolean } = {},
  ): Hand {
    refuseCoveredProc(plan);
    using borrowed = new DisposableStack();
    const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
    using news = new Descriptor(ours);
    borrowed.use(new Descriptor(theirs));
    plan.join.forEach((namespace, index) => {
      placed.set(TAKEN + index, namespace);
    });
    const trees = new Map<Mount, readonly number[]>();
    let taken = TAKEN + plan.join.length;
    const take = (tree: Descriptor) => {
      placed.set(taken, borrowed.use(tree).number);
      return taken++;
    };
    for (const each of plan.root?.mounts ?? []) {
      if (each.kind === "bind" && each.idmap !== undefined) trees.set(each, [take(mappedTree(each, each.idmap))]);
      if (each.kind === "overlay") mustOwn(each, plan.maps);
      if (each.kind === "overlay" && each.idmap !== undefined) {
        const layers = each.lower.map((source) => mappedTree({ source, directory: true, recursive: false }));
        trees.set(each, layers.map(take));
      }
    }
    const namespaces = plan.namespaces.reduce((bits, name) => bits | (name === "cgroup" ? 0n : FLAGS[name]), 0n);
    const bounds = boundsOf(plan, sandboxed);
    const [socket, strings] = socketPair(self, SOCK.SEQPACKET);
    using held = new Descriptor(socket);
    borrowed.use(new Descriptor(strings));
    const birth = {
      namespaces,
      sharedNetwork: sharedNetwork && plan.maps !== undefined,
      maps: plan.maps,
      strings,
      news: theirs,
      placed,
    };
    const { pid, pidfd, ...born } = bounds === undefined ? forkPuppet(birth) : bounds.of(() => forkPuppet(birth));
    const puppet = { pid, pidfd, socket: new Descriptor(held.take()) };
    const hand = new Hand(plan, puppet, { news: new Descriptor(news.take()), trees, strings: born.strings, bounds });
    hand.kernel.await(born.take);
    try {
      bounds?.hold(
        pid,
        () => hand.kill(),
        () => (hand.#puppet.pidfd.closed ? undefined : hand.usage()),
      );
    } catch (error) {
      hand.kill();
      throw error;
    }
    return hand;
  }

  /** Starts a puppet that joins the namespaces of `target`, a pidfd, and there becomes another process, for only children are in a PID namespace. */
  static async join(target: number, { joined, flags }: { joined: readonly Namespace[]; flags: bigint }): Promise<Hand> {
    const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
    using socket = new Descriptor(ours);
    using childs = new Descriptor(theirs);
    const [newsOurs, newsTheirs] = socketPair(self, SOCK.SEQPACKET);
    using news = new Descriptor(newsOurs);
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
    const puppet = { pid, pidfd, socket: new Descriptor(socket.take()) };
    const hand = new Hand(plan, puppet, { news: new Descriptor(news.take()), trees: new Map(), strings: CHILD });
    childs.close();
    await orNothing(hand, async () => hand.kernel.expect(prepared));
    return hand;
  }

  /** Has the event loop take what the puppet says. */
  listen(): void {
    const again = (socket: number) => self.call("fcntl", socket, F.DUPFD_CLOEXEC, 0);
    // Whoever breaks the rules of the strings is no puppet of ours any more.
    const orKill = (take: () => void) => {
      try {
        take();
      } catch {
        this.kill();
      }
    };
    watch(again(this.#puppet.socket.number), {
      data: (bytes) => orKill(() => this.kernel.received(bytes)),
      close() {},
    });
    watch(again(this.#news.number), { data: (bytes) => orKill(() => this.#take(bytes)), close() {} });
  }

  /** Sets the container up, before anything runs in it. */
  async setUp(): Promise<void> {
    const batch = new Batch();
    const verify = this.#furnish(batch);
    const prepared = this.kernel.prepareIfFits(batch);
    if (prepared === undefined) {
      this.#furnish(new Stepwise(this.kernel))();
      return;
    }
    let answer: Uint8Array | undefined;
    this.kernel.send(prepared, (bytes) => {
      answer = bytes;
    });
    // Other work of this process goes on meanwhile.
    await ready(this.#puppet.socket.number, "read").done;
    this.kernel.until(() => answer !== undefined);
    prepared.read(answer!);
    verify();
  }

  /** Sets the container up for one program, and starts it. */
  async main(process: ProcessPlan, { strings, held, landlock, supervise }: Start): Promise<Contained & Running> {
    const { prepared, retired, forked } = await this.#frameFor(process, { held, landlock });
    if (!process.init) return await this.#instead(prepared);

    this.#main = true;
    let pid: number | undefined;
    let failure: unknown;
    this.kernel.send(prepared, (answer) => {
      try {
        pid = prepared.read(answer)[forked];
      } catch (error) {
        failure = error;
      }
    });
    try {
      this.kernel.send(retired, () => {});
    } catch (error) {
      // The program is quick, and has ended already.
      if (!(error instanceof SystemError && error.code === "EPIPE")) throw error;
    }
    if (supervise !== undefined) await introduce(strings, supervise);
    await answerOf(strings.take(), prepared);
    // The strings closed because it became the program; or because the puppet let go of them, having answered why.
    this.kernel.until(() => pid !== undefined || failure !== undefined);
    if (failure !== undefined) throw failure;
    if (process.terminal) this.listen();
    return this.#running(pid!, this.ended);
  }

  pass(descriptors: readonly number[]): number[] {
    const passing: Kernel = {
      call: (name, ...args) => {
        const batch = new Batch();
        batch.call(name, ...args);
        return this.kernel.carryOut(batch, () => {
          try {
            sendDescriptors(self, this.#puppet.socket.number, new Uint8Array(1), descriptors);
          } catch (error) {
            // It waits for a message, and would take the next frame for that.
            self.call("sendto", this.#puppet.socket.number, new Uint8Array(1), 1, MSG.NOSIGNAL, null, 0);
            throw error;
          }
        })[0]!;
      },
    };
    return receiveDescriptors(passing, this.#strings, new Uint8Array(1), { most: descriptors.length }).descriptors;
  }

  take(descriptor: number): number {
    const batch = new Batch();
    sendDescriptors(batch, this.#strings, new Uint8Array(1), [descriptor]);
    return this.kernel.taken(batch);
  }

  async execute(
    process: ProcessPlan,
    { landlock, supervise }: Pick<Start, "supervise"> & { readonly landlock?: Plan["landlock"] } = {},
  ): Promise<Contained & Running> {
    const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
    using strings = new Descriptor(ours);
    using childs = new Descriptor(theirs);
    if (supervise !== undefined) askForSender(self, strings.number);
    const numbers = [...process.descriptors.keys()];
    const passed = this.pass([childs.number, ...process.descriptors.values()]);
    childs.close();
    const held = new Map(numbers.map((number, index) => [number, passed[index + 1]!]));
    // Where the program asks for the number that its strings have here, they need another.
    if (process.descriptors.has(passed[0]!))
      passed.unshift(this.kernel.call("fcntl", passed[0]!, F.DUPFD_CLOEXEC, Math.max(...numbers) + 1));
    const batch = new Batch();
    const forked = this.#become(batch, process, { held, landlock, strings: passed[0]! });
    const closing = new Batch();
    for (const number of passed) close(closing, number);
    const prepared = this.kernel.prepare(batch, passed[0]!);
    const answer = this.kernel.answered(prepared);
    void this.kernel.answered(this.kernel.prepare(closing)).catch(() => {});
    this.#starting++;
    try {
      const pid = (await Promise.race([answer, this.#over()]))[forked]!;
      if (supervise !== undefined) await introduce(strings, supervise);
      await answerOf(strings.take(), prepared);
      const { promise, resolve } = Promise.withResolvers<Ended>();
      void this.ended.then(resolve);
      return this.#running(pid, promise, resolve);
    } finally {
      this.#starting--;
      if (this.#starting === 0) this.#early.clear();
    }
  }

  usage(): Counters {
    return this.#used();
  }

  onMemoryWarning(take: () => void): void {
    if (this.#bounds !== undefined) this.#bounds.onWarning = take;
  }

  kill(): void {
    // The kernel counts for nobody those that end with their namespace.
    this.usage();
    if (!this.#puppet.pidfd.closed) signalProcess(self, this.#puppet.pidfd.number, SIG.KILL);
    // Without a PID namespace nothing else ends with its first process.
    if (!this.#plan.namespaces.includes("pid")) this.#bounds?.kill();
  }

  #furnish(kernel: Attempting): () => void {
    const plan = this.#plan;
    const signals = openSignals(kernel, [SIG.CHLD, ...PASSED_ON]);
    duplicate(kernel, signals, SIGNALS, O.CLOEXEC);
    close(kernel, signals);
    createSession(kernel);
    // It shows the group that the puppet has been put into as the top.
    if (plan.namespaces.includes("cgroup")) unshare(kernel, CLONE.NEWCGROUP);
    plan.join.forEach((_, index) => {
      setNamespace(kernel, TAKEN + index, 0);
      close(kernel, TAKEN + index);
    });
    if (plan.namespaces.includes("time")) setClocks(kernel, plan.clocks);
    if (plan.hostname !== undefined) setHostname(kernel, plan.hostname);
    if (plan.domainname !== undefined) setDomainname(kernel, plan.domainname);
    if (plan.loopback) raiseLoopback(kernel);
    const takeIds = () => {
      if (plan.maps === undefined) return;
      if (plan.maps.setgroups === "allow") setGroups(kernel, plan.groups ?? []);
      becomeUser(kernel, { uid: plan.user, gid: plan.group });
    };
    if (plan.root === undefined) {
      takeIds();
      changeDirectory(kernel, "/");
      return () => {};
    }
    return furnish(kernel, {
      mounts: plan.root.mounts.map((each) =>
        each.kind === "tmpfs" && each.size === undefined ? { ...each, size: plan.limits?.tmpfs } : each,
      ),
      trees: this.#trees,
      takeIds,
      rootInside: plan.maps === undefined || plan.maps.uids.some(({ outside }) => outside === 0),
      user: plan.namespaces.includes("user"),
      readonlyRoot: plan.root.readonly,
    });
  }

  /** Adds to a batch what makes a program, and returns which of its calls forks. */
  #become(
    batch: Batch,
    process: ProcessPlan,
    { held, landlock, strings }: Pick<Start, "held" | "landlock"> & { readonly strings?: number },
  ): number {
    const capable = this.#plan.namespaces.includes("user") || abilities().capable;
    const tid = new Uint8Array(4);
    if (process.init && process.terminal) setControllingTerminal(batch, held.get(0)!);
    // Who has the ids of the puppet, or may trace any process inside, must not look into it. Until then whoever owns the container may.
    if (process.init && (process.capabilities & (1n << BigInt(CAP.SYS_PTRACE))) !== 0n) setDumpable(batch, false);
    const forked = batch.entries.length;
    if (process.init)
      batch.fork(() => clone(batch, { flags: CLONE.CHILD_SETTID, childTid: tid }), { main: strings === undefined });
    else if (process.descriptors.has(this.#strings)) duplicate(batch, this.#strings, stringsFor(process));
    // Where the capabilities are the host's, all of them are those that it has.
    const own = this.#plan.namespaces.includes("user") || process.capabilities !== allCapabilities();
    const capabilities = own ? process.capabilities : capget(self).permitted;
    becomeProgram(
      batch,
      { ...process, capabilities, limits: { ...rlimitsOf(this.#plan), ...process.limits } },
      {
        strings: strings ?? (process.init ? stringsFor(process) : this.#stringsOf(process)),
        descriptors: held,
        capable,
        landlock,
        tid,
      },
    );
    return forked;
  }

  /** The frame that sets the container up and starts its program; or, where that cannot be one, starts it only, and the rest is done. */
  async #frameFor(process: ProcessPlan, start: Pick<Start, "held" | "landlock">): Promise<ProgramFrame> {
    const plan = this.#plan;
    // A source that is not the one that was meant must be found before the program starts.
    const claims = plan.root?.mounts.some((each) => each.kind === "bind" && each.identity !== undefined) ?? false;
    const key = claims ? undefined : keyOf(plan, process, { ...start, own: this.#strings });
    const known = key === undefined ? undefined : frames.get(key);
    if (known !== undefined) return known;
    const child = process.init ? stringsFor(process) : undefined;
    const own = process.init ? undefined : this.#stringsOf(process);
    const batch = new Batch();
    if (!claims) {
      this.#furnish(batch);
      const forked = this.#become(batch, process, start);
      const prepared = this.kernel.prepareIfFits(batch, child, own);
      if (prepared !== undefined) {
        if (frames.size === MOST_FRAMES) frames.clear();
        const frame = { prepared, retired: this.kernel.prepare(retirement()), forked };
        frames.set(key!, frame);
        return frame;
      }
    }
    await this.setUp();
    const alone = new Batch();
    const forked = this.#become(alone, process, start);
    return {
      prepared: this.kernel.prepare(alone, child, own),
      retired: this.kernel.prepare(retirement()),
      forked,
    };
  }

  /** Where the puppet's own strings stand when it becomes the program. */
  #stringsOf(process: ProcessPlan): number {
    return process.descriptors.has(this.#strings) ? stringsFor(process) : this.#strings;
  }

  /** Lets the puppet become the program itself. */
  async #instead(frame: Prepared): Promise<Contained & Running> {
    this.kernel.settle(); // what comes from here on, answerOf() takes
    const prepared = this.kernel.post(frame);
    this.#became = true;
    await answerOf(self.call("fcntl", this.#puppet.socket.number, F.DUPFD_CLOEXEC, 0), prepared);
    return this.#running(1, this.ended);
  }

  #running(pid: number, ended: Promise<Ended>, end: (how: Ended) => void = () => {}): Contained & Running {
    const program: Program = { pid, over: false, end, stopped: () => {} };
    void ended.then(() => {
      program.over = true;
      this.#programs.delete(pid);
    });
    const early = this.#early.get(pid);
    if (early === undefined) this.#programs.set(pid, program);
    else end(early);
    return {
      pid,
      hostPid: this.pid,
      kernel: this.kernel,
      ended,
      pass: (descriptors) => this.pass(descriptors),
      take: (descriptor) => this.take(descriptor),
      execute: (plan) => this.execute(plan),
      onMemoryWarning: (take) => this.onMemoryWarning(take),
      kill: () => this.kill(),
      usage: this.#usageOf(program, ended === this.ended),
      onStop(take) {
        program.stopped = take;
      },
      signal: (signal, to) => {
        if (program.over || this.#puppet.pidfd.closed) return;
        if (signal === SIG.KILL && ended === this.ended) this.kill();
        else this.#signalTo(to === "group" ? -pid : pid, signal);
      },
    };
  }

  /** What a program used: of the main one, all in the container counts. Of another what lost its parent does not, for the puppet is its parent then. */
  #usageOf(program: Program, main: boolean): () => Counters {
    if (main) return () => this.usage();
    let outside: number | undefined;
    return rising(() => {
      if (program.over || this.#puppet.pidfd.closed) return undefined;
      outside ??= childByInnerPid(this.pid, program.pid);
      return outside === undefined ? undefined : countersOfTree(outside);
    });
  }

  /** The puppet is not one of the container's processes, unless it became the program. */
  #count(): Counters | undefined {
    if (this.#puppet.pidfd.closed) return undefined;
    const tree = countersOfTree(this.pid, { tally: this.#tally });
    if (tree === undefined) return undefined;
    const all = grouped(tree, this.#bounds?.counts() ?? {});
    return this.#became ? all : { ...all, processes: all.processes - 1 };
  }

  /** Signals a child of the puppet's, which may have ended while the news of that is on its way. */
  #signalTo(pid: number, signal: number): void {
    try {
      this.kernel.call("kill", pid, signal);
    } catch (error) {
      // Or the puppet has ended itself: then nobody makes the call.
      if (error instanceof SystemError && error.syscall === "kill" && error.code !== "ESRCH") throw error;
    }
  }

  /** Rejects when it has ended: then what was asked of the puppet is never answered. */
  async #over(): Promise<never> {
    await this.ended;
    throw new Error("The container ended before the program began");
  }

  /** Takes news of a child. */
  #take(bytes: Uint8Array): void {
    if (bytes.length !== NEWS_SIZE) throw new Error(`Cannot trust a puppet: its news have ${bytes.length} bytes`);
    const { pid, event, ...how } = decodeNews(bytes.subarray(0, SIGINFO_SIZE), bytes.subarray(SIGINFO_SIZE));
    const program = this.#programs.get(pid);
    if (event === CLD.STOPPED) program?.stopped(how.signal!);
    if (event >= CLD.TRAPPED) return;
    this.#last = how;
    this.#peakKib = Math.max(this.#peakKib, how.peakKib);
    if (program !== undefined) program.end(how);
    else if (this.#starting > 0) {
      // Among them are those of orphans, as many as there are.
      if (this.#early.size === MOST_EARLY) this.#early.delete(this.#early.keys().next().value!);
      this.#early.set(pid, how);
    }
  }

  /** Takes what the puppet answered before it ended, for whoever still waits. */
  #takeRest(): void {
    try {
      while (this.kernel.receive(0));
    } catch {
      // there is no more
    }
  }

  /** Settles with how the main program ended, if there was one, or else how the puppet did; what was used is that of all. */
  async #end(): Promise<Ended> {
    const end = await ended(this.#puppet.pidfd);
    const counts = this.#bounds?.counts() ?? {};
    const proven = await this.#bounds?.over();
    const news = new Uint8Array(NEWS_SIZE);
    const more = () => self.call("recvfrom", this.#news.number, news, NEWS_SIZE, MSG.DONTWAIT, null, null) > 0;
    try {
      while (more()) this.#take(news);
    } catch {
      // there is no more, or what came was none
    }
    this.#takeRest();
    this.kernel.cut();
    this.#puppet.socket.close();
    this.#news.close();
    const { code: _code, signal: _signal, ...used } = this.#became ? end : { ...end, peakKib: this.#peakKib };
    const { code, signal } = (this.#main ? this.#last : undefined) ?? end;
    const all = risen(this.#used(), grouped(used, counts));
    // What used it up and then ended by itself was quicker than the watch.
    const spent = all.cpuMicroseconds >= (this.#plan.limits?.cpuTime ?? Infinity) * 1e6;
    return {
      ...all,
      memoryKib: 0,
      processes: 0,
      ...(code === undefined ? {} : { code }),
      ...(signal === undefined ? {} : { signal }),
      ...(spent ? { limit: "cpuTime" as const } : {}),
      ...proven,
    };
  }
}

/** A program that runs, and whom to tell of it. */
interface Program {
  readonly pid: number;
  over: boolean;
  readonly end: (how: Ended) => void;
  stopped: (signal: number) => void;
}

interface ProgramFrame {
  readonly prepared: Prepared;
  /** What the puppet is told behind it. */
  readonly retired: Prepared;
  /** Which of its calls forks. */
  readonly forked: number;
}

/** Frames of programs that were started already: to lay one out takes as long as to carry it out. */
const frames = new Map<string, ProgramFrame>();
const MOST_FRAMES = 64;

/** What a program's frame depends on. */
function keyOf(
  plan: ContainerPlan,
  process: ProcessPlan,
  { held, landlock, own }: Pick<Start, "held" | "landlock"> & { readonly own: number },
): string {
  const plain = (_: string, value: unknown) => {
    if (typeof value === "bigint") return `${value}n`;
    if (value instanceof Map) return [...value];
    return value instanceof Uint8Array ? Buffer.from(value).toString("base64") : value;
  };
  return JSON.stringify([plan, { ...process, descriptors: undefined }, [...held], landlock, own], plain);
}

/** Calls made one by one, for a set-up that does not fit into a frame. */
class Stepwise implements Attempting {
  readonly #kernel: Kernel;

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
  }

  call(name: SyscallName, ...args: readonly Argument[]): number {
    return this.#kernel.call(name, ...args);
  }

  attempt(calls: () => void): void {
    try {
      calls();
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
    }
  }
}

/** An overlay that cannot write its upper directory becomes read-only, and says nothing. */
function mustOwn({ upper }: Extract<Mount, { kind: "overlay" }>, maps: ContainerPlan["maps"]): void {
  if (upper === undefined || maps === undefined) return;
  const { uid, mode } = statSync(upper);
  if ((mode & S.IWOTH) !== 0 || maps.uids.some(({ outside, count }) => uid >= outside && uid < outside + count)) return;
  const owners = maps.uids.map(({ outside, count }) =>
    count === 1 ? `${outside}` : `${outside} to ${outside + count - 1}`,
  );
  throw new TypeError(
    `Cannot keep what is written in ${upper}: it belongs to user ${uid}, and the container's are ${owners.join(", ")}; chown upper and work`,
  );
}

/** What the puppet gives up when its program has begun: everything but looking after it. */
function retirement(): Batch {
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
async function introduce(strings: Descriptor, supervise: Supervise): Promise<void> {
  await ready(strings.number, "read").done;
  // A look first: what is no byte with a descriptor is an answer.
  const flags = MSG.DONTWAIT | MSG.PEEK;
  const { length, descriptors } = receiveDescriptors(self, strings.number, new Uint8Array(2), { most: 1, flags });
  for (const descriptor of descriptors) self.call("close", descriptor);
  if (length !== 1) return;
  const taken = receiveDescriptors(self, strings.number, new Uint8Array(1), { most: 1, flags: MSG.DONTWAIT });
  const [listener] = taken.descriptors.map((descriptor) => new Descriptor(descriptor));
  if (listener !== undefined) supervise(listener, taken.sender!);
}

/** Where a container's only program has its strings: where it asks for nothing, behind what is held for it. */
export function stringsFor({ descriptors }: ProcessPlan): number {
  if (!descriptors.has(CHILD)) return CHILD;
  let number = SIGNALS - 2;
  while (descriptors.has(number)) number--;
  return number;
}

/** A namespace of clocks, in which the puppet's children begin, and the puppet itself. `time_namespaces(7)` */
function setClocks(kernel: Kernel, clocks: ContainerPlan["clocks"]): void {
  unshare(kernel, CLONE.NEWTIME);
  if (clocks !== undefined) {
    const file = open(kernel, "/proc/self/timens_offsets", O.WRONLY | O.CLOEXEC);
    const text = new TextEncoder().encode(`monotonic ${clocks.monotonic} 0\nboottime ${clocks.boottime} 0\n`);
    kernel.call("write", file, text, text.length);
    close(kernel, file);
  }
  // Where the puppet becomes the program itself: before Linux 6.3, execve does not enter it.
  const children = open(kernel, "/proc/self/ns/time_for_children", O.RDONLY | O.CLOEXEC);
  setNamespace(kernel, children, CLONE.NEWTIME);
  close(kernel, children);
}
