/** Filters on system calls: apart from the rest, for few need them, and there are many words in them. */
export * from "./linux/seccomp/index.ts";
