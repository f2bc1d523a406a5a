/** Filters on system calls: `caisson/seccomp`. Rules in; programs for the kernel, texts and reasons out. */
import * as seccomp from "../platform/seccomp.ts";

export const { compile, disassemble, explain, fromOci, GROUPS, toOci, verify } = seccomp;
export type Action = seccomp.Action;
export type Arg = seccomp.Arg;
export type Condition = seccomp.Condition;
export type Container = seccomp.Container;
export type ErrnoName = seccomp.ErrnoName;
export type Explanation = seccomp.Explanation;
export type Filter = seccomp.Filter;
export type Group = seccomp.Group;
export type OciSeccomp = seccomp.OciSeccomp;
export type Rule = seccomp.Rule;
export type Test = seccomp.Test;
export type Word = seccomp.Word;
