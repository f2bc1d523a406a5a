import { cc, type Pointer, toArrayBuffer } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { abilities } from "../../platform/linux/abilities.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { close } from "../../syscalls/linux/file.ts";
import {
  accept,
  bindTo,
  connectTo,
  decodeAddress,
  encodeAddress,
  formatIp,
  isListening,
  isStream,
  listenOn,
  localAddress,
  openSocket,
  parseIp,
  peerAddress,
  raiseLoopback,
  type SocketAddress,
  takeError,
} from "../../syscalls/linux/network.ts";
import { CLONE, ERRNO } from "../../syscalls/linux/numbers.ts";
import { hold } from "../platform/strings.ts";
import { Recorder } from "./recorder.ts";
import { testIf } from "./requirement.ts";

const testNetwork = testIf(
  "namespaces",
  (abilities().namespaces & CLONE.NEWNET) !== 0n,
  "no network namespace can be made here",
);
const testC = testIf(
  "cc",
  existsSync("/usr/include/net/if.h"),
  "there are no headers of the kernel and of libc (Debian: libc6-dev)",
);
/** A puppet in a network of its own, in which nothing is up. */
const inside = () => hold(CLONE.NEWNET | (abilities().namespaces & CLONE.NEWUSER));
const LOOPBACK = { family: "INET", address: "127.0.0.1", port: 0 } as const;
const LOOPBACK6 = { family: "INET6", address: "::1", port: 0 } as const;
const POLLOUT = 4;

describe("parseIp() and formatIp()", () => {
  for (const [text, canonical] of Object.entries({
    "0.0.0.0": "0.0.0.0",
    "127.0.0.1": "127.0.0.1",
    "255.255.255.255": "255.255.255.255",
    "::": "::",
    "::1": "::1",
    "1::": "1::",
    "2001:DB8:0:0:0:0:0:1": "2001:db8::1",
    "2001:db8:0:1:1:1:1:1": "2001:db8:0:1:1:1:1:1",
    "2001:0:0:1:0:0:0:1": "2001:0:0:1::1",
    "2001:db8::1:0:0:1": "2001:db8::1:0:0:1",
    "::ffff:127.0.0.1": "::ffff:7f00:1",
    "64:ff9b::192.0.2.33": "64:ff9b::c000:221",
    "1:2:3:4:5:6:7::": "1:2:3:4:5:6:7:0",
    "::2:3:4:5:6:7:8": "0:2:3:4:5:6:7:8",
    "fe80::0001": "fe80::1",
  })) {
    test(`${text} is ${canonical}`, () => {
      expect(formatIp(parseIp(text)!)).toBe(canonical);
      expect(formatIp(parseIp(canonical)!)).toBe(canonical);
    });
  }

  test.each([
    "", ".", "1", "1.2.3", "1.2.3.4.5", "256.0.0.1", "01.2.3.4", "0x7f.0.0.1", "1.2.3.4 ", " 1.2.3.4", "1.2.3.-4", "1.2.3.+4", "1e0.0.0.1",
    ":", ":::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", "::1:2:3:4:5:6:7:8", "12345::", "g::", "::1%lo", "[::1]",
    "1.2.3.4::", "::1.2.3.4:5", "::1.2.3", "::ffff:256.0.0.1", ":1", "1:", "::1 ",
  ])("%p is no address", (text) => expect(parseIp(text)).toBeUndefined()); // biome-ignore format: a table
});

describe("encodeAddress() and decodeAddress()", () => {
  const hex = (address: SocketAddress) => Buffer.from(encodeAddress(address)).toString("hex");
  const table: readonly [SocketAddress, string][] = [
    [{ family: "INET", address: "1.2.3.4", port: 0x1f90 }, "02001f90010203040000000000000000"],
    [
      { family: "INET6", address: "2001:db8::1", port: 443 },
      "0a0001bb0000000020010db800000000000000000000000100000000",
    ],
    [{ family: "INET6", address: "fe80::1", port: 1, scope: 3 }, "0a00000100000000fe80000000000000000000000000000103000000"],
    [{ family: "UNIX", path: "/a" }, "01002f6100"],
    [{ family: "UNIX", path: "\0a" }, "01000061"],
    [{ family: "UNIX", path: "" }, "0100"],
  ]; // biome-ignore format: a table
  for (const [address, bytes] of table) {
    test(`${JSON.stringify(address)} is ${bytes}`, () => {
      expect(hex(address)).toBe(bytes);
      expect(decodeAddress(Buffer.from(bytes, "hex"))).toEqual(address);
    });
  }

  test("refuse what is no address, or none of that family", () => {
    expect(() => hex({ ...LOOPBACK, port: 65536 })).toThrow("Cannot use port 65536");
    expect(() => hex({ ...LOOPBACK, port: 1.5 })).toThrow(RangeError);
    expect(() => hex({ ...LOOPBACK, address: "::1" })).toThrow('Cannot use "::1" as an address of AF_INET');
    expect(() => hex({ ...LOOPBACK6, address: "127.0.0.1" })).toThrow("AF_INET6");
    expect(() => hex({ ...LOOPBACK, address: "localhost" })).toThrow(TypeError);
    expect(() => hex({ family: "UNIX", path: "/a\0b" })).toThrow("it holds a NUL");
    expect(() => hex({ family: "UNIX", path: `/${"a".repeat(107)}` })).toThrow("107 at most");
    expect(hex({ family: "UNIX", path: `/${"a".repeat(106)}` }).length).toBe(2 * 110);
    expect(() => decodeAddress(new Uint8Array(2))).toThrow("family 0");
  });
});

