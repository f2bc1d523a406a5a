// The machine code that caisson assembles, against what a disassembler makes of it.
import { describe, expect } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { askCode, beginCode, serveCode } from "../../platform/linux/anchor.ts";
import { holdCode } from "../../platform/linux/estate.ts";
import { stubCode } from "../../platform/linux/launch.ts";
import { puppetCode, puppetImage } from "../../platform/linux/puppet.ts";
import { handlerCode } from "../../platform/linux/threads.ts";
import { trapCode } from "../../syscalls/kernel.ts";
import { Assembler, R, type Register } from "../../syscalls/x64.ts";
import { testIf } from "../syscalls/requirement.ts";

const testObjdump = testIf("objdump", Bun.which("objdump") !== null, "there is no objdump (Debian: binutils)");

/** One line an instruction, its offset first, without padding and comments. */
function disassemble(code: Uint8Array): string[] {
  const directory = mkdtempSync(join(tmpdir(), "caisson-listing-"));
  try {
    const file = join(directory, "code");
    writeFileSync(file, code);
    const options = ["-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "--no-show-raw-insn"];
    const { stdout, exitCode } = Bun.spawnSync(["objdump", ...options, file], { env: { ...process.env, LC_ALL: "C" } });
    if (exitCode !== 0) throw new Error(`objdump returned ${exitCode}`);
    const lines = stdout.toString().matchAll(/^ *([0-9a-f]+):\s+(.*)$/gm);
    return Array.from(
      lines,
      ([, at, text]) =>
        `${at}: ${text!
          .replace(/\s*#.*$/, "")
          .replace(/\s+/g, " ")
          .trim()}`,
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Every instruction that the assembler knows, with each register in each place where it changes the encoding. */
function everything(): Assembler {
  const code = new Assembler().label("top");
  const registers = Object.values(R) as Register[];
  for (const [index, register] of registers.entries()) {
    const other = registers[(index + 5) % registers.length]!;
    code
      .copy(register, other)
      .set(register, 0x12345678)
      .setWide(register, 0x7edcba9876543210n)
      .clear(register)
      .load(register, { base: other, offset: 8 })
      .load(register, { base: other, offset: 8 }, 32)
      .store({ base: register, offset: 16 }, other)
      .store({ base: register, offset: 16 }, other, 32)
      .address(register, { base: other, offset: 0x7f })
      .add(register, 64)
      .subtract(register, other)
      .increment(register)
      .decrement(register)
      .compare(register, 6)
      .test(register, 64)
      .test(register, 32)
      .testByte({ base: register, offset: 5 }, 1)
      .testBit({ base: register, offset: 4 }, other)
      .exchange({ base: register, offset: 4 }, other)
      .push(register)
      .pop(register)
      .jumpTo(register);
    if (register !== R.SP) code.load(other, { base: R.BX, offset: 8, index8: register });
  }
  for (const condition of ["jb", "jae", "je", "jne", "jg"] as const) code.branch(condition, "end");
  return code.jump("top").jump("end").compareResult(-4095).syscall().label("end").return();
}

describe("listing() is what objdump reads in the code", () => {
  for (const [name, make] of Object.entries({
    puppetCode,
    stubCode,
    trapCode,
    handlerCode: () => handlerCode(0x7f1234567000),
    askCode,
    holdCode,
    beginCode,
    serveCode,
    everything,
  })) {
    testObjdump(`of ${name}()`, () => {
      const code = make();
      expect(code.listing().length).toBeGreaterThan(5);
      expect(disassemble(code.assemble())).toEqual(code.listing());
    });
  }

  testObjdump("and the comparison sees each flipped byte", () => {
    const code = puppetCode();
    const bytes = code.assemble();
    const listing = code.listing().join("\n");
    for (const at of [0, 7, Math.floor(bytes.length / 2), bytes.length - 1]) {
      const flipped = bytes.slice();
      flipped[at]! ^= 0x10;
      expect(disassemble(flipped).join("\n")).not.toBe(listing);
    }
  });

  testObjdump("and the puppet's program is that code, whole and nothing else", () => {
    const code = puppetCode().assemble();
    const image = puppetImage();
    expect(Buffer.from(image.subarray(-code.length))).toEqual(Buffer.from(code));
    expect(image.length).toBe(64 + 3 * 56 + code.length);
    expect(image.length).toBeLessThan(1024);
  });
});
