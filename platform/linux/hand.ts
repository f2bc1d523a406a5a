/** The host's hand in a container: what it sets up there, and the programs that it starts. */
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { MSG, SOCK } from "../../syscalls/linux/constants.ts";
import { close } from "../../syscalls/linux/file.ts";
import { F, SIG } from "../../syscalls/linux/numbers.ts";
import { signalProcess } from "../../syscalls/linux/signal.ts";
import { askForSender, receipt, sendDescriptors, socketPair } from "../../syscalls/linux/socket.ts";
import { ready } from "../../syscalls/ready.ts";
import type { Contained, ContainerPlan, Counters, Ended, Mount, ProcessPlan, Running } from "../platform.ts";
import { type Bounds, boundsOf } from "./bounds.ts";
import { Children, type Program } from "./children.ts";
import { outlives, servant } from "./estate.ts";
import { Batch, type Prepared, TIMED_OUT } from "./frame.ts";
import { mappedTree } from "./idmap.ts";
import type { Puppet } from "./launch.ts";
import { Allowance, finish, leisure } from "./leisure.ts";
import { SIGNALS, stringsFor, TAKEN, TIMER } from "./places.ts";
import {
  addProgram,
  frameFor,
  introduce,
  keyOf,
  ownStrings,
  type ProgramFrame,
  type Puppeteer,
  retirement,
  type Start,
} from "./programs.ts";
import { PuppetKernel } from "./remote.ts";
import { FLAGS, mustOwn, refuseCoveredProc, Stepwise, setUp } from "./setup.ts";
import {
  childByInnerPid,
  countersOfTree,
  grouped,
  lasting,
  lookAtTree,
  Rising,
  risen,
  rising,
  Tally,
  type TreeLook,
} from "./usage.ts";
import { answerOf, ended, watch } from "./watch.ts";
import { forkPuppet } from "./zygote.ts";

/** Ends a container whose making failed, and throws on once nothing of it is left. */
export async function orNothing<Result>(hand: Hand, make: () => Promise<Result>): Promise<Result> {
  try {
    const made = await make();
    hand.outlives();
    return made;
  } catch (error) {
    hand.kill();
    await hand.ended;
    throw error;
  }
}

/** For how long processes are looked at that are to be killed, where many programs end at once: one after the other, in place. */
const LAST_LOOKS = new Allowance(10);

