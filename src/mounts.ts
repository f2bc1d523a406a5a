/** File systems as data: what a container's root holds. */
import { realpathSync, statSync } from "node:fs";
import { isAbsolute, normalize, resolve } from "node:path";
import type { IdMaps, Mount } from "../platform/index.ts";
import { self } from "../syscalls/kernel.ts";
import { fileStatus } from "../syscalls/linux/file.ts";
import {
  checkArgument,
  checkOptions,
  DESCRIPTOR,
  either,
  FLAG,
  instance,
  list,
  MODE,
  OBJECT,
  PATH,
  SIZE,
  TEXT,
  word,
} from "./option.ts";
import { sizeOf } from "./quantity.ts";

export type { Mount };

export interface BindOptions {
  /** Whether it can be written; not, where nothing is said. */
  readonly write?: boolean;
  /** Whether programs in it can be executed; they can, where nothing is said. */
  readonly execute?: boolean;
  /** Whether devices in it work. */
  readonly devices?: boolean;
  /** Whether what is mounted beneath it is shown as well; it is, where nothing is said. */
  readonly recursive?: boolean;
  /** Which ids of its files are which ids of the container's. Root alone can say so; where it is not root inside, root's files are the inner user's. */
  readonly ids?: IdMaps;
}

/** Shows a file or directory of the host, found now, links followed: by path, or the one that a descriptor names. */
export function bind(source: string | number, target?: string, options: BindOptions = {}): Mount {
  checkOptions(options, { write: FLAG, execute: FLAG, devices: FLAG, recursive: FLAG, ids: OBJECT });
  checkArgument(source, "what is bound", either(PATH, DESCRIPTOR));
  if (target !== undefined) checkArgument(target, "target", PATH);
  const { write = false, execute = true, devices = false, recursive = true, ids } = options;
  const path = typeof source === "number" ? realpathSync(`/proc/self/fd/${source}`) : realpathSync(source);
  const place = target ?? (typeof source === "number" ? path : resolve(source));
  const { directory, dev, inode } =
    typeof source === "number"
      ? fileStatus(self, source)
      : { directory: statSync(path).isDirectory(), dev: 0n, inode: 0n };
  return {
    kind: "bind",
    source: path,
    // A path may come to lead elsewhere; what a descriptor names cannot.
    ...(typeof source === "number" ? { identity: { device: dev, inode } } : {}),
    target: inside(place),
    directory,
    write,
    execute,
    devices,
    recursive,
    idmap: ids ?? "auto",
  };
}

/** A file system in memory, empty. @param options.size such as `"64 MiB"`, or bytes; half of the machine's memory where nothing is said */
export function tmpfs(
  target: string,
  options: { readonly size?: string | number; readonly mode?: number } = {},
): Mount {
  checkOptions(options, { size: SIZE, mode: MODE });
  const { size, mode = 0o755 } = options;
  return {
    kind: "tmpfs",
    target: inside(target),
    size: size === undefined ? undefined : sizeOf(size, `the size of ${target}`),
    mode: checkedMode(mode),
  };
}

export interface OverlayOptions {
  /** Directories of the host, the first on top. */
  readonly lower: readonly string[];
  /** Where what is written is kept, and a directory for the kernel's work beside it, in the same file system. Without them it is kept in memory, and gone at the end. */
  readonly upper?: string;
  readonly work?: string;
}

/** Directories laid over each other, which can be written without changing them. */
export function overlay(target: string, options: OverlayOptions): Mount {
  checkOptions(options, { lower: list(PATH), upper: PATH, work: PATH });
  const { lower = [], upper, work } = options;
  if (lower.length === 0) throw new TypeError(`Cannot lay over ${target}: at least one lower directory is expected`);
  const place = {
    kind: "overlay",
    target: inside(target),
    lower: lower.map((each) => realpathSync(each)),
    idmap: "auto",
  } as const;
  if (upper === undefined && work === undefined) return place;
  if (upper === undefined || work === undefined)
    throw new TypeError(`Cannot lay over ${target}: upper and work are expected together`);
  const [above, beside] = [realpathSync(upper), realpathSync(work)];
  if (`${above}/`.startsWith(`${beside}/`) || `${beside}/`.startsWith(`${above}/`))
    throw new TypeError(`Cannot keep what is written in ${upper} with ${work} as work: neither may lie in the other`);
  return { ...place, upper: above, work: beside };
}

/** `proc(5)`. @param options.content `"masked"`: the kernel's settings read-only (the default); `"processes"`: nothing else; `"all"` */
export function proc(target = "/proc", options: { readonly content?: "masked" | "processes" | "all" } = {}): Mount {
  checkOptions(options, { content: word("masked", "processes", "all") });
  return { kind: "proc", target: inside(target), content: options.content ?? "masked" };
}

/** The devices that every program expects: null, zero, full, random, urandom, tty, terminals of its own, and 64 MiB of shared memory. */
export function dev(target = "/dev"): Mount {
  return { kind: "dev", target: inside(target), shared: true };
}

/** POSIX message queues, mq_overview(7). */
export function mqueue(target = "/dev/mqueue"): Mount {
  return { kind: "mqueue", target: inside(target) };
}

/** A directory, and those above it. */
export function directory(target: string, options: { readonly mode?: number } = {}): Mount {
  checkOptions(options, { mode: MODE });
  return { kind: "directory", target: inside(target), mode: checkedMode(options.mode ?? 0o755) };
}

/** A symbolic link. @param to where it leads, as it is written there */
export function symlink(target: string, to: string): Mount {
  checkArgument(to, "what a link leads to", PATH);
  return { kind: "symlink", target: inside(target), to };
}

/** A file with this content. Where something of the host stands, it lies on top of that. */
export function text(target: string, content: string | Uint8Array, options: { readonly mode?: number } = {}): Mount {
  checkOptions(options, { mode: MODE });
  checkArgument(content, "content", either(TEXT, instance(Uint8Array)));
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  return { kind: "file", target: inside(target), content: bytes, mode: checkedMode(options.mode ?? 0o644) };
}

/** Makes what is mounted at the target read-only, behind what was put into it. */
export function readonly(target: string): Mount {
  return { kind: "readonly", target: inside(target) };
}

/** Sets the mode of something inside. */
export function chmod(target: string, mode: number): Mount {
  return { kind: "chmod", target: inside(target), mode: checkedMode(mode) };
}

function inside(target: string): string {
  checkArgument(target, "target", PATH);
  if (!isAbsolute(target))
    throw new TypeError(`Cannot mount on ${JSON.stringify(target)}: an absolute path is expected`);
  if (target.includes("\0") || target.split("/").includes(".."))
    throw new TypeError(`Cannot mount on ${JSON.stringify(target)}: a path without .. and NUL is expected`);
  const path = normalize(target);
  return path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path;
}

function checkedMode(mode: number): number {
  if (!Number.isInteger(mode) || mode < 0 || mode > 0o7777)
    throw new RangeError(`Cannot use mode ${mode}: expected a number from 0 to 0o7777`);
  return mode;
}
