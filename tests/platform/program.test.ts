import { afterAll, describe, expect, test } from "bun:test";
import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { librariesOf, readCache } from "../../platform/linux/linker.ts";
import { commandOf, type ProgramNeeds, programOf, shebangOf } from "../../platform/linux/program.ts";
import { puppetImage } from "../../platform/linux/puppet.ts";
import { NotRunnable } from "../../platform/platform.ts";
import { testIf } from "../syscalls/requirement.ts";

const CACHE = "/etc/ld.so.cache";
const PATH = "/usr/bin:/bin";
const testLdd = testIf("ldd", Bun.which("ldd") !== null, "there is no ldd (Debian: libc-bin)");
const testGcc = testIf("gcc", Bun.which("gcc") !== null, "there is no gcc");
const testBwrap = testIf("bubblewrap", Bun.which("bwrap") !== null, "there is no bwrap (Debian: bubblewrap)");

const directory = realpathSync(mkdtempSync(join(tmpdir(), "caisson-program-")));
chmodSync(directory, 0o755);
afterAll(() => rmSync(directory, { recursive: true }));
const here = (...parts: string[]) => join(directory, ...parts);

function script(name: string, text: string): string {
  mkdirSync(dirname(here(name)), { recursive: true });
  writeFileSync(here(name), text, { mode: 0o755 });
  return here(name);
}

function gcc(name: string, source: string, ...options: string[]): string {
  mkdirSync(dirname(here(name)), { recursive: true });
  writeFileSync(here("source.c"), source);
  const { exitCode, stderr } = Bun.spawnSync(["gcc", "-o", here(name), here("source.c"), ...options]);
  if (exitCode !== 0) throw new Error(stderr.toString());
  return here(name);
}

const targets = ({ files }: ProgramNeeds) => files.map(({ target }) => target);
const libraries = ({ files }: ProgramNeeds, ...programs: string[]) =>
  files.map(({ target }) => target).filter((target) => !programs.includes(target) && target !== CACHE);

function lddOf(program: string): string[] {
  const text = Bun.spawnSync(["ldd", program], { env: { PATH, LC_ALL: "C" } }).stdout.toString();
  return Array.from(text.matchAll(/^\t(?:\S+ => )?(\/\S+) \(0x/gm), ([, path]) => join(path!));
}

/** Runs a program with nothing but what it needs, and says how it ended and what it printed. */
function start(needs: ProgramNeeds, args: readonly string[] = [], data: readonly string[] = []): string {
  const binds = needs.files.flatMap(({ source, target }) => ["--ro-bind", source, target]);
  const more = data.flatMap((path) => ["--ro-bind", path, path]);
  const { exitCode, stdout, stderr } = Bun.spawnSync(
    ["bwrap", ...binds, ...more, "--proc", "/proc", "--dev", "/dev", "--unshare-all", needs.program, ...args],
    { env: { PATH, LC_ALL: "C" } },
  );
  return `${exitCode} ${stdout}${stderr}`;
}

/** How a file begins; nothing that opens it for writing too, for then nobody could run it. */
function headOf(path: string): string {
  const file = openSync(path, "r");
  try {
    const bytes = Buffer.alloc(256);
    return bytes.toString("latin1", 0, readSync(file, bytes));
  } finally {
    closeSync(file);
  }
}

/** Whether ldd can be asked about it. */
function isElf(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.X_OK);
    return headOf(path).startsWith("\x7fELF") && (statSync(path).mode & 0o6000) === 0;
  } catch {
    return false;
  }
}

