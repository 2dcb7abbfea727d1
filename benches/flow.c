/* What captured connections cost: a proxy that serves, and a client that measures.
 *
 *     flow serve PORT              listens on every address as whoever calls it, asks each connection for its original
 *                                  destination as proxies do, and sends back what it gets
 *     flow latency COUNT ADDRESS PORT    one connection after the other: connect(2) mean, p50, p99 and the whole cycle
 *                                  (connect, one byte there and back, close), in nanoseconds
 *     flow rate SECONDS THREADS ADDRESS PORT    connections a second, as many at a time as there are threads; where all
 *                                  ports wait, so does the client
 *     flow trip COUNT ADDRESS PORT       the median round trip of 128 bytes, in nanoseconds
 *     flow bulk MEGABYTES ADDRESS PORT   megabytes a second, there
 *     flow run COUNT PROGRAM WORD...     the median time of a whole process, in nanoseconds
 *
 * A run that fails once ends with status 1: what is measured is what is captured.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter_ipv4.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    fputs("flow: ", stderr);
    vfprintf(stderr, format, rest);
    fputc('\n', stderr);
    va_end(rest);
    exit(1);
}

static long number(const char *text, long most) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*text == 0 || *end != 0 || value < 1 || value > most) die("not a number from 1 to %ld: %s", most, text);
    return value;
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int compare(const void *one, const void *other) {
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return (a > b) - (a < b);
}

static struct sockaddr_in target;

static void aim(const char *address, const char *port) {
    target.sin_family = AF_INET;
    target.sin_port = htons((uint16_t)number(port, 65535));
    if (inet_pton(AF_INET, address, &target.sin_addr) != 1) die("not an IPv4 address: %s", address);
}

/* -1 if no port is free for the destination: those of closed connections wait (TIME_WAIT). */
static int try_to_dial(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (fd < 0) die("socket: %m");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&target, sizeof target) == 0) return fd;
    if (errno != EADDRNOTAVAIL) die("connect: %m");
    close(fd);
    return -1;
}

static int dial(void) {
    for (;;) {
        int fd = try_to_dial();
        if (fd >= 0) return fd;
        usleep(1000);
    }
}

static void all(int fd, char *bytes, size_t count, int out) {
    while (count > 0) {
        ssize_t done = out ? write(fd, bytes, count) : read(fd, bytes, count);
        if (done <= 0) die(out ? "writing: %m" : "reading: %m");
        bytes += done;
        count -= (size_t)done;
    }
}

static void *echo(void *argument) {
    int fd = (int)(intptr_t)argument, on = 1;
    static _Thread_local char bytes[1 << 16];
    struct sockaddr_in original;
    socklen_t length = sizeof original;
    getsockopt(fd, SOL_IP, SO_ORIGINAL_DST, &original, &length);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (;;) {
        ssize_t got = read(fd, bytes, sizeof bytes);
        if (got <= 0) break;
        /* Bulk comes in large pieces and gets none back. */
        if (got <= 128) all(fd, bytes, (size_t)got, 1);
    }
    close(fd);
    return NULL;
}

static void serve(const char *port) {
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number(port, 65535))};
    /* It ends with who measures. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)) die("socket: %m");
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096)) die("listening: %m");
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, 1 << 17);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        pthread_t thread;
        if (fd >= 0 && pthread_create(&thread, &detached, echo, (void *)(intptr_t)fd)) close(fd);
    }
}

static void latency(long count) {
    int64_t *times = calloc((size_t)count, sizeof *times), cycles = 0, sum = 0;
    if (times == NULL) die("memory");
    for (long index = -100; index < count; index++) {
        char byte = 'x';
        int64_t begin = now();
        int fd = dial();
        int64_t connected = now();
        all(fd, &byte, 1, 1);
        all(fd, &byte, 1, 0);
        close(fd);
        int64_t end = now();
        if (index < 0) continue;
        times[index] = connected - begin;
        sum += times[index];
        cycles += end - begin;
    }
    qsort(times, (size_t)count, sizeof *times, compare);
    printf("%lld %lld %lld %lld\n", (long long)(sum / count), (long long)times[count / 2],
           (long long)times[count * 99 / 100], (long long)(cycles / count));
}

static int64_t deadline;
static long made;

static void *keep_dialling(void *unused) {
    (void)unused;
    long count = 0;
    while (now() < deadline) {
        char byte = 'x';
        int fd = try_to_dial();
        if (fd < 0) {
            usleep(1000);
            continue;
        }
        all(fd, &byte, 1, 1);
        all(fd, &byte, 1, 0);
        close(fd);
        count++;
    }
    __atomic_add_fetch(&made, count, __ATOMIC_RELAXED);
    return NULL;
}

static void rate(long seconds, long threads) {
    pthread_t ids[64];
    int64_t begin = now();
    deadline = begin + seconds * 1000000000LL;
    for (long index = 0; index < threads; index++)
        if (pthread_create(&ids[index], NULL, keep_dialling, NULL)) die("a thread");
    for (long index = 0; index < threads; index++) pthread_join(ids[index], NULL);
    printf("%lld\n", (long long)(made * 1000000000LL / (now() - begin)));
}

static void trip(long count) {
    int64_t *times = calloc((size_t)count, sizeof *times);
    char bytes[128] = {0};
    int fd = dial();
    if (times == NULL) die("memory");
    for (long index = -100; index < count; index++) {
        int64_t begin = now();
        all(fd, bytes, sizeof bytes, 1);
        all(fd, bytes, sizeof bytes, 0);
        if (index >= 0) times[index] = now() - begin;
    }
    qsort(times, (size_t)count, sizeof *times, compare);
    printf("%lld\n", (long long)times[count / 2]);
}

static void bulk(long megabytes) {
    static char bytes[1 << 16];
    int fd = dial();
    char end;
    int64_t begin = now();
    for (long index = 0; index < megabytes * 16; index++) all(fd, bytes, sizeof bytes, 1);
    /* The other end closes when it has read everything. */
    shutdown(fd, SHUT_WR);
    while (read(fd, &end, 1) > 0) continue;
    printf("%lld\n", (long long)(megabytes * 1000000000LL / (now() - begin)));
}

static void run(long count, char **words) {
    int64_t *times = calloc((size_t)count, sizeof *times);
    if (times == NULL) die("memory");
    for (long index = 0; index < count; index++) {
        int status;
        int64_t begin = now();
        pid_t child = vfork();
        if (child == 0) {
            execv(words[0], words);
            _exit(127);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) die("%s: status %d", words[0], status);
        times[index] = now() - begin;
    }
    qsort(times, (size_t)count, sizeof *times, compare);
    printf("%lld\n", (long long)times[count / 2]);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(what, "serve") == 0 && argc == 3) {
        serve(argv[2]);
    } else if (strcmp(what, "latency") == 0 && argc == 5) {
        aim(argv[3], argv[4]);
        latency(number(argv[2], 10000000));
    } else if (strcmp(what, "rate") == 0 && argc == 6) {
        aim(argv[4], argv[5]);
        rate(number(argv[2], 3600), number(argv[3], 64));
    } else if (strcmp(what, "trip") == 0 && argc == 5) {
        aim(argv[3], argv[4]);
        trip(number(argv[2], 10000000));
    } else if (strcmp(what, "bulk") == 0 && argc == 5) {
        aim(argv[3], argv[4]);
        bulk(number(argv[2], 1000000));
    } else if (strcmp(what, "run") == 0 && argc > 3) {
        run(number(argv[2], 100000), argv + 3);
    } else {
        die("usage: see the head of benches/flow.c");
    }
    return 0;
}
