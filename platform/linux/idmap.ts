/** Mounts through which root's files belong to the nobody that actors of root are on the host. */
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { fileStatus, open } from "../../syscalls/linux/file.ts";
import { cloneTree, setMountAttributes } from "../../syscalls/linux/mount.ts";
import { CLONE, MOUNT_ATTR, O } from "../../syscalls/linux/numbers.ts";
import type { Identity, IdMaps } from "../platform.ts";
import { idsOf, writeIdMaps, writeMaps } from "./ids.ts";
import { endPuppet, startPuppet } from "./launch.ts";
import { mustBe, openSource } from "./root.ts";

let held: Descriptor | undefined;

/** The user namespace that maps ids as those of actors do. */
function ownMapping(): Descriptor {
  held ??= mapping((pid) => writeIdMaps(pid, idsOf(true)));
  return held;
}

/** A user namespace with these maps. A descriptor keeps it, so nothing has to run in it. */
function mapping(write: (pid: number) => void): Descriptor {
  const puppet = startPuppet({ namespaces: CLONE.NEWUSER, descriptors: [] });
  try {
    write(puppet.pid);
    return new Descriptor(open(self, `/proc/${puppet.pid}/ns/user`, O.RDONLY | O.CLOEXEC));
  } finally {
    endPuppet(puppet);
  }
}

/** What is shown. */
interface Source {
  readonly source: string;
  readonly directory: boolean;
  readonly recursive?: boolean;
  /** Which file that has to be. */
  readonly identity?: Identity | undefined;
}

/**
 * A detached mount of what is granted. `"auto"`: root's files are the inner user's own, it reads, writes and creates them with root's name;
 * file systems that cannot map ids give a plain mount, through which nobody's rights count. Maps: as they say, or SystemError.
 */
export function mappedTree(
  { source, directory, recursive = true, identity }: Source,
  maps: IdMaps | "auto" = "auto",
): Descriptor {
  using opened = new Descriptor(openSource(self, { source, directory }));
  if (identity !== undefined) mustBe(fileStatus(self, opened.number), identity, source);
  using made = maps === "auto" ? undefined : mapping((pid) => writeMaps(pid, maps));
  const userNamespace = (made ?? ownMapping()).number;
  const tree = new Descriptor(cloneTree(self, opened.number, { recursive: directory && recursive }));
  try {
    setMountAttributes(
      self,
      tree.number,
      { set: MOUNT_ATTR.IDMAP, userNamespace },
      { recursive: directory && recursive },
    );
  } catch (error) {
    if (maps !== "auto" || !(error instanceof SystemError && error.code === "EINVAL")) {
      tree.close();
      throw error;
    }
  }
  return tree;
}
