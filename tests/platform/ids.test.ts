// Which ids a container has: as data, and in a user namespace that is really there.
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { abilities } from "../../platform/linux/abilities.ts";
import { isRoot, mapper, mapsFor, writeMaps } from "../../platform/linux/ids.ts";
import { endPuppet, startPuppet } from "../../platform/linux/launch.ts";
import { type Kind, lentTo } from "../../platform/linux/subids.ts";
import type { IdMaps, IdRange, IdRequest } from "../../platform/platform.ts";
import { CLONE } from "../../syscalls/linux/numbers.ts";
import { becomeUser, leaveGroups } from "../../syscalls/linux/process.ts";
import { testIf } from "../syscalls/requirement.ts";

const PASSWD = "root:x:0:0::/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\nannie:x:1000:1000::/:/bin/sh\n";
const anna = { uid: 1000, gid: 100, root: false };
const root = { uid: 0, gid: 0, root: true };

/** A machine with these files in /etc. */
const files =
  (subuid: string, subgid = subuid) =>
  (path: string) =>
    ({ "/etc/passwd": PASSWD, "/etc/subuid": subuid, "/etc/subgid": subgid })[path] ?? "";

const range = (inside: number, outside: number, count = 1): IdRange => ({ inside, outside, count });

describe("lentTo()", () => {
  test.each<[string, [number, number][]]>([
    ["", []],
    ["anna:100000:65536\n", [[100_000, 65_536]]],
    ["1000:100000:65536", [[100_000, 65_536]]],
    [
      "annie:100000:10\nbert:1:1\nanna:500:5\n1000:700:7\n",
      [
        [100_000, 10],
        [500, 5],
        [700, 7],
      ],
    ],
    [
      "# anna:1:1\n#anna:1:1\nanna : 1:1\n anna:1:1\nanna:1\nanna:1:1:1\nanna:1:one\nanna:-1:1\nanna:0x10:1\n\n:1:1",
      [],
    ],
    ["anna:1:0\nanna:4294967295:1\nanna:4294967290:6\nanna:99999999999:1\n", []],
    ["anna:4294967290:5", [[4_294_967_290, 5]]],
    [
      "anna:100:10\nanna:105:10\nanna:100:10\nanna:110:5",
      [
        [100, 10],
        [110, 5],
      ],
    ],
    ["10000:1:1\nanna2:1:1\nann:1:1\nANNA:1:1", []],
  ])("reads %j", (text, expected) => {
    for (const kind of ["uid", "gid"] as const) {
      const { ranges } = lentTo(1000, kind, files(text));
      expect(ranges.map(({ first, count }) => [first, count])).toEqual(expected);
    }
  });

  test("advises a command that lends what nobody has, by the first name or the number of the user", () => {
    const command = (uid: number, kind: Kind, text: string) => lentTo(uid, kind, files(text)).command;
    expect(command(1000, "uid", "")).toBe("usermod --add-subuids 100000-165535 anna");
    expect(command(1000, "gid", "bert:100000:65536\n")).toBe("usermod --add-subgids 165536-231071 anna");
    expect(command(7, "uid", "bert:5:5\n")).toBe("usermod --add-subuids 100000-165535 7");
  });
});

