/** Attacks of a native program in a sandbox: run() and exec(). */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout } from "bun:test";
import { createHash } from "node:crypto";
import { closeSync, existsSync, openSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Container, container } from "../../src/container.ts";
import { LimitExceeded } from "../../src/error.ts";
import { exec, type RunOptions, run } from "../../src/exec.ts";
import { bind, dev, proc, tmpfs } from "../../src/mounts.ts";
import type { Process } from "../../src/process.ts";
import { self } from "../../syscalls/kernel.ts";
import { F } from "../../syscalls/linux/numbers.ts";
import { descriptorsOf } from "../platform/strings.ts";
import { failure, until } from "./arena.ts";
import { against, arsenal, commandOf, done, said, survivors, testAttempt, VM_READ } from "./attempt.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const base = arsenal();
afterAll(() => base[Symbol.dispose]());

const room = tmpfs("/room");
const attempt = (steps: readonly string[], options: RunOptions = {}) =>
  run([base.program, ...steps], { files: [room], ...options });
const outcomes = async (steps: readonly string[], options: RunOptions = {}) =>
  said((await attempt(steps, options)).stdout);

/** The control: the same program in a container, with all capabilities there and without the sandbox's filter. */
let control: Container | undefined;
/** One of the control's programs, for the others to look into as if it were process 1. */
let prey: Process | undefined;
beforeAll(async () => {
  if (!existsSync(base.program)) return;
  control = await container({ files: [bind(base.program, "/attempt"), proc(), dev(), room] });
  prey = await control.exec(["/attempt", "pause"], { capabilities: "all" });
});
afterAll(() => control?.[Symbol.asyncDispose]());

async function controlled(steps: readonly string[]): Promise<string[]> {
  const process = await control!.exec(["/attempt", ...steps], { capabilities: "all" });
  const text = await new Response(process.stdout).text();
  await process.exited;
  return said(text);
}

/** Calls, what a sandbox says to the last of them, and what the control does where it is not simply done. */
const REFUSED: Record<string, readonly [steps: readonly string[], errno: string, control?: string]> = {
  "a user namespace": [["unshare 0x10000000"], "EPERM"],
  "a mount namespace": [["unshare 0x20000"], "EPERM"],
  "entering a namespace": [["openat -100 =/proc/self/ns/uts 0", "setns $0 0"], "EPERM"],
  mount: [["mount =x =/room =tmpfs 0 0"], "EPERM"],
  remount: [["mount =x =/room 0 0x1020 0"], "EPERM"],
  umount: [["umount2 =/room 2"], "EPERM"],
  pivot_root: [["pivot_root =. =."], "EPERM", "EINVAL"], // there it is asked, and no mount point was given
  open_tree: [["open_tree -100 =/ 1"], "EPERM"],
  move_mount: [["open_tree -100 =/ 1", "move_mount $0 = -100 =/room 4"], "EPERM"],
  fsopen: [["fsopen =tmpfs 0"], "EPERM"],
  mount_setattr: [["mount_setattr -100 =/ 0 ~32 32"], "EPERM"],
  chroot: [["chroot =/"], "EPERM"],
  "climbing out by chroot and a held descriptor": [["breakout"], "EPERM"],
  "ptrace of process 1": [["ptrace 0x4206 % 0 0"], "EPERM"],
  "reading process 1's memory": [[VM_READ], "EPERM", "EFAULT"],
  "taking process 1's descriptors": [["pidfd_open % 0", "pidfd_getfd $0 1 0"], "EPERM"],
  "comparing with process 1": [["kcmp % % 0 0 0"], "EPERM"],
  "/proc/1/mem": [["openat -100 =/proc/%/mem 2"], "EACCES"],
  "/proc/1/environ": [["openat -100 =/proc/%/environ 0"], "EACCES"],
  "/proc/1/fd": [["openat -100 =/proc/%/fd 0"], "EACCES"],
  "writing its own id map": [["openat -100 =/proc/self/uid_map 1"], "EROFS"],
  "writing setgroups": [["openat -100 =/proc/self/setgroups 1"], "EROFS"],
  core_pattern: [["openat -100 =/proc/sys/kernel/core_pattern 0"], "ENOENT"],
  "a unix socket": [["socket 1 1 0"], "EPERM"],
  "a TCP socket": [["socket 2 1 0"], "EPERM"],
  "a raw socket": [["socket 2 3 1"], "EPERM"],
  "a packet socket": [["socket 17 3 0"], "EPERM"],
  "a netlink socket": [["socket 16 3 0"], "EPERM"],
  "a vsock socket": [["socket 40 1 0"], "EPERM"],
  "an alg socket": [["socket 38 5 0"], "EPERM", "(\\d+|EAFNOSUPPORT)"],
  "TIOCSTI on its input": [["ioctl 0 0x5412 ~1"], "EPERM", "ENOTTY"],
  TIOCLINUX: [["ioctl 0 0x541c ~1"], "EPERM", "ENOTTY"],
  "signals to process 1": [["kill % 0"], "EPERM"],
  "a block device": [["mknodat -100 =/room/b 0x6180 0x800"], "EPERM", "EPERM"],
  "a character device": [["mknodat -100 =/room/c 0x2180 0x101"], "EPERM", "EPERM"],
  "a handle of a file": [["name_to_handle_at -100 =/ ~128 ~4 0"], "EPERM", "EOVERFLOW"],
  "opening by handle": [["open_by_handle_at -100 ~128 0"], "EPERM", "EINVAL"],
  personality: [["personality 0x0400000"], "EPERM"],
  io_uring: [["io_uring_setup 1 ~120"], "EPERM", "(\\d+|ENOSYS|EPERM)"],
  "the session's keyring": [["keyctl 0 -3 0"], "EPERM"],
  "a key": [["add_key =user =x =y 1 -3"], "EPERM"],
  perf_event_open: [["perf_event_open ~128 0 -1 -1 0"], "EPERM", "E(ACCES|PERM)"],
  sethostname: [["sethostname =x 1"], "EPERM"],
};

