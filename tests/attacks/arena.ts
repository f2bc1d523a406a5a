/** Where attacks are tried: in an actor, and for comparison in a process without walls. */
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Actor, type Call, type Sandbox, spawn } from "../../src/index.ts";

const fixture = (name: string) => fileURLToPath(new URL(`./fixtures/${name}.ts`, import.meta.url));

/** A module of the fixtures as an actor. What it prints is dropped: it is hostile. */
export function inside<Module>(name: string, sandbox: Sandbox = {}): Promise<Actor<Module>> {
  return spawn<Module>(fixture(name), { sandbox, stdout: "ignore", stderr: "ignore" });
}

/** The same module in a plain process of Bun. */
export class Outside<Module> implements AsyncDisposable {
  readonly call: Call<Module>;
  readonly pid: number;
  readonly exited: Promise<unknown>;
  readonly #child: Bun.Subprocess;
  readonly #pending = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();

  constructor(name: string) {
    const child = Bun.spawn([process.execPath, fixture("control"), fixture(name)], {
      stdio: ["ignore", "ignore", "inherit"],
      env: { ...process.env },
      serialization: "advanced",
      ipc: ({ id, result, error }: { id: number; result: unknown; error?: string }) => {
        const { resolve, reject } = this.#pending.get(id)!;
        this.#pending.delete(id);
        if (error === undefined) resolve(result);
        else reject(new Error(error));
      },
    });
    this.#child = child;
    this.pid = child.pid;
    this.exited = child.exited.then(() => {
      for (const { reject } of this.#pending.values())
        reject(new Error(`The control ended: ${child.signalCode ?? child.exitCode}`));
    });
    let calls = 0;
    const make = (name: string, args: unknown[]) =>
      new Promise((resolve, reject) => {
        this.#pending.set(++calls, { resolve, reject });
        child.send({ id: calls, name, args });
      });
    this.call = new Proxy(
      {},
      {
        get:
          (_, name: string) =>
          (...args: unknown[]) =>
            make(name, args),
      },
    ) as Call<Module>;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.exited;
  }
}

/** A directory that is gone when its block ends, and that an actor of root's, who is nobody to the files, may use as well. */
export function scratch(): Disposable & { readonly path: string; directory(name: string): string } {
  const path = realpathSync(mkdtempSync(join(tmpdir(), "caisson-")));
  chmodSync(path, 0o755);
  return {
    path,
    directory(name) {
      const made = join(path, name);
      mkdirSync(made);
      chmodSync(made, 0o777);
      return made;
    },
    [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }),
  };
}

/** What a promise rejects with. Unlike `expect().rejects` of bun:test it lets the test go on until it is awaited. */
export async function failure(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("It did not reject");
}

/** Waits until a condition holds; the test's own timeout ends what never does. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await Bun.sleep(2);
}

/** Keeps this process from hearing of anything until it is so. */
export function busyUntil(isSo: () => boolean): void {
  while (!isSo()) Bun.sleepSync(1);
}

/** Whether a process has ended and nobody has waited for it. */
export function isZombie(pid: number): boolean {
  return /^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
}

/** The descriptors that this process has open. */
export function openDescriptors(): number {
  return readdirSync("/proc/self/fd").length;
}

/** The same outcome for every way of a fixture that tries Bun's synchronous API, its asynchronous one, and the raw call. */
export const all = (outcome: string) => ({ sync: outcome, async: outcome, raw: outcome });
