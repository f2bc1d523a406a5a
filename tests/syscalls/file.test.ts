import { afterAll, expect, test } from "bun:test";
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import {
  addSeals,
  changeMode,
  changeOwner,
  changeRoot,
  changeToDescriptor,
  close,
  closeRange,
  createFileAt,
  createMemoryFile,
  decodeStatus,
  deviceNumber,
  duplicate,
  fileStatus,
  makeDirectory,
  makeDirectoryAt,
  makeLink,
  makeNode,
  makePipe,
  makeSymlink,
  makeSymlinkAt,
  open,
  openResolved,
  setCloseOnExec,
  writeAll,
} from "../../syscalls/linux/file.ts";
import { CLONE, F, F_SEAL, FD, O, RESOLVE, S } from "../../syscalls/linux/numbers.ts";
import { descriptorsOf, hold, testPuppet, testRoot } from "../platform/strings.ts";

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
  expect(fileStatus(self, file.number)).toMatchObject({ size: bytes.length, regular: true });
  const back = new Uint8Array(bytes.length);
  self.call("pread64", file.number, back, back.length, 0);
  expect(Buffer.from(back).equals(Buffer.from(bytes))).toBe(true);
});

test("fileStatus() is what node:fs says of a file, a directory, a symbolic link and a device", () => {
  const paths = ["file", "directory", "link"].map((name) => join(directory, `status-${name}`));
  writeFileSync(paths[0]!, "text", { mode: 0o640 });
  mkdirSync(paths[1]!, 0o710);
  symlinkSync("nowhere", paths[2]!);
  for (const path of [...paths, "/dev/null"]) {
    using descriptor = new Descriptor(open(self, path, O.PATH | O.NOFOLLOW | O.CLOEXEC));
    const node = lstatSync(path, { bigint: true });
    expect(fileStatus(self, descriptor.number)).toEqual({
      size: Number(node.size),
      regular: node.isFile(),
      directory: node.isDirectory(),
      symlink: node.isSymbolicLink(),
      characterDevice: node.isCharacterDevice(),
      mode: Number(node.mode) & 0o7777,
      dev: node.dev,
      inode: node.ino,
      rdev: node.rdev,
    });
  }
});

test("decodeStatus() finds mode and device where each machine has them", () => {
  const stat = (mode: number, rdev: number) => {
    const bytes = new Uint8Array(144);
    new DataView(bytes.buffer).setUint32(mode, S.IFCHR | 0o620, true);
    bytes[rdev] = 7;
    return bytes;
  };
  const expected = { characterDevice: true, mode: 0o620, rdev: 7n };
  expect(decodeStatus(stat(24, 40), "x64")).toMatchObject(expected);
  expect(decodeStatus(stat(16, 32), "arm64")).toMatchObject(expected);
});

test("deviceNumber() is what stat says of devices", () => {
  expect(BigInt(deviceNumber(1, 3))).toBe(statSync("/dev/null", { bigint: true }).rdev);
  expect([deviceNumber(4, 300), deviceNumber(259, 1), deviceNumber(0xfff, 0xfffff)]).toEqual([
    0x10042c, 0x10301, 0xffffffff,
  ]);
});

test("makeDirectoryAt(), createFileAt() and makeSymlinkAt() work beneath a descriptor, and follow no link at the end", () => {
  const path = join(directory, "at");
  makeDirectory(self, path, 0o700);
  using parent = new Descriptor(open(self, path, O.PATH | O.DIRECTORY | O.CLOEXEC));
  const create = (name: string, flags: number) => close(self, createFileAt(self, parent.number, name, flags, 0o600));
  makeDirectoryAt(self, parent.number, "directory", 0o700);
  expect(() => makeDirectoryAt(self, parent.number, "directory", 0o700)).toThrow("EEXIST: mkdirat");
  create("file", O.WRONLY | O.EXCL);
  create("file", O.WRONLY);
  expect(() => create("file", O.WRONLY | O.EXCL)).toThrow("EEXIST: openat");
  makeSymlinkAt(self, "elsewhere", parent.number, "link");
  expect(readlinkSync(join(path, "link"))).toBe("elsewhere");
  expect(() => create("link", O.WRONLY)).toThrow("ELOOP: openat");
  makeSymlink(self, "file", join(path, "second"));
  expect(readlinkSync(join(path, "second"))).toBe("file");
  makeLink(self, join(path, "file"), join(path, "third"));
  expect(statSync(join(path, "file")).nlink).toBe(2);
  makeNode(self, join(path, "fifo"), S.IFIFO | 0o600);
  expect(statSync(join(path, "fifo")).isFIFO()).toBe(true);
});

test("changeMode() and changeOwner() change what a descriptor names", () => {
  const path = join(directory, "owned");
  writeFileSync(path, "");
  using file = new Descriptor(open(self, path, O.RDONLY | O.CLOEXEC));
  changeMode(self, file.number, 0o4710);
  expect(statSync(path).mode & 0o7777).toBe(0o4710);
  using named = new Descriptor(open(self, path, O.PATH | O.CLOEXEC));
  expect(() => changeMode(self, named.number, 0o600)).toThrow("EBADF: fchmod");
  changeOwner(self, named.number, {});
  const [uid, gid] = [process.getuid!(), process.getgid!()];
  changeOwner(self, named.number, { uid, gid });
  expect(statSync(path)).toMatchObject({ uid, gid });
  expect(statSync(path).mode & 0o7777).toBe(0o710); // a new owner, if the same, takes set-user-id away
});

testPuppet("makePipe() makes two ends, close-on-exec", () => {
  using puppet = hold();
  const { read, write } = makePipe(puppet.kernel);
  expect(puppet.kernel.call("fcntl", read, F.GETFD, 0)).toBe(FD.CLOEXEC);
  writeAll(puppet.kernel, write, Uint8Array.of(1, 2, 3));
  const bytes = new Uint8Array(8);
  expect(puppet.kernel.call("read", read, bytes, bytes.length)).toBe(3);
  expect([...bytes]).toEqual([1, 2, 3, 0, 0, 0, 0, 0]);
  expect(() => writeAll(puppet.kernel, read, bytes)).toThrow("EBADF: write");
});

testRoot("changeToDescriptor() and changeRoot() move the kernel they are given", () => {
  using puppet = hold(CLONE.NEWUSER);
  const at = (what: string) => readlinkSync(`/proc/${puppet.pid}/${what}`);
  const descriptor = open(puppet.kernel, "/usr", O.PATH | O.DIRECTORY | O.CLOEXEC);
  expect(at("cwd")).not.toBe("/usr");
  changeToDescriptor(puppet.kernel, descriptor);
  expect(at("cwd")).toBe("/usr");
  changeRoot(puppet.kernel, ".");
  expect(at("root")).toBe("/usr");
  const file = open(puppet.kernel, "/bin", O.PATH | O.CLOEXEC);
  expect(readlinkSync(`/proc/${puppet.pid}/fd/${file}`)).toBe("/usr/bin");
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
