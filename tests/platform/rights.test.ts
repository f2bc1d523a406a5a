// Each of Landlock's rights, from inside: what it allows, what is refused without it, and that nobody refuses it where there is no wall.
// `tests/kernels/run.sh` runs this under other kernels.
import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isRoot } from "../../platform/linux/ids.ts";
import { planLandlock, type Wanted } from "../../platform/linux/lacks.ts";
import {
  type Confinement,
  handledBy,
  type PortRule,
  QUIET_SINCE,
  RESTRICT_SINCE,
  RIGHTS,
  type Right,
  unveilAccess,
  usableAbi,
} from "../../platform/linux/landlock.ts";
import { puppetImage } from "../../platform/linux/puppet.ts";
import { compile } from "../../platform/linux/seccomp/compile.ts";
import { enterLandlock } from "../../platform/linux/walls.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { type Kernel, machine, self } from "../../syscalls/kernel.ts";
import { capset } from "../../syscalls/linux/capability.ts";
import { AF, MSG, SOCK } from "../../syscalls/linux/constants.ts";
import {
  close,
  deviceNumber,
  makeDirectory,
  makeLink,
  makeNode,
  makeSymlink,
  open,
} from "../../syscalls/linux/file.ts";
import { allowBeneath, allowPort, createRuleset, landlockErrata, restrictSelf } from "../../syscalls/linux/landlock.ts";
import { connectTo, encodeAddress, listenOn, localAddress, openSocket } from "../../syscalls/linux/network.ts";
import {
  LANDLOCK_ADD_RULE as ADD_RULE,
  AT,
  AT_FD,
  type ERRNO,
  LANDLOCK_ACCESS_FS as FS,
  IPPROTO,
  O,
  LANDLOCK_RESTRICT_SELF as RESTRICT,
  S,
} from "../../syscalls/linux/numbers.ts";
import { setNoNewPrivileges } from "../../syscalls/linux/process.ts";
import { setFilter } from "../../syscalls/linux/seccomp.ts";
import { testIf } from "../syscalls/requirement.ts";
import { become } from "./become.ts";
import { type Held, hold, testPuppet } from "./strings.ts";

const ABI = usableAbi();
const ERRATA = landlockErrata();
const NOTHING = { fs: 0n, net: 0n, scoped: 0n };
const testLandlock = ABI > 0 ? testPuppet : testIf("landlock", false, "this kernel has no Landlock");
/** `test` from an ABI on. */
const since = (abi: number, what: string) =>
  abi <= ABI ? testLandlock : testIf(`landlock-${abi}`, false, `${what} needs Landlock ABI ${abi}, and this is ${ABI}`);

const base = realpathSync(mkdtempSync(join(tmpdir(), "rights-")));
afterAll(() => rmSync(base, { recursive: true, force: true }));

/** The same things in each room; what is granted is one of them. */
function room(name: string): string {
  const path = join(base, name);
  for (const each of ["", "empty", "from", "to"]) mkdirSync(join(path, each), { recursive: true });
  for (const each of ["file", "from/file", "doomed"]) writeFileSync(join(path, each), "text");
  writeFileSync(join(path, "program"), puppetImage());
  chmodSync(join(path, "program"), 0o755);
  return path;
}

/** Puts the puppet behind rules. */
function confine({ kernel }: Held, confinement: Confinement): void {
  setNoNewPrivileges(kernel);
  enterLandlock(kernel, confinement);
}

const opening = (path: string, flags: number) => (kernel: Kernel, place: string) =>
  close(kernel, open(kernel, join(place, path), flags | O.CLOEXEC));
const node =
  (mode: number, device = 0) =>
  (kernel: Kernel, place: string) =>
    makeNode(kernel, join(place, "node"), mode | 0o600, device);

const becoming = (kernel: Kernel, place: string) => become(kernel as Held["kernel"], join(place, "program"));

interface Act {
  readonly errno: keyof typeof ERRNO;
  /** At a place where it is allowed, or where it is not. */
  act(kernel: Kernel, place: string): void;
  readonly root?: true;
}

