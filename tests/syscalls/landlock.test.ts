import { expect, test } from "bun:test";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { close, open } from "../../syscalls/linux/file.ts";
import {
  allowBeneath,
  allowPort,
  createRuleset,
  landlockAbi,
  landlockErrata,
  restrictSelf,
} from "../../syscalls/linux/landlock.ts";
import { LANDLOCK_ACCESS_FS as FS, O } from "../../syscalls/linux/numbers.ts";
import { setNoNewPrivileges } from "../../syscalls/linux/process.ts";
import { hold } from "../platform/strings.ts";
import { Recorder } from "./recorder.ts";
import { testIf } from "./requirement.ts";

const testLandlock = testIf("landlock", landlockAbi() > 0, "this kernel has no Landlock, or something refuses it");

test("landlockAbi() and landlockErrata() are 0 where the call is refused", () => {
  const refusing = {
    call: (name: Parameters<typeof self.call>[0]) => self.call(name, null, 1, 0xffff),
  };
  expect(landlockAbi(refusing)).toBe(0);
  expect(landlockErrata(refusing)).toBe(0);
  expect(landlockAbi(new Recorder())).toBe(1000);
});

test("the calls are made with their flags, and each question is one", () => {
  const recorder = new Recorder();
  landlockAbi(recorder);
  landlockErrata(recorder);
  createRuleset(recorder, { fs: 1n, net: 2n, scoped: 3n });
  allowBeneath(recorder, 5, 6, 7n);
  allowBeneath(recorder, 5, 6, 7n, 1);
  allowPort(recorder, 5, 443, 2n);
  restrictSelf(recorder, 5);
  restrictSelf(recorder, -1, 4);
  expect(recorder.lines).toEqual([
    "landlock_create_ruleset (null, 0, 1)",
    "landlock_create_ruleset (null, 0, 2)",
    "landlock_create_ruleset ([48 bytes], 48, 0)",
    "landlock_add_rule (5, 1, [12 bytes], 0)",
    "landlock_add_rule (5, 1, [12 bytes], 1)",
    "landlock_add_rule (5, 2, [16 bytes], 0)",
    "landlock_restrict_self (5, 0)",
    "landlock_restrict_self (-1, 4)",
  ]);
});

testLandlock("createRuleset() throws EINVAL for a right that the kernel does not know", () => {
  expect(() => createRuleset(self, { fs: 1n << 60n, net: 0n, scoped: 0n })).toThrow("EINVAL: landlock_create_ruleset");
});

testLandlock(
  "allowBeneath() throws EINVAL for a right that the ruleset does not govern, EBADF for no descriptor",
  () => {
    using ruleset = new Descriptor(createRuleset(self, { fs: FS.READ_FILE, net: 0n, scoped: 0n }));
    using root = new Descriptor(open(self, "/", O.PATH | O.CLOEXEC));
    expect(() => allowBeneath(self, ruleset.number, root.number, FS.EXECUTE)).toThrow("EINVAL: landlock_add_rule");
    expect(() => allowBeneath(self, ruleset.number, 65535, FS.READ_FILE)).toThrow("EBADF: landlock_add_rule");
  },
);

testLandlock(
  "restrictSelf() throws EPERM without no-new-privileges, then refuses with EACCES what no rule allows",
  () => {
    using puppet = hold();
    const { kernel } = puppet;
    const readable = (path: string) => close(kernel, open(kernel, path, O.RDONLY | O.CLOEXEC));
    kernel.call("capset", Uint8Array.of(0x22, 5, 8, 0x20, 0, 0, 0, 0), new Uint8Array(24));
    const ruleset = createRuleset(kernel, { fs: FS.READ_FILE, net: 0n, scoped: 0n });
    const allowed = open(kernel, "/proc", O.PATH | O.CLOEXEC);
    allowBeneath(kernel, ruleset, allowed, FS.READ_FILE);
    expect(() => restrictSelf(kernel, ruleset)).toThrow("EPERM: landlock_restrict_self");
    readable("/etc/passwd");
    setNoNewPrivileges(kernel);
    restrictSelf(kernel, ruleset);
    readable("/proc/self/status");
    expect(() => readable("/etc/passwd")).toThrow("EACCES: openat");
    readable("/etc"); // a directory, which this ruleset does not govern
  },
);
