/** Attacks on containers: trees that lie, what is inside with all the capabilities that there are, and the hand that the host has in there. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { createHash } from "node:crypto";
import {
  chmodSync,
  chownSync,
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Container, type ContainerOptions, container } from "../../src/container.ts";
import { run } from "../../src/exec.ts";
import { bind, dev, directory, type Mount, overlay, proc, symlink, text, tmpfs } from "../../src/mounts.ts";
import type { ProcessOptions } from "../../src/process.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { failure, until } from "./arena.ts";
import { against, arsenal, done, said, testAttempt, tree, VM_READ } from "./attempt.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const root = process.getuid!() === 0;
const testRoot = root ? testAttempt : test.skip;
const base = arsenal();
afterAll(() => base[Symbol.dispose]());

const FILES = [bind(base.program, "/attempt"), proc(), dev(), tmpfs("/room")];
const CAPABLE = { capabilities: "all" };

async function outcomes(box: Container, steps: readonly string[], options: ProcessOptions = {}): Promise<string[]> {
  const process = await box.exec(["/attempt", ...steps], options);
  const output = await new Response(process.stdout).text();
  await process.exited;
  return said(output);
}

async function inside(steps: readonly string[], options: ProcessOptions = {}, how: ContainerOptions = {}) {
  await using box = await container({ files: FILES, ...how });
  return await outcomes(box, steps, options);
}

/** Everything beneath a directory: names, kinds, sizes and times. */
function listing(path: string): string[] {
  return readdirSync(path, { recursive: true })
    .map((name) => join(path, `${name}`))
    .map((each) => {
      const { mode, size, mtimeMs } = statSync(each, { throwIfNoEntry: false }) ?? { mode: 0, size: 0, mtimeMs: 0 };
      return `${each} ${mode} ${size} ${mtimeMs}`;
    })
    .sort();
}

let made = 0;
/** A directory of the host that nothing may change, in which anybody could. */
function victim(): string {
  const path = base.directory(`victim${made++}`);
  writeFileSync(join(path, "secret"), "the host's");
  return path;
}

describe("a set-user-id and set-group-id program in a bind", () => {
  const OWNER = 100_000;
  const range = [{ inside: 0, outside: OWNER, count: 65_536 }];
  const ids = { uids: range, gids: range, setgroups: "allow" } as const;
  testRoot("makes nobody its owner, also where no_new_privs was waived; outside it does", async () => {
    const program = join(base.directory("privileged"), "attempt");
    copyFileSync(base.program, program);
    chownSync(program, OWNER, OWNER);
    chmodSync(program, 0o6755);
    const steps = ["geteuid", "getegid"];
    const outside = Bun.spawnSync(["setpriv", "--reuid=1", "--regid=1", "--clear-groups", program, ...steps]);
    expect(said(outside.stdout)).toEqual([`${OWNER}`, `${OWNER}`]);
    const files = [bind(program, "/attempt"), proc(), dev()];
    const options = { user: 1000, group: 1000, noNewPrivileges: false };
    expect(await inside(steps, options, { files, ids, user: 0, group: 0 })).toEqual(["1000", "1000"]);
  });
});

