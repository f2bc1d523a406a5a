/** Whether what is in a container or a sandbox can get at the files of its group, where it is the owner of them. */
import { readFileSync } from "node:fs";
import type { ContainerPlan, Mount } from "../../platform.ts";
import { mountOf } from "./hierarchy.ts";

/**
 * Whether a container sees no tree of groups, but for what it mounts itself: in a cgroup namespace of its own that has its own group as the top. It
 * may do what it likes there. Read-only is not enough, for who owns a mount namespace makes that writable again.
 */
export function isFenced(
  { namespaces, root, join }: Pick<ContainerPlan, "namespaces" | "root" | "join">,
  mountinfo?: string,
): boolean {
  if (root === undefined || join.length > 0) return false;
  // Without one for users it is as mighty as its host; without the others it stays where groups are to be seen.
  if (!(["user", "mount", "cgroup"] as const).every((each) => namespaces.includes(each))) return false;
  return !showsGroups(
    root.mounts.filter((each) => each.kind === "bind"),
    mountinfo,
  );
}

/** Whether there is a tree of groups, or a part of one, in what is mounted so. */
export function showsGroups(
  binds: readonly Pick<Extract<Mount, { kind: "bind" }>, "source" | "recursive">[],
  mountinfo?: string,
): boolean {
  if (binds.length === 0) return false;
  const text = mountinfo ?? readFileSync("/proc/self/mountinfo", "utf8");
  const trees = text.split("\n").flatMap((line) => mountOf(line)?.mount ?? []);
  return binds.some(({ source, recursive }) =>
    trees.some((tree) => isWithin(source, tree) || (recursive && isWithin(tree, source))),
  );
}

const isWithin = (path: string, directory: string) =>
  directory === "/" || path === directory || path.startsWith(`${directory}/`);
