import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { elfOf } from "../../platform/linux/elf.ts";
import { puppetImage } from "../../platform/linux/puppet.ts";
import { NotRunnable } from "../../platform/platform.ts";

const directory = mkdtempSync(join(tmpdir(), "caisson-elf-"));
afterAll(() => rmSync(directory, { recursive: true }));

const [PHOFF, PHENTSIZE, PHNUM, MACHINE] = [32, 54, 56, 18];
const [PT_LOAD, PT_DYNAMIC, PT_INTERP] = [1, 2, 3];
const [DT_NEEDED, DT_STRTAB, DT_SONAME, DT_RPATH, DT_RUNPATH] = [1n, 5n, 14n, 15n, 29n];

/**
 * One segment from 0 to `size` at 0x1000, program headers behind the header, the dynamic section at 512, its strings at
 * 1024.
 */
interface Shape {
  readonly headers?: readonly (readonly [type: number, offset: bigint, address: bigint, size: bigint])[];
  readonly tags?: readonly (readonly [tag: bigint, value: bigint])[];
  readonly strings?: string;
  readonly size?: number;
}

const STRINGS = 1024n;
const HEADERS = [
  [PT_LOAD, 0n, 0x1000n, 8192n],
  [PT_INTERP, STRINGS, 0n, 7n],
  [PT_DYNAMIC, 512n, 0n, 512n],
] as const;

function image({ headers = HEADERS, tags = [], strings = "/loader\0", size = 2048 }: Shape = {}): DataView {
  const bytes = Buffer.alloc(size);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 3, true);
  view.setUint16(MACHINE, process.arch === "arm64" ? 183 : 62, true);
  view.setBigUint64(PHOFF, 64n, true);
  view.setUint16(PHENTSIZE, 56, true);
  view.setUint16(PHNUM, headers.length, true);
  for (const [index, [type, offset, address, length]] of headers.entries()) {
    const at = 64 + 56 * index;
    view.setUint32(at, type, true);
    view.setBigUint64(at + 8, offset, true);
    view.setBigUint64(at + 16, address, true);
    view.setBigUint64(at + 32, length, true);
  }
  for (const [index, [tag, value]] of [[DT_STRTAB, 0x1000n + STRINGS] as const, ...tags].entries()) {
    view.setBigUint64(512 + 16 * index, tag, true);
    view.setBigUint64(520 + 16 * index, value, true);
  }
  bytes.write(strings, Number(STRINGS), "latin1");
  return view;
}

let files = 0;
function written(view: Uint8Array | DataView): string {
  const path = join(directory, `${files++}`);
  writeFileSync(path, view);
  return path;
}

function changed(change: (view: DataView) => void): DataView {
  const view = image();
  change(view);
  return view;
}

