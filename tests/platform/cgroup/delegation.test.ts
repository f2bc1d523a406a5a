import { describe, expect, test } from "bun:test";
import { isDelegated } from "../../../platform/linux/cgroup/delegation.ts";

const TOP = "/cg";
const MANAGER = "/cg/user.slice/user-7.slice/user@7.service";

const table: readonly (readonly [
  what: string,
  group: string,
  given: { readonly uid: number; readonly marked?: string; readonly owned?: string },
  delegated: boolean,
])[] = [
  ["root's own scope, marked", "/cg/run-1.scope", { uid: 0, marked: "/cg/run-1.scope" }, true],
  ["a group beneath one that is marked", "/cg/run-1.scope/a/b", { uid: 0, marked: "/cg/run-1.scope" }, true],
  ["a service of systemd's", "/cg/system.slice/a.service", { uid: 0 }, false],
  ["a service of systemd's beside one that is marked", "/cg/a.service", { uid: 0, marked: "/cg/a.service.d" }, false],
  ["root in what a user's manager governs", `${MANAGER}/app.slice/a.scope`, { uid: 0, marked: MANAGER }, false],
  ["a user's scope, which nothing marks", `${MANAGER}/app.slice/a.scope`, { uid: 7, marked: MANAGER, owned: `${MANAGER}/app.slice/a.scope` }, true],
  ["a user's session, which is root's", "/cg/user.slice/user-7.slice/session-1.scope", { uid: 7 }, false],
  ["a user's group under a systemd that marks nothing", "/cg/jobs", { uid: 7, owned: "/cg/jobs" }, true],
  ["the top", TOP, { uid: 0 }, false],
]; // biome-ignore format: a table

describe("isDelegated() of", () => {
  test.each(table)("%s", (_, group, { uid, marked, owned }, delegated) => {
    const marks = {
      isMarked: (each: string) => each === marked,
      ownerOf: (each: string) => (each === owned ? uid : 0),
    };
    expect(isDelegated(group, { top: TOP, uid, marks })).toBe(delegated);
  });
});
