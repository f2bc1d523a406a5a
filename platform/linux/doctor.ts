/** What this machine can do, for people. */
import { existsSync, statSync } from "node:fs";
import { SystemError } from "../../syscalls/error.ts";
import { type Kernel, self } from "../../syscalls/kernel.ts";
import { close, makeDirectory } from "../../syscalls/linux/file.ts";
import { mount, openFileSystem, openTree, setMountAttributes } from "../../syscalls/linux/mount.ts";
import { setNamespace, unshare } from "../../syscalls/linux/namespace.ts";
import { CLONE, MOUNT_ATTR, MS } from "../../syscalls/linux/numbers.ts";
import type { Ability } from "../platform.ts";
import { abilities, NAMESPACES } from "./abilities.ts";
import { accountOf } from "./cgroup/account.ts";
import { findTrees } from "./cgroup/home.ts";
import { hearingLacks } from "./hearing.ts";
import { idsOf, isRoot, mapper, writeIdMaps } from "./ids.ts";
import { endPuppet, startPuppet } from "./launch.ts";
import { LANDLOCK_REMEDY, MOUNT_REMEDY, PROC_REMEDY, rootRemedy, SECCOMP_REMEDY, USER_REMEDY } from "./plan.ts";
import { type Kind, lentTo, type Read, readText } from "./subids.ts";
import { takeIds } from "./walls.ts";

/** Each mechanism, whether it is there, and what would make it so. */
export function describeAbilities(): readonly Ability[] {
  const able = abilities();
  const refusal = (...names: string[]) =>
    names.map((name) => able.refusals[name]).find((text) => text !== undefined) ?? "not there";
  const has = (bit: bigint) => (able.namespaces & bit) !== 0n;
  const remedy = namespaceRemedy(readText, able.root);
  const tried = (mechanism: string, detail: string, otherwise: string, act: (kernel: Kernel) => void) => {
    if (!has(CLONE.NEWNS)) return ability(mechanism, false, "needs a mount namespace", remedy);
    const said = refusalOf(() => inPuppet(able.namespaces, act));
    return ability(mechanism, said === undefined, said?.message ?? detail, otherwise);
  };
  return [
    ability("user namespace", has(CLONE.NEWUSER), has(CLONE.NEWUSER) ? "can be made" : refusal("user"), remedy),
    ...Object.entries(NAMESPACES).map(([name, bit]) =>
      ability(`${name} namespace`, has(bit), has(bit) ? "can be made" : refusal(name, "user"), remedy),
    ),
    tried("time namespace", "can be made", "Use Linux 5.6 or later with CONFIG_TIME_NS", (kernel) =>
      unshare(kernel, CLONE.NEWTIME),
    ),
    ability(
      "own root",
      able.proc !== undefined,
      able.proc === undefined
        ? refusal("root", "mount", "user")
        : `with ${able.proc === "mount" ? "its own" : "the host's"} /proc`,
      has(CLONE.NEWNS) ? rootRemedy(able) : remedy,
    ),
    ...(able.proc === "bind" ? [coveredProc(readText("/proc/self/mountinfo"), refusal("proc"), remedy)] : []),
    tried("mount descriptors", "open_tree, mount_setattr, fsopen", MOUNT_REMEDY, mountByDescriptor),
    tried("overlayfs", "can be mounted", "Use Linux 5.11 or later, and load the module overlay", mountOverlay),
    subordinateIds({
      uid: process.geteuid!(),
      root: able.root,
      read: readText,
      mappers: { uid: powerOf(mapper("uid")), gid: powerOf(mapper("gid")) },
    }),
    outerFilter(readText("/proc/self/status"), refusedCalls()),
    ability("Landlock", able.landlock > 0, able.landlock > 0 ? `ABI ${able.landlock}` : "not there", LANDLOCK_REMEDY),
    auditLog(),
    ability("seccomp", able.seccomp, able.seccomp ? "filters" : "not there", SECCOMP_REMEDY),
    ability("RLIMIT_DATA", true, "counts private memory", ""),
    ...accountOf(findTrees(), existsSync("/proc/pressure/memory")),
  ];
}

