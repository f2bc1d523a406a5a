/** caisson: runs what you do not trust. */
export type { Enforcement, Guarantee } from "../platform/index.ts";
export { NotEnforced } from "../platform/index.ts";
export { SystemError } from "../syscalls/error.ts";
export { Actor, type Output, type SpawnOptions, spawn } from "./actor.ts";
export type { Call, CallOptions } from "./call.ts";
export { type FileCapability, file } from "./capability.ts";
export { ActorExit, LimitExceeded, ProtocolViolation, SchemaMismatch } from "./error.ts";
export type { Exit } from "./exit.ts";
export type { Sandbox } from "./sandbox.ts";
