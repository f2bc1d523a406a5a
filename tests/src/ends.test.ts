import { describe, expect } from "bun:test";
import { existsSync } from "node:fs";
import { exec } from "../../src/exec.ts";
import { tmpfs } from "../../src/mounts.ts";
import { testGroups } from "../platform/cgroup/groups.ts";
import { testIf } from "../syscalls/requirement.ts";
import { box, PYTHON, testBox } from "./box.ts";

const PERL = "/usr/bin/perl";
const testPrograms = testIf("perl and python3", existsSync(PERL) && existsSync(PYTHON), "one of them is not there");

/** Loops of a processor's time, in languages that programs are written in. */
const BUSY = {
  sh: ["sh", "-c", "while :; do :; done"],
  perl: ["perl", "-e", "1 while 1"],
  python3: [PYTHON, "-S", "-c", "while 1: pass"],
} as const;
/** A child that blocks every signal that it can, and a parent that waits for it. */
const STUBBORN = ["perl", "-e", '$SIG{$_} = "IGNORE" for keys %SIG; if (fork) { wait } else { 1 while 1 }'];

describe("cpuTime of a sandbox", () => {
  for (const [name, argv] of [...Object.entries(BUSY), ["perl, in a child that ignores signals", STUBBORN]] as const)
    testPrograms(`ends ${name}, and its exit says so`, async () => {
      const sandbox = { read: ["/usr/lib"], limits: { cpuTimeSeconds: 0.2 } };
      await using program = await exec(argv, { sandbox });
      await program.exited;
      expect(program.exit).toEqual({ reason: "limit", limit: "cpuTime" });
      expect(program.usage().cpuMs).toBeGreaterThanOrEqual(200);
    });

  testPrograms("is told of those that used it up and ended before anybody looked", async () => {
    for (let count = 0; count < 10; count++) {
      await using program = await exec(["perl", "-e", ""], { sandbox: { limits: { cpuTimeSeconds: 0.001 } } });
      await program.exited;
      expect(program.exit).toEqual({ reason: "limit", limit: "cpuTime" });
    }
  });

  testGroups("usage")("ends one whose children are gone before anybody looks, where a group counts", async () => {
    const script = `$SIG{CHLD} = "IGNORE"; while (1) { my $child = fork // next; if (!$child) { 1 while times < 0.01; exit }
      select undef, undef, undef, 0.005 while kill 0, $child }`;
    await using program = await exec(["perl", "-e", script], { sandbox: { limits: { cpuTimeSeconds: 0.3 } } });
    await program.exited;
    expect(program.exit).toEqual({ reason: "limit", limit: "cpuTime" });
    expect(program.usage().cpuMs).toBeGreaterThanOrEqual(300);
  });

  testPrograms("is not told of one that killed itself before", async () => {
    const argv = ["perl", "-e", "1 while times < 0.1; kill 9, $$"];
    await using program = await exec(argv, { sandbox: { limits: { cpuTimeSeconds: 20 } } });
    await program.exited;
    expect(program.exit).toEqual({ reason: "signal", signal: "SIGKILL" });
  });
});

/** How a program of a container ends, with limits that the kernel keeps for each process by itself, and the same without them. */
async function ends(argv: readonly string[], rlimits: Readonly<Record<string, number>>) {
  await using made = await box([tmpfs("/room", { mode: 0o1777 })]);
  const exits = [];
  for (const limits of [rlimits, {}]) {
    const program = await made.exec(argv, { rlimits: limits, env: { PATH: "/usr/bin:/bin" }, stderr: "ignore" });
    await program.exited;
    exits.push(program.exit);
  }
  return exits;
}
const MIB = 2 ** 20;
const WELL = { reason: "returned", code: 0 } as const;

describe("limits of each process", () => {
  testBox("CPU ends it by SIGKILL, which alone does not say why", async () => {
    await using made = await box();
    await using program = await made.exec(["/bin/sh", "-c", BUSY.sh[2]], { rlimits: { CPU: 1 } });
    await program.exited;
    expect(program.exit).toEqual({ reason: "signal", signal: "SIGKILL" });
  });

  testPrograms("FSIZE ends it by SIGXFSZ, which a program can ignore", async () => {
    const limits = { FSIZE: MIB };
    const head = ["/bin/sh", "-c", "exec head -c 2000000 /dev/zero > /room/x"];
    expect(await ends(head, limits)).toEqual([{ reason: "signal", signal: "SIGXFSZ" }, WELL]);
    const child = ["/bin/sh", "-c", "head -c 2000000 /dev/zero > /room/x; exit $?"];
    expect(await ends(child, limits)).toEqual([{ reason: "returned", code: 128 + 25 }, WELL]);
    const python = [PYTHON, "-S", "-c", "open('/room/x', 'wb').write(b'x' * 2000000)"];
    expect(await ends(python, limits)).toEqual([{ reason: "returned", code: 1 }, WELL]);
  });

  testPrograms("DATA ends it as it likes, and nothing proves that", async () => {
    const limits = { DATA: 64 * MIB };
    const programs = [
      [PERL, "-e", '$x = "x" x 200_000_000; exit 0'],
      [PYTHON, "-S", "-c", "bytearray(200_000_000)"],
      ["/bin/sh", "-c", "x=$(head -c 80000000 /dev/zero | tr '\\0' x)"],
    ];
    for (const program of programs) {
      const [refused, given] = await ends(program, limits);
      expect([given, refused?.reason]).toEqual([WELL, expect.stringMatching(/^(returned|signal)$/)]);
      expect(refused).not.toEqual(WELL);
    }
  });
});
