/* Calls CNI plugins as a container runtime does, each time for a fresh pod on a fresh node, and says what one ADD costs.
 *
 *     cni ROUNDS NAME PROGRAM CONFIGURATION [NAME PROGRAM CONFIGURATION]...
 *
 * A node is a network and mount namespace with lo up and a /run of its own, a pod a network namespace with lo up that
 * a process holds. The clock runs from vfork to the plugin's end; standard input is the file CONFIGURATION. Each round
 * another plugin goes first; round 0 warms the caches and is not told. Lines: NAME, nanoseconds, and the peak of the
 * plugin in KiB (of its largest child, if that is larger: wait4(2)). A plugin that fails ends us with status 1.
 */
#include "common.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* A process that holds a pod's network namespace until its parent ends. */
static pid_t hold_pod(void) {
    int ready[2];
    char byte = 0;
    if (pipe2(ready, O_CLOEXEC)) die("pipe2: %m");
    pid_t pid = fork();
    if (pid < 0) die("fork: %m");
    if (pid == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) || unshare(CLONE_NEWNET)) die("a pod: %m");
        lo_up();
        if (write(ready[1], &byte, 1) != 1) die("telling of the pod: %m");
        for (;;) pause();
    }
    if (read(ready[0], &byte, 1) != 1) die("the pod was not made");
    return pid;
}

static void sample(const char *name, const char *program, const char *configuration, int told) {
    isolate();
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
    if (in < 0 || out < 0) die("%s: %m", configuration);
    int64_t begin = now();
    pid_t pid = vfork();
    if (pid == 0) {
        dup2(in, 0);
        dup2(out, 1);
        dup2(out, 2);
        execve(program, words, environment);
        _exit(127);
    }
    if (pid < 0) die("vfork: %m");
    int status;
    struct rusage usage;
    if (wait4(pid, &status, 0, &usage) != pid) die("wait4: %m");
    int64_t took = now() - begin;
    kill(pod, SIGKILL);
    if (status != 0) die("ADD by %s (%s) ended with status %d", name, program, status);
    if (told) printf("%s %lld %ld\n", name, (long long)took, usage.ru_maxrss);
    fflush(stdout);
    _exit(0);
}

int main(int count, char **words) {
    int plugins = (count - 2) / 3, rounds = count > 1 ? (int)number(words[1], 100000) : 0;
    if (plugins < 1 || count != 2 + 3 * plugins) {
        fputs("usage: cni ROUNDS NAME PROGRAM CONFIGURATION...\n", stderr);
        return 64;
    }
    for (int round = 0; round <= rounds; round++) {
        for (int turn = 0; turn < plugins; turn++) {
            char **plugin = words + 2 + 3 * ((round + turn) % plugins);
            /* Each sample is a process of its own: its namespaces go with it. */
            fflush(stdout);
            pid_t pid = fork();
            if (pid < 0) die("fork: %m");
            if (pid == 0) sample(plugin[0], plugin[1], plugin[2], round > 0);
            int status;
            if (waitpid(pid, &status, 0) != pid) die("waitpid: %m");
            if (status != 0) return 1;
        }
    }
    return 0;
}
