/** Several programs as one: what only allows hands on to the next. */
import { BPF, SECCOMP_RET } from "../../../syscalls/linux/numbers.ts";

const SIZE = 8; // of struct sock_filter
const RETURN = BPF.RET | BPF.K;
const JUMP = BPF.JMP | BPF.JA;
/** What lets a call through with something beside: another filter could still refuse it. */
const AFTERWARDS: ReadonlySet<number> = new Set([SECCOMP_RET.LOG, SECCOMP_RET.TRACE]);

/**
 * A program that allows what all of these allow, and answers anything else as the first of them does that does not. The kernel would do the same
 * for several filters, but that only one of them can hand over calls, and that an errno of another then counts for more. Throws RangeError where they
 * are too long together.
 */
export function chain(programs: readonly Uint8Array[]): Uint8Array {
  const linked = Buffer.concat(
    programs.map((program, index) => (index === programs.length - 1 ? program : goOn(program))),
  );
  if (linked.length > BPF.MAXINSNS * SIZE)
    throw new RangeError(
      `Cannot join filters of ${linked.length / SIZE} instructions: the kernel takes ${BPF.MAXINSNS} in one`,
    );
  return linked;
}

/** The same program, which goes on behind its end where it would allow. Each begins with a load, so nothing is handed on but the call. */
function goOn(program: Uint8Array): Uint8Array {
  const bytes = program.slice();
  const view = new DataView(bytes.buffer);
  const count = bytes.length / SIZE;
  for (let index = 0; index < count; index++) {
    const at = index * SIZE;
    const result = view.getUint32(at + 4, true);
    if (view.getUint16(at, true) !== RETURN) continue;
    if (AFTERWARDS.has((result & SECCOMP_RET.ACTION_FULL) >>> 0))
      throw new TypeError("Cannot go on behind a filter that logs or traces: only the last one may");
    if (result !== SECCOMP_RET.ALLOW) continue;
    view.setUint16(at, JUMP, true);
    view.setUint32(at + 4, count - index - 1, true);
  }
  return bytes;
}
