/** caisson: runs what you do not trust. */
export type { Enforcement, Guarantee } from "../platform/index.ts";
export { NotEnforced, NotRunnable } from "../platform/index.ts";
export { SystemError } from "../syscalls/error.ts";
export { Actor, type Output, type SpawnOptions, spawn } from "./actor.ts";
export type { Call, CallOptions } from "./call.ts";
export { type FileCapability, file, type NetworkCapability } from "./capability.ts";
export type { Connection } from "./connection.ts";
export { attach, Container, type ContainerOptions, container } from "./container.ts";
export { type Decision, EgressDenied, Unreachable } from "./decision.ts";
export { Egress, type EgressOptions, egress } from "./egress.ts";
export { ActorExit, LimitExceeded, ProtocolViolation, SchemaMismatch } from "./error.ts";
export { type ExecOptions, exec, type RunOptions, type RunResult, run, type SandboxedProcess } from "./exec.ts";
export type { Exit } from "./exit.ts";
export { Client, Listener } from "./listener.ts";
export * from "./mounts.ts";
export { Network, type NetworkOptions, network } from "./network.ts";
export type { Inlet, Outlet, Process, ProcessOptions, Usage } from "./process.ts";
export type { Sandbox } from "./sandbox.ts";
