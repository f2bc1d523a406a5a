// A host's status: who can read it, what it costs, and peers that mean no good. The peers are in this process, unless they have to be another user.
import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { spawn } from "../../src/actor.ts";
import { type Connection, dial } from "../../src/connection.ts";
import { Denials } from "../../src/denials.ts";
import { exec } from "../../src/exec.ts";
import { exposeStatus } from "../../src/exposure.ts";
import { hostSockets } from "../../src/rundir.ts";
import type { Snapshot } from "../../src/snapshot.ts";
import { UNSEEN } from "../../src/unseen.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { connectTo, listenOn, openSocket } from "../../syscalls/linux/network.ts";
import { ready } from "../../syscalls/ready.ts";
import { openDescriptors } from "../attacks/arena.ts";
import { testIf } from "../syscalls/requirement.ts";
import { PYTHON, root, testBox } from "./box.ts";
import { Made, strangers } from "./member.ts";
import { until } from "./person.ts";

setDefaultTimeout(30_000); // whole processes, on machines that may be busy

let base: string;
let path: string;
let foreign: Set<number>;
beforeEach(async () => {
  foreign = new Set((await strangers()).map(({ pid }) => pid));
  base = realpathSync(mkdtempSync(join(tmpdir(), "caisson-exposure-")));
  path = join(base, "status");
});
afterEach(() => rmSync(base, { recursive: true }));

/** The next line, undefined once there are no more. */
async function line(peer: Connection): Promise<string | undefined> {
  return (await peer.gather(2 ** 24, (bytes) => bytes.indexOf(10) + 1 || undefined).catch(() => undefined))?.toString();
}
/** The next snapshot, of the members of this test: other test files may have left some alive. */
async function next(peer: Connection): Promise<Snapshot | undefined> {
  const text = await line(peer);
  if (text === undefined) return undefined;
  const snapshot: Snapshot = JSON.parse(text);
  return { ...snapshot, members: snapshot.members.filter(({ pid }) => !foreign.has(pid)) };
}
const namesIn = (snapshot: Snapshot | undefined) => snapshot?.members.map(({ name }) => name);
const ask = (peer: Connection, text: string) => peer.write(Buffer.from(text));

/** So many members. */
function crowd(count: number, nameOf: (index: number) => string): Disposable {
  const members = new DisposableStack();
  for (let index = 0; index < count; index++) members.use(new Made(nameOf(index)));
  return members;
}

/** A host of its own, in a process; its socket is in `base`. */
async function host(how: "stay" | "end", ...names: string[]) {
  chmodSync(base, 0o700);
  const fixture = fileURLToPath(new URL("./fixtures/exposed.ts", import.meta.url));
  const child = Bun.spawn([process.execPath, fixture, how, ...names], {
    env: { XDG_RUNTIME_DIR: base },
    stdio: ["pipe", "pipe", "inherit"],
  });
  const reader = child.stdout.getReader();
  const said = Buffer.from((await reader.read()).value ?? []).toString();
  return { child, path: said.trim() };
}

