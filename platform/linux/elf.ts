/** What an ELF program asks of the loader. */
import { closeSync, openSync, readSync } from "node:fs";

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const DT_NEEDED = 1n;
const DT_STRTAB = 5n;

/** The loader of a 64-bit little-endian program and the names of the libraries that it is linked to. */
export function dynamicOf(path: string): { readonly interpreter: string; readonly needed: readonly string[] } {
  const file = openSync(path, "r");
  const read = (offset: bigint, length: number) => {
    const bytes = new Uint8Array(length);
    return new DataView(bytes.buffer, 0, readSync(file, bytes, 0, length, Number(offset)));
  };
  try {
    const head = read(0n, 64);
    const [entrySize, entries] = [head.getUint16(54, true), head.getUint16(56, true)];
    const table = read(head.getBigUint64(32, true), entrySize * entries);
    const segments = Array.from({ length: entries }, (_, index) => ({
      type: table.getUint32(entrySize * index, true),
      offset: table.getBigUint64(entrySize * index + 8, true),
      address: table.getBigUint64(entrySize * index + 16, true),
      size: table.getBigUint64(entrySize * index + 32, true),
    }));
    const interpreter = segments.find(({ type }) => type === PT_INTERP);
    const dynamic = segments.find(({ type }) => type === PT_DYNAMIC);
    if (interpreter === undefined || dynamic === undefined)
      throw new Error(`Cannot run ${path} inside: it is not a dynamic program`);

    const tags = read(dynamic.offset, Number(dynamic.size));
    const entry = (index: number) =>
      [tags.getBigUint64(16 * index, true), tags.getBigUint64(16 * index + 8, true)] as const;
    const all = Array.from({ length: tags.byteLength / 16 }, (_, index) => entry(index));
    const strings = all.find(([tag]) => tag === DT_STRTAB)?.[1] ?? 0n;
    const segment = segments.find(
      ({ type, address, size }) => type === PT_LOAD && strings >= address && strings < address + size,
    );
    if (segment === undefined)
      throw new Error(`Cannot read the libraries of ${path}: its string table is in no segment`);
    const text = (offset: bigint, length: number) => {
      const { buffer, byteLength } = read(offset, length);
      return Buffer.from(buffer, 0, byteLength).toString().split("\0", 1)[0]!;
    };
    return {
      interpreter: text(interpreter.offset, Number(interpreter.size)),
      needed: all
        .filter(([tag]) => tag === DT_NEEDED)
        .map(([, name]) => text(segment.offset + strings - segment.address + name, 256)),
    };
  } finally {
    closeSync(file);
  }
}
