/** Attacks on files: what was not granted cannot be read, written, named or reached. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { type Actor, file } from "../../src/index.ts";
import { O } from "../../syscalls/linux/numbers.ts";
import { all, inside, Outside, scratch } from "./arena.ts";

type Files = typeof import("./fixtures/files.ts");

setDefaultTimeout(30_000); // the machine may have other things to do

/** `base` holds what the actors may use, and beside it a secret of the host's. */
const base = scratch();
const readable = base.directory("readable");
const writable = base.directory("writable");
const secret = join(base.path, "secret.txt");
const note = join(readable, "note.txt");
writeFileSync(secret, "the host's");
writeFileSync(note, "for the actor");
chmodSync(note, 0o666);
symlinkSync("/", join(readable, "root"));
symlinkSync("../secret.txt", join(readable, "beside"));
symlinkSync("/", join(writable, "root"));
mkdirSync(join(base.path, "elsewhere"));

/** Three actors for all tests: one that was granted nothing, one that may read, one that may write. */
let nothing: Actor<Files>;
let reader: Actor<Files>;
let writer: Actor<Files>;
let control: Outside<Files>;
beforeAll(async () => {
  control = new Outside("files");
  [nothing, reader, writer] = await Promise.all([
    inside<Files>("files"),
    inside<Files>("files", { read: [readable] }),
    inside<Files>("files", { write: [writable], limits: { fileSize: "1 MiB" } }),
  ]);
});
afterAll(async () => {
  await Promise.all([nothing, reader, writer].map((actor) => actor[Symbol.asyncDispose]()));
  await control[Symbol.asyncDispose]();
  base[Symbol.dispose]();
});

describe("with nothing granted", () => {
  for (const path of [
    "/etc/passwd",
    "/etc/shadow",
    join(homedir(), ".ssh/id_ed25519"),
    "/proc/1/environ",
    "/proc/self/maps",
    secret,
  ]) {
    test(`reading ${path.replace(base.path, "<base>")} is EPERM`, async () => {
      expect(await nothing.call.read(path)).toEqual(all("EPERM"));
    });
  }

  test("what the actor cannot read, its control reads", async () => {
    expect(await control.call.read("/etc/passwd")).toEqual(all("done"));
    expect(await control.call.read("/proc/self/maps")).toEqual(all("done"));
    expect(await control.call.read(secret)).toEqual(all("done"));
  });

  test("Bun.file and Bun.write are EPERM as well", async () => {
    expect(await nothing.call.bun(secret)).toEqual({ read: "EPERM", write: "EPERM" });
    expect(await control.call.bun(join(writable, "control"))).toEqual({ read: "ENOENT", write: "done" });
  });

  test("listing a directory is EPERM, the actor's own root included", async () => {
    expect(await nothing.call.list("/")).toEqual(all("EPERM"));
    expect(await control.call.list("/")).toEqual(all("done"));
  });

  test("creating a file is EPERM", async () => {
    expect(await nothing.call.create(join(writable, "created"))).toEqual(all("EPERM"));
    expect(await control.call.create(join(writable, "created"))).toEqual(all("done"));
  });

  test("the working directory is the actor's own root", async () => {
    expect(await nothing.call.workingDirectory()).toBe("/");
  });

  test("chroot, and climbing by the working directory, are EPERM", async () => {
    expect(await nothing.call.call("chroot", ".")).toBe("EPERM");
    expect(await nothing.call.climb("/", "etc/passwd")).toBe("EPERM");
    expect(await control.call.climb(readable, "etc/passwd")).toBe("done");
  });
});

