/** Times of many runs, taken in turns, and how they are printed. */

/** What was measured of one contestant. */
export interface Sample {
  readonly title: string;
  /** Sorted, the least first. */
  readonly values: readonly number[];
}

export interface Contest {
  readonly title: string;
  /** Does the act once, and returns what counts; where it returns nothing, the milliseconds count. */
  run(): Promise<unknown>;
  /** Milliseconds where nothing else is said: turns what `run` returned, or the time, into the figure. */
  figure?(milliseconds: number): number;
}

export interface Rounds {
  readonly rounds: number;
  /** Runs of one contestant before it is the next one's turn. */
  readonly runs?: number;
  /** Rounds that do not count, in which code gets compiled. */
  readonly warm?: number;
}

/** Runs all in turns, so that what else the machine does strikes all alike. */
export async function compare(contests: readonly Contest[], { rounds, runs = 1, warm = 1 }: Rounds): Promise<Sample[]> {
  const values = contests.map((): number[] => []);
  for (let round = -warm; round < rounds; round++) {
    for (const [index, { run, figure }] of contests.entries()) {
      for (let left = runs; left > 0; left--) {
        const start = performance.now();
        const found = await run();
        const time = typeof found === "number" ? found : performance.now() - start;
        if (round >= 0) values[index]!.push(figure?.(time) ?? time);
      }
    }
  }
  return contests.map(({ title }, index) => ({ title, values: values[index]!.toSorted((a, b) => a - b) }));
}

/** The value below which this share of all lies. */
export function quantile({ values }: Sample, share: number): number {
  return values[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Number.NaN;
}
export const median = (sample: Sample): number => quantile(sample, 0.5);

/** Lines up rows under headings: the first column to the left, figures to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** Three significant figures, in plain digits. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2);
}
