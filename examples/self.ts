/** A program that gives up what it needs no more: it listens already, and from there on only reads one directory. */
import { readFileSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { confine } from "caisson/self";

const here = import.meta.dirname;
using server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch: async () => new Response(await readFile(join(here, "hello.ts"))),
});

const { enforcement } = confine({ read: [here], promises: "stdio rpath inet" });
console.log(`files are kept by ${enforcement.files.join(" and ")}`);

async function attempt(what: string, act: () => unknown): Promise<void> {
  try {
    await act();
    console.log(`works   ${what}`);
  } catch (error) {
    console.log(`${(error as NodeJS.ErrnoException).code?.padEnd(7)} ${what}`);
  }
}

await attempt("answering requests", async () => (await fetch(server.url)).text());
await attempt("reading /etc/passwd, at once", () => readFileSync("/etc/passwd"));
await attempt("reading /etc/passwd, later, in another thread", () => readFile("/etc/passwd"));
await attempt("writing where it may read", () => writeFileSync(join(here, "hello.ts"), ""));
await attempt("starting a program", () => Bun.spawnSync(["/bin/true"]));
await attempt("taking back what it gave up", () => {
  confine({ read: ["/etc"] });
  readFileSync("/etc/passwd");
});
