/** Events as they happen, for whoever reads them. */

/** How many wait for one reader; what he did not take then is lost, the oldest first. */
const MOST_UNREAD = 256;

/** Each reader gets what happens from when it began. The first one also what happened before, as far as that was kept. */
export class Feed<Event> implements AsyncIterable<Event> {
  readonly #readers = new Set<Reader<Event>>();
  /** What the first one to read finds. */
  #early: Reader<Event> | undefined = this.#reader();
  #ended = false;

  tell(event: Event): void {
    for (const reader of this.#readers) reader.take(event);
  }

  /** There will be no more. */
  end(): void {
    this.#ended = true;
    for (const reader of this.#readers) reader.end();
  }

  [Symbol.asyncIterator](): AsyncIterator<Event, undefined> {
    const reader = this.#early ?? this.#reader();
    this.#early = undefined;
    if (this.#ended) reader.end();
    return reader;
  }

  #reader(): Reader<Event> {
    const reader = new Reader<Event>(() => this.#readers.delete(reader));
    this.#readers.add(reader);
    return reader;
  }
}

class Reader<Event> implements AsyncIterator<Event, undefined> {
  readonly #leave: () => void;
  readonly #unread: Event[] = [];
  readonly #waiting: ((result: IteratorResult<Event, undefined>) => void)[] = [];
  #ended = false;

  constructor(leave: () => void) {
    this.#leave = leave;
  }

  take(event: Event): void {
    if (this.#unread.length === MOST_UNREAD) this.#unread.shift();
    this.#unread.push(event);
    this.#give();
  }

  end(): void {
    this.#ended = true;
    this.#leave();
    this.#give();
  }

  next(): Promise<IteratorResult<Event, undefined>> {
    const { promise, resolve } = Promise.withResolvers<IteratorResult<Event, undefined>>();
    this.#waiting.push(resolve);
    this.#give();
    return promise;
  }

  return(): Promise<IteratorResult<Event, undefined>> {
    this.#unread.length = 0;
    this.end();
    return Promise.resolve({ done: true, value: undefined });
  }

  #give(): void {
    while (this.#waiting.length > 0) {
      if (this.#unread.length > 0) this.#waiting.shift()!({ done: false, value: this.#unread.shift()! });
      else if (this.#ended) this.#waiting.shift()!({ done: true, value: undefined });
      else return;
    }
  }
}
