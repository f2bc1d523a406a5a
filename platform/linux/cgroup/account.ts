/** What control groups this process can have, for people. Pure. */
import type { Ability } from "../../platform.ts";
import { CONTROLLERS, type Controller } from "./hierarchy.ts";
import type { Found } from "./home.ts";
import type { Tree } from "./search.ts";

/** What a group is of use for, by version. */
const USE: Readonly<Record<Controller, readonly [v1: string, v2: string]>> = {
  memory: ["limits memory, memoryWarning and swap", "limits memory, memoryWarning and swap"],
  pids: ["limits processes", "limits processes"],
  cpu: ["limits cpu", "limits cpu"],
  usage: ["counts for cpuTime", "counts for cpuTime"],
  io: ["limits diskRead and diskWrite", "limits diskRead and diskWrite, counts for disk"],
  kill: ["ends what is in it, one by one", "ends what is in it at once"],
};

const PSI_REMEDY = "Boot a kernel with CONFIG_PSI, with psi=1";
const V2_REMEDY = "Boot with cgroup_no_v1=all, and under systemd with systemd.unified_cgroup_hierarchy=1";

/** @param psi whether the kernel looks at pressure */
export function accountOf(found: Found, psi: boolean): Ability[] {
  const { trees, lacks, remedies, hierarchies } = found;
  const mounted = hierarchies.map(({ version, mount, own, controllers }) => {
    const what = version === 1 ? `v1 for ${controllers.join(" and ")}` : "v2";
    return `${what} at ${mount}${own === mount ? "" : `, in ${own.slice(mount.length)}`}`;
  });
  const mechanisms = CONTROLLERS.map((controller): Ability => {
    const version = trees.find(({ controllers }) => controllers.includes(controller))?.version;
    const mechanism = `${controller} group`;
    if (version !== undefined)
      return { mechanism, present: true, detail: `cgroup v${version}: ${USE[controller][version - 1]}` };
    return { mechanism, present: false, detail: lacks[controller] ?? "", remedy: remedies[controller] ?? "" };
  });
  return [
    mounted.length > 0
      ? { mechanism: "control groups", present: true, detail: mounted.join("; ") }
      : { mechanism: "control groups", present: false, detail: lacks.memory ?? "", remedy: remedies.memory ?? "" },
    // So that what helps several is told once.
    ...mechanisms.toSorted((a, b) => (a.remedy ?? "").localeCompare(b.remedy ?? "")),
    pressureOf(found, psi),
  ];
}

/** Of a group of v2 that governs memory. */
function pressureOf({ trees, hierarchies, remedies }: Found, psi: boolean): Ability {
  const mechanism = "pressure";
  const governs = (version: 1 | 2) => (tree: Pick<Tree, "version" | "controllers">) =>
    tree.version === version && tree.controllers.includes("memory");
  if (!psi) return { mechanism, present: false, detail: "this kernel does not look at it", remedy: PSI_REMEDY };
  if (trees.some(governs(2)))
    return { mechanism, present: true, detail: "counts stalls, and ends who only waits for memory" };
  const remedy = hierarchies.some(governs(1)) ? V2_REMEDY : (remedies.memory ?? V2_REMEDY);
  return { mechanism, present: false, detail: "needs a memory group of v2", remedy };
}