describe("mapsFor()", () => {
  const one = (inside: [number, number], outside: [number, number], setgroups: IdMaps["setgroups"]): IdMaps => ({
    uids: [range(inside[0], outside[0])],
    gids: [range(inside[1], outside[1])],
    setgroups,
  });
  const explicit: IdMaps = { uids: [range(0, 0, 2 ** 32 - 1)], gids: [range(5, 6, 7)], setgroups: "deny" };

  test.each<[string, IdRequest, typeof anna, IdMaps]>([
    ["an ordinary user itself", undefined, anna, one([1000, 100], [1000, 100], "deny")],
    ["any inner user", { user: 0 }, anna, one([0, 100], [1000, 100], "deny")],
    ["any inner user and group", { user: 0, group: 7 }, anna, one([0, 7], [1000, 100], "deny")],
    ["nobody, called root, for root", undefined, root, one([0, 0], [65534, 65534], "allow")],
    ["nobody by any name for root", { user: 5, group: 6 }, root, one([5, 6], [65534, 65534], "allow")],
    ["what the maps say", explicit, anna, explicit],
    ["what the maps say, for root", explicit, root, explicit],
  ])("gives %s", (_, request, caller, expected) => {
    expect(mapsFor(request, caller, files(""))).toEqual(expected);
  });

  test("puts ranges behind the own id, as many as are lent, in their order", () => {
    const read = files("anna:100000:65536\nroot:7000:10\nanna:5000:10", "1000:300000:3\n0:8000:10");
    expect(mapsFor("ranges", anna, read)).toEqual({
      uids: [range(0, 1000), range(1, 100_000, 65_536), range(65_537, 5000, 10)],
      gids: [range(0, 100), range(1, 300_000, 3)],
      setgroups: "allow",
    });
    expect(mapsFor("ranges", root, read)).toEqual({
      uids: [range(0, 65534), range(1, 7000, 10)],
      gids: [range(0, 65534), range(1, 8000, 10)],
      setgroups: "allow",
    });
  });

  test("throws where no ranges are lent, and says how to lend some", () => {
    expect(() => mapsFor("ranges", anna, files("", "anna:1:1"))).toThrow(
      "Cannot map ranges of ids: /etc/subuid lends none to anna, lend some with `usermod --add-subuids 100000-165535 anna`",
    );
    expect(() => mapsFor("ranges", anna, files("anna:1:1", ""))).toThrow("usermod --add-subgids 100000-165535 anna");
    expect(() => mapsFor("ranges", root, files("anna:1:1"))).toThrow("/etc/subuid lends none to root");
  });

  const last = 2 ** 32 - 1;
  test.each<[string, readonly IdRange[]]>([
    ["0 ranges", []],
    ["341 ranges", Array.from({ length: 341 }, (_, index) => range(index, index))],
    ["bytes", Array.from({ length: 340 }, (_, index) => range(10_000_000 + index, 10_000_000 + index))],
    ["0 0 0", [range(0, 0, 0)]],
    ["0 0 -1", [range(0, 0, -1)]],
    ["0 0 1.5", [range(0, 0, 1.5)]],
    ["0.5 0 1", [range(0.5, 0)]],
    ["-1 0 1", [range(-1, 0)]],
    ["0 NaN 1", [range(0, Number.NaN)]],
    [`${last} 0 1`, [range(last, 0)]],
    [`0 ${last} 1`, [range(0, last)]],
    [`1 0 ${last}`, [range(1, 0, last)]],
    ["0 0 Infinity", [range(0, 0, Number.POSITIVE_INFINITY)]],
    ["overlap inside", [range(0, 0, 5), range(4, 10)]],
    ["overlap outside", [range(0, 10, 5), range(7, 14, 5)]],
    ["overlap inside", [range(0, 0), ...Array<IdRange>(2).fill(range(3, 3))]],
  ])("throws RangeError for %s, and so does writeMaps() before it writes", (told, ranges) => {
    const good = [range(0, 0)];
    for (const maps of [
      { uids: ranges, gids: good, setgroups: "deny" },
      { uids: good, gids: ranges, setgroups: "deny" },
    ] as const) {
      expect(() => mapsFor(maps)).toThrow(RangeError);
      expect(() => writeMaps(-1, maps)).toThrow(told);
    }
  });

  test("takes as many ranges as the kernel does, side by side", () => {
    const ranges = Array.from({ length: 340 }, (_, index) => range(index, 1000 + index));
    expect(mapsFor({ uids: ranges, gids: ranges, setgroups: "deny" }).uids).toBe(ranges);
  });
});

const able = (abilities().namespaces & CLONE.NEWUSER) !== 0n;
const testUser = testIf("user namespaces", able, "no user namespace can be made here");
const testRootMaps = testIf("root", able && isRoot(), "only root writes any map");
const testOrdinary = testIf("an ordinary user", able && !isRoot(), "root needs nobody's leave");
const lent = (["uid", "gid"] as const).every(
  (kind) => existsSync(mapper(kind)) && lentTo(process.geteuid!(), kind).ranges.length > 0,
);
const testSubids = testIf(
  "subids",
  able && !isRoot() && lent,
  "that takes an ordinary user to whom /etc/subuid and /etc/subgid lend ids, and newuidmap(1)",
);

