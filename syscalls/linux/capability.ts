/** Capabilities and securebits, capabilities(7). */
import { type Kernel, self } from "../kernel.ts";
import { Memory, Struct } from "../struct.ts";
import { CAP, PR, SECBIT } from "./numbers.ts";

const HEADER = new Struct({ version: "u32", pid: "i32" });
const DATA = new Struct({ effective: "u32", permitted: "u32", inheritable: "u32" });
const VERSION_3 = 0x20080522;

/** Sets of capabilities of the calling thread, as words with a bit each. */
export interface CapabilitySets {
  readonly effective: bigint;
  readonly permitted: bigint;
  readonly inheritable: bigint;
}

/** Sets the capabilities of the calling thread. `capset(2)`, version 3, which has two halves. */
export function capset(kernel: Kernel, sets: CapabilitySets): void {
  const half = (shift: bigint) => {
    const word = (set: bigint) => Number((set >> shift) & 0xffffffffn);
    return DATA.encode({
      effective: word(sets.effective),
      permitted: word(sets.permitted),
      inheritable: word(sets.inheritable),
    }).bytes;
  };
  kernel.call("capset", HEADER.encode({ version: VERSION_3 }), Buffer.concat([half(0n), half(32n)]));
}

/** The capabilities of the calling thread. `capget(2)` */
export function capget(kernel: Kernel): CapabilitySets {
  const data = new Memory(new Uint8Array(2 * DATA.size), []);
  kernel.call("capget", HEADER.encode({ version: VERSION_3 }), data);
  const low = DATA.decode(data.bytes.subarray(0, DATA.size));
  const high = DATA.decode(data.bytes.subarray(DATA.size));
  const join = (name: keyof typeof low) => BigInt(low[name]) | (BigInt(high[name]) << 32n);
  return { effective: join("effective"), permitted: join("permitted"), inheritable: join("inheritable") };
}

/** Keeps a capability over the next `execve`. It must be permitted and inheritable. `PR_CAP_AMBIENT(2const)` */
export function raiseAmbient(kernel: Kernel, capability: number): void {
  kernel.call("prctl", PR.CAP_AMBIENT, PR.CAP_AMBIENT_RAISE, capability, 0, 0);
}

/** Empties the ambient set. */
export function clearAmbient(kernel: Kernel): void {
  kernel.call("prctl", PR.CAP_AMBIENT, PR.CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

/** Takes a capability out of the bounding set, for good. Needs `CAP_SETPCAP`; EINVAL for one that this kernel does not know. */
export function dropBounding(kernel: Kernel, capability: number): void {
  kernel.call("prctl", PR.CAPBSET_DROP, capability, 0, 0, 0);
}

let last: number | undefined;

/** The highest capability that the running kernel knows. */
export function lastCapability(): number {
  last ??= findLastCapability();
  return last;
}

function findLastCapability(): number {
  // PR_CAPBSET_READ answers EINVAL for the first unknown one, wherever /proc may be.
  for (let capability: number = CAP.WAKE_ALARM; ; capability++) {
    try {
      self.call("prctl", PR.CAPBSET_READ, capability + 1, 0, 0, 0);
    } catch {
      return capability;
    }
  }
}

/** Sets what the kernel grants to user id 0, and locks it. Needs `CAP_SETPCAP`. `PR_SET_SECUREBITS(2const)` */
export function setSecurebits(kernel: Kernel, bits: number): void {
  kernel.call("prctl", PR.SET_SECUREBITS, bits, 0, 0, 0);
}

/** User id 0 means nothing, and none of it can be undone. */
export const LOCKED_SECUREBITS =
  SECBIT.NOROOT |
  SECBIT.NOROOT_LOCKED |
  SECBIT.NO_SETUID_FIXUP |
  SECBIT.NO_SETUID_FIXUP_LOCKED |
  SECBIT.KEEP_CAPS_LOCKED |
  SECBIT.NO_CAP_AMBIENT_RAISE |
  SECBIT.NO_CAP_AMBIENT_RAISE_LOCKED;
