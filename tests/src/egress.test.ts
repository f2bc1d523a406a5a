import { afterAll, describe, expect, test } from "bun:test";
import { type Decision, EgressDenied, Unreachable } from "../../src/decision.ts";
import { egress } from "../../src/egress.ts";

let reached = 0;
const server = Bun.listen({
  hostname: "127.0.0.1",
  port: 0,
  socket: {
    open(socket) {
      reached++;
      socket.write("here");
    },
    data() {},
  },
});
afterAll(() => server.stop(true));
const port = server.port;

/** An egress whose names resolve as the table says, and what it decided and asked. */
function arena(rules: readonly string[], names: Readonly<Record<string, readonly string[]>> = {}) {
  const decisions: Decision[] = [];
  const asked: string[] = [];
  const way = egress(rules, {
    onDecision: (decision) => void decisions.push(decision),
    resolve: async (name) => {
      asked.push(name);
      return names[name] ?? [];
    },
    limits: { connectMs: 5_000 },
  });
  const outcome = async (target: string) => {
    try {
      (await way.connect(target)).close();
      return "connected";
    } catch (error) {
      if (error instanceof EgressDenied) return "denied";
      if (error instanceof Unreachable) return error.code;
      throw error;
    }
  };
  return { way, decisions, asked, outcome };
}

describe("an address that no rule names is denied, in every form, and nothing is connected", () => {
  const HOSTS = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "127.255.255.254", "１２７.0.0.1",
    "127。0。0。1", "0", "0.0.0.0", "0x0", "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::FFFF:127.0.0.1]", "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[::ffff:0:127.0.0.1]", "169.254.169.254", "0xa9fea9fe", "2852039166",
    "0251.0376.0251.0376", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "168.63.129.16", "100.100.100.200", "192.0.0.192", "10.0.0.1", "10.1", "172.16.0.1",
    "192.168.0.1", "192.168.257", "100.64.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "[fe80::1]", "[fc00::1]", "[fec0::1]", "[ff02::1]",
    "localhost", "localhost.", "LOCALHOST", "foo.localhost", "127.0.0.1.nip.io", "1.1.1.1", "8.8.8.8", "[2606:4700::1111]",
  ]; // biome-ignore format: a table
  for (const host of HOSTS) {
    test(host, async () => {
      const before = reached;
      const { decisions, asked, outcome } = arena([`example.com:${port}`, `*.example.com:${port}`], {
        localhost: ["127.0.0.1"],
      });
      expect(await outcome(`${host}:${port}`)).toBe("denied");
      expect(decisions).toMatchObject([{ port, allowed: false, via: "direct" }]);
      expect([asked, reached]).toEqual([[], before]);
    });
  }
});

describe("a name that leads to an address that is not public is denied", () => {
  const ADDRESSES = [
    "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.20.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255",
    "::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1::", "::7f00:1",
  ]; // biome-ignore format: a table
  for (const address of ADDRESSES) {
    test(address, async () => {
      const before = reached;
      const { decisions, outcome } = arena([`example.com:${port}`, "0.0.0.0/0:1", "[::/0]:1"], {
        "example.com": [address],
      });
      expect(await outcome(`example.com:${port}`)).toBe("denied");
      expect(decisions[0]!.reason).toContain("and no rule names");
      expect(reached).toBe(before);
    });
  }

  test("unless a rule names that address, too; and that rule alone does not have names resolved", async () => {
    const names = { "example.com": ["127.0.0.1"] };
    const both = arena([`example.com:${port}`, `127.0.0.0/8:${port}`], names);
    expect(await both.outcome(`EXAMPLE.com.:${port}`)).toBe("connected");
    expect(both.decisions).toEqual([
      { host: "example.com", port, via: "direct", address: "127.0.0.1", allowed: true, rule: `example.com:${port}` },
    ]);
    const range = arena([`127.0.0.0/8:${port}`], names);
    expect(await range.outcome(`example.com:${port}`)).toBe("denied");
    expect(range.asked).toEqual([]);
    expect(await range.outcome(`0x7f.1:${port}`)).toBe("connected");
    const otherPort = arena([`example.com:${port}`, "127.0.0.1:1"], names);
    expect(await otherPort.outcome(`example.com:${port}`)).toBe("denied");
  });
});

