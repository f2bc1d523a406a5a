/** How fast do large bytes travel? Each way and there and back, beside `Worker`, which copies them too, and `Bun.spawn`. */
import { compare, digits, median, quantile, type Sample, table } from "./measure.ts";
import { actor, child, type Peer, worker } from "./peers.ts";

const MEBIBYTE = new Uint8Array(2 ** 20).fill(7);

/** Each way, and the MiB that it moves. */
const WAYS = [
  { title: "to the peer", moved: 1, run: (peer: Peer) => peer.call("length", MEBIBYTE) },
  { title: "from the peer", moved: 1, run: (peer: Peer) => peer.call("bytes") },
  { title: "there and back", moved: 2, run: (peer: Peer) => peer.call("echo", MEBIBYTE) },
];

const peers = [await actor(), await worker(), await child("advanced")];
for (const { title, moved, run } of WAYS) {
  const samples = await compare(
    peers.map((peer) => ({
      title: peer.title,
      run: async () => void (await run(peer)),
      figure: (milliseconds: number) => (moved * 2 ** 20) / 1e3 / milliseconds,
    })),
    { rounds: 30, runs: 10, warm: 5 },
  );
  const [ours, rival] = samples as [Sample, Sample];
  // Where more is better, the slow end is the p10.
  const row = (sample: Sample) => [sample.title, median(sample), quantile(sample, 1), quantile(sample, 0.1)];
  console.log(
    `${table([
      [`1 MiB ${title}, MB/s`, "median", "best", "p10"],
      ...samples.map((sample) => row(sample).map((cell) => (typeof cell === "number" ? digits(cell) : cell))),
    ])}\nratio to Worker: ${digits(median(ours) / median(rival))} (aim: at least 2)\n`,
  );
}
await Promise.all(peers.map((peer) => peer.close()));
