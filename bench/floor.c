// The floor: the least that a program by hand can do to run /bin/true as bubblewrap would. For comparison alone, compiled by containers.ts.
//
//   floor                            runs /bin/true in a container, and exits as it did
//   floor --repeat N                 prints the median of N starts from here, from clone to reaped, in µs
//   floor --parts user,mount,root    with these parts only; without --parts all, with "none" none
//   floor --share-network            enters an empty network namespace once, which the containers then share
//   floor --spawn N program args...  prints the median of N starts of another program instead, in µs
//
// It has no libc: starting one takes longer than some of the parts.
#include <asm/unistd.h>
#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/socket.h>
#include <linux/sockios.h>
#include <linux/time.h>

typedef unsigned long word;

#define INLINE static inline __attribute__((always_inline))
#define CALL(...) CALL_OF(__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define CALL_OF(name, a, b, c, d, e, ...) trap(__NR_##name, (word)(a), (word)(b), (word)(c), (word)(d), (word)(e))

#if defined(__x86_64__)
INLINE long trap(word number, word a, word b, word c, word d, word e) {
  register word r10 __asm__("r10") = d, r8 __asm__("r8") = e;
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
  return result;
}
__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
#elif defined(__aarch64__)
INLINE long trap(word number, word a, word b, word c, word d, word e) {
  register word x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
  register word x3 __asm__("x3") = d, x4 __asm__("x4") = e;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
  return (long)x0;
}
__asm__(".globl _start\n_start: mov x0, sp\n bl begin\n");
#else
#error "expected x86-64 or arm64"
#endif

enum { ROOT = 1, DEV = 2, PROC = 4, LOOPBACK = 8, MOST_STARTS = 10000 };

static const struct { const char *name; word namespace, step; } PARTS[] = {
  {"user", CLONE_NEWUSER, 0},  {"mount", CLONE_NEWNS, 0},        {"root", 0, ROOT},
  {"dev", 0, DEV},             {"pid", CLONE_NEWPID, 0},         {"proc", 0, PROC},
  {"ipc", CLONE_NEWIPC, 0},    {"uts", CLONE_NEWUTS, 0},         {"cgroup", CLONE_NEWCGROUP, 0},
  {"network", CLONE_NEWNET, 0}, {"loopback", 0, LOOPBACK},
};
#define COUNT(table) (sizeof(table) / sizeof *(table))

static word namespaces, steps, uid, gid, times[MOST_STARTS];
static char *const no_environment[] = {0};
static char *const true_argv[] = {"/bin/true", 0};

static word length(const char *text) {
  word size = 0;
  while (text[size]) size++;
  return size;
}
static int same(const char *a, const char *b, word size) {
  for (word i = 0; i < size; i++) if (a[i] != b[i]) return 0;
  return b[size] == 0;
}
static char *decimal(char *end, word value) {
  do *--end = '0' + value % 10; while (value /= 10);
  return end;
}
static void say(int descriptor, const char *text) { CALL(write, descriptor, text, length(text)); }

__attribute__((noreturn)) static void leave(int code) {
  for (;;) CALL(exit_group, code);
}
static long must(long result, const char *what) {
  if (result >= 0) return result;
  char number[24] = {0};
  say(2, "Cannot ");
  say(2, what);
  say(2, ": errno ");
  say(2, decimal(number + 20, -result));
  say(2, "\n");
  leave(1);
}

static void put(const char *path, const char *text) {
  int file = must(CALL(openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC), path);
  must(CALL(write, file, text, length(text)), path);
  CALL(close, file);
}
/** One id, the caller's own, as bubblewrap maps it. */
static void map_ids(void) {
  put("/proc/self/setgroups", "deny");
  const struct { const char *path; word id; } MAPS[] = {{"/proc/self/uid_map", uid}, {"/proc/self/gid_map", gid}};
  for (word i = 0; i < COUNT(MAPS); i++) {
    char line[64] = {0}, *start = line + 62;
    *--start = '1';
    *--start = ' ';
    start = decimal(start, MAPS[i].id);
    *--start = ' ';
    put(MAPS[i].path, decimal(start, MAPS[i].id));
  }
}

