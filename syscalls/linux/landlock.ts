/** Landlock, landlock(7): rules by which a process gives up access for good. */

import { SystemError } from "../error.ts";
import { type Kernel, self } from "../kernel.ts";
import { Struct } from "../struct.ts";
import { LANDLOCK_CREATE_RULESET, LANDLOCK_RULE } from "./numbers.ts";

const RULESET_ATTR = new Struct({
  handled_access_fs: "u64",
  handled_access_net: "u64",
  scoped: "u64",
  quiet_access_fs: "u64",
  quiet_access_net: "u64",
  quiet_scoped: "u64",
});
const PATH_BENEATH_ATTR = new Struct({ allowed_access: "u64", parent_fd: "i32" }, { packed: true });
const NET_PORT_ATTR = new Struct({ allowed_access: "u64", port: "u64" });

/** A set of rights of each kind. */
export interface Rights {
  /** LANDLOCK_ACCESS_FS */
  readonly fs: bigint;
  /** LANDLOCK_ACCESS_NET, ABI 4 */
  readonly net: bigint;
  /** LANDLOCK_SCOPE, ABI 6 */
  readonly scoped: bigint;
}

/** What a ruleset governs: whatever is named here is refused unless a rule allows it. */
export interface Handled extends Rights {
  /** What is refused without a word in the audit log: scopes always, the others where a rule has LANDLOCK_ADD_RULE.QUIET. ABI 10 */
  readonly quiet?: Rights;
}

/** The Landlock ABI of the running kernel, 0 where there is none or it is switched off. */
export function landlockAbi(kernel: Kernel = self): number {
  return asked(kernel, LANDLOCK_CREATE_RULESET.VERSION);
}

/** The errata that the running kernel has fixed: bit 0 for the first. 0 as well where it cannot say, for it is older than the question. */
export function landlockErrata(kernel: Kernel = self): number {
  return asked(kernel, LANDLOCK_CREATE_RULESET.ERRATA);
}

function asked(kernel: Kernel, question: number): number {
  try {
    return kernel.call("landlock_create_ruleset", null, 0, question);
  } catch (error) {
    if (error instanceof SystemError) return 0;
    throw error;
  }
}

/** A descriptor of a new ruleset. Throws EINVAL for a right that this kernel does not know. `landlock_create_ruleset(2)`, Linux 5.13 */
export function createRuleset(kernel: Kernel, { fs, net, scoped, quiet }: Handled): number {
  const attr = RULESET_ATTR.encode({
    handled_access_fs: fs,
    handled_access_net: net,
    scoped,
    quiet_access_fs: quiet?.fs ?? 0n,
    quiet_access_net: quiet?.net ?? 0n,
    quiet_scoped: quiet?.scoped ?? 0n,
  });
  // Older kernels take a shorter struct, and a longer one only if the rest is zero, which it is where the ABI is asked first.
  return kernel.call("landlock_create_ruleset", attr, RULESET_ATTR.size, 0);
}

/**
 * Allows `access` at and beneath the file or directory that a descriptor (O_PATH will do) names. `landlock_add_rule(2)`
 * @param flags LANDLOCK_ADD_RULE
 */
export function allowBeneath(kernel: Kernel, ruleset: number, parent_fd: number, access: bigint, flags = 0): void {
  // The descriptor may be the result of a call still to be made, which only an argument can be: not a field in memory.
  const attr = PATH_BENEATH_ATTR.encode({ allowed_access: access, parent_fd });
  kernel.call("landlock_add_rule", ruleset, LANDLOCK_RULE.PATH_BENEATH, attr, flags);
}

/**
 * Allows `access` to a port, that of the socket's own end or of the other; to bind to port 0 is to be given any. `landlock_add_rule(2)`, ABI 4
 * @param flags LANDLOCK_ADD_RULE
 */
export function allowPort(kernel: Kernel, ruleset: number, port: number, access: bigint, flags = 0): void {
  const attr = NET_PORT_ATTR.encode({ allowed_access: access, port: BigInt(port) });
  kernel.call("landlock_add_rule", ruleset, LANDLOCK_RULE.NET_PORT, attr, flags);
}

/**
 * Confines the calling thread, and what it starts, for good. Needs no-new-privileges or `CAP_SYS_ADMIN`. `landlock_restrict_self(2)`
 * @param ruleset -1 to confine nothing and set flags alone, those that allow it
 * @param flags LANDLOCK_RESTRICT_SELF. Throws EINVAL for one that this kernel does not know
 */
export function restrictSelf(kernel: Kernel, ruleset: number, flags = 0): void {
  kernel.call("landlock_restrict_self", ruleset, flags);
}
