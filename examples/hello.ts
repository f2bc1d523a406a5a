/** The smallest useful actor: `greeter.ts` runs in a sandbox of its own, and its function is called from here. */
import { spawn } from "caisson";

await using greeter = await spawn<typeof import("./greeter.ts")>(new URL("./greeter.ts", import.meta.url));
console.log(await greeter.call.greet("world"));
