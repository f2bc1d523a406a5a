/** What an ELF program asks of the kernel and of its loader. `elf(5)` */
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { machine } from "../../syscalls/kernel.ts";
import { NotRunnable } from "../platform.ts";

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const DT_NULL = 0n;
const DT_NEEDED = 1n;
const DT_STRTAB = 5n;
const DT_SONAME = 14n;
const DT_RPATH = 15n;
const DT_RUNPATH = 29n;

const CLASS_64 = 2;
const LITTLE_ENDIAN = 1;
/** ET_EXEC, ET_DYN: what can be mapped as a program or a library. */
const MAPPABLE = [2, 3];
const MACHINES = { x64: 62, arm64: 183 } as const;
const PROGRAM_HEADER = 56;

/** The kernel maps no program with larger program headers, and no path is longer. */
const MOST_HEADERS = 64 * 1024;
const PATH_MAX = 4096;
/** Real programs have some thirty entries, with names of a few hundred bytes together. */
const MOST_DYNAMIC = 16 * 1024;
const MOST_NAMES = 64 * 1024;

export interface Elf {
  /** The loader, undefined for a static program. */
  readonly interpreter: string | undefined;
  /** The name that a library goes by whatever its file is called. */
  readonly soname: string | undefined;
  readonly needed: readonly string[];
  /** Lists of directories, with tokens such as `$ORIGIN` as they stand. */
  readonly rpath: string | undefined;
  readonly runpath: string | undefined;
}

interface Segment {
  readonly type: number;
  readonly offset: bigint;
  readonly address: bigint;
  readonly size: bigint;
}

/**
 * Reads a program or library of this machine. However the file lies about itself, what is read is bounded. Throws
 * NotRunnable.
 */
export function elfOf(path: string): Elf {
  const broken = (reason: string, cause?: unknown) => new NotRunnable(path, reason, { cause });
  const file = openRegular(path);
  try {
    const size = BigInt(fstatSync(file).size);
    const read = (what: string, offset: bigint, length: bigint, most: number) => {
      if (length > most) throw broken(`its ${what} has ${length} bytes, of which ${most} can be`);
      if (offset + length > size) throw broken(`its ${what} lies behind the end of the file`);
      const bytes = new Uint8Array(Number(length));
      return new DataView(bytes.buffer, 0, readSync(file, bytes, 0, bytes.length, Number(offset)));
    };
    const text = (what: string, offset: bigint) => {
      const rest = offset < size ? size - offset : 0n;
      const { buffer, byteLength } = read(what, offset, rest < PATH_MAX ? rest : BigInt(PATH_MAX), PATH_MAX);
      const bytes = Buffer.from(buffer, 0, byteLength);
      const end = bytes.indexOf(0);
      if (end === -1) throw broken(`its ${what} does not end within the file and ${PATH_MAX} bytes`);
      return bytes.toString("utf8", 0, end);
    };

    const head = read("ELF header", 0n, 64n, 64);
    const refusal = refusalOf(head);
    if (refusal !== undefined) throw broken(refusal);
    const entries = head.getUint16(56, true);
    const table = read("program headers", head.getBigUint64(32, true), BigInt(entries * PROGRAM_HEADER), MOST_HEADERS);
    const segments = Array.from({ length: entries }, (_, index): Segment => {
      const at = PROGRAM_HEADER * index;
      return {
        type: table.getUint32(at, true),
        offset: table.getBigUint64(at + 8, true),
        address: table.getBigUint64(at + 16, true),
        size: table.getBigUint64(at + 32, true),
      };
    });

    const loader = segments.find(({ type }) => type === PT_INTERP);
    const interpreter = loader && text("PT_INTERP", loader.offset);
    const dynamic = segments.find(({ type }) => type === PT_DYNAMIC);
    if (dynamic === undefined)
      return { interpreter, soname: undefined, needed: [], rpath: undefined, runpath: undefined };

    const tags = tagsOf(read("dynamic section", dynamic.offset, dynamic.size, MOST_DYNAMIC));
    const strings = tags.find(([tag]) => tag === DT_STRTAB)?.[1] ?? 0n;
    const holder = segments.find(
      ({ type, address, size }) => type === PT_LOAD && strings >= address && strings < address + size,
    );
    let length = 0;
    const string = (name: bigint) => {
      if (holder === undefined) throw broken("its string table is in no segment");
      const string = text("string table", holder.offset + strings - holder.address + name);
      length += string.length;
      if (length > MOST_NAMES) throw broken(`its names have more than ${MOST_NAMES} bytes`);
      return string;
    };
    const all = (wanted: bigint) => tags.filter(([tag]) => tag === wanted).map(([, name]) => string(name));
    return {
      interpreter,
      soname: all(DT_SONAME)[0],
      needed: all(DT_NEEDED),
      rpath: all(DT_RPATH)[0],
      runpath: all(DT_RUNPATH)[0],
    };
  } catch (error) {
    if (error instanceof NotRunnable) throw error;
    // What is cut off in between is shorter than its place in the file said.
    throw broken("it is not a whole ELF file", error);
  } finally {
    closeSync(file);
  }
}

/** The loader of a dynamic program and the names of the libraries that it is linked to. */
export function dynamicOf(path: string): { readonly interpreter: string; readonly needed: readonly string[] } {
  const { interpreter, needed } = elfOf(path);
  if (interpreter === undefined) throw new Error(`Cannot run ${path} inside: it is not a dynamic program`);
  return { interpreter, needed };
}

/** Opens a file to read it, and nothing that is not one. Throws NotRunnable. */
export function openRegular(path: string): number {
  try {
    // Without O_NONBLOCK a pipe of that name would hold us until somebody writes to it.
    const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    if (fstatSync(file).isFile()) return file;
    closeSync(file);
  } catch (error) {
    throw new NotRunnable(path, `it cannot be read (${(error as NodeJS.ErrnoException).code})`, { cause: error });
  }
  throw new NotRunnable(path, "it is not a regular file");
}

function refusalOf(head: DataView): string | undefined {
  if (head.getUint32(0) !== 0x7f454c46) return "it is not an ELF file";
  if (head.getUint8(4) !== CLASS_64) return "it is a 32-bit program, whose system calls no filter lets through";
  const wanted = MACHINES[machine()];
  const kind = head.getUint16(18, true);
  if (head.getUint8(5) !== LITTLE_ENDIAN || kind !== wanted)
    return `it is for another processor (ELF machine ${kind}), ${wanted} (${process.arch}) is needed`;
  if (!MAPPABLE.includes(head.getUint16(16, true))) return "it is neither an executable nor a shared object";
  const entrySize = head.getUint16(54, true);
  if (entrySize !== PROGRAM_HEADER)
    return `its program headers have ${entrySize} bytes each, ${PROGRAM_HEADER} expected`;
  return undefined;
}

function tagsOf(section: DataView): readonly (readonly [tag: bigint, value: bigint])[] {
  const tags: [bigint, bigint][] = [];
  for (let at = 0; at + 16 <= section.byteLength; at += 16) {
    const tag = section.getBigUint64(at, true);
    if (tag === DT_NULL) break;
    tags.push([tag, section.getBigUint64(at + 8, true)]);
  }
  return tags;
}
