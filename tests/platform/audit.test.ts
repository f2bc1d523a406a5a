import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type AuditDenial,
  type AuditRecord,
  assembler,
  auditLacks,
  listenToAudit,
  parseRecord,
} from "../../platform/linux/audit.ts";
import { type Confinement, logFlags, QUIET_SINCE, usableAbi } from "../../platform/linux/landlock.ts";
import { puppetImage } from "../../platform/linux/puppet.ts";
import { compile } from "../../platform/linux/seccomp/compile.ts";
import { enterLandlock } from "../../platform/linux/walls.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { type Kernel, machine, self } from "../../syscalls/kernel.ts";
import { AUDIT, decodeRecord, isAuditEnabled, openAudit, setAuditEnabled } from "../../syscalls/linux/audit.ts";
import { close, open } from "../../syscalls/linux/file.ts";
import { allowBeneath, createRuleset, restrictSelf } from "../../syscalls/linux/landlock.ts";
import { LANDLOCK_ADD_RULE as ADD_RULE, LANDLOCK_ACCESS_FS as FS, O } from "../../syscalls/linux/numbers.ts";
import { setNoNewPrivileges } from "../../syscalls/linux/process.ts";
import { setFilter } from "../../syscalls/linux/seccomp.ts";
import { testIf } from "../syscalls/requirement.ts";
import { become } from "./become.ts";
import { type Held, hold } from "./strings.ts";

const EVENT = "1795267897.986:178";
const line = (rest: string) => `audit(${EVENT}): ${rest}`;

// As Linux 6.18 wrote them.
const ACCESS = line('domain=1b13c680b blockers=fs.read_file path="/etc/passwd" dev="vda" ino=1196040');
const DOMAIN = line('domain=1b13c680b status=allocated mode=enforcing pid=3811 uid=0 exe="/usr/bin/dash" comm="sh"');
const GONE = line("domain=1b13c680b status=deallocated denials=16");
const CALL = line(
  'arch=c000003e syscall=257 success=no exit=-13 a0=ffffff9c a1=7ffce966c935 a2=0 a3=0 items=0 ppid=3811 pid=3812 auid=4294967295 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=4294967295 comm="cat" exe="/usr/bin/cat" key=(null)',
);
const SECCOMP = line(
  'auid=4294967295 uid=0 gid=0 ses=4294967295 pid=77 comm="cat" exe="/usr/bin/cat" sig=0 arch=c000003e syscall=83 compat=0 ip=0x7f95b9577958 code=0x50000',
);

describe("parseRecord()", () => {
  const fields = (rest: string): Record<string, string> => ({ ...parseRecord(0, line(rest))!.fields });

  test("a record of the kernel's", () => {
    expect(parseRecord(AUDIT.LANDLOCK_ACCESS, ACCESS)).toMatchObject({ type: AUDIT.LANDLOCK_ACCESS, event: EVENT });
    expect(fields('domain=1b blockers=fs.read_file path="/etc/passwd" dev="vda" ino=7')).toEqual({
      domain: "1b",
      blockers: "fs.read_file",
      path: "/etc/passwd",
      dev: "vda",
      ino: "7",
    });
  });

  test("the end of an event has no fields", () => {
    expect(parseRecord(AUDIT.EOE, line(""))).toEqual({ type: AUDIT.EOE, event: EVENT, fields: Object.create(null) });
  });

  test("what is no record is none", () => {
    for (const text of ["", "audit()", "audit(1.2): x=1", "audit(1.2:3)x=1", "x=1", `x ${ACCESS}`])
      expect(parseRecord(0, text)).toBeUndefined();
  });

  const hex = (text: string) => Buffer.from(text).toString("hex").toUpperCase();
  const names = {
    "a space": "/tmp/a b",
    "a quotation mark": '/tmp/a"b',
    "a newline, and a record behind it": `/tmp/a\n${DOMAIN}`,
    "fields of its own": '/tmp/" pid=1 comm="init" x="',
    "letters beyond ASCII": "/tmp/ü/漢",
    "a NUL in front, as abstract sockets": "\0abstract",
    "hexadecimal digits, in a space": "41 42",
  };
  for (const [what, path] of Object.entries(names)) {
    test(`a name with ${what} is that name, and nothing else`, () => {
      expect(fields(`path=${hex(path)} pid=7 comm=${hex(path)}`)).toEqual({ path, pid: "7", comm: path });
    });
  }

  test("hexadecimal digits in quotation marks are a name, and those that are no field of others' words a number", () => {
    expect(fields('path="41" domain=41 comm="DEADBEEF"')).toEqual({ path: "41", domain: "41", comm: "DEADBEEF" });
  });

  test("bytes that are no UTF-8 do not stop it", () => {
    expect(fields("path=2FFF pid=7")).toEqual({ path: "/\ufffd", pid: "7" });
  });

  test("the first of two fields counts, and names of objects are names", () => {
    expect(fields("pid=1 pid=2")).toEqual({ pid: "1" });
    expect(fields("__proto__=1 constructor=2")).toEqual({ constructor: "2" });
  });

  test("a packet that is too short is no record", () => {
    for (let length = 0; length < 16; length++) expect(decodeRecord(new Uint8Array(length))).toBeUndefined();
    expect(decodeRecord(new Uint8Array(16))).toEqual({ type: 0, text: "" });
  });
});

