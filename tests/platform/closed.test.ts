/** Fail closed: whatever a machine lacks, an actor keeps its guarantees or does not start. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { GUARANTEES } from "../../platform/index.ts";
import { abilities } from "../../platform/linux/abilities.ts";
import { isRoot } from "../../platform/linux/ids.ts";
import type { Sandbox } from "../../src/index.ts";
import { landlockAbi } from "../../syscalls/linux/landlock.ts";
import { all, scratch } from "../attacks/arena.ts";
import type { Missing, Report } from "./fixtures/stingy.ts";

const base = scratch();
const granted = base.directory("granted");
const note = join(granted, "note.txt");
writeFileSync(note, "granted");
chmodSync(note, 0o644);
afterAll(() => base[Symbol.dispose]());

const stingy = fileURLToPath(new URL("./fixtures/stingy.ts", import.meta.url));
const NOTHING: Sandbox = {};
const READ: Sandbox = { read: [granted] };

// Each test starts one host or several, on a machine that may have other things to do.
setDefaultTimeout(60_000);

type Started = Extract<Report, { enforcement: unknown }>;

/** What becomes of an actor on a machine that lacks something. */
async function hostWithout(
  missing: readonly Missing[],
  sandbox: Sandbox,
  wrapper: readonly string[] = [],
): Promise<Report> {
  const host = Bun.spawn([...wrapper, process.execPath, stingy, missing.join(","), JSON.stringify(sandbox), note], {
    cwd: "/",
    stdio: ["ignore", "pipe", "inherit"],
  });
  const text = await host.stdout.text();
  if (text === "") throw new Error(`The host ended with ${await host.exited} and said nothing`);
  return JSON.parse(text);
}

async function started(...args: Parameters<typeof hostWithout>): Promise<Started> {
  const report = await hostWithout(...args);
  if ("refused" in report) throw new Error(`The actor did not start: ${report.refused.message}`);
  return report;
}

/** The guarantee that it did not start for. */
async function refused(...args: Parameters<typeof hostWithout>): Promise<string> {
  const report = await hostWithout(...args);
  if (!("refused" in report)) throw new Error(`The actor started with ${JSON.stringify(report.enforcement)}`);
  expect(report.refused.name).toBe("NotEnforced");
  return report.refused.guarantee;
}

/** What an actor that was granted nothing gets from each wall that seccomp is part of. */
const CLOSED = { elsewhere: all("EPERM"), socket: "EPERM", signal: "EPERM", fork: "EPERM" };

describe("with all that this machine has", () => {
  test("every mechanism keeps its part", async () => {
    const report = await started([], NOTHING);
    expect(report).toMatchObject(CLOSED);
    expect(report.enforcement.files).toContain("mount namespace");
    expect(report.enforcement.network).toContain("network namespace");
  });

  test("a path that was not granted is not there", async () => {
    expect(await started([], READ)).toMatchObject({ ...CLOSED, granted: all("done"), elsewhere: all("ENOENT") });
  });
});

describe("what costs nothing", () => {
  test("clone3 refused with ENOSYS, as container engines do: clone takes its place", async () => {
    const whole = await started([], NOTHING);
    expect(await started(["clone3"], NOTHING)).toEqual(whole);
  });

  test("keyctl refused: there is no keyring to keep anyone from", async () => {
    const whole = await started([], NOTHING);
    expect(await started(["keyctl"], NOTHING)).toEqual(whole);
  });
});

describe("without user namespaces", () => {
  test("root takes the rights that it has; a user is left with Landlock and seccomp", async () => {
    const report = await started(["user namespaces"], NOTHING);
    expect(report).toMatchObject(CLOSED);
    expect(report.enforcement.privileges).not.toContain("user namespace");
    if (isRoot()) expect(report.enforcement.files).toContain("mount namespace");
    else expect(report.enforcement.files).not.toContain("mount namespace");
    expect(report.enforcement.files).toContain("seccomp");
  });

  test("a granted path can be read, and no other", async () => {
    const report = await started(["user namespaces"], READ);
    expect(report).toMatchObject({ ...CLOSED, granted: all("done"), elsewhere: all(isRoot() ? "ENOENT" : "EACCES") });
  });
});

describe("without any namespace, as in a container", () => {
  test("Landlock and seccomp keep files and network by themselves, and the report says so", async () => {
    const report = await started(["namespaces"], NOTHING);
    expect(report).toMatchObject(CLOSED);
    expect(report.enforcement.files).toEqual([expect.stringMatching(/^Landlock ABI/), "seccomp"]);
    expect(report.enforcement.network?.toSorted()).toEqual([
      ...(landlockAbi() >= 4 ? [`Landlock ABI ${landlockAbi()}`] : []),
      "seccomp",
    ]);
    expect(report.enforcement.processes).not.toContain("PID namespace");
  });

  test("a granted path can be read, and no other", async () => {
    const report = await started(["namespaces"], READ);
    expect(report).toMatchObject({ ...CLOSED, granted: all("done"), elsewhere: all("EACCES") });
    expect(report.enforcement.files).toEqual([expect.stringMatching(/^Landlock ABI/), "seccomp"]);
  });
});

