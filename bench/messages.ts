/** How many small messages pass one way? Beside `Worker` and `Bun.spawn` with IPC, which do without back-pressure. */
import { compare, digits, median, quantile, type Sample, table } from "./measure.ts";
import { actor, child, type Peer, worker } from "./peers.ts";

const COUNT = 20_000;
const WAYS = [
  { title: "to the peer", run: (peer: Peer) => peer.pour(COUNT) },
  { title: "from the peer", run: (peer: Peer) => peer.draw(COUNT) },
];

const peers = [await actor(), await worker(), await child("json")];
for (const { title, run } of WAYS) {
  const samples = await compare(
    peers.map((peer) => ({
      title: peer.title,
      run: async () => void (await run(peer)),
      figure: (milliseconds: number) => COUNT / milliseconds,
    })),
    { rounds: 25, warm: 4 },
  );
  const [ours, rival] = samples as [Sample, Sample];
  const row = (sample: Sample) => [median(sample), quantile(sample, 1), quantile(sample, 0.1)].map(digits);
  console.log(
    `${table([
      [`100 bytes ${title}, thousands/s`, "median", "best", "p10"],
      ...samples.map((sample) => [sample.title, ...row(sample)]),
    ])}\nratio to Worker: ${digits(median(ours) / median(rival))} (aim: above 1)\n`,
  );
}
await Promise.all(peers.map((peer) => peer.close()));
