/** Programs as they are, curl and a static busybox, served by functions: a host that is nowhere, a file that is nowhere. */
import { type Broker, run } from "caisson";

/** What the programs below see of the world, beside themselves. */
const broker: Broker = {
  lookup(name) {
    say(`asks where ${name} is`);
    return name === "weather.example" ? ["203.0.113.7"] : undefined; // an address that nobody has
  },

  connect({ name, address, program }) {
    if (address.startsWith("unix:")) return undefined; // C libraries try whether names are kept in store
    say(`${program} connects to ${address}${name === undefined ? "" : `, for ${name}`}`);
    if (name === undefined) return { errno: "EHOSTUNREACH" };
    return async (connection) => {
      const { value } = await connection.readable.getReader().read();
      const [request] = new TextDecoder().decode(value).split("\r\n");
      const response = `HTTP/1.0 200 OK\r\n\r\nClear, says a function that was asked to ${request}\n`;
      const writer = connection.writable.getWriter();
      await writer.write(new TextEncoder().encode(response));
      await writer.close();
    };
  },

  open({ path, program }) {
    if (!path.startsWith("/secret/")) return undefined; // libraries and the like: what the sandbox shows
    say(`${program} opens ${path}`);
    return path === "/secret/word" ? "a text that is in no file\n" : { errno: "EACCES" };
  },
};

/** Names are looked up twice, for addresses of either kind. */
const said = new Set<string>();
function say(text: string): void {
  if (!said.has(text)) console.log(`  ${text}`);
  said.add(text);
}

async function show(...argv: [string, ...string[]]): Promise<void> {
  console.log(`$ ${argv.join(" ")}`);
  said.clear();
  if (Bun.which(argv[0]) === null) {
    console.log(`Skipped: there is no ${argv[0]} here, \`apt-get install ${argv[0]}\` brings it\n`);
    return;
  }
  const { exitCode, stdout, stderr } = await run(argv, { broker });
  console.log(`${stdout}${stderr}(${exitCode})\n`);
}

await show("curl", "-sS", "http://weather.example/today");
await show("curl", "-sS", "http://elsewhere.example/");
await show("curl", "-sS", "http://192.0.2.1/");
// Linked statically, so that no library could be put before its own.
await show("busybox", "cat", "/secret/word", "/secret/sentence");
await show("busybox", "wget", "-q", "-O", "-", "http://weather.example/tomorrow");
