/** Policies that grant nothing, but what a test says. */
import type { Policy } from "../../platform/platform.ts";

export const policy = (more: Partial<Policy> = {}): Policy => ({
  read: [],
  write: [],
  run: [],
  net: [],
  env: {},
  limits: { memory: 512 * 2 ** 20, processes: 1, files: 256, fileSize: 2 ** 26, tmpfs: 2 ** 26 },
  allowUnenforced: [],
  promises: undefined,
  unveil: [],
  onBreak: "errno",
  names: [],
  ...more,
});
