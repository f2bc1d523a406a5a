import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, closeSync, existsSync, openSync, readFileSync, statSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { NotRunnable } from "../../platform/index.ts";
import { LimitExceeded } from "../../src/error.ts";
import { exec, type RunOptions, run } from "../../src/exec.ts";
import { bind, text, tmpfs } from "../../src/mounts.ts";
import { failure, scratch, until } from "../attacks/arena.ts";
import { holdings, root, settled, testBox } from "./box.ts";

setDefaultTimeout(120_000); // programs by the dozen, on machines that may be busy

const PATH = "/usr/bin:/bin";

/** Runs a shell with these programs beside it. */
async function sh(
  script: string,
  { sandbox = {}, env = {}, ...options }: RunOptions = {},
  tools: readonly string[] = [],
) {
  const run_ = [...(sandbox.run ?? []), ...tools];
  return await run(["sh", "-c", script], {
    ...options,
    sandbox: { ...sandbox, run: run_ },
    env: { PATH, LC_ALL: "C", ...env },
  });
}

describe("run()", () => {
  testBox("gives the exit code, what was printed on each stream, and what was used", async () => {
    const result = await sh("echo out; echo err >&2; exit 7");
    expect(result).toMatchObject({ exitCode: 7, signal: null });
    expect(result.stdout.toString()).toBe("out\n");
    expect(result.stderr.toString()).toBe("err\n");
    expect(Buffer.isBuffer(result.stdout)).toBe(true);
    expect(result.usage.cpuMs).toBeGreaterThan(0);
    expect(result.usage.peakBytes).toBeWithin(2 ** 18, 2 ** 26);
  });

  testBox("gives the signal, and no exit code then", async () => {
    expect(await sh("kill -TERM $$")).toMatchObject({ exitCode: null, signal: "SIGTERM" });
    expect(await sh("kill -KILL $$")).toMatchObject({ exitCode: null, signal: "SIGKILL" });
  });

  testBox("passes input through, whole and unchanged", async () => {
    const bytes = new Uint8Array(1_000_000).map((_, index) => (index * 31) % 256);
    const { stdout } = await run(["cat"], { stdin: bytes });
    expect(Buffer.compare(stdout, Buffer.from(bytes))).toBe(0);
  });

  testBox("shows the program itself, what it needs, and nothing else of the host", async () => {
    const secret = scratch();
    using _ = secret;
    writeFileSync(join(secret.path, "secret"), "secret");
    const { stdout } = await run(["ls", "-A", "/"]);
    expect(
      stdout
        .toString()
        .split("\n")
        .filter((name) => ["home", "root", "tmp", "etc", "var", "sys"].includes(name)),
    ).toEqual([]);
    const reading = await run(["cat", join(secret.path, "secret")]);
    expect(reading.stderr.toString()).toContain("No such file or directory");
    const granted = await run(["cat", join(secret.path, "secret")], { sandbox: { read: [secret.path] } });
    expect(granted.stdout.toString()).toBe("secret");
  });

  testBox("grants reading and writing apart", async () => {
    using place = scratch();
    const [read, write] = ["read", "write"].map((name) => place.directory(name)) as [string, string];
    const sandbox = { read: [read], write: [write] };
    const { stderr } = await sh(`echo x > ${write}/made; echo x > ${read}/made`, { sandbox });
    expect(stderr.toString()).toContain("Read-only file system");
    expect(readFileSync(join(write, "made"), "utf8")).toBe("x\n");
    expect(existsSync(join(read, "made"))).toBe(false);
    expect(statSync(join(write, "made")).uid).toBe(process.getuid!());
  });

  testBox("grants other programs by name, and only those can be run", async () => {
    expect((await sh("cat /proc/self/comm", {}, ["cat"])).stdout.toString()).toBe("cat\n");
    const { exitCode, stderr } = await sh("cat /proc/self/comm");
    expect(exitCode).toBe(127);
    expect(stderr.toString()).toContain("not found");
  });

  testBox("takes more of a root from files", async () => {
    const files = [tmpfs("/tmp", { size: "1 MiB" }), text("/etc/greeting", "hello\n"), bind("/etc/hostname", "/name")];
    const { stdout, stderr } = await sh("cat /etc/greeting > /tmp/x; cat /tmp/x; cat /name > /tmp/y", { files }, [
      "cat",
    ]);
    expect([stdout.toString(), stderr.toString()]).toEqual(["hello\n", ""]);
  });

  testBox("rejects with LimitExceeded when it prints too much, and nothing of it is left", async () => {
    const before = holdings();
    const endless = "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done";
    for (const script of [endless, `${endless} >&2`]) {
      const error = await failure(sh(script, { sandbox: { limits: { output: "100 KiB" } } }));
      expect(error).toBeInstanceOf(LimitExceeded);
      expect(error).toMatchObject({ limit: "output" });
    }
    const limited = (script: string) => sh(script, { sandbox: { limits: { outputBytes: 1000 } } }, ["head"]);
    expect((await limited("head -c 1000 /dev/zero")).stdout.length).toBe(1000);
    for (const script of ["head -c 1001 /dev/zero", "head -c 500 /dev/zero; head -c 501 /dev/zero >&2"])
      expect(await failure(limited(script))).toMatchObject({ name: "LimitExceeded", limit: "output" });
    await settled(before);
  });

  testBox("rejects with LimitExceeded when it takes too long", async () => {
    const error = await failure(run(["sleep", "1000"], { sandbox: { limits: { wallTime: "50 ms" } } }));
    expect(error).toBeInstanceOf(LimitExceeded);
    expect(error).toMatchObject({ limit: "wallTime" });
  });

  /** A program in a container whose output this process can write to as well, as what outlives a program can; `go` ends it. */
  async function shared(options: RunOptions) {
    const place = scratch();
    chmodSync(place.path, 0o777); // root's container is nobody
    const script = 'echo $$ >"$0/new"; mv "$0/new" "$0/pid"; until [ -e "$0/go" ]; do sleep 0.01; done';
    const container = { namespaces: ["user", "mount"], ...options.container } as const;
    const done = run(["/bin/sh", "-c", script, place.path], { ...options, container, env: { PATH } });
    await until(() => existsSync(join(place.path, "pid")));
    const pid = readFileSync(join(place.path, "pid"), "utf8").trim();
    const output = openSync(`/proc/${pid}/fd/1`, "w");
    return {
      done,
      output,
      async go() {
        writeFileSync(join(place.path, "go"), "");
        await until(() => !existsSync(`/proc/${pid}`));
      },
      [Symbol.dispose]() {
        closeSync(output);
        place[Symbol.dispose]();
      },
    };
  }

  testBox("waits for what others print who outlive it, until its wallTime is over", async () => {
    let done: ReturnType<typeof run>;
    {
      using waited = await shared({});
      done = waited.done;
      await waited.go();
      writeSync(waited.output, "later");
    }
    expect(await done).toMatchObject({ exitCode: 0, stdout: Buffer.from("later") });
    using held = await shared({ container: { limits: { wallTime: "5 s" } } }); // of which its start takes a part
    await held.go();
    expect(await failure(held.done)).toMatchObject({ name: "LimitExceeded", limit: "wallTime" });
  });

  testBox("waits for no others where it was ended itself, and gives what was printed", async () => {
    const ending = new AbortController();
    using held = await shared({ signal: ending.signal });
    writeSync(held.output, "so far");
    ending.abort();
    expect(await held.done).toMatchObject({ exitCode: null, signal: "SIGKILL", stdout: Buffer.from("so far") });
  });

  testBox(
    "rejects with LimitExceeded when it uses up its processor time, by itself or by all that it starts",
    async () => {
      const busy = "while :; do :; done";
      const short = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
      for (const script of [busy, `(${busy}) & (${busy}) & wait`, `while :; do (${short}); done`]) {
        const error = await failure(sh(script, { sandbox: { limits: { cpuTime: "300 ms" } } }));
        expect(error).toMatchObject({ name: "LimitExceeded", limit: "cpuTime" });
      }
      expect((await sh(short, { sandbox: { limits: { cpuTime: "10 s" } } })).exitCode).toBe(0);
    },
  );

  testBox("refuses memory beyond the limit, and gives it below", async () => {
    const grow = (mib: number) => `x=$(head -c ${mib * 2 ** 20} /dev/zero | tr '\\0' x); echo \${#x}`;
    const limited = async (mib: number) =>
      await sh(grow(mib), { sandbox: { limits: { memory: "64 MiB" } } }, ["head", "tr"]);
    expect((await limited(4)).stdout.toString()).toBe(`${4 * 2 ** 20}\n`);
    const refused = await limited(200);
    expect(refused.stdout.toString()).toBe("");
    expect(refused.exitCode).not.toBe(0);
  });

  testBox("limits descriptors, processes and the size of files", async () => {
    using place = scratch();
    const write = place.directory("write");
    const limits = { files: 40, processes: 20, fileSizeBytes: 4096 };
    const { stdout } = await sh("ulimit -n; ulimit -f; ulimit -p", { sandbox: { limits } });
    // The puppet counts as well; and where a control group counts processes, that is to refuse first.
    expect(stdout.toString()).toMatch(/^40\n8\n2[12]\n$/);
    const large = await sh(`head -c 10000 /dev/zero > ${write}/x`, { sandbox: { limits, write: [write] } }, ["head"]);
    expect(large.exitCode).not.toBe(0);
    expect(statSync(join(write, "x")).size).toBe(4096);
    const forks = "i=0; while [ $i -lt 40 ]; do sleep 1000 & i=$((i+1)); done; kill -KILL $$";
    const many = await sh(forks, { sandbox: { limits } }, ["sleep"]);
    expect(many.stderr.toString()).toContain("Cannot fork");
  });

  testBox("gives the environment of the sandbox, of the options over it, and nothing of ours", async () => {
    const { stdout } = await run(["env"], { sandbox: { env: { A: "sandbox", B: "sandbox" } }, env: { B: "options" } });
    expect(stdout.toString().trim().split("\n").sort()).toEqual(["A=sandbox", "B=options"]);
  });

  testBox("names a proxy in the environment where net grants a host, and only there", async () => {
    const env = async (net: string[]) => {
      const { stdout } = await run(["env"], { sandbox: { net } });
      return Object.fromEntries(
        stdout
          .toString()
          .trim()
          .split("\n")
          .filter(Boolean)
          .map((line) => line.split("=", 2)),
      );
    };
    expect(await env([])).toEqual({});
    const granted = await env(["example.com:443"]);
    const names = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
    expect(Object.keys(granted).sort()).toEqual(names.sort());
    expect(granted.http_proxy).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
    expect(granted.all_proxy).toBe(granted.http_proxy!.replace("http", "socks5h"));
  });

  testBox("with a network granted ends as well: its code, its signal, its stop", async () => {
    const sandbox = { net: ["example.com:443"] };
    expect(await sh("exit 3", { sandbox })).toMatchObject({ exitCode: 3, signal: null });
    expect(await sh("kill -KILL $$", { sandbox })).toMatchObject({ exitCode: null, signal: "SIGKILL" });
    const before = holdings();
    await using program = await exec(["sleep", "1000"], { sandbox });
    program.kill("SIGTERM");
    expect(await program.exited).toBe(143);
    await program[Symbol.asyncDispose]();
    await settled(before);
  });
});

