/** Attacks on limits by what no process is said to have: memory that is shared, given away or the kernel's, and what all of a user's processes share. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { fileURLToPath } from "node:url";
import { type ExecOptions, exec } from "../../src/exec.ts";
import type { SandboxLimits } from "../../src/limits.ts";
import { testGroups } from "../platform/cgroup/groups.ts";
import { arsenal, testAttempt } from "./attempt.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const base = arsenal("uncounted");
afterAll(() => base[Symbol.dispose]());

const wordOf = async (stream: ReadableStream<Uint8Array> | undefined) => (await new Response(stream).text()).trim();

/** What the program says in a sandbox, and how it ends. */
async function inside(words: string, limits: SandboxLimits = {}, options: ExecOptions = {}) {
  const { sandbox, ...rest } = options;
  await using program = await exec([base.program, ...words.split(" ")], { ...rest, sandbox: { ...sandbox, limits } });
  const said = await wordOf(program.stdout);
  await program.exited;
  return { said, exit: program.exit };
}

/** What it says without one. */
async function outside(words: string): Promise<string> {
  await using program = Bun.spawn([base.program, ...words.split(" ")], { stdin: "ignore" });
  return await wordOf(program.stdout);
}

/** What is refused inside with which errno; and what the control says. */
const REFUSED: Record<string, readonly [words: string, errno: string, control: string]> = {
  "pages that processes share": ["shared 8", "EPERM", "done"],
  "the same by way of /dev/zero": ["zero 8", "EACCES", "done"],
  "huge pages": ["huge", "EPERM", "(done|ENOMEM)"], // few machines keep any
  "giving pages to a pipe": ["give", "EPERM", "done"],
  "larger buffers to send from": ["send-buffer", "as before", "wider"],
  "larger buffers to receive in": ["receive-buffer", "as before", "wider"],
  "larger buffers by words of which the kernel takes half": ["hidden-buffer", "as before", "wider"],
};

describe("a sandboxed program has not", () => {
  for (const [what, [words, errno, control]] of Object.entries(REFUSED))
    testAttempt(`${what}: ${errno}`, async () => {
      expect((await inside(words)).said).toBe(errno);
      expect(await outside(words)).toMatch(new RegExp(`^${control}$`));
    });
});

describe("memory", () => {
  const testGrouped = testAttempt === test ? testGroups("memory") : testAttempt;
  const script = fileURLToPath(new URL("./fixtures/limited.ts", import.meta.url));

  /** What becomes of the program under a host that is started with this environment. */
  async function hosted(words: string, environment: Readonly<Record<string, string>>) {
    await using host = Bun.spawn([process.execPath, script, base.program, ...words.split(" ")], {
      stdio: ["ignore", "pipe", "inherit"],
      env: { ...process.env, ...environment },
    });
    return JSON.parse(await wordOf(host.stdout));
  }

  for (const [where, testThere, keeper, environment] of [
    ["in a group", testGrouped, "cgroup", {}],
    ["without a group", testAttempt, "watch over all processes", { CAISSON_CGROUP: "nowhere" }],
  ] as const)
    testThere(`in page tables counts ${where}`, async () => {
      const kept = { keeper: expect.stringContaining(keeper) };
      const over = { ...kept, exit: { reason: "limit", limit: "memory" } };
      expect(await hosted("keep-tables 400", environment)).toMatchObject(over);
      expect(await hosted("tables 16", environment)).toMatchObject({ ...kept, said: "done" });
    });

  testGrouped("in buffers of TCP is limited: to that much, and what each connection has in any case", async () => {
    const net = { sandbox: { net: ["127.0.0.1:1"] } };
    const { said } = await inside("pour", { memory: "32 MiB" }, net);
    expect(Number(said)).toBeLessThan(100);
    expect(Number((await inside("pour", { memory: "4 GiB" }, net)).said)).toBeGreaterThan(100);
  });
});

describe("what watches files", () => {
  testAttempt("is not used up for the host: EMFILE inside, and one more is there", async () => {
    await using program = await exec([base.program, "watch", "128"], { stdin: "pipe" });
    const said = await program.stdout!.getReader().read();
    expect(Buffer.from(said.value!).toString().trim()).toBe("EMFILE");
    expect(await outside("watch 1")).toBe("done");
  });
});