/** The acts, in an order that suits: each is done once in each room. */
const ACTS: Partial<Record<Right, Act>> = {
  "fs.execute": { errno: "EACCES", act: becoming },
  "fs.write_file": { errno: "EACCES", act: opening("file", O.WRONLY) },
  "fs.read_file": { errno: "EACCES", act: opening("file", O.RDONLY) },
  "fs.read_dir": { errno: "EACCES", act: opening("from", O.RDONLY | O.DIRECTORY) },
  "fs.remove_dir": {
    errno: "EACCES",
    act: (kernel, place) => void kernel.call("unlinkat", AT_FD.CWD, join(place, "empty"), AT.REMOVEDIR),
  },
  "fs.remove_file": {
    errno: "EACCES",
    act: (kernel, place) => void kernel.call("unlinkat", AT_FD.CWD, join(place, "doomed"), 0),
  },
  "fs.make_char": { errno: "EACCES", act: node(S.IFCHR, deviceNumber(1, 3)), root: true },
  "fs.make_dir": { errno: "EACCES", act: (kernel, place) => makeDirectory(kernel, join(place, "made"), 0o700) },
  "fs.make_reg": { errno: "EACCES", act: node(S.IFREG) },
  "fs.make_sock": { errno: "EACCES", act: node(S.IFSOCK) },
  "fs.make_fifo": { errno: "EACCES", act: node(S.IFIFO) },
  "fs.make_block": { errno: "EACCES", act: node(S.IFBLK, deviceNumber(7, 0)), root: true },
  "fs.make_sym": { errno: "EACCES", act: (kernel, place) => makeSymlink(kernel, "/", join(place, "symlink")) },
  "fs.refer": {
    errno: "EXDEV",
    act: (kernel, place) => makeLink(kernel, join(place, "from/file"), join(place, "to/link")),
  },
  "fs.truncate": { errno: "EACCES", act: (kernel, place) => void kernel.call("truncate", join(place, "file"), 1) },
  "fs.resolve_unix": {
    errno: "EACCES",
    act(kernel, place) {
      connectTo(kernel, openSocket(kernel, "UNIX"), { family: "UNIX", path: join(place, "socket") });
    },
  },
};

const refusal = (errno: string) => new RegExp(`^${errno}: `);
const attempt = (act: () => void): string => {
  try {
    act();
    return "done";
  } catch (error) {
    return (error as Error).message.split(":")[0]!;
  }
};

describe("beneath a path, and only with the right", () => {
  for (const [right, { errno, act, root }] of Object.entries(ACTS)) {
    const { bit, abi } = RIGHTS[right as Right];
    const run = root && !isRoot() ? testIf("root", false, `${right}: only root makes devices`) : since(abi, right);
    run(`${right}: ${errno} without`, () => {
      const [granted, other, open] = ["granted", "other", "open"].map((name) => room(`${right}-${name}`));
      using _sockets = right === "fs.resolve_unix" ? listening([granted!, other!, open!]) : undefined;
      using free = hold();
      act(free.kernel, open!);

      using puppet = hold();
      confine(puppet, { handled: { ...NOTHING, fs: bit }, rules: [{ path: granted!, access: bit }] });
      expect(() => act(puppet.kernel, other!)).toThrow(refusal(errno));
      act(puppet.kernel, granted!);
    });
  }
});

const closeAll = (sockets: readonly Descriptor[]) => {
  for (const socket of sockets) socket.close();
};

/** A socket in each place. */
function listening(places: readonly string[]): Disposable {
  const sockets = places.map(
    (place) => new Descriptor(listenOn(self, { family: "UNIX", path: join(place, "socket") })),
  );
  return { [Symbol.dispose]: () => closeAll(sockets) };
}

const RNDGETENTCNT = 0x80045200; // linux/random.h

