/** What this machine can do, for people. */
import { CLONE } from "../../syscalls/linux/numbers.ts";
import type { Ability } from "../platform.ts";
import { abilities, NAMESPACES } from "./abilities.ts";
import { LANDLOCK_REMEDY, SECCOMP_REMEDY, USER_REMEDY } from "./plan.ts";

/** Each mechanism, whether it is there, and what would make it so. */
export function describeAbilities(): readonly Ability[] {
  const able = abilities();
  const refusal = (...names: string[]) =>
    names.map((name) => able.refusals[name]).find((text) => text !== undefined) ?? "not there";
  const has = (bit: bigint) => (able.namespaces & bit) !== 0n;
  const ability = (mechanism: string, present: boolean, detail: string, remedy: string): Ability =>
    present ? { mechanism, present, detail } : { mechanism, present, detail, remedy };
  return [
    ability("user namespace", has(CLONE.NEWUSER), has(CLONE.NEWUSER) ? "can be made" : refusal("user"), USER_REMEDY),
    ...Object.entries(NAMESPACES).map(([name, bit]) =>
      ability(`${name} namespace`, has(bit), has(bit) ? "can be made" : refusal(name, "user"), USER_REMEDY),
    ),
    ability(
      "own root",
      able.proc !== undefined,
      able.proc === "mount"
        ? "with its own /proc"
        : able.proc === "bind"
          ? `with the host's /proc: ${refusal("proc")}`
          : refusal("root", "mount", "user"),
      USER_REMEDY,
    ),
    ability("Landlock", able.landlock > 0, able.landlock > 0 ? `ABI ${able.landlock}` : "not there", LANDLOCK_REMEDY),
    ability("seccomp", able.seccomp, able.seccomp ? "filters" : "not there", SECCOMP_REMEDY),
    ability("RLIMIT_DATA", true, "counts private memory", ""),
  ];
}
