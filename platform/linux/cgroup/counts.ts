/** What a control group counts, from its files. `cgroups(7)` */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { SCARCE, type Stalls } from "../../platform.ts";
import type { Tree } from "./search.ts";

/** Of all processes that are or were in it, together. What no controller counts is left out. */
export interface Counts {
  readonly cpuMicroseconds?: number;
  /** Bytes in use now, and the most that ever were: what processes touched, what the kernel holds for them, files they were first to read. */
  readonly memory?: number;
  readonly memoryPeak?: number;
  /** Processes that the kernel ended for want of memory: because of the group's limit, of one above it, or of the machine's. */
  readonly memoryEnds?: number;
  /** Whether it ever was the group's own limit that left nothing: in v1, whether it was ever full. */
  readonly memoryReached?: boolean;
  /** How often `memory.high` was passed. */
  readonly memoryWarnings?: number;
  /** Processes and threads now, and how many more were refused. */
  readonly processes?: number;
  readonly processesRefused?: number;
  /** Bytes that devices read and wrote for it. What is written later counts later. */
  readonly readBytes?: number;
  readonly writtenBytes?: number;
  /** In v2, where the kernel looks at pressure: CONFIG_PSI, unless it was booted without. */
  readonly stalls?: Stalls;
}

/** The kernel charges for no more at once without doing with less: what did not fit is no larger. */
const LARGEST_CHARGE = 2 ** 18;

/** The counts of a directory. Throws the error of a file that should be there. */
export function countsOf(directory: string, { version, controllers }: Pick<Tree, "version" | "controllers">): Counts {
  const read = (file: string) => readFileSync(join(directory, file), "utf8");
  const maybe = (file: string) => {
    try {
      return read(file);
    } catch {
      return undefined;
    }
  };
  const counts: { -readonly [Name in keyof Counts]: Counts[Name] } = {};
  const all = version === 2;
  for (const controller of controllers) {
    switch (controller) {
      case "usage":
        counts.cpuMicroseconds = all ? field(read("cpu.stat"), "usage_usec") : Number(read("cpuacct.usage")) / 1000;
        break;
      case "memory": {
        const events = read(all ? "memory.events" : "memory.oom_control");
        counts.memory = Number(read(all ? "memory.current" : "memory.usage_in_bytes"));
        const peak = maybe(all ? "memory.peak" : "memory.max_usage_in_bytes"); // in v2 since Linux 5.19
        if (peak !== undefined) counts.memoryPeak = Number(peak);
        counts.memoryEnds = field(events, "oom_kill");
        counts.memoryReached = all
          ? field(events, "oom") > 0
          : Number(peak) > Number(read("memory.limit_in_bytes")) - LARGEST_CHARGE;
        if (all) counts.memoryWarnings = field(events, "high");
        break;
      }
      case "pids":
        counts.processes = Number(read("pids.current"));
        counts.processesRefused = field(read("pids.events"), "max");
        break;
      case "io": {
        const [readBytes, writtenBytes] = all ? devices(read("io.stat")) : legacyDevices(maybe(RECURSIVE) ?? "");
        counts.readBytes = readBytes;
        counts.writtenBytes = writtenBytes;
      }
    }
  }
  const pressures = all ? SCARCE.map((what) => maybe(`${what}.pressure`)) : [];
  const [cpu, memory, io] = pressures.map((text) => text && stallOf(text));
  if (cpu && memory && io) counts.stalls = { cpu, memory, io };
  return counts;
}

/** `some avg10=0.00 avg60=0.00 avg300=0.00 total=4711`, and the same of `full`, which `cpu` has since Linux 5.13. */
export function stallOf(text: string): { readonly some: number; readonly full: number } {
  const total = (kind: string) => Number(new RegExp(`^${kind} .*total=(\\d+)$`, "m").exec(text)?.[1] ?? 0);
  return { some: total("some"), full: total("full") };
}

const RECURSIVE = "blkio.throttle.io_service_bytes_recursive";

/** The number behind a name at the start of a line; 0 where there is no such line. */
export function field(text: string, name: string): number {
  const found = text.split("\n").find((line) => line.startsWith(`${name} `));
  return found === undefined ? 0 : Number(found.slice(name.length + 1));
}

/** `254:0 rbytes=4096 wbytes=0 rios=1 ...` of all devices together. */
export function devices(text: string): [readBytes: number, writtenBytes: number] {
  const sum = (name: string) =>
    [...text.matchAll(new RegExp(` ${name}=(\\d+)`, "g"))].reduce((total, [, bytes]) => total + Number(bytes), 0);
  return [sum("rbytes"), sum("wbytes")];
}

/** `254:0 Read 4096` of all devices together. */
export function legacyDevices(text: string): [readBytes: number, writtenBytes: number] {
  const sum = (name: string) =>
    [...text.matchAll(new RegExp(`^\\d+:\\d+ ${name} (\\d+)$`, "gm"))].reduce(
      (total, [, bytes]) => total + Number(bytes),
      0,
    );
  return [sum("Read"), sum("Write")];
}