describe("what is written is what C writes", () => {
  const SOURCE = `
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/un.h>
    #include <netinet/in.h>
    #include <arpa/inet.h>
    #include <net/if.h>
    #include <sys/ioctl.h>
    static char bytes[256];
    static void *in(void) {
      struct sockaddr_in x; memset(&x, 0, sizeof x); x.sin_family = AF_INET; x.sin_port = htons(8080);
      inet_pton(AF_INET, "1.2.3.4", &x.sin_addr); return memcpy(bytes, &x, sizeof x);
    }
    static void *in6(void) {
      struct sockaddr_in6 x; memset(&x, 0, sizeof x); x.sin6_family = AF_INET6; x.sin6_port = htons(8080); x.sin6_scope_id = 3;
      inet_pton(AF_INET6, "fe80::1:2", &x.sin6_addr); return memcpy(bytes, &x, sizeof x);
    }
    static void *un(void) {
      struct sockaddr_un x; memset(&x, 0, sizeof x); x.sun_family = AF_UNIX; strcpy(x.sun_path, "/a/b"); return memcpy(bytes, &x, sizeof x);
    }
    static void *ifreq(void) {
      struct ifreq x; memset(&x, 0, sizeof x); strcpy(x.ifr_name, "lo"); x.ifr_flags = IFF_UP; return memcpy(bytes, &x, sizeof x);
    }
    void *fill(int which) { return which == 0 ? in() : which == 1 ? in6() : which == 2 ? un() : ifreq(); }
    int number(int which) {
      int all[] = { sizeof(struct sockaddr_in), sizeof(struct sockaddr_in6), sizeof(struct sockaddr_un), sizeof(struct ifreq),
        sizeof(struct sockaddr_storage), SIOCSIFFLAGS }; return all[which];
    }`;
  type Bytes = Buffer<ArrayBuffer>;
  /** What C says: four structs, the size of the largest address, and a number. */
  function compile() {
    const directory = mkdtempSync(join(tmpdir(), "caisson-network-"));
    try {
      const source = join(directory, "network.c");
      writeFileSync(source, SOURCE);
      const { symbols } = cc({
        source,
        symbols: { fill: { args: ["int"], returns: "ptr" }, number: { args: ["int"], returns: "i32" } },
      });
      const structs = [0, 1, 2, 3].map((which) => {
        const size = Number(symbols.number(which));
        return Buffer.from(new Uint8Array(toArrayBuffer(symbols.fill(which) as Pointer, 0, size)).slice());
      });
      return { structs, storage: Number(symbols.number(4)), setFlags: Number(symbols.number(5)) };
    } finally {
      rmSync(directory, { recursive: true });
    }
  }

  testC("sockaddr_in, sockaddr_in6, sockaddr_un, ifreq, SIOCSIFFLAGS", () => {
    const { structs, storage, setFlags } = compile();
    const [inet, inet6, unix, request] = structs as [Bytes, Bytes, Bytes, Bytes];
    expect(Buffer.from(encodeAddress({ family: "INET", address: "1.2.3.4", port: 8080 }))).toEqual(inet);
    expect(Buffer.from(encodeAddress({ family: "INET6", address: "fe80::1:2", port: 8080, scope: 3 }))).toEqual(inet6);
    const path = Buffer.from(encodeAddress({ family: "UNIX", path: "/a/b" }));
    expect(path).toEqual(unix.subarray(0, path.length));
    expect(unix.length).toBe(encodeAddress({ family: "UNIX", path: `/${"a".repeat(106)}` }).length);
    const recorder = new Recorder();
    raiseLoopback(recorder);
    const [, , call, memory] = recorder.calls[1]!;
    expect([call, Buffer.from(memory as Uint8Array)]).toEqual([setFlags, request]);
    localAddress(
      {
        call(_, __, bytes, length) {
          expect((bytes as Uint8Array).length).toBe(storage);
          (bytes as Uint8Array).set(inet6);
          (length as Uint8Array)[0] = inet6.length;
          return 0;
        },
      },
      3,
    );
  });
});

