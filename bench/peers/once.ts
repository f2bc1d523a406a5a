/** What `Bun.spawn` runs for one call: it takes the request, answers, and ends. */
import { answer } from "./answer.ts";

process.on(
  "message",
  answer((message) => process.send?.(message, undefined, undefined, () => process.exit())),
);
