/** The same code as a `Worker`, and the little that makes it answer. */
import { add } from "./sum.ts";

declare const self: Worker;

self.onmessage = ({ data: [a, b] }: MessageEvent<[number, number]>) => self.postMessage(add(a, b));
self.postMessage("ready");