describe("programOf() as ldd", () => {
  const named = "awk bash cat cp date diff env expr find git gpgv grep gzip head id ls mv openssl perl python3 sed";
  const more = `${named} sh sort ssh stat tail tar tee touch tr true uname wc who xargs xz bwrap curl gcc objdump`;
  const programs = more
    .split(" ")
    .map((name) => Bun.which(name, { PATH }))
    .filter((path) => path !== null)
    .filter(isElf);

  for (const program of programs) {
    testLdd(`places of ${program} what ldd lists, where ldd says`, () => {
      const needs = programOf(program);
      expect(libraries(needs, program, realpathSync(program)).sort()).toEqual([...new Set(lddOf(program))].sort());
      for (const { source, target } of needs.files) {
        expect(source).toBe(realpathSync(source));
        expect(source).toBe(realpathSync(target));
      }
    });
  }

  testLdd("holds for fifty programs of /usr/bin, taken evenly", () => {
    const all = readdirSync("/usr/bin")
      .map((name) => join("/usr/bin", name))
      .filter(isElf);
    const step = Math.max(1, Math.floor(all.length / 50));
    const some = all.filter((_, index) => index % step === 0);
    for (const program of some) {
      // By its real path: of a link, ldd looks for libraries beside the link.
      const found = libraries(programOf(realpathSync(program)), realpathSync(program));
      expect([program, ...found.sort()]).toEqual([program, ...[...new Set(lddOf(realpathSync(program)))].sort()]);
    }
  });
});

describe("programOf()", () => {
  test("places a program that a link names at the link and where it leads", () => {
    const program = programOf("sh", { path: PATH }).program;
    symlinkSync(realpathSync(program), here("shell"));
    const needs = programOf(here("shell"));
    expect(needs.program).toBe(here("shell"));
    expect(needs.files.slice(0, 2)).toEqual([
      { source: realpathSync(program), target: here("shell") },
      { source: realpathSync(program), target: realpathSync(program) },
    ]);
  });

  test("places a static program alone", () => {
    const path = here("static");
    writeFileSync(path, puppetImage(), { mode: 0o755 });
    expect(programOf(path)).toEqual({ program: path, files: [{ source: path, target: path }] });
  });

  testGcc("places a static program that moves itself alone", () => {
    const path = gcc("static-pie", "void _start(void) {}", "-static-pie", "-nostdlib");
    expect(targets(programOf(path))).toEqual([path]);
  });

  test("does not place the loader's cache for what stands in the loader's own directories", () => {
    expect(targets(programOf("sh", { path: PATH }))).not.toContain(CACHE);
  });

  test("looks in PATH in its order, passes over what cannot be executed, and takes no empty entry", () => {
    const second = script("b/tool", "#!/bin/sh\n");
    script("a/other", "");
    writeFileSync(here("a/tool"), "#!/bin/sh\n", { mode: 0o644 });
    mkdirSync(here("c/tool"), { recursive: true });
    const path = [here("c"), here("a"), "", here("b")].join(":");
    expect(programOf("tool", { path }).program).toBe(second);
    expect(() => programOf("tool", { path: ":", directory: here("b") })).toThrow(
      "Cannot find program tool: PATH is empty",
    );
    expect(programOf("./tool", { path: "", directory: here("b") }).program).toBe(second);
    expect(programOf("tool", { path: "b", directory }).program).toBe(second);
  });

  test("takes .. behind a link as the kernel does", () => {
    script("deep/tool", "#!/bin/sh\n");
    mkdirSync(here("deep/er"));
    mkdirSync(here("flat"), { recursive: true });
    symlinkSync(here("deep/er"), here("flat/link"));
    expect(programOf("flat/link/../tool", { directory }).program).toBe(here("deep/tool"));
  });

  test("finds again what it found, and sees that a program is another one", () => {
    const path = script("changing", "#!/bin/sh\n");
    const first = programOf(path);
    expect(programOf(path)).toBe(first);
    script("changed", "#!/bin/cat\n");
    renameSync(here("changed"), path);
    expect(targets(programOf(path))).toContain("/bin/cat");
  });

  const refused: Record<string, [() => string, string]> = {
    "what is in no directory of PATH": [() => "no-such-program", "looked in /usr/bin, /bin"],
    "what is not there": [() => here("absent"), "there is no such file"],
    "a directory": [() => directory, "it is a directory"],
    "a device": [() => "/dev/null", "it is not a regular file"],
    "what is not executable": [() => "/etc/passwd", "it is not executable"],
    "a link to itself": [
      () => {
        symlinkSync(here("loop"), here("loop"));
        return here("loop");
      },
      "there is no such file, or no way to it",
    ],
    "text without #!": [() => script("plain", "echo\n"), "it is neither an ELF program nor a script"],
    "an empty file": [() => script("empty", ""), "it is neither an ELF program nor a script"],
    "a truncated program": [() => script("cut", "\x7fELF"), "lies behind the end of the file"],
    "a script whose interpreter is not there": [
      () => script("dos", "#!/bin/sh\r\n"),
      'of its interpreter "/bin/sh\\r", there is no such file',
    ],
    "a script that leads to itself": [
      () => script("self", `#!${here("self")}\n`),
      "more than 5 scripts lead to one another",
    ],
    "a script for what env does not find": [
      () => script("lost", "#!/usr/bin/env no-such-program\n"),
      `Cannot find program no-such-program, which ${here("lost")} asks for: looked in /usr/bin, /bin`,
    ],
  };
  for (const [what, [make, reason]] of Object.entries(refused)) {
    test(`throws NotRunnable for ${what}`, () => {
      const name = make();
      expect(() => programOf(name, { path: PATH })).toThrow(NotRunnable);
      expect(() => programOf(name, { path: PATH })).toThrow(reason);
    });
  }

  test("throws a TypeError for what is no name", () => {
    expect(() => programOf("")).toThrow(TypeError);
    expect(() => programOf("a\0b")).toThrow(TypeError);
  });
});

