/** Trees out of hostile CBOR, validated and then decoded, as values: plain data and the built-in kinds that docs/values.md names. */
import { Tag } from "cbor-x/index-no-eval";
import { ProtocolViolation } from "./error.ts";
import { BIGINT_DIGITS, ERROR_FIELDS, PATTERN_UNITS, TAGS, VIEWS } from "./grammar.ts";
import type { Unpacker } from "./message.ts";

const VIEW_CLASSES = new Map<number, new (buffer: ArrayBuffer) => object>(
  VIEWS.map(({ number, view }) => [number, view] as const),
);

/** The only classes that a peer's error can be an instance of, beside `Error` itself. */
const ERROR_CLASSES = new Map<string, new (message: string) => Error>(
  [EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError].map(
    (error) => [error.name, error] as const,
  ),
);

type Fields = { [Name in (typeof ERROR_FIELDS)[number]]?: string | number };

/** Throws ProtocolViolation for a tree that is no value. What the unpacker throws passes as it is. */
export function unpack(tree: unknown, unpacker: Unpacker | undefined): unknown {
  return new Unpacking(unpacker).value(tree);
}

class Unpacking {
  readonly #unpacker: Unpacker | undefined;
  /** Every object in the order in which the sender numbered it, entered before what is inside it: so cycles close. */
  readonly #objects: object[] = [];
  #patternUnits = 0;

  constructor(unpacker: Unpacker | undefined) {
    this.#unpacker = unpacker;
  }

  value(node: unknown): unknown {
    if (typeof node !== "object" || node === null) return node;
    if (node instanceof Tag) return this.#tagged(node);
    if (node instanceof Uint8Array) return this.#enter(new Uint8Array(node));
    if (node instanceof Map) return this.#record(node);
    return this.#array(node as unknown[]);
  }

  #tagged({ tag, value: content }: Tag): unknown {
    switch (tag) {
      case TAGS.REFERENCE.number:
        return this.#reference(content as number);
      case TAGS.CAPABILITY.number:
        return this.#capability(content as number);
      case TAGS.NEGATIVE_ZERO.number:
        if (content !== 0) throw violation(`a negative zero that is ${content}`);
        return -0;
      case TAGS.STRING.number:
        return utf16(content as Uint8Array);
      case TAGS.BIGINT.number:
        return bigint(content as string);
      case TAGS.OBJECT.number:
        return this.#flatRecord(content as unknown[]);
      case TAGS.MAP.number:
        return this.#map(content as unknown[]);
      case TAGS.SET.number:
        return this.#set(content as unknown[]);
      case TAGS.ERROR.number:
        return this.#error(content as Map<string, unknown>);
      case TAGS.REGEXP.number:
        return this.#regexp(content as unknown[]);
      case TAGS.DATE.number:
        return this.#enter(date(content));
      case TAGS.ARRAY_BUFFER.number:
        return this.#enter(copy(content as Uint8Array));
      default:
        return this.#view(tag, content as Uint8Array);
    }
  }

  #reference(number: number): object {
    const object = this.#objects[number];
    if (object === undefined) throw violation(`a reference to object ${number} of ${this.#objects.length}`);
    return object;
  }

  #capability(index: number): unknown {
    if (this.#unpacker === undefined) throw violation("a capability where none can be");
    const capability = this.#unpacker.capability(index);
    this.#enter(capability as object);
    return capability;
  }

  #record(fields: Map<string, unknown>): object {
    const record: Record<string, unknown> = this.#enter({});
    for (const [key, node] of fields) record[key] = this.value(node);
    return record;
  }

  #flatRecord(flat: unknown[]): object {
    const record: Record<string, unknown> = this.#enter({});
    for (const [keyNode, node] of pairs(flat)) {
      const key = this.#text(keyNode);
      if (key === "__proto__") throw violation("a property named __proto__");
      if (Object.hasOwn(record, key)) throw violation("a key for the second time");
      record[key] = this.value(node);
    }
    return record;
  }

  #array(array: unknown[]): unknown[] {
    this.#enter(array);
    // In place: the decoder made this array for us.
    for (let index = 0; index < array.length; index++) array[index] = this.value(array[index]);
    return array;
  }

  #map(flat: unknown[]): object {
    const map = this.#enter(new Map<unknown, unknown>());
    for (const [keyNode, node] of pairs(flat)) map.set(this.value(keyNode), this.value(node));
    if (map.size !== flat.length / 2) throw violation("a key for the second time");
    return map;
  }

  #set(nodes: unknown[]): object {
    const set = this.#enter(new Set<unknown>());
    for (const node of nodes) set.add(this.value(node));
    if (set.size !== nodes.length) throw violation("an item of a set for the second time");
    return set;
  }

  #error(fields: Map<string, unknown>): object {
    const name = this.#text(fields.get("name"));
    const message = this.#text(fields.get("message"));
    const error: Error & Fields = this.#enter(new (ERROR_CLASSES.get(name) ?? Error)(message));
    if (error.name !== name) hide(error, "name", name);
    // The stack of this decoder would mislead where the sender's is missing.
    hide(error, "stack", fields.has("stack") ? this.#text(fields.get("stack")) : `${name}: ${message}`);
    for (const [field, node] of fields) {
      if (field === "name" || field === "message" || field === "stack") continue;
      const value = this.value(node);
      if (field === "cause") hide(error, "cause", value);
      else if (isErrorField(field) && (typeof value === "string" || typeof value === "number")) error[field] = value;
      else throw violation(`an error with the field ${JSON.stringify(field)}`);
    }
    return error;
  }

  #regexp(content: unknown[]): object {
    if (content.length !== 2) throw violation("a regular expression of other than two parts");
    const source = this.#text(content[0]);
    const flags = this.#text(content[1]);
    this.#patternUnits += source.length;
    if (source.length > PATTERN_UNITS.one || this.#patternUnits > PATTERN_UNITS.all) {
      throw violation(`more than ${PATTERN_UNITS.one} units of regular expression, or ${PATTERN_UNITS.all} in all`);
    }
    return this.#enter(build("a malformed regular expression", () => new RegExp(source, flags)));
  }

  #view(tag: number, content: Uint8Array): object {
    const View = VIEW_CLASSES.get(tag);
    if (View === undefined) throw violation(`tag ${tag}`);
    return this.#enter(build(`${content.length} bytes of ${View.name}`, () => new View(copy(content))));
  }

  #text(node: unknown): string {
    const value = this.value(node);
    if (typeof value !== "string") throw violation("something else where text must be");
    return value;
  }

  #enter<T extends object>(object: T): T {
    this.#objects.push(object);
    return object;
  }
}

