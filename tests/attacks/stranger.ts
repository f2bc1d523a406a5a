/** Hosts of an ordinary user whom nobody else is: what the kernel counts by user is theirs alone. */

/** No account of a distribution, no subordinate id, and not the host's nobody. */
const STRANGER = "54321";

const setpriv = Bun.which("setpriv");
const words = ["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups", "--"];

/** The program that becomes one before it becomes the host, with its arguments; undefined where there is none. */
export const stranger: readonly string[] | undefined = setpriv === null ? undefined : [setpriv, ...words];

export const NO_STRANGER = "there is no setpriv (Debian: util-linux), by which root becomes an ordinary user";
