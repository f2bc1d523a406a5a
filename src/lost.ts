/** Capabilities whose descriptors did not come along. */
import { SystemError } from "../syscalls/error.ts";
import { ERRNO } from "../syscalls/linux/numbers.ts";
import { type FileCapability, MODES, type Mode, NETWORK, type NetworkCapability, Source } from "./capability.ts";
import { ProtocolViolation } from "./error.ts";

/** A capability that came when this process could have no more descriptors: whatever is done with it says so. */
export class LostCapability extends Source implements FileCapability, NetworkCapability {
  readonly tag: number;

  constructor(tag: number) {
    super();
    if (tag > NETWORK) throw new ProtocolViolation(`Cannot accept a descriptor tagged ${tag}`);
    this.tag = tag;
  }

  get mode(): Mode {
    return MODES[this.tag] ?? "read";
  }

  get size(): never {
    throw outOfDescriptors();
  }

  override open(): never {
    throw outOfDescriptors();
  }

  stream(): never {
    throw outOfDescriptors();
  }

  bytes(): Promise<never> {
    return Promise.reject(outOfDescriptors());
  }

  text(): Promise<never> {
    return this.bytes();
  }

  write(): Promise<never> {
    return this.bytes();
  }

  connect(): Promise<never> {
    return this.bytes();
  }

  fetch(): Promise<never> {
    return this.bytes();
  }

  close(): void {}

  [Symbol.dispose](): void {}
}

function outOfDescriptors(): SystemError {
  const why = "of a capability: this process had as many open files as it may when it came, fewer are expected";
  return new SystemError("recvmsg", ERRNO.EMFILE, why);
}