since(5, "fs.ioctl_dev")("fs.ioctl_dev: EACCES without, for commands of drivers; those of descriptors stay", () => {
  const asking = (kernel: Kernel, device: string) => {
    const file = open(kernel, device, O.RDONLY | O.CLOEXEC);
    kernel.call("ioctl", file, 0x5451); // FIOCLEX
    kernel.call("ioctl", file, RNDGETENTCNT, new Uint8Array(4));
  };
  using free = hold();
  asking(free.kernel, "/dev/random");
  using puppet = hold();
  confine(puppet, {
    handled: { ...NOTHING, fs: FS.IOCTL_DEV },
    rules: [{ path: "/dev/urandom", access: FS.IOCTL_DEV }],
  });
  expect(() => asking(puppet.kernel, "/dev/random")).toThrow("EACCES: ioctl");
  asking(puppet.kernel, "/dev/urandom");
});

since(9, "fs.resolve_unix")("fs.resolve_unix: a server of its own is reached all the same", () => {
  using puppet = hold();
  confine(puppet, { handled: { ...NOTHING, fs: FS.RESOLVE_UNIX }, rules: [] });
  const address = { family: "UNIX", path: join(room("own"), "socket") } as const;
  listenOn(puppet.kernel, address);
  connectTo(puppet.kernel, openSocket(puppet.kernel, "UNIX"), address);
});

/** Two sockets that hold, or have held, a port of this machine each. */
function ports(): Disposable & { readonly granted: number; readonly other: number; free(): void } {
  const sockets = [0, 1].map(() => new Descriptor(listenOn(self, { family: "INET", address: "127.0.0.1", port: 0 })));
  const [granted, other] = sockets.map((socket) => {
    const address = localAddress(self, socket.number);
    return address.family === "INET" ? address.port : 0;
  });
  const free = () => closeAll(sockets);
  return { granted: granted!, other: other!, free, [Symbol.dispose]: free };
}

const LOOPBACK = { family: "INET", address: "127.0.0.1" } as const;
const named = (call: "bind" | "connect", type: number) => (kernel: Kernel, port: number) => {
  const address = encodeAddress({ ...LOOPBACK, port });
  const socket = kernel.call("socket", AF.INET, type | SOCK.CLOEXEC, 0);
  kernel.call(call, socket, address, address.length);
  close(kernel, socket);
};

const PORT_ACTS: Partial<Record<Right, (kernel: Kernel, port: number) => void>> = {
  "net.bind_tcp": named("bind", SOCK.STREAM),
  "net.connect_tcp": named("connect", SOCK.STREAM),
  "net.bind_udp": named("bind", SOCK.DGRAM),
  "net.connect_send_udp": named("connect", SOCK.DGRAM),
};

describe("at a port, and only with the right", () => {
  for (const [right, act] of Object.entries(PORT_ACTS)) {
    const { bit, abi } = RIGHTS[right as Right];
    since(abi, right)(`${right}: EACCES without`, () => {
      using held = ports();
      if (right === "net.bind_tcp") held.free();
      using free = hold();
      act(free.kernel, held.other);
      using puppet = hold();
      const allowed: PortRule[] = [{ port: held.granted, access: bit }];
      confine(puppet, { handled: { ...NOTHING, net: bit }, rules: [], ports: allowed });
      expect(() => act(puppet.kernel, held.other)).toThrow(refusal("EACCES"));
      act(puppet.kernel, held.granted);
    });
  }

  since(10, "net.connect_send_udp")(
    "net.connect_send_udp: EACCES without for a datagram sent to an address, too",
    () => {
      using held = ports();
      using puppet = hold();
      const right = RIGHTS["net.connect_send_udp"].bit;
      confine(puppet, {
        handled: { ...NOTHING, net: right },
        rules: [],
        ports: [{ port: held.granted, access: right }],
      });
      const send = (port: number) => {
        const address = encodeAddress({ ...LOOPBACK, port });
        const socket = puppet.kernel.call("socket", AF.INET, SOCK.DGRAM | SOCK.CLOEXEC, 0);
        puppet.kernel.call("sendto", socket, Uint8Array.of(1), 1, 0, address, address.length);
      };
      expect(() => send(held.other)).toThrow("EACCES: sendto");
      send(held.granted);
    },
  );

  since(4, "a port")("allowPort() throws EINVAL for a right that the ruleset does not govern, ENOMSG for none", () => {
    using ruleset = new Descriptor(createRuleset(self, { ...NOTHING, net: RIGHTS["net.bind_tcp"].bit }));
    expect(() => allowPort(self, ruleset.number, 80, RIGHTS["net.connect_tcp"].bit)).toThrow("EINVAL");
    expect(() => allowPort(self, ruleset.number, 65_536, RIGHTS["net.bind_tcp"].bit)).toThrow("EINVAL");
    expect(() => allowPort(self, ruleset.number, 80, 0n)).toThrow("ENOMSG");
  });
});

