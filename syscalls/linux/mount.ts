/** Mounts and roots: `mount(2)`, `pivot_root(2)`, and the descriptor-based calls of Linux 5.2 and later. */
import type { Kernel } from "../kernel.ts";
import { Struct } from "../struct.ts";
import { MNT } from "./constants.ts";
import { AT, AT_FD, FSCONFIG, FSMOUNT, FSOPEN, FSPICK, MOVE_MOUNT, OPEN_TREE } from "./numbers.ts";

const MOUNT_ATTR_STRUCT = new Struct({ attr_set: "u64", attr_clr: "u64", propagation: "u64", userns_fd: "u64" });

/** `mount(2)`. @param flags MS */
export function mount(
  kernel: Kernel,
  source: string | null,
  target: string,
  options: { readonly type?: string; readonly flags?: number; readonly data?: string } = {},
): void {
  kernel.call("mount", source, target, options.type ?? null, options.flags ?? 0, options.data ?? null);
}

/** Detaches what is mounted at `target`, even while it is in use. `umount2(2)` with MNT_DETACH */
export function detach(kernel: Kernel, target: string): void {
  kernel.call("umount2", target, MNT.DETACH);
}

/** Makes `newRoot` the root of this mount namespace and puts the old one at `putOld`. `pivot_root(2)` */
export function pivotRoot(kernel: Kernel, newRoot: string, putOld: string): void {
  kernel.call("pivot_root", newRoot, putOld);
}

/** A descriptor of a private copy of the mount at `descriptor`, attached nowhere. `open_tree(2)`, Linux 5.2 */
export function cloneTree(kernel: Kernel, descriptor: number, options: { readonly recursive?: boolean } = {}): number {
  const recursive = options.recursive ? AT.RECURSIVE : 0;
  return kernel.call("open_tree", descriptor, "", AT.EMPTY_PATH | OPEN_TREE.CLONE | OPEN_TREE.CLOEXEC | recursive);
}

/** A descriptor of the mount at `path`, or of a private copy of it with `clone`. `open_tree(2)`, Linux 5.2 */
export function openTree(
  kernel: Kernel,
  path: string,
  options: { readonly clone?: boolean; readonly recursive?: boolean; readonly directory?: number } = {},
): number {
  const recursive = options.recursive ? AT.RECURSIVE : 0;
  const flags = OPEN_TREE.CLOEXEC | (options.clone ? OPEN_TREE.CLONE | recursive : 0);
  return kernel.call("open_tree", options.directory ?? AT_FD.CWD, path, flags);
}

/** Attaches a detached mount at `target`. `move_mount(2)`, Linux 5.2 */
export function attach(kernel: Kernel, tree: number, target: string): void {
  kernel.call("move_mount", tree, "", AT_FD.CWD, target, MOVE_MOUNT.F_EMPTY_PATH);
}

/** Attaches a detached mount on what a descriptor (O_PATH will do) names, so that no path is resolved. `move_mount(2)`, Linux 5.2 */
export function attachTo(kernel: Kernel, tree: number, directory: number): void {
  kernel.call("move_mount", tree, "", directory, "", MOVE_MOUNT.F_EMPTY_PATH | MOVE_MOUNT.T_EMPTY_PATH);
}

/** A descriptor of a file system that is still to be configured and created. `fsopen(2)`, Linux 5.2 */
export function openFileSystem(kernel: Kernel, type: string): number {
  return kernel.call("fsopen", type, FSOPEN.CLOEXEC);
}

/** A descriptor of the file system of the mount at `descriptor`, for `reconfigureFileSystem`. `fspick(2)`, Linux 5.2 */
export function pickFileSystem(kernel: Kernel, descriptor: number): number {
  return kernel.call("fspick", descriptor, "", FSPICK.CLOEXEC | FSPICK.EMPTY_PATH);
}

/** Sets a parameter: a text, a descriptor, or a flag. `fsconfig(2)`; what was wrong is read from `fs` as text */
export function configure(
  kernel: Kernel,
  fs: number,
  key: string,
  value: string | { readonly descriptor: number } | true,
): void {
  if (value === true) kernel.call("fsconfig", fs, FSCONFIG.SET_FLAG, key, null, 0);
  else if (typeof value === "string") kernel.call("fsconfig", fs, FSCONFIG.SET_STRING, key, value, 0);
  else kernel.call("fsconfig", fs, FSCONFIG.SET_FD, key, null, value.descriptor);
}

/** Creates the file system as configured; then it can be mounted. `FSCONFIG_CMD_CREATE` */
export function createFileSystem(kernel: Kernel, fs: number): void {
  kernel.call("fsconfig", fs, FSCONFIG.CMD_CREATE, null, null, 0);
}

/** Gives a file system that is in use the parameters configured. `FSCONFIG_CMD_RECONFIGURE` */
export function reconfigureFileSystem(kernel: Kernel, fs: number): void {
  kernel.call("fsconfig", fs, FSCONFIG.CMD_RECONFIGURE, null, null, 0);
}

/** A descriptor of a mount of a created file system, attached nowhere. `fsmount(2)`, Linux 5.2 @param attributes MOUNT_ATTR */
export function mountFileSystem(kernel: Kernel, fs: number, attributes = 0n): number {
  return kernel.call("fsmount", fs, FSMOUNT.CLOEXEC, attributes);
}

/**
 * Changes the attributes of a mount, and of all below it when `recursive`. `mount_setattr(2)`, Linux 5.12
 * @param attributes.set, attributes.clear MOUNT_ATTR
 * @param attributes.userNamespace whose id map the mount gets, with MOUNT_ATTR.IDMAP
 * @param attributes.propagation MS.PRIVATE, MS.SHARED, MS.SLAVE or MS.UNBINDABLE
 */
export function setMountAttributes(
  kernel: Kernel,
  tree: number,
  attributes: {
    readonly set?: bigint;
    readonly clear?: bigint;
    readonly userNamespace?: number;
    readonly propagation?: number;
  },
  options: { readonly recursive?: boolean } = {},
): void {
  const attr = MOUNT_ATTR_STRUCT.encode({
    attr_set: attributes.set ?? 0n,
    attr_clr: attributes.clear ?? 0n,
    propagation: BigInt(attributes.propagation ?? 0),
    userns_fd: BigInt(attributes.userNamespace ?? 0),
  });
  const flags = AT.EMPTY_PATH | (options.recursive ? AT.RECURSIVE : 0);
  kernel.call("mount_setattr", tree, "", flags, attr, MOUNT_ATTR_STRUCT.size);
}
