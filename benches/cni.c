/* Calls CNI plugins as a container runtime does, each time for a fresh pod on a fresh node, and says what one ADD costs.
 *
 *     cni ROUNDS NAME PROGRAM CONFIGURATION [NAME PROGRAM CONFIGURATION]...
 *
 * A node is a network and mount namespace with lo up and a /run of its own, a pod a network namespace with lo up that
 * a process holds. The clock runs from vfork to the plugin's end; standard input is the file CONFIGURATION. Each round
 * another plugin goes first; round 0 warms the caches and is not told. Lines: NAME, nanoseconds, and the peak of the
 * plugin in KiB (of its largest child, if that is larger: wait4(2)). A plugin that fails ends us with status 1.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void must(int ok, const char *what) {
    if (ok) return;
    perror(what);
    _exit(1);
}

static void lo_up(void) {
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    must(fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &request) == 0, "lo up");
    close(fd);
}

/* A process that holds a pod's network namespace until its parent ends. */
static pid_t hold_pod(void) {
    int ready[2];
    char byte = 0;
    must(pipe2(ready, O_CLOEXEC) == 0, "pipe2");
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) {
        must(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && unshare(CLONE_NEWNET) == 0, "a pod");
        lo_up();
        must(write(ready[1], &byte, 1) == 1, "write");
        for (;;) pause();
    }
    must(read(ready[0], &byte, 1) == 1, "the pod");
    return pid;
}

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void sample(const char *name, const char *program, const char *configuration, int told) {
    must(unshare(CLONE_NEWNET | CLONE_NEWNS) == 0, "a node");
    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "private mounts");
    must(mount("tmpfs", "/run", "tmpfs", 0, NULL) == 0, "/run");
    lo_up();
    pid_t pod = hold_pod();
    char netns[64];
    snprintf(netns, sizeof netns, "CNI_NETNS=/proc/%d/ns/net", pod);
    char *environment[] = {
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "CNI_COMMAND=ADD", "CNI_CONTAINERID=0123456789abcdef", netns,
        "CNI_IFNAME=eth0", "CNI_PATH=/usr/lib/cni",
        "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web;K8S_POD_UID=u-1", NULL,
    };
    char *words[] = {(char *)program, NULL};
    int in = open(configuration, O_RDONLY), out = open("/dev/null", O_WRONLY);
    must(in >= 0 && out >= 0, configuration);
    long long begin = now();
    pid_t pid = vfork();
    if (pid == 0) {
        dup2(in, 0);
        dup2(out, 1);
        dup2(out, 2);
        execve(program, words, environment);
        _exit(127);
    }
    must(pid > 0, "vfork");
    int status;
    struct rusage usage;
    must(wait4(pid, &status, 0, &usage) == pid, "wait4");
    long long took = now() - begin;
    kill(pod, SIGKILL);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "cni: ADD by %s (%s) ended with status %d\n", name, program, status);
        _exit(1);
    }
    if (told) printf("%s %lld %ld\n", name, took, usage.ru_maxrss);
    fflush(stdout);
    _exit(0);
}

int main(int count, char **words) {
    int plugins = (count - 2) / 3, rounds = count > 1 ? atoi(words[1]) : 0;
    if (plugins < 1 || rounds < 1 || count != 2 + 3 * plugins) {
        fputs("usage: cni ROUNDS NAME PROGRAM CONFIGURATION...\n", stderr);
        return 64;
    }
    for (int round = 0; round <= rounds; round++) {
        for (int turn = 0; turn < plugins; turn++) {
            char **plugin = words + 2 + 3 * ((round + turn) % plugins);
            /* Each sample is a process of its own: its namespaces go with it. */
            fflush(stdout);
            pid_t pid = fork();
            must(pid >= 0, "fork");
            if (pid == 0) sample(plugin[0], plugin[1], plugin[2], round > 0);
            int status;
            must(waitpid(pid, &status, 0) == pid, "waitpid");
            if (status != 0) return 1;
        }
    }
    return 0;
}
