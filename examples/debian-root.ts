/**
 * A shell and apt-get in a Debian tree of their own: made by `tree.ts` from packages, and laid under an overlay, so that it can be written
 * and is as it was afterwards.
 */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Container, container, dev, overlay, proc, tmpfs } from "caisson";
import { debianTree } from "./tree.ts";

/** Runs a line of shell inside, and prints what it prints. */
async function shell(box: Container, line: string): Promise<void> {
  await using process = await box.exec(["/bin/sh", "-c", `exec 2>&1; ${line}`], {
    env: { PATH: "/usr/bin:/bin", LC_ALL: "C" },
  });
  console.log(`# ${line}`);
  console.log((await new Response(process.stdout).text()).trimEnd());
}

const directory = mkdtempSync(join(tmpdir(), "debian-"));
try {
  const tree = join(directory, "tree");
  const failure = await debianTree(tree).then(
    () => undefined,
    (error: Error) => error.message,
  );
  if (failure === undefined) await show(tree);
  else console.log(`Skipped: ${failure}`);
} finally {
  rmSync(directory, { recursive: true });
}

async function show(tree: string): Promise<void> {
  await using box = await container({
    files: [overlay("/", { lower: [tree] }), proc(), dev(), tmpfs("/tmp", { size: "16 MiB" })],
    user: 0,
    group: 0,
    hostname: "debian",
  });
  await shell(box, "cat /etc/debian_version");
  await shell(box, "apt-get --version | head -n 1");
  await shell(box, "echo changed > /etc/motd; cat /etc/motd; cat /proc/sys/kernel/hostname");
  console.log(`\nOn the host, the tree ${existsSync(join(tree, "etc/motd")) ? "has" : "still has no"} /etc/motd`);
}
