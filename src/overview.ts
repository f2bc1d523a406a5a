/** What runs in hosts, as lines for people. */
import type { Inspection } from "./inspection.ts";
import { harmless } from "./output.ts";
import type { Snapshot } from "./snapshot.ts";
import { type Column, fit, shortCount, shortSize, shortTime, table } from "./table.ts";

/** A host as it was seen last, and the time before. */
export interface Sight {
  readonly now: Snapshot;
  readonly before?: Snapshot;
}

/** By what rows are ordered: the most at first, or by name. */
export type Order = "cpu" | "memory" | "name";

interface Row {
  readonly host: Snapshot;
  readonly member: Inspection;
  /** Of one processor. */
  readonly percent: number;
}

export interface Overview {
  /** What it comes to. */
  readonly summary: string;
  readonly titles: string;
  readonly rows: readonly string[];
}

export function overview(sights: readonly Sight[], order: Order, width: number): Overview {
  const rows = sights
    .flatMap((sight) => sight.now.members.map((member) => rowOf(sight, member)))
    .toSorted(
      (a, b) => ORDERS[order](a, b) || a.member.name.localeCompare(b.member.name) || a.member.pid - b.member.pid,
    );
  const columns = sights.length > 1 ? [HOST, ...COLUMNS] : COLUMNS;
  const [titles = "", ...lines] = table(columns, rows, width);
  return { summary: fit(summaryOf(sights, rows), width), titles, rows: lines };
}

const ORDERS: Readonly<Record<Order, (a: Row, b: Row) => number>> = {
  cpu: (a, b) => b.percent - a.percent,
  memory: (a, b) => b.member.usage.memoryBytes - a.member.usage.memoryBytes,
  name: () => 0,
};

const HOST: Column<Row> = { title: "HOST", cell: ({ host }) => String(host.pid) };
const COLUMNS: readonly Column<Row>[] = [
  { title: "NAME", left: true, flexible: true, cell: ({ member }) => member.name },
  { title: "KIND", spare: true, left: true, cell: ({ member }) => member.kind },
  { title: "PID", spare: true, cell: ({ member }) => String(member.pid) },
  { title: "STATE", left: true, cell: ({ member }) => member.state },
  { title: "CPU%", cell: ({ percent }) => percent.toFixed(1) },
  { title: "MEMORY", cell: ({ member }) => shortSize(member.usage.memoryBytes) },
  { title: "PEAK", spare: true, cell: ({ member }) => shortSize(member.usage.peakBytes) },
  { title: "IN", cell: ({ member }) => countOf(member.usage.messagesIn) },
  { title: "OUT", cell: ({ member }) => countOf(member.usage.messagesOut) },
  { title: "CALLS", cell: ({ member }) => shortCount(member.callsPending) },
  { title: "DENIED", cell: ({ member }) => shortCount(member.denials) },
  { title: "AGE", spare: true, cell: ({ host, member }) => shortTime((host.at - member.startedAt) / 1000) },
];

const countOf = (count: number | undefined) => (count === undefined ? "-" : shortCount(count));

/** The processor time of the last interval; of its whole life, where it was not seen before. */
function rowOf({ now, before }: Sight, member: Inspection): Row {
  const same = before?.members.find(({ pid, startedAt }) => pid === member.pid && startedAt === member.startedAt);
  const used = member.usage.cpuMs - (same?.usage.cpuMs ?? 0);
  const time = now.at - (same === undefined ? member.startedAt : before!.at);
  return { host: now, member, percent: time > 0 ? Math.max(0, (100 * used) / time) : 0 };
}

function summaryOf(sights: readonly Sight[], rows: readonly Row[]): string {
  if (sights.length === 0) return "no host has answered yet";
  const sum = (of: (row: Row) => number) => rows.reduce((total, row) => total + of(row), 0);
  const more = sights.reduce((total, { now }) => total + now.more, 0);
  const [only] = sights;
  const whose = sights.length === 1 ? `host ${only!.now.pid} ${harmless(only!.now.host)}` : `${sights.length} hosts`;
  const shown = more === 0 ? `${rows.length} running` : `${rows.length} of ${rows.length + more} running`;
  const memory = shortSize(sum(({ member }) => member.usage.memoryBytes));
  return `${whose}, ${shown}, CPU ${sum(({ percent }) => percent).toFixed(1)}%, memory ${memory}`;
}
