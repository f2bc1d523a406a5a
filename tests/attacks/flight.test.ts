/** Attacks by descriptors on their way (SCM_RIGHTS), which the kernel counts by user: who keeps many there can keep others from sending any. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { isRoot } from "../../platform/linux/ids.ts";
import { exec, type FileCapability, file } from "../../src/index.ts";
import { starve } from "../platform/starve.ts";
import { testIf } from "../syscalls/requirement.ts";
import { failure, inside } from "./arena.ts";
import { arsenal, testAttempt } from "./attempt.ts";
import { NO_STRANGER, stranger } from "./stranger.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const base = arsenal("flight");
afterAll(() => base[Symbol.dispose]());

const limits = { files: 256 };

/** A program that keeps as many there as it may. */
async function keeper() {
  const program = await exec([base.program, "keep"], { sandbox: { limits }, stdin: "pipe" });
  const { value } = await program.stdout!.getReader().read();
  expect(Buffer.from(value!).toString()).toBe("ETOOMANYREFS\n");
  return program;
}

async function said(argv: readonly string[], promises?: string): Promise<string> {
  const sandbox = { limits, ...(promises === undefined ? {} : { promises }) };
  await using program = await exec(argv, { sandbox });
  return (await new Response(program.stdout).text()).trim();
}

/** Whether another sandbox is refused to send one. */
const refused = async () => (await said([base.program, "try"])) === "ETOOMANYREFS";

describe("while a program keeps descriptors on their way", () => {
  testAttempt("others start, supervised ones too, whose listener is sent", async () => {
    await using attack = await keeper();
    expect(await refused()).toBe(true);
    expect(await said(["/bin/echo", "started"], "stdio")).toBe("started");
    expect(await said(["/bin/cat", "/proc/self/limits"], "stdio rpath")).toMatch(/^Max open files +256 +256 /m);
    expect(await refused()).toBe(true);
    attack.kill();
    await attack.exited;
    expect(await refused()).toBe(false);
  });

  for (const way of ["back", "later", "thrown", "post"] as const)
    testAttempt(`an actor is refused to hand over a capability (${way}): it says so, and goes on`, async () => {
      await using actor = await inside<typeof import("./fixtures/courier.ts")>("courier");
      await using attack = await keeper();
      const error = await failure(actor.call[way](file(base.program)));
      expect(error).toMatchObject({ name: "SystemError", code: "ETOOMANYREFS", syscall: "sendmsg" });
      expect((error as Error).message).toMatch(/more descriptors on their way than this one may have open/);
      expect(await actor.call.back("as ever")).toBe("as ever");
      attack.kill();
      await attack.exited;
      using given = (await actor.call.back(file(base.program))) as unknown as FileCapability;
      expect(given.mode).toBe("read");
    });
});

const DONE = { plain: "plain", call: "read", send: "sent", program: "started", actor: "started" };
const REFUSED = Object.fromEntries(Object.keys(DONE).map((deed) => [deed, "ETOOMANYREFS sendmsg"]));
/** The kernel does not count for root. */
const wrapper = isRoot() ? stranger : [];
const testStranger = testIf("setpriv", wrapper !== undefined, NO_STRANGER);

describe("a host whose user has too many on their way", () => {
  testStranger("is told so by what takes one to send, and by nothing else, until there are fewer", async () => {
    const fixture = fileURLToPath(new URL("./fixtures/crowded.ts", import.meta.url));
    const command = [...wrapper!, process.execPath, fixture, base.program];
    const host = Bun.spawn(command, { cwd: "/", env: { PATH: "/usr/bin:/bin" }, stdio: ["ignore", "pipe", "inherit"] });
    expect(await host.stdout.json()).toEqual({
      before: DONE,
      meanwhile: { ...REFUSED, plain: DONE.plain },
      afterwards: DONE,
      reached: ["reached", "reached", "reached"],
      left: [],
    });
  });
});

describe("a capability that comes when there is no number for its descriptor", () => {
  const EMFILE = { name: "SystemError", code: "EMFILE", syscall: "recvmsg" };
  const text = join(base.path, "text");
  writeFileSync(text, "seven..");

  test("of an actor's: EMFILE when it is used, and the actor goes on", async () => {
    await using actor = await inside<typeof import("./fixtures/courier.ts")>("courier", { limits: { files: 64 } });
    let held = 0;
    const full = await failure(
      (async () => {
        for (; held < 64; held++) expect(await actor.call.hold(file(text))).toBe(7);
      })(),
    );
    expect(full).toMatchObject(EMFILE);
    expect(held).toBeGreaterThan(0);
    expect(await actor.call.back("as ever")).toBe("as ever");
    expect(await failure(actor.call.last())).toMatchObject(EMFILE); // nor can it be handed on
    await actor.call.release();
    expect(await actor.call.hold(file(text))).toBe(7);
  });

  test("of the host's: EMFILE when it is used, and the actor goes on", async () => {
    await using actor = await inside<typeof import("./fixtures/courier.ts")>("courier");
    await actor.call.hold(file(text));
    let given: FileCapability;
    {
      using _ = starve();
      given = await actor.call.last();
    }
    expect(await failure(given.bytes())).toMatchObject(EMFILE);
    expect(await failure(actor.call.hold(given))).toMatchObject(EMFILE);
    using found = await actor.call.last();
    expect(await found.text()).toBe("seven..");
  });
});
