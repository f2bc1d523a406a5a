/** The kernel, as it is: `caisson/syscalls`. Every function takes first who is to make the call. */
export { Descriptor } from "./descriptor.ts";
export { errnoName, SystemError } from "./error.ts";
export { type Argument, type Kernel, type Machine, machine, numberOf, type SyscallName, self } from "./kernel.ts";
export * from "./linux/capability.ts";
export * from "./linux/constants.ts";
export * from "./linux/file.ts";
export * from "./linux/landlock.ts";
export * from "./linux/mount.ts";
export * from "./linux/namespace.ts";
export * from "./linux/network.ts";
export * from "./linux/numbers.ts";
export * from "./linux/process.ts";
export * from "./linux/schedule.ts";
export * from "./linux/seccomp.ts";
export * from "./linux/signal.ts";
export * from "./linux/socket.ts";
export * from "./linux/terminal.ts";
export { type FieldValue, Memory, Struct, type Target } from "./struct.ts";
