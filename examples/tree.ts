/** A Debian tree without root, installer or container image: packages that apt chose, downloaded and unpacked. */
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** What the tree is for; apt adds what these depend on. Some fifty packages, 20 MB to download, 80 MB unpacked. */
const PACKAGES = ["base-files", "dash", "coreutils", "apt"];

/**
 * Makes a tree in `directory` that has a shell and apt-get, of the release and the architecture of this machine. Takes some seconds.
 * No script of a package runs, so there are no users and nothing is configured. All files belong to the user who makes it; setuid
 * programs keep that bit and the tree can be entered by all, so `directory` belongs in one that only its owner can enter.
 */
export async function debianTree(directory: string, say: (line: string) => void = console.error): Promise<void> {
  for (const program of ["apt-get", "dpkg-deb"]) {
    if (Bun.which(program) === null)
      throw new Error(`Cannot make a Debian tree: there is no ${program}, expected Debian or Ubuntu with apt and dpkg`);
  }
  const archives = mkdtempSync(join(tmpdir(), "caisson-packages-"));
  try {
    chmodSync(archives, 0o755); // root's apt-get downloads as a user of its own
    mkdirSync(join(archives, "partial"));
    say(`Downloading ${PACKAGES.join(", ")} and what they depend on`);
    await download(archives);
    const packages = readdirSync(archives).filter((name) => name.endsWith(".deb"));
    say(`Unpacking ${packages.length} packages into ${directory}`);
    mkdirSync(directory, { recursive: true });
    for (const name of packages) await run(["dpkg-deb", "--extract", join(archives, name), directory]);
  } finally {
    rmSync(archives, { recursive: true });
  }
}

/** Has apt choose as if nothing were installed. It needs no lock then, as it changes nothing of the system. */
async function download(archives: string): Promise<void> {
  const options = [
    "Dir::State::status=/dev/null",
    `Dir::Cache::archives=${archives}`,
    "Dir::Cache::pkgcache=",
    "Dir::Cache::srcpkgcache=",
    "Debug::NoLocking=1",
  ].flatMap((option) => ["-o", option]);
  const flags = ["--yes", "--quiet", "--no-install-recommends", "--download-only"];
  try {
    await run(["apt-get", "install", ...flags, ...options, ...PACKAGES]);
  } catch (error) {
    throw new Error(
      "Cannot download Debian packages: expected lists that `apt-get update` made not long ago, and a mirror",
      {
        cause: error,
      },
    );
  }
}

async function run(argv: string[]): Promise<void> {
  const child = Bun.spawn(argv, {
    env: { ...process.env, LC_ALL: "C" },
    stdio: ["ignore", "ignore", "pipe"],
  });
  const [error, code] = await Promise.all([child.stderr.text(), child.exited]);
  if (code !== 0) throw new Error(`${argv[0]} ended with ${code}: ${error.trim()}`);
}