describe("within the domain, and not out of it", () => {
  since(6, "scope.signal")("scope.signal: EPERM", () => {
    const signal = ({ kernel }: Held, pid: number) => kernel.call("kill", pid, 0);
    using free = hold();
    signal(free, process.pid);
    using puppet = hold();
    confine(puppet, { handled: { ...NOTHING, scoped: RIGHTS["scope.signal"].bit }, rules: [] });
    expect(() => signal(puppet, process.pid)).toThrow("EPERM: kill");
    signal(puppet, puppet.pid);
  });

  since(6, "scope.abstract_unix_socket")("scope.abstract_unix_socket: EPERM", () => {
    const address = (who: string) => ({ family: "UNIX", path: `\0rights-${process.pid}-${who}` }) as const;
    const reach = ({ kernel }: Held, who: string) => connectTo(kernel, openSocket(kernel, "UNIX"), address(who));
    using _outside = new Descriptor(listenOn(self, address("outside")));
    using free = hold();
    reach(free, "outside");
    using puppet = hold();
    confine(puppet, { handled: { ...NOTHING, scoped: RIGHTS["scope.abstract_unix_socket"].bit }, rules: [] });
    expect(() => reach(puppet, "outside")).toThrow("EPERM: connect");
    listenOn(puppet.kernel, address("inside"));
    reach(puppet, "inside");
  });
});

test("no right of the table is left out", () => {
  const apart: Right[] = ["fs.ioctl_dev", "scope.signal", "scope.abstract_unix_socket"];
  const tried = [...Object.keys(ACTS), ...Object.keys(PORT_ACTS), ...apart];
  expect(tried.toSorted()).toEqual(Object.keys(RIGHTS).toSorted());
});

describe("flags", () => {
  for (const name of ["LOG_SAME_EXEC_OFF", "LOG_NEW_EXEC_ON", "LOG_SUBDOMAINS_OFF", "TSYNC"] as const) {
    testLandlock(`${name}: EINVAL before ABI ${RESTRICT_SINCE[name]}`, () => {
      using puppet = hold();
      const flagged = () => confine(puppet, { handled: { ...NOTHING, fs: 1n }, rules: [], flags: RESTRICT[name] });
      if (ABI < RESTRICT_SINCE[name]) expect(flagged).toThrow("EINVAL: landlock_restrict_self");
      else flagged();
    });
  }

  since(RESTRICT_SINCE.NO_NEW_PRIVS, "NO_NEW_PRIVS")("NO_NEW_PRIVS sets it, where without it EPERM is said", () => {
    using puppet = hold();
    const { kernel } = puppet;
    capset(kernel, { effective: 0n, permitted: 0n, inheritable: 0n });
    const ruleset = createRuleset(kernel, { ...NOTHING, fs: 1n });
    expect(() => restrictSelf(kernel, ruleset)).toThrow("EPERM: landlock_restrict_self");
    restrictSelf(kernel, ruleset, RESTRICT.NO_NEW_PRIVS);
    expect(kernel.call("prctl", 39, 0, 0, 0, 0)).toBe(1); // PR_GET_NO_NEW_PRIVS
  });

  testLandlock(`a quiet rule: EINVAL before ABI ${QUIET_SINCE}, and needs no right`, () => {
    const quiet = () => {
      const handled = { ...NOTHING, fs: FS.READ_FILE, quiet: { ...NOTHING, fs: FS.READ_FILE } };
      using ruleset = new Descriptor(createRuleset(self, handled));
      using place = new Descriptor(open(self, "/", O.PATH | O.CLOEXEC));
      allowBeneath(self, ruleset.number, place.number, 0n, ADD_RULE.QUIET);
    };
    // The longer struct is E2BIG to a kernel that has not heard of it.
    if (ABI < QUIET_SINCE) expect(quiet).toThrow(/^(E2BIG|EINVAL): landlock_create_ruleset/);
    else quiet();
  });

  testLandlock("TSYNC confines threads that are there already; without it they are not", async () => {
    const script = `
      import { readFileSync } from "node:fs";
      import { readFile } from "node:fs/promises";
      import { self } from ${JSON.stringify(join(import.meta.dir, "../../syscalls/kernel.ts"))};
      import { createRuleset, restrictSelf } from ${JSON.stringify(join(import.meta.dir, "../../syscalls/linux/landlock.ts"))};
      await readFile("/etc/passwd"); // the pool is there
      self.call("prctl", 38, 1, 0, 0, 0);
      restrictSelf(self, createRuleset(self, { fs: 4n, net: 0n, scoped: 0n }), ${ABI >= RESTRICT_SINCE.TSYNC ? RESTRICT.TSYNC : 0});
      const said = async (act) => { try { await act(); return "done"; } catch (error) { return error.code; } };
      const reads = () => Promise.all(Array.from({ length: 20 }, () => said(() => readFile("/etc/passwd"))));
      let all = await reads();
      // A thread that begins now has the domain of its maker: one of those that were there takes a read at some time.
      while (${ABI < RESTRICT_SINCE.TSYNC} && !all.includes("done")) all = await reads();
      console.log(await said(() => readFileSync("/etc/passwd")), all.includes("done") ? "done" : all[0]);`;
    const child = Bun.spawn([process.execPath, "-e", script], { stdio: ["ignore", "pipe", "inherit"] });
    const expected = ABI >= RESTRICT_SINCE.TSYNC ? "EACCES EACCES" : "EACCES done";
    expect((await new Response(child.stdout).text()).trim()).toBe(expected);
  });
});

