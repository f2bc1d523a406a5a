/** The host's end of a puppet's strings. */
import { SystemError } from "../../syscalls/error.ts";
import { type Argument, type Kernel, type SyscallName, self } from "../../syscalls/kernel.ts";
import { MSG } from "../../syscalls/linux/constants.ts";
import { ERRNO } from "../../syscalls/linux/numbers.ts";
import { POLLFD, POLLIN, poll, readable } from "../../syscalls/linux/poll.ts";
import { receiveDescriptors } from "../../syscalls/linux/socket.ts";
import { Batch, FRAME_SIZE, NEWS_SIZE, type Prepared, prepare, READABLE, type Setting, TooLarge } from "./frame.ts";

/** No set-up takes as long, on any machine. */
const PATIENCE_MS = 10_000;
/** Where answers arrive. */
const packet = new Uint8Array(FRAME_SIZE);

/** The host's end of a puppet's socket: a kernel whose calls are made over there. */
export class PuppetKernel implements Kernel {
  #socket: number;
  readonly #setting: Setting;
  /** Who waits for an answer, the longest first. */
  readonly #waiting: ((answer: Uint8Array) => void)[] = [];
  /** The host's end of the socket on which the puppet tells of its children, and who wants to know. */
  #news: { readonly socket: number; take(news: Uint8Array): void } | undefined;

  /** @param socket the host's end of a SOCK_SEQPACKET pair; it stays the caller's */
  constructor(socket: number, setting: Setting = {}) {
    this.#socket = socket;
    this.#setting = setting;
  }

  /** Whoever waits in place for an answer must take the news meanwhile: a puppet that cannot tell its news does not answer. */
  set news(news: { readonly socket: number; take(news: Uint8Array): void }) {
    this.#news = news;
  }

  /** Makes one call in the puppet and waits in place for its answer, some 15 µs. */
  call(name: SyscallName, ...args: readonly Argument[]): number {
    const batch = new Batch();
    batch.call(name, ...args);
    return this.carryOut(batch)[0]!;
  }

  /**
   * Makes the calls of a batch in one round trip, waiting in place. Throws the SystemError of the first that failed.
   * @param meanwhile what the host does for the calls, once they are on their way
   */
  carryOut(batch: Batch, meanwhile?: () => void, child?: number): number[] {
    const prepared = this.prepare(batch, child);
    let answer: Uint8Array | undefined;
    this.send(prepared, (bytes) => {
      answer = bytes;
    });
    meanwhile?.();
    this.until(() => answer !== undefined);
    return prepared.read(answer!);
  }