describe("programOf() of scripts", () => {
  test("places the script, its interpreter, and what that needs", () => {
    const path = script("plain.sh", "#! \t/bin/sh -e \necho\n");
    const shell = programOf("/bin/sh");
    expect(targets(programOf(path))).toEqual([path, ...targets(shell)]);
  });

  test("follows five scripts, as the kernel does, and no sixth", () => {
    symlinkSync("/bin/true", here("script0"));
    for (let count = 1; count <= 6; count++) script(`script${count}`, `#!${here(`script${count - 1}`)}\n`);
    expect(Bun.spawnSync([here("script5")]).exitCode).toBe(0);
    expect(targets(programOf(here("script5")))).toContain(realpathSync("/bin/true"));
    expect(() => Bun.spawnSync([here("script6")])).toThrow("ELOOP");
    expect(() => programOf(here("script6"))).toThrow("more than 5 scripts");
  });

  test("follows env to the program that it looks up", () => {
    const tool = script("bin/tool", "#!/bin/cat\n");
    const path = `${here("bin")}:${PATH}`;
    for (const line of ["/usr/bin/env tool", "/usr/bin/env -S A=b tool -x", "/usr/bin/env -S -u HOME tool"]) {
      const asked = script("asks", `#!${line}\n`);
      expect(targets(programOf(asked, { path }))).toEqual(
        expect.arrayContaining([asked, "/usr/bin/env", tool, "/bin/cat"]),
      );
    }
  });

  test("ends where env leads back to the script", () => {
    const path = script("bin/again", "#!/usr/bin/env again\n");
    expect(targets(programOf(path, { path: here("bin") }))).toContain("/usr/bin/env");
  });

  for (const name of ["ldd", "pod2text", "gunzip", "which"]) {
    const path = Bun.which(name, { PATH });
    testIf(
      name,
      path !== null,
      `there is no ${name}`,
    )(`places the interpreter of ${name}`, () => {
      const line = shebangOf(headOf(path!));
      expect(targets(programOf(path!))).toEqual(expect.arrayContaining([path!, line!.interpreter]));
    });
  }
});