describe("exposeStatus()", () => {
  test("gives who connects what runs, at once and then again, as it is by then", async () => {
    using one = new Made("one");
    using _ = exposeStatus({ path });
    using peer = await dial({ unix: path });
    await ask(peer, '{"intervalMs":100}\n');
    const first = await next(peer);
    expect(first).toMatchObject({ version: 1, pid: process.pid, members: [one.now], more: 0 });
    one.now = { ...one.now, state: "ending" };
    let later = await next(peer);
    while (later?.members[0]?.state !== "ending") later = await next(peer);
    expect(later.at).toBeGreaterThan(first!.at);
  });

  testBox("tells of a program from its start to its end", async () => {
    using _ = exposeStatus({ path });
    using peer = await dial({ unix: path });
    await ask(peer, '{"intervalMs":100}\n');
    await using cat = await exec(["cat"], { stdin: "pipe" });
    let seen = await next(peer);
    while (seen?.members.length === 0) seen = await next(peer);
    expect(seen?.members).toMatchObject([{ kind: "program", name: "cat", state: "running", callsPending: 0 }]);
    expect(readFileSync(`/proc/${seen!.members[0]!.pid}/status`, "utf8")).toContain("Name:"); // a number of the host's
    cat.kill();
    while (seen?.members.length !== 0) seen = await next(peer);
    await cat.exited;
  });

  testBox("tells of an actor from its start to its end, with what it did", async () => {
    using _ = exposeStatus({ path });
    using peer = await dial({ unix: path });
    await ask(peer, '{"intervalMs":100}\n');
    const module = new URL("./fixtures/waits.ts", import.meta.url);
    await using actor = await spawn<typeof import("./fixtures/waits.ts")>(module, { name: "waiter" });
    await actor.call.value();
    let seen = await next(peer);
    // One of before may still tell of its start, or of the call.
    while (seen?.members[0]?.state !== "running" || seen.members[0].callsPending > 0) seen = await next(peer);
    expect(seen.members).toMatchObject([{ kind: "actor", name: "waiter", pid: actor.pid, callsPending: 0 }]);
    expect(seen.members[0]!.usage.memoryBytes).toBeGreaterThan(0);
    actor.kill();
    while (seen?.members.length !== 0) seen = await next(peer);
    expect(actor.inspect()).toMatchObject({ state: "ended", usage: { memoryBytes: 0 } });
  });

  test("looks at nothing while nobody reads, and once for all who read at once", async () => {
    for (;;) {
      using one = new Made("one");
      using _ = exposeStatus({ path });
      expect(one.looks).toBe(0);
      const began = performance.now();
      using first = await dial({ unix: path });
      using second = await dial({ unix: path });
      const same = (await line(first)) === (await line(second));
      // The machine was too busy for them to be at once, or the next look was due.
      if (!same || performance.now() - began >= 1000) continue;
      expect(one.looks).toBe(1);
      break;
    }
  });

  test("goes on for one that has said all it will", async () => {
    using _ = exposeStatus({ path });
    using peer = await dial({ unix: path });
    await ask(peer, '{"intervalMs":100}\n');
    peer.end();
    for (let count = 0; count < 3; count++) expect(await next(peer)).toMatchObject({ version: 1 });
  });

  test("keeps no process alive, and is removed when it ends", async () => {
    const { child, path } = await host("end");
    expect(await child.exited).toBe(0);
    expect(path).toBe(join(base, "caisson", `${child.pid}.sock`));
    expect(existsSync(path)).toBe(false);
  });

  test("of a host that was killed is removed by the next one; those of the living stay", async () => {
    const [dead, alive] = [await host("stay"), await host("stay")];
    dead.child.kill("SIGKILL");
    await dead.child.exited;
    expect(existsSync(dead.path)).toBe(true);
    const next = await host("stay");
    expect([dead, alive, next].map(({ path }) => existsSync(path))).toEqual([false, true, true]);
    expect(hostSockets([join(base, "caisson")]).toSorted()).toEqual([alive.path, next.path].toSorted());
    for (const { child } of [alive, next]) {
      await child.stdin.end();
      expect(await child.exited).toBe(0);
    }
  });

  test("leaves nothing behind when it is closed, and can be had again", async () => {
    const before = openDescriptors();
    for (let count = 0; count < 20; count++) {
      using status = exposeStatus({ path });
      using peer = await dial({ unix: status.path });
      await next(peer);
      status.close();
      expect(existsSync(path)).toBe(false);
      await peer.closed;
    }
    await until(() => openDescriptors() <= before);
  });

  test("is removed although this process works elsewhere by then", () => {
    const before = process.cwd();
    process.chdir(base);
    const status = exposeStatus({ path: "status" });
    process.chdir(before);
    expect({ path: status.path, there: existsSync(path) }).toEqual({ path, there: true });
    status.close();
    expect(existsSync(path)).toBe(false);
  });

  test("has denials counted while it is there, and not where it could not be made", () => {
    const denials = new Denials("a");
    writeFileSync(path, "");
    expect(() => exposeStatus({ path })).toThrow();
    expect(denials.wanted).toBe(false);
    rmSync(path);
    {
      using _ = exposeStatus({ path });
      expect(denials.wanted).toBe(true);
    }
    expect(denials.wanted).toBe(false);
  });

  test("throws for an option that there is not", () => {
    expect(() => exposeStatus({ paht: path } as never)).toThrow("Cannot use the option paht");
    expect(() => exposeStatus({ path: "" })).toThrow("Cannot use");
    expect(() => exposeStatus({ path: join(base, "x".repeat(120)) })).toThrow("107 at most");
  });
});

