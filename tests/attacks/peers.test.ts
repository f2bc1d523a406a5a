/** The same attacks on the same limits, beside `prlimit(1)` and `bwrap --size`: what those hold is held, and what they do not. */
import { afterAll, describe, expect, setDefaultTimeout } from "bun:test";
import { statSync } from "node:fs";
import { join } from "node:path";
import { type ExecOptions, exec } from "../../src/exec.ts";
import type { SandboxLimits } from "../../src/limits.ts";
import { tmpfs } from "../../src/mounts.ts";
import { testIf } from "../syscalls/requirement.ts";
import { arsenal, survivors } from "./attempt.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const [base, writer] = [arsenal("exhaust"), arsenal("writes")];
afterAll(() => {
  for (const each of [base, writer]) each[Symbol.dispose]();
});
const [cc, prlimit, bwrap] = ["cc", "prlimit", "bwrap"].map((name) => Bun.which(name));
const testPrlimit = testIf("prlimit", cc !== null && prlimit !== null, "there is no prlimit (util-linux), or no cc");
const testBwrap = testIf("bubblewrap", cc !== null && bwrap !== null, "there is no bwrap (bubblewrap), or no cc");

interface Outcome {
  readonly said: string;
  readonly ended: string | number | undefined;
}

async function beside(argv: readonly string[]): Promise<Outcome> {
  const child = Bun.spawn([...argv], { stdio: ["ignore", "pipe", "ignore"] });
  const said = (await child.stdout.text()).trim();
  await child.exited;
  return { said, ended: child.signalCode ?? child.exitCode ?? undefined };
}

async function ours(argv: readonly string[], options: ExecOptions): Promise<Outcome> {
  await using program = await exec(argv, { ...options, stdin: "ignore", stderr: "ignore" });
  const said = (await new Response(program.stdout).text()).trim();
  await program.exited;
  const { exit } = program;
  if (exit?.reason === "limit") return { said, ended: exit.limit };
  return { said, ended: exit?.reason === "signal" ? exit.signal : exit?.reason === "returned" ? exit.code : undefined };
}

describe("a limit of one process, as prlimit(1) keeps it", () => {
  const room = base.directory("room");
  const file = (name: string) => join(room, name);
  const fill = (name: string) => ["fill", file(name), "8"];

  testPrlimit("of open files: EMFILE", async () => {
    const expected = { said: "EMFILE", ended: 0 };
    expect(await beside([prlimit!, "--nofile=64", base.program, "files", "100"])).toEqual(expected);
    const limits: SandboxLimits = { files: 64 };
    expect(await ours([base.program, "files", "100"], { sandbox: { limits } })).toEqual(expected);
  });

  testPrlimit("of memory: ENOMEM", async () => {
    const expected = { said: "ENOMEM", ended: 0 };
    expect(await beside([prlimit!, `--data=${2 ** 26}`, base.program, "memory", "128"])).toEqual(expected);
    const limits: SandboxLimits = { memory: "64 MiB" };
    expect(await ours([base.program, "memory", "128"], { sandbox: { limits } })).toEqual(expected);
  });

  testPrlimit("of a file's size: SIGXFSZ, at the same byte", async () => {
    const expected = { said: "", ended: "SIGXFSZ" };
    expect(await beside([prlimit!, `--fsize=${2 ** 22}`, base.program, ...fill("theirs")])).toEqual(expected);
    const sandbox = { write: [room], limits: { fileSize: "4 MiB" } } as const;
    expect(await ours([base.program, ...fill("ours")], { sandbox })).toEqual(expected);
    expect([statSync(file("theirs")).size, statSync(file("ours")).size]).toEqual([2 ** 22, 2 ** 22]);
  });

  testPrlimit("of processor time: by a signal there, by its name here", async () => {
    const { ended } = await beside([prlimit!, "--cpu=1", base.program, "spin"]);
    expect(ended).toMatch(/^SIG(XCPU|KILL)$/);
    const limits: SandboxLimits = { cpuTime: "1 s" };
    expect((await ours([base.program, "spin"], { sandbox: { limits } })).ended).toBe("cpuTime");
  });
});

describe("a limit of all processes together, which prlimit(1) has none of:", () => {
  testPrlimit("memory", async () => {
    const child = Bun.spawn([prlimit!, `--data=${2 ** 26}`, base.program, "share", "16"], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    const { value } = await child.stdout.getReader().read();
    expect(Buffer.from(value!).toString()).toBe("done\n");
    await child.exited; // what it leaves waits for ever
    for (const pid of survivors(base.program)) process.kill(Number(pid), "SIGKILL");
    const limits: SandboxLimits = { memory: "64 MiB" };
    expect((await ours([base.program, "share-for-ever", "16"], { sandbox: { limits } })).ended).toBe("memory");
  });
});

describe("a file system in memory, beside that of bwrap --size:", () => {
  const SIZE = 2 ** 23;
  const theirs = (way: string, pieces: number) => {
    const view = ["--ro-bind", "/", "/", "--size", `${SIZE}`, "--tmpfs", writer.directory(way)];
    return beside([bwrap!, ...view, writer.program, way, join(writer.path, way), `${pieces}`]);
  };
  const held = (way: string, pieces: number) =>
    ours([writer.program, way, "/room", `${pieces}`], {
      sandbox: { limits: { tmpfsBytes: SIZE } },
      files: [tmpfs("/room")],
    });

  for (const way of ["write", "holes", "tmpfile", "fallocate"])
    testBwrap(`${way} ends where it does there`, async () => {
      const expected = { said: "ENOSPC", ended: 0 };
      expect([await theirs(way, 9), await held(way, 9)]).toEqual([expected, expected]);
    });

  testBwrap("files that are empty end as well, which there they do not", async () => {
    expect(await theirs("names", 24)).toEqual({ said: "done", ended: 0 });
    expect(await held("names", 24)).toEqual({ said: "ENOSPC", ended: 0 });
  });
});
