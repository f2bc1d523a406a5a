/** A root as data, furnished: each mount made by descriptor, each target looked up inside. */
import { existsSync } from "node:fs";
import { basename, dirname, isAbsolute, join, relative } from "node:path";
import type { Kernel } from "../../syscalls/kernel.ts";
import {
  changeDirectory,
  changeMode,
  changeToDescriptor,
  close,
  closeRange,
  createFileAt,
  decodeStatus,
  duplicate,
  type FileStatus,
  makeDirectoryAt,
  makeSymlinkAt,
  open,
  openResolved,
  STAT_SIZE,
  setUmask,
} from "../../syscalls/linux/file.ts";
import {
  attach,
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
} from "../../syscalls/linux/mount.ts";
import { MOUNT_ATTR, MS, O, RESOLVE } from "../../syscalls/linux/numbers.ts";
import type { Identity, Mount } from "../platform.ts";
import { NEWS } from "./frame.ts";

type Of<Kind extends Mount["kind"]> = Extract<Mount, { kind: Kind }>;

/** Calls of which some may fail: a batch takes that with it, and the kernel of a container can do it in place. */
export interface Attempting extends Kernel {
  attempt(calls: () => void): void;
}

/** A root, and what must be known in order to furnish it. */
export interface Furniture {
  /** In this order, so that later ones lie on earlier ones. If the first one's target is `/`, it is the root; or else that is empty. */
  readonly mounts: readonly Mount[];
  /** The puppet's descriptors of detached mounts that the host has made already. */
  readonly trees: ReadonlyMap<Mount, readonly number[]>;
  /** Becomes the user of the inside. */
  takeIds(kernel: Kernel): void;
  /** Whether this happens in a user namespace. */
  readonly user: boolean;
  /** Whether the machine's root is somebody inside. */
  readonly rootInside: boolean;
  /** Whether an empty root is read-only in the end. */
  readonly readonlyRoot: boolean;
  /** How many bytes may be written over what lies beneath, by all overlays that keep them in memory together. */
  readonly room?: number | undefined;
}

/** A place that is a directory on every machine that runs Bun. In this mount namespace alone, the new root grows on it. */
const BASE = "/proc";
/** The puppet's descriptor of the new root. */
const ROOT = 200;
/** From here on, those of what it mounts only in order to make mounts of it, and of layers. */
const SCRATCH = 600;

const DEVICES = ["null", "zero", "full", "random", "urandom", "tty"];
const DEVICE_LINKS = { fd: "/proc/self/fd", stdin: "fd/0", stdout: "fd/1", stderr: "fd/2", ptmx: "pts/ptmx" } as const;
const SHARED_MEMORY = 2 ** 26;
/** What of /proc changes the machine, and what tells of its memory. */
const FROZEN = ["sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi"];
const COVERED = ["kcore", "keys", "timer_list", "latency_stats", "sched_debug"];
/** A write of more would not fit into a frame. */
const PIECE = 64 * 1024;

const SAFE = MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV;
const PATH = O.PATH | O.CLOEXEC;
/** Programs rely on these being what they are called: a link in a foreign tree does not get to say where they are. */
const UNLINKED = RESOLVE.IN_ROOT | RESOLVE.NO_SYMLINKS;

/**
 * Furnishes a new root and moves into it. Nothing is created on the host: mount points that are missing are made where the file system is
 * this root's own (empty, tmpfs, overlay), and must be there already in what the host lends.
 *
 * Returns what has to be asked once the calls were made: throws if a source was not the file that was meant.
 */
