/** The floor, `floor.c`, compiled where it is used: what a program by hand needs for the same container. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const source = new URL("floor.c", import.meta.url).pathname;
/** It brings its own start and has no libc, so nothing may be put in that would need one. */
const FLAGS = ["-O2", "-Wall", "-Wextra", "-static", "-no-pie", "-fno-pie"].concat(
  ["-nostdlib", "-ffreestanding", "-fno-stack-protector"],
  ["-fno-tree-loop-distribute-patterns", "-fno-asynchronous-unwind-tables"],
);

export class Floor implements Disposable {
  readonly #directory = mkdtempSync(join(tmpdir(), "caisson-floor-"));
  readonly path = join(this.#directory, "floor");

  /** Compiles it. Throws where there is no C compiler, or one that cannot. */
  constructor() {
    try {
      if (Bun.which("cc") === null) throw new Error("Cannot compile the floor: there is no cc, install gcc");
      const { exitCode, stderr } = Bun.spawnSync(["cc", ...FLAGS, "-o", this.path, source], { stderr: "pipe" });
      if (exitCode !== 0) throw new Error(`Cannot compile the floor: ${stderr.toString().trim()}`);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** What the floor prints when it is run so: the median of many starts, in milliseconds. */
  async median(...argv: readonly string[]): Promise<number> {
    const child = Bun.spawn([this.path, ...argv], { stdio: ["ignore", "pipe", "pipe"] });
    const [output, error, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
    if (code !== 0) throw new Error(`Cannot run floor ${argv.join(" ")}: ${error.trim() || `it ended with ${code}`}`);
    return Number(output) / 1e3;
  }

  [Symbol.dispose](): void {
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
