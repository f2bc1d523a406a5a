// Calls of programs that this process answers: what it is told, and what comes of each answer.
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, openSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Answer, type ExecOptions, exec, type Supervise, type SupervisedCall } from "../../src/index.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { open } from "../../syscalls/linux/file.ts";
import { ERRNO, O } from "../../syscalls/linux/numbers.ts";
import { failure, openDescriptors, until } from "../attacks/arena.ts";
import { testAttempt } from "../attacks/attempt.ts";
import { act, rebellion } from "../attacks/supervised.ts";

setDefaultTimeout(30_000); // the machine may have other things to do

const base = rebellion();
afterAll(() => base[Symbol.dispose]());
const file = join(base.path, "file");
writeFileSync(file, "the file");

const here = (path: string, flags: number = O.RDONLY) => `openat -100 =${path} ${flags} 0600`;
const OPEN = ["openat"] as const;
/** Runs steps whose openat(2) is answered so, and gives what was said to each. */
async function answered(
  answer: Supervise["answer"],
  steps: readonly string[],
  { asked = OPEN as Supervise["asked"], ...options }: Omit<ExecOptions, "supervise"> & Partial<Supervise> = {},
) {
  const { said, code } = await act([base.program, ...steps], { ...options, supervise: { asked, answer } });
  return {
    said: said
      .trim()
      .split("\n")
      .map((line) => line.split(" ").at(-1)!),
    code,
  };
}
/** What is open here when supervision has what it keeps. */
async function steady(): Promise<number> {
  await answered(() => "pass", [here("/a")]);
  return openDescriptors();
}
const ours = (path = file) => new Descriptor(open(self, path, O.RDONLY | O.CLOEXEC));