describe("symbolic links in a tree that is given", () => {
  const LINKS: Record<string, (victim: string) => string> = {
    absolute: (victim) => victim,
    relative: (victim) => `${"../".repeat(12)}${victim.slice(1)}`,
  };
  /** What is mounted at or below `/place`, which is a link, or lies below one. */
  const MOUNTS: Record<string, readonly Mount[]> = {
    dev: [dev("/place")],
    proc: [proc("/place")],
    tmpfs: [tmpfs("/place"), directory("/place/made"), text("/place/file", "planted"), symlink("/place/link", "/")],
    "a bind": [bind(base.program, "/place/secret")],
    "an overlay": [overlay("/place", { lower: [base.path] }), text("/place/file", "planted")],
    "a parent": [tmpfs("/place/deep/er"), text("/place/deep/er/file", "planted")],
    directories: [directory("/place/made")],
    text: [text("/place/file", "planted")],
  };
  for (const [kind, leads] of Object.entries(LINKS)) {
    for (const [what, files] of Object.entries(MOUNTS)) {
      testAttempt(`${kind}, where ${what} is to be: nothing is written on the host`, async () => {
        const prey = victim();
        const given = tree(base, `tree${made++}`, [prey.slice(1)]);
        for (const name of ["deep/er"]) mkdirSync(join(given, prey, name), { recursive: true });
        writeFileSync(join(given, prey, "secret"), "");
        symlinkSync(leads(prey), join(given, "place"));
        const before = listing(prey);
        for (const write of [false, true]) {
          try {
            await using _ = await container({ root: { path: given, write }, files });
          } catch (error) {
            expect((error as { code?: string }).code).toMatch(/^(ELOOP|ENOENT|EROFS|ENOTDIR|EEXIST|EINVAL|EAGAIN)$/);
          }
        }
        expect(listing(prey)).toEqual(before);
      });
    }
  }

  for (const name of ["dev", "proc"] as const) {
    testAttempt(`/${name} as a link is ELOOP, as a file EINVAL, and as a directory it starts`, async () => {
      const files = [name === "dev" ? dev() : proc()];
      const linked = tree(base, `linked-${name}`, ["elsewhere"]);
      symlinkSync("elsewhere", join(linked, name));
      expect(await failure(container({ root: linked, files }))).toMatchObject({ code: "ELOOP" });
      const filed = tree(base, `filed-${name}`);
      writeFileSync(join(filed, name), "");
      expect(await failure(container({ root: filed, files }))).toMatchObject({ code: "EINVAL" });
      await using box = await container({ root: tree(base, `honest-${name}`, [name]), files });
      expect(await outcomes(box, ["getpid"])).toEqual(["2"]);
    });
  }

  testAttempt("/dev/null and /dev/pts in it as links, which devices of its own cover", async () => {
    const prey = victim();
    const given = tree(base, "devices", ["dev", "proc"]);
    symlinkSync(join(prey, "secret"), join(given, "dev/null"));
    symlinkSync(prey, join(given, "dev/pts"));
    const before = listing(prey);
    await using box = await container({ root: { path: given, write: true }, files: [proc(), dev()] });
    expect((await outcomes(box, ["openat -100 =/dev/null 0x201", "openat -100 =/dev/pts/ptmx 2"])).every(done)).toBe(
      true,
    );
    expect(listing(prey)).toEqual(before);
  });
});

describe("sources that are swapped", () => {
  testAttempt("a bind whose path became a link: ELOOP", async () => {
    const prey = victim();
    const source = base.directory("source");
    const shown = bind(source, "/shown");
    rmdirSync(source);
    symlinkSync(prey, source);
    expect(await failure(container({ files: [...FILES, shown] }))).toMatchObject({ code: "ELOOP" });
  });

  testAttempt(
    "a bind by descriptor, whose path another directory took: refused, and shown where none did",
    async () => {
      const source = base.directory("held");
      const held = openSync(source, "r");
      try {
        const shown = bind(held, "/shown");
        await using _ = await container({ files: [...FILES, shown] });
        renameSync(source, `${source}.away`);
        renameSync(victim(), source);
        expect(String(await failure(container({ files: [...FILES, shown] })))).toContain(
          "another file has taken its place",
        );
      } finally {
        closeSync(held);
      }
    },
  );

  testAttempt("an overlay's upper and work that became links do not lead to the host's directories", async () => {
    const prey = base.directory("prey");
    const tenant = base.directory("tenant");
    for (const each of [prey, tenant])
      for (const name of ["upper", "work"]) {
        mkdirSync(join(each, name));
        chmodSync(join(each, name), 0o777);
      }
    const layers = overlay("/layers", {
      lower: [base.directory("lower")],
      upper: join(tenant, "upper"),
      work: join(tenant, "work"),
    });
    for (const name of ["upper", "work"]) {
      rmdirSync(join(tenant, name));
      symlinkSync(join(prey, name), join(tenant, name));
    }
    try {
      await using box = await container({ files: [...FILES, layers] });
      await outcomes(box, ["openat -100 =/layers/planted 0x41 0x1ff"]);
    } catch (error) {
      expect(error).toMatchObject({ code: expect.stringMatching(/^(ELOOP|EXDEV|ENOTDIR)$/) });
    }
    expect(readdirSync(join(prey, "upper"))).toEqual([]);
  });

  testAttempt(
    "a path that is a directory and a link by turns shows the one or is ELOOP, never where the link leads",
    async () => {
      const prey = victim();
      const flip = join(base.path, "flip");
      const flipper = Bun.spawn(
        [process.execPath, fileURLToPath(new URL("./fixtures/flip.ts", import.meta.url)), flip, prey],
        {
          stdout: "pipe",
        },
      );
      try {
        await flipper.stdout.getReader().read(); // it has begun
        const seen = { shown: 0, ELOOP: 0, ENOENT: 0 };
        const over = Date.now() + 2000;
        while (Date.now() < over || seen.shown === 0 || seen.ELOOP === 0) {
          let shown: Mount;
          try {
            shown = { ...bind(base.path, "/shown"), source: flip } as Mount; // as if it had been a directory when it was resolved
            await using box = await container({ files: [...FILES, shown] });
            expect(await outcomes(box, ["openat -100 =/shown/secret 0"])).toEqual(["ENOENT"]);
            seen.shown++;
          } catch (error) {
            const { code } = error as { code?: keyof typeof seen };
            expect(code).toMatch(/^(ELOOP|ENOENT)$/);
            seen[code!]++;
          }
        }
        expect(existsSync(join(prey, "secret"))).toBe(true);
      } finally {
        flipper.kill("SIGKILL");
        await flipper.exited;
      }
    },
    120_000,
  );
});

