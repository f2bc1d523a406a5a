/**
 * A container without any network but its own loopback: a server in there that is reached from here, and a server here that is reached from
 * in there. No packet is forwarded: the sockets are made inside, and handed out.
 */
import { bind, container, dev, proc } from "caisson";
import { system } from "./system.ts";

/** What runs inside: a server, which passes on what another one there answers. @param port the other one's */
const serverFor = (port: number) => `
  Bun.serve({ port: 8080, hostname: "127.0.0.1", async fetch(request) {
    const { pathname } = new URL(request.url);
    if (pathname === "/weather") return fetch("http://127.0.0.1:${port}/weather");
    if (pathname === "/out") return new Response(await fetch("http://192.0.2.1/").then(() => "reached", ({ code }) => code));
    return new Response("Hello from process " + process.pid);
  } });
  console.log("ready");
`;

await using box = await container({
  files: [...system(), bind(process.execPath, "/bun"), proc(), dev()],
});

// This program's server, on a port of the container. Nobody on the host can connect to it.
const weather = box.listen();
weather.serve({ fetch: () => new Response("Clear, says the host") });

await using server = await box.exec(["/bun", "-e", serverFor(weather.port)], { stderr: "inherit" });
await server.stdout!.getReader().read(); // "ready"

using inside = box.client(8080);
for (const path of ["/", "/weather", "/out"]) {
  const response = await inside.fetch(`http://inside${path}`);
  console.log(`${path.padEnd(9)} ${await response.text()}`);
}

const onHost = await fetch(`http://127.0.0.1:${weather.port}/weather`).catch((error: { code: string }) => error.code);
console.log(`The same port on the host: ${onHost}`);