describe("an answer", () => {
  testAttempt("is a value, also one that no int has, or an errno", async () => {
    const values: Answer[] = [
      { value: 77 },
      { value: 2n ** 40n },
      { value: 0 },
      { errno: ERRNO.EXDEV },
      { errno: 4095 },
    ];
    const { said } = await answered(() => values.shift()!, [here("/a"), here("/a"), here("/a"), here("/a")]);
    expect(said).toEqual(["77", `${2 ** 40}`, "0", "EXDEV"]);
  });

  testAttempt("is a descriptor: at the lowest number that is free, and closed here", async () => {
    const before = await steady();
    const given = ours();
    const { said } = await answered(
      () => ({ descriptor: given, flags: 0 }),
      [here("/a"), "fcntl $0 1", "read $0 ~64 64", "write $0 =x 1", "close $0"],
    );
    expect(said).toEqual(["3", "0", "8", "EBADF", "0"]);
    expect(given.closed).toBe(true);
    await until(() => openDescriptors() <= before);
  });

  testAttempt("keeps close-on-exec where its flags have it", async () => {
    const { said } = await answered(() => ({ descriptor: ours(), flags: O.CLOEXEC }), [here("/a"), "fcntl $0 1"]);
    expect(said).toEqual(["3", "1"]);
  });

  testAttempt("stands at the number that it names, in place of what is there, and the call's result is 0", async () => {
    const at = (at: number) =>
      answered(() => ({ descriptor: ours(), at, flags: 0 }), [here("/a"), `read ${at} ~64 64`]);
    expect((await at(0)).said).toEqual(["0", "8"]);
    expect((await at(40)).said).toEqual(["0", "8"]);
    expect((await at(-1)).said[0]).toBe("EBADF");
    expect((await at(100_000)).said[0]).toBe("EBADF"); // beyond what the program may have
  });

  testAttempt("ends the program", async () => {
    const ended = await act([base.program, here("/a")], { supervise: { asked: OPEN, answer: () => "end" } });
    expect([ended.signal, ended.said]).toEqual(["SIGKILL", ""]);
  });

  testAttempt("passes a call on, to the walls", async () => {
    const pass = (steps: string[], options: Parameters<typeof answered>[2] = {}) =>
      answered(() => "pass", steps, options);
    expect((await pass([here(file)])).said).toEqual(["ENOENT"]);
    expect((await pass([here(file)], { sandbox: { read: [file] } })).said).toEqual(["3"]);
    expect((await pass([here(file, O.RDWR)], { sandbox: { read: [file] } })).said).toEqual(["EROFS"]);
  });

  testAttempt("passes nothing on that the filter refuses", async () => {
    const asked = ["mount", "unshare", "socket", "ptrace", "io_uring_setup", "clone3", "openat2"] as const;
    const steps = [
      "mount =none =/ =tmpfs 0 0",
      "unshare 0x10000000",
      "socket 2 1 0",
      "ptrace 0 0 0 0",
      "io_uring_setup 1 ~128",
    ];
    const seen: string[] = [];
    const { said } = await answered(
      ({ call }) => {
        seen.push(call);
        return "pass";
      },
      [...steps, "openat2 -100 =/ ~24 24"],
      {
        asked,
      },
    );
    expect(said).toEqual(steps.concat("openat2").map(() => "EPERM"));
    expect(seen).toEqual(["mount", "unshare", "socket", "ptrace", "io_uring_setup", "openat2"]);
  });

  testAttempt("that no sandbox would give is one all the same: who answers decides", async () => {
    const { said } = await answered(() => ({ value: 5 }), ["mount =none =/ =tmpfs 0 0"], { asked: ["mount"] });
    expect(said).toEqual(["5"]);
  });

  const NONE: Readonly<Record<string, () => unknown>> = {
    throws: () => {
      throw new Error("no");
    },
    rejects: () => Promise.reject(new Error("no")),
    "is no object": () => "allow",
    "is null": () => null,
    "has an errno that is misspelt": () => ({ errno: (ERRNO as Record<string, number>).EACCESS }),
    "has errno 0": () => ({ errno: 0 }),
    "has an errno below 0": () => ({ errno: -13 }),
    "has an errno that is too large": () => ({ errno: 4096 }),
    "has an errno by its name": () => ({ errno: "EACCES" }),
    "has a value that is none": () => ({ value: 1.5 }),
    "has no descriptor": () => ({ descriptor: undefined, flags: 0 }),
    "has a descriptor by its number": () => ({ descriptor: 0, flags: 0 }),
    "is empty": () => ({}),
  };
  for (const [what, answer] of Object.entries(NONE)) {
    testAttempt(`that ${what} is EPERM`, async () => {
      const { said } = await answered(answer as Supervise["answer"], [here("/a"), "descriptors"]);
      expect(said).toEqual(["EPERM", "2"]);
    });
  }

  testAttempt("that gives a descriptor twice is EPERM the second time", async () => {
    const given = ours();
    const { said } = await answered(() => ({ descriptor: given, flags: 0 }), [here("/a"), here("/a")]);
    expect(said).toEqual(["3", "EPERM"]);
  });

  testAttempt("may take its time, and only the thread that asked waits", async () => {
    const waits = Promise.withResolvers<void>();
    const slow = Promise.withResolvers<Answer>();
    // Two processes of a shell, of which neither is answered before the other has asked.
    const shell = ["/bin/sh", "-c", `${base.program} "${here("/slow")}" & ${base.program} "${here("/fast")}"; wait`];
    const { said } = await act(shell, {
      sandbox: { run: ["/bin/sh", base.program] },
      supervise: {
        asked: OPEN,
        async answer({ paths: [path] }) {
          if (path === "/slow") {
            waits.resolve();
            return slow.promise;
          }
          if (path !== "/fast") return "pass";
          await waits.promise;
          slow.resolve({ value: 1 });
          return { value: 2 };
        },
      },
    });
    expect(said.trim().split("\n").toSorted()).toEqual(["openat 1", "openat 2"]);
  });

  testAttempt("that never comes does not keep a program from being ended", async () => {
    const before = await steady();
    let asked = false;
    const never = new Promise<Answer>(() => {});
    const program = await exec([base.program, here("/a")], {
      supervise: {
        asked: OPEN,
        answer() {
          asked = true;
          return never;
        },
      },
    });
    await until(() => asked);
    program.kill();
    expect(await program.exited).toBe(137);
    await until(() => openDescriptors() <= before);
  });

  testAttempt("that comes when nobody waits any more is closed", async () => {
    const before = await steady();
    const late = Promise.withResolvers<Answer>();
    let asked = false;
    const program = await exec([base.program, here("/a")], {
      supervise: {
        asked: OPEN,
        answer() {
          asked = true;
          return late.promise;
        },
      },
    });
    await until(() => asked);
    program.kill();
    await program.exited;
    await until(() => openDescriptors() <= before);
    const given = ours();
    late.resolve({ descriptor: given, flags: 0 });
    await until(() => given.closed && openDescriptors() <= before);
  });
});

