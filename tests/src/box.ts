/** Containers for tests: a root that holds this machine's programs, and what runs in it. */
import { existsSync, lstatSync, readlinkSync } from "node:fs";
import { abilities } from "../../platform/linux/abilities.ts";
import { isRoot } from "../../platform/linux/ids.ts";
import { type Container, type ContainerOptions, container } from "../../src/container.ts";
import { bind, dev, type Mount, proc, symlink, tmpfs } from "../../src/mounts.ts";
import type { Process, ProcessOptions } from "../../src/process.ts";
import { CLONE } from "../../syscalls/linux/numbers.ts";
import { openDescriptors, until } from "../attacks/arena.ts";
import { children } from "../platform/strings.ts";
import { testIf } from "../syscalls/requirement.ts";

export const root = isRoot();
/** A container of its own in everything. */
export const testBox = testIf(
  "namespaces",
  (abilities().namespaces & CLONE.NEWUSER) !== 0n && abilities().proc === "mount",
  "no user namespace with a proc of its own can be made here",
);
export const testUser = testIf("user", !root, "it is run by root");
export const testAsRoot = testIf("root", root, "it is run by an ordinary user");

/** Asks for what no program of coreutils tells. That on a PATH may be a script that looks for another one. */
export const PYTHON = "/usr/bin/python3";
export const testPython = testIf("python3", existsSync(PYTHON), `there is no ${PYTHON}`);
export const SCRIPT = "/usr/bin/script";
export const testScript = testIf(
  "script",
  existsSync(SCRIPT),
  `there is no ${SCRIPT} (bsdutils), which opens a terminal`,
);

/** This machine's programs and libraries, where they are on it. */
const programs: readonly Mount[] = ["/bin", "/sbin", "/lib", "/lib64"]
  .filter((path) => existsSync(path))
  .map((path) => (lstatSync(path).isSymbolicLink() ? symlink(path, readlinkSync(path)) : bind(path)));

export const tree: readonly Mount[] = [bind("/usr"), ...programs, proc(), dev(), tmpfs("/tmp", { mode: 0o1777 })];

/** A container with that tree, and more on top of it. */
export function box(files: readonly Mount[] = [], options: ContainerOptions = {}): Promise<Container> {
  return container({ files: [...tree, ...files], ...options });
}

const ENV = { PATH: "/usr/bin:/bin", LC_ALL: "C" };

/** What a program printed, without the last line's end, and how it ended. */
export async function ending(program: Process): Promise<{ said: string; complained: string; code: number }> {
  const text = async (stream: ReadableStream<Uint8Array> | undefined) =>
    (await new Response(stream ?? "").text()).replace(/\n$/, "");
  const [said, complained, code] = await Promise.all([text(program.stdout), text(program.stderr), program.exited]);
  return { said, complained, code };
}

/** Runs a shell inside to its end. */
export async function shell(box: Container, script: string, options: ProcessOptions = {}) {
  await using program = await box.exec(["/bin/sh", "-c", script], { env: ENV, ...options });
  return await ending(program);
}

/** What a script that has to go well printed. */
export async function said(box: Container, script: string, options: ProcessOptions = {}): Promise<string> {
  const { said, complained, code } = await shell(box, script, options);
  if (code !== 0 || complained !== "") throw new Error(`The script ended with ${code}: ${complained}`);
  return said;
}

/** What this process holds that a container which is gone must have given back. */
export const holdings = () => ({ descriptors: openDescriptors(), children: children().length });

/** Waits until no more is held than was before. The event loop lets go of descriptors when it comes to it. */
export async function settled(before: ReturnType<typeof holdings>): Promise<void> {
  await until(() => {
    const { descriptors, children } = holdings();
    return descriptors <= before.descriptors && children <= before.children;
  });
}