describe("the place of a status", () => {
  test("is its user's alone, in a directory and a file, whatever the umask", async () => {
    const { child, path } = await host("stay"); // with umask 0
    const status = lstatSync(path);
    expect({ socket: status.isSocket(), mode: status.mode & 0o777 }).toEqual({ socket: true, mode: 0o600 });
    expect(lstatSync(join(base, "caisson")).mode & 0o777).toBe(0o700);
    await child.stdin.end();
    await child.exited;
  });

  test("is not taken from who listens there already, nor from a file; but from the dead", async () => {
    {
      using _ = exposeStatus({ path });
      expect(() => exposeStatus({ path })).toThrow(expect.objectContaining({ code: "EEXIST" }));
      expect(() => exposeStatus({ path })).toThrow(`${path}: there is something already, such as another status`);
      using peer = await dial({ unix: path });
      expect(await next(peer)).toBeDefined();
    }
    writeFileSync(path, "mine");
    expect(() => exposeStatus({ path })).toThrow(expect.objectContaining({ code: "EEXIST" }));
    expect(readFileSync(path, "utf8")).toBe("mine");
    rmSync(path);
    new Descriptor(listenOn(self, { family: "UNIX", path })).close();
    using _ = exposeStatus({ path });
    using peer = await dial({ unix: path });
    expect(await next(peer)).toBeDefined();
  });

  test("is in a directory that is there", () => {
    const nowhere = join(base, "nowhere", "status");
    expect(() => exposeStatus({ path: nowhere })).toThrow(expect.objectContaining({ code: "ENOENT" }));
    expect(() => exposeStatus({ path: nowhere })).toThrow(`${nowhere}: its directory is not there`);
  });

  test.each(["missing", "file", "socket"])("is no link that was planted, to what is a %s", (target) => {
    mkdirSync(join(base, "elsewhere"));
    const to = join(base, "elsewhere", target);
    if (target === "file") writeFileSync(to, "mine");
    if (target === "socket") new Descriptor(listenOn(self, { family: "UNIX", path: to })).close();
    symlinkSync(to, path);
    expect(() => exposeStatus({ path })).toThrow(expect.objectContaining({ code: "EEXIST" }));
    expect({ link: lstatSync(path).isSymbolicLink(), target: existsSync(to) }).toEqual({
      link: true,
      target: target !== "missing",
    });
  });
});

const testAsOthers = testIf(
  "another user",
  root && existsSync(PYTHON) && Bun.which("setpriv") !== null,
  "only root can be another user, by setpriv(1) with python3(1)",
);

/** What another user gets who connects: bytes, an end, or an errno. */
function another(path: string): string {
  const program = `import socket, errno, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(20)
try:
  s.connect(sys.argv[1]); print(len(s.recv(16)))
except OSError as e: print(errno.errorcode.get(e.errno, e))`;
  return `exec setpriv --reuid=65534 --regid=65534 --clear-groups ${PYTHON} -c '${program.replaceAll("'", '"')}' ${path}`;
}
async function result(command: string): Promise<string> {
  const child = Bun.spawn(["sh", "-c", command], { stdio: ["ignore", "pipe", "inherit"] });
  return (await child.stdout.text()).trim();
}