describe("sockets", () => {
  for (const address of [LOOPBACK, LOOPBACK6, { family: "UNIX", path: `\0caisson-${randomUUID()}` } as const]) {
    testNetwork(`of ${address.family} listen, connect and are accepted in a network of their own`, () => {
      using puppet = inside();
      const { kernel } = puppet;
      raiseLoopback(kernel);
      const listener = listenOn(kernel, address, { flags: SOCK.NONBLOCK });
      expect([isListening(kernel, listener), isStream(kernel, listener)]).toEqual([true, true]);
      expect(accept(kernel, listener)).toBeUndefined();
      const at = localAddress(kernel, listener);
      expect<object>(at).toEqual(at.family === "UNIX" ? address : { ...address, port: at.port });
      const client = openSocket(kernel, address.family);
      expect(connectTo(kernel, client, at)).toBe(true);
      const accepted = accept(kernel, listener)!;
      expect(peerAddress(kernel, client)).toEqual(at);
      expect(peerAddress(kernel, accepted)).toEqual(localAddress(kernel, client));
      kernel.call("write", client, Buffer.from("hello"), 5);
      const bytes = new Uint8Array(8);
      expect(kernel.call("read", accepted, bytes, 8)).toBe(5);
      expect(Buffer.from(bytes.subarray(0, 5)).toString()).toBe("hello");
    });
  }

  testNetwork("connectTo() throws ENETUNREACH until raiseLoopback(), then ECONNREFUSED where nothing listens", () => {
    const refusal = (raised: boolean) => {
      using puppet = inside();
      if (raised) raiseLoopback(puppet.kernel);
      const socket = openSocket(puppet.kernel, "INET");
      connectTo(puppet.kernel, socket, { ...LOOPBACK, port: 1 });
    };
    expect(() => refusal(false)).toThrow("ENETUNREACH: connect");
    expect(() => refusal(true)).toThrow("ECONNREFUSED: connect");
  });

  testNetwork("connectTo() is under way on a socket that does not block, and takeError() tells how it went", () => {
    using puppet = inside();
    raiseLoopback(puppet.kernel);
    const socket = openSocket(puppet.kernel, "INET", SOCK.NONBLOCK);
    expect(connectTo(puppet.kernel, socket, { ...LOOPBACK, port: 1 })).toBe(false);
    const poll = new Uint8Array(8);
    new DataView(poll.buffer).setInt32(0, socket, true);
    poll[4] = POLLOUT;
    puppet.kernel.call("poll", poll, 1, -1); // the answer of the other end comes when the kernel comes to it
    expect([takeError(puppet.kernel, socket), takeError(puppet.kernel, socket)]).toEqual([ERRNO.ECONNREFUSED, 0]);
  });

  testNetwork("what is bound in one network is not taken in another", () => {
    using one = inside();
    using other = inside();
    const taken = { family: "INET", address: "0.0.0.0", port: 4242 } as const;
    listenOn(one.kernel, taken);
    listenOn(other.kernel, taken);
    // One failing call ends a batch, not the puppet.
    expect(() => listenOn(one.kernel, taken)).toThrow("EADDRINUSE: bind");
  });

  test("are close-on-exec, and bindTo() throws EINVAL for one that is bound", () => {
    using socket = new Descriptor(listenOn(self, LOOPBACK));
    expect(self.call("fcntl", socket.number, 1, 0)).toBe(1);
    expect(() => bindTo(self, socket.number, LOOPBACK)).toThrow("EINVAL: bind");
  });

  test("isListening() throws ENOTSOCK for what is no socket; accept() EINVAL for what does not listen", () => {
    using socket = new Descriptor(openSocket(self, "INET"));
    expect(isListening(self, socket.number)).toBe(false);
    expect(() => accept(self, socket.number)).toThrow("EINVAL: accept4");
    const file = self.call("memfd_create", "caisson-test", 0);
    expect(() => isListening(self, file)).toThrow("ENOTSOCK: getsockopt");
    close(self, file);
  });

  test("raiseLoopback() and listenOn() need no result before the next call, so a batch can hold them", () => {
    const recorder = new Recorder();
    raiseLoopback(recorder);
    listenOn(recorder, LOOPBACK);
    expect(recorder.calls.map(([name]) => name)).toEqual([
      "socket", "ioctl", "close", "socket", "setsockopt", "bind", "listen",
    ]); // biome-ignore format: a table
  });
});
