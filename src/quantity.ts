/** Amounts with units, as people write them: sizes and times. */

const MIB = 2 ** 20;
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

/** A size in bytes, at least one: to the kernel, none is often no limit. Throws RangeError. */
export function sizeOf(amount: string | number, what: string): number {
  return Math.max(1, Math.floor(quantity(amount, SIZES, what)));
}

/** A time in seconds. Throws RangeError. */
export function secondsOf(amount: string | number, what: string): number {
  return quantity(amount, TIMES, what);
}

/** A size in the largest unit that it is a whole number of. */
export function printSize(bytes: number): string {
  const unit = ["GiB", "MiB", "KiB"].find((unit) => bytes % SIZES[unit]! === 0) ?? "B";
  return `${bytes / SIZES[unit]!} ${unit}`;
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