describe("shebangOf()", () => {
  const long = "x".repeat(300);
  const lines: [start: string, expected: [interpreter: string, argument: string] | undefined][] = [
    ["#!/bin/sh\n", ["/bin/sh", ""]],
    ["#!/bin/sh", ["/bin/sh", ""]],
    ["#! \t/bin/sh\t-e -x \t\nnext", ["/bin/sh", "-e -x"]],
    ["#!/bin/sh\0 -e\n", ["/bin/sh", ""]],
    ["#!\n/bin/sh\n", undefined],
    ["#! \t ", undefined],
    [" #!/bin/sh\n", undefined],
    ["#", undefined],
    [`#!/${long}\n`, undefined],
    [`#!/bin/sh ${long}\n`, ["/bin/sh", "x".repeat(245)]],
    ["#!/bin/\xc3\xa9\n", ["/bin/é", ""]],
  ];
  for (const [line, expected] of lines) {
    test(`reads ${JSON.stringify(line.slice(0, 30))}`, () => {
      const read = shebangOf(line);
      expect(read && [read.interpreter, read.argument]).toEqual(expected!);
    });
  }

  test("cuts a long line where the kernel does", () => {
    const path = script("long", `#!/bin/echo ${long}\n`);
    const printed = Bun.spawnSync([path]).stdout.toString().split(" ")[0];
    expect(shebangOf(`#!/bin/echo ${long}\n`)?.argument).toBe(printed!);
  });
});

describe("commandOf()", () => {
  const table: [argument: string, command: string | undefined][] = [
    ["", undefined],
    ["python3", "python3"],
    ["python3 -u", "python3 -u"],
    ["-i", undefined],
    ["-S python3 -u", "python3"],
    ["-Spython3 -u", "python3"],
    ["-vS A=1 B=2 python3", "python3"],
    ["-S -i -u NAME -C /tmp deno run", "deno"],
    ["--split-string=bun run", "bun"],
    ["-S", undefined],
  ];
  for (const [argument, command] of table) {
    test(`finds ${command} in ${JSON.stringify(argument)}`, () => expect(commandOf(argument)).toBe(command));
  }
});

