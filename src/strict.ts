/** JSON text in which nothing is said twice: JSON.parse would take the last, and a person reads the first. */
import { printParseErrorCode, visit } from "jsonc-parser";

/** The value of JSON text. Throws TypeError with the line of what is wrong: no JSON, comments, a key that stands twice. */
export function readJson(text: string): unknown {
  const objects: Set<string>[] = [];
  let wrong: string | undefined;
  const refuse = (why: string, line: number, column: number) => {
    wrong ??= `line ${line + 1}, column ${column + 1}: ${why}`;
  };
  try {
    visit(
      text,
      {
        onObjectBegin: () => void objects.push(new Set()),
        onObjectEnd: () => void objects.pop(),
        onObjectProperty(key, _offset, _length, line, column) {
          if (objects.at(-1)!.has(key)) refuse(`${JSON.stringify(key)} stands there twice`, line, column);
          objects.at(-1)!.add(key);
        },
        onError: (error, _offset, _length, line, column) => refuse(words(printParseErrorCode(error)), line, column),
      },
      { disallowComments: true },
    );
    if (wrong === undefined) return JSON.parse(text);
  } catch (cause) {
    // It is nested beyond reason, or the two readers do not agree.
    throw new TypeError(`Cannot read this as JSON: ${cause instanceof Error ? cause.message : cause}`, { cause });
  }
  throw new TypeError(`Cannot read this as JSON: ${wrong}`);
}

/** `ValueExpected` as `value expected`. */
const words = (code: string) => code.replaceAll(/\B[A-Z]/g, (letter) => ` ${letter}`).toLowerCase();
