/** Characters that a terminal acts on, or that nobody sees: where they stand in a text, and where they belong. */

/**
 * Controls other than tab; ends of lines; marks that turn the direction of writing; what begins and ends a note between lines; and all that Unicode
 * says is not to be drawn, such as fillers, joiners and tags, those included that are yet to come.
 */
export const UNSEEN =
  /[\0-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ufff9-\ufffb\p{Bidi_Control}\p{Default_Ignorable_Code_Point}]/gu;

/** Scripts whose letters join or stack, in which a joiner is spelling. */
const JOINING = "Arab Syrc Nkoo Mong Deva Beng Guru Gujr Orya Taml Telu Knda Mlym Sinh Khmr Mymr".split(" ");
const LETTER = `[${JOINING.map((script) => `\\p{Script_Extensions=${script}}`).join("")}]`;

/**
 * What is seen by what it does to its neighbours. None of these can stand behind another of its kind, so nothing can be hidden in a row of them. Tags
 * can: they are not among these, and the flags of Scotland, Wales and England, which alone are made of them, are told as a black flag and its tags.
 */
const BELONGING = new RegExp(
  [
    `(?<=${LETTER})[\\u200c\\u200d](?=${LETTER})`,
    "(?<=[\\u1820-\\u1878])[\\u180b-\\u180f]", // looks of a Mongolian letter
    "(?<=[\\p{Extended_Pictographic}\\p{Emoji_Modifier}\\ufe0f])\\u200d(?=\\p{Extended_Pictographic})",
    "(?<=\\p{Extended_Pictographic})[\\ufe0e\\ufe0f]", // as text, or as an emoji
    "(?<=[#*\\d])\\ufe0f(?=\\u20e3)", // a key cap
    "(?<=\\p{Script=Han})[\\ufe00-\\ufe02\\u{e0100}-\\u{e01ef}]", // looks of a Chinese character
  ].join("|"),
  "uy",
);

/** Whether what stands there belongs there. */
export function belongs(text: string, at: number): boolean {
  BELONGING.lastIndex = at;
  return BELONGING.test(text);
}

/** The same text within a literal of JSON or JavaScript, of which everything is seen. */
export function spelled(literal: string): string {
  const unit = (at: string) => `\\u${at.charCodeAt(0).toString(16).padStart(4, "0")}`;
  // What JSON itself escapes ends at the space; a line that ends there stands between values.
  return literal.replace(UNSEEN, (character) => (character < " " ? character : character.split("").map(unit).join("")));
}