describe("programOf() of programs with directories of their own", () => {
  const use = "int tiny(void); int main(void) { return tiny(); }";
  const tiny = "int tiny(void) { return 42; }";
  const library = (name: string, source = tiny, ...options: string[]) =>
    gcc(name, source, "-shared", "-fPIC", `-Wl,-soname,${basename(name)}`, ...options);
  const program = (name: string, from: string, ...options: string[]) =>
    gcc(name, use, "-Wl,--no-as-needed", `-L${here(from)}`, "-ltiny", ...options);

  testGcc("finds what stands beside it, by DT_RUNPATH and by DT_RPATH", () => {
    library("app/lib/libtiny.so");
    for (const tags of ["--enable-new-dtags", "--disable-new-dtags"]) {
      for (const origin of ["$ORIGIN", "$" + "{ORIGIN}"]) {
        const path = program("app/bin/tool", "app/lib", `-Wl,${tags},-rpath,${origin}/../lib`);
        expect(targets(programOf(path))).toContain(here("app/lib/libtiny.so"));
        expect(lddOf(path)).toContain(here("app/lib/libtiny.so"));
      }
    }
  });

  testGcc("finds it beside the link that the program is called by, as well", () => {
    library("opt/lib/libtiny.so");
    const path = program("opt/bin/tool", "opt/lib", "-Wl,-rpath,$ORIGIN/../lib");
    mkdirSync(here("usr/bin"), { recursive: true });
    symlinkSync(path, here("usr/bin/tool"));
    const needs = programOf(here("usr/bin/tool"));
    const source = here("opt/lib/libtiny.so");
    expect(needs.files).toContainEqual({ source, target: here("opt/lib/libtiny.so") });
    expect(needs.files).toContainEqual({ source, target: here("usr/lib/libtiny.so") });
  });

  testGcc("hands DT_RPATH on to libraries, and DT_RUNPATH not", () => {
    library("chain/lib/libfinish.so", "int finish(void) { return 42; }");
    const middle = "int finish(void); int tiny(void) { return finish(); }";
    library("chain/lib/libtiny.so", middle, `-L${here("chain/lib")}`, "-lfinish");
    const link = [`-Wl,-rpath-link,${here("chain/lib")}`];
    const inherits = program("chain/rpath", "chain/lib", ...link, "-Wl,--disable-new-dtags,-rpath,$ORIGIN/lib");
    expect(targets(programOf(inherits))).toContain(here("chain/lib/libfinish.so"));
    expect(Bun.spawnSync([inherits]).exitCode).toBe(42);
    const alone = program("chain/runpath", "chain/lib", ...link, "-Wl,--enable-new-dtags,-rpath,$ORIGIN/lib");
    expect(() => programOf(alone)).toThrow('the library "libfinish.so" of');
    expect(() => programOf(alone)).toThrow("is nowhere that its loader looks");
    expect(Bun.spawnSync([alone]).exitCode).toBe(127);
  });

  testGcc("expands $LIB and $PLATFORM as the loader does", () => {
    for (const token of ["$LIB", "$PLATFORM"]) {
      const path = program("token/tool", "app/lib", `-Wl,-rpath,$ORIGIN/${token}`);
      const trace = Bun.spawnSync([path], { env: { LD_DEBUG: "libs" } }).stderr.toString();
      const tried = Array.from(trace.matchAll(/trying file=(\S+)/g), ([, file]) => file!);
      const last = tried.filter((file) => file.startsWith(here("token"))).at(-1)!;
      mkdirSync(dirname(last), { recursive: true });
      copyFileSync(here("app/lib/libtiny.so"), last);
      expect(targets(programOf(path))).toContain(last);
    }
  });

  testGcc("passes over what is no library of this machine, and says so where there is no other", () => {
    const path = program("bad/tool", "app/lib", `-Wl,-rpath,${here("bad/first")}:${here("bad/second")}`);
    mkdirSync(here("bad/first"), { recursive: true });
    writeFileSync(here("bad/first/libtiny.so"), "secret");
    expect(() => programOf(path)).toThrow(`${here("bad/first/libtiny.so")} cannot be loaded: its ELF header`);
    library("bad/second/libtiny.so");
    expect(targets(programOf(path))).toContain(here("bad/second/libtiny.so"));
    expect(targets(programOf(path))).not.toContain(here("bad/first/libtiny.so"));
  });

  testGcc("never places what is no program as its loader", () => {
    const path = gcc("thief", "void _start(void) {}", "-nostdlib", "-Wl,--dynamic-linker=/etc/passwd", "-pie");
    expect(() => programOf(path)).toThrow('its loader "/etc/passwd" cannot be loaded: it is not an ELF file');
  });

  testGcc("takes libraries for better processors as well", () => {
    if (process.arch !== "x64") return;
    const path = program("caps/tool", "app/lib", "-Wl,-rpath,$ORIGIN/lib");
    library("caps/lib/libtiny.so");
    library("caps/lib/glibc-hwcaps/x86-64-v3/libtiny.so");
    expect(targets(programOf(path))).toEqual(
      expect.arrayContaining([here("caps/lib/libtiny.so"), here("caps/lib/glibc-hwcaps/x86-64-v3/libtiny.so")]),
    );
  });

  testGcc("makes directories that a path climbs out of", () => {
    library("climb/lib/libtiny.so");
    mkdirSync(here("climb/empty"), { recursive: true });
    const path = program("climb/tool", "climb/lib", `-Wl,-rpath,${here("climb/empty")}/../lib`);
    const source = here("climb/lib/libtiny.so");
    expect(programOf(path).files).toContainEqual({ source, target: here("climb/empty/libtiny.so") });
  });

  const canMusl = Bun.which("gcc") !== null && process.arch === "x64" && existsSync("/lib/ld-musl-x86_64.so.1");
  const testMusl = testIf("musl", canMusl, "there is no gcc, or no musl (Debian: musl)");
  testMusl("looks as musl does, by its own list, in a tree", () => {
    const root = here("alpine");
    for (const part of ["bin", "lib", "etc", "opt/lib"]) mkdirSync(join(root, part), { recursive: true });
    copyFileSync("/lib/ld-musl-x86_64.so.1", join(root, "lib/ld-musl-x86_64.so.1"));
    library("alpine/opt/lib/libtiny.so", tiny, "-nostdlib");
    gcc(
      "alpine/bin/tool",
      `int tiny(void); void _start(void) { __asm__("syscall" : : "a"(60), "D"(tiny())); }`,
      "-nostdlib",
      "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1,--no-as-needed",
      `-L${here("alpine/opt/lib")}`,
      "-ltiny",
      "/lib/x86_64-linux-gnu/libc.so.6",
    );
    symlinkSync("/bin/tool", join(root, "bin/call"));
    expect(() => programOf("call", { root, path: "/bin" })).toThrow('the library "libtiny.so" of /bin/tool is nowhere');
    writeFileSync(join(root, "etc/ld-musl-x86_64.path"), "/lib\n/opt/lib\n");
    const needs = programOf("call", { root, path: "/bin" });
    expect(needs).toEqual({
      program: "/bin/call",
      files: [
        { source: join(root, "bin/tool"), target: "/bin/call" },
        { source: join(root, "bin/tool"), target: "/bin/tool" },
        { source: join(root, "lib/ld-musl-x86_64.so.1"), target: "/lib/ld-musl-x86_64.so.1" },
        { source: join(root, "opt/lib/libtiny.so"), target: "/opt/lib/libtiny.so" },
        { source: join(root, "etc/ld-musl-x86_64.path"), target: "/etc/ld-musl-x86_64.path" },
      ],
    });
    if (Bun.which("bwrap") !== null) expect(start(needs)).toBe("42 ");
  });

  const testTree = testIf(
    "gcc",
    Bun.which("gcc") !== null && Bun.which("ldconfig", { PATH: "/sbin:/usr/sbin" }) !== null,
    "there is no gcc or ldconfig",
  );
  testTree("finds in a tree what its own ld.so.cache names, and places the cache", () => {
    const root = here("tree");
    const program = programOf("/bin/true");
    for (const { source, target } of program.files) {
      mkdirSync(join(root, dirname(target)), { recursive: true });
      copyFileSync(source, join(root, target));
    }
    mkdirSync(join(root, "etc"), { recursive: true });
    writeFileSync(join(root, "etc/ld.so.conf"), "/opt/special\n");
    library("tree/opt/special/libtiny.so");
    gcc("tree/bin/tool", use, "-Wl,--no-as-needed", `-L${here("tree/opt/special")}`, "-ltiny");
    expect(() => programOf("/bin/tool", { root })).toThrow('the library "libtiny.so"');
    const found = Bun.which("bwrap") !== null;
    for (const format of ["old", "compat", "new"]) {
      const made = Bun.spawnSync(["/sbin/ldconfig", "-r", root, "-X", "-c", format]);
      expect([made.exitCode, made.stderr.toString()]).toEqual([0, expect.any(String)]);
      const { files } = programOf("/bin/tool", { root });
      expect(files).toContainEqual({ source: join(root, "opt/special/libtiny.so"), target: "/opt/special/libtiny.so" });
      expect(files).toContainEqual({ source: join(root, CACHE), target: CACHE });
      if (found) {
        expect(start({ program: "/bin/tool", files })).toBe("42 ");
        const without = files.filter(({ target }) => target !== CACHE);
        expect(start({ program: "/bin/tool", files: without })).toContain("libtiny.so: cannot open shared object file");
      }
      rmSync(join(root, CACHE));
    }
  });

  test("keeps links of a tree within it", () => {
    const root = here("jail");
    mkdirSync(join(root, "bin"), { recursive: true });
    for (const [name, link] of [
      ["out", "/bin/sh"],
      ["up", "../../../../../../../../bin/sh"],
    ] as const) {
      symlinkSync(link, join(root, "bin", name));
      expect(() => programOf(`/bin/${name}`, { root })).toThrow("there is no such file");
    }
    writeFileSync(join(root, "bin/sh"), puppetImage(), { mode: 0o755 });
    for (const name of ["/bin/out", "/bin/up"])
      expect(programOf(name, { root }).files).toContainEqual({ source: join(root, "bin/sh"), target: "/bin/sh" });
  });
});

