/** From a policy to a process inside its walls, in which nothing but the boot file runs: what an actor is made of. */
import { type Confined, type Policy, platform, type Supervision } from "../platform/index.ts";
import { pace } from "../platform/pace.ts";
import { Descriptor } from "../syscalls/descriptor.ts";
import { self } from "../syscalls/kernel.ts";
import { SOCK } from "../syscalls/linux/constants.ts";
import { open } from "../syscalls/linux/file.ts";
import { O } from "../syscalls/linux/numbers.ts";
import { setSendBuffer, socketPair } from "../syscalls/linux/socket.ts";
import { allowanceOf, spend } from "./allowance.ts";
import { bootText } from "./bundle.ts";
import { type Channel, connect, type Hooks } from "./channel.ts";
import type { LimitExceeded } from "./error.ts";
import type { Start } from "./grant.ts";
import { DescriptorLane } from "./lane.ts";
import { passOn } from "./lines.ts";
import { windowOf } from "./link.ts";
import { type Allow, streamOf } from "./output.ts";
import type { Place } from "./scheduler.ts";
import { turns } from "./turns.ts";
import type { WindowSize } from "./window.ts";

export type Output = "inherit" | "pipe" | "ignore";

/** What is to be launched. */
export interface Launch {
  readonly policy: Policy;
  readonly stdout: Output | undefined;
  readonly stderr: Output | undefined;
  /** The host's descriptor that becomes its standard input. */
  readonly stdin?: number | undefined;
  readonly observe: boolean;
  /** Where it starts. */
  readonly start: Start | undefined;
  /** What it takes of the scheduler. */
  readonly place: Place;
}

/** Takes the refused calls of an observed actor. */
type Observer = { -readonly [Name in "tell" | "more" | "refused"]-?: NonNullable<Supervision[Name]> };

/** What the kernel takes of a data lane at once: with less, large bytes stop and go. */
const LANE_BYTES = 1024 * 1024;

/** The host's end of the data lane, and what both ends keep to. */
interface Joint {
  readonly data: Descriptor;
  readonly window: WindowSize;
}

/** What its end settles. */
const NEVER = new Promise<never>(() => {});

/** A process inside its walls, in which nothing but the boot file runs. Whoever brings code puts hooks in, and a name. */
export class Cell {
  readonly confined: Confined;
  readonly lane: DescriptorLane;
  readonly observer: Observer | undefined;
  stdout: ReadableStream<Uint8Array> | undefined;
  stderr: ReadableStream<Uint8Array> | undefined;
  /** Resolves when the host has seen that every wall stands, rejects where one does not; the process is ended then. Stays open where that ended before. */
  readonly verified: Promise<Channel>;
  readonly hooks: Hooks = {};
  /** Called when it prints more than it may. Gives what who reads is told, where nothing else tells. */
  onOverflow: () => LimitExceeded | undefined;
  /** What its lines are labelled with. */
  name: string;
  /** Settles when all is told of what was refused. */
  told: Promise<void> = Promise.resolve();

  constructor(confined: Confined, { data, window, ...rest }: Pick<Cell, "lane" | "observer" | "name"> & Joint) {
    this.confined = confined;
    this.lane = rest.lane;
    this.observer = rest.observer;
    this.name = rest.name;
    this.onOverflow = () => void confined.kill();
    this.verified = this.#verify(data, window);
    this.verified.catch(() => {}); // whoever brings code awaits it, when the code is there
  }

  /** Code goes over the link only when the host has seen that the walls stand. */
  async #verify(data: Descriptor, window: WindowSize): Promise<Channel> {
    const { confined, lane, hooks } = this;
    // Once the link is open the channel closes it.
    void confined.ended.then(() => {
      if (data.closed) return;
      data.close();
      lane.close();
    });
    await confined.started;
    if (data.closed) return NEVER;
    const filter = confined.closingFilter;
    const head = Uint32Array.of(filter.length, confined.closingFlags, window.messages, window.bytes);
    const prologue = Buffer.concat([new Uint8Array(head.buffer), filter]);
    try {
      self.call("write", data.number, prologue, prologue.length);
    } catch {
      confined.kill(); // nobody reads it any more: that it ended, and how, says more
      return NEVER;
    }
    const { promise: seen, resolve, reject } = Promise.withResolvers<void>();
    hooks.onHello = (listener) => {
      try {
        if (!confined.verify()) return confined.kill(); // how it ended says more
        if (this.observer !== undefined) this.told = this.#observe(listener);
        resolve();
      } catch (error) {
        reject(error);
        confined.kill();
      }
    };
    const channel = await connect(data.take(), {
      role: "host",
      descriptors: lane,
      hooks,
      limits: { window },
      turns,
      pace,
    });
    void channel.closed.then(() => lane.close());
    await seen;
    return channel;
  }

  #observe(listener: unknown): Promise<void> {
    if (typeof listener !== "number") throw new Error(`Cannot observe actor ${this.name}: it has no filter to tell of`);
    return this.confined.supervise(listener);
  }
}

