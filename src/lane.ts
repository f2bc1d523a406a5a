/** The descriptor lane: what carries authority travels here, ahead of the frame that names it (docs/wire.md). */
import { Descriptor } from "../syscalls/descriptor.ts";
import { SystemError } from "../syscalls/error.ts";
import { self } from "../syscalls/kernel.ts";
import { MSG } from "../syscalls/linux/constants.ts";
import { receiveDescriptors, sendDescriptors } from "../syscalls/linux/socket.ts";
import { OpenFile, receiveFile, Source } from "./capability.ts";
import type { Denials } from "./denials.ts";
import { ProtocolViolation } from "./error.ts";
import type { Descriptors } from "./frame.ts";
import { LostCapability } from "./lost.ts";

/** As many descriptors as one packet may hold. */
const MOST = 16;

export class DescriptorLane implements Descriptors {
  readonly #socket: Descriptor;
  /** Arrived, and named by no frame so far. */
  readonly #waiting: Disposable[] = [];
  readonly #accept: (descriptor: number, tag: number) => Disposable;
  /** Of the actor at the other end. */
  denials: Denials | undefined;

  /** @param accept takes a descriptor in, or closes it and throws ProtocolViolation */
  constructor(socket: number, accept: (descriptor: number, tag: number) => Disposable = receiveFile) {
    this.#socket = new Descriptor(socket);
    this.#accept = accept;
  }

  isCapability(value: object): boolean {
    return value instanceof Source || value instanceof OpenFile;
  }

  send(capabilities: readonly object[]): void {
    const opened: Descriptor[] = [];
    try {
      const numbers = capabilities.map((capability) => {
        if (capability instanceof OpenFile) return capability.descriptor;
        const descriptor = (capability as Source).open(this.denials);
        opened.push(descriptor);
        return descriptor.number;
      });
      const tags = Uint8Array.from(capabilities, (capability) => (capability as OpenFile | Source).tag);
      sendDescriptors(self, this.#socket.number, tags, numbers, MSG.DONTWAIT);
    } catch (error) {
      throw explained(error);
    } finally {
      for (const descriptor of opened) descriptor.close();
    }
  }

  take(count: number): object[] {
    while (this.#waiting.length < count && this.#receive());
    if (this.#waiting.length >= count) return this.#waiting.splice(0, count);
    throw new ProtocolViolation(
      `Cannot find the ${count} descriptors that a frame names: ${this.#waiting.length} were sent`,
    );
  }

  get surplus(): boolean {
    return this.#waiting.length > 0 || this.#receive();
  }

  close(): void {
    for (const capability of this.#waiting.splice(0)) capability[Symbol.dispose]();
    this.#socket.close();
  }

  /** Takes one packet, if one is there. Whatever is wrong with it, none of its descriptors stays open. */
  #receive(): boolean {
    if (this.#socket.closed) return false;
    const tags = new Uint8Array(MOST + 1);
    let packet: ReturnType<typeof receiveDescriptors>;
    try {
      packet = receiveDescriptors(self, this.#socket.number, tags, { most: MOST, flags: MSG.DONTWAIT });
    } catch (error) {
      if (error instanceof SystemError && error.code === "EAGAIN") return false;
      throw error;
    }
    const { length, descriptors, truncated } = packet;
    if (length === 0 && descriptors.length === 0 && !truncated) return false; // the peer closed its end
    // Where the kernel finds no number for a descriptor, it drops that and those behind it.
    const lost = truncated && descriptors.length < length ? length - descriptors.length : 0;
    if ((truncated && lost === 0) || length !== descriptors.length + lost || length > MOST) {
      for (const descriptor of descriptors) new Descriptor(descriptor).close();
      throw new ProtocolViolation(`Cannot accept a packet of ${length} tags and ${descriptors.length} descriptors`);
    }
    const capabilities: Disposable[] = [];
    try {
      for (const [index, descriptor] of descriptors.entries()) {
        capabilities.push(this.#accept(descriptor, tags[index]!));
      }
      for (const tag of tags.subarray(descriptors.length, length)) capabilities.push(new LostCapability(tag));
    } catch (error) {
      for (const capability of capabilities) capability[Symbol.dispose]();
      for (const descriptor of descriptors.slice(capabilities.length + 1)) new Descriptor(descriptor).close();
      throw error;
    }
    this.#waiting.push(...capabilities);
    return true;
  }
}

/** The kernel's word for it is about references. */
function explained(error: unknown): unknown {
  if (!(error instanceof SystemError && error.code === "ETOOMANYREFS")) return error;
  const why =
    "with a capability: this user's processes have more descriptors on their way than this one may have open, fewer are expected";
  return new SystemError(error.syscall, error.errno, why, { cause: error });
}