describe("assembler()", () => {
  const event = (number: number, type: number, text: string) =>
    parseRecord(type, text.replace(EVENT, `1795267897.986:${number}`))!;
  function assembled(...records: AuditRecord[]): AuditDenial[] {
    const denials: AuditDenial[] = [];
    const { add, flush } = assembler((denial) => denials.push(denial));
    for (const record of records) add(record);
    flush();
    return denials;
  }

  test("has the call of the same event, and the domain that is told of behind it", () => {
    const records = [
      event(1, AUDIT.LANDLOCK_ACCESS, ACCESS),
      event(1, AUDIT.LANDLOCK_DOMAIN, DOMAIN),
      event(1, AUDIT.SYSCALL, CALL),
      event(1, AUDIT.EOE, line("")),
    ];
    expect(assembled(...records)).toEqual([
      {
        pid: 3812,
        comm: "cat",
        call: "openat",
        blockers: ["fs.read_file"],
        path: "/etc/passwd",
        domain: "1b13c680b",
        confined: 3811,
      },
    ]);
  });

  test("without a record of the call says of whom it knows the domain alone, until that is gone", () => {
    const access = (number: number) => event(number, AUDIT.LANDLOCK_ACCESS, ACCESS);
    const known = { blockers: ["fs.read_file"], path: "/etc/passwd", domain: "1b13c680b" };
    expect(assembled(access(1), event(1, AUDIT.LANDLOCK_DOMAIN, DOMAIN))).toEqual([{ ...known, confined: 3811 }]);
    const gone = event(2, AUDIT.LANDLOCK_DOMAIN, GONE);
    expect(assembled(event(1, AUDIT.LANDLOCK_DOMAIN, DOMAIN), gone, access(3))).toEqual([known]);
    // What came before that is the domain's, though nothing says that its event is whole.
    const before = [access(1), event(1, AUDIT.LANDLOCK_DOMAIN, DOMAIN)];
    expect(assembled(...before, gone)).toEqual([{ ...known, confined: 3811 }]);
  });

  test("takes calls of other events for nobody's, and records that deny nothing for none", () => {
    const [denial] = assembled(event(1, AUDIT.LANDLOCK_ACCESS, ACCESS), event(2, AUDIT.SYSCALL, CALL));
    expect(denial!.pid).toBeUndefined();
    expect(assembled(event(1, AUDIT.SYSCALL, CALL), event(1, 1327, line("proctitle=00")))).toEqual([]);
  });

  const kinds: readonly (readonly [what: string, type: number, text: string, denial: AuditDenial])[] = [
    [
      "several rights",
      AUDIT.LANDLOCK_ACCESS,
      line('domain=1 blockers=fs.make_reg,fs.refer path="/usr/bin" dev="vda" ino=351'),
      { domain: "1", blockers: ["fs.make_reg", "fs.refer"], path: "/usr/bin" },
    ],
    [
      "a port",
      AUDIT.LANDLOCK_ACCESS,
      line("domain=1 blockers=net.connect_tcp daddr=127.0.0.1 dest=443"),
      { domain: "1", blockers: ["net.connect_tcp"], address: "127.0.0.1", port: 443 },
    ],
    [
      "a port of its own",
      AUDIT.LANDLOCK_ACCESS,
      line("domain=1 blockers=net.bind_tcp src=80"),
      { domain: "1", blockers: ["net.bind_tcp"], port: 80 },
    ],
    [
      "a signal",
      AUDIT.LANDLOCK_ACCESS,
      line('domain=1 blockers=scope.signal opid=12 ocomm="systemd"'),
      { domain: "1", blockers: ["scope.signal"], target: 12 },
    ],
    [
      "an abstract socket",
      AUDIT.LANDLOCK_ACCESS,
      line("domain=1 blockers=scope.abstract_unix_socket path=0061"),
      { domain: "1", blockers: ["scope.abstract_unix_socket"], path: "\0a" },
    ],
    ["seccomp", AUDIT.SECCOMP, SECCOMP, { pid: 77, comm: "cat", call: "mkdir", blockers: ["seccomp.errno"] }],
    [
      "seccomp, at the end of the process",
      AUDIT.SECCOMP,
      SECCOMP.replace("0x50000", "0x80000000"),
      { pid: 77, comm: "cat", call: "mkdir", blockers: ["seccomp.kill_process"] },
    ],
    [
      "seccomp, for a call of a machine or a number that is not known",
      AUDIT.SECCOMP,
      SECCOMP.replace("c000003e", "40000003"),
      { pid: 77, comm: "cat", blockers: ["seccomp.errno"] },
    ],
  ];
  for (const [what, type, text, denial] of kinds) {
    test(what, () => expect(assembled(parseRecord(type, text)!)).toEqual([denial]));
  }

  test("holds no more than so many events and domains, whatever comes", () => {
    const denials: AuditDenial[] = [];
    const { add } = assembler((denial) => denials.push(denial));
    for (let number = 0; number < 10_000; number++) {
      add(event(number, AUDIT.LANDLOCK_ACCESS, ACCESS.replace("1b13c680b", number.toString(16))));
      add(event(number, AUDIT.LANDLOCK_DOMAIN, DOMAIN.replace("1b13c680b", number.toString(16))));
    }
    expect(denials.length).toBe(10_000 - 256);
    expect(denials.at(-1)!.confined).toBe(3811);
  });
});

