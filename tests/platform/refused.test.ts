/** Fail closed: whatever a machine lacks, run() and container() name it and leave nothing, or start behind every wall that they promise. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, copyFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { isRoot } from "../../platform/linux/ids.ts";
import { scratch } from "../attacks/arena.ts";
import { testIf } from "../syscalls/requirement.ts";
import type { Report } from "./fixtures/refused.ts";
import type { Missing } from "./fixtures/stingy.ts";

const base = scratch();
afterAll(() => base[Symbol.dispose]());
const fixture = fileURLToPath(new URL("./fixtures/refused.ts", import.meta.url));

// Each test starts one host or several, on a machine that may have other things to do.
setDefaultTimeout(60_000);

type Act =
  | "run"
  | "listing"
  | "granted"
  | "allowed"
  | "container"
  | "attach"
  | "bare"
  | "overlay"
  | "time"
  | "ranges"
  | "terminal";
type Refusal = NonNullable<Report["refused"]>;

async function printed(missing: string, act: Act, wrapper: readonly string[]): Promise<unknown> {
  const host = Bun.spawn([...wrapper, process.execPath, fixture, missing, act], {
    cwd: "/",
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [text, complaint] = await Promise.all([host.stdout.text(), host.stderr.text()]);
  if (text === "") throw new Error(`The host ended with ${await host.exited} and said ${complaint}`);
  expect(complaint).toBe(""); // nothing was rejected that nobody awaits
  return JSON.parse(text);
}

/** What comes of an act on a machine that lacks something; nothing must be left of it. */
async function host(missing: readonly Missing[], act: Act, wrapper: readonly string[] = []): Promise<Report> {
  const report = (await printed(missing.join(","), act, wrapper)) as Report;
  expect(report.left).toEqual([0, 0, 0]);
  return report;
}

async function refusal(...args: Parameters<typeof host>): Promise<Refusal> {
  const { refused, said } = await host(...args);
  if (refused === undefined) throw new Error(`It started: ${said}`);
  return refused;
}

/** What a program that started says of itself: a line of /proc/self/status. */
async function status(...args: Parameters<typeof host>): Promise<Record<string, string>> {
  const { refused, said = "" } = await host(...args);
  if (refused !== undefined) throw new Error(`It did not start: ${refused.message}`);
  return Object.fromEntries(said.split(/\r?\n/).map((line) => line.split(/:\s*/) as [string, string]));
}

const NONE = "0000000000000000";
/** What every program of a sandbox is. */
const CONFINED = {
  CapEff: NONE,
  CapPrm: NONE,
  CapInh: NONE,
  CapBnd: NONE,
  CapAmb: NONE,
  NoNewPrivs: "1",
  Seccomp: "2",
};
const CAPLESS = { CapEff: NONE, CapPrm: NONE, CapBnd: NONE, NoNewPrivs: "1" };
const PROGRAMS = ["run", "granted", "allowed"] as const;

describe("with all that this machine has", () => {
  for (const act of PROGRAMS) test(act, async () => expect(await status([], act)).toMatchObject(CONFINED));
  for (const act of ["container", "bare", "attach", "overlay", "time", "terminal"] as const)
    test(act, async () => expect(await status([], act)).toMatchObject(CAPLESS));
});

describe("what costs nothing", () => {
  for (const missing of ["clone3", "keyctl"] as const) {
    test(`${missing} refused, as container engines do`, async () => {
      expect(await status([missing], "run")).toMatchObject(CONFINED);
      expect(await status([missing], "container")).toMatchObject(CAPLESS);
      expect(await status([missing], "attach")).toMatchObject(CAPLESS);
    });
  }
});

describe("without user namespaces", () => {
  test("root's programs have all other walls, a user's do not start", async () => {
    for (const act of PROGRAMS) {
      if (isRoot()) expect(await status(["user namespaces"], act)).toMatchObject(CONFINED);
      else {
        const { name, guarantee, message } = await refusal(["user namespaces"], act);
        expect({ name, guarantee }).toEqual({ name: "NotEnforced", guarantee: "files" });
        expect(message).toContain("EPERM: clone (CLONE_NEWUSER)");
        expect(message).not.toContain("allowUnenforced"); // it would not help
      }
    }
  });

  for (const act of ["container", "bare"] as const) {
    test(`${act}: the kernel's refusal, and who knows more`, async () => {
      const { name, code, message } = await refusal(["user namespaces"], act);
      expect({ name, code }).toEqual({ name: "SystemError", code: "EPERM" });
      expect(message).toMatch(/clone .*NEWUSER.*caisson doctor/);
    });
  }
});

