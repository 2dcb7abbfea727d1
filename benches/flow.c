/* What captured connections cost: a proxy that serves, and a client that measures.
 *
 *     flow serve PORT              listens on every address as whoever calls it, and asks each connection for its original
 *                                  destination as proxies do. One byte is answered by the time at which accept(2) returned
 *                                  the connection, up to 128 by themselves, more by nothing
 *     flow latency COUNT ADDRESS PORT    one connection after the other, in nanoseconds: connect(2) mean, p50, p99; p50 of
 *                                  socket(2) and connect(2) together; p50 of the whole cycle (socket, connect, one byte
 *                                  there, the answer back, close); p50 and p99 of what passes between the call of
 *                                  connect(2) and accept(2)'s return at the other end
 *     flow rate SECONDS THREADS ADDRESS PORT    connections a second, as many at a time as there are threads. Each leaves
 *                                  its port waiting (TIME_WAIT). Where no port is free the client tries again after 1 ms,
 *                                  and a second number says how many connections had been made when that was first so; -1
 *                                  for never
 *     flow trip COUNT ADDRESS PORT       the median round trip of 128 bytes, in nanoseconds
 *     flow bulk MEGABYTES ADDRESS PORT   megabytes a second, there
 *     flow run COUNT PROGRAM WORD...     the median time of a whole process, in nanoseconds; its output goes nowhere
 *
 * A run that fails once ends with status 1: what is measured is what is captured.
 */
#include "common.h"

#include <fcntl.h>
#include <linux/netfilter_ipv4.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* How many come first and are not told. */
enum { WARM = 100 };

static struct sockaddr_in target;

static int new_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on)) die("socket: %m");
    return fd;
}

/* Whether a port is free for the destination: those of closed connections wait (TIME_WAIT). */
static int dial(int fd) {
    if (connect(fd, (struct sockaddr *)&target, sizeof target) == 0) return 1;
    if (errno != EADDRNOTAVAIL) die("connect: %m");
    return 0;
}

static void must_dial(int fd) {
    if (!dial(fd)) die("no port is free: what would be measured is the search for one");
}

static int connection(void) {
    int fd = new_socket();
    must_dial(fd);
    return fd;
}

static void all(int fd, void *bytes, size_t count, int out) {
    for (char *next = bytes; count > 0;) {
        ssize_t done = out ? write(fd, next, count) : read(fd, next, count);
        if (done <= 0) die(out ? "writing: %m" : "reading: %m");
        next += done;
        count -= (size_t)done;
    }
}

/* One byte there; when the connection was accepted comes back. */
static int64_t ask(int fd) {
    char byte = 'x';
    int64_t accepted;
    all(fd, &byte, 1, 1);
    all(fd, &accepted, sizeof accepted, 0);
    return accepted;
}

struct accepted {
    int fd;
    int64_t at;
};

static void *answer(void *argument) {
    struct accepted accepted = *(struct accepted *)argument;
    static _Thread_local char bytes[1 << 16];
    struct sockaddr_in original;
    socklen_t length = sizeof original;
    int fd = accepted.fd, on = 1;
    free(argument);
    getsockopt(fd, SOL_IP, SO_ORIGINAL_DST, &original, &length);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (;;) {
        ssize_t got = read(fd, bytes, sizeof bytes);
        if (got <= 0) break;
        if (got == 1)
            all(fd, &accepted.at, sizeof accepted.at, 1);
        else if (got <= 128)
            all(fd, bytes, (size_t)got, 1);
    }
    close(fd);
    return NULL;
}

