/** How late are the host's timers while actors flood it with messages, with turns and without; and while programs print without end? */
import { type Actor, exec, spawn } from "../src/index.ts";
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

async function printed(count: number): Promise<[Sample, number]> {
  let bytes = 0;
  const argv = ["head", "-c", "1000G", "/dev/zero"];
  const programs = await Promise.all(
    Array.from({ length: count }, () => exec(argv, { stdin: "ignore", stderr: "ignore" })),
  );
  const taking = programs.map(async ({ stdout }) => {
    for await (const { length } of stdout!) bytes += length;
  });
  const start = performance.now();
  const sample = await lateness(`${count}`);
  const rate = bytes / 2 ** 20 / (performance.now() - start);
  for (const program of programs) program.kill();
  await Promise.all([...taking, ...programs.map(({ exited }) => exited)]);
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
const results = (heading: string, rate: string, rows: readonly [Sample, number][]) =>
  table([
    [heading, "median", "p90", "max", rate],
    ...rows.map(([sample, rate]) => [
      sample.title,
      ...[median(sample), quantile(sample, 0.9), quantile(sample, 1), rate].map(digits),
    ]),
  ]);
console.log(results("actors send; a timer of 5 ms is late by, ms", "messages/ms", rows));
console.log(`\n${results("programs print; it is late by, ms", "MiB/ms", [await printed(1), await printed(8)])}`);
