// What a program that has promised to open nothing is lent all the same: the files that it needs in order to start, and nothing else.
import { afterAll, describe, expect, setDefaultTimeout } from "bun:test";
import { existsSync, linkSync, realpathSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { programOf } from "../../../platform/linux/program.ts";
import { bind, type Sandbox } from "../../../src/index.ts";
import { O } from "../../../syscalls/linux/numbers.ts";
import { testAttempt } from "../../attacks/attempt.ts";
import { act, rebellion } from "../../attacks/supervised.ts";
import { testBox } from "../../src/box.ts";

setDefaultTimeout(30_000); // the machine may have other things to do

const base = rebellion();
afterAll(() => base[Symbol.dispose]());
const room = base.directory("room");
writeFileSync(join(room, "other"), "other");

const here = (path: string, flags: number = O.RDONLY) => `openat -100 =${path} ${flags} 0600`;
/** The program itself is among what is lent. */
async function outcomes(steps: readonly string[], sandbox: Sandbox = {}, more: object = {}) {
  const { said, signal } = await act([base.program, ...steps], {
    sandbox: { promises: "stdio", onBreak: "errno", ...sandbox },
    ...more,
  });
  return {
    said: said
      .trim()
      .split("\n")
      .map((line) => line.split(" ").at(-1)!),
    signal,
  };
}

describe("who promised stdio", () => {
  testAttempt("opens its own program for reading, and no other file", async () => {
    const read = { read: [room] };
    expect((await outcomes([here(base.program), here(join(room, "other"))], read)).said).toEqual(["3", "EPERM"]);
    expect((await outcomes([here(join(room, "other"))], { ...read, promises: "stdio rpath" })).said).toEqual(["3"]);
  });

  testAttempt("opens it in no other way", async () => {
    const flags = [O.WRONLY, O.RDWR, O.PATH, O.RDONLY | O.TRUNC, O.RDONLY | O.CREAT, O.RDONLY | O.DIRECTORY, 3];
    const steps = flags.map((each) => here(base.program, each));
    expect((await outcomes(steps)).said).toEqual(flags.map(() => "EPERM"));
    const given = await outcomes([here(base.program), "fcntl $0 3", "write $0 =x 1", here("/proc/self/fd/3", O.RDWR)]);
    expect(given.said.slice(2)).toEqual(["EBADF", "EPERM"]);
    expect(Number(given.said[1]) & O.ACCMODE).toBe(O.RDONLY);
  });

  testAttempt("gets it by its inode, whatever it is called", async () => {
    linkSync(base.program, join(room, "hard"));
    symlinkSync(base.program, join(room, "soft"));
    symlinkSync(join(room, "other"), join(room, "away"));
    const steps = ["hard", "soft", "away"].map((name) => here(join(room, name)));
    expect((await outcomes(steps, { read: [room] })).said).toEqual(["3", "4", "EPERM"]);
  });

  testBox("gets nothing that was put in its place", async () => {
    // A secret over a library by that library's name.
    const libraries = programOf("/bin/cat")
      .files.map(({ target }) => target)
      .filter((path) => path.includes("libc.so"));
    const secret = join(room, "other");
    const files = libraries.map((path) => bind(secret, path));
    const steps = libraries.map((path) => here(path));
    expect(libraries.length).toBeGreaterThan(0);
    const run = ["/bin/cat"];
    expect((await outcomes(steps, { run })).said).toEqual(libraries.map(() => expect.stringMatching(/^\d+$/)));
    const { said } = await outcomes(steps, { run }, { files });
    expect(said).toEqual(libraries.map(() => "EPERM"));
  });

  testAttempt("looks in vain for what is not there, which breaks no promise; and what is there does", async () => {
    const sandbox: Sandbox = { read: [room], onBreak: "kill" };
    expect(await outcomes([here("/nowhere"), here(join(room, "none"))], sandbox)).toEqual({
      said: ["ENOENT", "ENOENT"],
      signal: null,
    });
    expect((await outcomes([here(join(room, "other"))], sandbox)).signal).toBe("SIGKILL");
    expect((await outcomes([here("/proc/self/status")], sandbox)).signal).toBe("SIGKILL");
    expect((await outcomes(["mount =none =/ =tmpfs 0 0"], sandbox)).signal).toBe("SIGKILL");
    expect((await outcomes([here(join(room, "other"))], { ...sandbox, promises: "stdio error" })).said).toEqual([
      "ENOSYS",
    ]);
  });

  testAttempt("becomes no other program, and not itself again", async () => {
    const again = [`execve =${base.program} 0 0`, `execveat -100 =${base.program} 0 0 0`];
    expect((await outcomes(again)).said).toEqual(["EPERM", "EPERM"]);
    for (const step of again) expect((await outcomes([step], { onBreak: "kill" })).signal).toBe("SIGKILL");
  });

  testAttempt("starts if it is dynamic, and reads what it was handed", async () => {
    const { said, code } = await act(["/bin/cat"], { sandbox: { promises: "stdio", onBreak: "kill" }, stdin: "text" });
    expect([said, code]).toEqual(["text", 0]);
    const refused = await act(["/bin/cat", "/proc/self/status"], { sandbox: { promises: "stdio", onBreak: "kill" } });
    expect(refused.signal).toBe("SIGKILL");
    const told = await act(["/bin/cat", "/proc/self/status"], { sandbox: { promises: "stdio", onBreak: "errno" } });
    expect(told.complained).toContain("not permitted");
    expect(existsSync(realpathSync("/bin/cat"))).toBe(true);
  });
});