describe("with a directory granted for reading", () => {
  test("what is granted can be read, so that refusals mean something", async () => {
    expect(await reader.call.read(note)).toEqual(all("done"));
    expect(await reader.call.names(readable)).toEqual(["beside", "note.txt", "root"]);
  });

  for (const path of [
    "/etc/passwd",
    "/etc/shadow",
    join(homedir(), ".ssh/id_ed25519"),
    "/dev/null",
    "/sys/kernel",
    "/proc/sys/kernel/core_pattern",
  ]) {
    test(`reading ${path} is ENOENT`, async () => {
      expect(await reader.call.read(path)).toEqual(all("ENOENT"));
    });
  }

  test("a neighbour of what was granted is ENOENT", async () => {
    expect(await reader.call.read(secret)).toEqual(all("ENOENT"));
    expect(await control.call.read(secret)).toEqual(all("done"));
  });

  test("64 times .. ends in the actor's own root", async () => {
    expect(await reader.call.read(`${readable}${"/..".repeat(64)}/etc/passwd`)).toEqual(all("ENOENT"));
    expect(await control.call.read(`${readable}${"/..".repeat(64)}/etc/passwd`)).toEqual(all("done"));
    expect(await reader.call.climbByWorkingDirectory(readable, "etc/passwd")).toBe("ENOENT");
    expect(await control.call.climbByWorkingDirectory(readable, "etc/passwd")).toBe("done");
  });

  test("climbing by descriptors meets Landlock above the grant", async () => {
    expect(await reader.call.climb(readable, "etc/passwd")).toMatch(/^(ENOENT|EACCES)$/);
    expect(await control.call.climb(readable, "etc/passwd")).toBe("done");
  });

  test("a symbolic link to / that lies in it leads to the actor's own root", async () => {
    expect(await reader.call.read(join(readable, "root/etc/passwd"))).toEqual(all("ENOENT"));
    expect(await control.call.read(join(readable, "root/etc/passwd"))).toEqual(all("done"));
    expect(await reader.call.read(join(readable, "beside"))).toEqual(all("ENOENT"));
    expect(await control.call.read(join(readable, "beside"))).toEqual(all("done"));
  });

  test("/proc/self/root is the actor's own, and the host's processes are not in /proc", async () => {
    expect(await reader.call.read("/proc/self/root/etc/passwd")).toEqual(all("ENOENT"));
    expect(await control.call.read("/proc/self/root/etc/passwd")).toEqual(all("done"));
    for (const name of ["environ", "maps", "root", "fd"]) {
      expect(await reader.call.read(`/proc/${process.pid}/${name}`)).toEqual(all("ENOENT"));
    }
    expect(await control.call.read(`/proc/${process.pid}/environ`)).toEqual(all("done"));
  });

  test("process 1 is the actor itself, which knows nothing of the host's environment", async () => {
    expect(await reader.call.contents("/proc/1/environ")).not.toContain("PATH=");
    expect(await control.call.contents("/proc/self/environ")).toContain("PATH=");
    expect(await reader.call.contents("/proc/1/cmdline")).toBe("bun\0-\0");
  });

  test("its root holds what Bun needs, what was granted, and no more", async () => {
    const names = await reader.call.names("/");
    const [, grant] = readable.split("/");
    expect(names.filter((name) => !["bin", "lib", "lib64", "proc", "usr", grant].includes(name))).toEqual([]);
    expect(names).toContain("proc");
  });

  test("mounts shown inside name no directory of the host but the grant", async () => {
    const mounts = await reader.call.contents("/proc/self/mountinfo");
    const points = mounts
      .trim()
      .split("\n")
      .map((line) => line.split(" ")[4]!);
    expect(points.filter((point) => !/^\/($|proc$|bin\/|lib|usr\/lib)/.test(point))).toEqual([readable]);
  });

  test("writing there is EROFS, and what changes names EPERM", async () => {
    expect(await reader.call.write(note)).toEqual(all("EROFS"));
    expect(await control.call.write(note)).toEqual(all("done"));
    // The filter of an actor that may write nowhere leaves openat, and refuses what makes and removes names.
    expect(await reader.call.call("unlinkat", -100, note, 0)).toBe("EPERM");
    expect(await reader.call.call("mkdirat", -100, join(readable, "made"), 0o700)).toBe("EPERM");
    expect(await reader.call.call("truncate", note, 0)).toBe("EPERM");
  });

  test("creating a file there, and in the root, is refused", async () => {
    expect(await reader.call.create(join(readable, "made"))).toEqual(all("EROFS"));
    expect(await reader.call.create("/made")).toEqual(all("EROFS"));
    expect(await control.call.create(join(readable, "made"))).toEqual(all("done"));
  });

  test("Bun's own program cannot be written", async () => {
    const outcomes = await reader.call.write("/proc/self/exe");
    for (const outcome of Object.values(outcomes)) expect(outcome).toMatch(/^(EROFS|EACCES|ETXTBSY)$/);
  });

  test("executing is EPERM, and so is changing the root", async () => {
    expect(await reader.call.execute("/bin/bun")).toBe("EPERM");
    expect(await reader.call.call("chroot", readable)).toBe("EPERM");
    expect(await reader.call.call("pivot_root", ".", ".")).toBe("EPERM");
    expect(await control.call.execute("/nowhere")).toBe("ENOENT");
  });
});

