/** The one place that names the operating system. */
import * as linux from "./linux/index.ts";
import type { Platform } from "./platform.ts";
import { unsupported } from "./unsupported.ts";

export * from "./platform.ts";

export const platform: Platform = process.platform === "linux" && process.arch === "x64" ? linux : unsupported;