describe("librariesOf()", () => {
  const interpreter = programOf("sh", { path: PATH }).files.find(({ target }) => /\/ld-[^/]*$/.test(target))?.target;
  const testGlibc = testIf("glibc", interpreter !== undefined, "/bin/sh has no loader");
  const none = { interpreter, soname: undefined, rpath: undefined, runpath: undefined };
  const program = { host: "/bin/sh", inside: "/bin/sh" };
  const only = (path: string) => (path === interpreter ? realpathSync(path) : undefined);

  testGlibc("gives up on a program that names libraries without end", () => {
    const needed = Array.from({ length: 2000 }, (_, index) => `lib${index}.so`);
    const tree = { directory: "/", locate: () => realpathSync(interpreter!) };
    expect(() => librariesOf(tree, program, { ...none, needed })).toThrow("it needs more than 1024 libraries");
    expect(librariesOf(tree, program, { ...none, needed: needed.slice(0, 100) }).length).toBeGreaterThan(100);
  });

  testGlibc("gives up on a program that names directories without end", () => {
    const elf = { ...none, needed: ["libone.so"] };
    const tree = { directory: "/", locate: only };
    const runpath = "/a:".repeat(70_000);
    expect(() => librariesOf(tree, program, { ...elf, runpath })).toThrow("could be at more than 65536 places");
    expect(() => librariesOf(tree, program, { ...elf, runpath: "/a" })).toThrow("is nowhere that its loader looks");
  });
});

