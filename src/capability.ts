/** Values that carry authority: open files, and the network. */
import { Descriptor } from "../syscalls/descriptor.ts";
import { self } from "../syscalls/kernel.ts";
import { fileStatus, open, statusFlags } from "../syscalls/linux/file.ts";
import { O } from "../syscalls/linux/numbers.ts";
import type { Connection } from "./connection.ts";
import type { Denials } from "./denials.ts";
import { ProtocolViolation } from "./error.ts";

/** What may be done with a file. */
export const MODES = ["read", "write", "append"] as const;
export type Mode = (typeof MODES)[number];

/** A file that travels in a message as an open descriptor: whoever gets it may do with it what its mode says, and nothing else. */
export interface FileCapability {
  readonly mode: Mode;
  /** The size in bytes at this moment. */
  readonly size: number;
  /** The contents from the beginning. Mode `read`. */
  bytes(): Promise<Uint8Array<ArrayBuffer>>;
  /** The contents as UTF-8. Mode `read`. */
  text(): Promise<string>;
  /** The contents in pieces of 64 KiB at most. Mode `read`. */
  stream(): ReadableStream<Uint8Array<ArrayBuffer>>;
  /** Writes all of it behind what was written before; with `append`, at the end of the file. */
  write(data: string | Uint8Array): Promise<void>;
  /** Closes the descriptor at this end. */
  close(): void;
  [Symbol.dispose](): void;
}

/** The network, as far as its rules go: whoever gets it may reach what they name. What is reached, the host reaches. */
export interface NetworkCapability {
  /** A connection to `"host:port"`. Rejects with an error named `EgressDenied` where no rule allows it, `Unreachable` where it fails. */
  connect(target: string): Promise<Connection>;
  /**
   * As the global `fetch`; the host makes the request, TLS included. Redirections are not followed, and bodies come as they were sent,
   * compressed ones too: none is asked for.
   */
  fetch(url: string | URL, init?: RequestInit): Promise<Response>;
  /** Reaches nothing more from here on; connections stay. */
  close(): void;
  [Symbol.dispose](): void;
}

/** How the lane marks the descriptor of a network; those of files are marked with their mode. */
export const NETWORK = MODES.length;

/** What is made a descriptor when it is sent, each time anew. */
export abstract class Source {
  /** How the lane marks the descriptor. */
  abstract readonly tag: number;
  /** @param to where to tell what is refused to who gets it */
  abstract open(to?: Denials): Descriptor;
}

/** A file of the host that was named. It is opened when it is sent, each time anew; here it can be read like `Bun.file`. */
class NamedFile extends Source implements FileCapability {
  readonly path: string;
  readonly mode: Mode;

  constructor(path: string, mode: Mode) {
    super();
    this.path = path;
    this.mode = mode;
  }

  get tag(): number {
    return MODES.indexOf(this.mode);
  }

  /** Opens it. Throws SystemError, or TypeError for what is not a regular file. */
  override open(): Descriptor {
    const flags = { read: O.RDONLY, write: O.WRONLY | O.CREAT | O.TRUNC, append: O.WRONLY | O.CREAT | O.APPEND }[
      this.mode
    ];
    // Not to wait for whoever should be at the other end of a FIFO; O_NONBLOCK means nothing to regular files.
    const descriptor = new Descriptor(open(self, this.path, flags | O.NOCTTY | O.NONBLOCK | O.CLOEXEC, 0o644));
    if (fileStatus(self, descriptor.number).regular) return descriptor;
    descriptor.close();
    throw new TypeError(`Cannot send ${this.path}: it is no regular file`);
  }

  get size(): number {
    return Bun.file(this.path).size;
  }

  bytes(): Promise<Uint8Array<ArrayBuffer>> {
    return Bun.file(this.path).bytes();
  }

  text(): Promise<string> {
    return Bun.file(this.path).text();
  }

  stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return Bun.file(this.path).stream();
  }

  write(): Promise<never> {
    return Promise.reject(
      new TypeError(`Cannot write to ${this.path}: it was named in order to be sent; Bun.write writes here`),
    );
  }

  close(): void {}

  [Symbol.dispose](): void {}
}

/**
 * A file to hand to an actor: read-only, to be written anew, or to be appended to. The actor sees its contents and no path.
 *
 * @example await actor.call.parse(file("upload.pdf"))
 */
export function file(path: string | { readonly name?: string | undefined }, mode: Mode = "read"): FileCapability {
  const name = typeof path === "string" ? path : path.name;
  if (name === undefined || name === "") throw new TypeError("Cannot send a file without a path");
  if (!MODES.includes(mode))
    throw new TypeError(`Cannot open a file for ${JSON.stringify(mode)}: "read", "write" or "append" is expected`);
  return new NamedFile(name, mode);
}

const PIECE = 64 * 1024;

/** A file that arrived. */
export class OpenFile implements FileCapability {
  readonly mode: Mode;
  readonly #descriptor: Descriptor;

  constructor(descriptor: Descriptor, mode: Mode) {
    this.#descriptor = descriptor;
    this.mode = mode;
  }

  get tag(): number {
    return MODES.indexOf(this.mode);
  }

  get descriptor(): number {
    return this.#descriptor.number;
  }

  get size(): number {
    return fileStatus(self, this.descriptor).size;
  }

  async bytes(): Promise<Uint8Array<ArrayBuffer>> {
    const { size } = this;
    const bytes = new Uint8Array(size);
    let length = 0;
    while (length < size) {
      const count = self.call("pread64", this.descriptor, bytes.subarray(length), size - length, length);
      if (count === 0) break; // it became shorter meanwhile
      length += count;
    }
    return length === size ? bytes : bytes.slice(0, length);
  }

  async text(): Promise<string> {
    return new TextDecoder().decode(await this.bytes());
  }

  stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    let offset = 0;
    return new ReadableStream({
      pull: (controller) => {
        const piece = new Uint8Array(PIECE);
        const count = self.call("pread64", this.descriptor, piece, PIECE, offset);
        offset += count;
        if (count === 0) controller.close();
        else controller.enqueue(piece.slice(0, count));
      },
    });
  }

  async write(data: string | Uint8Array): Promise<void> {
    const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
    for (let at = 0; at < bytes.length; ) {
      at += self.call("write", this.descriptor, bytes.subarray(at), bytes.length - at);
    }
  }

  close(): void {
    this.#descriptor.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Takes a descriptor in, if it is what the sender says; closes it and throws ProtocolViolation if not. */
export function receiveFile(number: number, tag: number): OpenFile {
  const descriptor = new Descriptor(number);
  const mode = MODES[tag];
  try {
    if (mode === undefined) throw new ProtocolViolation(`Cannot accept a descriptor tagged ${tag}`);
    const access = { read: O.RDONLY, write: O.WRONLY, append: O.WRONLY | O.APPEND }[mode];
    if (!fileStatus(self, number).regular)
      throw new ProtocolViolation("Cannot accept a descriptor that is no regular file");
    if ((statusFlags(self, number) & (O.ACCMODE | O.APPEND | O.PATH)) !== access) {
      throw new ProtocolViolation(`Cannot accept a descriptor that is not open for ${mode} alone`);
    }
    return new OpenFile(descriptor, mode);
  } catch (error) {
    descriptor.close();
    throw error;
  }
}
