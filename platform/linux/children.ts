/** What a container's puppet tells of its children: the programs that it started, and orphans. */
import { CLD, decodeNews, SIGINFO_SIZE } from "../../syscalls/linux/process.ts";
import type { Ended } from "../platform.ts";
import { NEWS_SIZE } from "./frame.ts";

/** A program that runs, and whom to tell of it. */
export interface Program {
  /** As the container sees it. */
  readonly pid: number;
  over: boolean;
  readonly end: (how: Ended) => void;
  stopped: (signal: number) => void;
}

export class Children {
  /** The last one's end. */
  last: Ended | undefined;
  /** The most that one of them used. The puppet's own is that of the host, whose memory it shared before it was a puppet. */
  peakKib = 0;
  readonly #programs = new Map<number, Program>();
  /** Those that were forked and are not yet known to have begun, with their ends where they have ended. */
  readonly #starting = new Map<number, Ended | undefined>();

  /** A program is about to begin: it may end before there is anybody to tell. */
  begin(pid: number): void {
    this.#starting.set(pid, undefined);
  }

  /** It has begun, or never will. */
  begun(pid: number): void {
    this.#starting.delete(pid);
  }

  /** Tells a program of its end from now on, or at once where it has ended. */
  add(program: Program): void {
    const early = this.#starting.get(program.pid);
    if (early === undefined) this.#programs.set(program.pid, program);
    else program.end(early);
  }

  drop(program: Program): void {
    program.over = true;
    this.#programs.delete(program.pid);
  }

  /** Takes news of a child. */
  take(bytes: Uint8Array): void {
    if (bytes.length !== NEWS_SIZE) throw new Error(`Cannot trust a puppet: its news have ${bytes.length} bytes`);
    const { pid, event, ...how } = decodeNews(bytes.subarray(0, SIGINFO_SIZE), bytes.subarray(SIGINFO_SIZE));
    const program = this.#programs.get(pid);
    if (event === CLD.STOPPED) program?.stopped(how.signal!);
    if (event >= CLD.TRAPPED) return;
    this.last = how;
    this.peakKib = Math.max(this.peakKib, how.peakKib);
    if (program !== undefined) program.end(how);
    else if (this.#starting.has(pid)) this.#starting.set(pid, this.#starting.get(pid) ?? how);
  }
}
