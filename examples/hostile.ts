/** A module that turned hostile. Each function returns what it got, or throws what refused it; none knows that it is in a sandbox. */
import { dlopen, type Pointer, read as peek, ptr } from "bun:ffi";
import { writeFileSync } from "node:fs";
import { readdir } from "node:fs/promises";

/** Reads a file through Bun. */
export function read(path: string): Promise<string> {
  return Bun.file(path).text();
}

/** Opens a file through libc, past everything that JavaScript could have been made to forbid. */
export function open(path: string): number {
  const { open, __errno_location: errno } = dlopen("libc.so.6", {
    open: { args: ["ptr", "i32"], returns: "i32" },
    __errno_location: { args: [], returns: "ptr" },
  }).symbols;
  const descriptor = open(ptr(Buffer.from(`${path}\0`)), 0);
  if (descriptor < 0) throw new Error(`-1 from open, errno ${peek.i32(errno() as Pointer)}`);
  return descriptor;
}

export function list(directory: string): Promise<string[]> {
  return readdir(directory);
}

/** Plants a line that the user's shell will run. */
export function plant(path: string): void {
  writeFileSync(path, "echo gotcha\n");
}

/** Finds a secret in the environment. */
export function token(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error(`not set, nor is anything else: ${JSON.stringify(process.env)}`);
  return value;
}

/** Tells a server what it found. */
export async function connect(url: string): Promise<number> {
  const response = await fetch(url, { method: "POST", body: "what it found" });
  return response.status;
}

export function start(program: string): number {
  return Bun.spawnSync([program]).exitCode;
}

/** Sends signal 0, which does nothing but find out whether another could be sent. */
export function signal(pid: number): boolean {
  return process.kill(pid, 0);
}

/** Takes memory until there is none. */
export function fill(): never {
  const taken: Uint8Array[] = [];
  for (;;) taken.push(new Uint8Array(8 << 20).fill(1));
}

export function spin(): never {
  for (;;);
}
