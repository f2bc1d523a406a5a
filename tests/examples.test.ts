/** Every example, run as a user would run it. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { abilities } from "../platform/linux/abilities.ts";
import { testIf } from "./syscalls/requirement.ts";

setDefaultTimeout(60_000);

const examples = join(import.meta.dir, "../examples");
const temporary = mkdtempSync(join(tmpdir(), "caisson-examples-"));
afterAll(() => rmSync(temporary, { recursive: true }));

interface Run {
  readonly code: number;
  readonly output: string;
  readonly error: string;
}

async function run(example: string, ...args: string[]): Promise<Run> {
  const child = Bun.spawn([process.execPath, join(examples, example), ...args], {
    env: { ...process.env, TMPDIR: temporary },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, error, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code, output, error };
}

/** What a table has in the line that begins with a name. */
function lineOf({ output }: Run, name: string): string {
  const line = output.split("\n").find((line) => line.trim().startsWith(name));
  if (line === undefined) throw new Error(`No line begins with ${name} in:\n${output}`);
  return line.trim().slice(name.length).trim();
}

/** An error that the code can catch, or a crash of Bun where it was Bun itself that needed the memory. */
/** By a control group, where one is to be had; else by an error, or a crash of the engine. */
const NO_MEMORY = /(it reached its limit memory|Out of memory|Actor \w+ ended: SIG(ILL|TRAP|ABRT|SEGV) ended it)$/;

test("hello prints what the actor answers, from a world with one process", async () => {
  const { code, output } = await run("hello.ts");
  expect(output).toBe("Hello, world, from process 1 of a world that has no other\n");
  expect(code).toBe(0);
});

describe("parse-untrusted", () => {
  let whole: Run;
  beforeAll(async () => {
    whole = await run("parse-untrusted.ts");
  }, 60_000);

  test("extracts the text of what real tools wrote", () => {
    expect(lineOf(whole, "pressure.pdf")).toContain("2 page(s), 839 characters: Work under Pressure");
    expect(lineOf(whole, "letter.pdf")).toContain("1 page(s), 129 characters: Grüße von der Baustelle!");
  });

  test("says of the broken and the hostile document why they have no text", () => {
    expect(lineOf(whole, "broken.pdf")).toEndWith("no text: Invalid PDF structure.");
    expect(lineOf(whole, "bomb.pdf")).toMatch(NO_MEMORY);
  });

  test.each([
    ["read the user's ssh key", "works", "EPERM from open"],
    ["open it by a system call of its own", "works", "-1 from open, errno 1"],
    ["list the user's files", "works", "EPERM from scandir"],
    ["plant a line in .bashrc", "works", "EPERM from open"],
    ["find a token in the environment", "works", "not set, nor is anything else: {}"],
    ["connect out", "works", "EPERM"],
    ["start a program", "works", "EPERM from socketpair"],
    ["send the host a signal", "works", "EPERM from kill"],
    ["spin forever", "not tried", "Actor hostile was ended: it reached its limit cpuTime"],
  ])("shows how it goes without walls and inside to %s", (attempt, without, inside) => {
    expect(lineOf(whole, attempt).split(/ {2,}/)).toEqual([without, inside]);
  });

  test("shows that memory has an end", () => {
    expect(lineOf(whole, "fill the memory")).toMatch(NO_MEMORY);
  });

  test("exits with 0 as everything was refused, and says nothing else", () => {
    expect(whole.output).toEndWith("\n10 of 10 attempts refused.\n");
    expect(whole.error).toBe("");
    expect(whole.code).toBe(0);
  });

  test("takes documents of the user's, and exits with 1 when one has no text", async () => {
    const documents = ["letter.pdf", "broken.pdf"].map((name) => join(examples, "pdf", name));
    const { code, output } = await run("parse-untrusted.ts", ...documents);
    expect(output).toContain("Grüße");
    expect(output).not.toContain("hostile");
    expect(code).toBe(1);
  });
});

describe("untrusted-script", () => {
  test("shows what scripts print, what stopped them, and nothing that acts on a terminal", async () => {
    const { code, output } = await run("untrusted-script.ts");
    const [honest, curious, endless] = output.split(/^\w+\.ts$/m).slice(1);
    const counts = ["3 the", "2 men", "1 in", "1 caisson", "1 and", "1 above", "1 it"].map((line) => `  | ${line}\n`);
    expect(honest).toBe(`\n${counts.join("")}  it is through\n\n`);
    expect(curious).toBe("\n  |  [2Jwhat have we here?\n  EPERM from open\n\n");
    expect(endless).toStartWith("\n  | tick 1\n");
    expect(endless).toEndWith("  Actor endless.ts was ended: it reached its limit wallTime\n");
    expect(code).toBe(0);
  });

  test("runs a script from a file", async () => {
    const script = join(temporary, "sum.ts");
    writeFileSync(script, "console.log([1, 2, 3].reduce((sum, each): number => sum + each)); process.exit(3);");
    const { output } = await run("untrusted-script.ts", script);
    rmSync(script);
    expect(output).toBe("\nsum.ts\n  | 6\n  Actor sum.ts ended: it returned 3\n");
  });
});

