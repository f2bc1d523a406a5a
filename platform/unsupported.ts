/** Where caisson has no walls: everything that would need one throws. */
import type { Platform } from "./platform.ts";

function refuse(): never {
  throw new Error(`Cannot start anything on ${process.platform} ${process.arch}: caisson runs on Linux x64 so far`);
}

export const unsupported: Platform = {
  confine: refuse,
  mapsFor: refuse,
  contain: refuse,
  execute: refuse,
  sandbox: refuse,
  programOf: refuse,
  observe: refuse,
  filters: refuse,
  attach: refuse,
  drive: refuse,
  confineSelf: refuse,
  setNoNewPrivs: refuse,
  dropCapabilities: refuse,
  enforcement: refuse,
  abilities: () => [],
};
