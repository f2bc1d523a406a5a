/** Attacks by more than the host can take in: messages both ways, and output. It goes on with its own, turn by turn. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { exec } from "../../src/exec.ts";
import type { Actor } from "../../src/index.ts";
import { turns } from "../../src/turns.ts";
import { testBox } from "../src/box.ts";
import { inside, until } from "./arena.ts";

type Floods = typeof import("./fixtures/floods.ts");

setDefaultTimeout(60_000); // the machine may have other things to do

/** A timer of the host that rings as often as it can: how much came at most between two of its rings. */
class Timer implements Disposable {
  rings = 0;
  total = 0;
  most = 0;
  #since = 0;
  readonly #timer = setInterval(() => this.#ring(), 1);

  came(amount: number): void {
    this.total += amount;
    this.#since += amount;
  }

  #ring(): void {
    this.rings++;
    this.most = Math.max(this.most, this.#since);
    this.#since = 0;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

const RINGS = 200;
/** A turn of the event loop takes ten of them. */
const LARGE = "x".repeat(100_000);
const FEW = 64;
/** So many of them an actor can send at least before somebody reads. */
const WINDOW = 32;

async function read(actor: Actor<Floods>, timer: Timer): Promise<void> {
  try {
    for await (const _ of actor) timer.came(1);
  } catch {
    // It was ended.
  }
}

/** Has so many actors send for ever what the host reads, once more than a few are there, for so long as the condition says. */
async function pour(actors: number, enough: (timer: Timer) => boolean): Promise<Timer> {
  await using stack = new AsyncDisposableStack();
  using timer = new Timer();
  const all: Actor<Floods>[] = [];
  for (let number = 0; number < actors; number++) {
    const actor = stack.use(await inside<Floods>("floods"));
    void actor.call.pour(LARGE).catch(() => {});
    all.push(actor);
  }
  const sent = () => all.reduce((sum, actor) => sum + (actor.usage().messagesOut ?? 0), 0);
  await until(() => sent() >= WINDOW * actors);
  for (const actor of all) void read(actor, timer);
  await until(() => enough(timer));
  return timer;
}

describe("messages to the host", () => {
  const { admits } = turns;
  afterEach(() => {
    turns.admits = admits;
  });

  for (const actors of [1, 10])
    test(`from a flood of ${actors} are few between two rings of its timers`, async () => {
      const { most } = await pour(actors, ({ rings, total }) => rings > RINGS && total > 300);
      expect(most).toBeLessThanOrEqual(FEW);
    });

  test("control: without turns they are many", async () => {
    turns.admits = () => true;
    const { most } = await pour(10, ({ most }) => most > 0);
    expect(most).toBeGreaterThan(FEW);
  });

  test("do not keep the answer of another actor back", async () => {
    await using quiet = await inside<Floods>("floods");
    let answers = 0;
    await pour(10, ({ total }) => {
      if (total > 0 && answers === 0) void quiet.call.count().then(() => answers++);
      return answers > 0;
    });
  });
});

describe("messages to an actor", () => {
  const MESSAGES = 2000;
  /** Far less than that many have. */
  const HELD_BYTES = 64 * 2 ** 20;

  /** Sends so many, each when the one before was taken. Counts them as they go. */
  async function send(actor: Actor<Floods>, messages: number, timer: Timer): Promise<void> {
    for (let sent = 0; sent < messages; sent++) {
      await actor.send(LARGE);
      timer.came(1);
    }
  }

  test("that takes none are held back, while the host's timers go on", async () => {
    await using deaf = await inside<Floods>("floods");
    using timer = new Timer();
    Bun.gc(true); // what was left by others would be taken first
    const rss = process.memoryUsage.rss();
    const sending = send(deaf, MESSAGES, timer).catch(() => "it ended");
    let total: number;
    do {
      total = timer.total;
      await deaf.call.count(); // its answer comes behind all that was sent: it has that, and more would have followed
    } while (timer.total > total);
    const { rings } = timer;
    await until(() => timer.rings > rings + RINGS);
    expect(timer.total).toBe(total);
    expect(total * LARGE.length).toBeLessThan(HELD_BYTES);
    expect(process.memoryUsage.rss() - rss).toBeLessThan(HELD_BYTES);
    deaf.kill();
    expect(await sending).toBe("it ended");
  });

  test("control: that takes them all come, a few between two rings, and its own come back the other way", async () => {
    await using busy = await inside<Floods>("floods");
    using timer = new Timer();
    void busy.call.take().catch(() => {});
    void busy.call.pour(LARGE).catch(() => {});
    void read(busy, timer);
    await send(busy, MESSAGES, timer);
    await until(() => timer.total > 2 * MESSAGES && timer.rings > RINGS);
    expect(timer.most).toBeLessThanOrEqual(2 * FEW);
    while ((await busy.call.count()) < MESSAGES); // it may still be at what its inbox holds
    expect(await busy.call.count()).toBe(MESSAGES);
  });
});

describe("output", () => {
  const MIB = 2 ** 20;
  const FEW_BYTES = 16 * MIB;
  /** So much each prints at most: one without end could keep a host that takes no turns from ever telling. */
  const ALL_BYTES = 4096 * MIB;
  const { setImmediate } = globalThis;
  afterEach(() => {
    globalThis.setImmediate = setImmediate;
  });

  /** Reads what so many programs print, until that is enough or all. */
  async function print(programs: number, enough: (timer: Timer) => boolean): Promise<Timer> {
    await using all = new AsyncDisposableStack();
    using timer = new Timer();
    const argv = ["head", "-c", `${ALL_BYTES}`, "/dev/zero"];
    for (let number = 0; number < programs; number++) {
      const program = all.use(await exec(argv, { stdin: "ignore", stderr: "ignore" }));
      void (async () => {
        for await (const bytes of program.stdout!) timer.came(bytes.length);
      })();
    }
    await until(() => timer.total === programs * ALL_BYTES || enough(timer));
    return timer;
  }

  for (const programs of [1, 8])
    testBox(`of ${programs} that print much is little between two rings of the host's timers`, async () => {
      const { most } = await print(programs, ({ rings, total }) => rings > RINGS && total > 200 * MIB);
      expect(most).toBeLessThan(FEW_BYTES);
    });

  testBox("control: without turns it is much", async () => {
    globalThis.setImmediate = ((work: () => void) => queueMicrotask(work)) as typeof setImmediate;
    const { most } = await print(8, ({ most }) => most >= FEW_BYTES);
    expect(most).toBeGreaterThanOrEqual(FEW_BYTES);
  });
});
