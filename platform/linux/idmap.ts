/** Mounts through which root's files belong to the nobody that actors of root are on the host. */
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { open } from "../../syscalls/linux/file.ts";
import { cloneTree, setMountAttributes } from "../../syscalls/linux/mount.ts";
import { CLONE, MOUNT_ATTR, O } from "../../syscalls/linux/numbers.ts";
import { idsOf, writeIdMaps } from "./ids.ts";
import { endPuppet, startPuppet } from "./launch.ts";
import { type Bind, openSource } from "./walls.ts";

let held: Descriptor | undefined;

/** A user namespace that maps ids as those of actors do. A descriptor keeps it, so nothing has to run in it. */
function mapping(): number {
  if (held !== undefined) return held.number;
  const puppet = startPuppet({ namespaces: CLONE.NEWUSER, descriptors: [] });
  try {
    writeIdMaps(puppet.pid, idsOf(true));
    held = new Descriptor(open(self, `/proc/${puppet.pid}/ns/user`, O.RDONLY | O.CLOEXEC));
    return held.number;
  } finally {
    endPuppet(puppet);
  }
}

/**
 * A detached mount of what a policy grants, with root's files as the actor's own: it reads, writes and creates them with root's name.
 * File systems that cannot map ids give a plain mount, through which nobody's rights count.
 */
export function mappedTree({ source, directory }: Bind): Descriptor {
  using opened = new Descriptor(openSource(self, { source, directory }));
  const tree = new Descriptor(cloneTree(self, opened.number, { recursive: directory }));
  try {
    setMountAttributes(
      self,
      tree.number,
      { set: MOUNT_ATTR.IDMAP, userNamespace: mapping() },
      { recursive: directory },
    );
  } catch (error) {
    if (!(error instanceof SystemError && error.code === "EINVAL")) {
      tree.close();
      throw error;
    }
  }
  return tree;
}
