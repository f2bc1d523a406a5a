/** What is kept while nobody looks: the host is stopped, or the Worker has ended that was to look. */
import { describe, expect } from "bun:test";
import { fileURLToPath } from "node:url";
import { children } from "../platform/strings.ts";
import { testBox } from "../src/box.ts";
import { until } from "./arena.ts";

const script = fileURLToPath(new URL("./fixtures/absent.ts", import.meta.url));

async function firstLine(stream: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  for await (const bytes of stream) {
    text += new TextDecoder().decode(bytes);
    if (text.includes("\n")) break;
  }
  return text;
}

describe("wallTime of a container ends it", () => {
  for (const how of ["stopped", "terminated"] as const)
    testBox(`by its first process, where who is to end it was ${how}`, async () => {
      const host = Bun.spawn([process.execPath, script, how], { stdio: ["ignore", "pipe", "inherit"] });
      try {
        const [limited, other] = JSON.parse(await firstLine(host.stdout)) as [number, number];
        // A host that is stopped reaps nobody.
        const runs = (pid: number) => children(host.pid).some((child) => child.pid === pid && child.state !== "Z");
        expect([runs(limited), runs(other)]).toEqual([true, true]);
        await until(() => !runs(limited));
        expect(runs(other)).toBe(true);
      } finally {
        host.kill("SIGKILL");
        await host.exited;
      }
    });
});