describe("what is asked about:", () => {
  const told = async (argv: readonly string[], options: Partial<ExecOptions> = {}, answer?: Supervise["answer"]) => {
    const calls: SupervisedCall[] = [];
    const { lines, code } = await act(argv, {
      ...options,
      supervise: {
        asked: OPEN,
        answer: (call) => {
          calls.push(call);
          return answer?.(call) ?? { errno: ERRNO.EACCES };
        },
      },
    });
    return { calls, lines, code };
  };

  testAttempt("the call, its arguments, who made it", async () => {
    const program = await exec([base.program, here("/a", O.RDWR | O.CREAT), "pause"], {
      supervise: {
        asked: OPEN,
        answer(call) {
          expect(call).toMatchObject({ call: "openat", program: "attempt", paths: ["/a"], flags: O.RDWR | O.CREAT });
          expect(call.args.length).toBe(6);
          expect([call.args[0], call.args[3]]).toEqual([BigInt.asUintN(64, -100n), 384n]);
          expect(call.pid).toBe(call.tid);
          return { value: call.pid };
        },
      },
    });
    const reader = program.stdout!.getReader();
    const pid = Number(new TextDecoder().decode((await reader.read()).value).split(" ")[1]);
    expect(await Bun.file(`/proc/${pid}/comm`).text()).toBe("attempt\n");
    program.kill();
    await program.exited;
  });

  testAttempt("paths, as much of them as is there", async () => {
    const { calls, lines } = await told([base.supervised, "paths"], {}, ({ paths: [path] }) =>
      path === "/" ? "pass" : { errno: ERRNO.EACCES },
    );
    const said = calls.map(({ paths: [path] }) => path!).slice(1);
    expect(said).toEqual([
      `/${"a".repeat(4094)}`,
      "", // 4096 bytes and no NUL among them
      "", // to the end of its memory
      "/e",
      "/across",
      ...["", "", ""], // nowhere
      "/", // nothing, relative to where it is
      "/\ufffd\ufffd",
      "/\ufeff/etc/passwd", // a mark of a byte order is a name like any other
      "/name",
      "/beneath",
      "/wide",
      ...["", ""], // relative to a pipe, and to what is closed
    ]);
    expect(Object.keys(lines).length).toBe(said.length);
  });

  testAttempt("/proc/self is the caller's by its number, by whatever way it is written", async () => {
    const { calls } = await told([base.supervised, "whose"]);
    const said = calls.map(({ paths: [path], pid, tid }) =>
      path!.replace(`/proc/${pid}/task/${tid}`, "/TID").replace(`/proc/${pid}`, "/PID"),
    );
    const expected = [
      ...["/PID/who", "/PID//who", ...Array(7).fill("/PID/who"), "/PID", "/TID/who", "/TID/who"],
      ...["/proc/selfish/who", "/elsewhere/proc/self/who"],
    ];
    expect(said).toEqual([...expected, ...expected, ...expected, "/PID/who"]);
    const each = expected.length;
    const [main, thread, child] = [0, each, 2 * each].map((at) => calls[at]!) as [
      SupervisedCall,
      SupervisedCall,
      SupervisedCall,
    ];
    expect(thread.pid).toBe(main.pid);
    expect(thread.tid).not.toBe(main.tid);
    expect(child.pid).not.toBe(main.pid);
    expect(calls[3 * each]!.pid).toBe(main.pid);
  });

  testAttempt(
    "its first execve is its beginning; each one after that is asked about, also of a program by its descriptor",
    async () => {
      const shell = ["/bin/sh", "-c", `${base.program} "getpid"; ${base.program} "getpid"`];
      const run = ["/bin/sh", base.program];
      const asked = ["execve"] as const;
      const refuse = { errno: ERRNO.EACCES };
      const count = async (more: Partial<ExecOptions>) => {
        let times = 0;
        const answer = () => {
          times++;
          return refuse;
        };
        const { said } = await act(shell, { sandbox: { run }, supervise: { asked, answer }, ...more });
        return { times, said };
      };
      const once = await count({});
      expect(once.said).toBe("");
      expect(once.times).toBeGreaterThanOrEqual(2);
      const program = openSync("/bin/sh", "r");
      try {
        expect(await count({ program })).toEqual(once);
      } finally {
        closeSync(program);
      }
    },
  );
});

