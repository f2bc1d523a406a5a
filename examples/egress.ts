/** A program without a network gets a way out that its host watches: by name or address, and port. What it asks for is decided, and told. */
import { run } from "caisson";

using server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("the answer") });

const URLS = [
  `http://127.0.0.1:${server.port}/`, // granted below
  "http://127.0.0.1:22/", // the same machine, another port
  "http://169.254.169.254/latest/meta-data/", // what clouds tell their machines
  "http://example.org/", // no rule has this name, so it is not even resolved
];

/** Asks for each of them, by the proxy that the environment names; and once past it. */
const PROGRAM = `
  for (const url of ${JSON.stringify(URLS)}) {
    const response = await fetch(url).catch(({ code }) => new Response(code));
    console.log(response.status, (await response.text()).trim());
  }
  const past = await Bun.connect({ hostname: "192.0.2.1", port: 80, socket: { data() {} } }).catch(({ code }) => code);
  console.log("without the proxy:", past);
`;

console.log("The host decides");
const { stdout, stderr, exitCode } = await run([process.execPath, "-e", PROGRAM], {
  sandbox: { net: [`127.0.0.1:${server.port}`, "*.example.com:443"] },
  onDecision({ host, port, via, allowed, rule, reason }) {
    console.log(`  ${allowed ? "allowed" : "denied "} ${via} ${host}:${port}: ${allowed ? `rule ${rule}` : reason}`);
  },
});
console.log("\nThe program saw");
for (const line of stdout.toString().trim().split("\n")) console.log(`  ${line}`);
process.stderr.write(stderr);
process.exitCode = exitCode ?? 1;
