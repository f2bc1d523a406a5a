// Each scenario is a process of its own: what it gave up, it does not get back.
import { afterAll, beforeEach, expect, setDefaultTimeout } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ERRATA, RESTRICT_SINCE, usableAbi } from "../../platform/linux/landlock.ts";
import { self } from "../../syscalls/kernel.ts";
import { capget } from "../../syscalls/linux/capability.ts";
import { landlockErrata } from "../../syscalls/linux/landlock.ts";
import { CAP } from "../../syscalls/linux/numbers.ts";
import { hasFilters } from "../../syscalls/linux/seccomp.ts";
import { testIf } from "../syscalls/requirement.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const abi = usableAbi();
const testSelf = testIf("landlock", abi > 0 && hasFilters(), "this kernel has no Landlock or takes no filters");

const temporary = realpathSync(mkdtempSync(join(tmpdir(), "caisson-self-")));
afterAll(() => rmSync(temporary, { recursive: true }));
chmodSync(temporary, 0o755);

const TREE = {
  "open/file": "for all",
  "open/a": "A",
  "open/b": "B",
  "secret/file": "for nobody",
  "work/kept": "",
  log: "",
};
beforeEach(() => {
  for (const [name, content] of Object.entries(TREE)) {
    mkdirSync(join(temporary, name, ".."), { recursive: true });
    writeFileSync(join(temporary, name), content);
  }
});

async function start(scenario: string, ...args: string[]) {
  const script = join(import.meta.dir, "fixtures/confined.ts");
  const child = Bun.spawn([process.execPath, script, scenario, temporary, ...args], { stdout: "pipe", stderr: "pipe" });
  const [output, error] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { output, error, code: child.exitCode, signal: child.signalCode };
}

async function run<T = Record<string, unknown>>(scenario: string, ...args: string[]): Promise<T> {
  const { output, error, code, signal } = await start(scenario, ...args);
  if (code !== 0) throw new Error(`${scenario} ended with ${signal ?? code}: ${error}`);
  return JSON.parse(output) as T;
}

const every = (outcome: string) => ({ sync: outcome, async: outcome, bun: outcome, list: outcome, raw: outcome });
const reads = (text: string) => ({ sync: text, async: text, bun: text, list: true, raw: 0 });
const both = (outcome: string) => ({ sync: outcome, async: outcome });

testSelf("confine() refuses what is not granted with EACCES to every thread, and goes on with what is", async () => {
  const found = await run("paths");
  expect(found).toMatchObject({
    before: { secret: reads("for nobody"), worker: both("for nobody") },
    secret: every("EACCES"),
    old: both("EACCES"),
    young: both("EACCES"),
    granted: reads("for all"),
    oldGranted: both("for all"),
    youngGranted: both("for all"),
    write: "EACCES",
    statuses: [["1"], ["2"]],
  });
  expect(found.enforcement).toMatchObject({
    files: [`Landlock ABI ${abi}`, "seccomp"],
    privileges: ["no_new_privs", "seccomp"],
    kernel: ["seccomp"],
    memory: [],
  });
});

testSelf("the control: what one thread gives up, the others go on doing", async () => {
  expect(await run("alone")).toEqual({ sync: "EACCES", async: "for nobody", raw: "EACCES" });
});

testSelf("confine({}) leaves a program of Bun running that reaches nothing", async () => {
  expect(await run("nothing")).toEqual({
    secret: every("EACCES"),
    stat: "EPERM",
    run: "EPERM",
    listen: "EPERM",
    socket: "EPERM",
    worker: 7,
    young: 8,
    imported: 9,
    digest: 32,
    zone: "01:00:00",
    hot: 4999950000,
    collected: "done",
    again: ["seccomp"],
  });
});

testSelf("write grants creating and removing in a directory, and writing to a file; modes are nobody's", async () => {
  expect(await run("writing")).toEqual({
    create: "done",
    bun: 4,
    rename: "done",
    directory: "done",
    remove: "done",
    log: "done",
    out: "EACCES",
    into: "EACCES",
    truncate: "EACCES",
    beside: "EACCES",
    mode: "EPERM",
    setuid: "EPERM",
  });
  expect(readFileSync(join(temporary, "log"), "utf8")).toBe("line");
});

testSelf("run grants programs with what they need, which are confined likewise", async () => {
  expect(await run("running")).toMatchObject({ granted: "for all", secret: 1, other: "EACCES" });
});

testSelf("what was started may be sent signals where Landlock tells it from others, and else nobody", async () => {
  const tells = abi >= RESTRICT_SINCE.TSYNC || (abi >= 6 && (landlockErrata() & ERRATA.OWN_THREADS) !== 0);
  expect((await run("running")).killed).toBe(tells ? "SIGTERM" : "EPERM");
});

const promised = (policy: object) => run("promises", JSON.stringify(policy));

