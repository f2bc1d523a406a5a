/** What a program draws on a terminal that is not its own: what draws passes, what reaches beyond the screen or outlives the program does not. */

/** Modes of a terminal that programs may switch, and whether they are on where nobody did. `ECMA-48`, and those of xterm(1) behind a `?` */
const MODES: Readonly<Record<string, boolean>> = {
  "4": false, // insert
  "20": false,
  "?1": false, // what the arrow keys send
  "?5": false,
  "?6": false,
  "?7": true, // lines wrap
  "?12": false,
  "?25": true, // the cursor is seen
  "?47": false, // the other screen
  "?66": false,
  "?69": false,
  "?1000": false, // the mouse
  "?1002": false,
  "?1003": false,
  "?1004": false,
  "?1005": false,
  "?1006": false,
  "?1015": false,
  "?1047": false,
  "?1049": false,
  "?2004": false, // what is pasted has brackets
  "?2026": false,
};

/**
 * Everything else that passes, and what takes it back where it would stay. Of the questions to a terminal, those whose answers hold numbers of
 * the terminal's alone: what a terminal says, the shell reads as typed once the program has ended.
 */
const ALLOWED: readonly { readonly what: RegExp; readonly undo?: string }[] = [
  { what: /^\x1b\[[\d;:]*m$/, undo: "\x1b[0m" },
  { what: /^\x1b\[[\d;]*[@-MPSTXZ`abdefsu]$/ }, // the cursor, and what is erased, inserted and scrolled
  { what: /^\x1b\[\?[\d;]*[JK]$/ },
  { what: /^\x1b\[[\d;]*r$/, undo: "\x1b7\x1b[r\x1b8" },
  { what: /^\x1b\[\d* q$/, undo: "\x1b[0 q" },
  { what: /^\x1b\[(?:[56]|\?6)n$/ }, // where is the cursor?
  { what: /^\x1b\[>?0?c$/ }, // what are you?
  { what: /^\x1b[78DEM>]$/ },
  { what: /^\x1b=$/, undo: "\x1b>" },
  { what: /^\x1b#8$/ },
  { what: /^\x1b\([0AB]$/, undo: "\x1b(B" },
  { what: /^\x1b\)[0AB]$/, undo: "\x1b)B" },
  { what: /^\x0e$/, undo: "\x0f" },
  { what: /^\x0f$/ },
];

const SWITCH = /^\x1b\[(\??)([\d;]+)([hl])$/;
/** What needs looking at: sequences, and control characters but for the bell, backspace, tab and the ends of lines. */
const SUSPECT = /\x1b(?:\[[0-?]{0,128}[ -/]{0,4}[@-~]|[ -/][0-~]|[0-~])?|[\0-\x06\x0e-\x1a\x1c-\x1f\x7f-\x9f]/g;
/** One of which the rest may still come. */
const BEGUN = /\x1b(?:\[[0-?]{0,128}[ -/]{0,4}|[ -/])?$/;
/** What begins text for the terminal itself: its title, its clipboard, its keys. */
const STRING = /^\x1b[\]PX^_]$/;
const STRING_END = /[\x07\x18\x1a\x1b\x9c]/;

/** A stream of bytes as text to draw. Holds no more than the beginning of an escape sequence. */
export class ScreenText {
  // A mark of the order of bytes may stand anywhere.
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  readonly #undo = new Set<string>();
  /** The modes that are not as they were. */
  readonly #switched = new Set<string>();
  #begun = "";
  #inString = false;

  push(bytes: Uint8Array): string {
    return this.#take(this.#decoder.decode(bytes, { stream: true }));
  }

  /** What takes back all that would stay. */
  end(): string {
    const rest = this.#take(this.#decoder.decode());
    const modes = [...this.#switched].map((mode) => `\x1b[${mode}${MODES[mode] ? "h" : "l"}`);
    return [rest, ...modes, ...this.#undo].join("");
  }

  #take(more: string): string {
    const text = this.#begun + more;
    this.#begun = BEGUN.exec(text)?.[0] ?? "";
    const length = text.length - this.#begun.length;
    let drawn = "";
    let at = 0;
    while (at < length) {
      if (this.#inString) {
        const end = text.slice(at, length).search(STRING_END);
        if (end < 0) break;
        this.#inString = false;
        at += text[at + end] === "\x1b" ? end : end + 1;
      }
      SUSPECT.lastIndex = at;
      const found = SUSPECT.exec(text);
      if (found === null || found.index >= length) return drawn + text.slice(at, length);
      drawn += text.slice(at, found.index) + this.#judge(found[0]);
      at = SUSPECT.lastIndex;
    }
    return drawn;
  }

  /** What of a sequence is let through. */
  #judge(sequence: string): string {
    this.#inString = STRING.test(sequence);
    const [, kind, numbers, to] = SWITCH.exec(sequence) ?? [];
    if (numbers !== undefined) return this.#switch(kind!, numbers.split(";"), to!);
    const allowed = ALLOWED.find(({ what }) => what.test(sequence));
    if (allowed?.undo !== undefined) this.#undo.add(allowed.undo);
    return allowed === undefined ? "" : sequence;
  }

  #switch(kind: string, numbers: readonly string[], to: string): string {
    const modes = numbers.filter((number) => Object.hasOwn(MODES, kind + number));
    for (const mode of modes.map((number) => kind + number)) {
      if (MODES[mode] === (to === "h")) this.#switched.delete(mode);
      else this.#switched.add(mode);
    }
    return modes.length === 0 ? "" : `\x1b[${kind}${modes.join(";")}${to}`;
  }
}
