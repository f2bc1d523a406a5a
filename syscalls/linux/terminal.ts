/** Terminals: pairs of them, their sizes and modes, and who is in front of one. */
import type { Kernel } from "../kernel.ts";
import { Struct } from "../struct.ts";
import { open } from "./file.ts";
import { IOCTL, O } from "./numbers.ts";

/** The host's end of a new pair, unlocked. Its file system of terminals is the one that `path` belongs to. `pts(4)` */
export function openPty(kernel: Kernel, path = "/dev/ptmx"): number {
  const master = open(kernel, path, O.RDWR | O.NOCTTY | O.CLOEXEC);
  kernel.call("ioctl", master, IOCTL.TIOCSPTLCK, new Uint8Array(4));
  return master;
}

/** The program's end of a pair, by no path, so it is that of this pair. `TIOCGPTPEER` of ioctl_tty(2), Linux 4.13 */
export function openPeer(kernel: Kernel, master: number): number {
  return kernel.call("ioctl", master, IOCTL.TIOCGPTPEER, O.RDWR | O.NOCTTY | O.CLOEXEC);
}

/** N of the `/dev/pts/N` that is the program's end. */
export function ptyNumber(kernel: Kernel, master: number): number {
  const number = new Uint32Array(1);
  kernel.call("ioctl", master, IOCTL.TIOCGPTN, new Uint8Array(number.buffer));
  return number[0]!;
}

/** Makes a terminal that of the caller's session, whose leader it must be; takes none away from another. `TIOCSCTTY` */
export function setControllingTerminal(kernel: Kernel, terminal: number): void {
  kernel.call("ioctl", terminal, IOCTL.TIOCSCTTY, 0);
}

/** Has a process group of the caller's session get what is typed. `TIOCSPGRP` @param group its number, or four bytes that will hold it */
export function setForegroundGroup(kernel: Kernel, terminal: number, group: number | Uint8Array): void {
  const memory = typeof group === "number" ? new Uint8Array(Int32Array.of(group).buffer) : group;
  kernel.call("ioctl", terminal, IOCTL.TIOCSPGRP, memory);
}

const WINSIZE = new Struct({ rows: "u16", columns: "u16", xpixel: "u16", ypixel: "u16" });

/** In characters. */
export interface WindowSize {
  readonly columns: number;
  readonly rows: number;
}

/** `TIOCGWINSZ`. All zero where nobody has set it. */
export function windowSize(kernel: Kernel, terminal: number): WindowSize {
  const memory = new Uint8Array(WINSIZE.size);
  kernel.call("ioctl", terminal, IOCTL.TIOCGWINSZ, memory);
  const { columns, rows } = WINSIZE.decode(memory);
  return { columns, rows };
}

/** Sets the size, of which the foreground group hears by SIGWINCH if it changes. `TIOCSWINSZ` */
export function setWindowSize(kernel: Kernel, terminal: number, { columns, rows }: WindowSize): void {
  kernel.call("ioctl", terminal, IOCTL.TIOCSWINSZ, WINSIZE.encode({ columns, rows }));
}

/** `struct termios2`, with the control characters by their names: those of x86 and ARM, whose order is the same. */
const TERMIOS2 = new Struct({
  iflag: "u32",
  oflag: "u32",
  cflag: "u32",
  lflag: "u32",
  line: "u8",
  intr: "u8",
  quit: "u8",
  erase: "u8",
  kill: "u8",
  eof: "u8",
  time: "u8",
  min: "u8",
  swtc: "u8",
  start: "u8",
  stop: "u8",
  susp: "u8",
  eol: "u8",
  reprint: "u8",
  discard: "u8",
  werase: "u8",
  lnext: "u8",
  eol2: "u8",
  spare1: "u8",
  spare2: "u8",
  ispeed: "u32",
  ospeed: "u32",
});

/** How a terminal treats what passes it. `termios(3)` */
export type Modes = Readonly<ReturnType<typeof TERMIOS2.decode>>;

/** `TCGETS2`. On the host's end of a pair it tells about the program's. */
export function terminalModes(kernel: Kernel, terminal: number): Modes {
  const memory = new Uint8Array(TERMIOS2.size);
  kernel.call("ioctl", terminal, IOCTL.TCGETS2, memory);
  return TERMIOS2.decode(memory);
}

/** Sets the modes at once. Who is in the background of the terminal is stopped by SIGTTOU instead. `TCSETS2` */
export function setTerminalModes(kernel: Kernel, terminal: number, modes: Modes): void {
  kernel.call("ioctl", terminal, IOCTL.TCSETS2, TERMIOS2.encode(modes));
}

/** Flags of `asm/termbits.h`, the same on both machines. */
export const IFLAG = {
  IGNBRK: 0x1,
  BRKINT: 0x2,
  PARMRK: 0x8,
  ISTRIP: 0x20,
  INLCR: 0x40,
  IGNCR: 0x80,
  ICRNL: 0x100,
  IXON: 0x400,
} as const;
export const OFLAG = { OPOST: 0x1 } as const;
export const CFLAG = { CSIZE: 0x30, CS8: 0x30, PARENB: 0x100 } as const;
export const LFLAG = { ISIG: 0x1, ICANON: 0x2, ECHO: 0x8, ECHONL: 0x40, IEXTEN: 0x8000 } as const;

const all = (flags: Readonly<Record<string, number>>) => Object.values(flags).reduce((sum, flag) => sum | flag, 0);

/** The same modes with nothing done to what passes: neither echo nor lines nor signals. `cfmakeraw(3)` */
export function rawModes(modes: Modes): Modes {
  return {
    ...modes,
    iflag: (modes.iflag & ~all(IFLAG)) >>> 0,
    oflag: (modes.oflag & ~all(OFLAG)) >>> 0,
    cflag: ((modes.cflag & ~all(CFLAG)) | CFLAG.CS8) >>> 0,
    lflag: (modes.lflag & ~all(LFLAG)) >>> 0,
    min: 1,
    time: 0,
  };
}
