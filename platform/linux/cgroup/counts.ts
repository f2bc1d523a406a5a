/** What a control group counts, from its files. `cgroups(7)` */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Tree } from "./home.ts";

/** Of all processes that are or were in it, together. What no controller counts is left out. */
export interface Counts {
  readonly cpuMicroseconds?: number;
  /** Bytes in use now, and the most that ever were: what processes touched, what the kernel holds for them, files they were first to read. */
  readonly memory?: number;
  readonly memoryPeak?: number;
  /** Processes that the memory limit ended. */
  readonly memoryEnds?: number;
  /** How often `memory.high` was passed. */
  readonly memoryWarnings?: number;
  /** Processes and threads now, and how many more were refused. */
  readonly processes?: number;
  readonly processesRefused?: number;
  /** Bytes that devices read and wrote for it. What is written later counts later. */
  readonly readBytes?: number;
  readonly writtenBytes?: number;
}

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
  return counts;
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