describe("a program", () => {
  /** `%`: process 1, and for the control another program. What comes of it with all capabilities is in the last column. */
  const REFUSED: Record<string, readonly [steps: readonly string[], errno: string, capable: string]> = {
    "reading process 1's memory": [[VM_READ], "EPERM", "EPERM"],
    "ptrace of process 1": [["ptrace 0x4206 % 0 0"], "EPERM", "EPERM"],
    "taking process 1's descriptors": [["pidfd_open % 0", "pidfd_getfd $0 1 0"], "EPERM", "EPERM"],
    "comparing with process 1": [["kcmp % % 0 0 0"], "EPERM", "EPERM"],
    "/proc/1/mem": [["openat -100 =/proc/%/mem 2"], "EACCES", "EACCES"],
    "/proc/1/environ": [["openat -100 =/proc/%/environ 0"], "EACCES", "EACCES"],
    "a descriptor of process 1's": [["openat -100 =/proc/%/fd/4 0"], "EACCES", "EACCES"],
    "process 1's namespaces": [["openat -100 =/proc/%/ns/mnt 0"], "EACCES", "EACCES"],
    mount: [["mount =x =/room =tmpfs 0 0"], "EPERM", "0"],
    umount: [["umount2 =/proc/sys 2"], "EPERM", "0"],
    "a mount namespace": [["unshare 0x20000"], "EPERM", "0"],
    chroot: [["chroot =/"], "EPERM", "0"],
    sethostname: [["sethostname =x 1"], "EPERM", "0"],
    "a raw socket": [["socket 2 3 1"], "EPERM", "3"],
    "a packet socket": [["socket 17 3 0"], "EPERM", "3"],
  };
  for (const [what, [steps, errno, capable]] of Object.entries(REFUSED)) {
    testAttempt(`is refused ${what}: ${errno}, and with all capabilities: ${capable}`, async () => {
      await using box = await container({ files: FILES });
      expect((await outcomes(box, against(steps, 1))).at(-1)).toBe(errno);
      expect((await outcomes(box, against(steps, 1), CAPABLE)).at(-1)).toBe(capable);
      if (!/^E/.test(capable)) return;
      using nothing = new Descriptor(openSync("/dev/null", "r"));
      const prey = await box.exec(["/attempt", "pause"], { ...CAPABLE, descriptors: { 4: nothing.number } });
      expect((await outcomes(box, against(steps, prey.pid), CAPABLE)).at(-1)).toMatch(/^(\d+|EFAULT)$/);
    });
  }

  testAttempt(
    "gains nothing from a user namespace of its own: masks stay, EINVAL, and a new proc is EPERM",
    async () => {
      const steps = ["unshare 0x10020000", "umount2 =/proc/sys 2", "mount =proc =/room =proc 0 0"];
      expect(await inside(steps)).toEqual(["0", "EINVAL", "EPERM"]);
      expect((await inside(steps.slice(1), CAPABLE))[0]).toBe("0");
    },
  );

  testAttempt("has descriptors 0, 1 and 2", async () => {
    await using box = await container({ files: FILES });
    const process = await box.exec(["/attempt", "descriptors"]);
    expect(await new Response(process.stdout).text()).toBe("descriptors 0 1 2\n");
  });

  testAttempt("cannot end or stop process 1", async () => {
    await using box = await container({ files: FILES });
    expect(await outcomes(box, ["kill 1 9", "kill 1 19", "kill 1 15"])).toEqual(["0", "0", "0"]); // taken, and without effect
    expect(box.kernel.call("getpid")).toBe(1);
  });
});