describe("with a directory granted for writing", () => {
  test("what is granted can be written, so that refusals mean something", async () => {
    expect(await writer.call.create(join(writable, "mine"))).toEqual(all("done"));
    expect(await writer.call.write(join(writable, "mine.raw"))).toEqual(all("done"));
  });

  test("a symbolic link to / in it leads to the actor's own root", async () => {
    expect(await writer.call.read(join(writable, "root/etc/passwd"))).toEqual(all("ENOENT"));
    expect(await writer.call.create(join(writable, "root/made"))).toEqual(all("EROFS"));
  });

  test("device nodes, FIFOs, hard and symbolic links are EPERM", async () => {
    const refused = { fifo: "EPERM", device: "EPERM", link: "EPERM", symlink: "EPERM" };
    expect(await writer.call.plant(writable, join(writable, "mine.raw"))).toEqual(refused);
    const { device, ...others } = await control.call.plant(join(base.path, "elsewhere"), join(writable, "mine.raw"));
    expect(others).toEqual({ fifo: "done", link: "done", symlink: "done" });
    if (process.getuid!() === 0) expect(device).toBe("done");
  });

  test("renaming out of it is EXDEV or EROFS, and into it what is outside ENOENT", async () => {
    expect(await writer.call.rename(join(writable, "mine.raw"), "/mine")).toMatch(/^(EXDEV|EROFS)$/);
    expect(await writer.call.rename(secret, join(writable, "stolen"))).toMatch(/^(EXDEV|ENOENT)$/);
    expect(await writer.call.rename("/bin/bun", join(writable, "stolen"))).toMatch(/^(EXDEV|EROFS|EACCES)$/);
    expect(await control.call.rename(join(writable, "mine.raw"), join(base.path, "elsewhere/mine"))).toBe("done");
  });

  test("a program that it wrote cannot be executed", async () => {
    expect(await writer.call.execute(join(writable, "mine.sync"))).toBe("EPERM");
  });

  test("a file cannot become larger than the limit: EFBIG", async () => {
    const out = join(base.path, "out");
    writeFileSync(out, "");
    expect(await writer.call.grow(file(out, "write"), 2 ** 20)).toBe("done");
    expect(await writer.call.grow(file(out, "write"), 2 ** 21)).toBe("EFBIG");
    expect(readFileSync(out)).toHaveLength(2 ** 20);
    expect(await writer.call.growByOffset(file(out, "write"), 2 ** 40)).toBe("EFBIG");
    expect(readFileSync(out)).toHaveLength(0);
  });
});