const testRoot = testIf("namespaces", abilities().proc !== undefined, "no mount namespace can be made here");

describe("ffmpeg-like", () => {
  const testPdf = testIf("pdftotext", Bun.which("pdftotext") !== null, "there is no pdftotext (Debian: poppler-utils)");

  testPdf("converts what can be, and says why the rest is not", async () => {
    const whole = await run("ffmpeg-like.ts");
    expect(lineOf(whole, "pressure.pdf")).toMatch(/^\d+ characters: Work under Pressure A note on caissons/);
    expect(lineOf(whole, "letter.pdf")).toMatch(/^\d+ characters: Grüße von der Baustelle!/);
    expect(lineOf(whole, "broken.pdf")).toStartWith("not converted: Syntax Error");
    expect(lineOf(whole, "bomb.pdf")).toMatch(
      /^not converted: Program pdftotext was ended: it reached its limit cpuTime$/,
    );
    expect(whole.error).toBe("");
    expect(whole.code).toBe(0);
  });

  testPdf("takes files of the user's", async () => {
    const whole = await run("ffmpeg-like.ts", join(examples, "pdf/letter.pdf"));
    expect(whole.output.trimEnd().split("\n")).toEqual([expect.stringContaining("Grüße")]);
  });

  test("says what to install where there is no such program", async () => {
    const child = Bun.spawnSync([process.execPath, join(examples, "ffmpeg-like.ts")], { env: { PATH: temporary } });
    expect(child.stdout.toString()).toBe(
      "Skipped: there is no pdftotext here, `apt-get install poppler-utils` brings it\n",
    );
    expect(child.exitCode).toBe(0);
  });
});

const debian = abilities().proc === undefined ? undefined : await run("debian-root.ts");
const noTree = debian === undefined ? "no mount namespace" : /^Skipped: (.*)$/m.exec(debian.output)?.[1];

