/** Messages are handed out in turns, so that those of one actor delay neither those of another nor the timers of this process. */

/** Somebody whose messages wait. */
export interface Party {
  /** Hands out what it may; true when more is there. */
  serve(): boolean;
}

/** What is handed out in one turn of the event loop: of one party, and of all together. */
const SHARE = { messages: 128, bytes: 256 * 1024 };
const TURN = { messages: 512, bytes: 1024 * 1024 };

/** What one party has had in a turn. */
export interface Share {
  turn: number;
  messages: number;
  bytes: number;
}

/** A turn begins when the event loop has seen to its timers and sockets. */
export class Turns {
  #turn = 0;
  #messages = 0;
  #bytes = 0;
  #scheduled = false;
  readonly #waiting = new Set<Party>();

  /** Whether this much may be handed out now, and counts it. Whatever its size, a party's first message of a turn may, so that nobody waits forever. */
  admits(share: Share, size: number): boolean {
    if (this.#spent) return false;
    if (share.turn !== this.#turn) {
      share.turn = this.#turn;
      share.messages = 0;
      share.bytes = 0;
    } else if (share.messages >= SHARE.messages || share.bytes + size > SHARE.bytes) return false;
    share.messages++;
    share.bytes += size;
    this.#messages++;
    this.#bytes += size;
    this.#schedule(); // the next one counts anew
    return true;
  }

  get #spent(): boolean {
    return this.#messages >= TURN.messages || this.#bytes >= TURN.bytes;
  }

  /** Has a party served in a later turn, behind those who wait already. */
  wait(party: Party): void {
    this.#waiting.add(party);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.#begin());
  }

  #begin(): void {
    this.#scheduled = false;
    this.#turn++;
    this.#messages = 0;
    this.#bytes = 0;
    for (const party of [...this.#waiting]) {
      if (this.#spent) break; // those who are left come first next time
      this.#waiting.delete(party);
      if (party.serve()) this.#waiting.add(party);
    }
    if (this.#waiting.size > 0) this.#schedule();
  }
}

/** The one of this process: there is one event loop. */
export const turns: Turns = new Turns();
