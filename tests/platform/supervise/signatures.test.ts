import { expect, test } from "bun:test";
import { SIGNATURES } from "../../../platform/linux/supervise/signatures.ts";
import { NUMBERS, type SyscallName } from "../../../syscalls/linux/numbers.ts";

/** All that take neither a path nor an address that a supervisor could read: a call that is new has to be put here, or get a signature. */
const WITHOUT = `
  _sysctl accept accept4 adjtimex add_key afs_syscall alarm arch_prctl bpf brk cachestat capget capset clock_adjtime clock_getres
  clock_gettime clock_nanosleep clock_settime clone clone3 close close_range copy_file_range create_module delete_module dup dup2 dup3
  epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 exit exit_group
  fadvise64 fallocate fanotify_init fchdir fchmod fchown fcntl fdatasync fchroot fgetxattr finit_module flistxattr
  flock fork fremovexattr fsconfig fsetxattr fsmount fsopen fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv
  futex_wake get_kernel_syms get_mempolicy get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid
  getgroups getitimer getpeername getpgid getpgrp getpid getpmsg getppid getpriority getrandom getresgid getresuid getrlimit getrusage
  getsid getsockname getsockopt gettid gettimeofday getuid init_module inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
  io_getevents io_pgetevents io_setup io_submit io_uring_enter io_uring_register io_uring_setup ioctl ioperm iopl ioprio_get ioprio_set
  kcmp kexec_file_load kexec_load keyctl kill landlock_add_rule landlock_create_ruleset landlock_restrict_self listen listmount listns
  lookup_dcookie lseek lsm_get_self_attr lsm_list_modules lsm_set_self_attr madvise map_shadow_stack mbind membarrier memfd_create
  memfd_secret migrate_pages mincore mlock mlock2 mlockall mmap modify_ldt move_pages mprotect mq_getsetattr mq_notify mq_timedreceive
  mq_timedsend mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep nfsservctl open_by_handle_at pause
  perf_event_open personality pidfd_getfd pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl
  pread64 preadv preadv2 prlimit64 process_madvise process_mrelease process_vm_readv process_vm_writev pselect6 ptrace putpmsg pwrite64
  pwritev pwritev2 query_module quotactl_fd read readahead readv reboot recvfrom recvmmsg recvmsg remap_file_pages request_key
  restart_syscall rseq rseq_slice_yield rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
  rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
  sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
  security select semctl semget semop semtimedop sendfile sendmmsg set_mempolicy set_mempolicy_home_node set_robust_list
  set_thread_area set_tid_address setdomainname setfsgid setfsuid setgid setgroups sethostname setitimer setns setpgid setpriority
  setregid setresgid setresuid setreuid setrlimit setsid setsockopt settimeofday setuid shmat shmctl shmdt shmget shutdown sigaltstack
  signalfd signalfd4 socket socketpair splice statmount sync sync_file_range syncfs sysfs sysinfo syslog tee tgkill time timer_create
  timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill tuxcall umask
  uname unshare uprobe uretprobe userfaultfd ustat vfork vhangup vmsplice vserver wait4 waitid write writev
`
  .trim()
  .split(/\s+/);

const known = new Set([NUMBERS.x64, NUMBERS.arm64].flatMap((numbers) => Object.keys(numbers)));

test("every call that is known takes a path or an address, or stands among those that take none", () => {
  const missing = [...known].filter((call) => !Object.hasOwn(SIGNATURES, call) && !WITHOUT.includes(call));
  expect(missing).toEqual([]);
});

test("none is in both, and none is unknown", () => {
  expect(WITHOUT.filter((call) => Object.hasOwn(SIGNATURES, call))).toEqual([]);
  expect(Object.keys(SIGNATURES).filter((call) => !known.has(call))).toEqual([]);
  expect(new Set(WITHOUT).size).toBe(WITHOUT.length);
});

test("what a signature names are arguments that a call has, each once", () => {
  for (const { paths = [], address, message, open } of Object.values(SIGNATURES)) {
    const places = [
      ...paths.flatMap(({ path, directory }) => (directory === undefined ? [path] : [directory, path])),
      ...(address === undefined ? [] : [address.pointer, address.length]),
      ...(message === undefined ? [] : [message]),
      ...(open === undefined || "always" in open ? [] : Object.values(open)),
    ];
    expect(places.every((place) => place >= 0 && place <= 5)).toBe(true);
    expect(new Set(places).size).toBe(places.length);
  }
});

/** By the manual's synopsis: how often `const char *` stands there as the name of a file, and where. */
const MANUAL: Readonly<Partial<Record<SyscallName, readonly number[]>>> = {
  open: [0],
  openat: [1],
  renameat2: [1, 3],
  linkat: [1, 3],
  symlink: [1],
  symlinkat: [2],
  mount: [0, 1],
  execveat: [1],
  fanotify_mark: [4],
  inotify_add_watch: [1],
  name_to_handle_at: [1],
};

test("paths stand where the manual has them", () => {
  for (const [call, places] of Object.entries(MANUAL))
    expect([call, SIGNATURES[call as SyscallName]!.paths!.map(({ path }) => path)]).toEqual([call, [...places!]]);
});