describe("another user", () => {
  testAsOthers("cannot connect: EACCES, by the directory and by the socket", async () => {
    const { child, path: own } = await host("stay", "one");
    expect(await result(another(own))).toBe("EACCES");
    chmodSync(base, 0o755);
    chmodSync(join(base, "caisson"), 0o755);
    expect(await result(another(own))).toBe("EACCES");
    await child.stdin.end();
    await child.exited;
  });

  testAsOthers("who could connect is told nothing", async () => {
    using _one = new Made("one");
    using _ = exposeStatus({ path });
    chmodSync(base, 0o755);
    expect(await result(another(path))).toBe("EACCES");
    chmodSync(path, 0o666);
    expect(await result(another(path))).toBe("0");
    // The same program as root reads.
    expect(await result(another(path).replace(/setpriv \S+ \S+ \S+ /, ""))).toBe("16");
  });
});

describe("a hostile peer", () => {
  test("that never reads is turned away, and others read meanwhile", async () => {
    using _members = crowd(900, (index) => `${index}`.padEnd(128, ".")); // more than the kernel holds for a reader
    using _ = exposeStatus({ path });
    using deaf = new Descriptor(openSocket(self, "UNIX"));
    connectTo(self, deaf.number, { family: "UNIX", path });
    const asked = Buffer.from('{"intervalMs":100}\n');
    self.call("write", deaf.number, asked, asked.length);
    using good = await dial({ unix: path });
    await ask(good, asked.toString());
    let turnedAway = false;
    // Nothing of the kind comes but that the peer has hung up.
    void ready(deaf.number, "change").done.then(() => {
      turnedAway = true;
    });
    while (!turnedAway) expect((await next(good))?.members.length).toBe(900);
    expect(await next(good)).toBeDefined();
  });

  test("that comes a hundred times is let in sixteen times, and when it has gone another one is", async () => {
    using _one = new Made("one");
    using _ = exposeStatus({ path });
    const peers = await Promise.all(Array.from({ length: 100 }, () => dial({ unix: path })));
    const seen = await Promise.all(peers.map(next));
    expect(seen.filter((each) => each !== undefined).length).toBe(16);
    for (const peer of peers) peer.close();
    let names: string[] | undefined;
    while (names === undefined) {
      using peer = await dial({ unix: path });
      names = namesIn(await next(peer));
    }
    expect(names).toEqual(["one"]);
  });

  test.each([
    ["no JSON", "hello\n"],
    ["nothing", "\n"],
    ["null", "null\n"],
    ["no time", '{"intervalMs":"fast"}\n'],
    ["to be flooded", '{"intervalMs":0}\n'],
    ["to be forgotten", '{"intervalMs":1e99}\n'],
    ["no end", "x".repeat(100_000)],
  ])("that asks for %s is turned away", async (_, text) => {
    using _status = exposeStatus({ path });
    using peer = await dial({ unix: path });
    await ask(peer, text).catch(() => {}); // it may be turned away while it talks
    while ((await next(peer)) !== undefined); // up to its end
    using other = await dial({ unix: path });
    expect(await next(other)).toBeDefined();
  });

  test("that says what it wants without pause is heard a few times, and given no less for it", async () => {
    using _ = exposeStatus({ path });
    using peer = await dial({ unix: path });
    // Read in one go, the last of these would turn it away before there is a second snapshot.
    const asked = ask(peer, `${'{"intervalMs":100}\n'.repeat(100)}nonsense\n`);
    for (let count = 0; count < 10; count++) expect(await next(peer)).toBeDefined();
    await asked;
  });

  test("named to do something to a terminal does nothing: the line has no control characters, and nothing that is not seen", async () => {
    const name = "\x1b[2J\x07\x7f\x9b2J\u202e\u2066\u200f\u061c\u{e0041}\n";
    using _one = new Made(name);
    using _ = exposeStatus({ path });
    using peer = await dial({ unix: path });
    const text = (await line(peer))!;
    expect(text.slice(0, -1)).not.toMatch(UNSEEN);
    expect(namesIn(JSON.parse(text))).toContain(name);
  });

  test("of a thousand and more members tells of a thousand, and of the names a part", async () => {
    using _members = crowd(1003, () => "x".repeat(10_000));
    using _ = exposeStatus({ path });
    using peer = await dial({ unix: path });
    const { members, more }: Snapshot = JSON.parse((await line(peer))!);
    expect([members.length, more, members.at(-1)?.name.length]).toEqual([1000, 3 + foreign.size, 128]);
  });
});
