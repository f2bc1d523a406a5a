/** Bytes that may be printed, by one or by several together. */
export interface Allowance {
  left: number;
  /** Called when somebody prints more. */
  exceeded?(): void;
}

/** That of one alone. */
export const allowanceOf = (bytes: number | undefined): Allowance | undefined =>
  bytes === undefined ? undefined : { left: bytes };

/** How many of so many bytes may be given on: from here on, that many less are left. */
export function spend(allowance: Allowance, bytes: number): number {
  const allowed = Math.min(bytes, allowance.left);
  allowance.left -= allowed;
  return allowed;
}
