/** A puppet that executes a program which is a puppet, too. */
import { Batch } from "../../platform/linux/frame.ts";
import type { PuppetKernel } from "../../platform/linux/remote.ts";
import { execute } from "../../syscalls/linux/process.ts";

/** Who becomes the program cannot say so; but the program answers what was asked behind it. Throws what the kernel refused. */
export function become(puppet: PuppetKernel, program: string): void {
  const [becomes, asks] = [new Batch(), new Batch()];
  execute(becomes, program, ["program"], []);
  asks.call("getpid");
  const [first, second] = [puppet.prepare(becomes), puppet.prepare(asks)];
  let answer: Uint8Array | undefined;
  puppet.send(first, (bytes) => {
    answer = bytes;
  });
  puppet.post(second);
  puppet.until(() => answer !== undefined);
  if (answer!.length === second.bytes.length) return;
  puppet.expect(second);
  first.read(answer!);
}
