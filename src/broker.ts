/** Brokers: what an unmodified program opens, connects to and looks up is given to it by functions of this process. */
import { readFileSync } from "node:fs";
import type { Answer, Contained, Mount, SupervisedCall, Supervision } from "../platform/index.ts";
import { Descriptor } from "../syscalls/descriptor.ts";
import { type SyscallName, self } from "../syscalls/kernel.ts";
import { SOCK } from "../syscalls/linux/constants.ts";
import { createMemoryFile, fillForGood, open } from "../syscalls/linux/file.ts";
import { bindDatagrams, localAddress, type SocketAddress } from "../syscalls/linux/network.ts";
import { ERRNO, F, IPPROTO, O } from "../syscalls/linux/numbers.ts";
import { openProcess, takeDescriptor } from "../syscalls/linux/process.ts";
import { socketPair } from "../syscalls/linux/socket.ts";
import { type Connection, connection } from "./connection.ts";
import { text } from "./mounts.ts";
import { answerTo } from "./names.ts";

/** The name of an errno, such as `"EACCES"`. */
export type ErrnoName = keyof typeof ERRNO;

/** A file that a program wants to open. */
export interface OpenRequest {
  /**
   * Absolute, as the program sees it, and as it wrote it: with `..`, and by whatever links. `/proc/self` is the program's, by its number here. What
   * leads there by a link, as `/dev/stdin` and `/proc/mounts` do, is that of who opens it, and other numbers in /proc are those of its own namespace.
   */
  readonly path: string;
  /** Whether it is to be written to, or created. */
  readonly write: boolean;
  readonly create: boolean;
  /** The process that asks, by the host's number, and what it calls itself. */
  readonly pid: number;
  readonly program: string;
}

/** Whom a program wants to connect to. */
export interface ConnectRequest {
  /** `203.0.113.5:443`, `[::1]:80`, `unix:/run/x` */
  readonly address: string;
  /** The name that `lookup` was last asked for and answered with this address. */
  readonly name: string | undefined;
  /** The port, 0 of a unix socket. */
  readonly port: number;
  readonly pid: number;
  readonly program: string;
}

type Later<Value> = Value | Promise<Value>;
/** Serves one connection; where it throws or rejects, that is closed. */
type Serve = (connection: Connection) => unknown;

/**
 * What serves a program. Each function may take its time: only the thread that asked waits. What it reads was read once, so it decides about what it
 * saw. Where a function throws, the call fails with EPERM, and the first time a warning says why.
 */
export interface Broker {
  /**
   * A file's content, read-only; a descriptor of ours, closed when the program has its copy; or an errno. `undefined` leaves the file to the sandbox,
   * where what was asked for may be another path by then: to refuse here what the sandbox grants is no wall.
   */
  open?(request: OpenRequest): Later<string | Uint8Array | Descriptor | { readonly errno: ErrnoName } | undefined>;
  /**
   * A function that is handed our end of a connection; a connected socket of ours; or an errno. ECONNREFUSED where that is `undefined`. The program
   * gets a unix socket in the place of its own: one that does not connect by connect(2), or had options set before, finds those gone, and its peer
   * has no address.
   */
  connect?(request: ConnectRequest): Later<Serve | Descriptor | { readonly errno: ErrnoName } | undefined>;
  /** The addresses of a name: `["203.0.113.5"]`; they only mean something to `connect`. There is no such name where that is `undefined`. */
  lookup?(name: string): Later<readonly string[] | undefined>;
}

/** Not openat2(2): sandboxes have none, and who tries it takes openat(2) then. */
const OPENING: readonly SyscallName[] = ["open", "openat", "creat"];
const CONNECTING: readonly SyscallName[] = ["connect", "setsockopt"];
/** What a program finds as /etc/resolv.conf: glibc and musl ask there. */
const RESOLVER = "nameserver 127.0.0.1\noptions timeout:5 attempts:1\n";
const RESOLVER_AT = { family: "INET", address: "127.0.0.1", port: 53 } as const;
/** A program can look up any number. */
const MOST_NAMES = 4096;
/** Look-ups at once. */
const MOST_ASKING = 256;

/** A broker at work. */
export interface Brokerage {
  readonly supervision: Pick<Supervision, "asked" | "answer" | "sockets">;
  /** What the program finds. */
  readonly files: readonly Mount[];
  /** Listens inside for what the program looks up. */
  readonly prepare: ((container: Contained) => Promise<Record<string, string>>) | undefined;
}

/** Puts a broker to work for one program. */
export function brokerage(broker: Broker, ends: DisposableStack): Brokerage {
  const names = new Map<string, string>();
  const connects = broker.connect !== undefined || broker.lookup !== undefined;
  return {
    supervision: {
      asked: [...(broker.open === undefined ? [] : OPENING), ...(connects ? CONNECTING : [])],
      answer(call) {
        if (call.call === "setsockopt") return optionSet(call);
        return call.call === "connect" ? connected(broker, call, names) : opened(broker, call);
      },
      sockets: connects,
    },
    files: broker.lookup === undefined ? [] : [text("/etc/resolv.conf", RESOLVER)],
    prepare:
      broker.lookup &&
      (async (container) => {
        let asking = 0;
        const socket = await Bun.udpSocket({
          // The types of Bun do not know that a descriptor will do.
          ...({ fd: resolverIn(container) } as object),
          socket: {
            async data(own, query, port, address) {
              // A datagram can be lost. Who waits for its answer asks again.
              if (asking === MOST_ASKING) return;
              asking++;
              const answer = await answerTo(query, (name) => find(broker, name, names));
              asking--;
              if (answer !== undefined && !own.closed) own.send(answer, port, address);
            },
          },
        });
        ends.defer(() => socket.close());
        return {};
      }),
  };
}