describe("readCache()", () => {
  const flags = process.arch === "arm64" ? 0xa03 : 0x303;
  const strings = Buffer.from("libone.so\0/a/libone.so\0/b/libone.so\0relative\0");
  const [name, first, second, relative] = [0, 10, 23, 36];
  type Entry = readonly [flags: number, key: number, value: number];

  function made(entries: readonly Entry[], count = entries.length): Buffer {
    const [header, size] = [48, 24];
    const table = Buffer.alloc(header + size * entries.length);
    table.write("glibc-ld.so.cache1.1");
    table.writeUInt32LE(count, 20);
    for (const [index, [flag, key, value]] of entries.entries()) {
      table.writeInt32LE(flag, header + size * index);
      table.writeUInt32LE(Math.min(key + table.length, 0xffffffff), header + size * index + 4);
      table.writeUInt32LE(Math.min(value + table.length, 0xffffffff), header + size * index + 8);
    }
    return Buffer.concat([table, strings]);
  }

  function old(entries: readonly Entry[]): Buffer {
    const table = Buffer.alloc(16 + 12 * entries.length);
    table.write("ld.so-1.7.0");
    table.writeUInt32LE(entries.length, 12);
    for (const [index, [flag, key, value]] of entries.entries()) {
      table.writeInt32LE(flag, 16 + 12 * index);
      table.writeUInt32LE(key, 20 + 12 * index);
      table.writeUInt32LE(value, 24 + 12 * index);
    }
    return table;
  }

  const entries = [
    [flags, name, first],
    [flags, name, second],
  ] as const;
  const both = ["/a/libone.so", "/b/libone.so"];

  test("reads all entries of a name in the new format", () => {
    expect(readCache(made(entries))("libone.so")).toEqual(both);
    expect(readCache(made(entries))("libtwo.so")).toEqual([]);
  });

  test("reads the old format", () => {
    expect(readCache(Buffer.concat([old(entries), strings]))("libone.so")).toEqual(both);
  });

  test("reads the new format within the old one", () => {
    const outer = old([[flags, 0, 0]]);
    const padding = Buffer.alloc(Math.ceil(outer.length / 8) * 8 - outer.length);
    expect(readCache(Buffer.concat([outer, padding, made(entries)]))("libone.so")).toEqual(both);
  });

  test("passes over other machines' entries and what is no absolute path", () => {
    expect(readCache(made([[3, name, first], [flags, name, relative], entries[1]]))("libone.so")).toEqual([
      "/b/libone.so",
    ]);
  });

  test("survives counts and offsets that lie, and files that are cut off", () => {
    expect(readCache(made(entries, 0xffffffff))("libone.so")).toEqual(both);
    expect(
      readCache(
        made([
          [flags, name, 0xffffffff],
          [flags, 0xffffffff, first],
        ]),
      )("libone.so"),
    ).toEqual([]);
    const whole = made(entries);
    for (let length = 0; length < whole.length; length++)
      expect(readCache(whole.subarray(0, length))("libone.so").length).toBeLessThan(3);
    const lying = old(entries);
    lying.writeUInt32LE(0xffffffff, 12);
    expect(readCache(lying)("libone.so")).toEqual([]);
  });
});

