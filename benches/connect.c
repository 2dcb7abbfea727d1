/* What a new connection costs here: the median time of connect(2), in nanoseconds.
 *
 *     connect COUNT ADDRESS PORT LISTEN
 *
 * Listens on every IPv4 address, port LISTEN, and dials ADDRESS:PORT COUNT times from the same network namespace.
 * Where rules capture what goes to ADDRESS, both are one: no other host answers, and each connection's first packet
 * has passed every rule on the way. Ends with status 1 if a connection is not made.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    fputs("connect: ", stderr);
    vfprintf(stderr, format, rest);
    fputc('\n', stderr);
    va_end(rest);
    exit(1);
}

static int number(const char *text, int most) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*text == 0 || *end != 0 || value < 1 || value > most) die("not a number from 1 to %d: %s", most, text);
    return (int)value;
}

static int compare(const void *one, const void *other) {
    long long a = *(const long long *)one, b = *(const long long *)other;
    return (a > b) - (a < b);
}

int main(int argc, char **argv) {
    if (argc != 5) die("usage: connect COUNT ADDRESS PORT LISTEN");
    enum { WARM = 50 };
    int count = number(argv[1], 1000000);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number(argv[3], 65535))};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number(argv[4], 65535))};
    if (inet_pton(AF_INET, argv[2], &to.sin_addr) != 1) die("not an IPv4 address: %s", argv[2]);

    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)) die("socket: %m");
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 512)) die("listening: %m");
    pid_t child = fork();
    if (child < 0) die("fork: %m");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            int accepted = accept(listener, NULL, NULL);
            if (accepted >= 0) close(accepted);
        }
    }
    long long *took = calloc((size_t)count, sizeof *took);
    if (!took) die("calloc: %m");
    for (int i = -WARM; i < count; i++) {
        struct timespec start, end;
        /* No state is left behind: the end is a reset. */
        struct linger linger = {.l_onoff = 1, .l_linger = 0};
        int client = socket(AF_INET, SOCK_STREAM, 0);
        if (client < 0 || setsockopt(client, SOL_SOCKET, SO_LINGER, &linger, sizeof linger)) die("socket: %m");
        clock_gettime(CLOCK_MONOTONIC, &start);
        if (connect(client, (struct sockaddr *)&to, sizeof to)) die("connecting to %s: %m", argv[2]);
        clock_gettime(CLOCK_MONOTONIC, &end);
        close(client);
        if (i >= 0) took[i] = (end.tv_sec - start.tv_sec) * 1000000000LL + (end.tv_nsec - start.tv_nsec);
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    qsort(took, (size_t)count, sizeof *took, compare);
    printf("%lld\n", took[count / 2]);
    free(took);
    return 0;
}
