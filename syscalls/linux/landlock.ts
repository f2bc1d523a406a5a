/** Landlock, landlock(7): rules by which a process gives up access for good. */

import { SystemError } from "../error.ts";
import { type Kernel, self } from "../kernel.ts";
import { Struct } from "../struct.ts";

const RULESET_ATTR = new Struct({ handled_access_fs: "u64", handled_access_net: "u64", scoped: "u64" });
const PATH_BENEATH_ATTR = new Struct({ allowed_access: "u64", parent_fd: "i32" }, { packed: true });
const CREATE_RULESET_VERSION = 1;
const RULE_PATH_BENEATH = 1;

/** What a ruleset governs: whatever is named here is refused unless a rule allows it. */
export interface Handled {
  /** LANDLOCK_ACCESS_FS */
  readonly fs: bigint;
  /** LANDLOCK_ACCESS_NET, ABI 4 */
  readonly net: bigint;
  /** LANDLOCK_SCOPE, ABI 6 */
  readonly scoped: bigint;
}

/** The Landlock ABI of the running kernel, 0 where there is none or it is switched off. */
export function landlockAbi(kernel: Kernel = self): number {
  try {
    return kernel.call("landlock_create_ruleset", null, 0, CREATE_RULESET_VERSION);
  } catch (error) {
    if (error instanceof SystemError) return 0;
    throw error;
  }
}

/** A descriptor of a new ruleset. Throws EINVAL for a right that this kernel does not know. `landlock_create_ruleset(2)`, Linux 5.13 */
export function createRuleset(kernel: Kernel, handled: Handled): number {
  const attr = RULESET_ATTR.encode({
    handled_access_fs: handled.fs,
    handled_access_net: handled.net,
    scoped: handled.scoped,
  });
  // Older kernels take a shorter struct, and a longer one only if the rest is zero, which it is where the ABI is asked first.
  return kernel.call("landlock_create_ruleset", attr, RULESET_ATTR.size, 0);
}

/** Allows `access` at and beneath the file or directory that a descriptor (O_PATH will do) names. `landlock_add_rule(2)` */
export function allowBeneath(kernel: Kernel, ruleset: number, parent_fd: number, access: bigint): void {
  // The descriptor may be the result of a call still to be made, which only an argument can be: not a field in memory.
  kernel.call(
    "landlock_add_rule",
    ruleset,
    RULE_PATH_BENEATH,
    PATH_BENEATH_ATTR.encode({ allowed_access: access, parent_fd }),
    0,
  );
}

/** Confines the calling thread, and what it starts, for good. Needs no-new-privileges or `CAP_SYS_ADMIN`. `landlock_restrict_self(2)` */
export function restrictSelf(kernel: Kernel, ruleset: number): void {
  kernel.call("landlock_restrict_self", ruleset, 0);
}
