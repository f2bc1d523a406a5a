/** A program's plan that says no more than it must. */
import type { ProcessPlan } from "../../platform/platform.ts";
import { SIG } from "../../syscalls/linux/numbers.ts";

export function processPlan(argv: readonly string[], more: Partial<ProcessPlan> = {}): ProcessPlan {
  return {
    program: argv[0]!,
    argv,
    env: {},
    directory: "/",
    descriptors: new Map(),
    user: undefined,
    group: undefined,
    groups: undefined,
    capabilities: 0n,
    securebits: undefined,
    noNewPrivileges: true,
    umask: 0o022,
    session: "new",
    parentDeathSignal: SIG.KILL,
    terminal: false,
    limits: {},
    nice: undefined,
    schedule: undefined,
    affinity: undefined,
    ioPriority: undefined,
    filters: [],
    supervised: undefined,
    keys: true,
    init: true,
    ...more,
  };
}
