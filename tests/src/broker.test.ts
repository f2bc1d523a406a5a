// Programs that know nothing of it have their files, connections and names from functions of this process.
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type Broker,
  type Connection,
  type ConnectRequest,
  type ExecOptions,
  exec,
  type OpenRequest,
} from "../../src/index.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { open } from "../../syscalls/linux/file.ts";
import { O } from "../../syscalls/linux/numbers.ts";
import { failure, openDescriptors, until } from "../attacks/arena.ts";
import { testAttempt } from "../attacks/attempt.ts";
import { act, rebellion, threads } from "../attacks/supervised.ts";
import { testIf } from "../syscalls/requirement.ts";
import { PYTHON, testPython } from "./box.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const base = rebellion();
afterAll(() => base[Symbol.dispose]());
const busybox = "/bin/busybox";
const testBusybox = testIf("busybox", existsSync(busybox), "there is no static busybox (Debian: busybox-static)");
const musl = Bun.which("musl-gcc");
const testMusl = testIf("musl-gcc", musl !== null, "there is no compiler for musl (Debian: musl-tools)");
const testCompiler = testIf("cc", Bun.which("cc") !== null, "there is no C compiler (Debian: gcc and libc6-dev)");

const here = (path: string, flags: number = O.RDONLY) => `openat -100 =${path} ${flags} 0600`;
async function brokered(broker: Broker, steps: readonly string[], options: ExecOptions = {}) {
  const { said } = await act([base.program, ...steps], { broker, ...options });
  return said
    .trim()
    .split("\n")
    .map((line) => line.split(" ").at(-1)!);
}

describe("open:", () => {
  testAttempt("a file's content is text, bytes, or what a descriptor of ours has", async () => {
    const path = join(base.path, "file");
    writeFileSync(path, "of a file");
    const given: Record<string, string | Uint8Array | Descriptor> = {
      "/text": "tëxt",
      "/bytes": Uint8Array.of(0x68, 0x69),
      "/none": "",
      "/file": new Descriptor(open(self, path, O.RDONLY | O.CLOEXEC)),
    };
    const steps = Object.keys(given).map((name) => `cat ${name}`);
    const { said } = await act([base.program, ...steps], { broker: { open: ({ path }) => given[path] } });
    expect(said).toBe("tëxt\nhi\n\nof a file\n");
  });

  testAttempt(
    "an errno by its name; EPERM where it throws, rejects, or names none; what is left to the sandbox is",
    async () => {
      const answers: Record<string, () => unknown> = {
        "/errno": () => ({ errno: "EISDIR" }),
        "/throws": () => {
          throw new Error("no");
        },
        "/rejects": () => Promise.reject(new Error("no")),
        "/misspelt": () => ({ errno: "EACCESS" }),
        "/number": () => 5,
        "/null": () => null,
        "/left": () => undefined,
      };
      const broker: Broker = { open: ({ path }) => answers[path]!() as undefined };
      const said = await brokered(broker, [...Object.keys(answers).map((path) => here(path)), "descriptors"]);
      expect(said).toEqual(["EISDIR", "EPERM", "EPERM", "EPERM", "EPERM", "EPERM", "ENOENT", "2"]);
    },
  );

  testAttempt("content is not for writing, by no way", async () => {
    const said = await brokered({ open: ({ path }) => (path === "/a" ? "text" : undefined) }, [
      ...[O.WRONLY, O.RDWR, O.RDONLY | O.TRUNC, 3].map((flags) => here("/a", flags)),
      here("/a"),
      "write $4 =x 1",
      "ftruncate $4 0",
      here("/proc/self/fd/3", O.RDWR),
      "write $7 =x 1",
      "cat /a",
    ]);
    expect(said.slice(0, 7)).toEqual(["EROFS", "EROFS", "EROFS", "EROFS", "3", "EBADF", "EINVAL"]);
    expect(said[8]).toMatch(/^E(PERM|BADF)$/); // sealed, where it opened at all
    expect(said[9]).toBe("text");
  });

  testAttempt("the request says what is to be done, and who asks", async () => {
    const asked: OpenRequest[] = [];
    const broker: Broker = {
      open(request) {
        asked.push(request);
        return { errno: "EACCES" };
      },
    };
    await brokered(broker, [here("/a"), here("/b", O.WRONLY | O.CREAT), here("c/../d", O.RDWR)]);
    expect(asked.map(({ path, write, create }) => [path, write, create])).toEqual([
      ["/a", false, false],
      ["/b", true, true],
      ["/c/../d", true, false],
    ]);
    expect(asked[0]).toMatchObject({ program: "attempt", pid: asked[1]!.pid });
  });

  testAttempt("what names nothing is not asked about, and the kernel says why", async () => {
    const asked: string[] = [];
    const broker: Broker = {
      open({ path }) {
        asked.push(path);
        return "text";
      },
    };
    const said = await brokered(broker, ["openat -100 8 0", "openat -5 =name 0", "openat -100 = 0"]);
    expect(said.slice(0, 2)).toEqual(["EFAULT", "EBADF"]);
    expect(asked.filter((path) => !path.startsWith("/"))).toEqual([]);
  });

  testAttempt("of /proc/self a broker that opens what it is asked for opens the caller's", async () => {
    const broker: Broker = { open: ({ path }) => readFileSync(path) };
    const env = { WHOSE: "the caller's" };
    for (const path of [
      "/proc/self/environ",
      "/proc/../proc/self/environ",
      "//proc/./self/environ",
      "/proc/thread-self/environ",
    ]) {
      const { said } = await act([base.program, `cat ${path}`], { broker, env });
      expect(said).toContain("WHOSE=the caller's");
      expect(said).not.toContain("PATH=");
    }
  });

  testBusybox("a static program and a dynamic one read alike", async () => {
    const broker: Broker = { open: ({ path }) => (path === "/config" ? "served" : undefined) };
    expect((await act([busybox, "cat", "/config"], { broker })).said).toBe("served");
    expect((await act(["/bin/cat", "/config"], { broker })).said).toBe("served");
    const sh = await act(["/bin/sh", "-c", "while read line; do echo $line; done < /config; echo end"], { broker });
    expect(sh.said).toEndWith("end\n");
  });
});

