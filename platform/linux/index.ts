/** Linux. */
import { machine } from "../../syscalls/kernel.ts";
import type { Enforcement, Policy } from "../platform.ts";
import { abilities } from "./abilities.ts";
import { abilitiesFor } from "./bounds.ts";
import { filtersOf } from "./filters.ts";
import { grantedForWriting } from "./paths.ts";
import { enforcementOf } from "./plan.ts";
import type { Filter } from "./seccomp/index.ts";

export { confine } from "./confine.ts";
export { attach, contain, execute } from "./container.ts";
export { describeAbilities as abilities } from "./doctor.ts";
export { drive } from "./drive.ts";
export { mapsFor } from "./ids.ts";
export { programOf } from "./program.ts";
export { sandbox } from "./sandboxed.ts";
export { confineSelf, dropCapabilities, setNoNewPrivs } from "./self.ts";
export { observe } from "./supervise/observe.ts";

export function enforcement(policy: Policy): Enforcement {
  return enforcementOf(policy, abilitiesFor(grantedForWriting(policy)));
}

export function filters(policy: Policy, of: "actor" | "program"): Filter[] {
  // An actor is the first process that it sees.
  return filtersOf(policy, of, machine(), { pid: 1, ownRoot: abilities().proc !== undefined });
}
