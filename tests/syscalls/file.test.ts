import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import {
  addSeals,
  closeRange,
  createMemoryFile,
  duplicate,
  fileStatus,
  makeDirectory,
  open,
  openResolved,
  setCloseOnExec,
  writeAll,
} from "../../syscalls/linux/file.ts";
import { F, F_SEAL, FD, O, RESOLVE } from "../../syscalls/linux/numbers.ts";
import { descriptorsOf, hold, testPuppet } from "../platform/strings.ts";

const directory = realpathSync(mkdtempSync(join(tmpdir(), "caisson-file-")));
afterAll(() => rmSync(directory, { recursive: true }));

const memoryFile = () => new Descriptor(createMemoryFile(self, "caisson-test"));

test("openResolved() refuses what its rules exclude, each with its errno", () => {
  mkdirSync(join(directory, "real"));
  writeFileSync(join(directory, "real/file"), "text");
  symlinkSync("real", join(directory, "link"));
  const at = (path: string, resolve: bigint, root?: number) => {
    using _ = new Descriptor(
      openResolved(self, path, {
        flags: O.RDONLY | O.CLOEXEC,
        resolve,
        ...(root === undefined ? {} : { directory: root }),
      }),
    );
  };
  at(join(directory, "link/file"), 0n);
  expect(() => at(join(directory, "link/file"), RESOLVE.NO_SYMLINKS)).toThrow("ELOOP: openat2");
  expect(() => at("/proc/self/exe", RESOLVE.NO_MAGICLINKS)).toThrow("ELOOP: openat2");
  using root = new Descriptor(open(self, directory, O.PATH | O.DIRECTORY | O.CLOEXEC));
  at("real/file", RESOLVE.BENEATH, root.number);
  expect(() => at("../x", RESOLVE.BENEATH, root.number)).toThrow("EXDEV: openat2");
});

test("makeDirectory() throws EEXIST for what is there", () => {
  makeDirectory(self, join(directory, "made"), 0o700);
  expect(() => makeDirectory(self, join(directory, "made"), 0o700)).toThrow("EEXIST: mkdirat");
});

test("addSeals() keeps a memory file as it is", () => {
  using file = memoryFile();
  writeAll(self, file.number, Uint8Array.of(1));
  addSeals(self, file.number, F_SEAL.SEAL | F_SEAL.WRITE | F_SEAL.GROW | F_SEAL.SHRINK);
  expect(() => writeAll(self, file.number, Uint8Array.of(2))).toThrow("EPERM: write");
  expect(() => self.call("ftruncate", file.number, 0)).toThrow("EPERM: ftruncate");
  expect(() => addSeals(self, file.number, F_SEAL.WRITE)).toThrow("EPERM: fcntl");
});

test("writeAll() writes what one call does not take", () => {
  using file = memoryFile();
  const bytes = new Uint8Array(3_000_000).map((_, index) => index);
  let most = 0;
  const stingy: typeof self = {
    call(name, descriptor, chunk, length) {
      most = Math.max(most, 1 + Math.floor((length as number) / 2));
      return self.call(name, descriptor!, chunk!, 1 + Math.floor((length as number) / 2));
    },
  };
  writeAll(stingy, file.number, bytes);
  expect(most).toBeLessThan(bytes.length);
  expect(fileStatus(self, file.number)).toEqual({ size: bytes.length, regular: true });
  const back = new Uint8Array(bytes.length);
  self.call("pread64", file.number, back, back.length, 0);
  expect(Buffer.from(back).equals(Buffer.from(bytes))).toBe(true);
});

test("fileStatus() tells files from what is none", () => {
  using directory = new Descriptor(open(self, "/", O.RDONLY | O.DIRECTORY | O.CLOEXEC));
  expect(fileStatus(self, directory.number).regular).toBe(false);
});

testPuppet("duplicate(), setCloseOnExec() and closeRange() change the descriptors of the kernel they are given", () => {
  using puppet = hold();
  const ours = descriptorsOf("self");
  duplicate(puppet.kernel, 3, 9);
  duplicate(puppet.kernel, 3, 10, O.CLOEXEC);
  expect(puppet.kernel.call("fcntl", 9, F.GETFD, 0)).toBe(0);
  expect(puppet.kernel.call("fcntl", 10, F.GETFD, 0)).toBe(FD.CLOEXEC);
  setCloseOnExec(puppet.kernel, 9);
  expect(puppet.kernel.call("fcntl", 9, F.GETFD, 0)).toBe(FD.CLOEXEC);
  closeRange(puppet.kernel, 4, 9);
  expect(Object.keys(descriptorsOf(puppet.pid))).toEqual(["0", "1", "2", "3", "10"]);
  closeRange(puppet.kernel, 4);
  expect(Object.keys(descriptorsOf(puppet.pid))).toEqual(["0", "1", "2", "3"]);
  expect(descriptorsOf("self")).toEqual(ours);
});