describe("unveil", () => {
  const DEEDS = {
    read: (kernel: Kernel, place: string) => opening("file", O.RDONLY)(kernel, place),
    list: (kernel: Kernel, place: string) => opening("from", O.RDONLY | O.DIRECTORY)(kernel, place),
    write: (kernel: Kernel, place: string) => opening("file", O.WRONLY | O.TRUNC)(kernel, place),
    remove: (kernel: Kernel, place: string) => void kernel.call("unlinkat", AT_FD.CWD, join(place, "doomed"), 0),
    create: (kernel: Kernel, place: string) => makeDirectory(kernel, join(place, "made"), 0o700),
    run: becoming,
  };
  type Deed = keyof typeof DEEDS;
  const table: Readonly<Record<string, readonly Deed[]>> = {
    r: ["read", "list"],
    w: ["write"],
    // The kernel opens for reading what it executes.
    x: ["read", "run"],
    c: ["remove", "create"],
    rwxc: ["read", "list", "write", "remove", "create", "run"],
  };
  for (const [permissions, allowed] of Object.entries(table)) {
    since(3, "unveil")(`${permissions}: ${allowed.join(", ")}`, () => {
      const handled = handledBy(ABI, ERRATA);
      const granted = room(`unveil-${permissions}`);
      using puppet = hold();
      const access = unveilAccess(permissions, true, handled);
      confine(puppet, { handled, rules: [{ path: granted, access }] });
      const outcome = (deed: Deed) => attempt(() => DEEDS[deed](puppet.kernel, granted));
      for (const deed of Object.keys(DEEDS) as Deed[])
        expect([deed, outcome(deed)]).toEqual([deed, allowed.includes(deed) ? "done" : "EACCES"]);
    });
  }
});

