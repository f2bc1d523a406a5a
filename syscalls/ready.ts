/** Waiting until a descriptor can be read or written, on the event loop: without a thread, and without asking again and again. */
import { self } from "./kernel.ts";
import { EPOLL, EPOLL_EVENTS, MACHINE } from "./linux/numbers.ts";
import { Struct } from "./struct.ts";

const EPOLL_EVENT = new Struct({ events: "u32", data: "u64" }, { packed: MACHINE === "x64" });
/** `change`: a file of the kernel's, such as a control group's, says something else than when it was last read. */
const EVENTS = { read: EPOLL_EVENTS.IN, write: EPOLL_EVENTS.OUT, change: EPOLL_EVENTS.PRI } as const;

export interface Wait {
  /** Resolves when the descriptor is ready, or has nobody at its other end, or the wait is over. */
  readonly done: Promise<void>;
  /** Ends the wait; it must be before the descriptor is closed, which would not. */
  cancel(): void;
}

/** Waits on any descriptor that epoll(7) knows, whether it blocks or not, and leaves it as it is. */
export function ready(descriptor: number, to: keyof typeof EVENTS): Wait {
  const epoll = self.call("epoll_create1", EPOLL.CLOEXEC);
  try {
    self.call("epoll_ctl", epoll, EPOLL.CTL_ADD, descriptor, EPOLL_EVENT.encode({ events: EVENTS[to] }));
  } catch (error) {
    self.call("close", epoll);
    throw error;
  }
  const { promise, resolve } = Promise.withResolvers<void>();
  // An epoll descriptor is readable when what it watches is ready. Bun then tries recv(2), which fails, and closes it: that is the news.
  const handlers = { data() {}, close: () => resolve() };
  // The types of Bun.connect do not know that a descriptor will do.
  const socket = Bun.connect({ fd: epoll, socket: handlers } as never);
  return { done: promise, cancel: () => void socket.then((opened) => opened.terminate()) };
}
