// Where something starts, by what it was granted.
import { expect, test } from "bun:test";
import { startFrom } from "../../src/grant.ts";

const HERE = "/home/me/project";

const CASES: readonly (readonly [
  what: string,
  granted: readonly string[],
  made: boolean | undefined,
  here?: string,
])[] = [
  ["nothing is granted", [], undefined],
  ["here", [HERE], false],
  ["above", ["/home"], false],
  ["in it", [`${HERE}/a/b`], false],
  ["beside it", ["/home/me/other"], true],
  ["a name that begins alike", [`${HERE}s`], true],
  ["another at the top", ["/etc/hosts"], undefined],
  ["one at the top that begins alike", ["/homes/me"], undefined],
  ["one of several", ["/etc", `${HERE}/a`, "/home/you"], false],
  ["we are in the root", ["/home", "/etc"], undefined, "/"],
  ["we are at the top", ["/home/me"], false, "/home"],
];

test.each(CASES)("startFrom(): %s", (_, granted, made, here = HERE) => {
  expect(startFrom(here, granted)).toEqual(made === undefined ? undefined : { directory: here, made });
});
