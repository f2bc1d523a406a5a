/** What an actor that turned hostile is made to try, and the same acts without walls, which show that a refusal says something. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Actor, type Enforcement, spawn } from "caisson";
import * as hostile from "./hostile.ts";

type Hostile = { [Name in keyof typeof hostile]: (...args: Parameters<(typeof hostile)[Name]>) => Promise<unknown> };
type Attempt = (module: Hostile) => Promise<unknown>;

export interface Outcome {
  readonly attempt: string;
  /** How it went in this very process: `"works"`, what refused it, or `"not tried"`. */
  readonly without: string;
  /** How it went inside. */
  readonly inside: string;
  /** Whether it was refused inside, and would have worked without walls. */
  readonly refused: boolean;
}

/** What is worth having: pretended, but as real as the user's own to whoever can reach it. */
function bait() {
  const home = mkdtempSync(join(tmpdir(), "caisson-bait-"));
  const key = join(home, "id_ed25519");
  writeFileSync(key, "-----BEGIN OPENSSH PRIVATE KEY-----\n", { mode: 0o600 });
  process.env.API_TOKEN = "a secret of the host";
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response("thank you") });
  return {
    home,
    key,
    server: server.url.href,
    async [Symbol.asyncDispose]() {
      await server.stop(true);
      delete process.env.API_TOKEN;
      rmSync(home, { recursive: true });
    },
  };
}

/** An actor that turned hostile. */
function turned(): Promise<Actor<typeof hostile>> {
  const limits = { memory: "128 MiB", cpuTime: "1 s", wallTime: "10 s" };
  return spawn<typeof hostile>(new URL("./hostile.ts", import.meta.url), { sandbox: { limits }, stderr: "ignore" });
}

/** Tries everything, inside and out. */
export async function tryEverything(): Promise<{ outcomes: Outcome[]; enforcement: Enforcement }> {
  await using target = bait();
  await using actor = await turned();

  const attempts: Record<string, Attempt> = {
    "read the user's ssh key": (module) => module.read(target.key),
    "open it by a system call of its own": (module) => module.open(target.key),
    "list the user's files": (module) => module.list(target.home),
    "plant a line in .bashrc": (module) => module.plant(join(target.home, ".bashrc")),
    "find a token in the environment": (module) => module.token("API_TOKEN"),
    "connect out": (module) => module.connect(target.server),
    "start a program": (module) => module.start("/bin/true"),
    "send the host a signal": (module) => module.signal(process.pid),
  };
  // These would take this process down, so they are tried inside only, and may end the actor: each has one of its own.
  const floods: Record<string, Attempt> = {
    "fill the memory": (module) => module.fill(),
    "spin forever": (module) => module.spin(),
  };

  const outcomes: Outcome[] = [];
  for (const [attempt, act] of Object.entries(attempts)) {
    const without = await act(here).then(() => "works", reason);
    const inside = await act(actor.call).then(got, reason);
    outcomes.push({ attempt, without, inside, refused: without === "works" && !inside.startsWith(GOT) });
  }
  for (const [attempt, act] of Object.entries(floods)) {
    await using flooding = await turned();
    const inside = await act(flooding.call).then(got, reason);
    outcomes.push({ attempt, without: "not tried", inside, refused: !inside.startsWith(GOT) });
  }
  return { outcomes, enforcement: actor.enforcement };
}

/** The module's functions in this process, as promises like an actor's. */
const here = Object.fromEntries(
  Object.entries(hostile).map(([name, act]) => [
    name,
    async (...args: never[]) => (act as (...args: never[]) => unknown)(...args),
  ]),
) as unknown as Hostile; // the same names and arguments, which fromEntries forgets

const GOT = "GOT ";
const got = (value: unknown) => GOT + harmless(String(value)).slice(0, 40);

/** One line about an error. It may be the actor's word, so nothing of it acts on a terminal. */
export function reason(error: unknown): string {
  if (!(error instanceof Error)) return harmless(String(error));
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (code !== undefined) return harmless(syscall === undefined ? code : `${code} from ${syscall}`);
  return harmless(error.message.slice(0, 100));
}

export function harmless(text: string): string {
  return text.replaceAll(/\p{C}/gu, " ");
}