function refusal(act: () => unknown): string | undefined {
  try {
    act();
    return undefined;
  } catch (error) {
    if (error instanceof SystemError) return error.message;
    throw error;
  }
}

const refused = refusal(() => isAuditEnabled(self)) ?? refusal(() => close(self, openAudit(self)));
const ABI = usableAbi();
const testRefused = testIf("no audit", refused !== undefined, "this process may read the audit log");
const testAudit = testIf("audit", refused === undefined, `the audit log cannot be read: ${refused}`);
const testLandlock = (abi: number) =>
  refused === undefined && ABI < abi
    ? testIf(`landlock-${abi}`, false, `this needs Landlock ABI ${abi}, and this is ${ABI}`)
    : testAudit;

testRefused("listenToAudit() gives nothing to who may not read, and says why", () => {
  const reasons: string[] = [];
  expect(
    listenToAudit(
      () => {},
      (reason) => reasons.push(reason),
    ),
  ).toBeUndefined();
  expect(reasons).toEqual([auditLacks()!]);
  expect(reasons[0]).toMatch(
    /^(The audit log is for root|This kernel has no audit log).*\((EPERM|ECONNREFUSED|EPROTONOSUPPORT): /,
  );
});

describe("heard from the kernel", () => {
  const base = realpathSync(mkdtempSync(join(tmpdir(), "audit-")));
  const [secret, program] = [join(base, 'a "secret"\nfile'), join(base, "program")];
  let before = false;
  const denials: AuditDenial[] = [];
  let listener: Disposable | undefined;

  beforeAll(() => {
    mkdirSync(join(base, "quiet"));
    for (const path of [secret, join(base, "quiet/file")]) writeFileSync(path, "");
    writeFileSync(program, puppetImage());
    chmodSync(program, 0o755);
    if (refused !== undefined) return;
    before = isAuditEnabled(self);
    setAuditEnabled(self, true);
    listener = listenToAudit((denial) => denials.push(denial));
  });
  afterAll(() => {
    listener?.[Symbol.dispose]();
    if (refused === undefined) setAuditEnabled(self, before);
    rmSync(base, { recursive: true });
  });

  const HANDLED = { fs: FS.READ_FILE, net: 0n, scoped: 0n };
  /** A puppet that may read its program, and is another since it was confined. */
  function confined(flags: number, more: Partial<Confinement> = {}): Held {
    const puppet = hold();
    setNoNewPrivileges(puppet.kernel);
    const rules = [{ path: program, access: FS.READ_FILE }];
    enterLandlock(puppet.kernel, { handled: HANDLED, rules, flags, ...more });
    become(puppet.kernel, program);
    return puppet;
  }
  const read =
    (kernel: Kernel, path = secret) =>
    () =>
      close(kernel, open(kernel, path, O.RDONLY));
  /** The first denial of a puppet's; there is none before it that was not heard. */
  async function first(puppet: Held): Promise<AuditDenial> {
    for (;;) {
      const found = denials.find(({ pid }) => pid === puppet.pid);
      if (found !== undefined) return found;
      await Bun.sleep(5);
    }
  }

  testLandlock(7)("a refused open names who, what and where, however the file is called", async () => {
    using puppet = confined(logFlags(ABI, true));
    expect(read(puppet.kernel)).toThrow("EACCES: openat");
    expect(await first(puppet)).toEqual({
      pid: puppet.pid,
      comm: "program",
      call: "openat",
      blockers: ["fs.read_file"],
      path: secret,
      domain: expect.any(String),
      confined: puppet.pid,
    });
  });

  testLandlock(7)(
    "what is not listened to is not logged: neither after execve nor before, nor its own rules",
    async () => {
      using quiet = confined(logFlags(ABI, false));
      expect(read(quiet.kernel)).toThrow("EACCES: openat");

      using same = hold();
      setNoNewPrivileges(same.kernel);
      enterLandlock(same.kernel, { handled: HANDLED, rules: [], flags: logFlags(ABI, false) });
      expect(read(same.kernel)).toThrow("EACCES: openat");

      using nested = confined(logFlags(ABI, true), { handled: { ...HANDLED, fs: FS.WRITE_FILE }, rules: [] });
      enterLandlock(nested.kernel, { handled: HANDLED, rules: [] });
      expect(read(nested.kernel)).toThrow("EACCES: openat");

      using loud = hold(); // the control: without these flags a program's own rules are logged
      setNoNewPrivileges(loud.kernel);
      enterLandlock(loud.kernel, { handled: HANDLED, rules: [] });
      expect(read(loud.kernel)).toThrow("EACCES: openat");
      await first(loud);
      const pids = new Set(denials.map(({ pid }) => pid));
      for (const puppet of [quiet, same, nested]) expect(pids.has(puppet.pid)).toBe(false);
    },
  );

  testLandlock(7)("a flood does not end it", async () => {
    using puppet = confined(logFlags(ABI, true));
    for (let round = 0; round < 500; round++) expect(read(puppet.kernel)).toThrow("EACCES");
    using later = confined(logFlags(ABI, true));
    for (;;) {
      expect(read(later.kernel)).toThrow("EACCES");
      await Bun.sleep(20);
      if (denials.some(({ pid }) => pid === later.pid)) break;
    }
  });

  testLandlock(QUIET_SINCE)("a quiet rule keeps what it refuses out of the log", async () => {
    using puppet = hold();
    const { kernel } = puppet;
    setNoNewPrivileges(kernel);
    const ruleset = createRuleset(kernel, { ...HANDLED, quiet: HANDLED });
    allowBeneath(kernel, ruleset, open(kernel, join(base, "quiet"), O.PATH), 0n, ADD_RULE.QUIET);
    restrictSelf(kernel, ruleset);
    expect(read(kernel, join(base, "quiet/file"))).toThrow("EACCES: openat");
    expect(read(kernel)).toThrow("EACCES: openat");
    expect((await first(puppet)).path).toBe(secret);
  });

  testAudit("a filter that logs is heard, too", async () => {
    using puppet = hold();
    setNoNewPrivileges(puppet.kernel);
    setFilter(
      puppet.kernel,
      compile({ machine: machine(), default: "allow", rules: [{ call: "getppid", action: "log" }] }),
    );
    puppet.kernel.call("getppid");
    expect(await first(puppet)).toMatchObject({ pid: puppet.pid, call: "getppid", blockers: ["seccomp.log"] });
  });

  testAudit("nobody but the kernel is heard", () => {
    using socket = new Descriptor(openAudit(self));
    const name = new Uint8Array(12);
    self.call("getsockname", socket.number, name, new Uint8Array(Uint32Array.of(12).buffer));
    const to = name.slice();
    new DataView(to.buffer).setUint32(8, 0, true);
    const forged = Buffer.concat([Buffer.alloc(16), Buffer.from(ACCESS)]);
    new DataView(forged.buffer, forged.byteOffset).setUint16(4, AUDIT.LANDLOCK_ACCESS, true);
    const other = self.call("socket", 16, 3, 9);
    expect(() => self.call("sendto", other, forged, forged.length, 0, to, to.length)).toThrow("ECONNREFUSED: sendto");
    close(self, other);
  });
});
