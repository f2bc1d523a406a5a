// Denials as they happen: who hears of them, what is kept for who does not listen, and what a flood comes to.
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Denial } from "../../src/denial.ts";
import { countDenials, Denials } from "../../src/denials.ts";
import { type DenialEvent, denials, exec, network, spawn } from "../../src/index.ts";
import { testIf } from "../syscalls/requirement.ts";

setDefaultTimeout(120_000); // the machine may have other things to do

const made = (target: string): Denial => ({
  actor: "a",
  call: "open",
  target,
  guarantee: "files",
  wall: "seccomp: so it is",
  fix: `--read=${target}`,
});

const next = async (reader: AsyncIterator<DenialEvent>) => (await reader.next()).value as DenialEvent | undefined;

describe("Denials", () => {
  test("are wanted while somebody reads, here or everywhere", async () => {
    const own = new Denials("a");
    expect(own.wanted).toBe(false);
    const reader = own[Symbol.asyncIterator]();
    expect(own.wanted).toBe(true);
    await reader.return();
    expect(own.wanted).toBe(false);
    const everything = denials();
    expect(own.wanted).toBe(true);
    everything.end();
    expect(own.wanted).toBe(false);
  });

  test("are wanted and counted while somebody counts, although nobody reads", () => {
    const own = new Denials("a");
    const counting = [countDenials(), countDenials()];
    own.report(made("/x"));
    own.report(made("/x"));
    own.lose(3);
    expect({ wanted: own.wanted, count: own.count }).toEqual({ wanted: true, count: 5 });
    for (const each of [counting[0]!, counting[0]!]) each[Symbol.dispose]();
    expect(own.wanted).toBe(true);
    counting[1]![Symbol.dispose]();
    expect(own.wanted).toBe(false);
  });

  test("reach each reader, those of others only who reads everywhere", async () => {
    const [one, other] = [new Denials("a"), new Denials("b")];
    const readers = [one[Symbol.asyncIterator](), one[Symbol.asyncIterator](), denials()];
    const foreign = other[Symbol.asyncIterator]();
    one.report(made("/x"));
    for (const reader of readers) expect(await next(reader)).toEqual({ ...made("/x"), times: 1, lost: 0 });
    other.end();
    expect(await next(foreign)).toBeUndefined();
    for (const reader of readers) await reader.return?.();
  });

  test("are those from the start of a reader on", async () => {
    const own = new Denials("a");
    own.report(made("/before"));
    const reader = own[Symbol.asyncIterator]();
    own.report(made("/after"));
    expect((await next(reader))?.target).toBe("/after");
    await reader.return();
  });

  test("that are the same are told once, with how often", async () => {
    const own = new Denials("a");
    const reader = own[Symbol.asyncIterator]();
    for (const target of ["/x", "/y", "/x", "/x"]) own.report(made(target));
    own.end();
    const told: unknown[] = [];
    for await (const { target, times } of reader) told.push([target, times]);
    expect(told).toEqual([
      ["/x", 3],
      ["/y", 1],
    ]);
  });

  test("are dropped from the oldest on when nobody takes them, and the next one says how many", async () => {
    const own = new Denials("a");
    const reader = own[Symbol.asyncIterator]();
    for (let count = 0; count < 100_000; count++) own.report(made(`/${count}`));
    own.lose(5);
    own.end();
    const told: DenialEvent[] = [];
    for await (const denial of reader) told.push(denial);
    expect(told).toHaveLength(128);
    expect(told.map(({ lost }) => lost)).toEqual([100_000 - 128 + 5, ...Array(127).fill(0)]);
    expect(told.at(-1)?.target).toBe("/99999");
  });

  test("come to who waits already, one for each that waits", async () => {
    const own = new Denials("a");
    const reader = own[Symbol.asyncIterator]();
    const waiting = [next(reader), next(reader), next(reader)];
    own.report(made("/x"));
    own.report(made("/x"));
    own.end();
    expect((await Promise.all(waiting)).map((denial) => denial?.times)).toEqual([1, 1, undefined]);
  });

  test("end at once for who comes too late, and for who leaves", async () => {
    const own = new Denials("a");
    const leaving = (async () => {
      for await (const denial of own) return denial.target;
    })();
    own.report(made("/x"));
    expect(await leaving).toBe("/x");
    expect(own.wanted).toBe(false);
    own.end();
    expect(await next(own[Symbol.asyncIterator]())).toBeUndefined();
    expect(own.wanted).toBe(false);
  });
});

