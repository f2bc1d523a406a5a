import { describe, expect, test } from "bun:test";
import { type Circumstances, type Obstacle, reasonOf, remedyOf } from "../../../platform/linux/cgroup/obstacle.ts";

const plain: Circumstances = { uid: 1000, session: 4711, systemd: false, bus: false, legacy: [] };
const session: Circumstances = { ...plain, systemd: true, bus: true };
const unified = (parent: string) => ({ version: 2, mount: "/cg", parent, offered: ["memory", "pids"] }) as const;
const legacy = { version: 1, mount: "/cg/pids", parent: "/cg/pids" } as const;

const SCOPE = "--scope -p Delegate=yes, or with CAISSON_CGROUP=systemd; in a service say Delegate=yes";

const table: readonly (readonly [
  what: string,
  obstacle: Obstacle,
  circumstances: Circumstances,
  reason: string,
  remedy: string,
])[] = [
  ["nothing mounted", { kind: "unseen" }, plain, "no tree of control groups is mounted", "run umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup"],
  ["a container engine's mount", { kind: "refused", code: "EROFS", place: unified("/cg") }, plain, "/cg is read-only", "--security-opt writable-cgroups=true"],
  ["no such controller", { kind: "unknown", controller: "pids" }, plain, "no control group of this machine", "Use a kernel with CONFIG_CGROUP_PIDS"],
  ["a container that was given no such controller", { kind: "outer", controller: "pids", mount: "/cg" }, plain, "/cg is a part of the tree, which was given no pids",
    "Outside of this container, write +pids to cgroup.subtree_control"],
  ["v2 without systemd", { kind: "refused", code: "EACCES", place: unified("/cg") }, plain, "/cg was not delegated to this user (EACCES)",
    `As root run echo "+memory +pids" > /cg/cgroup.subtree_control; mkdir /cg/caisson; cd /cg/caisson; chown 1000 . cgroup.procs cgroup.subtree_control cgroup.threads; echo 4711 > cgroup.procs, which`],
  ["v2 that has no controllers", { kind: "refused", code: "EACCES", place: { ...unified("/cg"), offered: [] } }, plain, "", "As root run mkdir /cg/caisson"],
  ["v1", { kind: "refused", code: "EACCES", place: legacy }, { ...plain, legacy: ["/cg/pids", "/cg/memory"] }, "/cg/pids was not delegated",
    "As root run for tree in pids memory; do mkdir /cg/$tree/caisson; chown -R 1000 /cg/$tree/caisson; done, and start this program with CAISSON_CGROUP=caisson"],
  ["v1 in several places", { kind: "refused", code: "EACCES", place: legacy }, { ...plain, legacy: ["/cg/pids", "/other/memory"] }, "",
    "for tree in /cg/pids /other/memory; do mkdir $tree/caisson;"],
  ["root's service", { kind: "governed", place: unified("/cg/system.slice/a.service") }, { ...session, uid: 0 }, "/cg/system.slice/a.service belongs to systemd",
    `Start this program with systemd-run ${SCOPE}`],
  ["a session", { kind: "refused", code: "EACCES", place: unified("/cg/user.slice/session-1.scope") }, session, "", `Start this program with systemd-run --user ${SCOPE}`],
  ["a user without a manager", { kind: "governed", place: unified("/cg/a") }, { ...session, bus: false }, "", "As root run loginctl enable-linger 1000, set XDG_RUNTIME_DIR=/run/user/1000, and then: Start"],
  ["what a user's manager was not given", { kind: "withheld", controller: "io", all: ["cpu", "io"], place: unified("/cg/user.slice/user@1000.service/app.slice/a.scope") }, session,
    "a.scope was given no io by the groups above it", "/etc/systemd/system/user@.service.d/delegate.conf"],
  ["what groups above did not hand on", { kind: "withheld", controller: "io", all: ["cpu", "io"], place: unified("/cg/a/b") }, plain, "/cg/a/b was given no io",
    'As root run echo "+cpu +io" | tee /cg/cgroup.subtree_control /cg/a/cgroup.subtree_control'],
  ["another group", { kind: "outside", place: unified("/cg/a") }, plain, "this program was started outside of /cg/a", "As root run echo 4711 > /cg/a/cgroup.procs"],
  ["a setting that leads elsewhere", { kind: "setting", reason: "CAISSON_CGROUP leads out of the tree" }, plain, "CAISSON_CGROUP leads", "Set CAISSON_CGROUP to the path"],
  ["a scope that systemd does not give", { kind: "setting", reason: "systemd gave no scope: ..." }, session, "systemd gave no scope", "systemd-run --user"],
]; // biome-ignore format: a table

describe("reasonOf() and remedyOf() tell of", () => {
  test.each(table)("%s", (_, obstacle, circumstances, reason, remedy) => {
    expect(reasonOf(obstacle)).toContain(reason);
    expect(remedyOf(obstacle, circumstances)).toContain(remedy);
  });
});
