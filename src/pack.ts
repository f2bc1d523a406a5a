/** Values as trees of what CBOR has by itself (numbers, strings, bytes, arrays, maps) and of our tags. */
import { Tag } from "cbor-x/index-no-eval";
import { BIGINT_DIGITS, ERROR_FIELDS, PATTERN_UNITS, TAGS, VIEWS } from "./grammar.ts";
import type { Limits, Packer } from "./message.ts";

// Bun's Buffer is a Uint8Array, and arrives as one.
const VIEW_TAGS = new Map<object, { readonly number: number } | undefined>([
  [Uint8Array.prototype, undefined],
  [Buffer.prototype, undefined],
  ...VIEWS.map((kind) => [kind.view.prototype, kind] as const),
]);

// Steps of a path that are no property.
const KEYS = Symbol("keys()");
const VALUES = Symbol("values()");
type Step = string | number | symbol;

/** A tree, and a size that its encoding does not exceed. */
export interface Packed {
  readonly tree: unknown;
  readonly sizeBytes: number;
}

/** Throws TypeError for what cannot be sent and RangeError for what is beyond the limits, naming the place. */
export function pack(value: unknown, packer: Packer | undefined, limits: Limits): Packed {
  const packing = new Packing(packer, limits);
  try {
    return { tree: packing.value(value, 0), sizeBytes: packing.sizeBytes };
  } catch (error) {
    if (error instanceof Final) throw error.error;
    throw new TypeError(`Cannot send what is at ${packing.path}: reading it failed`, { cause: error });
  }
}

/** Carries an error that callers shall see as it is past those that getters and proxies throw. */
class Final {
  readonly error: unknown;

  constructor(error: unknown) {
    this.error = error;
  }
}

class Packing {
  sizeBytes = 0;
  readonly #packer: Packer | undefined;
  readonly #limits: Limits;
  readonly #steps: Step[] = [];
  /** Objects are numbered as they are met; the receiver counts the same way. */
  readonly #numbers = new Map<object, number>();
  #items = 0;
  #patternUnits = 0;

  constructor(packer: Packer | undefined, limits: Limits) {
    this.#packer = packer;
    this.#limits = limits;
  }

