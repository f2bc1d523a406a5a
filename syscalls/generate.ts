// Writes linux/numbers.ts out of the kernel's UAPI headers: `bun syscalls/generate.ts <include directory>`.
// The C compiler of this machine evaluates the macros, so that no C expression is ever parsed here.
// tests/headers.sh fetches the headers.

import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const MACHINES = {
  x64: { triplet: "x86_64-linux-gnu", define: "__x86_64__" },
  arm64: { triplet: "aarch64-linux-gnu", define: "__aarch64__" },
} as const;
type Machine = keyof typeof MACHINES;

interface Table {
  readonly name: string;
  /** The headers whose definitions count. Those in asm-generic/ are read through the machine's own asm/, which may differ. */
  readonly from: readonly string[];
  /** What names begin with. It is cut off. */
  readonly prefix: string;
  /** Which of these names belong to the table, without the prefix; all where left out. */
  readonly pick?: RegExp;
  readonly skip?: RegExp;
  /** Whether the names keep their prefix. */
  readonly whole?: true;
  /** `flags64` is for words of 64 bits, which are bigints; the others are numbers of at most 32. */
  readonly form: "number" | "flags" | "flags64";
}

const MOUNT = ["linux/mount.h"];
const FCNTL = ["linux/fcntl.h", "asm/fcntl.h", "asm-generic/fcntl.h"];
const MMAN = ["linux/mman.h", "asm/mman.h", "asm-generic/mman.h", "asm-generic/mman-common.h"];
const SIGNAL = ["asm/signal.h", "asm-generic/signal.h", "asm-generic/signal-defs.h"];
const SOCKET = ["asm/socket.h", "asm-generic/socket.h"];
const SECCOMP = ["linux/seccomp.h"];
const LANDLOCK = ["linux/landlock.h"];

/** The system calls. */
const CALLS: Table = { name: "NUMBERS", from: ["asm/unistd_64.h"], prefix: "__NR_", form: "number" };