describe("exec()", () => {
  testBox("has the program's streams, and ends all that it started with it", async () => {
    await using program = await exec(["sh", "-c", "sleep 1000 & echo up; read line; echo $line"], {
      stdin: "pipe",
      sandbox: { run: ["sleep"] },
      env: { PATH },
    });
    const reader = program.stdout!.getReader();
    expect(Buffer.from((await reader.read()).value!).toString()).toBe("up\n");
    const writer = program.stdin!.getWriter();
    await writer.write(Buffer.from("typed\n"));
    expect(Buffer.from((await reader.read()).value!).toString()).toBe("typed\n");
    expect(await program.exited).toBe(0);
    // The sleep had it open as well.
    expect((await reader.read()).done).toBe(true);
  });

  testBox("tells what keeps each guarantee", async () => {
    await using program = await exec(["true"]);
    expect(program.enforcement?.files).toContain("mount namespace");
    expect(program.enforcement?.memory).toContain("RLIMIT_DATA of each process");
    expect(await program.exited).toBe(0);
  });

  testBox("passes signals on, each as it is", async () => {
    await using program = await exec(
      ["sh", "-c", "trap 'echo usr1' USR1; trap 'echo term; exit 5' TERM; echo up; while :; do sleep 0.01; done"],
      {
        sandbox: { run: ["sleep"] },
        env: { PATH },
      },
    );
    const reader = program.stdout!.getReader();
    const line = async () => Buffer.from((await reader.read()).value ?? []).toString();
    expect(await line()).toBe("up\n");
    program.kill("SIGUSR1");
    expect(await line()).toBe("usr1\n");
    program.kill("SIGTERM");
    expect(await line()).toBe("term\n");
    expect(await program.exited).toBe(5);
  });

  testBox("init: false makes the program the first process: its code, its signal", async () => {
    const first = await sh("echo $$; exit 9", { init: false });
    expect(first.stdout.toString()).toBe("1\n");
    expect(first).toMatchObject({ exitCode: 9, signal: null });
    await using program = await exec(["sleep", "1000"], { init: false });
    program.kill();
    expect(await program.exited).toBe(137);
    expect(program.signalCode).toBe("SIGKILL");
    const failed = await failure(exec(["true"], { init: false, cwd: "/none" }));
    expect(failed).toMatchObject({ code: "ENOENT", syscall: "chdir" });
  });

  testBox("gives descriptors at any number, the puppet's own among them", async () => {
    using place = scratch();
    const file = join(place.path, "file");
    writeFileSync(file, "through");
    for (const init of [true, false]) {
      for (const number of [3, 4, 5, 99, 100, 101, 150, 199, 200, 201, 210]) {
        const descriptor = openSync(file, "r");
        const { stdout, stderr } = await sh(
          `readlink /proc/self/fd/${number}; ls /proc/self/fd`,
          { init, descriptors: { [number]: descriptor } },
          ["readlink", "ls"],
        );
        closeSync(descriptor);
        const listing = number === 3 ? "4" : "3";
        const shown = ["0", "1", "2", `${number}`, listing].sort();
        expect([number, stdout.toString(), stderr.toString()]).toEqual([number, `${file}\n${shown.join("\n")}\n`, ""]);
      }
    }
  });

  testBox("rejects before anything exists, and leaves nothing", async () => {
    const before = holdings();
    const script = "/no/such/program";
    const refused: [() => Promise<unknown>, unknown][] = [
      [() => exec([]), TypeError],
      [() => exec([script]), NotRunnable],
      [() => exec(["no-such-program-at-all"]), NotRunnable],
      [() => exec(["true"], { sandbox: { run: [script] } }), NotRunnable],
      [() => exec(["true"], { colour: 1 } as never), TypeError],
      [() => exec(["true"], { sandbox: { reed: [] } as never }), TypeError],
      [() => exec(["true"], { sandbox: { limits: { memoryBytes: -1 } } }), RangeError],
      [() => exec(["true"], { sandbox: { limits: { memory: "1 MiB" } } }), RangeError],
      [() => exec(["true"], { sandbox: { limits: { messages: 8 } } }), TypeError],
      [() => exec(["true"], { sandbox: { limits: { cpu: 0 } } }), RangeError],
      [() => exec(["true"], { sandbox: { limits: { processes: 0 } } }), RangeError],
      [() => exec(["true"], { sandbox: { read: ["/"] } }), TypeError],
      [() => exec(["true"], { sandbox: { read: ["/proc/self"] } }), TypeError],
      [() => exec(["true"], { sandbox: { net: ["example.com"] } }), Error],
      [() => run(["true"], { sandbox: { limits: { outputBytes: 0 } } }), RangeError],
      [() => exec(["true"], { sandbox: { limits: { output: "1 MiB" } }, stdout: "inherit" }), TypeError],
      [() => exec(["true"], { sandbox: { limits: { output: "1 MiB" } }, stderr: 2 }), TypeError],
      [() => exec(["true"], { rlimits: { CPU: 1 } }), TypeError],
      [() => exec(["true"], { user: 0 }), TypeError],
      [() => exec(["true"], { capabilities: "all" }), TypeError],
      [() => exec(["true"], { noNewPrivileges: false }), TypeError],
      [() => exec(["true"], { sandbox: {}, container: {} }), TypeError],
    ];
    for (const [index, [attempt, kind]] of refused.entries())
      expect([index, await failure(attempt())]).toEqual([index, expect.any(kind as never)]);
    await settled(before);
  });

  testBox("rejects with the errno of a start that fails, and leaves nothing", async () => {
    await run(["true"]);
    const before = holdings();
    const failures: [() => Promise<unknown>, object][] = [
      [() => exec(["true"], { cwd: "/none" }), { code: "ENOENT", syscall: "chdir" }],
      [() => exec(["true"], { affinity: [1000] }), { code: "EINVAL" }],
      [() => exec(["true"], { descriptors: { 5: 65000 } }), { code: "EBADF" }],
      [() => exec(["true"], { files: [bind("/usr", "/proc/none")] }), { code: "ENOENT" }],
    ];
    for (const [index, [attempt, error]] of failures.entries())
      expect([index, await failure(attempt())]).toEqual([index, expect.objectContaining(error)]);
    await settled(before);
  });

  testBox("an AbortSignal ends it", async () => {
    const controller = new AbortController();
    await using program = await exec(["sleep", "1000"], { signal: controller.signal });
    controller.abort();
    expect(await program.exited).toBe(137);
    expect(await failure(exec(["true"], { signal: AbortSignal.abort(new Error("never")) }))).toMatchObject({
      message: "never",
    });
  });

  testBox("a hundred programs, twenty at once, leave descriptors and children as they were", async () => {
    await run(["true"]);
    const before = holdings();
    for (let round = 0; round < 5; round++) {
      const results = await Promise.all(Array.from({ length: 20 }, (_, index) => sh(`echo ${index}; exit ${index}`)));
      expect(results.map(({ exitCode }) => exitCode)).toEqual(Array.from({ length: 20 }, (_, index) => index));
      expect(results.map(({ stdout }) => Number(stdout.toString()))).toEqual(
        Array.from({ length: 20 }, (_, index) => index),
      );
    }
    await settled(before);
  });

  testBox("is no one inside: no capabilities, no groups of ours, nothing to gain", async () => {
    const { stdout } = await run(["cat", "/proc/self/status"]);
    const fields = Object.fromEntries(
      stdout
        .toString()
        .split("\n")
        .map((line) => line.split(":\t")),
    );
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
      expect([set, fields[set]]).toEqual([set, "0".repeat(16)]);
    expect(fields.NoNewPrivs).toBe("1");
    expect(fields.Seccomp).toBe("2");
    if (root) expect(fields.Groups.trim()).toBe("");
  });
});

test("options of a sandbox that are misspelt are named", async () => {
  expect(((await failure(run(["true"], { sandbox: { limits: { memry: 1 } as never } }))) as Error).message).toContain(
    "limits",
  );
});
