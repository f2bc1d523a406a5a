/** caisson: runs what you do not trust. */
export type { Answer, Enforcement, Guarantee, SupervisedCall } from "../platform/index.ts";
export { NotEnforced, NotRunnable } from "../platform/index.ts";
export { Descriptor } from "../syscalls/descriptor.ts";
export { SystemError } from "../syscalls/error.ts";
export { Actor, type Output, type SpawnOptions, spawn } from "./actor.ts";
export type { Broker, ConnectRequest, ErrnoName, OpenRequest } from "./broker.ts";
export type { Call, CallOptions } from "./call.ts";
export { type FileCapability, file, type NetworkCapability } from "./capability.ts";
export type { Connection } from "./connection.ts";
export { attach, Container, type ContainerOptions, container } from "./container.ts";
export { type Decision, EgressDenied, Unreachable } from "./decision.ts";
export { type Denial, type Denied, describeDenial, isDenied } from "./denial.ts";
export { type DenialEvent, type DenialReader, denials } from "./denials.ts";
export { Egress, type EgressOptions, egress } from "./egress.ts";
export { ActorExit, LimitExceeded, ProtocolViolation, SchemaMismatch } from "./error.ts";
export {
  type ExecOptions,
  exec,
  type RunOptions,
  type RunResult,
  run,
  type SandboxedProcess,
  type Supervise,
} from "./exec.ts";
export type { Exit } from "./exit.ts";
export { Client, Listener } from "./listener.ts";
export * from "./mounts.ts";
export { Network, type NetworkOptions, network } from "./network.ts";
export type { Inlet, Outlet, Process, ProcessOptions, Usage } from "./process.ts";
export type { Sandbox } from "./sandbox.ts";