export function furnish(kernel: Attempting, furniture: Furniture): () => void {
  const { mounts } = furniture;
  // Nothing done here reaches the host, and nothing mounted there later reaches here.
  mount(kernel, null, "/", { flags: MS.REC | MS.PRIVATE });
  setUmask(kernel, 0);
  // Sources may be so many that one would be given the number of the root.
  duplicate(kernel, NEWS, ROOT, O.CLOEXEC);
  const { sources, verify } = openSources(kernel, furniture);
  // Here and not earlier: the sources are found with the rights of the host's user. Here and not later: who has no id in the
  // user namespace cannot create a file.
  furniture.takeIds(kernel);
  prepareLayers(kernel, furniture, sources);

  const [first] = mounts;
  const given = first?.target === "/" ? sources.get(first)?.[0] : undefined;
  if (given === undefined) {
    mount(kernel, "caisson", BASE, {
      type: "tmpfs",
      flags: MS.NOSUID | MS.NODEV,
      data: "mode=755,size=16m,nr_inodes=4096",
    });
  } else {
    setMountAttributes(kernel, given, { set: attributesOf(first!) }, { recursive: isRecursive(first!) });
    attach(kernel, given, BASE);
  }
  const root = open(kernel, BASE, PATH | O.DIRECTORY);
  duplicate(kernel, root, ROOT, O.CLOEXEC);
  close(kernel, root);

  const inside = new Inside(kernel, given === undefined ? "own" : first!.kind === "overlay" ? "overlay" : "host");
  for (const each of given === undefined ? mounts : mounts.slice(1)) put(inside, each, sources.get(each) ?? []);
  inside.release();

  if (given === undefined && furniture.readonlyRoot)
    setMountAttributes(kernel, ROOT, { set: MOUNT_ATTR.RDONLY | MOUNT_ATTR.NOEXEC });
  changeToDescriptor(kernel, ROOT);
  pivotRoot(kernel, ".", "."); // the old root now lies on top of the new one
  detach(kernel, ".");
  changeDirectory(kernel, "/");
  close(kernel, ROOT);
  return verify;
}

/** Opens everything of the host that the mounts show, before anything is mounted over it. */
function openSources(kernel: Kernel, { mounts, trees, rootInside }: Furniture) {
  const sources = new Map<Mount, number[]>();
  const claims: { readonly source: string; readonly identity: Identity; readonly status: Uint8Array }[] = [];
  for (const each of mounts) {
    const made = trees.get(each);
    if (made !== undefined && each.kind === "bind") sources.set(each, [...made]);
    else if (each.kind === "bind") {
      const descriptor = openSource(kernel, each);
      if (each.identity !== undefined) {
        const status = new Uint8Array(STAT_SIZE);
        kernel.call("fstat", descriptor, status);
        claims.push({ source: each.source, identity: each.identity, status });
      }
      sources.set(each, [cloned(kernel, descriptor, each.recursive)]);
    } else if (each.kind === "overlay") {
      const directory = (source: string) => openSource(kernel, { source, directory: true });
      const upper = each.upper === undefined ? [] : [directory(each.upper), directory(each.work!)];
      sources.set(each, [...(made ?? each.lower.map(directory)), ...upper]);
    } else if (each.kind === "dev") {
      sources.set(
        each,
        DEVICES.map((name) => cloned(kernel, openSource(kernel, { source: `/dev/${name}`, directory: false }), false)),
      );
    } else if (each.kind === "proc" && each.content === "masked" && rootInside) {
      // To others the kernel itself refuses these.
      const nothing = () => cloned(kernel, openSource(kernel, { source: "/dev/null", directory: false }), false);
      sources.set(each, presentIn(COVERED).map(nothing));
    }
  }
  const verify = () => {
    for (const { source, identity, status } of claims) mustBe(decodeStatus(status), identity, source);
  };
  return { sources, verify };
}

/** Throws if a source is not the file that was meant. */
export function mustBe({ dev, inode }: FileStatus, { device, inode: meant }: Identity, source: string): void {
  if (dev !== device || inode !== meant) throw new Error(`Cannot mount ${source}: another file has taken its place`);
}

function cloned(kernel: Kernel, descriptor: number, recursive: boolean): number {
  const tree = cloneTree(kernel, descriptor, { recursive });
  close(kernel, descriptor);
  return tree;
}