describe("what programOf() finds suffices", () => {
  const PYTHON = ["/usr/lib/python3.11", "/usr/lib/python3.12", "/usr/lib/python3.13", "/usr/lib/python3"];
  const cases: [name: string, args: string[], printed: string | RegExp, data?: string[]][] = [
    ["ls", ["/"], /^0 .*usr/s],
    ["awk", ["BEGIN { print 6 * 7 }"], "0 42\n"],
    ["sh", ["-c", "echo $((6*7))"], "0 42\n"],
    ["bash", ["-c", "echo 42"], "0 42\n"],
    ["git", ["--version"], /^0 git version/],
    ["perl", ["-e", "print 42"], "0 42"],
    ["python3", ["-c", "print(42)"], "0 42\n", PYTHON.filter(existsSync)],
    ["tar", ["--version"], /^0 tar/],
    ["openssl", ["version"], /^0 OpenSSL/],
    ["busybox", ["echo", "42"], "0 42\n"],
    ["ldd", ["--version"], /^0 ldd/],
  ];
  for (const [name, args, printed, data] of cases) {
    if (Bun.which(name, { PATH }) === null) continue;
    testBwrap(`for ${name}`, () => expect(start(programOf(name, { path: PATH }), args, data)).toMatch(printed));
  }

  testBwrap("and each of it is needed: without one library the loader says which", () => {
    const needs = programOf("/bin/ls");
    for (const missing of libraries(needs, "/bin/ls", realpathSync("/bin/ls")).filter((path) => !/\/ld-/.test(path))) {
      const rest = { ...needs, files: needs.files.filter(({ target }) => target !== missing) };
      expect(start(rest, ["/"])).toContain(`${basename(missing)}: cannot open shared object file`);
    }
  });

  const testBoth = testIf("bubblewrap", Bun.which("bwrap") !== null && Bun.which("gcc") !== null, "no bwrap or gcc");
  testBoth("for scripts, and for programs with directories of their own, by each of their paths", () => {
    const path = script("started.sh", "#!/usr/bin/env -S awk -f\nBEGIN { print 42 }\n");
    expect(start(programOf(path, { path: PATH }))).toBe("0 42\n");
    const library = "start/lib/libtiny.so";
    gcc(library, "int tiny(void) { return 42; }", "-shared", "-fPIC", "-Wl,-soname,libtiny.so");
    mkdirSync(here("start/empty"));
    mkdirSync(here("called"));
    const run = ["$ORIGIN/../lib", `${here("start/empty")}/../lib`].map((place, index) => {
      const name = `start/bin/tool${index}`;
      const search = [`-L${here("start/lib")}`, "-ltiny", `-Wl,-rpath,${place}`];
      return gcc(name, "int tiny(void); int main(void) { return tiny(); }", ...search);
    });
    for (const tool of run) {
      expect(start(programOf(tool))).toBe("42 ");
      const link = here("called", basename(tool));
      symlinkSync(tool, link);
      expect(start(programOf(link))).toBe("42 ");
    }
  });
});