testIf(
  "debian",
  noTree === undefined,
  noTree ?? "",
)("debian-root shows a shell and apt-get in a tree that stays", () => {
  const { output, code } = debian!;
  expect(output).toMatch(/^# cat \/etc\/debian_version\n\S+\n# apt-get --version \| head -n 1\napt \d/);
  expect(output).toContain("cat /proc/sys/kernel/hostname\nchanged\ndebian\n");
  expect(output).toEndWith("\nOn the host, the tree still has no /etc/motd\n");
  expect(code).toBe(0);
});

testRoot("container-by-hand shows its own root and name, what it refuses, and how a failing call ends it", async () => {
  const { output, error, code } = await run("container-by-hand.ts");
  const [holds, refused, gone, ...rest] = output.split("\n");
  expect(holds).toMatch(/^On by-hand, as process \d, \/ holds (\/s?bin )?\/lib (\/lib64 )?\/proc \/usr$/);
  expect(refused).toEndWith("cannot create /usr/mine: Read-only file system");
  expect(gone).toMatch(/^ENOENT: mount \("\/nowhere", "\/mnt".*: the container is gone$/);
  expect(rest).toEqual([""]);
  expect(error).toBe("");
  expect(code).toBe(0);
});

testRoot("serve-a-container reaches servers both ways, and nothing else", async () => {
  const whole = await run("serve-a-container.ts");
  expect(lineOf(whole, "/ ")).toMatch(/^Hello from process \d$/);
  expect(lineOf(whole, "/weather")).toBe("Clear, says the host");
  expect(lineOf(whole, "/out")).toBe("ENETUNREACH");
  expect(lineOf(whole, "The same port on the host:")).toBe("ECONNREFUSED");
  expect(whole.error).toBe("");
  expect(whole.code).toBe(0);
});

testRoot("egress shows what is allowed, what is denied and why, on both sides", async () => {
  const { output, error, code } = await run("egress.ts");
  const lines = output.replaceAll(/127\.0\.0\.1:\d{4,5}/g, "127.0.0.1:PORT").split("\n");
  expect(lines).toEqual([
    "The host decides",
    "  allowed http 127.0.0.1:PORT: rule 127.0.0.1:PORT",
    "  denied  http 127.0.0.1:22: no rule names 127.0.0.1:22 (loopback)",
    "  denied  http 169.254.169.254:80: no rule names 169.254.169.254:80 (metadata)",
    "  denied  http example.org:80: no rule names example.org:80",
    "",
    "The program saw",
    "  200 the answer",
    "  403 Cannot connect to 127.0.0.1:22: no rule names 127.0.0.1:22 (loopback)",
    "  403 Cannot connect to 169.254.169.254:80: no rule names 169.254.169.254:80 (metadata)",
    "  403 Cannot connect to example.org:80: no rule names example.org:80",
    "  without the proxy: ECONNREFUSED",
    "",
  ]);
  expect(error).toBe("");
  expect(code).toBe(0);
});

describe("promises", () => {
  testRoot("shows what programs lacked, and what became of them", async () => {
    const { output, error, code } = await run("promises.ts");
    expect(output.split("\n")).toEqual([
      "sort ./fruit, promising stdio rpath",
      ...["  apple", "  pear", "  quince"],
      "sort -o sorted ./fruit, promising stdio rpath",
      "  sort: open failed: sorted: Operation not permitted",
      "  it lacked wpath cpath, for openat",
      "sort -o sorted ./fruit, promising stdio rpath wpath cpath",
      "rm ./fruit, promising stdio rpath",
      "  ended by SIGKILL",
      "  it lacked cpath, for unlinkat",
      "",
    ]);
    expect(error).toBe("");
    expect(code).toBe(0);
  });
});

describe("broker", () => {
  /** What one of its programs printed, and was asked about. */
  const under = ({ output }: Run, command: string) => output.split("$ ").find((part) => part.startsWith(command))!;
  let whole: Run;
  beforeAll(async () => {
    if (abilities().proc !== undefined) whole = await run("broker.ts");
  });

  const testCurl = testIf("curl", Bun.which("curl") !== null, "there is no curl");
  testCurl("serves curl by a name that exists nowhere", () => {
    expect(under(whole, "curl -sS http://weather").split("\n").slice(1)).toEqual([
      "  asks where weather.example is",
      "  curl connects to 203.0.113.7:80, for weather.example",
      "Clear, says a function that was asked to GET /today HTTP/1.1",
      "(0)",
      "",
      "",
    ]);
  });

  testCurl("refuses it other names, and addresses that it was not given", () => {
    expect(under(whole, "curl -sS http://elsewhere")).toMatch(
      /^ {2}asks where elsewhere\.example is\ncurl: \(6\) .*\n\(6\)$/m,
    );
    expect(under(whole, "curl -sS http://192.0.2.1")).toMatch(
      /^ {2}curl connects to 192\.0\.2\.1:80\ncurl: \(7\) .*\n\(7\)$/m,
    );
  });

  const testBusybox = testIf("busybox", Bun.which("busybox") !== null, "there is no busybox");
  testBusybox("serves a static busybox a file that exists nowhere, and the name", () => {
    expect(under(whole, "busybox cat").split("\n").slice(1)).toEqual([
      "  busybox opens /secret/word",
      "  busybox opens /secret/sentence",
      "a text that is in no file",
      "cat: can't open '/secret/sentence': Permission denied",
      "(1)",
      "",
      "",
    ]);
    expect(under(whole, "busybox wget")).toContain(
      "\nClear, says a function that was asked to GET /tomorrow HTTP/1.1\n(0)\n",
    );
  });

  testRoot("ends well, and says nothing else", () => {
    expect(whole.error).toBe("");
    expect(whole.code).toBe(0);
  });
});

testRoot(
  "learn shows a script refused, then what it needs, then running under that; its key stays unread",
  async () => {
    const { output, error, code } = await run("learn.ts");
    const [, bare, learning, again] = output.split(/^\$ caisson /m);
    expect(bare).toMatch(/^run sum\.ts .*\n(.*\n)*caisson denied: scandir \.\.\.\/invoices\n(.*\n)*\(1\)\n\n$/);
    expect(learning).toContain("\nIt needs to\n  read .../invoices\n");
    expect(learning).toContain("\n  write .../out\n");
    expect(learning).toContain("\nLeft for you to decide\n  read .../.ssh/id_rsa\n      private keys\n");
    expect(again).toStartWith("run --policy=sum.policy.json sum.ts .../invoices .../out\nThe sum is 1,600\n(0)\n");
    const grants = again!.slice(again!.indexOf("export const sandbox"), again!.indexOf("export default"));
    expect(grants.split("\n").filter((line) => !line.includes("//"))).toEqual([
      "export const sandbox: Sandbox = {",
      ...["  read: [", '    ".../invoices",', "  ],"],
      ...["  write: [", '    ".../out",', "  ],"],
      ...["  env: {", '    "HOME": "...",', '    "LANG": "en_GB.UTF-8",', "  },"],
      ...["};", "", ""],
    ]);
    expect(output).not.toContain("the key that opens everything");
    expect(error).toBe("");
    expect(code).toBe(0);
  },
);

testIf(
  "landlock",
  abilities().landlock > 0 && abilities().seccomp,
  "this kernel has no Landlock, or no filters",
)("self shows what works and what is refused once it has confined itself", async () => {
  const { output, error, code } = await run("self.ts");
  const [kept, ...lines] = output.trimEnd().split("\n");
  expect(kept).toMatch(/^files are kept by Landlock ABI \d+ and seccomp$/);
  expect(lines).toEqual([
    "works   answering requests",
    "EACCES  reading /etc/passwd, at once",
    "EACCES  reading /etc/passwd, later, in another thread",
    "EPERM   writing where it may read",
    "EPERM   starting a program",
    "EACCES  taking back what it gave up",
  ]);
  expect(error).toBe("");
  expect(code).toBe(0);
});

test("no example leaves a file behind", () => {
  expect(readdirSync(temporary)).toEqual([]);
});
