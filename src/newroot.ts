/** The root that `caisson bwrap` builds: its operations, made one by one by a puppet in a mount namespace of its own. */
import { basename, dirname } from "node:path";
import type { Attempting, Driven } from "../platform/index.ts";
import { SystemError } from "../syscalls/error.ts";
import type { Kernel } from "../syscalls/kernel.ts";
import {
  changeDirectory,
  changeMode,
  changeToDescriptor,
  close,
  createFileAt,
  duplicate,
  makeDirectoryAt,
  makeSymlinkAt,
  open,
  openResolved,
} from "../syscalls/linux/file.ts";
import {
  attachTo,
  cloneTree,
  configure,
  createFileSystem,
  detach,
  mount,
  mountFileSystem,
  openFileSystem,
  pivotRoot,
  setMountAttributes,
} from "../syscalls/linux/mount.ts";
import { MOUNT_ATTR, MS, O, RESOLVE } from "../syscalls/linux/numbers.ts";
import type { Operation } from "./bwrap.ts";
import { DEVICES, type Of, place, type Source, type Surroundings, sourcesOf } from "./lent.ts";
import { attempt, BwrapError, reasonOf } from "./strerror.ts";

/** A place that is a directory wherever Bun runs. In the puppet's mount namespace alone, the new root grows on it. */
const BASE = "/proc";
const DEVICE_LINKS: readonly (readonly [string, string])[] = [
  ["stdin", "/proc/self/fd/0"],
  ["stdout", "/proc/self/fd/1"],
  ["stderr", "/proc/self/fd/2"],
  ["fd", "/proc/self/fd"],
  ["core", "/proc/kcore"],
  ["ptmx", "pts/ptmx"],
];
/** What of /proc changes the machine. */
const FROZEN = ["sys", "sysrq-trigger", "irq", "bus"];
/** A file of the first tmpfs, for as long as it takes to mount it elsewhere. */
const DATA = ".caisson-data";
/** A write of more would not fit into a frame. */
const PIECE = 64 * 1024;

const SAFE = MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV;
const PATH = O.PATH | O.CLOEXEC;
const W_OK = 2;

/**
 * Builds the root, and moves the puppet into it. Where something of the host can be written, what is missing is made on the host, as bubblewrap does;
 * but a target is looked up inside the new root, whatever symbolic links stand there. Throws BwrapError.
 */
export function enterNewRoot(puppet: Driven, operations: readonly Operation[], surroundings: Surroundings): void {
  const { kernel } = puppet;
  // What the host mounts later is seen in what it lends; what is mounted here is not seen there.
  attempt("Failed to make / slave", () => mount(kernel, null, "/", { flags: MS.REC | MS.SLAVE }));
  const sources = new Map(operations.map((each) => [each, sourcesOf(puppet, each, surroundings)]));
  attempt("Failed to mount tmpfs", () =>
    mount(kernel, "tmpfs", BASE, { type: "tmpfs", flags: MS.NOSUID | MS.NODEV, data: "mode=755" }),
  );
  const root = new NewRoot(puppet, surroundings);
  for (const [operation, lent] of sources) root.put(operation, lent);
  root.enter();
}

/** A target as a path of the new root. What leads out of that leads to its top. */
const inside = (target: string) =>
  `/${target
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .join("/")}`;

/** The new root while it grows. */
class NewRoot {
  readonly #puppet: Driven;
  readonly #kernel: Kernel;
  readonly #surroundings: Surroundings;
  /** The puppet's descriptor of the tmpfs that everything lies on. */
  readonly #base: number;
  /** That of what is the root by now. */
  readonly #top: number;

  constructor(puppet: Driven, surroundings: Surroundings) {
    this.#puppet = puppet;
    this.#kernel = puppet.kernel;
    this.#surroundings = surroundings;
    this.#base = open(this.#kernel, BASE, PATH | O.DIRECTORY);
    this.#top = open(this.#kernel, BASE, PATH | O.DIRECTORY);
  }

