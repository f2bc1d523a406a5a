/** Runs the benches, or those that are named: `bun bench/index.ts [name...]`. Each is a question, in a process of its own. */
const BENCHES = [
  "spawn",
  "calls",
  "messages",
  "turns",
  "bytes",
  "memory",
  "containers",
  "filter",
  "notify",
  "limits",
  "pool",
  "crowd",
] as const;

const names = process.argv.slice(2);
const unknown = names.filter((name) => !(BENCHES as readonly string[]).includes(name));
if (unknown.length > 0) {
  console.error(`Cannot run ${unknown.join(", ")}: expected some of ${BENCHES.join(", ")}`);
  process.exit(2);
}
const chosen = names.length > 0 ? names : BENCHES;
let failed = 0;
for (const [index, name] of chosen.entries()) {
  console.log(`[${index + 1}/${chosen.length}] ${name}\n`);
  const path = new URL(`${name}.ts`, import.meta.url).pathname;
  const code = await Bun.spawn([process.execPath, path], { stdio: ["ignore", "inherit", "inherit"] }).exited;
  if (code !== 0) {
    failed++;
    console.error(`${name} ended with ${code}`);
  }
  console.log();
}
process.exit(failed > 0 ? 1 : 0);
