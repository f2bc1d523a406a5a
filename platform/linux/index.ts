/** Linux. */
import type { Enforcement, Policy } from "../platform.ts";
import { abilities } from "./abilities.ts";
import { enforcementOf } from "./plan.ts";

export { confine } from "./confine.ts";
export { attach, contain, execute } from "./container.ts";
export { describeAbilities as abilities } from "./doctor.ts";
export { drive } from "./drive.ts";
export { mapsFor } from "./ids.ts";
export { sandbox } from "./sandboxed.ts";

export function enforcement(policy: Policy): Enforcement {
  return enforcementOf(policy, abilities());
}