describe("claim()", () => {
  const claimed = (more: Partial<Denial>): Denial => ({ ...made("/x"), ...more, claimed: true });
  const toldOf = async (own: Denials, act: () => void) => {
    const reader = own[Symbol.asyncIterator]();
    act();
    own.end();
    return (await all(reader)).map(({ call, target, claimed }) => [call, target, claimed]);
  };

  test("is as good as any report where no wall tells of itself", async () => {
    const own = new Denials("a");
    const told = await toldOf(own, () => {
      own.report(made("/x"));
      own.claim(claimed({}));
    });
    expect(told).toEqual([["open", "/x", undefined]]); // one event, twice
  });

  const same: readonly (readonly [what: string, wall: Partial<Denial>, error: Partial<Denial>])[] = [
    ["one path", { call: "openat" }, {}],
    ["a relative path", { call: "openat", target: "/home/x" }, { target: "x" }],
    ["the directory that Landlock names", { call: "make_reg", target: "/dir" }, { target: "/dir/x" }],
    ["the directory of what goes", { call: "remove_file", target: "/dir" }, { call: "unlink", target: "/dir/x" }],
    [
      "the socket of a connection",
      { call: "socket", target: "", guarantee: "network" },
      { call: "fetch", target: "http://x", guarantee: "network" },
    ],
    ["a call by a descriptor", { call: "fchmod", target: "" }, { call: "fchmod" }],
  ];
  test.each(same)("is not told where a wall tells of it, before or after: %s", async (_, wall, error) => {
    for (const reverse of [false, true]) {
      const own = new Denials("a", { observed: true });
      const acts = [() => own.report({ ...made("/x"), ...wall }), () => own.claim(claimed(error))];
      const told = await toldOf(own, () => {
        for (const act of reverse ? acts.toReversed() : acts) act();
      });
      expect(told).toEqual([[wall.call ?? "open", wall.target ?? "/x", undefined]]);
    }
  });

  const others: readonly (readonly [what: string, wall: Partial<Denial>, error: Partial<Denial>])[] = [
    ["another path", { target: "/y" }, {}],
    ["a path that ends alike", { target: "/xx" }, { target: "x" }],
    ["what is in the same directory", { call: "read_dir", target: "/dir" }, { target: "/dir/x" }],
    ["another guarantee", { target: "", guarantee: "network" }, {}],
    ["another call by a descriptor", { call: "fchmod", target: "" }, { call: "open" }],
  ];
  test.each(others)("is told where what walls tell of is %s", async (_, wall, error) => {
    const own = new Denials("a", { observed: true });
    const told = await toldOf(own, () => {
      own.report({ ...made("/x"), ...wall });
      own.claim(claimed(error));
    });
    expect(told.map(([, , claim]) => claim)).toEqual([undefined, true]);
  });

  test("comes by itself where no wall says anything, and before the end of a flood is bounded", async () => {
    const own = new Denials("a", { observed: true });
    const reader = own[Symbol.asyncIterator]();
    own.claim(claimed({}));
    expect(await next(reader)).toMatchObject({ target: "/x", claimed: true, lost: 0 });
    for (let count = 0; count < 10_000; count++) own.claim(claimed({ target: `/${count}` }));
    own.end();
    expect((await all(reader)).reduce((sum, { times, lost }) => sum + times + lost, 0)).toBe(10_000);
  });
});

const directory = realpathSync(mkdtempSync(join(tmpdir(), "caisson-denials-")));
afterAll(() => rmSync(directory, { recursive: true }));
const module = join(directory, "wants.ts");
writeFileSync(
  module,
  `import { readFileSync } from "node:fs";
  export function read(path: string): number { return readFileSync(path).length; }
  export async function connect(way: { connect(target: string): Promise<unknown> }, target: string): Promise<void> { await way.connect(target); }
  export function end(): void { setTimeout(() => readFileSync("/etc/group")); }`,
);
interface Wants {
  read(path: string): number;
  connect(way: unknown, target: string): Promise<void>;
  end(): void;
}

async function all(events: AsyncIterable<DenialEvent>): Promise<DenialEvent[]> {
  const told: DenialEvent[] = [];
  for await (const denial of events) told.push(denial);
  return told;
}