describe("what an older Landlock lacks, filters refuse instead", () => {
  /** A puppet behind what is planned for a kernel of this ABI, with the filter's rules of all that is lacked, or without them. */
  function planned(wanted: Wanted, abi: number, filtered: boolean): Held {
    const { lacks, ...confinement } = planLandlock(wanted, { abi, errata: ERRATA });
    const puppet = hold();
    confine(puppet, { ...confinement, flags: 0 });
    const rules = lacks.flatMap((lack) => [...lack.rules]);
    if (filtered) setFilter(puppet.kernel, compile({ machine: machine(), default: "allow", rules }));
    return puppet;
  }

  const READABLE: Wanted = { paths: [] };
  const truncations: Readonly<Record<string, (kernel: Kernel, file: string) => unknown>> = {
    "truncate(2)": (kernel, file) => kernel.call("truncate", file, 1),
    "O_RDONLY | O_TRUNC": (kernel, file) => open(kernel, file, O.RDONLY | O.TRUNC),
    "mode 3 and O_TRUNC": (kernel, file) => open(kernel, file, O.ACCMODE | O.TRUNC),
  };
  for (const [how, truncate] of Object.entries(truncations)) {
    since(2, "what stands for fs.truncate")(`emptying what may only be read: ${how}: EACCES`, () => {
      const place = room(`truncate-${how.replaceAll("/", "")}`);
      const wanted = { ...READABLE, paths: [{ path: place, directory: true, permissions: "r" }] };
      const file = join(place, "file");
      using bare = planned(wanted, 2, false);
      truncate(bare.kernel, file);
      using puppet = planned(wanted, 2, true);
      expect(() => truncate(puppet.kernel, file)).toThrow(refusal("EACCES"));
      close(puppet.kernel, open(puppet.kernel, file, O.RDONLY));
    });
  }

  since(2, "what stands for fs.truncate")("who may write may empty as well", () => {
    const place = room("writable");
    using puppet = planned({ paths: [{ path: place, directory: true, permissions: "rw" }] }, 2, true);
    const file = open(puppet.kernel, join(place, "file"), O.WRONLY | O.TRUNC);
    puppet.kernel.call("ftruncate", file, 1);
  });

  since(4, "what stands for fs.ioctl_dev")("commands of drivers: ENOTTY", () => {
    const wanted = { paths: [{ path: "/dev/random", directory: false, permissions: "r" }] };
    const ask = ({ kernel }: Held) => {
      const file = open(kernel, "/dev/random", O.RDONLY);
      kernel.call("ioctl", file, RNDGETENTCNT, new Uint8Array(4));
    };
    using bare = planned(wanted, 4, false);
    ask(bare);
    using puppet = planned(wanted, 4, true);
    expect(() => ask(puppet)).toThrow("ENOTTY: ioctl");
  });

  since(3, "what stands for net.connect_tcp")("TCP, where no port is allowed: EACCES", () => {
    const wanted = { paths: [], net: {} };
    using held = ports();
    const connect = ({ kernel }: Held) => named("connect", SOCK.STREAM)(kernel, held.granted);
    using bare = planned(wanted, 3, false);
    connect(bare);
    using puppet = planned(wanted, 3, true);
    expect(() => connect(puppet)).toThrow("EACCES: socket");
  });

  since(5, "what stands for scopes")("signals to others, and unix sockets: EPERM and EACCES", () => {
    using _outside = new Descriptor(listenOn(self, { family: "UNIX", path: `\0rights-${process.pid}-instead` }));
    const reach = ({ kernel }: Held) =>
      connectTo(kernel, openSocket(kernel, "UNIX"), { family: "UNIX", path: `\0rights-${process.pid}-instead` });
    using bare = planned(READABLE, 5, false);
    reach(bare);
    bare.kernel.call("kill", process.pid, 0);
    using puppet = planned(READABLE, 5, true);
    expect(() => reach(puppet)).toThrow("EACCES: socket");
    expect(() => puppet.kernel.call("kill", process.pid, 0)).toThrow("EPERM: kill");
    const pidfd = puppet.kernel.call("pidfd_open", process.pid, 0);
    expect(() => puppet.kernel.call("pidfd_send_signal", pidfd, 0, null, 0)).toThrow("EPERM: pidfd_send_signal");
    const F_SETOWN = 8;
    expect(() => puppet.kernel.call("fcntl", pidfd, F_SETOWN, process.pid)).toThrow("EPERM: fcntl");
  });

  const ALLOWED = (port: number): Wanted => ({ paths: [], net: { tcp: { bind: [], connect: [port] } } });

  since(4, "net.connect_tcp")("MSG_FASTOPEN, which went past net.connect_tcp before Linux 7.2: EACCES", () => {
    using held = ports();
    const fast = (puppet: Held, port: number) => {
      const socket = puppet.kernel.call("socket", AF.INET, SOCK.STREAM, 0);
      const address = encodeAddress({ ...LOOPBACK, port });
      return puppet.kernel.call("sendto", socket, Uint8Array.of(1), 1, MSG.FASTOPEN, address, address.length);
    };
    using free = hold();
    expect(attempt(() => fast(free, held.other))).toMatch(/^(done|EINPROGRESS)$/);
    using bare = planned(ALLOWED(held.granted), ABI, false);
    console.info(`MSG_FASTOPEN to a port that Landlock refuses, by itself: ${attempt(() => fast(bare, held.other))}`);
    using puppet = planned(ALLOWED(held.granted), ABI, true);
    expect(() => fast(puppet, held.other)).toThrow("EACCES: sendto");
    named("connect", SOCK.STREAM)(puppet.kernel, held.granted);
    expect(() => named("connect", SOCK.STREAM)(puppet.kernel, held.other)).toThrow("EACCES: connect");
  });

  since(4, "net.connect_tcp")("streams that are not TCP's, which no right governs: EACCES", () => {
    using held = ports();
    const address = encodeAddress({ ...LOOPBACK, port: held.other });
    const other = ({ kernel }: Held) => {
      const socket = kernel.call("socket", AF.INET, SOCK.STREAM, IPPROTO.MPTCP);
      kernel.call("connect", socket, address, address.length);
    };
    using bare = planned(ALLOWED(held.granted), ABI, false);
    console.info(`MPTCP to a port that Landlock refuses, by itself: ${attempt(() => other(bare))}`);
    using puppet = planned(ALLOWED(held.granted), ABI, true);
    expect(() => other(puppet)).toThrow("EACCES: socket");
    expect(() => puppet.kernel.call("socket", AF.INET, SOCK.RAW, 1)).toThrow("EACCES: socket");
    expect(() => puppet.kernel.call("socket", AF.PACKET, SOCK.RAW, 0)).toThrow("EAFNOSUPPORT: socket");
    // The kernel takes an int: what is in the upper half does not hide the family.
    expect(() => puppet.kernel.call("socket", (1n << 32n) | BigInt(AF.INET), SOCK.RAW, 1)).toThrow("E");
  });

  since(4, "net.bind_tcp")("listening at a port that the kernel picks, which asks for no right: EACCES", () => {
    const listen = ({ kernel }: Held) => kernel.call("listen", kernel.call("socket", AF.INET, SOCK.STREAM, 0), 1);
    const wanted = ALLOWED(1);
    using bare = planned(wanted, ABI, false);
    listen(bare);
    using puppet = planned(wanted, ABI, true);
    expect(() => listen(puppet)).toThrow("EACCES: listen");
  });

  since(6, "scope.signal")(
    "between threads that are confined apart, signals are left to the filter before erratum 2 is fixed",
    () => {
      const apart = { paths: [], apart: true } as const;
      const { handled } = planLandlock(apart, { abi: ABI, errata: 0 });
      using puppet = hold();
      confine(puppet, { handled, rules: [] });
      puppet.kernel.call("kill", process.pid, 0);
    },
  );
});

since(2, "fs.refer")(
  "without the fix of erratum 3, nothing is linked from one directory to another, whatever is granted: EXDEV",
  () => {
    const place = room("moved");
    const link = (kernel: Kernel) => makeLink(kernel, join(place, "from/file"), join(place, "to/link"));
    using puppet = hold();
    const { handled, rules } = planLandlock(
      { paths: [{ path: place, directory: true, permissions: "rwc" }] },
      { abi: ABI, errata: 0 },
    );
    confine(puppet, { handled, rules });
    expect(() => link(puppet.kernel)).toThrow("EXDEV: linkat");
    using other = hold();
    const fixed = planLandlock(
      { paths: [{ path: place, directory: true, permissions: "rwc" }] },
      { abi: ABI, errata: 15 },
    );
    confine(other, { handled: fixed.handled, rules: fixed.rules });
    link(other.kernel);
  },
);