/** The rest of a bind: `target` has to be there. */
static void place(const char *source, const char *target, word attributes) {
  int tree = must(CALL(open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE), source);
  struct mount_attr attr = {.attr_set = attributes};
  if (attributes) must(CALL(mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr), source);
  must(CALL(move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH), target);
  CALL(close, tree);
}
static void link_to(const char *target, const char *path) { must(CALL(symlinkat, target, AT_FDCWD, path), path); }
static void folder(const char *path, word mode) { must(CALL(mkdirat, AT_FDCWD, path, mode), path); }

/** Paths are relative to the new root from here on, which is the working directory. */
static void begin_root(void) {
  // Nothing that is mounted here may reach the host, and nothing of the host's mounts may appear here.
  must(CALL(mount, 0, "/", 0, MS_SLAVE | MS_REC, 0), "make mounts slaves");
  must(CALL(mount, "tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"), "mount the root");
  must(CALL(chdir, "/tmp"), "enter the root");
  folder("usr", 0755);
  place("/usr", "usr", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
  link_to("usr/bin", "bin");
  link_to("usr/sbin", "sbin");
  link_to("usr/lib", "lib");
  link_to("usr/lib64", "lib64");
}
static void make_proc(void) {
  folder("proc", 0755);
  must(CALL(mount, "proc", "proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, 0), "mount proc");
  // Root's files of proc are root's inside too, capabilities or not: they only take the user. Others cannot write them anyway.
  const char *const COVERED[] = {"proc/sys", "proc/sysrq-trigger", "proc/irq", "proc/bus"};
  for (word i = 0; i < COUNT(COVERED) && uid == 0; i++)
    if (CALL(faccessat, AT_FDCWD, COVERED[i], 0) == 0) place(COVERED[i], COVERED[i], MOUNT_ATTR_RDONLY);
}
static void make_dev(void) {
  const char *const DEVICES[] = {"null", "zero", "full", "random", "urandom", "tty"};
  folder("dev", 0755);
  for (word i = 0; i < COUNT(DEVICES); i++) {
    char path[16] = "/dev/";
    for (word at = 0; at < length(DEVICES[i]); at++) path[5 + at] = DEVICES[i][at];
    must(CALL(mknodat, AT_FDCWD, path + 1, 0100644, 0), path);
    place(path, path + 1, 0);
  }
  folder("dev/shm", 0755);
  folder("dev/pts", 0755);
  must(CALL(mount, "devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"), "mount devpts");
  link_to("pts/ptmx", "dev/ptmx");
  link_to("/proc/self/fd", "dev/fd");
  link_to("/proc/self/fd/0", "dev/stdin");
  link_to("/proc/self/fd/1", "dev/stdout");
  link_to("/proc/self/fd/2", "dev/stderr");
  link_to("/proc/kcore", "dev/core");
}
/** The old root lies on the new one until it is detached. `pivot_root(2)` */
static void end_root(void) {
  must(CALL(pivot_root, ".", "."), "pivot");
  must(CALL(umount2, ".", 2 /* MNT_DETACH */), "detach the old root");
  must(CALL(chdir, "/"), "enter the root");
}
static void raise_loopback(void) {
  struct { char name[16]; short flags; char rest[22]; } request = {"lo", 1 /* IFF_UP */, {0}};
  int socket = must(CALL(socket, 2 /* AF_INET */, 2 /* SOCK_DGRAM */ | O_CLOEXEC, 0), "open a socket");
  must(CALL(ioctl, socket, SIOCSIFFLAGS, &request), "raise the loopback");
  CALL(close, socket);
}

/** Not a part of its caller, as what it spills must not lie in the caller's frame: both run on one stack. */
__attribute__((noreturn, noinline)) static void become(char *const *argv) {
  must(CALL(execve, argv[0], argv, no_environment), argv[0]);
  leave(1);
}
__attribute__((noreturn, noinline)) static void become_confined(char *const *argv) {
  for (word capability = 0; CALL(prctl, PR_CAPBSET_DROP, capability) == 0;) capability++;
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct none[2] = {{0}};
  must(CALL(capset, &header, none), "drop capabilities");
  must(CALL(prctl, PR_SET_NO_NEW_PRIVS, 1), "set no_new_privs");
  become(argv);
}
/** As `vfork(2)` does it: the caller waits until the child is another program. */
__attribute__((noinline)) static int start(char *const *argv, int confined) {
  long pid = CALL(clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) {
    if (confined) become_confined(argv);
    become(argv);
  }
  return must(pid, "start a program");
}
/** Waits until `awaited` has ended, reaping what else ends, and returns the exit code that a shell would give it. */
static int reap(int awaited) {
  for (;;) {
    int status;
    long pid = must(CALL(wait4, -1, &status, 0, 0), "wait");
    if (pid == awaited) return (status & 0x7f) ? 128 + (status & 0x7f) : (status >> 8) & 0xff;
  }
}

/** The first process of the container. */
__attribute__((noreturn)) static void initialize(void) {
  CALL(close_range, 3, ~0U, 0);
  if (namespaces & CLONE_NEWUSER) map_ids();
  if (steps & LOOPBACK) raise_loopback();
  if (steps & ROOT) {
    begin_root();
    if (steps & PROC) make_proc();
    if (steps & DEV) make_dev();
    end_root();
  }
  leave(reap(start(true_argv, 1)));
}
/**
 * One container, from clone to reaped.
 * Its first process stays, so it may not share this process's memory, which a program inside could reach through it: a fork, but of a few pages.
 */
static int contain(void) {
  long pid = CALL(clone, namespaces | SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) initialize();
  return reap(must(pid, "clone"));
}

static word nanoseconds(void) {
  struct __kernel_timespec now;
  CALL(clock_gettime, 1 /* CLOCK_MONOTONIC */, &now);
  return now.tv_sec * 1000000000UL + now.tv_nsec;
}
static void print_median(word count) {
  for (word i = 1; i < count; i++) {
    word value = times[i], at = i;
    for (; at > 0 && times[at - 1] > value; at--) times[at] = times[at - 1];
    times[at] = value;
  }
  char line[32] = {0}, *end = line + 30;
  word tenths = times[count / 2] / 100;
  *--end = '\n';
  *--end = '0' + tenths % 10;
  *--end = '.';
  say(1, decimal(end, tenths / 10));
}

static void choose(const char *names) {
  namespaces = steps = 0;
  if (same(names, "none", length(names))) return;
  for (;;) {
    word size = 0, found = 0;
    while (names[size] && names[size] != ',') size++;
    for (word i = 0; i < COUNT(PARTS); i++) {
      if (!same(names, PARTS[i].name, size)) continue;
      namespaces |= PARTS[i].namespace;
      steps |= PARTS[i].step;
      found = 1;
    }
    if (!found) must(-22, "read --parts");
    if (names[size] == 0) return;
    names += size + 1;
  }
}
static word number(const char *text) {
  word value = 0;
  for (; text && *text >= '0' && *text <= '9'; text++) value = value * 10 + (*text - '0');
  if (value == 0 || value > MOST_STARTS) must(-34, "read the number of starts");
  return value;
}

__attribute__((noreturn, used)) void begin(word *stack) {
  char **argument = (char **)(stack + 2);
  word repeats = 0, share = 0;
  char *const *program = 0;
  uid = CALL(geteuid);
  gid = CALL(getegid);
  choose("user,mount,root,dev,pid,proc,ipc,uts,cgroup,network,loopback");
  for (; *argument && !program; argument++) {
    if (same(*argument, "--repeat", 8)) repeats = number(*++argument);
    else if (same(*argument, "--parts", 7) && argument[1]) choose(*++argument);
    else if (same(*argument, "--share-network", 15)) share = 1;
    else if (same(*argument, "--spawn", 7) && argument[1] && argument[2]) {
      repeats = number(*++argument);
      program = argument + 1;
    } else must(-22, *argument);
  }
  if (share) {
    must(CALL(unshare, CLONE_NEWUSER | CLONE_NEWNET), "enter an empty network namespace");
    map_ids();
    raise_loopback();
    namespaces &= ~CLONE_NEWNET;
    steps &= ~LOOPBACK;
  }
  if (!repeats) leave(contain());
  for (word i = 0; i < repeats; i++) {
    word before = nanoseconds();
    int code = program ? reap(start(program, 0)) : contain();
    times[i] = nanoseconds() - before;
    if (code) must(-code, "go on: a start ended with another code than 0");
  }
  print_median(repeats);
  leave(0);
}