describe("without any namespace, as in a container", () => {
  test("programs do not start, whatever is allowed to be weaker", async () => {
    for (const act of PROGRAMS)
      expect(await refusal(["namespaces"], act)).toMatchObject({ name: "NotEnforced", guarantee: "files" });
  });

  test("nor does a container", async () => {
    for (const act of ["container", "bare"] as const)
      expect(await refusal(["namespaces"], act)).toMatchObject({ name: "SystemError", code: "EPERM" });
  });
});

describe("where no root can be built", () => {
  for (const missing of ["mount", "pivot_root"] as const) {
    test(`${missing} refused: it is named, and what may be in the way`, async () => {
      for (const act of PROGRAMS) {
        const { name, guarantee, message } = await refusal([missing], act);
        expect({ name, guarantee }).toEqual({ name: "NotEnforced", guarantee: "files" });
        expect(message).toMatch(new RegExp(`no root can be built: EPERM: ${missing} .*profile`));
        expect(message).not.toContain("allowUnenforced");
      }
      const { name, code, message } = await refusal([missing], "container");
      expect({ name, code }).toEqual({ name: "SystemError", code: "EPERM" });
      expect(message).toStartWith(`EPERM: ${missing} `);
    });

    test(`${missing} refused: a container with the host's mounts needs none`, async () => {
      expect(await status([missing], "bare")).toMatchObject(CAPLESS);
    });
  }

  test("mount_setattr not there, as on Linux 5.10: which one has it is said", async () => {
    for (const act of PROGRAMS) {
      const { name, guarantee, message } = await refusal(["mount_setattr"], act);
      expect({ name, guarantee }).toEqual({ name: "NotEnforced", guarantee: "files" });
      expect(message).toMatch(/ENOSYS: mount_setattr .*Use Linux 5\.12 or later/);
    }
    const { code, message } = await refusal(["mount_setattr"], "container");
    expect(code).toBe("ENOSYS");
    expect(message).toMatch(/^ENOSYS: mount_setattr .*, which needs Linux 5\.12$/);
  });

  test("openat2 not there: paths are never resolved in another way", async () => {
    for (const act of [...PROGRAMS, "container", "overlay"] as const) {
      const { code, message } = await refusal(["openat2"], act);
      expect(code).toBe("ENOSYS");
      expect(message).toMatch(/openat2 .*Linux 5\.6/);
    }
  });
});

describe("without Landlock", () => {
  test("a program without grants has all other walls", async () => {
    expect(await status(["Landlock"], "run")).toMatchObject(CONFINED);
    const { enforcement } = await host(["Landlock"], "run");
    expect(enforcement?.files).toEqual(["mount namespace", "seccomp"]);
    expect(JSON.stringify(enforcement)).not.toContain("Landlock");
  });

  test("one with a grant does not start, unless that is allowed", async () => {
    expect(await refusal(["Landlock"], "granted")).toMatchObject({ name: "NotEnforced", guarantee: "files" });
    expect(await status(["Landlock"], "allowed")).toMatchObject(CONFINED);
  });
});

describe("without seccomp", () => {
  for (const missing of ["seccomp", "seccomp filters"] as const) {
    test(`(${missing}) a program does not start, unless that is allowed`, async () => {
      for (const act of ["run", "granted"] as const)
        expect(await refusal([missing], act)).toMatchObject({ name: "NotEnforced", guarantee: "kernel" });
      expect(await status([missing], "allowed")).toMatchObject(CAPLESS);
    });
  }
});

describe("where there is no room", () => {
  for (const [missing, code] of [
    ["processes", "EAGAIN"],
    ["memory", "ENOMEM"],
  ] as const) {
    test(`${missing}: it is said, and not taken for what the machine cannot do`, async () => {
      for (const act of ["run", "container", "bare"] as const)
        expect(await refusal([missing], act)).toMatchObject({ name: "SystemError", code });
    });
  }

  test("processes, for the program alone: EAGAIN, and the container goes with it", async () => {
    for (const act of ["run", "container", "bare", "attach"] as const)
      expect(await refusal(["processes inside"], act)).toMatchObject({ name: "SystemError", code: "EAGAIN" });
  });

  test("a puppet that cannot be held is ended", async () => {
    const said = { message: expect.stringContaining("ENOSYS: pidfd_open") };
    for (const act of ["run", "attach"] as const) expect(await refusal(["pidfd_open"], act)).toMatchObject(said);
  });

  for (const act of ["run", "container", "attach"] as const) {
    test(`descriptors, for ${act}: EMFILE, however few are left, until there are enough`, async () => {
      const reports = (await printed("descriptors", act, [])) as (Report & { readonly room: number })[];
      const last = reports.pop();
      expect(last?.said).toContain("NoNewPrivs:\t1");
      expect(reports.length).toBeGreaterThan(5);
      for (const { refused, left, room } of reports)
        expect({ room, code: refused?.code, left }).toEqual({ room, code: "EMFILE", left: [0, 0, 0] });
      expect(last?.left).toEqual([0, 0, 0]);
    });
  }
});