/** Opens what a bind shows, by the path that the host resolved: a symbolic link that someone put there since is not followed. */
export function openSource(
  kernel: Kernel,
  { source, directory }: { readonly source: string; readonly directory: boolean },
): number {
  const flags = PATH | (directory ? O.DIRECTORY : 0);
  return openResolved(kernel, source, { flags, resolve: RESOLVE.NO_SYMLINKS | RESOLVE.NO_MAGICLINKS });
}

/**
 * Makes what cannot be made without a path, on a tmpfs that goes away with the old root: overlays, whose layers must be attached
 * somewhere, and files that lie on others.
 */
function prepareLayers(kernel: Kernel, { mounts, user, room }: Furniture, sources: Map<Mount, number[]>): void {
  const overlays = mounts.filter((each) => each.kind === "overlay");
  const covers = mounts.filter((each, index) => each.kind === "file" && isLent(mounts.slice(0, index), each.target));
  if (overlays.length + covers.length === 0) return;
  // The content of files is the host's own, and no part of what is limited.
  const lent = (covers as Of<"file">[]).reduce((sum, { content }) => sum + content.length + PAGE, 0);
  const limits = room === undefined ? {} : roomFor(room + lent);
  const tmpfs = fileSystem(kernel, "tmpfs", SAFE, { mode: "755", ...limits });
  // On top of the root, where no path leads: who has the old root goes on to see that.
  const top = open(kernel, "/", PATH);
  attachTo(kernel, tmpfs, top);
  close(kernel, top);
  // Behind the sources, however many there are.
  const first = SCRATCH + [...sources.values()].flat().length;
  let held = first;
  const hold = (descriptor: number): string => {
    duplicate(kernel, descriptor, held, O.CLOEXEC);
    close(kernel, descriptor);
    return `/proc/self/fd/${held++}`;
  };
  const scratch = hold(tmpfs);
  const directory = (name: string): string => {
    makeDirectoryAt(kernel, first, name, 0o755);
    return `${scratch}/${name}`;
  };
  for (const [index, overlay] of overlays.entries()) {
    // By descriptors: a path could by now lead elsewhere, and hold what the mount's options would take for their own punctuation.
    const places = sources.get(overlay)!.map((source, layer) => {
      if (overlay.idmap === undefined || layer >= overlay.lower.length) return hold(source);
      // A mount that the host made has to stand somewhere.
      const place = directory(`lower${index}.${layer}`);
      attach(kernel, source, place);
      close(kernel, source);
      return place;
    });
    const lower = places.slice(0, overlay.lower.length);
    const [upper = directory(`upper${index}`), work = directory(`work${index}`)] = places.slice(lower.length);
    const merged = directory(`merged${index}`);
    mount(kernel, "overlay", merged, {
      type: "overlay",
      flags: MS.NOSUID | MS.NODEV,
      data: `lowerdir=${lower.join(":")},upperdir=${upper},workdir=${work}${user ? ",userxattr" : ""}`,
    });
    sources.set(overlay, [cloned(kernel, open(kernel, merged, PATH), false)]);
  }
  for (const [index, cover] of (covers as Of<"file">[]).entries()) {
    const file = createFileAt(kernel, first, `file${index}`, O.EXCL | O.WRONLY, cover.mode);
    writePieces(kernel, file, cover.content);
    close(kernel, file);
    sources.set(cover, [cloned(kernel, open(kernel, `${scratch}/file${index}`, PATH), false)]);
  }
  closeRange(kernel, first, held - 1);
}

/** Writes to a file of a tmpfs, which takes all there is room for. */
function writePieces(kernel: Kernel, descriptor: number, content: Uint8Array): void {
  for (let at = 0; at < content.length; at += PIECE) {
    const piece = content.subarray(at, at + PIECE);
    kernel.call("write", descriptor, piece, piece.length);
  }
}

/** Whose a place is: this root's own and empty at first, an overlay's, or lent by the host, where nothing may be created. */
type Owner = "own" | "overlay" | "host";

const isBeneath = (path: string, above: string) => above === "/" || path === above || path.startsWith(`${above}/`);

