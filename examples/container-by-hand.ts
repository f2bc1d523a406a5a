/**
 * A container built step by step, with the kernel's own calls: this program decides, and a puppet inside makes the calls. Loops, conditions and
 * what this program knows are all at hand, and none of it is inside.
 *
 * Most containers need none of this: `files`, `root` and `hostname` of container() say it as data.
 */
import { lstatSync, readlinkSync } from "node:fs";
import { container, SystemError } from "caisson";
import {
  changeDirectory,
  close,
  detach,
  MOUNT_ATTR,
  MS,
  makeDirectory,
  makeSymlink,
  mount,
  openTree,
  pivotRoot,
  setHostname,
  setMountAttributes,
} from "caisson/syscalls";

// Neither root nor files: its mounts are a copy of the host's, which its calls can change.
await using box = await container({ user: 0, group: 0 });
const { kernel } = box;

setHostname(kernel, "by-hand");

// Whatever is mounted from here on, the host does not see.
mount(kernel, null, "/", { flags: MS.REC | MS.PRIVATE });
// The new root grows on a directory that every machine has, in this namespace alone.
mount(kernel, "new-root", "/mnt", { type: "tmpfs", flags: MS.NOSUID | MS.NODEV, data: "mode=755,size=1m" });
changeDirectory(kernel, "/mnt");

for (const name of ["usr", "bin", "lib", "lib64"]) {
  const status = lstatSync(`/${name}`, { throwIfNoEntry: false });
  if (status === undefined) continue;
  if (status.isSymbolicLink()) {
    makeSymlink(kernel, readlinkSync(`/${name}`), name);
    continue;
  }
  makeDirectory(kernel, name, 0o755);
  mount(kernel, `/${name}`, name, { flags: MS.BIND | MS.REC });
  const tree = openTree(kernel, name);
  setMountAttributes(kernel, tree, { set: MOUNT_ATTR.RDONLY | MOUNT_ATTR.NOSUID }, { recursive: true });
  close(kernel, tree);
}

makeDirectory(kernel, "proc", 0o755);
// A call that fails ends the container. One that may fail is attempted: engines that cover parts of /proc make the kernel refuse a new one.
const refused = box.attempt((kernel) => mount(kernel, "proc", "proc", { type: "proc" }));
if (refused instanceof SystemError) mount(kernel, "/proc", "proc", { flags: MS.BIND | MS.REC });

pivotRoot(kernel, ".", "."); // the old root now lies on top of the new one,
detach(kernel, "."); // and is gone
changeDirectory(kernel, "/");

const script = 'read -r name < /proc/sys/kernel/hostname; echo "On $name, as process $$, / holds" /*; echo > /usr/mine';
await using shell = await box.exec(["/bin/sh", "-c", script]);
const [output, error] = await Promise.all([new Response(shell.stdout).text(), new Response(shell.stderr).text()]);
console.log(output.trim());
console.log(error.trim());

// Nor is the container there any more when a call fails that was not attempted.
try {
  mount(kernel, "/nowhere", "/mnt", { flags: MS.BIND });
} catch (error) {
  await box.exited;
  console.log(`${(error as SystemError).message}: the container is gone`);
}