describe("a sandboxed program is refused", () => {
  for (const [what, [steps, errno, otherwise = "\\d+"]] of Object.entries(REFUSED)) {
    testAttempt(`${what}: ${errno}`, async () => {
      expect((await outcomes(against(steps, 1))).at(-1)).toBe(errno);
      expect((await controlled(against(steps, prey!.pid))).at(-1)).toMatch(new RegExp(`^${otherwise}$`));
    });
  }

  testAttempt("a terminal: ENXIO from /dev/tty, in the control as well, for neither has one", async () => {
    expect(await outcomes(["openat -100 =/dev/tty 2"])).toEqual(["ENXIO"]);
  });

  testAttempt("TIOCSTI into a terminal of its own: EPERM, which its control may", async () => {
    const process = await exec([base.program, "ioctl 0 0x5412 @0a"], { terminal: { columns: 80, rows: 24 } });
    const output = await new Response(process.terminal!.readable).text();
    await process.exited;
    expect(said(output)).toEqual(["EPERM"]);
    const free = await control!.exec(["/attempt", "ioctl 0 0x5412 @0a"], { terminal: { columns: 80, rows: 24 } });
    const typed = await new Response(free.terminal!.readable).text();
    await free.exited;
    expect(typed).toMatch(/ioctl (0|EIO)\b/); // EIO where the machine has TIOCSTI off
  });

  testAttempt("a socket of its kind even where net is granted: only TCP is made", async () => {
    const sandbox = { net: ["example.com:443"] };
    const steps = ["socket 2 1 0", "socket 1 1 0", "socket 2 2 0", "socket 2 3 1", "socket 16 3 0", "socket 40 1 0"];
    const [tcp, ...others] = await outcomes(steps, { sandbox });
    expect(done(tcp!)).toBe(true);
    expect(others).toEqual(["EPERM", "EPERM", "EPERM", "EPERM", "EPERM"]);
  });
});

