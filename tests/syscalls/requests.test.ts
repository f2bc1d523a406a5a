// Options and requests that no generator reads, against the headers that they are from.
import { expect } from "bun:test";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as requests from "../../syscalls/linux/requests.ts";
import { testIf } from "./requirement.ts";

const cc = Bun.which("cc") ?? Bun.which("gcc");
const HEADERS = [
  "netinet/in.h",
  "netinet/tcp.h",
  "linux/udp.h",
  "linux/sockios.h",
  "sound/asound.h",
  "linux/videodev2.h",
  "linux/falloc.h",
];
const present = cc !== null && HEADERS.every((name) => existsSync(join("/usr/include", name)));
const testC = testIf(
  "cc",
  present,
  "there is no C compiler, or no headers of the kernel and of libc (Debian: libc6-dev)",
);

/** The C name of each of ours. */
const named = Object.entries(requests).flatMap(([table, values]) =>
  Object.entries(values).map(([name, value]) => [`${table}${table === "SIOC" ? "" : "_"}${name}`, value] as const),
);

testC("every request has the number that C gives it", () => {
  const directory = mkdtempSync(join(tmpdir(), "caisson-requests-"));
  try {
    const [source, program] = [join(directory, "requests.c"), join(directory, "requests")];
    const lines = named.map(([name]) => `printf("%s %lu\\n", "${name}", (unsigned long)(unsigned)(${name}));`);
    const includes = [...HEADERS.map((name) => `<${name}>`), "<stdio.h>"].map((name) => `#include ${name}\n`);
    writeFileSync(source, `#include <time.h>\n${includes.join("")}int main(void) { ${lines.join("\n")} }\n`);
    const { exitCode, stderr } = Bun.spawnSync([cc!, "-o", program, source]);
    if (exitCode !== 0) throw new Error(stderr.toString());
    const said = Bun.spawnSync([program]).stdout.toString().trim().split("\n");
    expect(said).toEqual(named.map(([name, value]) => `${name} ${value}`));
  } finally {
    rmSync(directory, { recursive: true });
  }
});