/** The flags. For one more table add a line and generate. */
// biome-ignore format: one table a line
const TABLES: readonly Table[] = [
  // The flags above LAZYTIME are the kernel's own.
  { name: "MS", from: MOUNT, prefix: "MS_", skip: /^(KERNMOUNT|SUBMOUNT|NO(REMOTELOCK|SEC|USER)|BORN|ACTIVE|RMT_MASK|MGC_.*)$/, form: "flags" },
  { name: "OPEN_TREE", from: MOUNT, prefix: "OPEN_TREE_", form: "flags" },
  { name: "MOVE_MOUNT", from: MOUNT, prefix: "MOVE_MOUNT_", skip: /^_MASK$/, form: "flags" },
  { name: "FSOPEN", from: MOUNT, prefix: "FSOPEN_", form: "flags" },
  { name: "FSMOUNT", from: MOUNT, prefix: "FSMOUNT_", form: "flags" },
  { name: "FSPICK", from: MOUNT, prefix: "FSPICK_", form: "flags" },
  { name: "FSCONFIG", from: MOUNT, prefix: "FSCONFIG_", form: "number" },
  { name: "MOUNT_ATTR", from: MOUNT, prefix: "MOUNT_ATTR_", skip: /^SIZE_/, form: "flags64" },
  { name: "MOUNT_ATTR_SIZE", from: MOUNT, prefix: "MOUNT_ATTR_SIZE_", form: "number" },
  { name: "CLONE", from: ["linux/sched.h"], prefix: "CLONE_", skip: /^ARGS_/, form: "flags64" },
  { name: "CLONE_ARGS", from: ["linux/sched.h"], prefix: "CLONE_ARGS_", form: "number" },
  { name: "SCHED", from: ["linux/sched.h"], prefix: "SCHED_", skip: /FLAG/, form: "number" },
  { name: "SCHED_FLAG", from: ["linux/sched.h"], prefix: "SCHED_FLAG_", form: "flags64" },
  { name: "IOPRIO_CLASS", from: ["linux/ioprio.h"], prefix: "IOPRIO_CLASS_", skip: /^(SHIFT|MASK)$/, form: "number" },
  { name: "IOPRIO_WHO", from: ["linux/ioprio.h"], prefix: "IOPRIO_WHO_", form: "number" },
  { name: "PRIO", from: ["linux/resource.h"], prefix: "PRIO_", form: "number" },
  { name: "O", from: FCNTL, prefix: "O_", form: "flags" },
  { name: "F", from: FCNTL, prefix: "F_", skip: /^(SEAL_.*|LINUX_SPECIFIC_BASE)$/, form: "number" },
  { name: "F_SEAL", from: FCNTL, prefix: "F_SEAL_", form: "flags" },
  { name: "FD", from: FCNTL, prefix: "FD_", pick: /^CLOEXEC$/, form: "flags" },
  { name: "AT", from: FCNTL, prefix: "AT_", skip: /^FDCWD$/, form: "flags" },
  { name: "AT_FD", from: FCNTL, prefix: "AT_FD", form: "number" },
  { name: "RESOLVE", from: ["linux/openat2.h"], prefix: "RESOLVE_", form: "flags64" },
  { name: "OPENAT2", from: ["linux/openat2.h"], prefix: "OPENAT2_", form: "flags64" },
  { name: "S", from: ["linux/stat.h"], prefix: "S_", form: "flags" },
  { name: "STATX", from: ["linux/stat.h"], prefix: "STATX_", skip: /^(ATTR_.*|_RESERVED)$/, form: "flags" },
  { name: "RENAME", from: ["linux/fs.h"], prefix: "RENAME_", form: "flags" },
  { name: "CLOSE_RANGE", from: ["linux/close_range.h"], prefix: "CLOSE_RANGE_", form: "flags" },
  { name: "MFD", from: ["linux/memfd.h"], prefix: "MFD_", skip: /^HUGE_/, form: "flags" },
  { name: "EFD", from: ["linux/eventfd.h"], prefix: "EFD_", form: "flags" },
  { name: "EPOLL", from: ["linux/eventpoll.h"], prefix: "EPOLL_", pick: /^(CLOEXEC|CTL_.*)$/, form: "flags" },
  { name: "EPOLL_EVENTS", from: ["linux/eventpoll.h"], prefix: "EPOLL", skip: /^_/, form: "flags" },
  { name: "GRND", from: ["linux/random.h"], prefix: "GRND_", form: "flags" },
  { name: "PROT", from: MMAN, prefix: "PROT_", form: "flags" },
  { name: "MAP", from: MMAN, prefix: "MAP_", skip: /^HUGE_/, form: "flags" },
  { name: "MREMAP", from: MMAN, prefix: "MREMAP_", form: "flags" },
  { name: "MADV", from: MMAN, prefix: "MADV_", form: "number" },
  { name: "PR", from: ["linux/prctl.h"], prefix: "PR_", skip: /^(SET_PTRACER_ANY|RISCV_.*|PPC_.*)$/, form: "number" },
  { name: "PIDFD", from: ["linux/pidfd.h"], prefix: "PIDFD_", pick: /^(NONBLOCK|THREAD|SIGNAL_.*)$/, form: "flags" },
  { name: "W", from: ["linux/wait.h"], prefix: "W", form: "flags" },
  { name: "P", from: ["linux/wait.h"], prefix: "P_", form: "number" },
  { name: "SECCOMP", from: SECCOMP, prefix: "SECCOMP_", pick: /^(SET_MODE|GET)_/, form: "number" },
  { name: "SECCOMP_MODE", from: SECCOMP, prefix: "SECCOMP_MODE_", form: "number" },
  { name: "SECCOMP_FILTER_FLAG", from: SECCOMP, prefix: "SECCOMP_FILTER_FLAG_", form: "flags" },
  { name: "SECCOMP_RET", from: SECCOMP, prefix: "SECCOMP_RET_", form: "flags" },
  { name: "SECCOMP_USER_NOTIF_FLAG", from: SECCOMP, prefix: "SECCOMP_USER_NOTIF_FLAG_", form: "flags" },
  { name: "SECCOMP_ADDFD_FLAG", from: SECCOMP, prefix: "SECCOMP_ADDFD_FLAG_", form: "flags" },
  { name: "SECCOMP_IOCTL", from: SECCOMP, prefix: "SECCOMP_IOCTL_", form: "flags" },
  { name: "AUDIT_ARCH", from: ["linux/audit.h"], prefix: "AUDIT_ARCH_", pick: /^(X86_64|I386|AARCH64|ARM)$/, form: "flags" },
  { name: "BPF", from: ["linux/bpf_common.h", "linux/filter.h"], prefix: "BPF_", skip: /_VERSION$|_OFF$/, form: "flags" },
  { name: "LANDLOCK_ACCESS_FS", from: LANDLOCK, prefix: "LANDLOCK_ACCESS_FS_", form: "flags64" },
  { name: "LANDLOCK_ACCESS_NET", from: LANDLOCK, prefix: "LANDLOCK_ACCESS_NET_", form: "flags64" },
  { name: "LANDLOCK_SCOPE", from: LANDLOCK, prefix: "LANDLOCK_SCOPE_", form: "flags64" },
  { name: "LANDLOCK_RULE", from: LANDLOCK, prefix: "LANDLOCK_RULE_", form: "number" },
  { name: "LANDLOCK_CREATE_RULESET", from: LANDLOCK, prefix: "LANDLOCK_CREATE_RULESET_", form: "flags" },
  { name: "LANDLOCK_ADD_RULE", from: LANDLOCK, prefix: "LANDLOCK_ADD_RULE_", form: "flags" },
  { name: "LANDLOCK_RESTRICT_SELF", from: LANDLOCK, prefix: "LANDLOCK_RESTRICT_SELF_", form: "flags" },
  { name: "CAP", from: ["linux/capability.h"], prefix: "CAP_", skip: /^LAST_CAP$/, form: "number" },
  { name: "LINUX_CAPABILITY", from: ["linux/capability.h"], prefix: "_LINUX_CAPABILITY_", pick: /_3$/, form: "flags" },
  { name: "SECBIT", from: ["linux/securebits.h"], prefix: "SECBIT_", form: "flags" },
  { name: "RLIMIT", from: ["asm/resource.h", "asm-generic/resource.h"], prefix: "RLIMIT_", form: "number" },
  { name: "RLIM", from: ["asm/resource.h", "asm-generic/resource.h"], prefix: "RLIM_", pick: /^INFINITY$/, form: "flags64" },
  { name: "KEYCTL", from: ["linux/keyctl.h"], prefix: "KEYCTL_", form: "number" },
  { name: "KEY_SPEC", from: ["linux/keyctl.h"], prefix: "KEY_SPEC_", form: "number" },
  { name: "ERRNO", from: ["asm/errno.h", "asm-generic/errno.h", "asm-generic/errno-base.h"], prefix: "E", whole: true, form: "number" },
  { name: "SIG", from: SIGNAL, prefix: "SIG", skip: /^(_|STKSZ|RT)/, form: "number" },
  { name: "SIG_HOW", from: SIGNAL, prefix: "SIG_", pick: /BLOCK$|^SETMASK$/, form: "number" },
  { name: "SA", from: SIGNAL, prefix: "SA_", form: "flags" },
  { name: "SFD", from: ["linux/signalfd.h"], prefix: "SFD_", form: "flags" },
  { name: "SOL", from: SOCKET, prefix: "SOL_", form: "number" },
  { name: "SO", from: SOCKET, prefix: "SO_", form: "number" },
  { name: "IPPROTO", from: ["linux/in.h"], prefix: "IPPROTO_", skip: /^MAX$/, form: "number" },
  { name: "NS", from: ["linux/nsfs.h"], prefix: "NS_", pick: /^GET_/, form: "flags" },
  { name: "IOCTL", from: ["asm/ioctls.h", "asm-generic/ioctls.h", "linux/fs.h"], prefix: "", pick: /^(FI[A-Z]+|TC[A-Z0-9]+|TIOC[A-Z0-9]+)$/, whole: true, form: "flags" },
];