describe("a program with all capabilities", () => {
  testAttempt("that breaks out of chroot is in the container's root", async () => {
    const steps = ["breakout", "openat -100 =/etc/hostname 0", "openat -100 =/attempt 0"];
    const [broke, host, own] = await inside(steps, CAPABLE);
    expect([broke, host]).toEqual(["0", "ENOENT"]);
    expect(done(own!)).toBe(true);
  });

  testAttempt("makes no device: EPERM", async () => {
    const steps = ["mknodat -100 =/room/b 0x6180 0x800", "mknodat -100 =/room/c 0x2180 0x101"];
    expect(await inside(steps, CAPABLE)).toEqual(["EPERM", "EPERM"]);
  });

  testAttempt("cannot change the puppet's program, ETXTBSY or EACCES, nor its own on the host", async () => {
    const hash = () => createHash("sha256").update(readFileSync(base.program)).digest("hex");
    const before = hash();
    const outcome = await inside(
      ["openat -100 =/proc/1/exe 1", "openat -100 =/proc/self/exe 1", "openat -100 =/attempt 1"],
      CAPABLE,
    );
    for (const each of outcome) expect(each).toMatch(/^(ETXTBSY|EACCES|EROFS)$/);
    expect(hash()).toBe(before);
    // The next one is started from the same image.
    expect(await inside(["getpid"])).toEqual(["2"]);
  });

  testAttempt("does not write core_pattern: EACCES, and reaches no sysrq-trigger", async () => {
    const steps = ["openat -100 =/proc/sys/kernel/core_pattern 1", "openat -100 =/proc/sysrq-trigger 1"];
    for (const options of [{}, CAPABLE])
      for (const outcome of await inside(steps, options)) expect(outcome).toMatch(/^(EACCES|EROFS|ENOENT|EPERM)$/);
    const unmasked = ["umount2 =/proc/sys 2", ...steps];
    expect((await inside(unmasked, CAPABLE)).slice(1)).toEqual(["EACCES", expect.stringMatching(/^E/)]);
  });
});

describe("the host's network", () => {
  const hex = (bytes: Uint8Array | Buffer) => `@${Buffer.from(bytes).toString("hex")}`;
  const inet = (address: string, port: number) =>
    hex(Buffer.from([2, 0, port >> 8, port & 255, ...address.split(".").map(Number), 0, 0, 0, 0, 0, 0, 0, 0]));

  testAttempt(
    "its loopback is ECONNREFUSED and the metadata address ENETUNREACH, in a container and where net is granted",
    async () => {
      using listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
      const steps = [
        "socket 2 1 0",
        `connect $0 ${inet("127.0.0.1", listener.port)} 16`,
        "socket 2 1 0",
        `connect $2 ${inet("169.254.169.254", 80)} 16`,
      ];
      const refused = ["3", "ECONNREFUSED", "4", "ENETUNREACH"];
      expect(await inside(steps)).toEqual(refused);
      const granted = await run([base.program, ...steps], { sandbox: { net: ["example.com:443"] } });
      expect(said(granted.stdout)).toEqual(refused);
      const host = Bun.spawnSync([base.program, ...steps.slice(0, 2)]);
      expect(said(host.stdout).at(-1)).toBe("0");
    },
  );

  testAttempt("its abstract sockets are ECONNREFUSED", async () => {
    const name = `caisson-attack-${process.pid}`;
    using listener = Bun.listen({ unix: `\0${name}`, socket: { data() {} } });
    const address = hex(Buffer.from(`\x01\0\0${name}`, "latin1"));
    const steps = ["socket 1 1 0", `connect $0 ${address} ${3 + name.length}`];
    expect(await inside(steps, CAPABLE)).toEqual(["3", "ECONNREFUSED"]);
    expect(said(Bun.spawnSync([base.program, ...steps]).stdout).at(-1)).toBe("0");
    listener.stop();
  });
});

