/** Which tests run under which control groups of a guest: those whose outcome is the kernel's, and that end in minutes where a processor is imitated. */

/** What is kept by control groups, or says what they count. */
const GROUPS = [
  "tests/platform/cgroup/*.test.ts",
  "tests/platform/usage.test.ts",
  "tests/platform/container.test.ts",
  "tests/platform/confine.test.ts",
  "tests/attacks/{processes,namespaces,limits,disks,borders,lapses}.test.ts",
] as const;

const KERNEL = [
  "tests/platform/{rights,lacks,execute,launch}.test.ts",
  "tests/attacks/{files,filter}.test.ts",
  ...GROUPS,
] as const;

/** By what `guest.sh` sets up. */
export const FILES = {
  v2: KERNEL,
  v1: GROUPS,
  hybrid: GROUPS,
  systemd: GROUPS,
  service: ["tests/platform/cgroup/*.test.ts"],
  none: GROUPS,
} as const;

export type Groups = keyof typeof FILES;

export const isGroups = (word: string): word is Groups => Object.hasOwn(FILES, word);
