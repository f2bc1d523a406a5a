/** caisson: runs what you do not trust. */
export type { Answer, Enforcement, Guarantee, SupervisedCall } from "../platform/index.ts";
export { NotEnforced, NotRunnable } from "../platform/index.ts";
export { Descriptor } from "../syscalls/descriptor.ts";
export { SystemError } from "../syscalls/error.ts";
export { Actor, type SpawnOptions, spawn } from "./actor.ts";
export type { Broker, ConnectRequest, ErrnoName, OpenRequest } from "./broker.ts";
export type { Call, CallOptions } from "./call.ts";
export { type FileCapability, file, type NetworkCapability } from "./capability.ts";
export type { Child, ChildExit, SupervisorExit } from "./child.ts";
export { type AutoShutdown, ChildNotStarted, type ChildSpec, type Restart, type Shutdown } from "./childspec.ts";
export type { Connection } from "./connection.ts";
export { attach, Container, type ContainerOptions, container } from "./container.ts";
export { type Decision, EgressDenied, Unreachable } from "./decision.ts";
export { type Denial, type Denied, describeDenial, isDenied } from "./denial.ts";
export { type DenialEvent, type DenialReader, denials } from "./denials.ts";
export { Egress, type EgressOptions, egress } from "./egress.ts";
export { ActorExit, LimitExceeded, ProtocolViolation, SchedulerRefused, SchemaMismatch } from "./error.ts";
export {
  type ExecOptions,
  exec,
  type RunOptions,
  type RunResult,
  run,
  type SandboxedProcess,
  type Supervise,
} from "./exec.ts";
export type { Exit, LimitName } from "./exit.ts";
export { type ExposeOptions, type Exposure, exposeStatus } from "./exposure.ts";
export type { Inspection, State } from "./inspection.ts";
export type { Killer } from "./killer.ts";
export type { Output } from "./launch.ts";
export { Client, Listener } from "./listener.ts";
export { link, monitor } from "./monitor.ts";
export * from "./mounts.ts";
export { Network, type NetworkOptions, network } from "./network.ts";
export { type Pool, type PoolOptions, pool } from "./pool.ts";
export type { Inlet, Outlet, Process, ProcessOptions } from "./process.ts";
export { type Reserve, type ReserveOptions, type ReserveSpawnOptions, reserve } from "./reserve.ts";
export type { Sandbox } from "./sandbox.ts";
export { type Priority, Scheduler, type SchedulerOptions } from "./scheduler.ts";
export type { Strategy } from "./strategy.ts";
export type { SupervisorEvent, SupervisorOptions } from "./supervision.ts";
export { type ChildrenOf, type ChildStatus, type Supervisor, supervise } from "./supervisor.ts";
export type { Stall, Usage } from "./usage.ts";
