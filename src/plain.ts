/** Plain data out of values that may be anything. */

/** A way to a part of a value, key by key. */
export type Steps = readonly string[];

/** No sandbox is deeper. */
const DEPTH = 3;

/**
 * A copy of plain data: text, numbers, null, lists without holes and objects without classes, whatever it is. Throws TypeError for all else, which could
 * be one thing when it is checked and another one when it is used.
 */
export function plain(value: unknown, at: Steps = []): unknown {
  if (value === undefined) throw refusal(at, "is undefined: leave it out, or give it a value");
  if (typeof value === "string" && !value.isWellFormed()) throw refusal(at, "has half of a character");
  if (typeof value !== "object" || value === null) return value;
  if (at.length === DEPTH) throw refusal(at, "is deeper than any part of a sandbox");
  // By numbers: its own iterator may say something else.
  if (Array.isArray(value)) return Array.from({ length: value.length }, (_, index) => part(value, String(index), at));
  const prototype: unknown = Object.getPrototypeOf(value);
  // That of another realm's objects is not ours, but has none itself.
  if (prototype !== null && Object.getPrototypeOf(prototype) !== null) throw refusal(at, "is no plain object");
  // Without a prototype, nothing can be found in it that was not in its original.
  const copy: Record<string, unknown> = Object.create(null);
  for (const key of Reflect.ownKeys(value)) {
    if (typeof key === "symbol" || key === "__proto__") throw refusal(at, `has a key ${String(key)}`);
    copy[key] = part(value, key, at);
  }
  return copy;
}

function part(value: object, key: string, at: Steps): unknown {
  const property = Object.getOwnPropertyDescriptor(value, key);
  if (property === undefined) throw refusal([...at, key], "is missing: a list has no holes");
  if (property.get !== undefined || property.set !== undefined) throw refusal([...at, key], "is no value but a getter");
  if (property.enumerable !== true) throw refusal([...at, key], "is hidden");
  return plain(property.value, [...at, key]);
}

/** What is wrong with a sandbox, and where. */
export function refusal(at: Steps, why: string): TypeError {
  return new TypeError(`Cannot use this sandbox: ${placeOf(at)} ${why}`);
}

/** `limits.memory`, `read[0]`, `unveil["/srv"]` */
function placeOf([key = "it", ...more]: Steps): string {
  const rest = more.map((step) =>
    /^\d+$/.test(step) ? `[${step}]` : /^\w+$/.test(step) ? `.${step}` : `[${JSON.stringify(step)}]`,
  );
  return [key, ...rest].join("");
}
