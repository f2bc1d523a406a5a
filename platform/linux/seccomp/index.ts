/** What users of seccomp filters see: rules in, programs and explanations out. */
export { compile } from "./compile.ts";
export { disassemble } from "./disassemble.ts";
export { type Explanation, explain } from "./explain.ts";
export type { Action, Arg, Condition, ErrnoName, Filter, Rule, Test, Word } from "./filter.ts";
export { GROUPS, type Group } from "./groups.ts";
export { fromOci, toOci } from "./oci.ts";
export type { Container, OciSeccomp } from "./profile.ts";
export { verify } from "./verify.ts";