function ability(mechanism: string, present: boolean, detail: string, remedy: string): Ability {
  return present ? { mechanism, present, detail } : { mechanism, present, detail, remedy };
}

/** Whether those who observe are told of what Landlock refuses, too. No wall depends on it. */
function auditLog(lacks = hearingLacks()): Ability {
  return {
    mechanism: "audit log",
    present: lacks === undefined,
    detail: lacks ?? "tells observers what Landlock refuses",
  };
}

const FILTER_REMEDY =
  "Start the container with --security-opt seccomp=unconfined, or with a profile that allows clone3, unshare, setns and mount";

/** What keeps namespaces from being made, or from being of use, by the settings that are known to. */
export function namespaceRemedy(read: Read, root: boolean): string {
  const is = (setting: string, value: string) => read(`/proc/sys/${setting}`).trim() === value;
  const remedies: string[] = [];
  if (is("user/max_user_namespaces", "0")) remedies.push("Run sysctl user.max_user_namespaces=10000");
  // Debian's own setting, and Ubuntu's. Both are about ordinary users.
  if (!root && is("kernel/unprivileged_userns_clone", "0"))
    remedies.push("Run sysctl kernel.unprivileged_userns_clone=1");
  if (!root && is("kernel/apparmor_restrict_unprivileged_userns", "1"))
    remedies.push(
      "Give Bun an AppArmor profile with the rule 'userns,', or run sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    );
  if (remedies.length === 0 && isFiltered(read("/proc/self/status"))) return FILTER_REMEDY;
  return remedies.join("; ") || USER_REMEDY;
}

/** Why a proc cannot be mounted where namespaces can be made: mostly, because the caller's own is covered in part. */
export function coveredProc(mountinfo: string, refusal: string, remedy: string): Ability {
  const points = mountinfo.split("\n").map((line) => line.split(" ")[4] ?? "");
  // What lies on a directory that is empty for good covers nothing.
  const covering = points.filter((point) => point.startsWith("/proc/") && point !== "/proc/sys/fs/binfmt_misc");
  return covering.length === 0
    ? ability("own /proc", false, refusal, remedy)
    : ability("own /proc", false, `${refusal}, for these are covered: ${covering.join(", ")}`, PROC_REMEDY);
}

/** Whether a program that writes id maps is there, and may. */
export type Power = "absent" | "powerless" | "able";

/** Maps of more than one id: what is lent, and who writes them. */
export function subordinateIds(facts: {
  readonly uid: number;
  readonly root: boolean;
  readonly read: Read;
  readonly mappers: Readonly<Record<Kind, Power>>;
}): Ability {
  const { uid, root, read, mappers } = facts;
  const kinds = ["uid", "gid"] as const;
  const lent = kinds.map((kind) => ({ kind, ...lentTo(uid, kind, read) }));
  const detail = lent
    .map(({ kind, ranges, user }) => {
      const total = ranges.reduce((sum, { count }) => sum + count, 0);
      return total === 0 ? `/etc/sub${kind} lends none to ${user}` : `${total} ${kind}s`;
    })
    .join(", ");
  if (root) return ability("subordinate ids", true, `root maps any, ${detail}`, "");
  const missing = [
    ...lent.filter(({ ranges }) => ranges.length === 0).map(({ command }) => ["", `Run ${command}`]),
    ...kinds.flatMap((kind) => {
      if (mappers[kind] === "absent") return [[`there is no ${mapper(kind)}`, "Install uidmap"]];
      return mappers[kind] === "able"
        ? []
        : [[`${mapper(kind)} has no rights`, `Run chmod u+s ${mapper(kind)} as root, who has to own it`]];
    }),
    ...(/^NoNewPrivs:\s*1$/m.test(read("/proc/self/status"))
      ? [["no_new_privs is set, under which they gain no rights", "Start Bun without no_new_privs"]]
      : []),
  ];
  const told = [detail, ...missing.map(([what]) => what)].filter((text) => text !== "");
  const remedies = new Set(missing.map(([, remedy]) => remedy));
  return ability("subordinate ids", missing.length === 0, told.join(", "), [...remedies].join("; "));
}

/** A filter that was there before this process: that of a container engine, of systemd, of a sandbox. */
export function outerFilter(status: string, refused: readonly string[]): Ability {
  if (!isFiltered(status)) return ability("outer filter", true, "none around this process", "");
  return refused.length === 0
    ? ability("outer filter", true, "leaves the calls that make namespaces", "")
    : ability("outer filter", false, `refuses ${refused.join(", ")}`, FILTER_REMEDY);
}

const isFiltered = (status: string): boolean => /^Seccomp:\s*2$/m.test(status);

/** The calls that are refused whatever they ask for: none of these needs a right. */
function refusedCalls(): string[] {
  const attempts: Readonly<Record<string, () => void>> = {
    clone3: () => self.call("clone3", null, 0),
    unshare: () => unshare(self, 0n),
    setns: () => setNamespace(self, -1, 0),
    open_tree: () => close(self, openTree(self, "/")),
  };
  return Object.entries(attempts).flatMap(([name, attempt]) => {
    const said = refusalOf(attempt);
    return said instanceof SystemError && ["EPERM", "EACCES", "ENOSYS"].includes(said.code)
      ? [`${name} (${said.code})`]
      : [];
  });
}

function refusalOf(attempt: () => void): SystemError | undefined {
  try {
    attempt();
    return undefined;
  } catch (error) {
    if (error instanceof SystemError) return error;
    throw error;
  }
}

/** Does something with all rights over a mount namespace, where that changes nothing of the host's. */
function inPuppet(namespaces: bigint, act: (kernel: Kernel) => void): void {
  const puppet = startPuppet({ namespaces: namespaces & (CLONE.NEWUSER | CLONE.NEWNS), descriptors: [] });
  try {
    const ids = idsOf(isRoot());
    if ((namespaces & CLONE.NEWUSER) !== 0n) {
      writeIdMaps(puppet.pid, ids);
      takeIds(puppet.kernel, ids);
    }
    mount(puppet.kernel, null, "/", { flags: MS.REC | MS.PRIVATE });
    act(puppet.kernel);
  } finally {
    endPuppet(puppet);
  }
}

function mountByDescriptor(kernel: Kernel): void {
  // With what is mounted beneath: without it, the kernel would uncover what others have covered.
  const tree = openTree(kernel, "/", { clone: true, recursive: true });
  setMountAttributes(kernel, tree, { set: MOUNT_ATTR.NOSUID });
  close(kernel, openFileSystem(kernel, "tmpfs"));
}

function mountOverlay(kernel: Kernel): void {
  const base = "/proc"; // a directory everywhere
  mount(kernel, "caisson", base, { type: "tmpfs", data: "mode=755,size=1m" });
  for (const name of ["lower", "upper", "work"]) makeDirectory(kernel, `${base}/${name}`, 0o755);
  const data = `lowerdir=${base}/lower,upperdir=${base}/upper,workdir=${base}/work,userxattr`;
  mount(kernel, "caisson", base, { type: "overlay", data });
}

/** By set-user-id, or by capabilities of the file. */
function powerOf(program: string): Power {
  try {
    const { mode, uid } = statSync(program);
    if ((mode & 0o4000) !== 0 && uid === 0) return "able";
  } catch {
    return "absent";
  }
  const asked = refusalOf(() => {
    self.call("getxattr", program, "security.capability", null, 0);
  });
  return asked === undefined ? "able" : "powerless";
}
