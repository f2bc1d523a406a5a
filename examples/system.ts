/** The host's programs and libraries for a container, as they lie in /: directories, or on most systems links into /usr. */
import { existsSync, lstatSync, readlinkSync } from "node:fs";
import { bind, type Mount, symlink } from "caisson";

/** What there is of /usr, /bin, /sbin and /lib*, read-only. */
export function system(): Mount[] {
  return ["/usr", "/bin", "/sbin", "/lib", "/lib64"]
    .filter((path) => existsSync(path))
    .map((path) => (lstatSync(path).isSymbolicLink() ? symlink(path, readlinkSync(path)) : bind(path)));
}