  /** Makes it the root. Of the old one nothing is left. */
  enter(): void {
    attempt("pivot_root(/newroot)", () =>
      this.#puppet.together((kernel) => {
        changeToDescriptor(kernel, this.#top);
        pivotRoot(kernel, ".", "."); // the old root now lies on top of the new one
        detach(kernel, ".");
        changeDirectory(kernel, "/");
        close(kernel, this.#top);
        close(kernel, this.#base);
      }),
    );
  }

  /** Takes one operation. */
  put(operation: Operation, sources: readonly (Source | undefined)[]): void {
    const { target } = operation;
    switch (operation.does) {
      case "bind": {
        const [source] = sources;
        if (source === undefined) return;
        const words = `Can't bind mount /oldroot${source.path} on ${place(target)}: Unable to mount source on destination`;
        this.#attach(source.tree, target, { directory: source.directory, words });
        return;
      }
      case "tmpfs": {
        const { mode, sizeBytes } = operation;
        const settings = {
          mode: mode.toString(8),
          ...(sizeBytes === undefined ? {} : { size: `${sizeBytes}` }),
        };
        const words = `Can't mount tmpfs on ${place(target)}`;
        const tree = this.#fileSystem("tmpfs", { words, attributes: SAFE, settings });
        this.#attach(tree, target, { directory: true, words, parents: parentMode(mode) });
        return;
      }
      case "proc":
        this.#proc(target, sources[0]);
        return;
      case "dev":
        this.#dev(target, sources as Source[]);
        return;
      case "mqueue": {
        const words = `Can't mount mqueue on ${place(target)}`;
        this.#attach(this.#fileSystem("mqueue", { words }), target, { directory: true, words });
        return;
      }
      case "remount-ro":
        this.#freeze(target);
        return;
      case "directory":
        this.#directory(target, operation.mode, parentMode(operation.mode));
        return;
      case "chmod": {
        const { mode } = operation;
        attempt(`Can't chmod ${mode === 0 ? "" : "0"}${mode.toString(8)} ${target}`, () => {
          const resolve = RESOLVE.IN_ROOT;
          const flags = O.RDONLY | O.NONBLOCK | O.NOCTTY | O.CLOEXEC;
          this.#puppet.together((kernel) => {
            const file = openResolved(kernel, inside(target), { directory: this.#top, flags, resolve });
            changeMode(kernel, file, mode);
            close(kernel, file);
          });
        });
        return;
      }
      case "file":
        this.#file(operation);
        return;
      case "data":
        this.#data(operation);
        return;
      case "symlink":
        this.#parents(target, 0o755);
        attempt(`Can't make symlink at ${target}`, () =>
          this.#beside(target, (kernel, parent, name) => makeSymlinkAt(kernel, operation.to, parent, name)),
        );
    }
  }

  /** Whether there is something, or a directory. Throws for what is there and is not that. */
  #exists(path: string, flags: number = PATH): boolean {
    try {
      this.#puppet.together((kernel) => {
        close(kernel, openResolved(kernel, path, { directory: this.#top, flags, resolve: RESOLVE.IN_ROOT }));
      });
      return true;
    } catch (error) {
      if (error instanceof SystemError && error.code === "ENOENT") return false;
      throw error;
    }
  }

  /** Acts in the directory that a path leads to, on the last of its names. */
  #beside(target: string, act: (kernel: Attempting, parent: number, name: string) => void): void {
    const path = inside(target);
    this.#puppet.together((kernel) => {
      const flags = PATH | O.DIRECTORY;
      const above = { directory: this.#top, flags, resolve: RESOLVE.IN_ROOT };
      const parent = openResolved(kernel, dirname(path), above);
      act(kernel, parent, basename(path));
      close(kernel, parent);
    });
  }

  /** Makes the directories above a target, where they are missing. */
  #parents(target: string, mode: number): void {
    const missing: string[] = [];
    attempt(`Can't mkdir parents for ${target}`, () => {
      for (let path = dirname(inside(target)); !this.#exists(path, PATH | O.DIRECTORY); path = dirname(path))
        missing.unshift(path);
      for (const path of missing) this.#make(path, mode);
    });
  }

  /** Makes a directory, and those above it. */
  #directory(target: string, mode: number, parents = 0o755): void {
    this.#parents(target, parents);
    attempt(`Can't mkdir ${target}`, () => {
      if (!this.#exists(inside(target), PATH | O.DIRECTORY)) this.#make(inside(target), mode);
    });
  }

  #make(path: string, mode: number): void {
    if (basename(path) === "..") return; // it is there now
    this.#beside(path, (kernel, parent, name) => makeDirectoryAt(kernel, parent, name, mode));
  }

  /** Makes an empty file where there is none on which one could be mounted. */
  #mountPoint(target: string, parents: number): void {
    this.#parents(target, parents);
    attempt(`Can't create file at ${target}`, () => {
      if (this.#exists(inside(target))) return;
      this.#beside(target, (kernel, parent, name) => {
        close(kernel, createFileAt(kernel, parent, name, O.EXCL | O.WRONLY, 0o444));
      });
    });
  }

  /** Attaches a detached mount. @param how.keep whether its descriptor stays open */
  #attach(
    tree: number,
    target: string,
    how: { readonly directory: boolean; readonly words: string; readonly parents?: number; readonly keep?: boolean },
  ): void {
    const flags = PATH | (how.directory ? O.DIRECTORY : 0);
    const lookup = { directory: this.#top, flags, resolve: RESOLVE.IN_ROOT };
    const attach = () =>
      this.#puppet.together((kernel) => {
        const descriptor = openResolved(kernel, inside(target), lookup);
        attachTo(kernel, tree, descriptor);
        close(kernel, descriptor);
        if (!how.keep) close(kernel, tree);
        // It may lie on what was the root.
        const top = open(kernel, BASE, PATH | O.DIRECTORY);
        duplicate(kernel, top, this.#top, O.CLOEXEC);
        close(kernel, top);
      });
    try {
      attach();
      return;
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      if (error.syscall !== "openat2") throw this.#failed(error, target, how);
    }
    // Most mount points are there.
    const { parents = 0o755 } = how;
    if (how.directory) this.#directory(target, 0o755, parents);
    else this.#mountPoint(target, parents);
    attempt(how.words, attach);
  }

  #failed(error: SystemError, target: string, { directory, words }: { directory: boolean; words: string }): BwrapError {
    if (!directory && this.#exists(inside(target), PATH | O.DIRECTORY))
      return new BwrapError(`Can't create file at ${target}: Is a directory`);
    return new BwrapError(`${words}: ${reasonOf(error)}`, { cause: error });
  }

  /** A detached mount of a new file system. */
  #fileSystem(
    type: string,
    {
      words,
      attributes = 0n,
      settings = {},
    }: { readonly words: string; readonly attributes?: bigint; readonly settings?: Readonly<Record<string, string>> },
  ): number {
    return attempt(words, () =>
      this.#puppet.together((kernel) => {
        const context = openFileSystem(kernel, type);
        for (const [key, value] of Object.entries(settings)) configure(kernel, context, key, value);
        createFileSystem(kernel, context);
        const tree = mountFileSystem(kernel, context, attributes);
        close(kernel, context);
        return tree;
      }),
    );
  }

  #proc(target: string, lent: Source | undefined): void {
    const words = lent === undefined ? "Can't mount proc on" : "Can't bind mount /oldroot/proc on";
    const attributes = SAFE | MOUNT_ATTR.NOEXEC;
    const tree = lent?.tree ?? this.#fileSystem("proc", { words: `${words} ${place(target)}`, attributes });
    this.#attach(tree, target, { directory: true, words: `${words} ${place(target)}`, keep: true });
    for (const name of FROZEN) {
      const path = `${place(target)}/${name}`;
      if (!this.#writable(tree, name, path)) continue;
      attempt(`Can't bind mount ${path} on ${path}: Unable to mount source on destination`, () =>
        this.#puppet.together((kernel) => {
          const descriptor = kernel.call("openat", tree, name, PATH, 0);
          const frozen = cloneTree(kernel, descriptor, { recursive: true });
          setMountAttributes(kernel, frozen, { set: SAFE | MOUNT_ATTR.RDONLY }, { recursive: true });
          attachTo(kernel, frozen, descriptor);
          close(kernel, frozen);
          close(kernel, descriptor);
        }),
      );
    }
    close(this.#kernel, tree);
  }

  /** Whether its permissions let the puppet's user write. */
  #writable(directory: number, name: string, path: string): boolean {
    try {
      this.#kernel.call("faccessat", directory, name, W_OK);
      return true;
    } catch (error) {
      if (error instanceof SystemError && ["EACCES", "ENOENT", "EROFS"].includes(error.code)) return false;
      throw new BwrapError(`Can't access ${path}: ${reasonOf(error)}`, { cause: error });
    }
  }

  #dev(target: string, devices: readonly Source[]): void {
    const words = `Can't mount tmpfs on ${place(target)}`;
    const tree = this.#fileSystem("tmpfs", { words, attributes: SAFE, settings: { mode: "755" } });
    this.#attach(tree, target, { directory: true, words, keep: true });
    attempt(`Can't create file ${target}`, () =>
      this.#puppet.together((kernel) => {
        for (const [index, device] of devices.entries()) {
          const name = DEVICES[index] ?? "console";
          close(kernel, createFileAt(kernel, tree, name, O.EXCL | O.WRONLY, 0o444));
          const descriptor = kernel.call("openat", tree, name, PATH, 0);
          attachTo(kernel, device.tree, descriptor);
          close(kernel, descriptor);
          close(kernel, device.tree);
        }
        for (const [name, to] of DEVICE_LINKS) makeSymlinkAt(kernel, to, tree, name);
        makeDirectoryAt(kernel, tree, "shm", 0o755);
        makeDirectoryAt(kernel, tree, "pts", 0o755);
      }),
    );
    const pts = this.#fileSystem("devpts", {
      words: `Can't mount devpts on ${place(target)}/pts`,
      attributes: MOUNT_ATTR.NOSUID | MOUNT_ATTR.NOEXEC,
      settings: { ptmxmode: "0666", mode: "0620" },
    });
    attempt(`Can't mount devpts on ${place(target)}/pts`, () =>
      this.#puppet.together((kernel) => {
        const descriptor = kernel.call("openat", tree, "pts", PATH | O.DIRECTORY, 0);
        attachTo(kernel, pts, descriptor);
        for (const each of [descriptor, pts, tree]) close(kernel, each);
      }),
    );
  }

  #freeze(target: string): void {
    this.#parents(target, 0o755);
    const words = `Can't remount readonly on ${place(target)}`;
    try {
      this.#puppet.together((kernel) => {
        const lookup = { directory: this.#top, flags: PATH, resolve: RESOLVE.IN_ROOT };
        const descriptor = openResolved(kernel, inside(target), lookup);
        setMountAttributes(kernel, descriptor, { set: SAFE | MOUNT_ATTR.RDONLY });
        close(kernel, descriptor);
      });
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      if (error.syscall === "openat2")
        throw new BwrapError(`${words}: realpath(destination): ${reasonOf(error)}`, { cause: error });
      throw error.code === "EINVAL"
        ? new BwrapError(`${words}: Unable to find "${place(target)}" in mount table`, { cause: error })
        : new BwrapError(
            `${words}: Unable to remount destination "${place(target)}" with correct flags: ${reasonOf(error)}`,
          );
    }
  }

  /** A file of the directory that is there. */
  #file({ descriptor, target, mode }: Of<"file">): void {
    this.#parents(target, parentMode(mode));
    const path = inside(target);
    const file = attempt(`Can't create file ${target}`, () =>
      this.#puppet.together((kernel) => {
        const flags = PATH | O.DIRECTORY;
        const parent = openResolved(kernel, dirname(path), { directory: this.#top, flags, resolve: RESOLVE.IN_ROOT });
        const created = createFileAt(kernel, parent, basename(path), O.WRONLY | O.TRUNC, mode);
        close(kernel, parent);
        return created;
      }),
    );
    this.#write(file, { descriptor, target });
    close(this.#kernel, file);
  }

  /** A file of its own, mounted. */
  #data({ descriptor, target, mode, write }: Of<"data">): void {
    const file = attempt(`Can't create tmpfile for ${target}`, () =>
      createFileAt(this.#kernel, this.#base, DATA, O.EXCL | O.WRONLY, 0o600),
    );
    attempt(`Can't set mode ${mode === 0 ? "" : "0"}${mode.toString(8)} on file to be used for ${target}`, () =>
      changeMode(this.#kernel, file, mode),
    );
    this.#write(file, { descriptor, target });
    const words = `Can't bind mount ${place(target)}: Unable to mount source on destination`;
    const attributes = SAFE | (write ? 0n : MOUNT_ATTR.RDONLY);
    const tree = attempt(words, () =>
      this.#puppet.together((kernel) => {
        close(kernel, file);
        const opened = kernel.call("openat", this.#base, DATA, PATH, 0);
        const cloned = cloneTree(kernel, opened);
        setMountAttributes(kernel, cloned, { set: attributes });
        close(kernel, opened);
        return cloned;
      }),
    );
    this.#attach(tree, target, { directory: false, words, parents: parentMode(mode) });
    this.#kernel.call("unlinkat", this.#base, DATA, 0);
  }

  #write(file: number, { descriptor, target }: { readonly descriptor: number; readonly target: string }): void {
    attempt(`Can't write data to file ${target}`, () => {
      const content = this.#surroundings.read(descriptor);
      for (let at = 0; at < content.length; ) {
        const piece = content.subarray(at, at + PIECE);
        at += this.#kernel.call("write", file, piece, piece.length);
      }
    });
  }
}

/** What group and others may not see at all, they do not see the way to. */
function parentMode(mode: number): number {
  return 0o755 & ~((mode & 0o070) === 0 ? 0o050 : 0) & ~((mode & 0o007) === 0 ? 0o005 : 0);
}