test("a name is resolved once, and what is connected to is what was decided on: a second answer changes nothing", async () => {
  const answers = [["127.0.0.1"], ["10.0.0.1"], ["10.0.0.1"]];
  let asked = 0;
  const decisions: Decision[] = [];
  using way = egress([`rebinding.example:${port}`, `127.0.0.1:${port}`], {
    resolve: async () => answers[asked++]!,
    onDecision: (decision) => void decisions.push(decision),
  });
  using connection = await way.connect(`rebinding.example:${port}`);
  expect(new TextDecoder().decode(await connection.read())).toBe("here");
  expect([asked, connection.remoteAddress]).toEqual([1, "127.0.0.1"]);
  // The next decision is a new one, by the new answer.
  await expect(way.connect(`rebinding.example:${port}`)).rejects.toThrow("10.0.0.1 (private), and no rule names");
  expect(decisions.map(({ address, allowed }) => [address, allowed])).toEqual([
    ["127.0.0.1", true],
    ["10.0.0.1", false],
  ]);
});

test("of several addresses those are tried that are allowed, one after the other, each told of", async () => {
  const { decisions, outcome } = arena([`a.example:${port}`, `127.0.0.0/30:${port}`], {
    "a.example": ["10.0.0.1", "127.0.0.2", "::1", "127.0.0.1"],
  });
  expect(await outcome(`a.example:${port}`)).toBe("connected");
  expect(decisions.map(({ address }) => address)).toEqual(["127.0.0.2", "127.0.0.1"]);
});

test("names that do not resolve, servers that refuse, and resolvers that lie are told apart from denials", async () => {
  const { decisions, outcome } = arena([`a.example:1`, "127.0.0.1:1", "b.example:1"], {
    "a.example": ["127.0.0.1"],
    "b.example": ["not an address", "127.0.0.1%lo", "0x7f.1"],
  });
  expect(await outcome("a.example:1")).toBe("ECONNREFUSED");
  expect(await outcome("b.example:1")).toBe("ENOTFOUND");
  expect(decisions.map(({ allowed, reason }) => [allowed, reason])).toEqual([
    [true, undefined],
    [false, "it does not resolve: ENOTFOUND"],
  ]);
});

test("a resolver that does not answer is waited for until connectMs", async () => {
  using way = egress(["a.example:1"], { resolve: () => new Promise(() => {}), limits: { connectMs: 20 } });
  await expect(way.connect("a.example:1")).rejects.toMatchObject({ name: "Unreachable", code: "ETIMEDOUT" });
});

test("localhost is no name that a rule can have; its address is, and needs no resolver", async () => {
  expect(() => egress([`localhost:${port}`])).toThrow(`write 127.0.0.1:${port}`);
  using way = egress([`127.0.0.1:${port}`]);
  using connection = await way.connect(`127.0.0.1:${port}`);
  expect(connection.remoteAddress).toBe("127.0.0.1");
});

test("[] allows nothing, and a rule that is not clearly one throws before anything exists", async () => {
  expect(await arena([]).outcome("example.com:443")).toBe("denied");
  expect(() => egress(["example.com:443", "*"])).toThrow(TypeError);
});

test("what the client sent does not write to a log as it likes", async () => {
  const { way, decisions } = arena([]);
  await expect(way.reach("a\x1b[2J\n\x9b2J.example", 443, "socks5")).rejects.toBeInstanceOf(EgressDenied);
  expect(JSON.stringify(decisions)).toMatch(/^[\x20-\x7e]*$/);
  expect(decisions[0]!.host).toBe("a\\u001b[2J\\u000a\\u009b2J.example");
  expect(decisions[0]!.reason).toMatch(/^[\x20-\x7e]*$/);
});

test("no more connections than allowed, and close() ends them all", async () => {
  const way = egress([`127.0.0.1:${port}`], { limits: { connections: 2 } });
  const held = await Promise.all([way.connect(`127.0.0.1:${port}`), way.connect(`127.0.0.1:${port}`)]);
  await expect(way.connect(`127.0.0.1:${port}`)).rejects.toMatchObject({ code: "EMFILE" });
  held[0]!.close();
  await held[0]!.closed;
  held.push(await way.connect(`127.0.0.1:${port}`));
  way.close();
  await Promise.all(held.map(({ closed }) => closed));
  await expect(way.connect(`127.0.0.1:${port}`)).rejects.toMatchObject({ code: "ECANCELED" });
});