/** The bytes in a buffer of their own: what arrives is a view of the receive buffer. */
function copy(bytes: Uint8Array): ArrayBuffer {
  return new Uint8Array(bytes).buffer;
}

function utf16(bytes: Uint8Array): string {
  if (bytes.length % 2 !== 0) throw violation("half a unit of text");
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("utf16le");
}

function bigint(text: string): bigint {
  const negative = text.startsWith("-");
  const digits = negative ? text.slice(1) : text;
  const wellFormed = digits.length <= BIGINT_DIGITS && /^(?:0|[1-9a-f][0-9a-f]*)$/.test(digits) && text !== "-0";
  if (!wellFormed) throw violation("a malformed bigint");
  return negative ? -BigInt(`0x${digits}`) : BigInt(`0x${digits}`);
}

function date(milliseconds: unknown): Date {
  const date = new Date(milliseconds as number);
  // An invalid date is NaN, out of range is not the way to write it.
  if (!Object.is(date.getTime(), milliseconds)) throw violation("a time that no date has");
  return date;
}

function* pairs(flat: unknown[]): Generator<[unknown, unknown]> {
  if (flat.length % 2 !== 0) throw violation("a key without a value");
  for (let index = 0; index < flat.length; index += 2) yield [flat[index], flat[index + 1]];
}

/** Sets a property as the language sets those of errors: not enumerable. */
function hide(error: Error, name: string, value: unknown): void {
  Object.defineProperty(error, name, { value, writable: true, enumerable: false, configurable: true });
}

function isErrorField(name: string): name is keyof Fields {
  return (ERROR_FIELDS as readonly string[]).includes(name);
}

/** What a constructor refuses, the peer should not have sent. */
function build<T>(found: string, make: () => T): T {
  try {
    return make();
  } catch (cause) {
    throw violation(found, { cause });
  }
}

function violation(found: string, options?: ErrorOptions): ProtocolViolation {
  return new ProtocolViolation(`Cannot decode a value: there is ${found}`, options);
}
