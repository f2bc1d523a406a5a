// The test is the person: it types into a terminal in which a shell runs the fixture as its job.
import { afterEach, describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { O } from "../../syscalls/linux/numbers.ts";
import type { Modes } from "../../syscalls/linux/terminal.ts";
import { testIf } from "../syscalls/requirement.ts";
import { Person, until } from "./person.ts";

const fixture = fileURLToPath(new URL("./fixtures/foreground.ts", import.meta.url));
const testShell = testIf("setsid", Bun.which("setsid") !== null, "there is no setsid(1) (Debian: util-linux)");

let person: Person | undefined;
afterEach(() => person?.leave());

const stateOf = (pid: number) =>
  readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /s, "")
    .charAt(0);

/** A shell with the fixture in its foreground: the person, the fixture's process, and the terminal's modes before it. */
async function started(argument = ""): Promise<{ person: Person; pid: number; before: Modes }> {
  const somebody = new Person("sh", "-i");
  person = somebody;
  await somebody.sees("<prompt>");
  const before = somebody.modes;
  await somebody.types(`${process.execPath} ${fixture} ${argument}\n`);
  await somebody.sees("<raw ");
  await until(() => somebody.seen.includes(">"));
  return { person: somebody, pid: Number.parseInt(somebody.seen, 10), before };
}

describe("raw()", () => {
  testShell("passes on what is typed as it is, Ctrl-C, Ctrl-D and Ctrl-Q too, and restore() ends it", async () => {
    const { person, pid, before } = await started();
    expect(person.isRaw).toBe(true);
    for (const key of ["a", "\x03", "\x04", "\x11", "\r", "\x1c"]) {
      await person.types(key);
      await person.sees(`<typed ${JSON.stringify(key)}>`);
    }
    await person.types("d");
    await until(() => !person.isRaw);
    expect(person.modes).toEqual(before);
    await person.seesCode(0); // nothing of it is left on the event loop
    expect(pid).toBeGreaterThan(1);
  });

  testShell("leaves the open file that the shell shares as it is: reads of others still block", async () => {
    const { pid } = await started();
    const flags = /^flags:\s*(\d+)$/m.exec(readFileSync(`/proc/${pid}/fdinfo/0`, "utf8"))![1]!;
    expect(Number.parseInt(flags, 8) & O.NONBLOCK).toBe(0);
  });

  testShell("tells of each new size", async () => {
    const { person } = await started();
    person.pty.resize({ columns: 132, rows: 50 });
    await person.sees("<size 132x50>");
    person.pty.resize({ columns: 90, rows: 20 });
    await person.sees("<size 90x20>");
  });

  testShell("takes one that does not say its size for one of the usual size", async () => {
    const { person } = await started();
    person.pty.resize({ columns: 0, rows: 0 });
    await person.sees("<size 80x24>");
  });
});

describe("suspend()", () => {
  testShell("stops the process with the modes restored, and fg continues it raw with the size of then", async () => {
    const { person, pid, before } = await started();
    for (let times = 0; times < 3; times++) {
      await person.types("\x1a");
      await person.sees("<leaves>");
      await person.sees("<prompt>");
      expect(stateOf(pid)).toBe("T");
      expect(person.modes).toEqual(before);
      person.pty.resize({ columns: 100 + times, rows: 30 });
      await person.types("fg\n");
      await person.sees(`<size ${100 + times}x30>`);
      await person.sees("<continued>");
      expect(person.isRaw).toBe(true);
      await person.types("b");
      await person.sees(`<typed "b">`);
    }
  });

  testShell("returns at once where no shell could continue it", async () => {
    // A session's leader with its parent in another session: an orphaned group.
    person = new Person(process.execPath, fixture);
    await person.sees("<raw ");
    await person.types("\x1a");
    await person.sees("<continued>");
    expect(person.isRaw).toBe(true);
    await person.types("c");
    await person.sees(`<typed "c">`);
  });

  testShell("is what SIGTSTP from elsewhere does", async () => {
    const { person, pid, before } = await started();
    process.kill(pid, "SIGTSTP");
    await person.sees("<prompt>");
    expect(stateOf(pid)).toBe("T");
    expect(person.modes).toEqual(before);
    await person.types("fg\n");
    await until(() => person.isRaw);
    await person.types("c");
    await person.sees(`<typed "c">`);
  });

  testShell("is done with by SIGCONT after a SIGSTOP: the modes are raw again", async () => {
    const { person, pid } = await started();
    process.kill(pid, "SIGSTOP");
    await person.sees("<prompt>");
    await person.types("stty sane; echo '<'sane'>'\n"); // the shell of this test leaves the modes to us
    await person.sees("<sane>");
    expect(person.isRaw).toBe(false);
    await person.types("fg\n");
    await until(() => person.isRaw);
    await person.types("c");
    await person.sees(`<typed "c">`);
  });

  testShell("in the background it stops again before it touches the terminal", async () => {
    const { person, pid, before } = await started();
    await person.types("\x1a");
    await person.sees("<prompt>");
    await person.types("bg\n");
    await person.sees("<prompt>");
    await until(() => stateOf(pid) === "T");
    expect(person.modes).toEqual(before);
    await person.types("fg\n");
    await person.sees("<continued>");
    expect(person.isRaw).toBe(true);
  });
});

describe("the terminal is restored", () => {
  testShell("by process.exit()", async () => {
    const { person, before } = await started();
    await person.types("q");
    await person.seesCode(0);
    expect(person.modes).toEqual(before);
  });

  testShell("by an error that nobody catches", async () => {
    const { person, before } = await started();
    await person.types("t");
    await person.seesCode(1);
    expect(person.modes).toEqual(before);
  });

  const CODES = { SIGHUP: 129, SIGINT: 130, SIGQUIT: 131, SIGTERM: 143 } as const;
  for (const [name, code] of Object.entries(CODES)) {
    testShell(`by ${name}, which ends the process as ever`, async () => {
      const { person, pid, before } = await started();
      process.kill(pid, name as NodeJS.Signals);
      await person.seesCode(code);
      expect(person.modes).toEqual(before);
    });
  }

  testShell("by SIGTERM that somebody else takes care of", async () => {
    const { person, pid, before } = await started("careful");
    process.kill(pid, "SIGTERM");
    await person.seesCode(7);
    expect(person.modes).toEqual(before);
  });

  testShell("and a process whose terminal is hung up ends", async () => {
    const { person, pid } = await started();
    person.leave();
    await until(() => !Bun.spawnSync(["kill", "-0", `${pid}`]).success);
    await person.shell.exited;
  });
});
