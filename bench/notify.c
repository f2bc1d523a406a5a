/* Makes one call again and again and prints how many nanoseconds each took: `notify <act> <path> <count> [output]`. As `notify floor <act> <path>
   <count>` another process of its own answers each call, with as little as that takes. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long must(long result, const char *what) {
  if (result >= 0) return result;
  fprintf(stderr, "Cannot %s: %s\n", what, strerror(errno));
  exit(1);
}

/* Each is answered at once by a kernel that nobody watches. */
static long act(const char *name, const char *path) {
  if (!strcmp(name, "value")) return syscall(SYS_getppid);
  if (!strcmp(name, "refused")) return syscall(SYS_io_uring_setup, 0, 0);
  if (!strcmp(name, "named")) return syscall(SYS_chroot, path);
  return close((int)must(syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC), path));
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int measure(char **words, int output) {
  const char *name = words[0], *path = words[1];
  long count = atol(words[2]);
  double start = now();
  for (long left = count; left > 0; left--) act(name, path);
  return dprintf(output, "%.0f\n", (now() - start) / (double)count) > 0 ? 0 : 1;
}

/* Hands over the four calls, and returns who is asked. */
static int hand_over(void) {
#define HAND(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF)
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      HAND(SYS_getppid), HAND(SYS_io_uring_setup), HAND(SYS_chroot), HAND(SYS_openat),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
  must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs");
  return (int)must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program), "set the filter");
}

static void pass(int socket, int *descriptor, int take) {
  char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
  struct iovec data = {&byte, 1};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
  if (take) {
    must(recvmsg(socket, &message, 0), "take the listener");
    memcpy(descriptor, CMSG_DATA(rights), sizeof(int));
    return;
  }
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(rights), descriptor, sizeof(int));
  must(sendmsg(socket, &message, 0), "hand out the listener");
}

/* What getppid(2), which takes no argument, is made with at the end: old kernels do not tell who waits in RECV that all callers are gone. */
#define LAST 0x1a57

static void serve(int listener, const char *path) {
  for (;;) {
    struct seccomp_notif call = {0};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call)) return;
    if (call.data.nr == SYS_openat) {
      int file = (int)must(open(path, O_RDONLY | O_CLOEXEC), path);
      struct seccomp_notif_addfd add = {.id = call.id, .flags = SECCOMP_ADDFD_FLAG_SEND, .srcfd = (unsigned)file, .newfd_flags = O_CLOEXEC};
      must(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add), "give a descriptor");
      close(file);
      continue;
    }
    struct seccomp_notif_resp answer = {.id = call.id};
    if (call.data.nr == SYS_getppid) answer.val = 1;
    else answer.error = -EPERM;
    must(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer), "answer");
    if (call.data.nr == SYS_getppid && call.data.args[0] == LAST) return;
  }
}

static int floor_of(char **words) {
  int sockets[2], listener, status;
  must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), "make sockets");
  pid_t child = (pid_t)must(fork(), "fork");
  if (child == 0) {
    listener = hand_over();
    pass(sockets[1], &listener, 0);
    close(listener);
    int code = measure(words, 1);
    syscall(SYS_getppid, LAST);
    _exit(code);
  }
  pass(sockets[0], &listener, 1);
  serve(listener, words[1]);
  return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv) {
  if (argc == 5 && !strcmp(argv[1], "floor")) return floor_of(argv + 2);
  if (argc < 4) return 2;
  return measure(argv + 1, argc == 5 ? (int)must(open(argv[4], O_WRONLY | O_CLOEXEC), argv[4]) : 1);
}
