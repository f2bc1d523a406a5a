/** What is written into the files of a control group so that it keeps limits. Pure. `cgroups(7)`, the kernel's `cgroup-v2` and `cgroup-v1` documents */
import type { Controller } from "./hierarchy.ts";

/** What a group is to keep. What is left out is not limited. */
export interface Budget {
  /** Memory of all processes together, in bytes: what they touched, what the kernel holds for them, and files that they were the first to read. */
  readonly memory?: number | undefined;
  /** Beside `memory`, in bytes. */
  readonly swap?: number | undefined;
  /** Processes and threads. */
  readonly processes?: number | undefined;
  /** Processors' worth of time: 0.5 is half of one. */
  readonly cpu?: number | undefined;
  /** Bytes in a second, of each device. */
  readonly diskRead?: number | undefined;
  readonly diskWrite?: number | undefined;
  /** Which devices that is about, as `major:minor`. */
  readonly devices?: readonly string[];
}

/** A file of a group, and what is written into it. Where it `maybe` is not there, nothing is kept by it. */
export interface Setting {
  readonly file: string;
  readonly value: string;
  readonly maybe?: true;
}

/** In which the share of a processor is measured: 100 ms, the kernel's own. */
export const PERIOD_US = 100_000;
/** The kernel takes no quota below a millisecond. */
const LEAST_QUOTA_US = 1000;

/** The controllers that a budget needs. */
export function controllersOf(budget: Budget): Controller[] {
  const needed: readonly (readonly [Controller, readonly (keyof Budget)[]])[] = [
    ["memory", ["memory", "swap"]],
    ["pids", ["processes"]],
    ["cpu", ["cpu"]],
    ["io", ["diskRead", "diskWrite"]],
  ];
  return needed.filter(([, keys]) => keys.some((key) => budget[key] !== undefined)).map(([controller]) => controller);
}

/** What is written, in this order, into a group that has these controllers. */
export function settingsOf(budget: Budget, version: 1 | 2, controllers: readonly Controller[]): Setting[] {
  const all = version === 2 ? unified(budget) : legacy(budget);
  return all.filter(([controller]) => controllers.includes(controller)).map(([, setting]) => setting);
}

type Placed = readonly [Controller, Setting];

/** Settings, and what adds one. */
function list() {
  const settings: Placed[] = [];
  const set = (controller: Controller, file: string, value: string | number, maybe = false) =>
    settings.push([controller, { file, value: `${value}`, ...(maybe ? { maybe } : {}) }]);
  return { settings, set };
}

function unified({ memory, swap, processes, cpu, ...disk }: Budget): Placed[] {
  const { settings, set } = list();
  if (memory !== undefined) {
    set("memory", "memory.max", memory);
    // One process of several that is missing is worse than all of them ended.
    set("memory", "memory.oom.group", 1, true);
  }
  if (swap !== undefined) set("memory", "memory.swap.max", swap, true);
  if (processes !== undefined) set("pids", "pids.max", processes);
  if (cpu !== undefined) set("cpu", "cpu.max", `${quotaOf(cpu)} ${PERIOD_US}`);
  for (const device of disk.devices ?? []) {
    const rates = [
      ...(disk.diskRead === undefined ? [] : [`rbps=${disk.diskRead}`]),
      ...(disk.diskWrite === undefined ? [] : [`wbps=${disk.diskWrite}`]),
    ];
    if (rates.length > 0) set("io", "io.max", `${device} ${rates.join(" ")}`);
  }
  return settings;
}

function legacy({ memory, swap, processes, cpu, ...disk }: Budget): Placed[] {
  const { settings, set } = list();
  if (memory !== undefined) {
    set("memory", "memory.limit_in_bytes", memory);
    // Both together; the kernel wants this one behind the other. It has none where swap is not counted.
    if (swap !== undefined) set("memory", "memory.memsw.limit_in_bytes", memory + swap, true);
    // Buffers of TCP are no part of the other, and not so much as counted without a limit of their own.
    set("memory", "memory.kmem.tcp.limit_in_bytes", memory, true);
  }
  if (processes !== undefined) set("pids", "pids.max", processes);
  if (cpu !== undefined) {
    set("cpu", "cpu.cfs_period_us", PERIOD_US);
    set("cpu", "cpu.cfs_quota_us", quotaOf(cpu));
  }
  for (const device of disk.devices ?? []) {
    if (disk.diskRead !== undefined) set("io", "blkio.throttle.read_bps_device", `${device} ${disk.diskRead}`);
    if (disk.diskWrite !== undefined) set("io", "blkio.throttle.write_bps_device", `${device} ${disk.diskWrite}`);
  }
  return settings;
}

const quotaOf = (cpu: number): number => Math.max(LEAST_QUOTA_US, Math.round(cpu * PERIOD_US));
