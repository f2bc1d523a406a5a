#!/usr/bin/env -S bun --config=/dev/null --no-env-file
// The working directory may be that of the script nobody vouches for: a bunfig.toml there would have its code preloaded here, outside of any wall.
/** The command line. */

/** Loads what the command needs: those who put us in bubblewrap's place are used to milliseconds. */
async function main(args: readonly string[]): Promise<number> {
  if (args[0] === "bwrap") return (await import("./bubble.ts")).bwrap(args.slice(1));
  const commands = await import("./commands.ts");
  return await commands.main(args);
}

export {};

process.exit(await main(process.argv.slice(2)));
