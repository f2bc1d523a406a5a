/** Constants that no header of the kernel's UAPI has: from sys/socket.h and sys/mount.h, as glibc and musl both define them. */

export const AF = { UNIX: 1, INET: 2, INET6: 10, NETLINK: 16, PACKET: 17, ALG: 38, VSOCK: 40 } as const;
export const SOCK = { STREAM: 1, DGRAM: 2, RAW: 3, SEQPACKET: 5, CLOEXEC: 0o2000000, NONBLOCK: 0o4000 } as const;
export const MSG = {
  PEEK: 0x2,
  DONTWAIT: 0x40,
  CTRUNC: 0x8,
  TRUNC: 0x20,
  NOSIGNAL: 0x4000,
  FASTOPEN: 0x20000000,
  CMSG_CLOEXEC: 0x40000000,
} as const;
export const SCM = { RIGHTS: 1, CREDENTIALS: 2 } as const;
/** Flags of umount2(2), as is UMOUNT. */
export const MNT = { FORCE: 1, DETACH: 2, EXPIRE: 4 } as const;
export const UMOUNT = { NOFOLLOW: 8 } as const;