  /** Where the walk is, as a reader would write it: `value.handlers[2].onClick`. */
  get path(): string {
    return this.#steps.reduce<string>((path, step) => {
      if (typeof step === "number") return `${path}[${step}]`;
      if (typeof step === "symbol") return `${path}.${step.description}`;
      return /^[A-Za-z_$][\w$]*$/.test(step) ? `${path}.${step}` : `${path}[${JSON.stringify(step)}]`;
    }, "value");
  }

  /** One item, inside `depth` arrays and maps of the encoding. */
  value(value: unknown, depth: number): unknown {
    if (++this.#items > this.#limits.items) {
      throw new Final(new RangeError(`Cannot send ${this.path}: the value has more than ${this.#limits.items} items`));
    }
    this.sizeBytes += 9; // A head, or a number.
    switch (typeof value) {
      case "undefined":
      case "boolean":
        return value;
      case "number":
        return Object.is(value, -0) ? this.#tag(TAGS.NEGATIVE_ZERO, 0) : value;
      case "string":
        return this.#string(value);
      case "bigint":
        return this.#bigint(value);
      case "object":
        return value === null ? null : this.#object(value, depth);
      default:
        throw this.#refusal(`a ${typeof value}`);
    }
  }

  #object(value: object, depth: number): unknown {
    const number = this.#numbers.get(value);
    if (number !== undefined) return this.#tag(TAGS.REFERENCE, number);
    this.#numbers.set(value, this.#numbers.size);

    const prototype: object | null = Object.getPrototypeOf(value);
    switch (prototype) {
      case null:
      case Object.prototype:
        return this.#record(value as Record<string, unknown>, depth);
      case Array.prototype:
        if (Array.isArray(value)) return this.#array(value, depth);
        break;
      case Map.prototype:
        return this.#map(value as Map<unknown, unknown>, depth);
      case Set.prototype:
        return this.#set(value as Set<unknown>, depth);
      case Date.prototype:
        return this.#tag(TAGS.DATE, Date.prototype.getTime.call(value));
      case RegExp.prototype:
        return this.#regexp(value as RegExp, depth);
      case ArrayBuffer.prototype:
        return this.#tag(TAGS.ARRAY_BUFFER, this.#bytes(new Uint8Array(value as ArrayBuffer)));
    }
    if (VIEW_TAGS.has(prototype)) return this.#view(value as ArrayBufferView, VIEW_TAGS.get(prototype));
    const index = this.#capability(value);
    if (index !== undefined) return this.#tag(TAGS.CAPABILITY, index);
    if (value instanceof Error) return this.#error(value, depth);
    throw this.#refusal(`an instance of ${prototype.constructor?.name || "an unnamed class"}`);
  }

  #record(record: Record<string, unknown>, depth: number): unknown {
    this.#enter(depth);
    const keys = Object.keys(record);
    // The names that travel as text become a Map, since cbor-x would ask an object for its constructor: a property that people may own.
    if (!keys.some(isUnfit)) {
      const map = new Map<string, unknown>();
      for (const key of keys) map.set(this.#key(key), this.#member(record, key, depth));
      return map;
    }
    const flat: unknown[] = [];
    for (const key of keys) flat.push(this.value(this.#key(key), depth + 1), this.#member(record, key, depth));
    return this.#tag(TAGS.OBJECT, flat);
  }

  #array(array: readonly unknown[], depth: number): unknown[] {
    this.#enter(depth);
    const items: unknown[] = [];
    for (let index = 0; index < array.length; index++) items.push(this.#member(array, index, depth));
    return items;
  }

  #map(map: Map<unknown, unknown>, depth: number): Tag {
    this.#enter(depth);
    const flat: unknown[] = [];
    for (const [key, value] of Map.prototype.entries.call(map) as MapIterator<[unknown, unknown]>) {
      const index = flat.length / 2;
      this.#steps.push(KEYS);
      flat.push(this.#within(index, key, depth));
      this.#steps[this.#steps.length - 1] = VALUES;
      flat.push(this.#within(index, value, depth));
      this.#steps.pop();
    }
    return this.#tag(TAGS.MAP, flat);
  }

  #set(set: Set<unknown>, depth: number): Tag {
    this.#enter(depth);
    const items: unknown[] = [];
    this.#steps.push(VALUES);
    for (const item of Set.prototype.values.call(set)) items.push(this.#within(items.length, item, depth));
    this.#steps.pop();
    return this.#tag(TAGS.SET, items);
  }

  #regexp({ source, flags }: RegExp, depth: number): Tag {
    this.#enter(depth);
    this.#patternUnits += source.length;
    if (source.length > PATTERN_UNITS.one || this.#patternUnits > PATTERN_UNITS.all) {
      throw new Final(
        new RangeError(
          `Cannot send the regular expression at ${this.path}: ${PATTERN_UNITS.one} units of source are allowed, ${PATTERN_UNITS.all} in one value`,
        ),
      );
    }
    return this.#tag(TAGS.REGEXP, [this.value(source, depth + 1), this.value(flags, depth + 1)]);
  }

  #error(error: Error, depth: number): Tag {
    this.#enter(depth);
    const fields = new Map<string, unknown>();
    const put = (name: string, value: unknown) => fields.set(this.#key(name), this.#within(name, value, depth));
    put("name", String(error.name));
    put("message", String(error.message));
    if (typeof error.stack === "string") put("stack", error.stack);
    for (const name of ERROR_FIELDS) {
      const field: unknown = Reflect.get(error, name);
      if (typeof field === "string" || typeof field === "number") put(name, field);
    }
    if (Object.hasOwn(error, "cause")) put("cause", error.cause);
    return this.#tag(TAGS.ERROR, fields);
  }

  /** The bytes that the view shows and no others: its buffer may hold what is none of the receiver's business. */
  #view(view: ArrayBufferView, kind: { readonly number: number } | undefined): unknown {
    if (!(view.buffer instanceof ArrayBuffer)) throw this.#refusal("a view of shared memory");
    const bytes = this.#bytes(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
    return kind === undefined ? bytes : this.#tag(kind, bytes);
  }

  #bytes(bytes: Uint8Array): Uint8Array {
    this.sizeBytes += bytes.length;
    return bytes;
  }

  #string(text: string): unknown {
    if (isUnfit(text)) return this.#tag(TAGS.STRING, this.#bytes(new Uint8Array(Buffer.from(text, "utf16le"))));
    this.sizeBytes += 3 * text.length;
    return text;
  }

  #bigint(value: bigint): Tag {
    const digits = value.toString(16);
    if (digits.length > BIGINT_DIGITS + (value < 0n ? 1 : 0)) {
      throw new Final(
        new RangeError(`Cannot send the bigint at ${this.path}: it has more than ${4 * BIGINT_DIGITS} bits`),
      );
    }
    return this.#tag(TAGS.BIGINT, this.#string(digits));
  }

  #key(key: string): string {
    if (key === "__proto__") throw this.#refusal("a property named __proto__");
    this.sizeBytes += 5 + 3 * key.length;
    return key;
  }

  #capability(value: object): number | undefined {
    try {
      return this.#packer?.capability(value);
    } catch (error) {
      throw new Final(error);
    }
  }

  #tag({ number }: { readonly number: number }, content: unknown): Tag {
    this.sizeBytes += 3;
    return new Tag(content, number);
  }

  /** Reads a member, which may run a getter, and packs it. */
  #member(holder: Readonly<Record<Step, unknown>> | readonly unknown[], key: string | number, depth: number): unknown {
    this.#steps.push(key);
    const packed = this.value((holder as Record<Step, unknown>)[key], depth + 1);
    this.#steps.pop();
    return packed;
  }

  /** Packs what is one step further in. After a throw the steps stay, for the message. */
  #within(step: Step, value: unknown, depth: number): unknown {
    this.#steps.push(step);
    const packed = this.value(value, depth + 1);
    this.#steps.pop();
    return packed;
  }

  #enter(depth: number): void {
    if (depth < this.#limits.depth) return;
    throw new Final(new RangeError(`Cannot send ${this.path}: it is nested deeper than ${this.#limits.depth} levels`));
  }

  #refusal(what: string): Final {
    return new Final(new TypeError(`Cannot send ${what} at ${this.path}`));
  }
}

/** A string that UTF-8 or cbor-x would change: lone surrogates have no UTF-8, and a leading byte order mark is dropped. */
function isUnfit(text: string): boolean {
  return text.charCodeAt(0) === 0xfeff || !text.isWellFormed();
}
