/** What somebody may have meant who wrote a word that there is not. */

/** `; did you mean --read?`, where one of `known` is near. */
export function suggestion(word: string, known: readonly string[]): string {
  const bare = word.replace("--allow-", "--"); // as Deno has them
  const [nearest] = known.map((each) => ({ each, far: distance(bare, each) })).toSorted((a, b) => a.far - b.far);
  return nearest !== undefined && nearest.far <= Math.max(2, bare.length / 3) ? `; did you mean ${nearest.each}?` : "";
}

/** How many letters must be put in, left out or replaced to make one word of the other. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (const [i, letter] of [...a].entries()) {
    const next = [i + 1];
    for (const [j, other] of [...b].entries())
      next.push(Math.min(next[j]! + 1, row[j + 1]! + 1, row[j]! + (letter === other ? 0 : 1)));
    row = next;
  }
  return row.at(-1)!;
}
