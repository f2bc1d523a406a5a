/** Whether systemd leaves a group of v2 to whoever is in it. `systemd.resource-control(5)`, Delegate= */
import { statSync } from "node:fs";
import { basename, dirname } from "node:path";
import { self } from "../../../syscalls/kernel.ts";

/** What is asked of a group. */
export interface Marks {
  /** Whether systemd has marked it as given away, as it does since version 251. */
  isMarked(group: string): boolean;
  ownerOf(group: string): number;
}

/** Whose units are a user's own manager's, which marks nothing. */
const MANAGER = /^user@\d+\.service$/;

/**
 * Whether nobody else governs what is beneath a group.
 * @param top where the tree is mounted
 */
export function isDelegated(
  group: string,
  { top, uid, marks = read }: { readonly top: string; readonly uid: number; readonly marks?: Marks },
): boolean {
  for (let each = group; each.startsWith(top); each = dirname(each)) {
    if (marks.isMarked(each) && !MANAGER.test(basename(each))) return true;
    if (each === top || marks.isMarked(each)) break;
  }
  // Who has no mark to go by was given what is theirs.
  return uid !== 0 && marks.ownerOf(group) === uid;
}

const read: Marks = {
  // The first is for root alone.
  isMarked: (group) => ["trusted.delegate", "user.delegate"].some((mark) => hasMark(group, mark)),
  ownerOf: (group) => statSync(group).uid,
};

function hasMark(path: string, name: string): boolean {
  try {
    const value = new Uint8Array(1);
    return self.call("getxattr", path, name, value, value.length) === 1 && value[0] === "1".charCodeAt(0);
  } catch {
    return false;
  }
}
