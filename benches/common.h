/* What the programs beside this file share. It comes first: it says what the C library is to declare. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Says why on standard error, after the program's name, and ends with status 1. */
#define die(...) errx(1, __VA_ARGS__)

/* A whole number from 1 to `most`. */
static inline long number(const char *text, long most) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*text == 0 || *end != 0 || value < 1 || value > most) die("not a number from 1 to %ld: %s", most, text);
    return value;
}

/* Nanoseconds of a clock that all processes share. */
static inline int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static inline int compare(const void *one, const void *other) {
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return (a > b) - (a < b);
}

static inline int64_t *samples(long count) {
    int64_t *times = calloc((size_t)count, sizeof *times);
    if (times == NULL) die("no memory for %ld samples", count);
    return times;
}

/* The samples are in order from then on: the one at 99 * count / 100 is p99. */
static inline int64_t median(int64_t *times, long count) {
    qsort(times, (size_t)count, sizeof *times, compare);
    return times[count / 2];
}

static inline struct sockaddr_in endpoint(const char *address, const char *port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number(port, 65535))};
    if (inet_pton(AF_INET, address, &at.sin_addr) != 1) die("not an IPv4 address: %s", address);
    return at;
}

/* A socket that listens on every IPv4 address. */
static inline int listener_on(const char *port) {
    struct sockaddr_in at = endpoint("0.0.0.0", port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)) die("socket: %m");
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096)) die("listening on port %s: %m", port);
    return fd;
}

static inline void lo_up(void) {
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &lo)) die("lo up: %m");
    close(fd);
}

/* A network namespace with lo up, and a /run of its own, so that no lock is shared with anybody else. */
static inline void isolate(void) {
    if (unshare(CLONE_NEWNET | CLONE_NEWNS)) die("unshare: %m");
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)) die("making / private: %m");
    if (mount("tmpfs", "/run", "tmpfs", 0, NULL)) die("tmpfs on /run: %m");
    lo_up();
}
