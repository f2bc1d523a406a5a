/** Who is started again when one child ended: that one; all; or that one and those that were started after it. */
export type Strategy = "one_for_one" | "one_for_all" | "rest_for_one";

/** Those that one child's end concerns, itself among them. @param all in the order in which they are started */
export function concerned<Member>(strategy: Strategy, all: readonly Member[], one: Member): readonly Member[] {
  switch (strategy) {
    case "one_for_one":
      return [one];
    case "one_for_all":
      return all;
    case "rest_for_one":
      return all.slice(all.indexOf(one));
  }
}
