/** Windows: how much one direction of a link may have under way (docs/wire.md, Flow of messages). */

export interface WindowSize {
  readonly messages: number;
  readonly bytes: number;
  readonly descriptors: number;
}

/** Counts the messages that one direction has under way. */
export class Window {
  readonly #size: WindowSize;
  messages = 0;
  bytes = 0;
  descriptors = 0;

  constructor(size: WindowSize) {
    this.#size = size;
  }

  /** One more message may pass. One larger than the window may while less than half of it is taken. */
  admits(bytes: number, descriptors: number): boolean {
    const { bytes: size, messages, descriptors: slots } = this.#size;
    return (
      this.messages < messages &&
      this.descriptors + descriptors <= slots &&
      (this.bytes + bytes <= size || this.bytes < size / 2)
    );
  }

  /** At least half is taken: the point from which credit must be returned, so that no sender waits forever. */
  get isHalf(): boolean {
    const { bytes, messages, descriptors } = this.#size;
    return this.messages >= messages / 2 || this.bytes >= bytes / 2 || this.descriptors >= descriptors / 2;
  }

  add(messages: number, bytes: number, descriptors: number): void {
    this.messages += messages;
    this.bytes += bytes;
    this.descriptors += descriptors;
  }

  /** Takes back; false, and nothing happens, when that is more than there is. */
  remove(messages: number, bytes: number, descriptors: number): boolean {
    if (messages > this.messages || bytes > this.bytes || descriptors > this.descriptors) return false;
    this.add(-messages, -bytes, -descriptors);
    return true;
  }
}
