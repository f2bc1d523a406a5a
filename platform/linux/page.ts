/** Memory that all realms of this process find: the JavaScript of the main thread, and that of each Worker. */
import { toArrayBuffer } from "bun:ffi";
import { readFileSync } from "node:fs";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { close, createMemoryFile } from "../../syscalls/linux/file.ts";
import { MAP, MFD, PROT } from "../../syscalls/linux/numbers.ts";

/*
 * Realms share no variables, and tell each other nothing but by messages that somebody must be there to take. Memory they do share. The first of them
 * maps this at a place that all of them know; the kernel gives it to no second one (MAP_FIXED_NOREPLACE), so there is one, however many come at once.
 * It is all zeroes then, and zero is how each word in it begins: nobody need wait for who mapped it, who may be terminated next.
 */

/** As /proc/self/maps has it. With another number where what lies in it changes, for a process may have two versions of us. */
export const NAME = "caisson-realms-2";
/** Far above what Bun's allocator asks for and far below where the kernel puts programs and libraries. */
const PLACE = 0x3c15_5000_0000;
/** Where something else is there. */
const NEXT = 2 ** 32;
const PLACES = 16;

/*
 * What lies where: the anchor's words; those of the search for orphans; the realms' threads; the anchor's stack, down from its top, for by a signal
 * every thread is had to make calls (`threads.ts`), and what the kernel puts there grows with the processor's registers; the ledgers, a record being
 * four bytes.
 */
export const SEARCH = 128;
export const THREADS = 512;
export const STACK = 64 * 1024;
export const LEDGERS = STACK + 4096;
export const REALMS = 256;
export const RECORDS = 1024;
const SIZE = LEDGERS + 4 * RECORDS * REALMS;

export interface Page {
  readonly address: number;
  readonly memory: ArrayBuffer;
}

let found: Page | undefined;

/** Throws the SystemError of what cannot be had. */
export function page(): Page {
  found ??= find();
  return found;
}

function find(): Page {
  const file = createMemoryFile(self, NAME, MFD.CLOEXEC);
  try {
    self.call("ftruncate", file, SIZE);
    for (let place = PLACE; place < PLACE + PLACES * NEXT; place += NEXT) {
      if (map(file, place) || isOurs(place)) return { address: place, memory: toArrayBuffer(place as never, 0, SIZE) };
    }
  } finally {
    close(self, file);
  }
  throw new Error(`Cannot share memory between Workers: ${PLACES} places from 0x${PLACE.toString(16)} on are taken`);
}

/** Whether nothing was there. */
function map(file: number, place: number): boolean {
  try {
    self.call("mmap", place, SIZE, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.FIXED_NOREPLACE, file, 0);
    return true;
  } catch (error) {
    if (error instanceof SystemError && error.code === "EEXIST") return false;
    throw error;
  }
}

/** Whether it was a realm of ours that was there before. */
function isOurs(place: number): boolean {
  const line = new RegExp(`^${place.toString(16)}-\\S+ rw-p .* /memfd:${NAME} \\(deleted\\)$`, "m");
  return line.test(readFileSync("/proc/self/maps", "utf8"));
}