/** Whether what these mounts show at a path belongs to the host. */
function isLent(before: readonly Mount[], path: string): boolean {
  const last = before.findLast(
    ({ kind, target }) => ["bind", "tmpfs", "overlay", "dev"].includes(kind) && isBeneath(path, target),
  );
  return last?.kind === "bind";
}

/** A stretch of the new root, and the descriptor of what is mounted there. */
interface Territory {
  readonly path: string;
  readonly owner: Owner;
  readonly root: number;
}

/** The new root while it grows: finds places in it, and makes those that are missing. */
class Inside {
  readonly kernel: Attempting;
  readonly #owners: Territory[];
  readonly #links = new Map<string, string>();
  #made = new Set<string>(["/"]);

  constructor(kernel: Attempting, root: Owner) {
    this.kernel = kernel;
    this.#owners = [{ path: "/", owner: root, root: ROOT }];
  }

  /** A descriptor of the place at `target`, made if it may be. */
  place(target: string, directory: boolean, resolve: bigint = RESOLVE.IN_ROOT): number {
    const path = this.#resolve(target);
    if (directory) this.directory(path, 0o755);
    else {
      this.directory(dirname(path), 0o755);
      this.file(path, new Uint8Array(), 0o444);
    }
    return openResolved(this.kernel, path, { directory: ROOT, flags: PATH, resolve });
  }

  /** Attaches a detached mount. From then on the place is `owner`'s. */
  attach(
    tree: number,
    target: string,
    { directory, owner, resolve }: { readonly directory: boolean; readonly owner: Owner; readonly resolve?: bigint },
  ): void {
    const place = this.place(target, directory, resolve);
    attachTo(this.kernel, tree, place);
    close(this.kernel, place);
    if (owner !== "own") close(this.kernel, tree);
    const path = this.#resolve(target);
    this.#made = new Set([...this.#made].filter((each) => each === path || !isBeneath(each, path)));
    this.#owners.push({ path, owner, root: tree });
  }