describe("root's containers", () => {
  const one = [{ inside: 0, outside: 0, count: 1 }];
  const identity = { uids: one, gids: one, setgroups: "deny" } as const;
  const WITHOUT: ContainerOptions["namespaces"] = ["mount", "pid", "network", "ipc", "uts", "cgroup"];
  const steps = [
    "openat -100 =/proc/sys/kernel/core_pattern 1",
    "openat -100 =/proc/sysrq-trigger 1",
    "openat -100 =/proc/irq/default_smp_affinity 1",
  ];
  for (const [what, options] of [
    ["with ids that are the host's", { ids: identity }],
    ["without a user namespace", { namespaces: WITHOUT }],
  ] as const) {
    testRoot(`${what} cannot write the kernel's settings: EROFS`, async () => {
      for (const outcome of await inside(steps, {}, options)) expect(outcome).toMatch(/^(EROFS|ENOENT)$/);
      // Unmasked they open; nothing is written.
      const files = [bind(base.program, "/attempt"), proc("/proc", { content: "all" })];
      expect(done((await inside(steps, {}, { ...options, files }))[0]!)).toBe(true);
    });
  }

  // Known. Whoever has CAP_SYS_ADMIN over the mount namespace takes a mask off that was made in it.
  (root && existsSync(base.program) ? test.failing : test.skip)(
    "with ids that are the host's cannot take the mask off with all capabilities",
    async () => {
      const outcome = await inside(["umount2 =/proc/sys 2", steps[0]!], CAPABLE, { ids: identity });
      expect(done(outcome[1]!)).toBe(false);
    },
  );
});

/** Runs a host of its own, which may come to hang: gives what it printed, or "hangs" when a generous time is over. */
async function host(name: string): Promise<string> {
  const script = fileURLToPath(new URL("./fixtures/hostage.ts", import.meta.url));
  const child = Bun.spawn([process.execPath, script, name, base.program], {
    stdout: "pipe",
    stderr: "inherit",
    timeout: 50_000,
    killSignal: "SIGKILL",
  });
  const output = await child.stdout.text();
  await child.exited;
  return child.signalCode === null ? output.trim() : "hangs";
}

describe("a puppet that lies, or is held", () => {
  for (const [name, expected] of Object.entries({
    "a forged answer": "ended",
    "a short answer": "ended",
    "news of a wrong length": "ended",
    "a thousand false news": "answered",
    "a hand that a program stops": "ended",
    "a first process that is stopped, while news come without end": "ended",
    "a first process that is stopped, while a program starts": "ended",
  }))
    testAttempt(`${name}: the host has ${expected === "ended" ? "ended it" : "its answer"}`, async () => {
      expect(await host(name)).toBe(expected);
    });
});

describe("a host that is killed", () => {
  testAttempt(
    "leaves nothing, a hundred times, at any moment",
    async () => {
      const script = fileURLToPath(new URL("./fixtures/hostage.ts", import.meta.url));
      for (let round = 0; round < 100; round++) {
        const child = Bun.spawn([process.execPath, script, "daemons", base.program], {
          stdout: "pipe",
          stderr: "ignore",
        });
        const reader = child.stdout.getReader();
        let text = "";
        const says = async (word: string) => {
          while (!text.includes(word)) {
            const { done: over, value } = await reader.read();
            if (over) throw new Error(`The host ended before it said ${word}: ${text}`);
            text += new TextDecoder().decode(value);
          }
        };
        try {
          await says("begins");
          if (round % 4 === 0) {
            await says("runs");
            // Of a host that lives they are seen: in both cases a program and the first of its daemons, at least.
            expect(survivors().length).toBeGreaterThanOrEqual(4);
          } else await Bun.sleep(Math.random() * 20);
        } finally {
          child.kill("SIGKILL");
          await child.exited;
        }
      }
      await until(() => survivors().length === 0);
    },
    480_000,
  );
});

/** The processes whose program is the attempt: by their arguments, for what is inside has another name for it. */
function survivors(): string[] {
  return readdirSync("/proc").filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "latin1").startsWith(`hostage ${base.program}\0`);
    } catch {
      return false;
    }
  });
}