describe("where mount(2) is refused", () => {
  test("there is no root of its own, and Landlock and seccomp keep files", async () => {
    const report = await started(["mount"], NOTHING);
    expect(report).toMatchObject(CLOSED);
    expect(report.enforcement.files).toEqual([expect.stringMatching(/^Landlock ABI/), "seccomp"]);
    expect(await started(["mount"], READ)).toMatchObject({ granted: all("done"), elsewhere: all("EACCES") });
  });
});

describe("without Landlock", () => {
  test("an actor without grants starts, behind a root of its own and seccomp", async () => {
    const report = await started(["Landlock"], NOTHING);
    expect(report).toMatchObject(CLOSED);
    expect(report.enforcement.files).toEqual(["mount namespace", "seccomp"]);
    expect(JSON.stringify(report.enforcement)).not.toContain("Landlock");
  });

  test("one with a granted path does not, for nothing else keeps a read-only file from being opened again", async () => {
    expect(await refused(["Landlock"], READ)).toBe("files");
  });

  test("it starts where the caller allows that, and says that nothing keeps files", async () => {
    const report = await started(["Landlock"], { ...READ, allowUnenforced: ["files"] });
    expect(report.enforcement.files).toEqual([]);
    expect(report).toMatchObject({ granted: all("done"), elsewhere: all("ENOENT"), socket: "EPERM" });
  });

  test("allowing another guarantee to be weaker allows nothing for this one", async () => {
    expect(await refused(["Landlock"], { ...READ, allowUnenforced: ["network", "cpu", "memory"] })).toBe("files");
  });

  test("and without namespaces seccomp alone keeps files from an actor without grants", async () => {
    const report = await started(["Landlock", "namespaces"], NOTHING);
    expect(report).toMatchObject(CLOSED);
    expect(report.enforcement.files).toEqual(["seccomp"]);
    expect(report.enforcement.network).toEqual(["seccomp"]);
  });
});

/** What can keep memory beside a filter. */
const GROUP = abilities().groups?.memory;

describe("without seccomp", () => {
  for (const missing of ["seccomp", "seccomp filters"] as const) {
    test(`(${missing}) nothing keeps the kernel, so nothing starts`, async () => {
      expect(await refused([missing], NOTHING)).toBe("kernel");
      // A control group keeps memory without it.
      if (GROUP === undefined) expect(await refused([missing], { allowUnenforced: ["kernel"] })).toBe("memory");
      else
        expect(await started([missing], { allowUnenforced: ["kernel"] })).toMatchObject({
          enforcement: { kernel: [] },
        });
    });
  }

  test("with both allowed it starts, and the other walls stand", async () => {
    const report = await started(["seccomp"], { allowUnenforced: ["kernel", "memory"] });
    expect(report.enforcement).toMatchObject({ kernel: [], memory: GROUP === undefined ? [] : [`${GROUP}: memory`] });
    expect(JSON.stringify(report.enforcement)).not.toContain("seccomp");
    expect(report.elsewhere).toEqual(all("ENOENT")); // it can ask, and there is nothing
    expect(report.signal).toBe("ESRCH");
  });

  test("and without namespaces it does not start for files, network and processes either", async () => {
    const missing = ["seccomp", "namespaces"] as const;
    const allowed: NonNullable<Sandbox["allowUnenforced"]>[number][] = ["kernel", "memory"];
    const seen: string[] = [];
    for (let tries = 0; tries < GUARANTEES.length; tries++) {
      const report = await hostWithout(missing, { ...READ, allowUnenforced: allowed });
      if (!("refused" in report)) break;
      const guarantee = GUARANTEES.find((name) => name === report.refused.guarantee)!;
      seen.push(guarantee);
      allowed.push(guarantee);
    }
    expect(seen).toEqual(["files", "network", "processes"]);
  });
});

describe("where user.max_user_namespaces is 0", () => {
  // A user namespace of the test's own, in which the setting is its own as well, and then no capability any more.
  const user = isRoot() ? ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] : [];
  const none = 'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --inh-caps=-all --ambient-caps=-all "$@"';
  const wrapper = [...user, "unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", none, "sh"];

  test("an actor without grants reads nothing", async () => {
    const report = await started([], NOTHING, wrapper);
    expect(report).toMatchObject(CLOSED);
    expect(report.enforcement.files).toEqual([expect.stringMatching(/^Landlock ABI/), "seccomp"]);
    expect(report.enforcement.network?.toSorted()).toEqual([
      ...(landlockAbi() >= 4 ? [`Landlock ABI ${landlockAbi()}`] : []),
      "seccomp",
    ]);
    expect(JSON.stringify(report.enforcement)).not.toContain("namespace");
  });

  test("one with a granted directory reads there, and nowhere else", async () => {
    const report = await started([], READ, wrapper);
    expect(report).toMatchObject({ ...CLOSED, granted: all("done"), elsewhere: all("EACCES") });
  });

  test("without Landlock, too, one with a grant does not start, and one without has seccomp", async () => {
    expect(await refused(["Landlock"], READ, wrapper)).toBe("files");
    expect((await started(["Landlock"], NOTHING, wrapper)).enforcement.files).toEqual(["seccomp"]);
  });
});
