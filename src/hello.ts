/** The name that a TLS client asks for: the first message of a connection, read far enough to compare it (RFC 8446, 4.1.2). */

const HANDSHAKE = 22;
const CLIENT_HELLO = 1;
const SERVER_NAME = 0;
const HOST_NAME = 0;
/** No client's first message is longer. */
const LONGEST = 64 * 1024;

/** Nor is it cut into more records: each makes what came be read again. */
const MOST_RECORDS = 16;

/** What the first bytes of a connection say: nothing of TLS, or TLS, perhaps with a name. */
export type Hello = { readonly tls: false } | { readonly tls: true; readonly name: string | undefined };

/** Reads the beginning of what a client sends, or says how many bytes that takes at least. Throws TypeError for TLS that is malformed. */
export function readHello(bytes: Uint8Array): Hello | number {
  if ([HANDSHAKE, 3].some((byte, index) => index < bytes.length && bytes[index] !== byte)) return { tls: false };
  const message: number[] = [];
  const reader = new Reader(bytes);
  for (let record = 0; record < MOST_RECORDS; record++) {
    if (reader.left < 5) return reader.at + 5;
    if (reader.byte() !== HANDSHAKE || reader.byte() !== 3) throw malformed();
    reader.byte();
    const length = reader.word();
    if (length === 0 || length > 0x4000) throw malformed();
    if (reader.left < length) return reader.at + length;
    message.push(...reader.some(length));
    if (message[0] !== CLIENT_HELLO) return { tls: false };
    if (message.length < 4) continue;
    const needed = 4 + ((message[1]! << 16) | (message[2]! << 8) | message[3]!);
    if (needed > LONGEST) throw malformed();
    if (message.length >= needed) {
      return { tls: true, name: nameIn(new Reader(Uint8Array.from(message.slice(4, needed)))) };
    }
  }
  throw malformed();
}

function nameIn(hello: Reader): string | undefined {
  hello.some(2 + 32); // version, random
  hello.some(hello.byte()); // session
  hello.some(hello.word()); // ciphers
  hello.some(hello.byte()); // compression
  if (hello.left === 0) return undefined;
  const extensions = new Reader(hello.some(hello.word()));
  let name: string | undefined;
  while (extensions.left > 0) {
    const type = extensions.word();
    const extension = new Reader(extensions.some(extensions.word()));
    if (type !== SERVER_NAME) continue;
    const names = new Reader(extension.some(extension.word()));
    // One name, and one list of them: who sends two wants them read differently by two readers.
    if (name !== undefined || names.byte() !== HOST_NAME) throw malformed();
    name = new TextDecoder("latin1").decode(names.some(names.word()));
    if (names.left > 0 || extension.left > 0) throw malformed();
  }
  return name;
}

class Reader {
  readonly #bytes: Uint8Array;
  at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.#bytes.length - this.at;
  }

  some(count: number): Uint8Array {
    if (count > this.left) throw malformed();
    this.at += count;
    return this.#bytes.subarray(this.at - count, this.at);
  }

  byte(): number {
    return this.some(1)[0]!;
  }

  word(): number {
    return (this.byte() << 8) | this.byte();
  }
}

function malformed(): TypeError {
  return new TypeError("Cannot read the client's first TLS message: it is malformed");
}