describe("open files", () => {
  const plain = join(base.path, "plain.txt");
  const fresh = (text: string) => {
    writeFileSync(plain, text);
    chmodSync(plain, 0o666);
  };

  test("one for reading cannot be opened again for writing: EPERM, and EACCES where paths are granted", async () => {
    fresh("as it was");
    expect(await nothing.call.reopen(file(plain))).toEqual(all("EPERM"));
    expect(await reader.call.reopen(file(plain))).toEqual(all("EACCES"));
    expect(await writer.call.reopen(file(plain))).toEqual(all("EACCES"));
    expect(await control.call.reopen({ path: plain, flags: O.RDONLY } as never)).toEqual(all("done"));
  });

  test("one for reading cannot be written, changed, or locked", async () => {
    fresh("as it was");
    expect(await nothing.call.onFile(file(plain), "write", "x", 1)).toBe("EBADF");
    expect(await nothing.call.alter(file(plain))).toEqual({
      fchmod: "EPERM",
      futimens: "EPERM",
      flock: "EPERM",
      lease: "EPERM",
      setflags: "EPERM",
    });
    const { setflags, ...others } = await control.call.alter({ path: plain, flags: O.RDONLY } as never);
    expect(others).toEqual({ fchmod: "done", futimens: "done", flock: "done", lease: "EAGAIN" });
    expect(setflags).not.toBe("EPERM");
    expect(readFileSync(plain, "utf8")).toBe("as it was");
  });

  for (const [name, actor] of [
    ["nothing", () => nothing],
    ["writing", () => writer],
  ] as const) {
    test(`one for appending, with ${name} granted, keeps what is there`, async () => {
      fresh("as it was");
      expect(await actor().call.overwrite(file(plain, "append"))).toEqual({
        pwritev2: "EPERM",
        setfl: "EPERM",
        pwrite: "done",
      });
      expect(readFileSync(plain, "utf8")).toBe("as it wasX");
    });

    test(`one for appending, with ${name} granted, cannot be shortened`, async () => {
      fresh("as it was");
      expect(await actor().call.shorten(file(plain, "append"))).toEqual({ fallocate: "EPERM", ftruncate: "EPERM" });
      expect(readFileSync(plain, "utf8")).toBe("as it was");
    });
  }

  test("without the walls one for appending is overwritten and shortened", async () => {
    fresh("as it was");
    const appending = { path: plain, flags: O.WRONLY | O.APPEND } as never;
    expect(await control.call.overwrite(appending)).toMatchObject({ setfl: "done", pwrite: "done" });
    expect(readFileSync(plain, "utf8")).toBe("Xs it was");
    expect(await control.call.shorten(appending)).toMatchObject({ ftruncate: "done" });
    expect(readFileSync(plain, "utf8")).toBe("");
  });

  test("no path leads from an open file to its neighbours", async () => {
    fresh("as it was");
    expect(await reader.call.onFile(file(plain), "openat", "..", O.RDONLY, 0)).toBe("ENOTDIR");
    expect(await reader.call.onFile(file(plain), "fchdir")).toBe("ENOTDIR");
    expect(await nothing.call.onFile(file(plain), "fchdir")).toBe("EPERM");
    expect(await nothing.call.onFile(file(plain), "linkat", "", -100, join(writable, "linked"), 0x1000)).toBe("EPERM");
    expect(await nothing.call.onFile(file(plain), "execveat", "", 0, 0, 0x1000)).toBe("EPERM");
  });
});

describe("in any actor", () => {
  test("file handles are EPERM", async () => {
    expect(await reader.call.handles(note)).toEqual({ name: "EPERM", open: "EPERM" });
    const { name, open } = await control.call.handles(note);
    expect(name).toMatch(/^(done|EOPNOTSUPP)$/);
    // Opening by handle needs CAP_DAC_READ_SEARCH, so an ordinary user's control is refused as well.
    if (process.getuid!() === 0 && name === "done") expect(open).toBe("done");
  });

  test("a program in memory can be neither made nor executed", async () => {
    expect(await nothing.call.memoryProgram()).toEqual({ create: "EPERM", execute: "EPERM" });
    expect(await control.call.memoryProgram()).toEqual({ create: "done", execute: "ENOEXEC" });
  });

  test("watching files is EPERM", async () => {
    expect(await reader.call.watch()).toEqual({ inotify: "EPERM", fanotify: "EPERM" });
    expect(await control.call.watch()).toMatchObject({ inotify: "done" });
  });

  test("the only descriptors are the streams, the link, and what Bun itself made", async () => {
    await using fresh = await inside<Files>("files");
    const found = await fresh.call.descriptors();
    expect(found.slice(0, 3)).toEqual([0, 1, 2]);
    const shown = readdirSync(`/proc/${fresh.pid}/fd`).map(Number);
    expect(shown.sort((a, b) => a - b)).toEqual(found);
    for (const number of found) {
      const target = readlinkSync(`/proc/${fresh.pid}/fd/${number}`).replace(/:\[\d+\]$/, "");
      if (number < 3) expect(target).toBe("/dev/null");
      else if (number === 3 || number === 4)
        expect(target).toBe("socket"); // the data lane, the descriptor lane
      else expect(target).toMatch(/^anon_inode:\[(eventpoll|eventfd|timerfd)\]$/);
    }
  });
});
