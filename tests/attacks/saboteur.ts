/** Answers the calls that a host hands over: lets all of them be made but one, which fails. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { numberOf, self } from "../../syscalls/kernel.ts";
import { type Notification, readMemory, receiveNotification, reply } from "../../syscalls/linux/notify.ts";
import { ERRNO, O } from "../../syscalls/linux/numbers.ts";
import { openProcess, takeDescriptor } from "../../syscalls/linux/process.ts";
import { ready } from "../../syscalls/ready.ts";
import { until } from "./arena.ts";
import { errnoOf, FALLIBLE, type Fallible } from "./sabotage.ts";

/** Who makes a call: the host, a puppet, or whatever that has become. */
export type Caller = "host" | "puppet" | "program";

/** The call that is to fail: the n-th of these, from the next one on. */
export interface Fault {
  readonly caller: Caller;
  readonly nth: number;
}

const LISTENER = "anon_inode:seccomp notify";
const [POLLIN, POLLHUP] = [1, 16];
const NAMES = new Map(FALLIBLE.map((call) => [numberOf(call), call]));
/** What the kernel calls a program from a memory file: the name is cut. */
const PUPPET = "memfd:caisson-p";
const PATH_MAX = 4096;
const OPENED = /^\/(sys\/fs\/cgroup|dev\/null)/;
const WRITTEN = /^\/(sys\/fs\/cgroup|proc)\//;

export class Saboteur implements AsyncDisposable {
  readonly #listener: Descriptor;
  readonly #host: number;
  readonly #serving: Promise<void>;
  #fault: Fault | undefined;
  #left = 0;
  /** The call that failed, since the last fault was set. */
  hit: Fallible | undefined;

  private constructor(listener: Descriptor, host: number) {
    this.#listener = listener;
    this.#host = host;
    this.#serving = this.#serve();
  }

  /** Takes the listener of a process as soon as there is one. */
  static async of(host: number): Promise<Saboteur> {
    let number: string | undefined;
    await until(() => {
      number = readdirSync(`/proc/${host}/fd`).find((each) => linkOf(`/proc/${host}/fd/${each}`) === LISTENER);
      return number !== undefined;
    });
    using pidfd = new Descriptor(openProcess(self, host));
    return new Saboteur(new Descriptor(takeDescriptor(self, pidfd.number, Number(number))), host);
  }

  /** Has one call fail, or none any more. */
  set(fault: Fault | undefined): void {
    this.#fault = fault;
    this.#left = fault?.nth ?? 0;
    this.hit = undefined;
  }

  /** Resolves when nobody is left who could make a call. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#serving;
    this.#listener.close();
  }

  async #serve(): Promise<void> {
    for (;;) {
      const events = this.#events();
      if ((events & POLLIN) !== 0) this.#answer();
      else if ((events & POLLHUP) !== 0) return;
      else await ready(this.#listener.number, "read").done;
    }
  }

  #events(): number {
    const polled = new Uint8Array(8);
    const view = new DataView(polled.buffer);
    view.setInt32(0, this.#listener.number, true);
    view.setInt16(4, POLLIN, true);
    self.call("poll", polled, 1, 0);
    return view.getInt16(6, true);
  }

  #answer(): void {
    const call = receiveNotification(self, this.#listener.number);
    if (call === undefined) return;
    const name = NAMES.get(call.nr)!;
    const fails = this.#fault !== undefined && this.#isMeant(call, name, this.#fault) && --this.#left === 0;
    if (fails) {
      this.#fault = undefined;
      this.hit = name;
    }
    reply(self, this.#listener.number, call.id, fails ? { errno: ERRNO[errnoOf(name)] } : "continue");
  }

  #isMeant(call: Notification, name: Fallible, { caller }: Fault): boolean {
    if (this.#callerOf(call.tid) !== caller) return false;
    const [first, , flags] = call.args;
    // What a puppet writes to a socket is its answer, for which there is room.
    if (name === "write") return WRITTEN.test(linkOf(`/proc/${call.tid}/fd/${first}`));
    // Bun opens files for itself, and whoever looks at what is left reads directories.
    if (name === "openat" && caller === "host") return !(flags! & BigInt(O.DIRECTORY)) && OPENED.test(pathAt(call));
    return true;
  }

  #callerOf(tid: number): Caller {
    const status = read(`/proc/${tid}/status`);
    if (status.startsWith(`Name:\t${PUPPET}`)) return "puppet";
    return new RegExp(`^Tgid:\t${this.#host}$`, "m").test(status) ? "host" : "program";
  }
}

/** The path that is the second argument of `openat(2)`. */
function pathAt({ tid, args }: Notification): string {
  const bytes = new Uint8Array(PATH_MAX);
  try {
    readMemory(self, tid, args[1]!, bytes);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
  }
  return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // it ended meanwhile
  }
}
