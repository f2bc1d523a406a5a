/** The contestant as a pool of worker threads takes it: one function, and what it is asked in an array. */
import type { Request } from "./answer.ts";
import { type Name, work } from "./work.ts";

export default ([name, ...args]: Request): unknown => (work[name as Name] as (...args: unknown[]) => unknown)(...args);
