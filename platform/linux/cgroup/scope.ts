/** A scope of systemd's for this process, with a group that is left to it. `org.freedesktop.systemd1(5)` */
import { existsSync, readFileSync } from "node:fs";

/** How long systemd may take to answer, and to do it. */
const PATIENCE_MS = 5000;
const LOOK_MS = 5;

/** Where systemd says that it runs. */
export const RUNS = "/run/systemd/system";

/** Where the bus of this user's manager is looked for. */
function runtimeDirectory(): string {
  return process.env.XDG_RUNTIME_DIR ?? `/run/user/${process.geteuid!()}`;
}

/** Whether there is a manager that this user can ask. */
export function hasManager(): boolean {
  const socket = process.geteuid!() === 0 ? "/run/dbus/system_bus_socket" : `${runtimeDirectory()}/bus`;
  return existsSync(RUNS) && existsSync(socket);
}

/**
 * Moves this process, as it is, out of the unit that it was started in. So whoever stops that does not stop it, and it ends with the manager that
 * made the scope: nothing to be done unasked. What it has started before stays where it is. Gives the reason where it cannot be done.
 */
export function enterScope(): string | undefined {
  const name = `caisson-${crypto.randomUUID()}.scope`;
  const properties = [
    ["PIDs", "au", "1", `${process.pid}`],
    ["Delegate", "b", "true"],
    ["Description", "s", "Caisson"],
    // Otherwise systemd would remember one that failed.
    ["CollectMode", "s", "inactive-or-failed"],
  ];
  const manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
  const asked = [
    process.geteuid!() === 0 ? "--system" : "--user",
    ...["call", ...manager, "StartTransientUnit", "ssa(sv)a(sa(sv))"],
    ...[name, "fail", `${properties.length}`, ...properties.flat(), "0"],
  ];
  if (Bun.which("busctl") === null) return "there is no busctl to ask systemd with";
  const { exitCode, stderr } = Bun.spawnSync(["busctl", ...asked], {
    env: { ...process.env, XDG_RUNTIME_DIR: runtimeDirectory() },
    stdio: ["ignore", "ignore", "pipe"],
    timeout: PATIENCE_MS,
  });
  if (exitCode !== 0) return `systemd gave no scope: ${stderr.toString().trim() || "it did not answer"}`;
  // It is queued so far.
  for (const deadline = performance.now() + PATIENCE_MS; performance.now() < deadline; Bun.sleepSync(LOOK_MS))
    if (readFileSync("/proc/self/cgroup", "utf8").includes(`/${name}`)) return undefined;
  return `systemd did not begin ${name}`;
}
