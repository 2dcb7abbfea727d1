/* Runs the commands of a case file in a network namespace of its own and says what they cost.
 *
 *     launcher time|rss|show CASE
 *
 * A case is lines of tab-separated fields: phase, standard input (a path, or - for none), program (absolute),
 * arguments. Phases: `setup` commands run first and are not counted, `timed` ones are what is measured, `show`
 * ones run last and only in show mode, with our standard output. Any command that fails ends us with status 1.
 *
 *     time   prints the nanoseconds from the first timed command's start to the last one's end
 *     rss    prints two numbers of KiB: the greatest peak of a timed command itself, and of any of its descendants
 *     show   prints what the `show` commands print
 *
 * The commands start one after the other by vfork and execve, with files opened beforehand and no shell between.
 * rss traces instead, untimed, and reads VmHWM when a process is about to exit: wait4's ru_maxrss would mix a
 * process with the children it has waited for.
 */
#include "common.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

enum { MAX_COMMANDS = 512, MAX_ARGS = 64 };

struct command {
    const char *phase;
    int input;
    char *argv[MAX_ARGS + 1];
};

static struct command commands[MAX_COMMANDS];
static int count;
static int null;
static int errors; /* what the commands say on standard error: passed on only when one fails */
static char *environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};

static void read_case(const char *path) {
    static char line[1 << 14];
    FILE *file = fopen(path, "re");
    if (!file) die("%s: %m", path);
    while (fgets(line, sizeof line, file)) {
        if (count == MAX_COMMANDS) die("%s: more than %d commands", path, MAX_COMMANDS);
        line[strcspn(line, "\n")] = 0;
        char *rest = strdup(line);
        struct command *command = &commands[count++];
        command->phase = strsep(&rest, "\t");
        const char *input = rest ? strsep(&rest, "\t") : "-";
        command->input = strcmp(input, "-") ? open(input, O_RDONLY | O_CLOEXEC) : null;
        if (command->input < 0) die("%s: %m", input);
        for (int n = 0; rest; n++) {
            if (n == MAX_ARGS) die("%s: a command with more than %d arguments", path, MAX_ARGS);
            command->argv[n] = strsep(&rest, "\t");
        }
        if (!command->argv[0]) die("%s: line %d names no program", path, count);
    }
    fclose(file);
}

/* The child's side: only calls that are safe after vfork. */
static void become(const struct command *command, int output) {
    dup2(command->input, STDIN_FILENO);
    if (output != STDOUT_FILENO) dup2(output, STDOUT_FILENO);
    dup2(errors, STDERR_FILENO);
    execve(command->argv[0], command->argv, environment);
    _exit(127);
}

static void check(const struct command *command, int status) {
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    char text[4096] = "";
    size_t used = 0;
    for (char *const *arg = command->argv; *arg && used < sizeof text; arg++)
        used += (size_t)snprintf(text + used, sizeof text - used, " %s", *arg);
    char said[1 << 14];
    ssize_t length = pread(errors, said, sizeof said, 0);
    if (length > 0) fwrite(said, 1, (size_t)length, stderr);
    if (WIFEXITED(status)) die("exit %d of%s", WEXITSTATUS(status), text);
    die("signal %d ended%s", WTERMSIG(status), text);
}

static int spawn(const struct command *command, int output) {
    int status;
    pid_t child = vfork();
    if (child == 0) become(command, output);
    if (child < 0) die("vfork: %m");
    while (wait4(child, &status, 0, NULL) < 0)
        if (errno != EINTR) die("wait4: %m");
    return status;
}

static void run(const char *phase, int output) {
    for (struct command *command = commands; command < commands + count; command++)
        if (!strcmp(command->phase, phase)) check(command, spawn(command, output));
}

static long peak_kib(pid_t process, pid_t *group) {
    char path[64], line[256];
    long peak = 0;
    snprintf(path, sizeof path, "/proc/%d/status", process);
    FILE *status = fopen(path, "re");
    if (!status) die("%s: %m", path);
    while (fgets(line, sizeof line, status)) {
        sscanf(line, "Tgid: %d", group);
        sscanf(line, "VmHWM: %ld", &peak);
    }
    fclose(status);
    return peak;
}

/* Runs a command under ptrace, with all that it starts, and notes the peak of every process at its exit. */
static void trace(const struct command *command, long *own, long *others) {
    int gate[2], status, result = -1;
    if (pipe2(gate, O_CLOEXEC)) die("pipe2: %m");
    pid_t child = fork();
    if (child < 0) die("fork: %m");
    if (child == 0) {
        char byte;
        if (read(gate[0], &byte, 1) != 1) _exit(126);
        become(command, null);
    }
    long options = PTRACE_O_TRACEEXIT | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE;
    if (ptrace(PTRACE_SEIZE, child, NULL, options | PTRACE_O_EXITKILL)) die("PTRACE_SEIZE: %m");
    if (write(gate[1], "", 1) != 1) die("gate: %m");
    close(gate[0]);
    close(gate[1]);
    for (pid_t who; (who = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR;) {
        if (who < 0) continue;
        if (!WIFSTOPPED(status)) {
            if (who == child) result = status;
            continue;
        }
        int event = status >> 16, signal = event ? 0 : WSTOPSIG(status);
        if (event == PTRACE_EVENT_EXIT) {
            pid_t group = who;
            long peak = peak_kib(who, &group);
            long *most = group == child ? own : others;
            if (peak > *most) *most = peak;
        }
        /* ESRCH: killed meanwhile; its end is the next thing we hear. */
        if (ptrace(PTRACE_CONT, who, NULL, (long)signal) && errno != ESRCH) die("PTRACE_CONT: %m");
    }
    check(command, result);
}

int main(int argc, char **argv) {
    if (argc != 3) die("usage: launcher time|rss|show CASE");
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    errors = memfd_create("errors", MFD_CLOEXEC);
    if (null < 0 || errors < 0) die("/dev/null, memfd: %m");
    read_case(argv[2]);
    isolate();
    run("setup", null);
    if (!strcmp(argv[1], "rss")) {
        long own = 0, others = 0;
        for (const struct command *command = commands; command < commands + count; command++)
            if (!strcmp(command->phase, "timed")) trace(command, &own, &others);
        printf("%ld %ld\n", own, others);
        return 0;
    }
    int64_t start = now();
    run("timed", null);
    int64_t end = now();
    if (!strcmp(argv[1], "show"))
        run("show", STDOUT_FILENO);
    else
        printf("%lld\n", (long long)(end - start));
    return 0;
}
