/** Where caisson has no walls: everything that would need one throws. */
import type { Platform } from "./platform.ts";

function refuse(): never {
  throw new Error(`Cannot start an actor on ${process.platform} ${process.arch}: caisson runs on Linux x64 so far`);
}

export const unsupported: Platform = { confine: refuse, enforcement: refuse, abilities: () => [] };
