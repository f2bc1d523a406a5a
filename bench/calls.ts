/** What does a call cost? Beside `Bun.spawn` with IPC and `Worker`, which carry the bare value and no name, number or error. */
import { compare, digits, median, quantile, type Sample, table } from "./measure.ts";
import { SMALL } from "./peers/work.ts";
import { actor, child, type Peer, worker } from "./peers.ts";

const IN_FLIGHT = 100;

/** Where the scheduler puts two processes decides more than code does, so both are shown. */
const PLACES = [
  { title: "all on one core", command: ["taskset", "-c", "0"] },
  { title: "placed freely", command: [] },
];

async function race(place: string): Promise<void> {
  const peers = [await actor(), await child("json"), await child("advanced"), await worker()];
  const one = await compare(
    peers.map((peer) => ({
      title: peer.title,
      run: async () => void (await peer.call("echo", SMALL)),
      figure: (milliseconds: number) => milliseconds * 1e3,
    })),
    { rounds: 60, runs: 100, warm: 20 },
  );
  const row = (sample: Sample) => [median(sample), quantile(sample, 0), quantile(sample, 0.9)].map(digits);
  print(
    `${place}: 100 bytes there and back, µs`,
    ["median", "min", "p90"],
    one,
    row,
    (ours, best) => median(best) / median(ours),
  );

  const many = await compare(
    peers.map((peer) => ({
      title: peer.title,
      run: async () => void (await Promise.all(Array.from({ length: IN_FLIGHT }, () => peer.call("echo", SMALL)))),
      figure: (milliseconds: number) => IN_FLIGHT / milliseconds,
    })),
    { rounds: 60, runs: 5, warm: 20 },
  );
  const rates = (sample: Sample) => [median(sample), quantile(sample, 1), quantile(sample, 0.1)].map(digits);
  print(
    `${place}: ${IN_FLIGHT} at once, thousand calls/s`,
    ["median", "best", "p10"],
    many,
    rates,
    (ours, best) => median(ours) / median(best),
  );
  await Promise.all(peers.map((peer: Peer) => peer.close()));
}

/** Prints a table, and how many times the calls of the better IPC ours are. */
function print(
  title: string,
  columns: readonly string[],
  samples: readonly Sample[],
  row: (sample: Sample) => readonly string[],
  ratio: (ours: Sample, theirs: Sample) => number,
): void {
  const [ours, json, advanced] = samples as [Sample, Sample, Sample];
  const better = Math.min(ratio(ours, json), ratio(ours, advanced));
  console.log(table([[title, ...columns], ...samples.map((sample) => [sample.title, ...row(sample)])]));
  console.log(`calls/s, ratio to the better IPC: ${digits(better)} (aim: above 1)\n`);
}

const [place] = process.argv.slice(2);
if (place !== undefined) await race(place);
else {
  for (const { title, command } of PLACES) {
    if (command[0] !== undefined && Bun.which(command[0]) === null) {
      console.log(`${title}: left out, ${command[0]} is not installed\n`);
      continue;
    }
    await Bun.spawn([...command, process.execPath, import.meta.path, title], {
      stdio: ["ignore", "inherit", "inherit"],
    }).exited;
  }
}