describe("an actor's denials", () => {
  test("are of its calls and of what it ends by, in order, and end with it", async () => {
    await using actor = await spawn<Wants>(module, { stderr: "ignore" });
    await actor.call.read("/etc/hosts").catch(() => {}); // nobody listens
    const everywhere = denials();
    const told = all(actor.denials);
    await actor.call.read("/etc/passwd").catch(() => {});
    await actor.call.end();
    await actor.exited;
    everywhere.end();
    const expected = ["/etc/passwd", "/etc/group"];
    expect((await told).map(({ target }) => target)).toEqual(expected);
    expect((await all(everywhere)).map(({ actor, target }) => [actor, target])).toEqual(
      expected.map((target) => ["wants", target]),
    );
    expect(await all(actor.denials)).toEqual([]);
  });

  test("have what a network refused, as the proxy saw it, once", async () => {
    using way = network(["a.example:443"]);
    await using actor = await spawn<Wants>(module, { name: "client" });
    const reader = actor.denials[Symbol.asyncIterator]();
    const error = await actor.call.connect(way, "b.example:80").catch((thrown: unknown) => thrown);
    const denial = {
      actor: "client",
      call: "connect",
      target: "b.example:80",
      guarantee: "network",
      wall: "proxy of the host: no rule names b.example:80",
      fix: 'None: an actor has no network of its own, hand it network(["b.example:80"])',
    } as const;
    expect(error).toMatchObject({ denial: { ...denial, claimed: true } });
    expect(await next(reader)).toEqual({ ...denial, times: 1, lost: 0 });
    actor.kill();
    expect(await next(reader)).toBeUndefined();
  });

  test("of its own network, used by the host itself, are nobody's", async () => {
    const everywhere = denials();
    using way = network([]);
    await expect(way.connect("b.example:80")).rejects.toThrow("no rule names");
    everywhere.end();
    expect(await all(everywhere)).toEqual([]);
  });

  test("are told apart when a network is handed to two", async () => {
    using way = network([]);
    await using one = await spawn<Wants>(module, { name: "one" });
    await using other = await spawn<Wants>(module, { name: "other" });
    const [ones, others] = [all(one.denials), all(other.denials)];
    await one.call.connect(way, "x.example:1").catch(() => {});
    await other.call.connect(way, "y.example:2").catch(() => {});
    for (const actor of [one, other]) actor.kill();
    expect((await ones).map(({ actor, target }) => [actor, target])).toEqual([["one", "x.example:1"]]);
    expect((await others).map(({ actor, target }) => [actor, target])).toEqual([["other", "y.example:2"]]);
  });

  test("in a flood neither fill the host nor stop it", async () => {
    const flood = join(directory, "flood.ts");
    writeFileSync(
      flood,
      `export function lie(number: number): never {
        throw Object.assign(new Error("EPERM: no, open '" + "x".repeat(100_000)), { code: "EPERM", syscall: "open", path: "/" + number + "/" + "y".repeat(100_000) });
      }`,
    );
    await using actor = await spawn<{ lie(number: number): never }>(flood);
    const reader = actor.denials[Symbol.asyncIterator]();
    const rounds = async (count: number) => {
      for (let round = 0; round < count; round++)
        await Promise.allSettled(Array.from({ length: 100 }, (_, index) => actor.call.lie(round * 100 + index)));
      Bun.gc(true);
      return process.memoryUsage().rss;
    };
    const before = await rounds(5);
    const after = await rounds(15); // 1,500 of 200,000 bytes each
    expect(after - before).toBeLessThan(200 * 2 ** 20);
    expect((await next(reader))?.lost).toBe(2000 - 128);
    await reader.return!();
  });
});

const bash = Bun.which("bash");
const testBash = testIf("bash", bash !== null, "it is not installed");

describe("a program's denials", () => {
  const asks = (target: string) =>
    `exec 3<>/dev/tcp/127.0.0.1/\${http_proxy##*:}; printf 'CONNECT ${target} HTTP/1.1\\r\\nHost: ${target}\\r\\n\\r\\n' >&3; read -r line <&3; echo "$line"`;

  testBash("are what its proxy refused, and end with it", async () => {
    const everywhere = denials();
    const decided: boolean[] = [];
    await using program = await exec([bash!, "-c", `read -r; ${asks("b.example:443")}; ${asks("b.example:443")}`], {
      sandbox: { net: ["a.example:443"] },
      stdin: "pipe",
      onDecision: ({ allowed }) => decided.push(allowed),
    });
    const telling = all(program.denials);
    await program.stdin!.getWriter().write(Buffer.from("now\n"));
    const told = await telling;
    everywhere.end();
    expect(told.map(({ actor, target, grant }) => ({ actor, target, grant }))).toContainEqual({
      actor: bash!,
      target: "b.example:443",
      grant: { net: ["b.example:443"] },
    });
    expect(told.reduce((sum, { times }) => sum + times, 0)).toBe(2);
    expect((await all(everywhere)).length).toBeGreaterThan(0);
    expect(decided).toEqual([false, false]);
  });

  test("are none where it does nothing that a wall would tell of, and of a container", async () => {
    await using program = await exec(["true"]);
    expect(await all(program.denials)).toEqual([]);
    expect(await program.exited).toBe(0);
  });
});

test("a host that waits for denials is not kept alive by that", async () => {
  const script = join(directory, "waits.ts");
  writeFileSync(
    script,
    `import { denials } from ${JSON.stringify(join(import.meta.dir, "../../src/index.ts"))};
    void (async () => { for await (const denial of denials()) console.log(denial); })();`,
  );
  const child = Bun.spawn([process.execPath, script], { stdout: "pipe" });
  expect(await child.exited).toBe(0);
});