static void serve(const char *port) {
    /* It ends with who measures. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int listener = listener_on(port);
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, 1 << 17);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        struct accepted *accepted = malloc(sizeof *accepted);
        pthread_t thread;
        if (fd < 0 || accepted == NULL) die("accept: %m");
        *accepted = (struct accepted){fd, now()};
        errno = pthread_create(&thread, &detached, answer, accepted);
        if (errno) die("a thread: %m");
    }
}

static void latency(long count) {
    int64_t *times = samples(count), *both = samples(count), *cycles = samples(count), *accepts = samples(count), sum = 0;
    for (long index = -WARM; index < count; index++) {
        int64_t start = now();
        int fd = new_socket();
        int64_t begin = now();
        must_dial(fd);
        int64_t connected = now(), accepted = ask(fd);
        close(fd);
        int64_t end = now();
        if (index < 0) continue;
        times[index] = connected - begin;
        both[index] = connected - start;
        cycles[index] = end - start;
        accepts[index] = accepted - begin;
        sum += times[index];
    }
    printf("%lld %lld ", (long long)(sum / count), (long long)median(times, count));
    printf("%lld %lld ", (long long)times[count * 99 / 100], (long long)median(both, count));
    printf("%lld %lld ", (long long)median(cycles, count), (long long)median(accepts, count));
    printf("%lld\n", (long long)accepts[count * 99 / 100]);
}

static int64_t deadline;
static long made;
/* How many were made when no port was free for the first time; -1 if one always was. */
static long until = -1;

static void *keep_dialling(void *unused) {
    (void)unused;
    while (now() < deadline) {
        int fd = new_socket();
        if (!dial(fd)) {
            close(fd);
            long never = -1;
            __atomic_compare_exchange_n(&until, &never, __atomic_load_n(&made, __ATOMIC_RELAXED), 0, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED);
            usleep(1000);
            continue;
        }
        ask(fd);
        close(fd);
        __atomic_add_fetch(&made, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void rate(long seconds, long threads) {
    pthread_t ids[64];
    int64_t begin = now();
    deadline = begin + seconds * 1000000000LL;
    for (long index = 0; index < threads; index++)
        if (pthread_create(&ids[index], NULL, keep_dialling, NULL)) die("a thread");
    for (long index = 0; index < threads; index++) pthread_join(ids[index], NULL);
    printf("%lld %ld\n", (long long)(made * 1000000000LL / (now() - begin)), until);
}

static void trip(long count) {
    int64_t *times = samples(count);
    char bytes[128] = {0};
    int fd = connection();
    for (long index = -WARM; index < count; index++) {
        int64_t begin = now();
        all(fd, bytes, sizeof bytes, 1);
        all(fd, bytes, sizeof bytes, 0);
        if (index >= 0) times[index] = now() - begin;
    }
    printf("%lld\n", (long long)median(times, count));
}

static void bulk(long megabytes) {
    static char bytes[1 << 16];
    int fd = connection();
    char end;
    int64_t begin = now();
    for (long index = 0; index < megabytes * 16; index++) all(fd, bytes, sizeof bytes, 1);
    /* The other end closes when it has read everything. */
    shutdown(fd, SHUT_WR);
    while (read(fd, &end, 1) > 0) continue;
    printf("%lld\n", (long long)(megabytes * 1000000000LL / (now() - begin)));
}

static void run(long count, char **words) {
    int64_t *times = samples(count);
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (nowhere < 0) die("/dev/null: %m");
    for (long index = 0; index < count; index++) {
        int status;
        int64_t begin = now();
        pid_t child = vfork();
        if (child == 0) {
            dup2(nowhere, STDOUT_FILENO);
            execv(words[0], words);
            _exit(127);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) die("%s: status %d", words[0], status);
        times[index] = now() - begin;
    }
    printf("%lld\n", (long long)median(times, count));
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    signal(SIGPIPE, SIG_IGN);
    if (argc > 4 && strcmp(what, "run") != 0) target = endpoint(argv[argc - 2], argv[argc - 1]);
    if (strcmp(what, "serve") == 0 && argc == 3)
        serve(argv[2]);
    else if (strcmp(what, "latency") == 0 && argc == 5)
        latency(number(argv[2], 10000000));
    else if (strcmp(what, "rate") == 0 && argc == 6)
        rate(number(argv[2], 3600), number(argv[3], 64));
    else if (strcmp(what, "trip") == 0 && argc == 5)
        trip(number(argv[2], 10000000));
    else if (strcmp(what, "bulk") == 0 && argc == 5)
        bulk(number(argv[2], 1000000));
    else if (strcmp(what, "run") == 0 && argc > 3)
        run(number(argv[2], 100000), argv + 3);
    else
        die("usage: see the head of benches/flow.c");
    return 0;
}