  /**
   * Makes the calls of a batch, while the event loop goes on. Whoever watches the socket must call `received`.
   * @param take is given the results before anything that the puppet told behind them
   */
  answered(prepared: Prepared, take: (results: readonly number[]) => void = () => {}): Promise<number[]> {
    return new Promise((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined;
      this.send(prepared, (answer) => {
        clearTimeout(timer);
        timer = undefined;
        try {
          const results = prepared.read(answer);
          take(results);
          resolve(results);
        } catch (error) {
          reject(error);
        }
      });
      const look = () => {
        if (this.#socket < 0) return; // it has ended
        try {
          this.takeAnswers(); // it may be this process that was held up
          if (timer !== undefined) this.#giveUp(this.patienceMs * this.slowness);
        } catch (error) {
          this.onSilence(); // or it is none of ours any more
          reject(error);
        }
      };
      timer = setTimeout(look, this.patienceMs * this.slowness).unref();
    });
  }

  /** Has the answer taken to a batch that was sent elsewhere. */
  await(take: (answer: Uint8Array) => void): void {
    this.#waiting.push(take);
  }

  /** Waits in place for the answer to a batch that was not sent here. */
  expect({ read }: Prepared): number[] {
    let answer: Uint8Array | undefined;
    this.#waiting.push((bytes) => {
      answer = bytes;
    });
    this.until(() => answer !== undefined);
    return read(answer!);
  }

  /** Waits in place for the answers to all that was sent. */
  settle(): void {
    this.until(() => this.#waiting.length === 0);
  }

  /** Carries out a batch that sends a descriptor over the strings, and gives that. */
  taken(batch: Batch): number {
    this.settle();
    let descriptor: number | undefined;
    this.carryOut(batch, () => {
      const into = new Uint8Array(FRAME_SIZE);
      this.#await();
      const { length, descriptors } = receiveDescriptors(self, this.#socket, into, { most: 1 });
      descriptor = descriptors[0];
      // Where the call failed, this is its answer already.
      if (descriptor === undefined) this.received(into.subarray(0, length));
    });
    if (descriptor === undefined) throw new Error("Cannot trust a puppet: it sent no descriptor");
    return descriptor;
  }

  /** Sends a batch, and has its answer taken when it comes. */
  send(prepared: Prepared, take: (answer: Uint8Array) => void): void {
    this.post(prepared);
    this.#waiting.push(take);
  }

  /**
   * @param child the strings of the child that the batch forks
   * @param strings the puppet's own, where the batch moves them
   */
  prepare(batch: Batch, child = this.#setting.child, strings = this.#setting.strings): Prepared {
    return prepare(batch, { ...this.#setting, child, strings });
  }

  /** As `prepare`; undefined for a batch that does not fit into one frame. */
  prepareIfFits(batch: Batch, child?: number, strings?: number): Prepared | undefined {
    try {
      return this.prepare(batch, child, strings);
    } catch (error) {
      if (error instanceof TooLarge) return undefined;
      throw error;
    }
  }

  /** Sends a batch without waiting for the answer. */
  post(prepared: Prepared): Prepared {
    this.whenRoom((socket) => {
      self.call("sendto", socket, prepared.bytes, prepared.bytes.length, MSG.NOSIGNAL, 0, 0);
    });
    return prepared;
  }

  /** Sends something. Where the socket is full of what the puppet has not read, waits in place until there is room: each answer makes some. */
  whenRoom(send: (socket: number) => void): void {
    this.#mustBeOpen();
    this.until(() => {
      try {
        send(this.#socket);
        return true;
      } catch (error) {
        if (error instanceof SystemError && error.code === "EAGAIN") return false;
        throw error;
      }
    });
  }

  /** Makes no more calls: the number of its socket may become that of another file. */
  cut(): void {
    this.#socket = -1;
  }

  #mustBeOpen(): void {
    if (this.#socket < 0) throw new SystemError("sendto", ERRNO.EPIPE, "(the puppet has ended)");
  }

  /** Waits in place until there is something to take. */
  #await(): void {
    const deadline = performance.now() + this.patienceMs;
    for (;;) {
      const ready = poll(self, readable(this.#socket), Math.max(0, Math.ceil(deadline - performance.now())));
      if (ready === 0) this.#giveUp();
      if (ready !== undefined) return;
    }
  }

  #giveUp(patienceMs = this.patienceMs): never {
    this.onSilence();
    throw new Error(`The puppet did not answer within ${patienceMs / 1000} s, and was ended`);
  }

  /**
   * Takes what comes until `done`, waiting in place: for all of it together as long as a puppet may take, however much it has to say. One that
   * takes longer is stopped, or held by what is inside; it is ended, for this process waits with it.
   */
  until(done: () => boolean): void {
    const deadline = performance.now() + this.patienceMs;
    for (let left = this.patienceMs; !done(); ) {
      if (left === 0) this.#giveUp();
      left = Math.max(0, Math.ceil(deadline - performance.now())); // at 0 it may be this process that was held up, and the answer is there
      this.receive(left);
    }
  }

  /** How long a call may take, in milliseconds. */
  patienceMs = PATIENCE_MS;
  /** How many times longer where nobody waits in place: it may have little of a processor. */
  slowness = 1;
  /** Ends a puppet that does not answer. */
  onSilence: () => void = () => {};

  /** Takes what has come, waiting for `timeoutMs` at most, and returns whether there was something. Throws if the puppet has ended. */
  receive(timeoutMs: number): boolean {
    this.#mustBeOpen();
    const sockets = this.#news === undefined ? [this.#socket] : [this.#socket, this.#news.socket];
    const polled = new Uint8Array(POLLFD * sockets.length);
    const view = new DataView(polled.buffer);
    sockets.forEach((socket, index) => {
      view.setInt32(POLLFD * index, socket, true);
      view.setInt16(POLLFD * index + 4, POLLIN, true);
    });
    if (poll(self, polled, timeoutMs) === undefined) return true;
    if (this.#news !== undefined && (view.getInt16(POLLFD + 6, true) & POLLIN) !== 0) {
      const news = new Uint8Array(NEWS_SIZE);
      if (self.call("recvfrom", this.#news.socket, news, NEWS_SIZE, MSG.DONTWAIT, null, null) === NEWS_SIZE) {
        this.takeAnswers();
        this.#news.take(news);
        return true;
      }
    }
    if ((view.getInt16(6, true) & READABLE) === 0)
      return polled.some((byte, index) => index % POLLFD > 5 && byte !== 0);
    const answer = this.#read();
    if (answer?.length === 0) throw new Error("The puppet ended before it answered");
    if (answer !== undefined) this.received(answer);
    return true;
  }

  /** Takes the answers that have come. What the puppet tells of a child, on a socket of its own, comes behind the one that has its number. */
  takeAnswers(): void {
    while (this.#waiting.length > 0) {
      const answer = this.#read();
      if (answer === undefined || answer.length === 0) return; // there is none yet, or it has ended
      this.received(answer);
    }
  }

  /** What has come; undefined where nothing has. Nothing more comes behind an empty one. */
  #read(): Uint8Array | undefined {
    for (;;) {
      try {
        return packet.slice(0, self.call("recvfrom", this.#socket, packet, packet.length, MSG.DONTWAIT, null, null));
      } catch (error) {
        if (!(error instanceof SystemError)) throw error;
        if (error.code === "EAGAIN") return undefined;
        // It ended with a frame unread, which is said before what it answered until then.
        if (error.code !== "ECONNRESET") throw error;
      }
    }
  }

  /** Takes an answer that came. One that nobody waits for is the word of someone who took the puppet over. */
  received(answer: Uint8Array): void {
    const next = this.#waiting.shift();
    if (next === undefined) throw new Error("Cannot trust a puppet: it answered without being asked");
    next(answer);
  }
}
