/** The contestant as a process of `Bun.spawn` with IPC. */
import { answer } from "./answer.ts";

process.on(
  "message",
  answer((message) => process.send?.(message)),
);
process.send?.("ready");
