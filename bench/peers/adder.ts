/** What `Bun.spawn` runs beside an actor of `sum.ts`: the same code, and the little that makes it answer. */
import { add } from "./sum.ts";

process.on("message", ([a, b]: [number, number]) => process.send?.(add(a, b)));
process.send?.("ready");