describe("options:", () => {
  test("an answer to a call that no table has is a TypeError", async () => {
    const supervise = { asked: ["opne"], answer: () => "pass" } as unknown as Supervise;
    expect(await failure(exec(["/bin/true"], { supervise }))).toBeInstanceOf(TypeError);
  });
  test("supervise and broker at once are a TypeError, and so are both with a container", async () => {
    const supervise: Supervise = { asked: OPEN, answer: () => "pass" };
    expect(await failure(exec(["/bin/true"], { supervise, broker: {} }))).toBeInstanceOf(TypeError);
    expect(await failure(exec(["/bin/true"], { supervise, container: {} }))).toBeInstanceOf(TypeError);
    expect(await failure(exec(["/bin/true"], { broker: {}, sandbox: { net: ["a.example:1"] } }))).toBeInstanceOf(
      TypeError,
    );
  });
  testAttempt("as many files as the machine lets this process have are no obstacle", async () => {
    const script = `
      import { run } from "${join(import.meta.dir, "../../src/index.ts")}";
      const supervise = { asked: ["openat"], answer: () => ({ value: 7 }) };
      const { stdout } = await run(["${base.program}", "openat -100 =/a 0"], { sandbox: { limits: { files: 4096 } }, supervise });
      process.stdout.write(stdout);
    `;
    const limited = ["sh", "-c", 'ulimit -n 4096 && exec "$0" "$@"', process.execPath, "-e", script];
    const { stdout, stderr } = Bun.spawnSync(limited, { env: { ...process.env } });
    expect([stderr.toString(), stdout.toString()]).toEqual(["", "openat 7\n"]);
  });
});

test.each<[string, object, string]>([
  ["a key of supervise that there is not", { supervise: { calls: ["openat"], answer() {} } }, "the option calls"],
  ["no answer", { supervise: { asked: ["openat"] } }, "without an answer"],
  ["calls that are no list", { supervise: { asked: "openat", answer() {} } }, "as asked"],
  ["a call that there is not", { supervise: { asked: ["opennat"], answer() {} } }, "a rule for opennat"],
  ["a key of broker that there is not", { broker: { opne() {} } }, "the option opne"],
  ["what is no function", { broker: { open: "/etc" } }, "as open"],
])("exec() throws TypeError for %s", async (_, options, told) => {
  expect(await exec(["true"], options as never).catch((error) => [error.name, error.message])).toEqual([
    "TypeError",
    expect.stringContaining(told),
  ]);
});