describe("elfOf()", () => {
  test("reads the loader, the names and the directories", () => {
    const strings = "/loader\0libone.so\0libtwo.so\0$ORIGIN/a\0/b\0libself.so\0";
    const at = (text: string) => BigInt(strings.indexOf(text));
    const tags = [
      [DT_NEEDED, at("libone")],
      [DT_NEEDED, at("libtwo")],
      [DT_RUNPATH, at("$ORIGIN")],
      [DT_RPATH, at("/b")],
      [DT_SONAME, at("libself")],
    ] as const;
    expect(elfOf(written(image({ tags, strings })))).toEqual({
      interpreter: "/loader",
      soname: "libself.so",
      needed: ["libone.so", "libtwo.so"],
      rpath: "/b",
      runpath: "$ORIGIN/a",
    });
  });

  test("ends the dynamic section at DT_NULL", () => {
    const tags = [
      [DT_NEEDED, 0n],
      [0n, 0n],
      [DT_NEEDED, 0n],
    ] as const;
    expect(elfOf(written(image({ tags }))).needed).toEqual(["/loader"]);
  });

  test("finds neither loader nor libraries in a static program", () => {
    const { interpreter, needed } = elfOf(written(puppetImage()));
    expect({ interpreter, needed }).toEqual({ interpreter: undefined, needed: [] });
  });

  const refused: Record<string, [string, DataView | Uint8Array]> = {
    "an empty file": ["its ELF header lies behind the end of the file", new Uint8Array(0)],
    text: ["it is not an ELF file", Buffer.alloc(100, "text")],
    "a 32-bit program": ["32-bit", changed((view) => view.setUint8(4, 1))],
    "a big-endian program": ["for another processor", changed((view) => view.setUint8(5, 2))],
    "another processor's program": ["ELF machine 243", changed((view) => view.setUint16(MACHINE, 243, true))],
    "an object file": ["neither an executable nor a shared object", changed((view) => view.setUint16(16, 1, true))],
    "program headers of another size": ["have 0 bytes each", changed((view) => view.setUint16(PHENTSIZE, 0, true))],
    "program headers behind the end": [
      "its program headers lies behind the end",
      changed((view) => view.setBigUint64(PHOFF, 2n ** 64n - 1n, true)),
    ],
    "more program headers than can be": [
      "of which 65536 can be",
      changed((view) => view.setUint16(PHNUM, 65535, true)),
    ],
    "a loader whose name is behind the end": [
      "its PT_INTERP lies behind the end",
      image({ headers: [[PT_INTERP, 2n ** 63n, 0n, 8n]] }),
    ],
    "a loader whose name does not end": [
      "its PT_INTERP does not end",
      image({ strings: "x".repeat(9000), size: 16384 }),
    ],
    "a dynamic section of exabytes": [
      "of which 16384 can be",
      image({ headers: [...HEADERS.slice(0, 2), [PT_DYNAMIC, 512n, 0n, 2n ** 62n]] }),
    ],
    "a dynamic section behind the end": [
      "its dynamic section lies behind the end",
      image({ headers: [...HEADERS.slice(0, 2), [PT_DYNAMIC, 2n ** 62n, 0n, 512n]] }),
    ],
    "names in no segment": [
      "its string table is in no segment",
      image({ headers: HEADERS.slice(1), tags: [[DT_NEEDED, 0n]] }),
    ],
    "names without end": [
      "its names have more than 65536 bytes",
      image({
        strings: `/loader\0${"x".repeat(4000)}\0`,
        size: 8192,
        tags: Array.from({ length: 20 }, () => [DT_NEEDED, 8n] as const),
      }),
    ],
    "a name behind the end": ["its string table lies behind the end", image({ tags: [[DT_NEEDED, 2n ** 64n - 1n]] })],
  };
  for (const [what, [reason, bytes]] of Object.entries(refused)) {
    test(`throws NotRunnable for ${what}`, () => {
      const path = written(bytes);
      expect(() => elfOf(path)).toThrow(NotRunnable);
      expect(() => elfOf(path)).toThrow(reason);
    });
  }

  test("throws NotRunnable or reads, wherever a real program is cut off or overwritten", () => {
    const program = readFileSync("/bin/sh");
    const outcome = (bytes: Uint8Array) => {
      const path = written(bytes);
      try {
        elfOf(path);
        return "read";
      } catch (error) {
        return error instanceof NotRunnable ? "refused" : String(error);
      } finally {
        rmSync(path);
      }
    };
    for (let length = 0; length < 1024; length += 7)
      expect(["read", "refused"]).toContain(outcome(program.subarray(0, length)));
    for (let offset = 0; offset < 1024; offset += 4) {
      const bytes = Buffer.from(program);
      bytes.fill(0xff, offset, offset + 4);
      expect(["read", "refused"]).toContain(outcome(bytes));
    }
  });

  test("names the errno of a file that it cannot open", () => {
    expect(() => elfOf(join(directory, "absent"))).toThrow("it cannot be read (ENOENT)");
  });

  test("does not wait for a pipe's writer", () => {
    const pipe = join(directory, "pipe");
    Bun.spawnSync(["mkfifo", pipe]);
    expect(() => elfOf(pipe)).toThrow("it is not a regular file");
  });
});
