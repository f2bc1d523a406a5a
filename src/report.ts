/** Denials on the command line: each put into words, once. */
import { type Denial, describeDenial } from "./denial.ts";
import type { DenialEvent } from "./denials.ts";

/** So many are told of; what runs inside can cause any number. */
const MOST_TOLD = 64;

/** Puts denials into words as they come, each once. Settles when there are no more. */
export async function report(
  events: AsyncIterable<DenialEvent>,
  take: (text: string) => void | Promise<void>,
): Promise<void> {
  const known = new Set<string>();
  let more = 0;
  for await (const { lost, ...denial } of events) {
    more += lost;
    const text = describeDenial(denial);
    if (known.has(text)) continue;
    if (known.size === MOST_TOLD) more++;
    else {
      known.add(text);
      await take(text);
    }
  }
  if (more > 0) await take(`caisson denied: ${more} more`);
}

/** Waits until there are no more: some are told only after the end of what was refused them. */
export async function lastOf(events: AsyncIterable<Denial>): Promise<void> {
  for await (const _ of events);
}