  /** Lets go of what it holds. */
  release(): void {
    for (const { owner, root } of this.#owners) if (owner === "own" && root !== ROOT) close(this.kernel, root);
  }

  /** Makes a directory and those above it, where they are missing and may be made. */
  directory(target: string, mode: number): void {
    const path = this.#resolve(target);
    if (this.#made.has(path)) return;
    if (dirname(path) !== path) this.directory(dirname(path), 0o755);
    this.#made.add(path);
    this.#create(path, (parent, name) => makeDirectoryAt(this.kernel, parent, name, mode));
  }

  /** Makes a file, if it is missing and may be made. */
  file(target: string, content: Uint8Array, mode: number): void {
    const path = this.#resolve(target);
    if (this.#made.has(path)) return;
    this.#made.add(path);
    this.#create(path, (parent, name) => {
      const file = createFileAt(this.kernel, parent, name, O.EXCL | O.WRONLY, mode);
      writePieces(this.kernel, file, content);
      close(this.kernel, file);
    });
  }

  link(target: string, to: string): void {
    const path = this.#resolve(dirname(target)) + (dirname(target) === "/" ? "" : "/") + basename(target);
    this.directory(dirname(path), 0o755);
    const { owner } = this.#ownerOf(path);
    if (owner === "host")
      throw new TypeError(`Cannot make the symbolic link ${target}: there the directory is the host's`);
    this.#create(path, (parent, name) => makeSymlinkAt(this.kernel, to, parent, name));
    if (owner === "own") this.#links.set(path, to);
  }

  /** A path with the links in it that were made here followed. Those of foreign trees are the kernel's to follow. */
  #resolve(target: string): string {
    let path = target;
    for (let follows = 0; follows < 40; follows++) {
      const link = [...this.#links.keys()].find((each) => isBeneath(path, each));
      if (link === undefined) return path;
      path = join(
        "/",
        isAbsolute(this.#links.get(link)!) ? "" : dirname(link),
        this.#links.get(link)!,
        path.slice(link.length),
      );
    }
    throw new TypeError(`Cannot mount on ${target}: symbolic links lead in a circle`);
  }

  #ownerOf(path: string): Territory {
    return this.#owners.findLast((each) => isBeneath(path, each.path))!;
  }

  #create(path: string, make: (parent: number, name: string) => void): void {
    const { owner, root, path: above } = this.#ownerOf(path);
    // By the descriptor of what was mounted there: whatever path leads to it, and through what others filled, nothing else is reached.
    if (owner === "own") make(root, relative(above, path));
    if (owner !== "overlay") return;
    // Others filled it: it may be there already, and a link may lead into what is mounted elsewhere, which belongs to the host.
    const resolve = RESOLVE.IN_ROOT | (this.#owners[0]!.owner === "overlay" ? RESOLVE.NO_XDEV : RESOLVE.NO_SYMLINKS);
    this.kernel.attempt(() => {
      const parent = openResolved(this.kernel, dirname(path), { directory: ROOT, flags: PATH | O.DIRECTORY, resolve });
      this.kernel.attempt(() => make(parent, basename(path)));
      close(this.kernel, parent);
    });
  }
}

/** One step. */
function put(inside: Inside, each: Mount, sources: readonly number[]): void {
  const { kernel } = inside;
  const { target } = each;
  const own = { directory: true, owner: "own" } as const;
  switch (each.kind) {
    case "bind":
    case "overlay": {
      const directory = each.kind === "overlay" || each.directory;
      setMountAttributes(kernel, sources[0]!, { set: attributesOf(each) }, { recursive: isRecursive(each) });
      inside.attach(sources[0]!, target, { directory, owner: each.kind === "overlay" ? "overlay" : "host" });
      return;
    }
    case "tmpfs": {
      const settings = { mode: each.mode.toString(8), ...(each.size === undefined ? {} : roomFor(each.size)) };
      inside.attach(fileSystem(kernel, "tmpfs", SAFE, settings), target, own);
      return;
    }
    case "proc":
      mountProc(inside, each, sources);
      return;
    case "dev":
      furnishDevices(inside, each, sources);
      return;
    case "mqueue":
      inside.attach(fileSystem(kernel, "mqueue", SAFE | MOUNT_ATTR.NOEXEC, {}), target, {
        directory: true,
        owner: "host",
      });
      return;
    case "directory":
      inside.directory(target, each.mode);
      return;
    case "symlink":
      inside.link(target, each.to);
      return;
    case "file":
      if (sources.length > 0) inside.attach(sources[0]!, target, { directory: false, owner: "host" });
      else {
        inside.directory(dirname(target), 0o755);
        inside.file(target, each.content, each.mode);
      }
      return;
    case "chmod": {
      const file = openResolved(kernel, target, {
        directory: ROOT,
        flags: O.RDONLY | O.NONBLOCK | O.CLOEXEC,
        resolve: RESOLVE.IN_ROOT | RESOLVE.NO_MAGICLINKS,
      });
      changeMode(kernel, file, each.mode);
      close(kernel, file);
      return;
    }
    case "readonly": {
      const place = openResolved(kernel, target, { directory: ROOT, flags: PATH, resolve: RESOLVE.IN_ROOT });
      setMountAttributes(kernel, place, { set: MOUNT_ATTR.RDONLY });
      close(kernel, place);
    }
  }
}

function attributesOf(each: Mount): bigint {
  if (each.kind !== "bind") return SAFE;
  return (
    MOUNT_ATTR.NOSUID |
    (each.devices ? 0n : MOUNT_ATTR.NODEV) |
    (each.write ? 0n : MOUNT_ATTR.RDONLY) |
    (each.execute ? 0n : MOUNT_ATTR.NOEXEC)
  );
}

function isRecursive(each: Mount): boolean {
  return each.kind === "bind" && each.directory && each.recursive;
}

/** So many files there may be in any case, for what is small is hardly measured in pages. */
const FEWEST_FILES = 1024;
const PAGE = 4096;

/** The settings of a tmpfs with room for this much. A file that is empty takes none of it, but memory of the kernel's: there are to be no more than pages. */
function roomFor(bytes: number): { readonly size: string; readonly nr_inodes: string } {
  return { size: `${bytes}`, nr_inodes: `${Math.max(FEWEST_FILES, Math.ceil(bytes / PAGE))}` };
}

/** A detached mount of a new file system. */
function fileSystem(
  kernel: Kernel,
  type: string,
  attributes: bigint,
  settings: Readonly<Record<string, string>>,
): number {
  const context = openFileSystem(kernel, type);
  for (const [key, value] of Object.entries(settings)) configure(kernel, context, key, value);
  createFileSystem(kernel, context);
  const tree = mountFileSystem(kernel, context, attributes);
  close(kernel, context);
  return tree;
}

function mountProc(inside: Inside, { target, content }: Of<"proc">, nothing: readonly number[]): void {
  const { kernel } = inside;
  const attributes = SAFE | MOUNT_ATTR.NOEXEC;
  if (content === "processes") {
    const tree = fileSystem(kernel, "proc", attributes | MOUNT_ATTR.RDONLY, { subset: "pid" });
    inside.attach(tree, target, { directory: true, owner: "host", resolve: UNLINKED });
    return;
  }
  inside.attach(fileSystem(kernel, "proc", attributes, {}), target, {
    directory: true,
    owner: "host",
    resolve: UNLINKED,
  });
  if (content === "all") return;
  const places = { directory: ROOT, flags: PATH, resolve: RESOLVE.IN_ROOT };
  for (const [index, tree] of nothing.entries()) {
    const place = openResolved(kernel, `${target}/${presentIn(COVERED)[index]}`, places);
    attachTo(kernel, tree, place);
    close(kernel, place);
    close(kernel, tree);
  }
  for (const name of presentIn(FROZEN)) {
    const place = openResolved(kernel, `${target}/${name}`, places);
    const tree = cloneTree(kernel, place, { recursive: true });
    setMountAttributes(kernel, tree, { set: MOUNT_ATTR.RDONLY }, { recursive: true });
    attachTo(kernel, tree, place);
    close(kernel, tree);
    close(kernel, place);
  }
}

/** Those that this kernel has. What is there must be masked, so nothing here may fail and be passed over. */
function presentIn(names: readonly string[]): string[] {
  return names.filter((name) => {
    const known = present.get(name) ?? existsSync(`/proc/${name}`);
    present.set(name, known);
    return known;
  });
}
const present = new Map<string, boolean>();

function furnishDevices(inside: Inside, { target, shared }: Of<"dev">, devices: readonly number[]): void {
  const { kernel } = inside;
  const at = (name: string) => `${target}/${name}`;
  const settings = { mode: "755", ...roomFor(2 ** 20) };
  inside.attach(fileSystem(kernel, "tmpfs", MOUNT_ATTR.NOSUID | MOUNT_ATTR.NOEXEC, settings), target, {
    directory: true,
    owner: "own",
    resolve: UNLINKED,
  });
  for (const [index, name] of DEVICES.entries()) {
    setMountAttributes(kernel, devices[index]!, { set: MOUNT_ATTR.NOSUID | MOUNT_ATTR.NOEXEC });
    inside.attach(devices[index]!, at(name), { directory: false, owner: "host" });
  }
  for (const [name, to] of Object.entries(DEVICE_LINKS)) inside.link(at(name), to);
  const pts = fileSystem(kernel, "devpts", MOUNT_ATTR.NOSUID | MOUNT_ATTR.NOEXEC, { ptmxmode: "0666", mode: "0620" });
  inside.attach(pts, at("pts"), { directory: true, owner: "host" });
  if (!shared) return;
  const shm = fileSystem(kernel, "tmpfs", SAFE | MOUNT_ATTR.NOEXEC, { mode: "1777", ...roomFor(SHARED_MEMORY) });
  inside.attach(shm, at("shm"), { directory: true, owner: "own" });
}
