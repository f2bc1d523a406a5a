/** Mounts and roots: `mount(2)`, `pivot_root(2)`, and the descriptor-based calls of Linux 5.2 and later. */
import type { Kernel } from "../kernel.ts";
import { Struct } from "../struct.ts";
import { MNT } from "./constants.ts";
import { AT, AT_FD, MOVE_MOUNT, OPEN_TREE } from "./numbers.ts";

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

/** Attaches a detached mount at `target`. `move_mount(2)`, Linux 5.2 */
export function attach(kernel: Kernel, tree: number, target: string): void {
  kernel.call("move_mount", tree, "", AT_FD.CWD, target, MOVE_MOUNT.F_EMPTY_PATH);
}

/** Changes the attributes of a mount, and of all below it when `recursive`. `mount_setattr(2)`, Linux 5.12 */
export function setMountAttributes(
  kernel: Kernel,
  tree: number,
  attributes: { readonly set?: bigint; readonly clear?: bigint; readonly userNamespace?: number },
  options: { readonly recursive?: boolean } = {},
): void {
  const attr = MOUNT_ATTR_STRUCT.encode({
    attr_set: attributes.set ?? 0n,
    attr_clr: attributes.clear ?? 0n,
    userns_fd: BigInt(attributes.userNamespace ?? 0),
  });
  const flags = AT.EMPTY_PATH | (options.recursive ? AT.RECURSIVE : 0);
  kernel.call("mount_setattr", tree, "", flags, attr, MOUNT_ATTR_STRUCT.size);
}
