// The directory of hosts' sockets: that it is ours alone, and what is removed from it.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hostSockets, makeRunDirectory, runDirectories, sweep } from "../../src/rundir.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { listenOn } from "../../syscalls/linux/network.ts";
import { testAsRoot } from "./box.ts";

let base: string;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "caisson-rundir-"));
});
afterEach(() => rmSync(base, { recursive: true }));

/** A socket at this path on which somebody listens for as long as it is held. */
const listening = (path: string) => new Descriptor(listenOn(self, { family: "UNIX", path }));
const mode = (path: string) => lstatSync(path).mode & 0o777;

function changed(bits: number): string {
  chmodSync(base, bits);
  return base;
}

function file(name: string): string {
  writeFileSync(join(base, name), "");
  return join(base, name);
}

describe("runDirectories()", () => {
  const fallback = `/tmp/caisson-${process.geteuid!()}`;

  test("begins with that of the session, and ends with one in /tmp", () => {
    const directories = runDirectories({ XDG_RUNTIME_DIR: base });
    expect([directories[0], directories.at(-1)]).toEqual([join(base, "caisson"), fallback]);
  });

  test.each<[string, () => string]>([
    ["others can write there", () => changed(0o702)],
    ["the group can write there", () => changed(0o720)],
    ["it is a file", () => file("file")],
    ["it is not there", () => join(base, "missing")],
    ["it is no whole path", () => "caisson-rundir-"],
  ])("leaves that of the session out where %s", (_, given) => {
    const directories = runDirectories({ XDG_RUNTIME_DIR: given() });
    expect(directories.filter((path) => path.includes("caisson-rundir-"))).toEqual([]);
    expect(directories.at(-1)).toBe(fallback);
  });

  test("are not doubled where the session's is the usual one", () => {
    const usual = runDirectories({});
    expect(runDirectories({ XDG_RUNTIME_DIR: `/run/user/${process.geteuid!()}` })).toEqual(usual);
  });
});

describe("makeRunDirectory()", () => {
  test("makes one that nobody else can enter, whatever the umask, and finds it again", () => {
    const umask = process.umask(0);
    try {
      expect(mode(makeRunDirectory(join(base, "new")))).toBe(0o700);
    } finally {
      process.umask(umask);
    }
    expect(makeRunDirectory(join(base, "new"))).toBe(join(base, "new"));
  });

  test("throws for a link to a directory that would do", () => {
    mkdirSync(join(base, "real"), { mode: 0o700 });
    symlinkSync("real", join(base, "planted"));
    expect(makeRunDirectory(join(base, "real"))).toBe(join(base, "real"));
    expect(() => makeRunDirectory(join(base, "planted"))).toThrow(`Cannot use ${base}/planted: a directory of user`);
  });

  test.each([0o710, 0o701, 0o755, 0o777])("throws for one that others can enter: mode %o", (bits) => {
    const path = join(base, "open");
    mkdirSync(path);
    chmodSync(path, bits);
    expect(() => makeRunDirectory(path)).toThrow("mode 0700");
    chmodSync(path, 0o700);
    expect(makeRunDirectory(path)).toBe(path);
  });

  test("throws for a file", () => {
    writeFileSync(join(base, "file"), "");
    expect(() => makeRunDirectory(join(base, "file"))).toThrow("Cannot use");
  });

  testAsRoot("throws for that of another user", () => {
    const path = join(base, "theirs");
    mkdirSync(path, { mode: 0o700 });
    Bun.spawnSync(["chown", "1", path]);
    expect(() => makeRunDirectory(path)).toThrow("a directory of user 0");
  });
});

describe("hostSockets()", () => {
  test("are sockets that are called as hosts call them, and no links to such", () => {
    using _ = listening(join(base, "1.sock"));
    listening(join(base, "2.sock")).close();
    listening(join(base, "other.sock")).close();
    writeFileSync(join(base, "3.sock"), "");
    symlinkSync("1.sock", join(base, "4.sock"));
    expect(hostSockets([base]).toSorted()).toEqual([join(base, "1.sock"), join(base, "2.sock")]);
  });

  test("are none where others could have put them", () => {
    using _ = listening(join(base, "1.sock"));
    symlinkSync(base, `${base}-link`);
    try {
      expect(hostSockets([`${base}-link`])).toEqual([]);
      expect(hostSockets([base]).length).toBe(1);
      chmodSync(base, 0o755);
      expect(hostSockets([base])).toEqual([]);
    } finally {
      rmSync(`${base}-link`);
    }
  });

  test("are none where there is no directory", () => {
    expect(hostSockets([join(base, "missing")])).toEqual([]);
  });
});

describe("sweep()", () => {
  test("removes a socket on which nobody listens, and nothing else", () => {
    using _ = listening(join(base, "alive"));
    listening(join(base, "dead")).close();
    writeFileSync(join(base, "file"), "");
    const swept = ["alive", "dead", "file", "missing"].map((name) => sweep(join(base, name)));
    expect(swept).toEqual([false, true, false, false]);
    expect(readdirSync(base).toSorted()).toEqual(["alive", "file"]);
  });

  test("leaves the socket of one that has no room for one more connection", () => {
    const path = join(base, "full");
    using _ = new Descriptor(listenOn(self, { family: "UNIX", path }, { backlog: 0 }));
    for (let asked = 0; asked < 3; asked++) expect(sweep(path)).toBe(false); // each takes room: nobody accepts
    expect(existsSync(path)).toBe(true);
  });

  test("does not follow a link to a socket of the dead", () => {
    listening(join(base, "dead")).close();
    symlinkSync("dead", join(base, "link"));
    expect(sweep(join(base, "link"))).toBe(false);
    expect(sweep(join(base, "dead"))).toBe(true);
  });
});
