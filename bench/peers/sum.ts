/** The smallest module that answers. */
export const add = (a: number, b: number): number => a + b;
