/** Processes and sockets, as Bun's event loop watches them. */
import type { Descriptor } from "../../syscalls/descriptor.ts";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { F, SIG } from "../../syscalls/linux/numbers.ts";
import { decodeNews, type Ended, RUSAGE_SIZE, reap, SIGINFO_SIZE } from "../../syscalls/linux/process.ts";
import { pace } from "../pace.ts";
import type { Prepared } from "./frame.ts";

/** Has Bun's event loop watch a socket, which it then owns; `end` closes it. */
export function watch(fd: number, socket: { data(bytes: Uint8Array, end: () => void): void; close(): void }): void {
  // @types/bun does not know that a descriptor will do.
  const handlers = {
    data: (own: { terminate(): void }, bytes: Uint8Array) => socket.data(bytes, () => own.terminate()),
    end: socket.close,
    close: socket.close,
  };
  void Bun.connect({ fd, socket: handlers } as never);
}

/** Settles when the process of a pidfd has ended; reaps it, and closes the pidfd. */
export function ended(pidfd: Descriptor): Promise<Ended> {
  return new Promise((resolve) => {
    const look = () => {
      if (pidfd.closed) return;
      const end = endOf(pidfd.number);
      if (end === undefined) {
        setTimeout(look, 1); // the event loop was early; nothing would tell again
        return;
      }
      pidfd.close();
      resolve(end);
    };
    // A pidfd becomes readable when its process ends, which a socket handler takes for its close.
    try {
      watch(self.call("fcntl", pidfd.number, F.DUPFD_CLOEXEC, 0), {
        data() {},
        close: () => (pace.admits() ? look() : pace.wait(look)), // many may end at once
      });
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      look(); // there is no room for one more descriptor, and the process must be reaped all the same
    }
  });
}

/** How the process ended; undefined while it lives. */
function endOf(pidfd: number): Ended | undefined {
  try {
    return reap(self, pidfd);
  } catch (error) {
    // Another realm took it for an orphan before it was held. How it ended, nobody knows any more.
    if (!(error instanceof SystemError && error.code === "ECHILD")) throw error;
    const { pid: _pid, event: _event, ...none } = decodeNews(new Uint8Array(SIGINFO_SIZE), new Uint8Array(RUSAGE_SIZE));
    return { ...none, signal: SIG.KILL };
  }
}

/** Settles when a puppet's strings close, for it has become a program, or rejects with what it answered instead. */
export function answerOf(strings: number, { read }: Prepared): Promise<void> {
  return new Promise((resolve, reject) => {
    watch(strings, {
      data(answer, end) {
        try {
          read(answer);
          reject(new Error("Cannot trust a puppet: it answered, and should have become a program"));
        } catch (error) {
          reject(error);
        }
        end(); // and with it the child that could not become the program
      },
      close: resolve,
    });
  });
}
