import { expect, test } from "bun:test";
import { errnoName, SystemError } from "../../syscalls/error.ts";
import { ERRNO } from "../../syscalls/linux/numbers.ts";

test("errnoName() gives the name that manual pages use", () => {
  expect(errnoName(1)).toBe("EPERM");
  expect(errnoName(ERRNO.EWOULDBLOCK)).toBe("EAGAIN");
  expect(errnoName(ERRNO.EDEADLOCK)).toBe("EDEADLK");
  expect(errnoName(4000)).toBe("errno 4000");
});

test("SystemError has the fields of errors of node:fs", () => {
  const cause = new Error("why");
  const error = new SystemError("mount", ERRNO.EPERM, '("/")', { cause });
  expect(error).toBeInstanceOf(Error);
  expect(error).toMatchObject({ name: "SystemError", code: "EPERM", errno: 1, syscall: "mount", cause });
  expect(error.message).toBe('EPERM: mount ("/")');
  expect(new SystemError("fork", 11).message).toBe("EAGAIN: fork");
});