/** A socket at which the program's resolver asks, in the program's own network. */
function resolverIn(container: Contained): number {
  const socket = bindDatagrams(container.kernel, RESOLVER_AT);
  try {
    return container.take(socket);
  } finally {
    container.kernel.call("close", socket);
  }
}

async function find(broker: Broker, name: string, names: Map<string, string>): Promise<readonly string[] | undefined> {
  const addresses = await broker.lookup!(name);
  for (const address of addresses ?? []) {
    if (names.size === MOST_NAMES) names.clear();
    names.set(printed(address), name);
  }
  return addresses;
}

/** As the kernel's addresses are printed. */
const printed = (address: string) =>
  address.includes(":") ? new URL(`http://[${address}]`).hostname.slice(1, -1) : address;

async function opened(broker: Broker, call: SupervisedCall): Promise<Answer> {
  const flags = call.flags ?? 0;
  const write = (flags & O.ACCMODE) !== O.RDONLY || (flags & O.TRUNC) !== 0;
  const { pid, program } = call;
  const path = call.paths[0]!;
  if (path === "") return "pass"; // it names nothing that could be opened
  const given = await broker.open!({ path, write, create: (flags & O.CREAT) !== 0, pid, program });
  if (given === undefined) return "pass";
  const closing = flags & O.CLOEXEC;
  if (given instanceof Descriptor) return { descriptor: given, flags: closing };
  if (typeof given !== "string" && !(given instanceof Uint8Array)) return { errno: ERRNO[given.errno] };
  if (write) return { errno: ERRNO.EROFS };
  return { descriptor: contentOf(given), flags: closing };
}

/** A file in memory that nobody can change. */
function contentOf(content: string | Uint8Array): Descriptor {
  using file = new Descriptor(createMemoryFile(self, "caisson-broker"));
  fillForGood(self, file.number, typeof content === "string" ? new TextEncoder().encode(content) : content);
  return new Descriptor(open(self, `/proc/self/fd/${file.number}`, O.RDONLY | O.CLOEXEC));
}

async function connected(broker: Broker, call: SupervisedCall, names: ReadonlyMap<string, string>): Promise<Answer> {
  const { address, pid, tid, program, args } = call;
  if (address === undefined) return { errno: ERRNO.EAFNOSUPPORT };
  const number = Number(BigInt.asIntN(32, args[0]!));
  const at = parsed(address);
  // Datagrams stay in its own network, where its resolver is and nothing else. Connected in its place, for it could say another address by then.
  if (call.datagrams === true) return at === undefined ? { errno: ERRNO.EAFNOSUPPORT } : { connect: at };
  const name = at && names.get(at.address);
  const port = at?.port ?? 0;
  const given = await broker.connect?.({ address, name, port, pid, program });
  if (given === undefined) return { errno: ERRNO.ECONNREFUSED };
  if (typeof given === "object" && "errno" in given) return { errno: ERRNO[given.errno] };
  const its = flagsOf(tid, number);
  if (its === undefined) {
    if (typeof given === "object") given.close();
    return { errno: ERRNO.EBADF };
  }
  const socket = typeof given === "function" ? await coupled(given) : given;
  if ((its & O.NONBLOCK) !== 0) self.call("fcntl", socket.number, F.SETFL, O.NONBLOCK | O.RDWR);
  return { descriptor: socket, at: number, flags: its & O.CLOEXEC };
}

/** Options of TCP, which most programs set once they are connected: their socket is a unix one by then, which has none, and does as well without. */
function optionSet({ pid, args }: SupervisedCall): Answer {
  const [number, level] = args.map((arg) => Number(BigInt.asIntN(32, arg)));
  if (level !== IPPROTO.TCP && level !== IPPROTO.IP && level !== IPPROTO.IPV6) return "pass";
  return isUnix(pid, number!) ? { value: 0 } : "pass";
}

function isUnix(pid: number, number: number): boolean {
  try {
    using target = new Descriptor(openProcess(self, pid));
    using socket = new Descriptor(takeDescriptor(self, target.number, number));
    return localAddress(self, socket.number).family === "UNIX";
  } catch {
    return false; // the kernel has a word for it
  }
}

async function coupled(take: Serve): Promise<Descriptor> {
  const [ours, theirs] = socketPair(self, SOCK.STREAM);
  const socket = new Descriptor(theirs);
  const end = await connection(ours);
  // Who serves waits for the program, which waits for its answer.
  void Promise.try(() => take(end)).catch(() => end.close());
  return socket;
}

/** `203.0.113.5:443` and `[::1]:80`. */
function parsed(address: string): Extract<SocketAddress, { port: number }> | undefined {
  const [, host, port] = /^\[?([\da-f.:]+?)\]?:(\d+)$/.exec(address) ?? [];
  if (host === undefined) return undefined;
  return { family: host.includes(":") ? "INET6" : "INET", address: host, port: Number(port) };
}

/** The flags of a descriptor of another process. */
function flagsOf(tid: number, number: number): number | undefined {
  try {
    return Number.parseInt(/^flags:\t(\d+)$/m.exec(readFileSync(`/proc/${tid}/fdinfo/${number}`, "utf8"))![1]!, 8);
  } catch {
    return undefined; // it has none
  }
}