/** Answers one request as a server of HTTP/1 does. */
async function page(connection: Connection, text: string): Promise<void> {
  let head = "";
  while (!head.includes("\r\n\r\n")) head += Buffer.from((await connection.read()) ?? "\r\n\r\n").toString();
  await connection.write(Buffer.from(`HTTP/1.0 200 OK\r\nContent-Length: ${text.length}\r\n\r\n${text}`));
  connection.close();
}

/** Knows one name, and serves one port of it. */
function world() {
  const asked: ConnectRequest[] = [];
  const looked: string[] = [];
  const broker: Broker = {
    lookup(name) {
      looked.push(name);
      return name === "known.example" ? ["203.0.113.5"] : undefined;
    },
    connect(request) {
      asked.push(request);
      if (request.port === 80) return (connection) => page(connection, `a page of ${request.name}`);
      return request.port === 81 ? { errno: "ENETUNREACH" } : undefined;
    },
  };
  return { broker, asked, looked };
}

describe("connect and lookup:", () => {
  testBusybox("a static program fetches by a name", async () => {
    const { broker, asked, looked } = world();
    const wget = (url: string) => act([busybox, "wget", "-q", "-O", "-", url], { broker });
    expect(await wget("http://known.example/")).toMatchObject({ said: "a page of known.example", code: 0 });
    expect(looked).toContain("known.example");
    const request = asked.find(({ port }) => port === 80);
    expect(request).toMatchObject({ address: "203.0.113.5:80", name: "known.example", program: "busybox" });
    expect((await wget("http://unknown.example/")).complained).toContain("bad address");
    expect((await wget("http://known.example:81/")).complained).toContain("unreachable");
    expect((await wget("http://known.example:82/")).complained).toContain("refused");
    expect((await wget("http://203.0.113.9/")).said).toBe("a page of undefined");
  });

  const python = (script: string, broker: Broker) => {
    const libraries = realpathSync(PYTHON).replace("/bin/", "/lib/");
    return act([PYTHON, "-c", script], { broker, sandbox: { unveil: { [libraries]: "rx" } } });
  };

  testPython("python's getaddrinfo and http.client", async () => {
    const { broker } = world();
    const script = `
import socket, http.client
print(sorted({each[4][0] for each in socket.getaddrinfo("known.example", 80)}))
try: socket.getaddrinfo("unknown.example", 80)
except socket.gaierror as error: print(error.errno == socket.EAI_NONAME)
connection = http.client.HTTPConnection("known.example")
connection.request("GET", "/")
print(connection.getresponse().read().decode())
try: socket.create_connection(("203.0.113.5", 81))
except OSError as error: print(error.strerror)
`;
    const { said, complained } = await python(script, broker);
    expect(complained).toBe("");
    expect(said).toBe("['203.0.113.5']\nTrue\na page of known.example\nNetwork is unreachable\n");
  });

  testPython("python's asyncio, whose sockets do not block, several at once", async () => {
    const { broker } = world();
    const script = `
import asyncio
async def fetch():
  reader, writer = await asyncio.open_connection("known.example", 80)
  writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
  text = await reader.read()
  writer.close()
  return text.endswith(b"a page of known.example")
async def main():
  print(all(await asyncio.gather(*[fetch() for _ in range(10)])))
  try: await asyncio.open_connection("203.0.113.5", 82)
  except ConnectionRefusedError: print("refused")
asyncio.run(main())
`;
    const { said, complained } = await python(script, broker);
    expect(complained).toBe("");
    expect(said).toBe("True\nrefused\n");
  });

  const C = `
    #include <netdb.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <unistd.h>
    int main(void) {
      struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
      int error = getaddrinfo("known.example", "80", &hints, &found), made;
      if (error) return puts(gai_strerror(error)), 1;
      if (connect(made = socket(found->ai_family, SOCK_STREAM, 0), found->ai_addr, found->ai_addrlen) < 0) return perror("connect"), 1;
      char text[256] = { 0 };
      write(made, "GET / HTTP/1.0\\r\\n\\r\\n", 18);
      for (int at = 0, n; (n = read(made, text + at, 255 - at)) > 0; at += n);
      puts(strrchr(text, '\\n') + 1);
      return getaddrinfo("unknown.example", "80", &hints, &found) == EAI_NONAME ? 0 : 2;
    }`;
  const compiled = (compiler: string, name: string, ...flags: readonly string[]) => {
    const [source, program] = [join(base.path, `${name}.c`), join(base.path, name)];
    writeFileSync(source, C);
    const { exitCode, stderr } = Bun.spawnSync([compiler, "-w", ...flags, "-o", program, source]);
    if (exitCode !== 0) throw new Error(stderr.toString());
    return program;
  };
  const fetches = async (program: string) => {
    const { said, complained, code } = await act([program], { broker: world().broker });
    expect([complained, said, code]).toEqual(["", "a page of known.example\n", 0]);
  };
  testCompiler("a program of glibc", () => fetches(compiled(Bun.which("cc")!, "dynamic")));
  testMusl("a static program of musl", () => fetches(compiled(musl!, "static", "-static")));

  testAttempt("a socket that is connected already, a closed one, and a file", async () => {
    const { lines } = await act([base.supervised, "addresses"], {
      broker: { connect: () => ({ errno: "EHOSTUNREACH" }) },
    });
    expect(lines).toMatchObject({
      four: "EHOSTUNREACH",
      wide: "EHOSTUNREACH",
      six: "EHOSTUNREACH",
      path: "EHOSTUNREACH",
    });
    expect(lines).toMatchObject({
      short: "EAFNOSUPPORT",
      none: "EAFNOSUPPORT",
      unknown: "EAFNOSUPPORT",
      nowhere: "EAFNOSUPPORT",
    });
    expect(lines).toMatchObject({ closed: "EBADF", file: "ENOTSOCK" });
  });

  testAttempt("without connect and lookup there are no sockets", async () => {
    const said = await brokered({ open: () => undefined }, ["socket 2 1 0", "socket 2 2 0", "socket 1 1 0"]);
    expect(said).toEqual(["EPERM", "EPERM", "EPERM"]);
  });

  testAttempt("nothing but the broker is reached: not the host's loopback, and no raw socket is made", async () => {
    using server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const port = server.port.toString(16).padStart(4, "0");
    const at = `@0200${port}7f000001${"00".repeat(8)}`;
    const steps = [
      "socket 2 1 0",
      `connect $0 ${at} 16`,
      "socket 2 2 0",
      `sendto $2 =x 1 0 ${at} 16`,
      "socket 2 3 1",
      "socket 16 3 0",
      "socket 17 3 0",
    ];
    const said = await brokered({ connect: () => undefined }, steps);
    expect(said).toEqual(["3", "ECONNREFUSED", "4", "1", "EPERM", "EPERM", "EPERM"]);
    // MSG_FASTOPEN connects without connect(2): to its own, empty network.
    expect(
      await brokered({ connect: () => undefined }, ["socket 2 1 0", `sendto $0 =x 1 0x20000000 ${at} 16`]),
    ).toEqual(["3", expect.stringMatching(/^E(CONNREFUSED|OPNOTSUPP|INPROGRESS)$/)]);
  });

  testBusybox("what throws is EPERM for the program, and a connection that is served no more is closed", async () => {
    const wget = async (connect: Broker["connect"]) =>
      await act([busybox, "wget", "-q", "-O", "-", "http://203.0.113.5/"], { broker: { connect: connect! } });
    expect((await wget(() => Promise.reject(new Error("no")))).complained).toContain("not permitted");
    const served = await wget(() => () => {
      throw new Error("no");
    });
    expect(served.code).not.toBe(0);
  });
});

test("a broker of no function changes nothing but that it is one", async () => {
  expect(await failure(exec(["/bin/true"], { broker: 5 as unknown as Broker }))).toBeInstanceOf(TypeError);
});

testBusybox(
  "200 programs one after another leave nothing here",
  async () => {
    const { broker } = world();
    const files: Broker = { ...broker, open: ({ path }) => (path === "/a" ? "text" : undefined) };
    const once = async () => {
      const script = "cat /a; wget -q -O - http://known.example/";
      const { said } = await act([busybox, "sh", "-c", script], {
        broker: files,
        sandbox: { limits: { processes: 8 } },
      });
      expect(said).toBe("texta page of known.example");
    };
    for (let round = 0; round < 3; round++) await once();
    const before = { descriptors: openDescriptors(), threads: threads() };
    for (let round = 0; round < 200; round++) await once();
    await until(() => openDescriptors() <= before.descriptors && threads() <= before.threads);
  },
  300_000,
);
