/* What a new connection costs here: the median time of connect(2), in nanoseconds.
 *
 *     connect COUNT ADDRESS PORT LISTEN
 *
 * Listens on every IPv4 address, port LISTEN, and dials ADDRESS:PORT COUNT times from the same network namespace.
 * Where rules capture what goes to ADDRESS, both are one: no other host answers, and each connection's first packet
 * has passed every rule on the way. Ends with status 1 if a connection is not made.
 */
#include "common.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

int main(int argc, char **argv) {
    if (argc != 5) die("usage: connect COUNT ADDRESS PORT LISTEN");
    enum { WARM = 50 };
    long count = number(argv[1], 1000000);
    struct sockaddr_in to = endpoint(argv[2], argv[3]);
    int listener = listener_on(argv[4]);
    pid_t child = fork();
    if (child < 0) die("fork: %m");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            int accepted = accept(listener, NULL, NULL);
            if (accepted >= 0) close(accepted);
        }
    }
    int64_t *took = samples(count);
    for (long i = -WARM; i < count; i++) {
        /* No state is left behind: the end is a reset. */
        struct linger linger = {.l_onoff = 1, .l_linger = 0};
        int client = socket(AF_INET, SOCK_STREAM, 0);
        if (client < 0 || setsockopt(client, SOL_SOCKET, SO_LINGER, &linger, sizeof linger)) die("socket: %m");
        int64_t start = now();
        if (connect(client, (struct sockaddr *)&to, sizeof to)) die("connecting to %s: %m", argv[2]);
        int64_t end = now();
        close(client);
        if (i >= 0) took[i] = end - start;
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    printf("%lld\n", (long long)median(took, count));
    free(took);
    return 0;
}
