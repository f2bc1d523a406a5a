/** Keys of the host's, where there is no room for a keyring of one's own: nothing starts with the host's. */
import { expect } from "bun:test";
import { fileURLToPath } from "node:url";
import { isRoot } from "../../platform/linux/ids.ts";
import { numberOf } from "../../syscalls/kernel.ts";
import { KEYCTL } from "../../syscalls/linux/numbers.ts";
import { testIf } from "../syscalls/requirement.ts";

const FIXTURE = fileURLToPath(new URL("./fixtures/keys.ts", import.meta.url));
/** Joins a new session keyring, as a login does. Whoever has none is given one beyond his quota. */
const LOGIN = `syscall(${numberOf("keyctl")}, ${KEYCTL.JOIN_SESSION_KEYRING}, 0) > 0 or die; exec @ARGV`;

const testKeys = testIf("keys", !isRoot(), "root has room for a million keys");

testKeys("a container does not start with the host's keyring where it can have none of its own: EDQUOT", async () => {
  const host = Bun.spawn(["perl", "-e", LOGIN, process.execPath, FIXTURE], { stderr: "inherit" });
  expect(JSON.parse(await host.stdout.text())).toEqual({
    before: 0,
    full: "EDQUOT",
    within: expect.stringContaining("EDQUOT: keyctl"),
  });
});
