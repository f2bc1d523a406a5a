/** A cold spawn, taken step by step as `spawn` takes it, with a clock between the steps. */
import { type Confined, platform } from "../platform/index.ts";
import { abilities } from "../platform/linux/abilities.ts";
import { writeIdMaps } from "../platform/linux/ids.ts";
import { endPuppet, startPuppet } from "../platform/linux/launch.ts";
import { planFor } from "../platform/linux/plan.ts";
import { runtime } from "../platform/linux/runtime.ts";
import { bootText, bundle, scopeOf } from "../src/bundle.ts";
import { type Channel, connect } from "../src/channel.ts";
import { DescriptorLane } from "../src/lane.ts";
import { LIMITS } from "../src/link.ts";
import { listen } from "../src/output.ts";
import { policyOf } from "../src/sandbox.ts";
import { Descriptor } from "../syscalls/descriptor.ts";
import { self } from "../syscalls/kernel.ts";
import { SOCK } from "../syscalls/linux/constants.ts";
import { open } from "../syscalls/linux/file.ts";
import { CLONE, O } from "../syscalls/linux/numbers.ts";
import { socketPair } from "../syscalls/linux/socket.ts";
import type { Rounds, Sample } from "./measure.ts";

/** What each step took, in the order of the steps. */
export async function steps(path: string, { rounds, warm = 1 }: Rounds): Promise<Sample[]> {
  const values = new Map<string, number[]>();
  for (let round = -warm; round < rounds; round++) {
    let last = performance.now();
    await once(path, (step) => {
      const now = performance.now();
      if (round >= 0 && step !== "") values.getOrInsertComputed(step, (): number[] => []).push(now - last);
      last = performance.now();
    });
  }
  return Array.from(values, ([title, times]) => ({ title, values: times.toSorted((a, b) => a - b) }));
}

/** Names the step that ends here. What has no name does not count. */
type Lap = (step: string) => void;

async function once(path: string, lap: Lap): Promise<void> {
  lap("");
  const policy = policyOf(undefined);
  platform.enforcement(policy);
  lap("policy");
  const boot = await bootText();
  const source = await bundle(path, scopeOf(path, []));
  lap("bundle, made before: a look at its files");
  puppetAlone(policy, lap);

  using theirs = new DisposableStack();
  const pair = (type: number) => {
    const [mine, other] = socketPair(self, type);
    return { mine, other: theirs.use(new Descriptor(other)).number };
  };
  const nothing = theirs.use(new Descriptor(open(self, "/dev/null", O.RDWR | O.CLOEXEC))).number;
  const [data, lane, output, error] = [pair(SOCK.STREAM), pair(SOCK.SEQPACKET), pair(SOCK.STREAM), pair(SOCK.STREAM)];
  lap("lanes and outputs");
  const confined = platform.confine(policy, {
    boot,
    stdio: [nothing, output.other, error.other],
    lanes: [data.other, lane.other],
  });
  lap("confine: plan, clone, id maps, walls sent");
  theirs.dispose();
  for (const socket of [output.mine, error.mine]) listen(socket, { data() {}, close() {} });
  lap("outputs watched");
  await confined.started;
  lap("walls built, until exec");
  const channel = await live(confined, { data: data.mine, lane: new DescriptorLane(lane.mine) }, { source, lap });
  await channel.call("add", [2, 3]);
  lap("first call");
  confined.kill();
  await confined.ended;
  lap("end, from kill until reaped");
}

/** The parts of `confine` that can be had alone. */
function puppetAlone(policy: ReturnType<typeof policyOf>, lap: Lap): void {
  const plan = planFor(policy, abilities(), runtime());
  lap("apart: plan, which confine makes once a policy");
  const puppet = startPuppet({ namespaces: plan.namespaces, descriptors: [] });
  lap("apart: clone of the puppet with its namespaces");
  if ((plan.namespaces & CLONE.NEWUSER) !== 0n) writeIdMaps(puppet.pid, plan.ids);
  lap("apart: id maps");
  endPuppet(puppet);
  lap("");
}

/** From the start of Bun to a module that is loaded. */
async function live(
  confined: Confined,
  { data, lane }: { readonly data: number; readonly lane: DescriptorLane },
  { source, lap }: { readonly source: string; readonly lap: Lap },
): Promise<Channel> {
  const filter = confined.closingFilter;
  const head = Uint32Array.of(filter.length, confined.closingFlags, LIMITS.window.messages, LIMITS.window.bytes);
  const prologue = Buffer.concat([new Uint8Array(head.buffer), filter]);
  self.call("write", data, prologue, prologue.length);
  const { promise: ready, resolve, reject } = Promise.withResolvers<void>();
  const channel = await connect(data, {
    role: "host",
    descriptors: lane,
    hooks: {
      onHello() {
        lap("Bun and the boot file, until hello");
        confined.verify();
        lap("verified from outside");
        channel.start({ name: "sum.ts", env: {}, argv: [], directory: null, script: false, exercise: false }, source);
      },
      onReady() {
        lap("code, until ready");
        resolve();
      },
      onFailed: reject,
      onViolation: reject,
    },
  });
  void channel.closed.then(() => lane.close());
  await ready;
  return channel;
}
