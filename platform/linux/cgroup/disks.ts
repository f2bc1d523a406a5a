/** On which disks paths lie, by the numbers that control groups know them by. */
import { readFileSync, realpathSync, statfsSync, statSync } from "node:fs";
import { join } from "node:path";

/** Files in memory, which no disk holds. */
const TMPFS_MAGIC = 0x0102_1994;

/** The disks of paths, as `major:minor`. Throws an Error that names a path whose disk is not to be found, as beneath an overlay. */
export function disksOf(paths: readonly string[]): string[] {
  const disks = paths.flatMap((path) => {
    if (statfsSync(path).type === TMPFS_MAGIC) return [];
    const disk = diskOf(statSync(path).dev);
    if (disk === undefined) throw new Error(`${path} is on no disk that can be told from others`);
    return [disk];
  });
  return [...new Set(disks)];
}

/** The whole disk of a device, of which a partition has no limits of its own. */
function diskOf(device: number): string | undefined {
  const [major, minor] = [Math.floor(device / 256) & 0xfff, (device & 0xff) | (Math.floor(device / 2 ** 12) & 0xfff00)];
  try {
    const directory = realpathSync(`/sys/dev/block/${major}:${minor}`);
    const whole = isPartition(directory) ? join(directory, "..") : directory;
    return readFileSync(join(whole, "dev"), "utf8").trim();
  } catch {
    return undefined;
  }
}

function isPartition(directory: string): boolean {
  return statSync(join(directory, "partition"), { throwIfNoEntry: false }) !== undefined;
}
