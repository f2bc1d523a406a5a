/** C structs as data: a layout computed by C's rules, and values written to and read from memory. */

const SIZES = { u8: 1, u16: 2, u32: 4, i32: 4, u64: 8, i64: 8, pointer: 8 } as const;
type FieldType = keyof typeof SIZES;

/** What a field of a type holds: 64-bit words are `bigint`, narrower ones `number`, pointers name the memory they point to. */
export type FieldValue<T extends FieldType> = T extends "pointer"
  ? Target | null
  : T extends "u64" | "i64"
    ? bigint
    : number;
/** What a pointer may point to: text (which gets its final NUL), bytes, or memory that has pointers in turn. */
export type Target = string | Uint8Array | Memory;

/** Bytes that may hold pointers. Whoever makes the call decides which addresses these become. */
export class Memory {
  readonly bytes: Uint8Array;
  readonly pointers: readonly { readonly offset: number; readonly to: Target }[];

  constructor(bytes: Uint8Array, pointers: readonly { readonly offset: number; readonly to: Target }[]) {
    this.bytes = bytes;
    this.pointers = pointers;
  }

  /** An array of pointers that ends with NULL, as `execve(2)` takes its arguments. */
  static vector(targets: readonly Target[]): Memory {
    return new Memory(
      new Uint8Array(8 * (targets.length + 1)),
      targets.map((to, index) => ({ offset: 8 * index, to })),
    );
  }
}

/** The layout of one C struct on a 64-bit little-endian machine. */
export class Struct<Fields extends Record<string, FieldType>> {
  readonly size: number;
  readonly offsets: Readonly<Record<keyof Fields, number>>;
  readonly #fields: Fields;

  /** @param options.packed as `__attribute__((packed))`: no padding between the fields or at the end */
  constructor(fields: Fields, options: { packed?: boolean } = {}) {
    const offsets: Record<string, number> = {};
    let at = 0;
    let alignment = 1;
    for (const [name, type] of Object.entries(fields)) {
      const size = SIZES[type];
      if (!options.packed) {
        at = Math.ceil(at / size) * size;
        alignment = Math.max(alignment, size);
      }
      offsets[name] = at;
      at += size;
    }
    this.size = Math.ceil(at / alignment) * alignment;
    this.offsets = offsets as Record<keyof Fields, number>;
    this.#fields = fields;
  }

  /** The struct in memory; fields that are not named are zero. */
  encode(values: { readonly [Name in keyof Fields]?: FieldValue<Fields[Name]> }): Memory {
    const bytes = new Uint8Array(this.size);
    const view = new DataView(bytes.buffer);
    const pointers: { offset: number; to: Target }[] = [];
    for (const [name, value] of Object.entries(values)) {
      const type = this.#fields[name];
      const offset = this.offsets[name];
      if (type === undefined || offset === undefined) throw new TypeError(`No field ${name} in this struct`);
      if (type === "pointer") {
        if (value !== null) pointers.push({ offset, to: value as Target });
      } else write(view, offset, type, value as number | bigint);
    }
    return new Memory(bytes, pointers);
  }

  /** The values in `bytes`; pointers are left out, for they mean nothing here. */
  decode(bytes: Uint8Array): {
    [Name in keyof Fields as Fields[Name] extends "pointer" ? never : Name]: FieldValue<Fields[Name]>;
  } {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const values: Record<string, number | bigint> = {};
    for (const [name, type] of Object.entries(this.#fields)) {
      if (type !== "pointer") values[name] = read(view, this.offsets[name]!, type);
    }
    // The loop follows the same table as the type does.
    return values as never;
  }
}

function write(view: DataView, offset: number, type: Exclude<FieldType, "pointer">, value: number | bigint): void {
  if (type === "u64" || type === "i64") view.setBigUint64(offset, BigInt.asUintN(64, BigInt(value)), true);
  else if (type === "u8") view.setUint8(offset, Number(value));
  else if (type === "u16") view.setUint16(offset, Number(value), true);
  else view.setUint32(offset, Number(value), true);
}

function read(view: DataView, offset: number, type: Exclude<FieldType, "pointer">): number | bigint {
  if (type === "u64") return view.getBigUint64(offset, true);
  if (type === "i64") return view.getBigInt64(offset, true);
  if (type === "u8") return view.getUint8(offset);
  if (type === "u16") return view.getUint16(offset, true);
  return type === "i32" ? view.getInt32(offset, true) : view.getUint32(offset, true);
}
