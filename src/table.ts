/** Tables for terminals: each line is as wide as the window at most, and does nothing but draw. */
import { harmless } from "./output.ts";

export interface Column<Row> {
  readonly title: string;
  /** The one that gives way where the window is narrow. */
  readonly flexible?: true;
  /** Goes where the window is narrow, the last one first. */
  readonly spare?: true;
  /** Whether it is set to the left, as words are; numbers are set to the right. */
  readonly left?: true;
  cell(row: Row): string;
}

/** What a column that gives way keeps while others can go, and after that. */
const COMFORTABLE = 24;
const NARROWEST = 8;
const GAP = "  ";

/** Lines, the first of which has the titles. @param width in cells of the terminal */
export function table<Row>(columns: readonly Column<Row>[], rows: readonly Row[], width: number): string[] {
  const drawn = columns.map(({ title, flexible, spare, left, cell }) => {
    const cells = [title, ...rows.map((row) => harmless(cell(row)).replaceAll("\t", " "))];
    return { cells, flexible, spare, left, width: Math.max(...cells.map((each) => Bun.stringWidth(each))) };
  });
  const surplus = () => drawn.reduce((sum, each) => sum + each.width + GAP.length, -GAP.length) - width;
  const flexible = drawn.find((column) => column.flexible);
  const gives = (least: number) => Math.max(0, (flexible?.width ?? 0) - least);
  for (let at = drawn.length - 1; at >= 0 && surplus() > gives(COMFORTABLE); at--)
    if (drawn[at]!.spare) drawn.splice(at, 1);
  if (flexible !== undefined && surplus() > 0) flexible.width -= Math.min(surplus(), gives(NARROWEST));
  return drawn[0]!.cells.map((_, line) =>
    fit(drawn.map(({ cells, width, left }) => set(cells[line]!, width, left === true)).join(GAP), width).trimEnd(),
  );
}

function set(cell: string, width: number, left: boolean): string {
  const fitting = fit(cell, width);
  const space = " ".repeat(width - Bun.stringWidth(fitting));
  return left ? fitting + space : space + fitting;
}

/** A text that takes so many cells at most. */
export function fit(text: string, width: number): string {
  if (Bun.stringWidth(text) <= width) return text;
  // Bun's cut takes a cell or several too many, where wide characters and marks stand at the edge.
  for (let to = width; to > 0; to--) {
    const cut = Bun.sliceAnsi(text, 0, to, { ellipsis: "…" });
    if (Bun.stringWidth(cut) <= width) return cut;
  }
  return "";
}

/** A size in four or five characters, such as `1.5G`: to compare, not to reckon with. */
export function shortSize(bytes: number): string {
  let [value, unit] = [bytes, "B"];
  for (const larger of ["K", "M", "G", "T"]) {
    if (value < 1000) break;
    [value, unit] = [value / 1024, larger];
  }
  return `${unit !== "B" && value < 9.95 ? value.toFixed(1) : Math.round(value)}${unit}`;
}

/** A time from its largest unit on: `3d04h`, `2h05m`, `1m02s`, `7s`. */
export function shortTime(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (value: number) => String(Math.floor(value)).padStart(2, "0");
  if (whole >= 86_400) return `${Math.floor(whole / 86_400)}d${two((whole % 86_400) / 3600)}h`;
  if (whole >= 3600) return `${Math.floor(whole / 3600)}h${two((whole % 3600) / 60)}m`;
  return whole >= 60 ? `${Math.floor(whole / 60)}m${two(whole % 60)}s` : `${whole}s`;
}

/** A count in at most five characters: `99999`, `100k`, `12M`. */
export function shortCount(count: number): string {
  if (count < 100_000) return String(Math.round(count));
  return count < 1e8
    ? count < 1e6
      ? `${Math.floor(count / 1000)}k`
      : `${Math.floor(count / 1e6)}M`
    : `${Math.floor(count / 1e9)}G`;
}
