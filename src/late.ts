/** Code that few actors need: the boot file keeps it as text until one does, and the bundler replaces this module by that text. */
import type * as Reaching from "./reach.ts";

/** The network's end inside. @param _inside what the text has of the boot file, where it is there once */
export function loadReach(_inside: object): typeof Reaching {
  return require("./reach.ts") as typeof Reaching;
}

/** Takes a module out of the registry, where the next one could find it. */
export function forget(url: string): void {
  delete require.cache[url];
}
