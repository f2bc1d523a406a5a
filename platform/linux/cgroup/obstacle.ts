/** What keeps a process from making control groups somewhere, and the commands that change that on such a machine. Pure. `cgroups(7)` */
import { basename, dirname } from "node:path";
import type { Controller } from "./hierarchy.ts";

/** What is known of a process and its machine. */
export interface Circumstances {
  readonly uid: number;
  /** The first process of its session: mostly the shell that it was started from. */
  readonly session: number;
  /** Whether systemd runs, and whether it can be asked by this user: the system's manager, or that of the user. */
  readonly systemd: boolean;
  readonly bus: boolean;
  /** Where the trees of v1 are mounted that this library can use. */
  readonly legacy: readonly string[];
}

/** Where groups were to be made. */
export interface Place {
  readonly version: 1 | 2;
  readonly mount: string;
  readonly parent: string;
  /** v2: what the groups at its top can be given. */
  readonly offered?: readonly Controller[];
}

export type Obstacle =
  /** No tree is mounted that shows the group of this process. */
  | { readonly kind: "unseen" }
  /** The kernel has no such controller. */
  | { readonly kind: "unknown"; readonly controller: Controller }
  /** v2: the part of the tree that is to be seen here has not got it, as in a container. */
  | { readonly kind: "outer"; readonly controller: Controller; readonly mount: string }
  /** v2: the group has not got it from those above it, as perhaps others. */
  | {
      readonly kind: "withheld";
      readonly controller: Controller;
      readonly all: readonly Controller[];
      readonly place: Place;
    }
  /** systemd has not given the group away. */
  | { readonly kind: "governed"; readonly place: Place }
  | { readonly kind: "refused"; readonly code: string; readonly place: Place }
  /** v2: processes can only be moved where both of their groups are this user's. */
  | { readonly kind: "outside"; readonly place: Place }
  /** The setting cannot be followed. */
  | { readonly kind: "setting"; readonly reason: string };

/** Names the group that was delegated, in every tree, or has systemd delegate one. */
export const SETTING = "CAISSON_CGROUP";
/** Its value for the latter. */
export const SYSTEMD = "systemd";

/** What to build a kernel with. */
const CONFIG: Readonly<Record<Controller, string>> = {
  memory: "CONFIG_MEMCG, booted without cgroup_disable=memory",
  pids: "CONFIG_CGROUP_PIDS",
  cpu: "CONFIG_CFS_BANDWIDTH",
  usage: "CONFIG_CGROUP_CPUACCT, or cgroup v2",
  io: "CONFIG_BLK_DEV_THROTTLING",
  kill: "CONFIG_CGROUP_FREEZER, or cgroup v2",
};

/** In words for people. */
export function reasonOf(obstacle: Obstacle): string {
  switch (obstacle.kind) {
    case "unseen":
      return "no tree of control groups is mounted that shows the group of this process";
    case "unknown":
      return "no control group of this machine governs it";
    case "outer":
      return `${obstacle.mount} is a part of the tree, which was given no ${obstacle.controller}`;
    case "withheld":
      return `${obstacle.place.parent} was given no ${obstacle.controller} by the groups above it`;
    case "governed":
      return `${obstacle.place.parent} belongs to systemd`;
    case "refused":
      if (obstacle.code === "EROFS") return `${obstacle.place.mount} is read-only`;
      return `${obstacle.place.parent} was not delegated to this user (${obstacle.code})`;
    case "outside":
      return `this program was started outside of ${obstacle.place.parent}`;
    case "setting":
      return obstacle.reason;
  }
}

/** What to do about it. */
export function remedyOf(obstacle: Obstacle, circumstances: Circumstances): string {
  const { session, systemd } = circumstances;
  switch (obstacle.kind) {
    case "unseen":
      return `As root run umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; start a container with --cgroupns=private ${WRITABLE}`;
    case "unknown":
      return `Use a kernel with ${CONFIG[obstacle.controller]}`;
    case "outer":
      return `Outside of this container, write +${obstacle.controller} to cgroup.subtree_control of each group above that of ${obstacle.mount}`;
    case "withheld":
      return handing(obstacle.place, obstacle.all, circumstances);
    case "governed":
      return scoping(circumstances);
    case "refused":
      if (obstacle.code === "EROFS")
        return `As root run mount -o remount,rw ${obstacle.place.mount}; start a container with ${WRITABLE}`;
      if (obstacle.place.version === 1) return delegatingLegacy(circumstances);
      return systemd ? scoping(circumstances) : delegating(obstacle.place, circumstances);
    case "outside":
      return `As root run echo ${session} > ${obstacle.place.parent}/cgroup.procs, which moves the shell, and start this program from there`;
    case "setting":
      return systemd ? scoping(circumstances) : `Set ${SETTING} to the path of a group beneath its tree's mount`;
  }
}

/** Of Docker since 28, and of Podman. */
const WRITABLE = "--security-opt writable-cgroups=true (Podman: --security-opt unmask=/sys/fs/cgroup)";

/** A unit of systemd's that is left to whoever is in it. */
function scoping({ uid, bus }: Circumstances): string {
  const [session, lingering] =
    uid === 0
      ? ["", ""]
      : [
          "--user ",
          bus ? "" : `As root run loginctl enable-linger ${uid}, set XDG_RUNTIME_DIR=/run/user/${uid}, and then: `,
        ];
  return `${lingering}Start this program with systemd-run ${session}--scope -p Delegate=yes, or with ${SETTING}=${SYSTEMD}; in a service say Delegate=yes`;
}

/** The manager of a user hands on what it was given itself; without it, whoever made the group does. */
function handing(
  { mount, parent }: Place,
  controllers: readonly Controller[],
  { uid, systemd }: Circumstances,
): string {
  if (systemd && parent.includes(`/user@${uid}.service/`))
    return `As root run mkdir -p /etc/systemd/system/user@.service.d; printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' > /etc/systemd/system/user@.service.d/delegate.conf; systemctl daemon-reload; systemctl restart user@${uid}.service, which ends what this user runs`;
  const above = parent.slice(mount.length).split("/").filter(Boolean);
  const files = above.map((_, index) => [mount, ...above.slice(0, index), "cgroup.subtree_control"].join("/"));
  return `As root run echo "${adding(controllers)}" | tee ${files.join(" ")}`;
}

const adding = (controllers: readonly Controller[]) => controllers.map((each) => `+${each}`).join(" ");

function delegating({ mount, offered = [] }: Place, { uid, session }: Circumstances): string {
  const handed = offered.length === 0 ? "" : `echo "${adding(offered)}" > ${mount}/cgroup.subtree_control; `;
  return `As root run ${handed}mkdir ${mount}/caisson; cd ${mount}/caisson; chown ${uid} . cgroup.procs cgroup.subtree_control cgroup.threads; echo ${session} > cgroup.procs, which moves the shell, and start this program from there`;
}

function delegatingLegacy({ uid, legacy }: Circumstances): string {
  const [directory] = legacy.map(dirname);
  const together = legacy.every((each) => dirname(each) === directory);
  const [trees, tree] = together ? [legacy.map((each) => basename(each)), `${directory}/$tree`] : [legacy, "$tree"];
  return `As root run for tree in ${trees.join(" ")}; do mkdir ${tree}/caisson; chown -R ${uid} ${tree}/caisson; done, and start this program with ${SETTING}=caisson`;
}
