/** What a caller writes to say what an actor may do, and the policy that it becomes. */
import { realpathSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import Type from "typebox";
import { Compile } from "typebox/compile";
import { GUARANTEES, type Guarantee, type Policy } from "../platform/index.ts";

const Strings = Type.Array(Type.String({ minLength: 1 }));
const Amount = Type.Union([Type.Number({ exclusiveMinimum: 0 }), Type.String()]);

const Schema = Type.Object(
  {
    read: Type.Optional(Strings),
    write: Type.Optional(Strings),
    run: Type.Optional(Strings),
    net: Type.Optional(Strings),
    env: Type.Optional(Type.Record(Type.String({ pattern: "^[^=\\u0000]+$" }), Type.String())),
    limits: Type.Optional(
      Type.Object(
        {
          memory: Type.Optional(Amount),
          cpu: Type.Optional(Amount),
          cpuTime: Type.Optional(Amount),
          wallTime: Type.Optional(Amount),
          processes: Type.Optional(Type.Integer({ minimum: 1 })),
          files: Type.Optional(Type.Integer({ minimum: 32, maximum: 65536 })),
          fileSize: Type.Optional(Amount),
        },
        { additionalProperties: false },
      ),
    ),
    allowUnenforced: Type.Optional(Type.Array(Type.Union(GUARANTEES.map((name) => Type.Literal(name))))),
  },
  { additionalProperties: false },
);
const check = Compile(Schema);

/** What an actor may do beyond nothing. Plain data. */
export interface Sandbox {
  /** Files and directories it may read, seen inside at the same path. */
  readonly read?: readonly string[];
  /** Files and directories it may read and write. */
  readonly write?: readonly string[];
  /** Programs it may execute, each with what that needs in order to start. For `run` and `exec`; an actor starts no programs. */
  readonly run?: readonly string[];
  /**
   * Hosts it may connect to, with their ports: `"example.com:443"`, `"*.example.com:443"`, `"10.0.0.0/8:5432"`. For `run` and `exec`, whose
   * programs find a proxy in their environment; an actor is handed `network([...])` in a message.
   */
  readonly net?: readonly string[];
  /** Its environment, whole. */
  readonly env?: Readonly<Record<string, string>>;
  readonly limits?: {
    /** What it may allocate beyond an idle Bun: `"256 MiB"`, or bytes. 512 MiB where nothing is said, 64 MiB at least. */
    readonly memory?: string | number;
    /** Share of a processor. Not supported yet: throws. */
    readonly cpu?: string | number;
    /** Processor time of all its threads: `"5 s"`, or seconds. Counted in whole seconds. */
    readonly cpuTime?: string | number;
    /** Time from start to end: `"30 s"`, `"500 ms"`, or seconds. */
    readonly wallTime?: string | number;
    /** Processes and threads of a program and all that it starts; 64 where nothing is said. An actor is one. */
    readonly processes?: number;
    /** Open descriptors; 256 where nothing is said. */
    readonly files?: number;
    /** How large it can make one file: `"1 MiB"`, or bytes. 64 MiB where nothing is said. */
    readonly fileSize?: string | number;
  };
  /** Guarantees without which it may start, where this machine cannot keep them. */
  readonly allowUnenforced?: readonly Guarantee[];
}

const MIB = 2 ** 20;
const LEAST_MEMORY = 64 * MIB;

/** The policy of a sandbox: checked, complete, its paths real. Throws TypeError, RangeError or the SystemError of a path. */
export function policyOf(sandbox: Sandbox = {}, of: "actor" | "program" = "actor"): Policy {
  if (!check.Check(sandbox)) {
    const [first] = check.Errors(sandbox);
    const where = first === undefined ? "" : first.instancePath.slice(1).replaceAll("/", ".");
    throw new TypeError(
      `Cannot use this sandbox: ${where || "it"} ${first?.message === "schema is false" ? "is no word of it" : (first?.message ?? "is not one")}`,
    );
  }
  const limits = sandbox.limits ?? {};
  if (of === "actor") refuseOfActors(sandbox);
  if (limits.cpu !== undefined)
    throw new TypeError(
      "Cannot use limits.cpu: this version of caisson does not support it; limits.cpuTime bounds processor time",
    );
  const memory = limits.memory === undefined ? 512 * MIB : sizeOf(limits.memory, "limits.memory");
  if (memory < LEAST_MEMORY)
    throw new RangeError(`Cannot limit memory to ${limits.memory}: Bun needs 64 MiB beside what it starts with`);
  const cpuTime = limits.cpuTime === undefined ? undefined : seconds(limits.cpuTime, "limits.cpuTime");
  const wallTime = limits.wallTime === undefined ? undefined : seconds(limits.wallTime, "limits.wallTime");
  return {
    read: (sandbox.read ?? []).map(realPath),
    write: (sandbox.write ?? []).map(realPath),
    run: [...(sandbox.run ?? [])],
    net: [...(sandbox.net ?? [])],
    env: { ...sandbox.env },
    limits: {
      memory,
      ...(cpuTime === undefined ? {} : { cpuTime }),
      ...(wallTime === undefined ? {} : { wallTime: wallTime * 1000 }),
      processes: limits.processes ?? (of === "actor" ? 1 : 64),
      files: limits.files ?? 256,
      fileSize: limits.fileSize === undefined ? 64 * MIB : sizeOf(limits.fileSize, "limits.fileSize"),
    },
    allowUnenforced: [...(sandbox.allowUnenforced ?? [])],
  };
}

/** What makes no sense of an actor is refused: never ignored. */
function refuseOfActors({ run, net, limits }: Sandbox): void {
  const not = (what: string, instead: string) => new TypeError(`Cannot use ${what} for an actor: ${instead}`);
  if (run !== undefined && run.length > 0) throw not("run", "an actor starts no programs");
  if (net !== undefined && net.length > 0)
    throw not("net", "an actor has no network of its own; hand it network([...]) in a message");
  if (limits?.processes !== undefined && limits.processes !== 1)
    throw not("limits.processes", "an actor is one process");
}

/** The absolute path without symbolic links. Those of the kernel's own file systems are no files to grant. */
function realPath(path: string): string {
  const real = realpathSync(resolve(path));
  for (const own of ["/proc", "/sys", "/dev"]) {
    if (real === own || real.startsWith(`${own}/`))
      throw new TypeError(`Cannot grant ${path}: ${own} belongs to the kernel`);
  }
  // Bun looks for its settings in the directory that it starts in, and would run what they say before any door is closed.
  if (dirname(real) === "/" && !statSync(real).isDirectory())
    throw new TypeError(`Cannot grant ${path}: a file of / itself could configure Bun`);
  if (real === "/") throw new TypeError("Cannot grant /: name the directories that are meant");
  return real;
}

const SIZES: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1000,
  KiB: 1024,
  MB: 1e6,
  MiB: MIB,
  GB: 1e9,
  GiB: 2 ** 30,
};
const TIMES: Readonly<Record<string, number>> = { ms: 0.001, s: 1, min: 60, h: 3600 };

/** A size in bytes, at least one: to the kernel, none is often no limit. */
export function sizeOf(amount: string | number, what: string): number {
  return Math.max(1, Math.floor(quantity(amount, SIZES, what)));
}

/** A time in seconds. */
function seconds(amount: string | number, what: string): number {
  return quantity(amount, TIMES, what);
}

function quantity(amount: string | number, units: Readonly<Record<string, number>>, what: string): number {
  const expected = `a number and one of ${Object.keys(units).join(", ")} is expected`;
  const [, digits, unit] = typeof amount === "number" ? [] : (/^(\d+(?:\.\d+)?) ?([A-Za-z]+)$/.exec(amount) ?? []);
  const factor = typeof amount === "number" ? 1 : Object.hasOwn(units, unit ?? "") ? units[unit!] : undefined;
  const value = typeof amount === "number" ? amount : Number(digits) * (factor ?? Number.NaN);
  if (!(value > 0) || !Number.isFinite(value))
    throw new RangeError(`Cannot use ${JSON.stringify(amount)} as ${what}: ${expected}`);
  return value;
}
