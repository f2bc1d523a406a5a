/** Kernels that make no calls. */
import { type Argument, describe, type Kernel, type SyscallName } from "../../syscalls/kernel.ts";
import { Memory } from "../../syscalls/struct.ts";

export type Call = readonly [name: SyscallName, ...args: Argument[]];

/** Writes calls down. Each result is a number of its own, from 1000 on. */
export class Recorder implements Kernel {
  readonly calls: Call[] = [];

  call(name: SyscallName, ...args: readonly Argument[]): number {
    return 999 + this.calls.push([name, ...args]);
  }

  /** One line a call, with what memory points to, or its size. */
  get lines(): string[] {
    return this.calls.map(([name, ...args]) => `${name} ${describe(args)}`);
  }
}

/** A kernel that writes `bytes` into the memory that argument `position` names, as the kernel does with what it reports. */
export function reporting(position: number, bytes: Uint8Array): Kernel {
  return {
    call(_, ...args) {
      const target = args[position];
      (target instanceof Memory ? target.bytes : (target as Uint8Array)).set(bytes);
      return 0;
    },
  };
}