testSelf("promises hold for the process: without inet no connection, without wpath nothing is written", async () => {
  expect(await promised({ promises: "stdio rpath" })).toEqual({
    read: "for all",
    secret: "EACCES",
    write: "EPERM",
    socket: "EPERM",
    connect: "ECONNREFUSED", // Bun's word for it
    fetch: "EPERM",
    young: 8,
  });
});

testSelf("promises allow what they say: inet connects and listens, wpath and cpath write what is granted", async () => {
  const policy = { write: [join(temporary, "open")], promises: "stdio rpath wpath cpath inet dns" };
  expect(await promised(policy)).toEqual({
    read: "for all",
    secret: "EACCES",
    write: "done",
    socket: 0,
    connect: "connected",
    fetch: "hello",
    young: 8,
  });
});

testSelf("a broken promise is the end where onBreak says so, and ENOSYS by the promise error", async () => {
  expect((await start("promises", JSON.stringify({ promises: "stdio", onBreak: "kill" }))).signal).toBe("SIGSYS");
  expect(await promised({ promises: "stdio rpath error" })).toMatchObject({ read: "for all", write: "ENOSYS" });
});

testSelf("confine() again takes more and gives nothing back", async () => {
  expect(await run<unknown[]>("narrowing")).toEqual([
    ["A", "B"],
    ["A", "B"],
    ["A", "EACCES"],
    ["A", "EACCES"],
    ["EACCES", "EACCES"],
  ]);
});

testSelf("confine() in a Worker confines the main thread, too", async () => {
  expect(await run("fromWorker")).toEqual({ said: "done", secret: every("EACCES"), granted: reads("for all") });
});

testSelf("what makes no sense throws, and nothing has happened", async () => {
  const policies = [
    null,
    [],
    { raed: ["/tmp"] },
    { read: [""] },
    { read: null },
    { read: ["/no/such"] },
    { env: { A: "b" } },
    { limits: { files: 64 } },
    { allowUnenforced: ["files"] },
    { net: ["example.com:443"] },
    { onBreak: "kill" },
    { promises: "stdio rpaht" },
    { promises: "pf" },
    { unveil: { "/tmp": "q" } },
    { unveil: { [join(temporary, "log")]: "rwc" } },
    { run: ["no-such-program"] },
  ];
  const { said, secret, statuses } = await run<{ said: string[]; secret: string; statuses: string[][] }>(
    "wrong",
    JSON.stringify(policies),
  );
  expect(said.map((each) => each.split(":")[0])).toEqual([
    "TypeError", "TypeError", "TypeError", "TypeError", "TypeError", "ENOENT", "TypeError", "TypeError", "TypeError",
    "NotEnforced", "TypeError", "TypeError", "TypeError", "TypeError", "NotEnforced", "NotRunnable",
  ]); // biome-ignore format: as the policies
  expect(said[9]).toContain('Cannot guarantee "network": no proxy stands between');
  expect(said[9]).toContain('Promise "inet dns"');
  expect(secret).toBe("for nobody");
  expect(statuses).toEqual([["0"], ["0"]]);
});

testSelf("a thread with a filter of its own makes it throw before anything has happened", async () => {
  const { said, secret } = await run("apart");
  expect(said).toMatch(/^Error: Cannot confine this process: its threads differ in Seccomp_filters: \d, \d$/);
  expect(secret).toBe("for nobody");
});

testSelf("setNoNewPrivs() holds on all threads", async () => {
  expect(await run("privileges")).toEqual({ before: ["0"], after: ["1"], idle: 1 });
});

const capable = (capget(self).effective & (1n << BigInt(CAP.SETPCAP))) !== 0n;
const testCapable = testIf("capabilities", capable, "this process has no CAP_SETPCAP to give up others with");

testCapable("dropCapabilities() empties every set of every thread", async () => {
  const none = ["0000000000000000"];
  const found = await run("capabilities");
  expect(found).toMatchObject({ said: "done", mine: "EPERM", after: [none, none, none, none, none] });
  expect(found.wrong).toStartWith('TypeError: Cannot keep capability "no_such": expected one of chown, ');
});

testCapable("dropCapabilities() keeps what it is told to", async () => {
  const bind = [(1n << BigInt(CAP.NET_BIND_SERVICE)).toString(16).padStart(16, "0")];
  const { after } = await run("capabilities", JSON.stringify({ keep: ["net_bind_service"] }));
  expect(after).toEqual([bind, bind, bind, ["0000000000000000"], bind]);
});

const testPlain = testIf("a plain user", capget(self).permitted === 0n, "this process has capabilities");

testPlain(
  "dropCapabilities() throws for one that is not there to be kept, and leaves the bounding set to setNoNewPrivs()",
  async () => {
    expect(await run("capabilities", JSON.stringify({ keep: ["net_bind_service"] }))).toMatchObject({
      said: "RangeError: Cannot keep capability net_bind_service: this process does not have it",
    });
    const { before, after } = await run<{ before: string[][]; after: string[][] }>("capabilities");
    expect(after).toEqual(before);
  },
);
