/** The contestant as a `Worker`. */
import { answer } from "./answer.ts";

declare const self: Worker;

const take = answer((message) => self.postMessage(message));
self.onmessage = ({ data }: MessageEvent) => take(data);
self.postMessage("ready");
