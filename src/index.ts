/** caisson: runs what you do not trust. */
export type { Enforcement, Guarantee } from "../platform/index.ts";
export { NotEnforced } from "../platform/index.ts";
export { SystemError } from "../syscalls/error.ts";
export { Actor, type Call, type CallOptions, type Exit, type Output, type SpawnOptions, spawn } from "./actor.ts";
export { type FileCapability, file } from "./capability.ts";
export { ActorExit, LimitExceeded, ProtocolViolation, SchemaMismatch } from "./error.ts";
export type { Sandbox } from "./sandbox.ts";
