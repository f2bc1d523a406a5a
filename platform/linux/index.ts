/** Linux. */
import type { Enforcement, Policy } from "../platform.ts";
import { abilities } from "./abilities.ts";
import { enforcementOf } from "./plan.ts";

export { confine } from "./confine.ts";
export { describeAbilities as abilities } from "./doctor.ts";

export function enforcement(policy: Policy): Enforcement {
  return enforcementOf(policy, abilities());
}