/** What a program has beside its container. */
type Confinement = Partial<Pick<Start, "landlock" | "supervise">>;

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
  readonly #children = new Children();
  /** What the event loop was told, and nobody waits for: why the puppet was ended. */
  #broken: unknown;
  #listening = false;
  /** Settles when the last program has been forked that was asked for. */
  #forked: Promise<unknown> = Promise.resolve();
  /** The program with which the container ends. */
  #main = false;
  /** Whether the puppet is the program itself. */
  #became = false;
  readonly #tally = new Tally();
  readonly #known = new Rising();
  readonly #usage = lasting(() => this.#known.with(finish(this.#look())));
  readonly #lastUsage = lasting(() => this.#known.with(LAST_LOOKS.spend((mostMs) => finish(this.#look({ mostMs })))));

  constructor(
    plan: ContainerPlan,
    puppet: Omit<Puppet, "kernel">,
    {
      news,
      trees,
      strings,
      stops,
      bounds,
    }: {
      news: Descriptor;
      trees: ReadonlyMap<Mount, readonly number[]>;
      strings: number;
      stops: boolean;
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
    this.kernel = new PuppetKernel(puppet.socket.number, {
      strings,
      signals: SIGNALS,
      timer: plan.limits?.wallTime === undefined ? undefined : TIMER,
      stops,
    });
    this.kernel.onSilence = () => this.kill();
    this.kernel.slowness = 1 / Math.min(1, plan.limits?.cpu ?? 1);
    this.kernel.news = { socket: news.number, take: (bytes) => this.#children.take(bytes) };
    this.ended = this.#end();
  }

  /** It is whole, and goes on when the Worker ends that started it. */
  outlives(): void {
    for (const held of [this.#puppet.pidfd, this.#puppet.socket, this.#news]) outlives(held);
  }

  /**
   * Starts the puppet.
   * @param placed more of the host's descriptors for it, by the numbers that they get
   * @param options `stays`: whether it looks after programs, and becomes none itself; `stops`: whether somebody wants to know when one stops
   */
  static start(
    plan: ContainerPlan,
    placed: Map<number, number>,
    {
      sharedNetwork = false,
      sandboxed = false,
      stays = true,
      stops = true,
    }: {
      readonly sharedNetwork?: boolean;
      readonly sandboxed?: boolean;
      readonly stays?: boolean;
      readonly stops?: boolean;
    } = {},
  ): Hand {
    refuseCoveredProc(plan);
    using borrowed = new DisposableStack();
    const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
    using news = servant(ours);
    borrowed.use(new Descriptor(theirs));
    plan.join.forEach((namespace, index) => {
      placed.set(TAKEN + index, namespace);
    });
    const trees = new Map<Mount, readonly number[]>();
    let taken = TAKEN + plan.join.length;
    const place = (tree: Descriptor) => {
      placed.set(taken, borrowed.use(tree).number);
      return taken++;
    };
    for (const each of plan.root?.mounts ?? []) {
      if (each.kind === "bind" && each.idmap !== undefined) trees.set(each, [place(mappedTree(each, each.idmap))]);
      if (each.kind === "overlay") mustOwn(each, plan.maps);
      if (each.kind === "overlay" && each.idmap !== undefined) {
        const layer = (source: string) => place(mappedTree({ source, directory: true, recursive: false }));
        trees.set(each, each.lower.map(layer));
      }
    }
    const namespaces = plan.namespaces.reduce((bits, name) => bits | (name === "cgroup" ? 0n : FLAGS[name]), 0n);
    const bounds = boundsOf(plan, { sandboxed, hand: stays }); // last of all, for whatever throws behind it has to remove the group
    const birth = {
      namespaces,
      sharedNetwork: sharedNetwork && plan.maps !== undefined,
      maps: plan.maps,
      news: theirs,
      placed,
    };
    const { take, strings, ...puppet } =
      bounds === undefined ? forkPuppet(birth) : bounds.of((doors) => forkPuppet({ ...birth, doors }));
    const hand = new Hand(plan, puppet, { news: servant(news.take()), trees, strings, stops, bounds });
    hand.kernel.await(take);
    try {
      bounds?.hold(
        hand.pid,
        () => hand.kill(),
        async () => {
          const now = await leisure.through(hand.#look());
          return now && hand.#known.with(now);
        },
      );
    } catch (error) {
      hand.kill();
      throw error;
    }
    return hand;
  }

  /** Has the event loop take what the puppet says. One that has ended, quicker than this process came here, says nothing more. */
  listen(): void {
    if (this.#listening || this.#puppet.socket.closed) return;
    const again = ({ number }: Descriptor) => new Descriptor(self.call("fcntl", number, F.DUPFD_CLOEXEC, 0));
    using answers = again(this.#puppet.socket);
    using news = again(this.#news);
    this.#listening = true;
    // Whoever breaks the rules of the strings is no puppet of ours any more.
    const orKill = (take: () => void) => {
      try {
        take();
      } catch (error) {
        this.#broken ??= error;
        this.kill();
      }
    };
    const takeNews = (bytes: Uint8Array) => {
      this.kernel.takeAnswers();
      this.#children.take(bytes);
    };
    watch(answers.take(), { data: (bytes) => orKill(() => this.kernel.received(bytes)), close() {} });
    watch(news.take(), { data: (bytes) => orKill(() => takeNews(bytes)), close() {} });
  }

  /** Sets the container up, before anything runs in it. */
  async setUp(): Promise<void> {
    const batch = new Batch();
    const verify = setUp(batch, this.#plan, this.#trees);
    const prepared = this.kernel.prepareIfFits(batch);
    if (prepared === undefined) {
      setUp(new Stepwise(this.kernel), this.#plan, this.#trees)();
      return;
    }
    let answer: Uint8Array | undefined;
    this.kernel.send(prepared, (bytes) => {
      answer = bytes;
    });
    // Other work of this process goes on meanwhile.
    await ready(this.#puppet.socket.number, "read").done;
    try {
      this.kernel.until(() => answer !== undefined);
      prepared.read(answer!);
    } catch (error) {
      throw this.#broken ?? error;
    }
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
    const { batch, packetOf } = this.#receipt(descriptors.length);
    const [length] = this.kernel.carryOut(batch, () => this.#send(descriptors));
    return packetOf(length!).descriptors;
  }

  /** As `pass`, while the event loop goes on: the puppet has no more of a processor than the container's limits leave it. */
  async #passed(descriptors: readonly number[]): Promise<number[]> {
    const { batch, packetOf } = this.#receipt(descriptors.length);
    const answer = this.kernel.answered(this.kernel.prepare(batch));
    try {
      this.#send(descriptors);
    } catch (error) {
      answer.catch(() => {}); // it comes all the same
      throw error;
    }
    const [length] = await answer;
    return packetOf(length!).descriptors;
  }

  /** The call by which the puppet receives descriptors. */
  #receipt(most: number): { readonly batch: Batch } & Pick<ReturnType<typeof receipt>, "packetOf"> {
    const { header, packetOf } = receipt(new Uint8Array(1), most);
    const batch = new Batch();
    batch.call("recvmsg", this.#strings, header, MSG.CMSG_CLOEXEC);
    return { batch, packetOf };
  }

  #send(descriptors: readonly number[]): void {
    const send = (sent: readonly number[]) =>
      this.kernel.whenRoom((socket) => {
        sendDescriptors(self, socket, new Uint8Array(1), sent);
      });
    try {
      send(descriptors);
    } catch (error) {
      send([]); // it waits for a message, and would take the next frame for that
      throw error;
    }
  }

  take(descriptor: number): number {
    const batch = new Batch();
    sendDescriptors(batch, this.#strings, new Uint8Array(1), [descriptor]);
    return this.kernel.taken(batch);
  }

  async execute(process: ProcessPlan, start: Confinement = {}): Promise<Contained & Running> {
    const [ours, theirs] = socketPair(self, SOCK.SEQPACKET);
    using strings = new Descriptor(ours);
    using childs = new Descriptor(theirs);
    if (start.supervise !== undefined) askForSender(self, strings.number);
    // One after the other: what waits for the puppet waits in a socket, which holds little.
    const forked = this.#forked
      .then(() => this.#fork(process, childs.number, start))
      .catch((error) => this.#orOver(error));
    this.#forked = forked.catch(() => {});
    const { pid, prepared } = await Promise.race([forked, this.#over()]);
    try {
      childs.close();
      if (start.supervise !== undefined) await introduce(strings, start.supervise);
      await answerOf(strings.take(), prepared);
      const { promise, resolve } = Promise.withResolvers<Ended>();
      void this.ended.then(resolve);
      return this.#running(pid, promise, resolve);
    } finally {
      this.#children.begun(pid);
    }
  }

  /** Has the puppet fork what is to become a program, and let go of what that was given. The child is about to begin from here on. */
  async #fork(
    process: ProcessPlan,
    childs: number,
    { landlock }: Confinement,
  ): Promise<{ readonly pid: number; readonly prepared: Prepared }> {
    const numbers = [...process.descriptors.keys()];
    const passed = await this.#passed([childs, ...process.descriptors.values()]);
    const held = new Map(numbers.map((number, index) => [number, passed[index + 1]!]));
    // Where the program asks for the number that its strings have here, they need another.
    if (process.descriptors.has(passed[0]!))
      passed.unshift(this.kernel.call("fcntl", passed[0]!, F.DUPFD_CLOEXEC, Math.max(...numbers) + 1));
    const closing = new Batch();
    for (const number of passed) close(closing, number);
    const all = { ...this.#puppeteer, held, landlock, strings: passed[0]! };
    const batch = new Batch();
    let forked: number;
    let prepared: Prepared;
    try {
      forked = addProgram(batch, process, all);
      prepared = this.kernel.prepare(batch, all.strings);
    } catch (error) {
      this.kernel.carryOut(closing); // arguments that are too long, say
      throw error;
    }
    const answer = this.kernel.answered(prepared, (results) => this.#children.begin(results[forked]!));
    void this.kernel.answered(this.kernel.prepare(closing)).catch(() => {});
    return { pid: (await answer)[forked]!, prepared };
  }

  usage(): Counters {
    return this.#usage();
  }

  onMemoryWarning(take: () => void): void {
    this.#bounds?.onWarning(take);
  }

  kill(): void {
    // The kernel counts for nobody those that end with their namespace.
    this.#lastUsage();
    if (!this.#puppet.pidfd.closed) signalProcess(self, this.#puppet.pidfd.number, SIG.KILL);
    // Without a PID namespace nothing else ends with its first process.
    if (!this.#plan.namespaces.includes("pid")) this.#bounds?.kill();
  }

  /** The frame that sets the container up and starts its program; or, where that cannot be one, starts it only, and the rest is done. */
  async #frameFor(process: ProcessPlan, start: Pick<Start, "held" | "landlock">): Promise<ProgramFrame> {
    const plan = this.#plan;
    const all = { ...this.#puppeteer, ...start };
    const child = process.init ? stringsFor(process) : undefined;
    const own = process.init ? undefined : ownStrings(process, this.#strings);
    const retired = () => this.kernel.prepare(retirement());
    // A source that is not the one that was meant must be found before the program starts.
    const claims = plan.root?.mounts.some((each) => each.kind === "bind" && each.identity !== undefined) ?? false;
    const whole = () => {
      const batch = new Batch();
      setUp(batch, plan, this.#trees);
      const forked = addProgram(batch, process, all);
      const prepared = this.kernel.prepareIfFits(batch, child, own);
      return prepared === undefined ? undefined : { prepared, retired: retired(), forked };
    };
    const frame = claims ? undefined : frameFor(keyOf(process, all), whole);
    if (frame !== undefined) return frame;
    await this.setUp();
    const batch = new Batch();
    const forked = addProgram(batch, process, all);
    return { prepared: this.kernel.prepare(batch, child, own), retired: retired(), forked };
  }

  get #puppeteer(): Puppeteer {
    return { plan: this.#plan, own: this.#strings, counted: this.#bounds?.countsProcesses ?? false };
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
    this.#children.add(program);
    void ended.then(() => this.#children.drop(program));
    const main = ended === this.ended;
    const usage = this.#usageOf(program, main);
    return {
      pid,
      hostPid: this.pid,
      kernel: this.kernel,
      // What it started and did not wait for counts as it was seen last.
      ended: main ? ended : ended.then((how) => ({ ...how, ...risen(usage(), how) })),
      pass: (descriptors) => this.pass(descriptors),
      take: (descriptor) => this.take(descriptor),
      execute: (plan) => this.execute(plan),
      onMemoryWarning: (take) => this.onMemoryWarning(take),
      kill: () => this.kill(),
      usage,
      onStop(take) {
        program.stopped = take;
      },
      signal: (signal, to) => {
        if (program.over || this.#puppet.pidfd.closed) return;
        if (signal === SIG.KILL && main) this.kill();
        else this.#signalTo(to === "group" ? -pid : pid, signal);
      },
    };
  }

  /** What a program used: of the main one, all in the container counts. Of another what lost its parent does not, for the puppet is its parent then. */
  #usageOf(program: Program, main: boolean): () => Counters {
    if (main) return () => this.usage();
    let outside: number | undefined;
    return lasting(
      rising(() => {
        if (program.over || this.#puppet.pidfd.closed) return undefined;
        outside ??= childByInnerPid(this.pid, program.pid);
        return outside === undefined ? undefined : countersOfTree(outside);
      }),
    );
  }

  /** The puppet is not one of the container's processes, unless it became the program. */
  *#look(how: TreeLook = {}): Generator<void, Counters | undefined> {
    if (this.#puppet.pidfd.closed) return undefined;
    const tree = yield* lookAtTree(this.pid, { ...how, tally: this.#tally });
    if (tree === undefined) return undefined;
    const all = grouped(tree, this.#bounds?.counts() ?? {});
    return this.#became ? all : { ...all, processes: all.processes - 1 };
  }

  /** Signals a child of the puppet's, which may have ended while the news of that is on its way; or the puppet has, and nobody makes the call. */
  #signalTo(pid: number, signal: number): void {
    const batch = new Batch();
    batch.attempt(() => batch.call("kill", pid, signal));
    try {
      this.listen(); // who reads no answers holds the puppet up
      void this.kernel.answered(this.kernel.prepare(batch)).catch(() => {});
    } catch (error) {
      // No descriptor is left to listen by.
      if (!(error instanceof SystemError)) throw error;
      this.kernel.carryOut(batch);
    }
  }

  /** Rejects when it has ended: then what was asked of the puppet is never answered. */
  async #over(): Promise<never> {
    await this.ended;
    throw new Error("The container ended before the program began");
  }

  /** Where nobody is there to be asked, that it has ended is what there is to say. */
  async #orOver(error: unknown): Promise<never> {
    if (error instanceof SystemError && error.code === "EPIPE") await this.#over();
    throw error;
  }

  /** Takes what the puppet answered and told before it ended, for whoever still waits. */
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
    this.#takeRest();
    this.kernel.cut();
    this.#puppet.socket.close();
    this.#news.close();
    const { code: _code, signal: _signal, ...used } = this.#became ? end : { ...end, peakKib: this.#children.peakKib };
    const main = this.#main ? this.#children.last : undefined;
    const { code, signal } = main ?? end;
    const all = risen(this.#known.with(undefined), grouped(used, counts));
    const over = { ...all, memoryKib: 0, processes: 0, ...(await this.#bounds?.over(all)) };
    // Of a program that returned this number there were news.
    const late = !this.#became && main === undefined && code === TIMED_OUT;
    if (late) return { ...over, limit: "wallTime", signal: SIG.KILL }; // so all others ended
    return { ...over, ...(code === undefined ? {} : { code }), ...(signal === undefined ? {} : { signal }) };
  }
}