describe("what a sandboxed program is", () => {
  testAttempt("has no capability, no way to one, and the filter", async () => {
    const { stdout } = await attempt(["cat /proc/self/status"]);
    const fields = Object.fromEntries(
      stdout
        .toString()
        .split("\n")
        .map((line) => line.split(/:\s+/) as [string, string]),
    );
    const none = "0000000000000000";
    expect(fields).toMatchObject({ CapInh: none, CapPrm: none, CapEff: none, CapBnd: none, CapAmb: none });
    expect(fields).toMatchObject({ NoNewPrivs: "1", Seccomp: "2", TracerPid: "0" });
    // Set-user-id fixups, keeping capabilities and ambient ones are off and locked: PR_GET_SECUREBITS.
    expect(await outcomes(["prctl 27"])).toEqual(["239"]);
  });

  testAttempt("has descriptors 0, 1 and 2, though the host left one open for all it starts", async () => {
    const leak = openSync("/etc/passwd", "r");
    self.call("fcntl", leak, F.SETFD, 0);
    try {
      expect((await attempt(["descriptors"])).stdout.toString()).toBe("descriptors 0 1 2\n");
      // Handed on where it is asked for, so that the scan would have found it.
      const { stdout } = await attempt(["descriptors"], { descriptors: { 9: leak } });
      expect(stdout.toString()).toBe("descriptors 0 1 2 9\n");
    } finally {
      closeSync(leak);
    }
  });

  testAttempt(
    "has a first process that holds sockets and a signalfd alone, and no memory file of the host",
    async () => {
      await using process = await exec([base.program, "pause"]);
      // Its arguments are there at the end of execve(2), and the puppet gives up the rest behind that.
      let first: string | undefined;
      await until(() => {
        const program = readdirSync("/proc").find((pid) => commandOf(pid).startsWith(`${base.program}\0pause`));
        first = program && parentOf(program);
        return first !== undefined;
      });
      if (globalThis.process.getuid!() === 0) {
        const held = () => Object.values(descriptorsOf(first!));
        await until(() => held().every((each) => /^(socket:|anon_inode:\[signalfd\])/.test(each)));
      }
      process.kill();
    },
  );

  testAttempt("knows nothing of the host's environment", async () => {
    expect((await attempt(["cat /proc/self/environ"])).stdout.toString().trim()).toBe("");
  });

  testAttempt("64 times .. is its own root", async () => {
    expect(await outcomes([`openat -100 =${"/..".repeat(64)}/etc/passwd 0`])).toEqual(["ENOENT"]);
    expect(existsSync(`${"/..".repeat(64)}/etc/passwd`)).toBe(true);
  });

  testAttempt("cannot write its own program, nor the puppet's, and the file is as it was", async () => {
    const hash = () => createHash("sha256").update(readFileSync(base.program)).digest("hex");
    const before = hash();
    const [own, puppet, path] = await outcomes([
      "openat -100 =/proc/self/exe 1",
      "openat -100 =/proc/1/exe 1",
      `openat -100 =${base.program} 1`,
    ]);
    for (const outcome of [own, puppet, path]) expect(outcome).toMatch(/^(EACCES|EROFS|ETXTBSY)$/);
    expect(hash()).toBe(before);
  });

  testAttempt("gains nothing by a script that names /proc/self/exe as its interpreter", async () => {
    const granted = base.directory("scripts");
    writeFileSync(join(granted, "self"), "#!/proc/self/exe\n", { mode: 0o755 });
    const options = { sandbox: { read: [granted] } };
    expect(await outcomes([`execve =${join(granted, "self")} 0 0`], options)).toEqual(["EACCES"]); // noexec
  });
});