/** Launches a process and has the scheduler know of its start and its end. */
export async function launch(name: string, what: Launch): Promise<Cell> {
  const { place } = what;
  try {
    const cell = build(name, what, await bootText());
    void Promise.race([cell.verified, cell.confined.ended]).then(place.settled, place.settled);
    void cell.confined.ended.then(place.leave);
    return cell;
  } catch (error) {
    place.leave();
    throw error;
  }
}

function build(name: string, { policy, stdin, start, observe, ...streams }: Launch, boot: string): Cell {
  using theirs = new DisposableStack();
  using ours = new DisposableStack();
  const pair = (type: number): [Descriptor, Descriptor] => {
    const [mine, other] = socketPair(self, type);
    return [ours.use(new Descriptor(mine)), theirs.use(new Descriptor(other))];
  };
  const nothing = theirs.use(new Descriptor(open(self, "/dev/null", O.RDWR | O.CLOEXEC)));
  const [data, theirData] = pair(SOCK.STREAM);
  for (const end of [data, theirData]) setSendBuffer(self, end.number, LANE_BYTES);
  const [lane, theirLane] = pair(SOCK.SEQPACKET);
  const output = (how: Output = "inherit") => (how === "ignore" ? ([undefined, nothing] as const) : pair(SOCK.STREAM));
  const [stdout, theirStdout] = output(streams.stdout);
  const [stderr, theirStderr] = output(streams.stderr);

  const observer: Observer | undefined = observe ? { tell() {}, more() {}, refused() {} } : undefined;
  // It is asked each time: whoever takes one that waits puts other functions in.
  const supervision: Supervision | undefined = observer && {
    tell: (...told) => observer.tell(...told),
    more: (count) => observer.more(count),
    refused: (access) => observer.refused(access),
  };
  const program = {
    boot,
    stdio: [stdin ?? nothing.number, theirStdout.number, theirStderr.number] as const,
    lanes: [theirData.number, theirLane.number] as const,
    ...(start?.made === true ? { directory: start.directory } : {}),
  };
  const confined = platform.confine(policy, program, supervision);
  const joint: Joint = { data: new Descriptor(data.take()), window: windowOf(policy.limits) };
  const cell = new Cell(confined, { ...joint, lane: new DescriptorLane(lane.take()), observer, name });
  const label = () => cell.name;
  const allow = meter(policy.limits.output, () => cell.onOverflow());
  cell.stdout = receive(stdout, { how: streams.stdout, label, print: console.log, allow });
  cell.stderr = receive(stderr, { how: streams.stderr, label, print: console.error, allow });
  return cell;
}

/** Gives as much of what was printed as may be: of all streams together, so many bytes. */
function meter(output: number | undefined, exceeded: Cell["onOverflow"]): Allow {
  const allowance = allowanceOf(output);
  if (allowance === undefined) return (given) => ({ given });
  return (bytes) => {
    const allowed = spend(allowance, bytes.length);
    return allowed === bytes.length ? { given: bytes } : { given: bytes.subarray(0, allowed), lost: exceeded() };
  };
}

interface Reading {
  readonly how: Output | undefined;
  readonly label: () => string;
  readonly print: (line: string) => void;
  readonly allow: Allow;
}

function receive(
  socket: Descriptor | undefined,
  { how, label, print, allow }: Reading,
): ReadableStream<Uint8Array> | undefined {
  if (socket === undefined) return undefined;
  if (how === "pipe") return streamOf(socket.take(), allow);
  passOn(socket.take(), { name: label, print, allow, pace });
  return undefined;
}
