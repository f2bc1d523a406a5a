/** What Landlock refuses, told to whoever observes the process that it confined: one listener to the audit log for all of them. */
import type { RefusedAccess, Supervision } from "../platform.ts";
import { abilities } from "./abilities.ts";
import { type AuditDenial, auditLacks, type Listening, listenToAudit } from "./audit.ts";
import { RESTRICT_SINCE } from "./landlock.ts";

/** One who hears what is refused to the processes of one domain. */
export interface Hearing {
  /** Says which process entered the domain. What was refused in it before this is told now. */
  of(pid: number): void;
  /** Settles once all is told that was refused until now. The second time does nothing. */
  end(): Promise<void>;
}

interface Ear {
  pid: number | undefined;
  readonly take: (access: RefusedAccess) => void;
}

/** The log comes on a thread of the kernel's, behind what happened. */
const LAG_MS = 100;
/** What is kept of domains while their processes are not known. */
const MOST_EARLY = 256;

const ears = new Set<Ear>();
let log: Listening | undefined;
/** Refused in domains that are nobody's yet: a program can be quicker than the news of its start. */
let early: AuditDenial[] = [];

/** Has one observer told of what Landlock refuses to one process and its children. Undefined where nobody asks, or nothing can be heard. */
export function hearingOf(supervision: Supervision | undefined): Hearing | undefined {
  if (supervision?.refused === undefined || !isLogged()) return undefined;
  log ??= listenToAudit(tell);
  if (log === undefined) return undefined;
  const ear: Ear = { pid: undefined, take: (access) => supervision.refused!(access) };
  ears.add(ear);
  return {
    of(pid) {
      ear.pid = pid;
      const [own, others] = [
        early.filter(({ confined }) => confined === pid),
        early.filter((each) => each.confined !== pid),
      ];
      early = isExpecting() ? others : [];
      for (const denial of own) ear.take(denial);
    },
    async end() {
      await Bun.sleep(LAG_MS);
      log?.drain(); // this process may have been busy
      ears.delete(ear);
      if (!isExpecting()) early = [];
      if (ears.size > 0) return;
      log?.[Symbol.dispose]();
      log = undefined;
    },
  };
}

/** Whether some process is not known yet. */
const isExpecting = () => ears.values().some(({ pid }) => pid === undefined);

function tell(denial: AuditDenial): void {
  const { confined } = denial;
  if (confined === undefined) return; // a filter's, or of a domain that is none of ours
  const found = ears.values().find(({ pid }) => pid === confined);
  if (found !== undefined) found.take(denial);
  else if (isExpecting() && early.length < MOST_EARLY) early.push(denial);
}

/** Whether this kernel's Landlock tells of what it refuses at all. */
const isLogged = () => abilities().landlock >= RESTRICT_SINCE.LOG_NEW_EXEC_ON;

/** Why nothing can be heard of Landlock, and what would help; undefined where it can. */
export function hearingLacks(): string | undefined {
  return isLogged() ? auditLacks() : "This kernel's Landlock logs nothing: ABI 7 (Linux 6.15) is needed";
}
