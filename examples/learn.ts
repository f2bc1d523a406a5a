/** A script runs once with everything seen and nothing but keys refused. What is written then is the least policy that it runs under. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const caisson = fileURLToPath(new URL("../src/cli.ts", import.meta.url));
const project = mkdtempSync(join(tmpdir(), "caisson-learn-example-"));

/** Adds up invoices, writes the sum; and has a look at what is none of its business. */
const SCRIPT = `
  import { readdirSync, readFileSync, writeFileSync } from "node:fs";
  const [, , invoices, out] = process.argv;
  const sum = readdirSync(invoices).reduce((sum, name) => sum + Number(readFileSync(invoices + "/" + name, "utf8")), 0);
  writeFileSync(out + "/sum.txt", sum.toLocaleString(process.env.LANG?.slice(0, 2)));
  console.log("The sum is", readFileSync(out + "/sum.txt", "utf8"));
  try {
    console.log(readFileSync(process.env.HOME + "/.ssh/id_rsa", "utf8"));
  } catch {}
`;

function run(...args: string[]): number {
  console.log(`$ caisson ${args.map((arg) => arg.replace(project, "...")).join(" ")}`);
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, caisson, ...args], {
    cwd: project,
    env: { HOME: project, LANG: "en_GB.UTF-8" },
  });
  console.log(`${stdout}${stderr}`.replaceAll(project, "...").trim());
  console.log(`(${exitCode})\n`);
  return exitCode;
}

try {
  for (const name of ["invoices", "out", ".ssh"]) mkdirSync(join(project, name));
  for (const [name, amount] of Object.entries({ may: 120, june: 1400, july: 80 }))
    writeFileSync(join(project, "invoices", name), String(amount));
  writeFileSync(join(project, ".ssh", "id_rsa"), "the key that opens everything");
  writeFileSync(join(project, "sum.ts"), SCRIPT);
  const script = ["sum.ts", join(project, "invoices"), join(project, "out")];

  const codes = [run("run", ...script), run("learn", ...script), run("run", "--policy=sum.policy.json", ...script)];
  console.log(readFileSync(join(project, "sum.policy.ts"), "utf8").replaceAll(project, "..."));
  process.exitCode = codes.join() === "1,0,0" ? 0 : 1;
} finally {
  rmSync(project, { recursive: true });
}