describe("granted directories", () => {
  testAttempt("hold no unix socket that can be reached: EPERM, where the host connects", async () => {
    const granted = base.directory("sockets");
    const path = join(granted, "socket");
    using listener = Bun.listen({ unix: path, socket: { data() {} } });
    const steps = ["socket 1 1 0"];
    expect(await outcomes(steps, { sandbox: { write: [granted] } })).toEqual(["EPERM"]);
    using client = await Bun.connect({ unix: path, socket: { data() {} } });
    expect(client.readyState).toBe(1);
    listener.stop();
  });

  testAttempt("refuse set-user-id files: EPERM from chmod, which the control may", async () => {
    const granted = base.directory("modes");
    writeFileSync(join(granted, "file"), "", { mode: 0o666 });
    const steps = [`chmod =${join(granted, "file")} 0x9ed`];
    expect(await outcomes(steps, { sandbox: { write: [granted] } })).toEqual(["EPERM"]);
    expect((await controlled(["openat -100 =/room/s 0x41 0x1ff", "chmod =/room/s 0x9ed"])).at(-1)).toBe("0");
  });

  testAttempt(
    "refuse to create them: EPERM from openat, ENOSYS from openat2, whose mode no filter can see",
    async () => {
      const granted = base.directory("special");
      const how = "@4100000000000000ed090000000000000000000000000000"; // O_WRONLY | O_CREAT, 04755
      const steps = (directory: string) => [
        `openat -100 =${directory}/a 0x41 0x9ed`,
        `openat2 -100 =${directory}/b ${how} 24`,
      ];
      expect(await outcomes(steps(granted), { sandbox: { write: [granted] } })).toEqual(["EPERM", "ENOSYS"]);
      expect(readdirSync(granted)).toEqual([]);
      expect((await controlled(steps("/room"))).every(done)).toBe(true);
    },
  );
});

describe("limits", () => {
  testAttempt("processes: EAGAIN, and nothing is left", async () => {
    const { stdout } = await attempt(["bomb 500"], { sandbox: { limits: { processes: 20 } } });
    const [started, outcome] = said(stdout);
    expect(outcome).toBe("EAGAIN");
    expect(Number(started)).toBeLessThan(20);
    expect(Number((await controlled(["orphans 40"]))[0])).toBe(40);
    expect(survivors(base.program)).toEqual([]);
  });

  testAttempt("open files: EMFILE", async () => {
    const { stdout } = await attempt(["open-files"], { sandbox: { limits: { files: 40 } } });
    expect(said(stdout)).toEqual(["EMFILE", "37"]);
    expect(Number((await controlled(["open-files"])).at(-1))).toBeGreaterThan(37);
  });

  testAttempt("file size: SIGXFSZ for one byte more", async () => {
    const steps = ["openat -100 =/room/f 0x42 0x1ff", "ftruncate $0 1048576", "ftruncate $0 1048577"];
    const { stdout, signal } = await attempt(steps, { sandbox: { limits: { fileSize: "1 MiB" } } });
    expect([...said(stdout).slice(1), signal]).toEqual(["0", "SIGXFSZ"]);
    expect((await controlled(steps)).at(-1)).toBe("0");
  });

  testAttempt("output: LimitExceeded, with the program gone", async () => {
    const error = await failure(attempt(["flood"], { sandbox: { limits: { output: "1 MiB" } } }));
    expect(error).toBeInstanceOf(LimitExceeded);
    await until(() => survivors(base.program).length === 0);
  });
});

describe("ends", () => {
  testAttempt("a daemon that left its session and ignores all signals ends with the program", async () => {
    await using process = await exec([base.program, "daemon", "write 1 =ready 5", "pause"]);
    await process.stdout!.getReader().read();
    await until(() => survivors(base.program).length === 2); // who made it says so, and may not have gone yet
    process.kill();
    await process.exited;
    await until(() => survivors(base.program).length === 0);
  });

  testAttempt(
    "what is written to descriptors 3 to 200 reaches nobody, and the exit code is the program's",
    async () => {
      const { exitCode, stdout } = await attempt(["forge", "exit 7"]);
      expect(said(stdout)).toEqual(["0"]);
      expect(exitCode).toBe(7);
    },
  );

  testAttempt("ten thousand orphans are reaped, at a limit of 20 processes", async () => {
    const { stdout, exitCode } = await attempt(["orphans 10000"], { sandbox: { limits: { processes: 20 } } });
    expect([...said(stdout), exitCode]).toEqual(["10000", 0]);
  });

  testAttempt("what orphans say of how they ended is not taken for the program's end", async () => {
    await using box = await container({ files: [bind(base.program, "/attempt"), proc(), dev()] });
    const first = await box.exec(["/attempt", "orphans 100"]);
    await first.exited;
    const { exitCode } = await (async () => {
      const next = await box.exec(["/attempt", "exit 7"]);
      await next.exited;
      return next;
    })();
    expect(exitCode).toBe(7);
  });
});

function parentOf(pid: string): string | undefined {
  try {
    return /^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  } catch {
    return undefined; // it ended meanwhile
  }
}
