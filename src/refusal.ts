/** What a policy would refuse of that which a program did while nothing was. */
import { basename, dirname, resolve } from "node:path";
import type { Guarantee, Policy } from "../platform/index.ts";
import { parseAddress } from "./address.ts";
import { type Denial, denialFrom, PROXY } from "./denial.ts";
import { bitsOf, covers, type Grants, grantAt, grantsOf } from "./grant.ts";
import { type About, isGiven, type Observation, renames } from "./need.ts";
import { networkRemedy, none, pathRemedy, programRemedy, type Remedy, writeRemedy } from "./remedy.ts";
import { parseRule, parseTarget, ruleForAddress, ruleForName } from "./rule.ts";

type Refusal = { readonly guarantee: Guarantee; readonly wall: string; readonly remedy: Remedy };

/** What is asked by whom, and under which policy. */
interface Case {
  readonly observation: Observation;
  /** The target, where it is a path. */
  readonly path: string;
  readonly policy: Policy;
  readonly grants: Grants;
  readonly about: About;
}

/** The denial that an act would have met under a policy; undefined where it is allowed, or finds nothing either way. Pure, but for what `about` looks up. */
export function wouldRefuse(observation: Observation, policy: Policy, about: About): Denial | undefined {
  const { call, target, program, access } = observation;
  const path = resolve("/", target);
  const refusal = RULES[access]({ observation, path, policy, grants: grantsOf(policy), about });
  return refusal === undefined ? undefined : denialFrom(program, { call, target, ...refusal });
}

type Rule = (given: Case) => Refusal | undefined;

const recipient = ({ kind }: About) => (kind === "actor" ? "script" : "program");

const HIDDEN = "mount namespace: it was not granted, so it is not there";

const looking: Rule = ({ observation, path, grants, about }) => {
  if (!observation.exists || isGiven(path, about)) return undefined;
  const real = about.look(path)?.path ?? path;
  if ([path, real].every((each) => (grantAt(grants, each) & bitsOf("r")) !== 0)) return undefined;
  // The directories above a grant are there, and nothing else is in them.
  const above = observation.access === "look" && [...grants.keys()].some((grant) => covers(path, grant));
  if (above || path === "/") return undefined;
  return { guarantee: "files", wall: HIDDEN, remedy: pathRemedy(path, "read", about.look) };
};

/** @param needed where, and which letters of `rwxc` */
function changing({ path, grants, about }: Case, needed: { readonly at: string; readonly letters: string }) {
  if (isGiven(path, about)) return undefined;
  const had = grantAt(grants, needed.at);
  if ((had & bitsOf(needed.letters)) === bitsOf(needed.letters)) return undefined;
  const wall = had === 0 ? HIDDEN : "mount namespace: it is granted for less than that";
  return { guarantee: "files", wall, remedy: writeRemedy([needed.at], about.look) } as const;
}

const writing: Rule = (given) =>
  given.observation.exists ? changing(given, { at: given.path, letters: "w" }) : naming(given);

/** Names come and go in directories; a path that is granted by itself is held fast. */
const naming: Rule = (given) => {
  if (!given.observation.exists && given.observation.access === "remove") return undefined;
  return changing(given, { at: dirname(given.path), letters: "wc" });
};

const creating: Rule = (given) =>
  given.observation.exists && !renames(given.observation.call) ? writing(given) : naming(given);

const starting: Rule = ({ observation, path, policy, grants, about }) => {
  if (!observation.exists) return undefined;
  const remedy = programRemedy(recipient(about), path);
  if (about.kind === "actor") return { guarantee: "processes", wall: "seccomp: no process can be started", remedy };
  const named = policy.run.some((name) =>
    name.includes("/") ? resolve(about.cwd, name) === path : name === basename(path),
  );
  if (named || path === about.program || about.given?.has(path) || (grantAt(grants, path) & bitsOf("x")) !== 0)
    return undefined;
  return { guarantee: "processes", wall: "mount namespace: the program was not granted", remedy };
};

const connecting: Rule = ({ observation: { target }, policy, about }) => {
  const refused = (wall: string, remedy: Remedy) => ({ guarantee: "network", wall, remedy }) as const;
  if (target.startsWith("unix:"))
    return refused(
      "mount namespace: sockets of the host are not there",
      none("sockets of the host are not for sandboxes"),
    );
  if (about.kind === "actor") return refused("seccomp: no socket can be made", networkRemedy("script", target));
  const place = placeOf(target);
  if (place === undefined) return refused(`${PROXY}: it is no host and port`, none("it connects by TCP alone"));
  const { host, port } = place;
  const rules = policy.net.map(parseRule);
  const address = parseAddress(host);
  const name = address === undefined ? host : about.names?.get(address.text);
  const known = name !== undefined && ruleForName(rules, name, port) !== undefined;
  if (known || (address !== undefined && ruleForAddress(rules, address, port) !== undefined)) return undefined;
  return refused(`${PROXY}: no rule has it`, networkRemedy("program", name === undefined ? target : `${name}:${port}`));
};

function placeOf(target: string): { readonly host: string; readonly port: number } | undefined {
  try {
    const { host, port } = parseTarget(target);
    return { host: host.replace(/^\[|\]$/g, ""), port };
  } catch {
    return undefined;
  }
}

const RULES: Readonly<Record<Observation["access"], Rule>> = {
  read: looking,
  list: looking,
  look: looking,
  write: writing,
  create: creating,
  remove: naming,
  run: starting,
  connect: connecting,
  bind: () => ({
    guarantee: "network",
    wall: "seccomp: nothing can listen",
    remedy: none("listen outside, and hand in the listener"),
  }),
  // A variable that is not there is no refusal: it is told by the program itself.
  environment: () => undefined,
  other: () => ({
    guarantee: "kernel",
    wall: "seccomp: no sandbox allows this call",
    remedy: none("no sandbox allows this call"),
  }),
};
