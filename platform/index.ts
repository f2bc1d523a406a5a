/** The one place that names the operating system. */
import * as linux from "./linux/index.ts";
import type { Platform } from "./platform.ts";
import { unsupported } from "./unsupported.ts";

export { parsePromises, promiseOf } from "./linux/promises.ts";
export { GROUPS, type Group } from "./linux/seccomp/groups.ts";
export { SIGNATURES } from "./linux/supervise/signatures.ts";
export * from "./platform.ts";

export const platform: Platform = process.platform === "linux" && process.arch === "x64" ? linux : unsupported;
