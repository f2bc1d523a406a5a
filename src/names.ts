/** Names that a broker knows, told in the words of DNS to a program that asks its resolver. */
import { type Answer, AUTHORITATIVE_ANSWER, decode, encode, RECURSION_AVAILABLE, RECURSION_DESIRED } from "dns-packet";
import { parseIp } from "../syscalls/linux/network.ts";

/** How long a program may remember, in seconds: another answer may be another one's. */
const TTL = 0;
/** NXDOMAIN and SERVFAIL stand in the last four bits of the flags. */
const NO_SUCH_NAME = 3;
const FAILED = 2;

/**
 * The answer to one query, or nothing to what is none. Addresses go to who asks for their kind; a name without such an address is there all the same.
 * @param lookup the addresses of a name, or nothing where there is no such name
 */
export async function answerTo(
  query: Uint8Array,
  lookup: (name: string) => Promise<readonly string[] | undefined>,
): Promise<Uint8Array | undefined> {
  const asked = questionIn(query);
  if (asked === undefined) return undefined;
  const { id, question } = asked;
  const reply = (answers: Answer[], code = 0) =>
    encode({
      id,
      type: "response",
      flags: AUTHORITATIVE_ANSWER | RECURSION_DESIRED | RECURSION_AVAILABLE | code,
      questions: [question],
      answers,
    });
  let addresses: readonly string[] | undefined;
  try {
    addresses = await lookup(question.name.toLowerCase());
    if (addresses === undefined) return reply([], NO_SUCH_NAME);
    const wanted = addresses.filter((address) => kindOf(address) === question.type);
    return reply(wanted.map((data) => ({ type: question.type as "A", name: question.name, ttl: TTL, data })));
  } catch {
    return reply([], FAILED);
  }
}

/** A and AAAA are what a program wants to connect to. */
function kindOf(address: string): "A" | "AAAA" {
  const bytes = parseIp(address);
  if (bytes === undefined) throw new TypeError(`Cannot answer with ${address}: an IP address is expected`);
  return bytes.length === 4 ? "A" : "AAAA";
}

/** What a datagram asks. Undefined where it is no query of one question: whatever it is, nothing here throws. */
function questionIn(query: Uint8Array) {
  try {
    const { id = 0, type, questions = [] } = decode(Buffer.from(query));
    const [question] = questions;
    return type === "query" && questions.length === 1 && question !== undefined ? { id, question } : undefined;
  } catch {
    return undefined;
  }
}