/** Headers that others need for a sizeof, or that say the version. */
const SUPPORT = ["linux/version.h", "linux/types.h", "linux/termios.h", "linux/serial.h"];
const HEADERS = [...new Set([...SUPPORT, ...[CALLS, ...TABLES].flatMap((table) => table.from)])].filter(
  (header) => !header.startsWith("asm-generic/"),
);

function compiler(args: readonly string[], source: string): string {
  const result = Bun.spawnSync(["cc", ...args, "-x", "c", "-"], { stdin: Buffer.from(source) });
  if (result.exitCode !== 0) throw new Error(`Cannot run cc ${args.join(" ")}: ${result.stderr.toString().trim()}`);
  return result.stdout.toString();
}

/** Evaluates integer constants of C, given the options for cc and the headers that define them. A signed one stays signed. */
export function evaluate(options: readonly string[], headers: readonly string[], names: readonly string[]): bigint[] {
  const directory = mkdtempSync(join(tmpdir(), "generate-"));
  try {
    const program = join(directory, "program");
    const lines = names.map((name) => `printf((${name}) < 0 ? "%lld\\n" : "%llu\\n", (unsigned long long)(${name}));`);
    const main = `extern int printf(const char *, ...);\nint main(void) {\n${lines.join("\n")}\nreturn 0;\n}\n`;
    compiler([...options, "-w", "-o", program], includes(headers) + main);
    return Bun.spawnSync([program]).stdout.toString().trim().split("\n").map(BigInt);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

const includes = (headers: readonly string[]) => headers.map((header) => `#include <${header}>\n`).join("");

/** Which header defines what: the macros that have a value, and the enumerators, in the order of the text. */
function definitions(preprocessed: string): Map<string, string> {
  const origins = new Map<string, string>();
  let header = "";
  for (const line of preprocessed.split("\n")) {
    const [, file] = /^# \d+ "(.*)"/.exec(line) ?? [];
    const [, directive, macro, value] = /^#(define|undef) (\w+)(?: (.+))?/.exec(line) ?? [];
    if (file !== undefined) header = file;
    else if (directive === "undef" || (directive === "define" && !value)) origins.delete(macro!);
    else if (directive === "define") origins.set(macro!, header);
    else if (!line.startsWith("#"))
      for (const [word] of line.matchAll(/\b[A-Z][A-Z0-9_]+\b/g)) origins.set(word, header);
  }
  return origins;
}

/** The values of one table, by the names without the prefix. */
type Values = ReadonlyMap<string, bigint>;

interface Reading {
  readonly version: string;
  readonly calls: Values;
  /** In the order of TABLES. */
  readonly flags: readonly Values[];
}

function read(directory: string, machine: Machine): Reading {
  const { triplet, define } = MACHINES[machine];
  const undefine = Object.values(MACHINES).map((other) => `-U${other.define}`);
  const options = ["-nostdinc", "-I", join(directory, triplet), "-I", directory, ...undefine, `-D${define}`];
  const origins = definitions(compiler([...options, "-E", "-dD"], includes(HEADERS)));
  const values = new Map<string, bigint>();
  for (const table of [CALLS, ...TABLES]) for (const name of namesOf(table, origins)) values.set(name, 0n);
  const [major, minor] = ["LINUX_VERSION_MAJOR", "LINUX_VERSION_PATCHLEVEL"] as const;
  const names = [...values.keys(), major, minor];
  for (const [index, value] of evaluate(options, HEADERS, names).entries()) values.set(names[index]!, value);
  const fill = (table: Table): Values => {
    const found = namesOf(table, origins);
    if (found.length === 0)
      throw new Error(`Cannot fill ${table.name}: no header of ${machine} defines ${table.prefix}*`);
    return new Map(found.map((name) => [table.whole ? name : name.slice(table.prefix.length), values.get(name)!]));
  };
  return { version: `${values.get(major)}.${values.get(minor)}`, calls: fill(CALLS), flags: TABLES.map(fill) };
}

function namesOf(table: Table, origins: ReadonlyMap<string, string>): string[] {
  const found = [...origins].filter(([name, origin]) => {
    const key = name.slice(table.prefix.length);
    const belongs = (table.pick?.test(key) ?? true) && !table.skip?.test(key);
    return name.startsWith(table.prefix) && belongs && table.from.some((header) => origin.endsWith(`/${header}`));
  });
  return found.map(([name]) => name);
}

function literal(table: Table, key: string, value: bigint): string {
  if (table.form === "flags64") return `0x${BigInt.asUintN(64, value).toString(16)}n`;
  const fits = value < 2n ** 32n && value >= -(2n ** 31n);
  if (!fits) throw new RangeError(`Cannot write ${table.name}.${key}: it is ${value}, expected 32 bits`);
  return table.form === "flags" && value > 9n ? `0x${value.toString(16)}` : `${value}`;
}

/** An object literal, as the formatter wants it. */
function object(table: Table, values: Values, indent = ""): string {
  const quote = (key: string) => (/^[A-Za-z_]\w*$/.test(key) ? key : `"${key}"`);
  const lines = [...values].map(([key, value]) => `${indent}  ${quote(key)}: ${literal(table, key, value)},\n`);
  return `{\n${lines.join("")}${indent}}`;
}

function comment(table: Table): string {
  const headers = table.from.filter((header) => !header.startsWith("asm-generic/")).join(", ");
  return `/** ${headers}${table.form === "flags64" ? "; words of 64 bits" : ""}. */\n`;
}

const same = (a: Values, b: Values) => a.size === b.size && [...a].every(([key, value]) => b.get(key) === value);

/** The text of linux/numbers.ts. Throws where the directory holds no headers, or not those of every machine. */
export function generate(directory: string): string {
  if (!existsSync(join(directory, "linux/version.h")))
    throw new Error(`Cannot generate: no kernel headers in ${directory}`);
  const machines = { x64: read(directory, "x64"), arm64: read(directory, "arm64") };
  const { x64, arm64 } = machines;
  const apart = TABLES.filter((_, index) => !same(x64.flags[index]!, arm64.flags[index]!));
  const calls = (machine: Machine) => `  ${machine}: ${object(CALLS, machines[machine].calls, "  ")},`;
  const member = (table: Table, machine: Machine) =>
    `    ${table.name}: ${object(table, machines[machine].flags[TABLES.indexOf(table)]!, "    ")},\n`;
  const flags = (machine: Machine) => `  ${machine}: {\n${apart.map((table) => member(table, machine)).join("")}  },`;
  const tables = TABLES.map((table, index) =>
    apart.includes(table)
      ? `${comment(table)}export const ${table.name} = FLAGS[MACHINE].${table.name};\n`
      : `${comment(table)}export const ${table.name} = ${object(table, x64.flags[index]!)} as const;\n`,
  );
  return `// Numbers and flags of Linux. Written by syscalls/generate.ts out of the kernel's headers: change that, not this.
// Words of 64 bits (Landlock's rights, mount attributes, clone flags) are bigints, words of 32 bits numbers.

/** The version of the kernel whose headers these are. A running kernel may know less. */
export const KERNEL = "${x64.version}";

/** Numbers of the system calls. */
export const NUMBERS = {
${calls("x64")}
${calls("arm64")}
} as const;

export type Machine = keyof typeof NUMBERS;
export type SyscallName = keyof typeof NUMBERS.x64 | keyof typeof NUMBERS.arm64;

/** The machine this process runs on. A third one never gets here: kernel.ts refuses it before its first call. */
export const MACHINE: Machine = process.arch === "arm64" ? "arm64" : "x64";

/** The tables that differ between the machines. Those of this one are exported by name too. */
export const FLAGS = {
${flags("x64")}
${flags("arm64")}
} as const;

${tables.join("\n")}`;
}

if (import.meta.main) {
  const [directory] = process.argv.slice(2);
  if (directory === undefined) throw new TypeError("Cannot generate: no include directory given, see tests/headers.sh");
  writeFileSync(new URL("linux/numbers.ts", import.meta.url), generate(directory));
}
