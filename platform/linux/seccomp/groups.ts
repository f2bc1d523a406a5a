/** Names for what system calls are about: every call that a machine of ours has is in exactly one group. */
import type { SyscallName } from "../../../syscalls/linux/numbers.ts";

const words = (text: string) => text.trim().split(/\s+/) as SyscallName[]; // that these are calls, a test holds

/** Written in rules with an `@` before them. Calls that do several things are where most programs use them for. */
export const GROUPS = {
  /** Bytes through descriptors that are open, and the descriptors themselves. */
  io: words(`
    read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek close close_range dup dup2 dup3 fcntl
    ioctl pipe pipe2 sendfile splice tee vmsplice`),
  /** Waiting for descriptors, and descriptors made to be waited for. */
  event: words(`
    poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 epoll_ctl_old
    epoll_wait_old eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime`),
  /** Rings and queues that carry other calls past every filter. */
  aio: words(`
    io_setup io_destroy io_getevents io_pgetevents io_submit io_cancel io_uring_setup io_uring_enter io_uring_register`),
  /** Opening files, and looking at them and for them. The flags of an `open` say whether it is for writing. */
  "file-read": words(`
    open openat openat2 stat lstat fstat newfstatat statx access faccessat faccessat2 readlink readlinkat getdents
    getdents64 getcwd chdir fchdir statfs fstatfs ustat getxattr lgetxattr fgetxattr getxattrat listxattr llistxattr
    flistxattr listxattrat file_getattr inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_init
    fanotify_mark name_to_handle_at open_by_handle_at readahead fadvise64 cachestat`),
  /** Creating, changing and removing files. */
  "file-write": words(`
    creat mkdir mkdirat rmdir mknod mknodat link linkat symlink symlinkat unlink unlinkat rename renameat renameat2
    truncate ftruncate fallocate copy_file_range chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime
    utimes utimensat futimesat setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr
    removexattrat file_setattr umask flock sync syncfs fsync fdatasync sync_file_range`),
  /** Sockets. */
  network: words(`
    socket socketpair bind listen accept accept4 connect shutdown sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg
    getsockname getpeername getsockopt setsockopt`),
  /** Starting, awaiting and ending processes, and what belongs to one. */
  process: words(`
    clone clone3 fork vfork execve execveat exit exit_group wait4 waitid pidfd_open getpid getppid getpgrp getpgid setpgid
    getsid setsid getrlimit setrlimit prlimit64 getrusage prctl arch_prctl personality set_thread_area get_thread_area
    modify_ldt`),
  /** Threads of one process, and how they wait for each other. */
  thread: words(`
    futex futex_wait futex_wake futex_waitv futex_requeue set_robust_list get_robust_list set_tid_address gettid rseq
    rseq_slice_yield membarrier sched_yield getcpu`),
  /** Who gets the processors, and when. */
  schedule: words(`
    sched_setaffinity sched_getaffinity sched_setattr sched_getattr sched_setparam sched_getparam sched_setscheduler
    sched_getscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval getpriority setpriority
    ioprio_get ioprio_set`),
  /** This process's memory. */
  memory: words(`
    mmap munmap mremap mprotect pkey_mprotect pkey_alloc pkey_free madvise brk mincore msync mlock mlock2 munlock mlockall
    munlockall mseal memfd_create memfd_secret map_shadow_stack remap_file_pages userfaultfd mbind get_mempolicy
    set_mempolicy set_mempolicy_home_node migrate_pages move_pages`),
  signal: words(`
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait rt_sigqueueinfo
    rt_tgsigqueueinfo sigaltstack kill tkill tgkill pidfd_send_signal pause restart_syscall`),
  /** Reading clocks, sleeping, timers. */
  time: words(`
    time gettimeofday times clock_gettime clock_getres clock_nanosleep nanosleep alarm getitimer setitimer timer_create
    timer_settime timer_gettime timer_getoverrun timer_delete`),
  /** Setting clocks. */
  clock: words("settimeofday clock_settime clock_adjtime adjtimex"),
  /** Who one is, and where: nothing is changed. */
  identity: words(`
    getuid geteuid getresuid getgid getegid getresgid getgroups capget uname sysinfo getrandom lsm_get_self_attr
    lsm_list_modules`),
  /** Becoming somebody else. */
  credentials: words(`
    setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset lsm_set_self_attr`),
  /** Queues, semaphores and shared memory that outlive who made them. */
  ipc: words(`
    shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink mq_timedsend
    mq_timedreceive mq_notify mq_getsetattr`),
  keyring: words("add_key request_key keyctl"),
  /** Giving up access for good. */
  sandbox: words("seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self"),
  mount: words(`
    mount umount2 pivot_root chroot fchroot fsopen fsconfig fsmount fspick open_tree open_tree_attr move_mount
    mount_setattr statmount listmount`),
  namespace: words("unshare setns listns"),
  /** Looking into other processes, and into the kernel. */
  debug: words(`
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd kcmp perf_event_open bpf uprobe
    uretprobe lookup_dcookie`),
  /** What is root's on any machine. */
  system: words(`
    reboot kexec_load kexec_file_load init_module finit_module delete_module swapon swapoff acct quotactl quotactl_fd
    sethostname setdomainname syslog vhangup iopl ioperm nfsservctl`),
  /** What no kernel still in use makes, or no program should. */
  obsolete: words(`
    _sysctl sysfs uselib create_module get_kernel_syms query_module getpmsg putpmsg afs_syscall tuxcall security vserver`),
} as const satisfies Readonly<Record<string, readonly SyscallName[]>>;

export type Group = keyof typeof GROUPS;
