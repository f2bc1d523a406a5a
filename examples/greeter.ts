/** What `hello.ts` runs as an actor. */
export function greet(name: string): string {
  return `Hello, ${name}, from process ${process.pid} of a world that has no other`;
}
