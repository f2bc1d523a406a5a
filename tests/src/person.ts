/** A person at a terminal, played by a test. */
import { Pty } from "../../src/pty.ts";
import { self } from "../../syscalls/kernel.ts";
import { LFLAG, type Modes, openPeer, openPty, setWindowSize, terminalModes } from "../../syscalls/linux/terminal.ts";

export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await Bun.sleep(1);
}

/** Somebody at a terminal with a shell in it. */
export class Person {
  readonly pty = new Pty(openPty(self));
  seen = "";
  readonly shell: Bun.Subprocess;

  constructor(...command: readonly string[]) {
    setWindowSize(self, this.pty.number, { columns: 80, rows: 24 });
    const peer = openPeer(self, this.pty.number);
    this.shell = Bun.spawn(["setsid", "--ctty", ...command], {
      stdio: [peer, peer, peer],
      env: { PATH: process.env.PATH, PS1: "<prompt>" },
    });
    self.call("close", peer);
    void this.#look();
  }

  async #look() {
    for await (const bytes of this.pty.readable) this.seen += Buffer.from(bytes).toString();
  }

  /** Waits until the terminal has shown `text` since it was asked last. */
  async sees(text: string): Promise<void> {
    await until(() => this.seen.includes(text));
    this.seen = this.seen.slice(this.seen.indexOf(text) + text.length);
  }

  async types(text: string): Promise<void> {
    await this.pty.write(Buffer.from(text));
  }

  /** Waits for the shell to say with which code its last job ended. */
  async seesCode(code: number): Promise<void> {
    await this.sees("<prompt>");
    await this.types('echo "<code "$?">"\n');
    await this.sees(`<code ${code}>`);
  }

  get modes(): Modes {
    return terminalModes(self, this.pty.number);
  }

  get isRaw(): boolean {
    return (this.modes.lflag & (LFLAG.ICANON | LFLAG.ISIG | LFLAG.ECHO)) === 0;
  }

  leave(): void {
    this.pty.close();
  }
}