/** A puppet in a user namespace that has no maps yet. */
function unmapped() {
  const puppet = startPuppet({ namespaces: CLONE.NEWUSER, descriptors: [] });
  const read = (name: string) => readFileSync(`/proc/${puppet.pid}/${name}`, "utf8");
  const map = (name: string): IdRange[] =>
    read(name)
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => range(...(line.trim().split(/\s+/).map(Number) as [number, number, number])));
  return {
    ...puppet,
    /** What the kernel says of the maps. */
    maps: (): Record<keyof IdMaps, unknown> => ({
      uids: map("uid_map"),
      gids: map("gid_map"),
      setgroups: read("setgroups").trim(),
    }),
    [Symbol.dispose]: () => endPuppet(puppet),
  };
}

describe("writeMaps()", () => {
  testUser("maps one id, under any name inside, and once", () => {
    using puppet = unmapped();
    const maps = mapsFor({ user: 1234, group: 5678 });
    writeMaps(puppet.pid, maps);
    expect(puppet.maps()).toEqual(maps);
    becomeUser(puppet.kernel, { uid: 1234, gid: 5678 });
    expect(puppet.kernel.call("getuid")).toBe(1234);
    expect(() => becomeUser(puppet.kernel, { uid: 0, gid: 0 })).toThrow("EINVAL: setresgid"); // there is no such id
    expect(() => writeMaps(puppet.pid, maps)).toThrow(/^EPERM: write \(\/proc\/<pid>\//);
  });

  testRootMaps("maps what root says", () => {
    using puppet = unmapped();
    const maps: IdMaps = {
      uids: [range(0, 100_000, 1000), range(5000, 65534)],
      gids: [range(0, 200_000, 1000), range(1000, 0)],
      setgroups: "allow",
    };
    writeMaps(puppet.pid, maps);
    expect(puppet.maps()).toEqual(maps);
    leaveGroups(puppet.kernel);
    becomeUser(puppet.kernel, { uid: 7, gid: 1000 });
    expect(readFileSync(`/proc/${puppet.pid}/status`, "utf8")).toMatch(/^Uid:\t100007\t[\s\S]*^Gid:\t0\t/m);
  });

  testRootMaps("denies setgroups where it is told to", () => {
    using puppet = unmapped();
    writeMaps(puppet.pid, { uids: [range(0, 65534)], gids: [range(0, 65534)], setgroups: "deny" });
    expect(puppet.maps().setgroups).toBe("deny");
    expect(() => leaveGroups(puppet.kernel)).toThrow("EPERM: setgroups");
  });

  testSubids("maps the ranges that are lent to an ordinary user, who may then drop its groups", () => {
    using puppet = unmapped();
    const maps = mapsFor("ranges");
    writeMaps(puppet.pid, maps);
    expect(puppet.maps()).toEqual(maps);
    leaveGroups(puppet.kernel);
    becomeUser(puppet.kernel, { uid: 1, gid: 1 });
    const [uid, gid] = [maps.uids[1]!.outside, maps.gids[1]!.outside];
    const status = readFileSync(`/proc/${puppet.pid}/status`, "utf8");
    expect(status).toMatch(new RegExp(`^Uid:\t${uid}\t[\\s\\S]*^Gid:\t${gid}\t`, "m"));
    expect(status).toMatch(/^Groups:\s*$/m);
  });

  testSubids("maps a lent id alone, and denies setgroups where it is told to", () => {
    using puppet = unmapped();
    const { uids, gids } = mapsFor("ranges");
    const maps: IdMaps = {
      uids: [range(0, uids[1]!.outside)],
      gids: [range(0, gids[1]!.outside)],
      setgroups: "deny",
    };
    writeMaps(puppet.pid, maps);
    expect(puppet.maps()).toEqual(maps);
  });

  testSubids("throws for ids that are not lent, says which are, and maps none", () => {
    using puppet = unmapped();
    const { uids, gids } = mapsFor("ranges");
    expect(() => writeMaps(puppet.pid, { uids: [range(0, 0, 10)], gids, setgroups: "allow" })).toThrow(
      new RegExp(
        `^Cannot map uids 0 0 10: .*not allowed.*/etc/subuid lends ${uids[1]!.outside}-.*usermod --add-subuids`,
      ),
    );
    expect(puppet.maps()).toMatchObject({ uids: [], gids: [] });
  });

  testOrdinary("throws RangeError where setgroups is to be allowed with the own group alone", () => {
    using puppet = unmapped();
    const maps = mapsFor(undefined);
    expect(() => writeMaps(puppet.pid, { ...maps, setgroups: "allow" })).toThrow(RangeError);
    expect(puppet.maps().uids).toEqual([]);
    writeMaps(puppet.pid, maps);
    expect(puppet.maps()).toEqual(maps);
  });
});
