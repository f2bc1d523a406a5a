/** HTTP/1.1 heads and bodies, read strictly: what two readers could take for two different things is refused (RFC 9112). */

/** A request that is not served; `status` is the answer. */
export class BadRequest extends Error {
  override readonly name = "BadRequest";
  readonly status: 400 | 413 | 417 | 431 | 501 | 502 | 505;

  constructor(status: BadRequest["status"], message: string) {
    super(message);
    this.status = status;
  }
}

export type Field = readonly [name: string, value: string];
/** How long a body is: so many bytes, or until its chunks say that it ends. */
export type Framing = number | "chunked";

export interface RequestHead {
  readonly method: string;
  readonly target: string;
  readonly fields: readonly Field[];
}

export const HEAD_END = Buffer.from("\r\n\r\n");

/** What means something to the next hop alone (RFC 9110, 7.6.1), and what only a proxy is told. */
const HOP_BY_HOP = new Set([
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "upgrade",
]);
/** What a Connection field may not take away, for the message would mean something else without it. */
const NEEDED = new Set(["host", "content-length", "transfer-encoding"]);

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** Text and bytes above ASCII; tabs; no other control character: a bare line feed would end the line for some servers, and not for others. */
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;

/** Reads a request's head, of which the bytes end with an empty line. */
export function parseRequest(bytes: Uint8Array): RequestHead {
  const [line = "", ...lines] = linesOf(bytes);
  const parts = /^(\S+) ([\x21-\x7e]+) (HTTP\/\d\.\d)$/.exec(line);
  if (parts === null || !TOKEN.test(parts[1]!)) throw new BadRequest(400, "The request line is malformed");
  if (parts[3] !== "HTTP/1.1") throw new BadRequest(505, "Only HTTP/1.1 is spoken here");
  return { method: parts[1]!, target: parts[2]!, fields: fieldsOf(lines) };
}

/** Reads a response's head. */
export function parseResponse(bytes: Uint8Array): { readonly status: number; readonly line: string; fields: Field[] } {
  const [line = "", ...lines] = linesOf(bytes);
  const status = /^HTTP\/1\.[01] ([1-5]\d\d)( [\t\x20-\x7e\x80-\xff]*)?$/.exec(line)?.[1];
  if (status === undefined) throw new BadRequest(502, "The server's status line is malformed");
  return { status: Number(status), line, fields: fieldsOf(lines) };
}

function linesOf(bytes: Uint8Array): string[] {
  const text = Buffer.from(bytes).toString("latin1").slice(0, -HEAD_END.length);
  return text.split("\r\n");
}

function fieldsOf(lines: readonly string[]): Field[] {
  return lines.map((line) => {
    const colon = line.indexOf(":");
    const name = line.slice(0, Math.max(colon, 0)).toLowerCase();
    const value = trimmed(line.slice(colon + 1));
    // A folded line begins with a space, which no name has.
    if (!TOKEN.test(name) || !VALUE.test(value)) throw new BadRequest(400, "A header field is malformed");
    return [name, value];
  });
}

/** Without the blanks around it; by hand, for a pattern takes quadratic time over a line of blanks. */
function trimmed(text: string): string {
  const blank = (at: number) => text[at] === " " || text[at] === "\t";
  let [start, end] = [0, text.length];
  while (start < end && blank(start)) start++;
  while (end > start && blank(end - 1)) end--;
  return text.slice(start, end);
}

/** The only value of a field, or undefined where there is none. Two of them are refused. */
export function only(fields: readonly Field[], name: string): string | undefined {
  const values = fields.filter((field) => field[0] === name);
  if (values.length > 1) throw new BadRequest(400, `There is more than one field ${name}`);
  return values[0]?.[1];
}

/** How a request's body is framed. */
export function framingOf(fields: readonly Field[]): Framing {
  const length = only(fields, "content-length");
  const coding = only(fields, "transfer-encoding");
  if (length !== undefined && coding !== undefined)
    throw new BadRequest(400, "The body has a length and chunks at once");
  if (coding !== undefined) {
    if (coding.toLowerCase() !== "chunked") throw new BadRequest(501, "No transfer coding but chunked is known here");
    return "chunked";
  }
  if (length !== undefined && !/^\d{1,15}$/.test(length)) throw new BadRequest(400, "The content-length is no number");
  return Number(length ?? 0);
}

/** The fields that go on to the next hop. */
export function forwarded(fields: readonly Field[]): Field[] {
  const named = fields
    .filter(([name]) => name === "connection")
    .flatMap(([, value]) => value.split(",").map((option) => option.trim().toLowerCase()));
  if (named.some((option) => NEEDED.has(option))) throw new BadRequest(400, "Connection names what the message needs");
  return fields.filter(([name]) => !HOP_BY_HOP.has(name) && !named.includes(name));
}

export function writeHead(line: string, fields: readonly Field[]): Uint8Array {
  return Buffer.from(`${[line, ...fields.map(([name, value]) => `${name}: ${value}`)].join("\r\n")}\r\n\r\n`, "latin1");
}

/** Follows a body, so that nothing behind it is taken for a part of it. */
export class Body {
  /** Bytes that come before the next piece of framing. */
  #left: number;
  readonly #chunked: boolean;
  #state: "data" | "size" | "after" | "last" | "done";
  #line = "";

  constructor(framing: Framing) {
    this.#chunked = framing === "chunked";
    this.#left = framing === "chunked" ? 0 : framing;
    this.#state = framing === "chunked" ? "size" : framing === 0 ? "done" : "data";
  }

  get done(): boolean {
    return this.#state === "done";
  }

  /** How many of the bytes belong to the body. Throws BadRequest where a chunk is not exactly as it should be. */
  take(bytes: Uint8Array): number {
    let at = 0;
    while (at < bytes.length && this.#state !== "done") {
      if (this.#state === "data") {
        const step = Math.min(this.#left, bytes.length - at);
        at += step;
        this.#left -= step;
        if (this.#left === 0) this.#state = this.#chunked ? "after" : "done";
      } else {
        this.#line += String.fromCharCode(bytes[at++]!);
        this.#framing();
      }
    }
    return at;
  }

  /** Looks at a line of framing that has grown by a character. Extensions and trailers are refused: nobody uses them, save for smuggling. */
  #framing(): void {
    const line = this.#line;
    const pattern = this.#state === "size" ? /^[0-9a-f]{1,8}(\r\n?)?$/i : /^\r\n?$/;
    if (!pattern.test(line)) throw new BadRequest(400, "A chunk of the body is malformed");
    if (!line.endsWith("\n")) return;
    this.#line = "";
    if (this.#state === "size") {
      this.#left = Number.parseInt(line, 16);
      this.#state = this.#left === 0 ? "last" : "data";
    } else {
      this.#state = this.#state === "last" ? "done" : "size";
    }
  }
}
