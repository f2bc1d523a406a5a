// The profile that Podman's containers run under, as Debian has it: read by `fromOci`, against libseccomp's own compilation of it.
import { describe, expect } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { compile, fromOci, toOci } from "../../../platform/linux/seccomp/index.ts";
import { NUMBERS } from "../../../syscalls/linux/numbers.ts";
import { testIf } from "../../syscalls/requirement.ts";
import { interpret, verify } from "../interpreter.ts";
import { compiledAsProfile, type JsonProfile, present, profileIn, testLibseccomp } from "./libseccomp.ts";
import { ARCH, EDGES, several, X32 } from "./rules.ts";

const path = process.env.CAISSON_CONTAINERS_PROFILE ?? "/usr/share/containers/seccomp.json";
const reason = `there is no ${path} (Debian: golang-github-containers-common)`;
const testProfile = testIf("containers-common", existsSync(path), reason);
const testBoth = present ? testProfile : testLibseccomp;

const ARCHES = { x64: "amd64", arm64: "arm64" } as const;
const CAPABILITIES = [
  ..."CAP_AUDIT_WRITE CAP_DAC_READ_SEARCH CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_SYS_MODULE CAP_SYS_PACCT".split(" "),
  ..."CAP_SYS_PTRACE CAP_SYS_RAWIO CAP_SYS_TIME CAP_SYS_TTY_CONFIG".split(" "),
];
/** What Podman gives a container, nothing, all, and each alone. */
const CONTAINERS: readonly (readonly string[])[] = [
  ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT"],
  [],
  CAPABILITIES,
  ...CAPABILITIES.map((name) => [name]),
];
const NUMBERS_ASKED = [...several(600, (nr) => nr), X32, X32 | 1, X32 | 511, 4095, 2 ** 31, -2];

interface Condition {
  readonly arches?: readonly string[];
  readonly caps?: readonly string[];
}
type Entry = JsonProfile["syscalls"][number] & { readonly includes: Condition; readonly excludes: Condition };

/** The entries that apply, as Podman picks them. */
function applicable(profile: JsonProfile, arch: string, held: readonly string[]): JsonProfile {
  const syscalls = (profile.syscalls as readonly Entry[]).filter(({ includes, excludes }) => {
    if (excludes.arches?.includes(arch) || excludes.caps?.some((name) => held.includes(name))) return false;
    return (includes.arches?.includes(arch) ?? true) && (includes.caps?.every((name) => held.includes(name)) ?? true);
  });
  return { ...profile, syscalls };
}

/** For all that the profile compares with, all combinations of such words in three arguments. */
function vectors({ syscalls }: JsonProfile): bigint[][] {
  const values = syscalls.flatMap(({ args }) => (args ?? []).map(({ value }) => BigInt(value)));
  const near = values.flatMap((value) => [value, value + 1n, value | (1n << 32n)]);
  const words = [...new Set([...near, ...EDGES])];
  const pairs = words.flatMap((one) => words.map((two) => [one, 0n, two]));
  return [...pairs, ...words.map((word) => [0n, word, 0n, word, word, word])];
}

describe.each(["x64", "arm64"] as const)("fromOci() for %s", (machine) => {
  const text = existsSync(path) ? readFileSync(path, "utf8") : "";
  const name = (number: number) => Object.entries(NUMBERS[machine]).find(([, other]) => other === number)?.[0];

  function disagreements(programs: readonly Uint8Array[], argumentLists: readonly (readonly bigint[])[]): unknown[] {
    const differ = (nr: number, args: readonly bigint[]) => {
      const results = programs.map((program) => interpret(program, { nr, arch: ARCH[machine], args }).result);
      return results.every((result) => result === results[0]) ? [] : [{ nr, call: name(nr), args, results }];
    };
    const tested = ["personality", "socket", "clone", "read"] as const;
    return [
      ...NUMBERS_ASKED.flatMap((nr) => [argumentLists[0]!, argumentLists.at(-1)!].flatMap((args) => differ(nr, args))),
      ...tested.flatMap((call) => argumentLists.flatMap((args) => differ(NUMBERS[machine][call], args))),
    ];
  }

  testBoth(
    "gives every call the verdict of libseccomp's compilation, whatever its arguments and the container",
    () => {
      const profile = profileIn(text);
      for (const capabilities of CONTAINERS) {
        const filter = fromOci(text, { machine, capabilities });
        const programs = [
          compile(filter),
          compiledAsProfile(applicable(profile, ARCHES[machine], capabilities), machine),
        ];
        for (const program of programs) verify(program);
        expect(disagreements(programs, vectors(profile))).toEqual([]);
      }
    },
    60_000,
  );

  testProfile(
    "and toOci() back and forth give the same verdicts",
    () => {
      for (const capabilities of CONTAINERS) {
        const filter = fromOci(JSON.parse(text), { machine, capabilities });
        const again = fromOci(JSON.stringify(toOci(filter)), { machine });
        expect(disagreements([compile(filter), compile(again)], vectors(profileIn(text)))).toEqual([]);
      }
    },
    60_000,
  );

  testProfile("lets through what is granted, and no more", () => {
    const verdict = (call: keyof (typeof NUMBERS)["x64"] & keyof (typeof NUMBERS)["arm64"], ...held: string[]) =>
      interpret(compile(fromOci(text, { machine, capabilities: held })), {
        nr: NUMBERS[machine][call],
        arch: ARCH[machine],
        args: [],
      }).result;
    expect(verdict("read")).toBe(0x7fff0000);
    expect(verdict("chroot")).toBe(0x50001); // EPERM
    expect(verdict("chroot", "CAP_SYS_CHROOT")).toBe(0x7fff0000);
    expect(verdict("kexec_load", ...CAPABILITIES)).toBe(0x50001);
    expect(verdict("landlock_add_rule")).toBe(0x7fff0000);
    expect(verdict("mseal")).toBe(0x50026); // ENOSYS: newer than the profile
  });
});
