// stopgap
import { NUMBERS, type SyscallName } from "../../syscalls/linux/numbers.ts";
export type Action = "allow" | "kill" | { readonly errno: number };
type A = 0|1|2|3|4|5;
export type Test = { readonly arg: A; readonly op: "eq"|"ne"|"lt"|"le"|"gt"|"ge"; readonly value: bigint } | { readonly arg: A; readonly op: "masked"; readonly mask: bigint; readonly value: bigint };
export type Rule = { readonly call: SyscallName; readonly action: Action; readonly when?: readonly Test[] };
export interface Filter { readonly machine: "x64" | "arm64"; readonly default: Action; readonly rules: readonly Rule[] }
const ret = (a: Action) => a === "allow" ? 0x7fff0000 : a === "kill" ? 0x80000000 : 0x50000 | a.errno;
export function compile(f: Filter): Uint8Array {
  const ins: [number, number, number, number][] = [[0x20,0,0,4],[0x15,1,0,0xc000003e],[6,0,0,0x80000000],[0x20,0,0,0],[0x35,0,1,0x40000000],[6,0,0,0x80000000]];
  for (const r of f.rules) {
    const nr = (NUMBERS[f.machine] as any)[r.call]; if (nr === undefined) continue;
    const body: [number, number, number, number][] = [];
    for (const t of r.when ?? []) {
      const lo = Number(t.value & 0xffffffffn), hi = Number(t.value >> 32n);
      const m = t.op === "masked" ? t.mask : 0xffffffffffffffffn;
      body.push([0x20,0,0,16+8*t.arg],[0x54,0,0,Number(m & 0xffffffffn)],[0x15,0,99,lo],[0x20,0,0,20+8*t.arg],[0x54,0,0,Number(m >> 32n)],[0x15,0,99,hi]);
    }
    body.push([6,0,0,ret(r.action)]);
    body.forEach((b, i) => { if (b[2] === 99) b[2] = body.length - i - 1; });
    ins.push([0x20,0,0,0],[0x15,0,body.length,nr], ...body);
  }
  ins.push([6,0,0,ret(f.default)]);
  const out = new Uint8Array(ins.length*8); const v = new DataView(out.buffer);
  ins.forEach(([c,t,e,k],i)=>{ v.setUint16(i*8,c,true); out[i*8+2]=t; out[i*8+3]=e; v.setUint32(i*8+4,k>>>0,true); });
  return out;
}
