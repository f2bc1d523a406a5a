/** How late are the host's timers while actors flood it with messages? With turns, and without. */
import { type Actor, spawn } from "../src/index.ts";
import { turns } from "../src/turns.ts";
import { digits, median, quantile, type Sample, table } from "./measure.ts";

type Floods = typeof import("./peers/floods.ts");
const module = new URL("peers/floods.ts", import.meta.url);
const SAMPLES = 200;

/** Runs timers of 5 ms, and notes by how much each was late. */
async function lateness(title: string): Promise<Sample> {
  const values: number[] = [];
  for (let left = SAMPLES; left > 0; left--) {
    const start = performance.now();
    await new Promise((resolve) => setTimeout(resolve, 5));
    values.push(performance.now() - start - 5);
  }
  return { title, values: values.toSorted((a, b) => a - b) };
}

let received = 0;
async function take(actor: Actor<Floods>): Promise<void> {
  try {
    for await (const _ of actor) received++;
  } catch {
    // It was ended.
  }
}

async function flooded(count: number, title: string): Promise<[Sample, number]> {
  const actors = await Promise.all(Array.from({ length: count }, () => spawn<Floods>(module)));
  const taking = actors.map(take);
  for (const actor of actors) void actor.call.flood().catch(() => {});
  const [start, before] = [performance.now(), received];
  const sample = await lateness(title);
  const rate = (received - before) / (performance.now() - start);
  for (const actor of actors) actor.kill();
  await Promise.all([...taking, ...actors.map(({ exited }) => exited)]);
  return [sample, rate];
}

const admits = turns.admits.bind(turns);
const rows: [Sample, number][] = [[await lateness("nobody"), 0]];
for (const count of [1, 10]) {
  turns.admits = () => true;
  rows.push(await flooded(count, `${count}, without turns`));
  turns.admits = admits;
  rows.push(await flooded(count, `${count}, in turns`));
}
console.log(
  table([
    ["a timer of 5 ms is late by, ms", "median", "p90", "max", "messages/ms"],
    ...rows.map(([sample, rate]) => [
      sample.title,
      ...[median(sample), quantile(sample, 0.9), quantile(sample, 1), rate].map(digits),
    ]),
  ]),
);