describe("a container's further walls", () => {
  test("setns refused: nothing is attached to, and the target stays whole", async () => {
    expect(await refusal(["setns"], "attach")).toMatchObject({ name: "SystemError", code: "EPERM" });
  });

  test("no time namespaces: the container that asks for one does not start", async () => {
    expect(await refusal(["time namespaces"], "time")).toMatchObject({ name: "SystemError", code: "EINVAL" });
    expect(await status(["time namespaces"], "container")).toMatchObject(CAPLESS);
  });
});

// Mounts over what the host sees, in a mount namespace of its own.
const own = isRoot() ? ["unshare", "--mount"] : ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount"];
const setpriv = join(base.directory("programs"), "setpriv");
const there = Bun.which("unshare") !== null && Bun.which("setpriv") !== null;
if (there) copyFileSync(Bun.which("setpriv")!, setpriv);
const testMounts = testIf("unshare", there, "there is no unshare or setpriv (Debian: util-linux)");
const hidden = base.directory("hidden");

const after = (commands: string): string[] => [
  ...own,
  "--propagation=private",
  "sh",
  "-ec",
  `${commands}; exec ${setpriv} --inh-caps=-all --ambient-caps=-all "$@"`,
  "sh",
];

describe("where parts of /proc are covered, as container engines do", () => {
  const covered = after("mount --bind /proc/sys /proc/sys");

  testMounts("a program sees no other process in what it is lent of the host's", async () => {
    expect(await status([], "run")).toMatchObject(CONFINED);
    const { said: alone } = await host([], "listing");
    expect(alone?.match(/^\d+$/gm)?.length).toBeLessThan(4);
    const { said } = await host([], "listing", covered);
    expect(said).toMatch(/^ls: .*Permission denied\n$/);
  });

  testMounts("without Landlock it does not start", async () => {
    expect(await refusal(["Landlock"], "run", covered)).toMatchObject({ name: "NotEnforced", guarantee: "processes" });
  });

  testMounts("a container that asks for its own does not get the host's", async () => {
    const { name, guarantee, message } = await refusal([], "container", covered);
    expect({ name, guarantee }).toEqual({ name: "NotEnforced", guarantee: "processes" });
    expect(message).toContain("unmask=ALL");
    expect(await status([], "bare", covered)).toMatchObject(CAPLESS);
  });
});

describe("where files of the host are missing", () => {
  const devices = (...names: string[]) =>
    after(
      `mount --rbind /dev ${hidden}; mount -t tmpfs none /dev; for d in ${names.join(" ")}; do touch /dev/$d; mount --bind ${hidden}/$d /dev/$d; done`,
    );
  const most = ["zero", "full", "random", "urandom", "tty"];

  testMounts("/dev/null: it is named", async () => {
    for (const act of ["run", "container"] as const) {
      const { code, message } = await refusal([], act, devices(...most));
      expect({ code, named: message.includes('"/dev/null"') }).toEqual({ code: "ENOENT", named: true });
    }
  });

  testMounts("/dev/ptmx: it is named, and only terminals need it", async () => {
    const wrapper = devices("null", ...most);
    const { code, message } = await refusal([], "terminal", wrapper);
    expect({ code, named: message.includes('"/dev/ptmx"') }).toEqual({ code: "ENOENT", named: true });
    expect(await status([], "container", wrapper)).toMatchObject(CAPLESS);
  });

  testMounts("newuidmap, for ranges of ids: what to install is said", async () => {
    const subids = base.directory("subids");
    const file = join(subids, "lent");
    writeFileSync(file, `${process.getuid!()}:100000:65536\n`);
    chmodSync(file, 0o644);
    const lend = `mount --bind ${file} /etc/subuid; mount --bind ${file} /etc/subgid`;
    if (isRoot()) expect(await status([], "ranges", after(lend))).toMatchObject(CAPLESS);
    else {
      const { message } = await refusal([], "ranges", after(`${lend}; mount -t tmpfs none /usr/bin`));
      expect(message).toContain("install uidmap");
    }
  });
});
