/** The first thing that runs inside: it closes the last doors, and then lets the user's code in. */

import { Descriptor } from "../syscalls/descriptor.ts";
import { self } from "../syscalls/kernel.ts";
import { setFilter } from "../syscalls/linux/seccomp.ts";
import { receiveDescriptors } from "../syscalls/linux/socket.ts";
import type { Incoming } from "./answers.ts";
import { keepBallast } from "./ballast.ts";
import { NETWORK, receiveFile } from "./capability.ts";
import { type Channel, connect } from "./channel.ts";
import { readU32, writeU32 } from "./frame.ts";
import { answer, inbox, join, send, signal } from "./inbox.ts";
import { DescriptorLane } from "./lane.ts";
import { forget, loadReach } from "./late.ts";
import { HOST_GONE, windowOf } from "./link.ts";
import { decode, encode, makeRoomBy } from "./message.ts";

/** Where the host's program put what it hands over. */
const DATA_LANE = 3;
const DESCRIPTOR_LANE = 4;
const INPUT = 6;

/** As it is now: what runs here later may put another in its place. */
const exit = process.exit.bind(process);
const abort = process.abort.bind(process);

export interface BootOptions {
  /** What the module is called in messages and stacks. */
  readonly name: string;
  readonly env: Readonly<Record<string, string>>;
  /** `process.argv` behind the program, for a script. */
  readonly argv: readonly string[];
  /** The working directory, where it is not to be the root. */
  readonly directory: string | null;
  /** A script ends when it is through; an actor waits for calls. */
  readonly script: boolean;
  /** The host's own code, run so that all has run once: it leaves nothing that what follows could find. */
  readonly exercise: boolean;
}

function readExactly(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const count = self.call("read", DATA_LANE, bytes.subarray(at), length - at);
    if (count === 0) exit(HOST_GONE);
    at += count;
  }
  return bytes;
}

let functions: Record<string, unknown> = {};
let channel: Channel;
/** Of an observed actor: hands the host what the filter refuses. */
let listener: number | undefined;

async function boot(): Promise<void> {
  // The boot file itself came over the standard input.
  self.call("dup3", INPUT, 0, 0);
  self.call("close", INPUT);
  const head = new DataView(readExactly(16).buffer);
  const filter = readExactly(head.getUint32(0, true));
  const flags = head.getUint32(4, true);
  channel = await connect(DATA_LANE, {
    role: "actor",
    descriptors: new DescriptorLane(DESCRIPTOR_LANE, receive),
    limits: { window: windowOf({ messages: head.getUint32(8, true), inFlight: head.getUint32(12, true) }) },
    hooks: { onStart: (options, source) => void load(options as BootOptions, source), onCall },
  });
  // Without memory to answer with it ends, and did not return.
  void channel.closed.then((reason) => (reason instanceof RangeError ? abort() : exit(HOST_GONE)));

  // The doors. From here on no path opens, no socket and no process starts, unless the policy grants it.
  const result = filter.length > 0 ? setFilter(self, filter, flags) : 0;
  if (result > 0) listener = result;
  join(channel);
  makeRoomBy(keepBallast());
  process.on("uncaughtException", fail);
  process.on("unhandledRejection", fail);
  process.on("exit", () => channel.flush());
  Bun.plugin({
    name: "caisson",
    setup(build) {
      build.module("caisson/actor", () => ({ exports: { inbox, send, signal }, loader: "object" }));
    },
  });
  channel.hello(listener ?? null);
}

/** Takes a descriptor in: a file's, or a network's, of which the code is read only by those actors that are handed one. */
function receive(descriptor: number, tag: number): Disposable {
  if (tag !== NETWORK) return receiveFile(descriptor, tag);
  const { Reach } = loadReach({ Descriptor, self, receiveDescriptors, readU32, writeU32, decode, encode });
  return new Reach(new Descriptor(descriptor));
}

function onCall(name: string, args: readonly unknown[], call: Incoming): unknown {
  const called = Object.hasOwn(functions, name) ? functions[name] : undefined;
  if (typeof called !== "function") throw new TypeError(`Cannot call ${name}: the module exports no such function`);
  try {
    const result = answer(call, () => called(...args));
    return result instanceof Promise ? result.catch(rethrow) : result;
  } catch (error) {
    return rethrow(error);
  }
}

function enter(directory: string): void {
  try {
    process.chdir(directory);
  } catch {
    // Relative paths are then refused, as all that is not granted.
  }
}

function fail(error: unknown): void {
  void channel.failed(error).then(() => exit(1));
}

/** Throws an error whose stack ends where this file begins. */
function rethrow(error: unknown): never {
  if (error instanceof Error && typeof error.stack === "string") {
    error.stack = error.stack.replace(/\n[^\n]*caisson:boot[^\n]*/g, "");
  }
  throw error;
}

async function load(options: BootOptions, source: Uint8Array): Promise<void> {
  // The host has its own by now. Whoever held this one could answer for it.
  if (listener !== undefined) self.call("close", listener);
  listener = undefined;
  try {
    // What Bun was started with is none of the module's business.
    for (const name of Object.keys(process.env)) delete process.env[name];
    Object.assign(process.env, options.env);
    process.argv.splice(1, process.argv.length, options.name, ...options.argv);
    // Where the actor has no root of its own it cannot go anywhere.
    if (options.directory !== null) enter(options.directory);
    const url = URL.createObjectURL(new Blob([source as Uint8Array<ArrayBuffer>], { type: "text/javascript" }));
    functions = await import(url);
    if (options.exercise) forget(url);
    channel.ready(Object.keys(functions).filter((name) => typeof functions[name] === "function"));
    URL.revokeObjectURL(url); // when the host has been told: it waits
    if (!options.script) return;
    channel.end();
    channel.unref();
  } catch (error) {
    fail(error);
  }
}

void boot();
