#define _DEFAULT_SOURCE /* getifaddrs, getentropy, struct tcp_info */
#include "parallel/ledger_link.h"

#include "kernels/core/log.h"
#include "parallel/mpi_internal.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { N_DESKS = 2, ADDRESSES_MAX = 16, CALL_MS = 3000 };

/* Where a desk can be called, IPv4 as for Open MPI itself.  A node may have addresses that only it can reach, or
 * that others have too, so all are tried, and the one counts that answers with the token. */
struct desk_address {
    uint64_t token;
    int32_t node;
    int32_t n_addresses;
    uint16_t port;
    uint32_t address[ADDRESSES_MAX]; /* network order */
};

/* A connection at a desk. */
struct caller {
    int fd, rank; /* rank -1: has not reported yet */
    int is_greeted;
    size_t n_bytes; /* of `in` */
    char in[sizeof(struct ledger_report)];
};

struct ledger_link {
    int node, size;
    struct desk_address desk[N_DESKS];

    /* as a caller */
    pthread_mutex_t mutex; /* guards out: the main thread calls while the watch beats */
    int out[N_DESKS];      /* -1: not connected */
    size_t unsent[N_DESKS];
    struct ledger_report last_sent[N_DESKS];

    /* as a desk */
    int own_desk, listener; /* -1: none */
    struct caller *caller;  /* [n_callers] */
    int n_callers, callers_max;
    struct ledger_far *far; /* [size] */
    int *fd;                /* [size]: that of the last report */
};

int ledger_link_is_desk(const struct ledger_link *link, int desk)
{
    return link != NULL && link->own_desk == desk;
}

const struct ledger_far *ledger_link_far(const struct ledger_link *link, int rank)
{
    static const struct ledger_far nothing;
    return link != NULL && link->far != NULL ? &link->far[rank] : &nothing;
}

/* --- opening --- */

static int open_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* Real interfaces come before the loopback one, which serves nodes that share a network namespace. */
static void list_addresses(struct desk_address *desk)
{
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all) != 0)
        return;
    for (int is_loopback = 0; is_loopback < 2; is_loopback++)
        for (const struct ifaddrs *i = all; i != NULL && desk->n_addresses < ADDRESSES_MAX;
             i = i->ifa_next) {
            if (i->ifa_addr == NULL || i->ifa_addr->sa_family != AF_INET ||
                (i->ifa_flags & IFF_UP) == 0 || ((i->ifa_flags & IFF_LOOPBACK) != 0) != is_loopback)
                continue;
            struct sockaddr_in address;
            memcpy(&address, i->ifa_addr, sizeof address);
            desk->address[desk->n_addresses++] = address.sin_addr.s_addr;
        }
    freeifaddrs(all);
}

static enum status open_desk(struct ledger_link *link, struct desk_address *desk)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    socklen_t length = sizeof any;
    link->listener = open_socket();
    if (link->listener < 0 || bind(link->listener, (struct sockaddr *)&any, sizeof any) != 0 ||
        listen(link->listener, 4096) != 0 ||
        getsockname(link->listener, (struct sockaddr *)&any, &length) != 0)
        FAIL(STATUS_COMM, "no TCP port for --watchdog-timeout: %s", strerror(errno));
    desk->port = any.sin_port;
    if (getentropy(&desk->token, sizeof desk->token) != 0)
        FAIL(STATUS_COMM, "no random number for --watchdog-timeout: %s", strerror(errno));
    list_addresses(desk);

    link->callers_max = 2 * ADDRESSES_MAX + 2 * link->size;
    link->caller = calloc((size_t)link->callers_max, sizeof *link->caller);
    link->far = calloc((size_t)link->size, sizeof *link->far);
    link->fd = malloc((size_t)link->size * sizeof *link->fd);
    if (link->caller == NULL || link->far == NULL || link->fd == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory to watch %d ranks", link->size);
    for (int i = 0; i < link->size; i++)
        link->fd[i] = -1;
    return STATUS_OK;
}

static enum status find_desks(struct ledger_link *link, const struct process *process)
{
    int candidate = process->node == 1 ? process->rank : process->size, second;
    MPI_TRY(MPI_Allreduce(&candidate, &second, 1, MPI_INT, MPI_MIN, mpi_world()));
    const int rank[N_DESKS] = {0, second};
    for (int i = 0; i < N_DESKS; i++) {
        struct desk_address *desk = &link->desk[i];
        enum status status = STATUS_OK;
        *desk = (struct desk_address){.node = process->node};
        if (process->rank == rank[i]) {
            link->own_desk = i;
            status = open_desk(link, desk);
        }
        TRY(mpi_agree(mpi_world(), status));
        MPI_TRY(MPI_Bcast(desk, (int)sizeof *desk, MPI_BYTE, rank[i], mpi_world()));
    }
    return STATUS_OK;
}

enum status ledger_link_open(struct ledger_link **link, const struct process *process)
{
    *link = NULL;
    if (process->n_nodes == 1)
        return STATUS_OK;
    struct ledger_link *new = calloc(1, sizeof *new);
    enum status status = STATUS_OK;
    if (new == NULL) {
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for a watch");
    } else {
        *new = (struct ledger_link){.node = process->node,
                                    .size = process->size,
                                    .out = {-1, -1},
                                    .own_desk = -1,
                                    .listener = -1};
        pthread_mutex_init(&new->mutex, NULL);
    }
    status = mpi_agree(mpi_world(), status);
    if (status == STATUS_OK)
        status = find_desks(new, process);
    if (status != STATUS_OK) {
        ledger_link_close(new);
        return status;
    }
    *link = new;
    return STATUS_OK;
}

/* --- calling --- */

struct attempt {
    int fd;
    int is_asked; /* our token is sent */
};

static void begin_attempt(struct attempt *attempt, const struct desk_address *desk, int i)
{
    const struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = desk->port, .sin_addr.s_addr = desk->address[i]};
    *attempt = (struct attempt){.fd = open_socket()};
    if (attempt->fd >= 0 && connect(attempt->fd, (const struct sockaddr *)&to, sizeof to) != 0 &&
        errno != EINPROGRESS) {
        close(attempt->fd);
        attempt->fd = -1;
    }
}

/* 1 when the desk has answered. */
static int go_on(struct attempt *attempt, const struct desk_address *desk)
{
    uint64_t answer = 0;
    if (!attempt->is_asked) {
        attempt->is_asked = 1;
        if (send(attempt->fd, &desk->token, sizeof desk->token, MSG_NOSIGNAL) ==
            (ssize_t)sizeof desk->token)
            return 0;
    } else if (recv(attempt->fd, &answer, sizeof answer, 0) == (ssize_t)sizeof answer &&
               answer == desk->token) {
        return 1;
    }
    close(attempt->fd);
    attempt->fd = -1;
    return 0;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* All addresses at once; the first that answers is kept. */
static int call_desk(const struct desk_address *desk)
{
    struct attempt attempt[ADDRESSES_MAX];
    struct pollfd wait[ADDRESSES_MAX];
    int found = -1, n = desk->n_addresses;
    int64_t end_ms = now_ms() + CALL_MS, left_ms;
    for (int i = 0; i < n; i++)
        begin_attempt(&attempt[i], desk, i);
    while (found < 0 && (left_ms = end_ms - now_ms()) > 0) {
        for (int i = 0; i < n; i++)
            wait[i] = (struct pollfd){.fd = attempt[i].fd,
                                      .events = attempt[i].is_asked ? POLLIN : POLLOUT};
        if (poll(wait, (nfds_t)n, (int)left_ms) < 0 && errno != EINTR)
            break;
        for (int i = 0; i < n && found < 0; i++)
            if (attempt[i].fd >= 0 && wait[i].revents != 0 && go_on(&attempt[i], desk))
                found = i;
    }
    for (int i = 0; i < n; i++)
        if (i != found && attempt[i].fd >= 0)
            close(attempt[i].fd);
    return found >= 0 ? attempt[found].fd : -1;
}

/* What does not fit goes first the next time: reports must stay whole. */
static void send_report(struct ledger_link *link, int desk, const struct ledger_report *own)
{
    struct ledger_report *report = &link->last_sent[desk];
    if (link->unsent[desk] == 0) {
        *report = *own;
        link->unsent[desk] = sizeof *report;
    }
    const char *rest = (const char *)report + sizeof *report - link->unsent[desk];
    ssize_t sent = send(link->out[desk], rest, link->unsent[desk], MSG_NOSIGNAL);
    if (sent > 0)
        link->unsent[desk] -= (size_t)sent;
}

void ledger_link_call(struct ledger_link *link, int *n_missed, const struct ledger_report *own)
{
    *n_missed = 0;
    for (int i = 0; link != NULL && i < N_DESKS; i++) {
        if (link->desk[i].node == link->node)
            continue;
        int fd = call_desk(&link->desk[i]);
        *n_missed += fd < 0;
        pthread_mutex_lock(&link->mutex);
        link->out[i] = fd;
        if (fd >= 0) /* from here on the desk misses us */
            send_report(link, i, own);
        pthread_mutex_unlock(&link->mutex);
    }
}

/* --- beating --- */

/* 1 when the desk says that someone has spoken. */
static int hear_desk(int fd)
{
    char bytes[256];
    ssize_t n;
    int has_spoken = 0;
    while ((n = recv(fd, bytes, sizeof bytes, 0)) > 0)
        has_spoken |= memchr(bytes, 1, (size_t)n) != NULL;
    return has_spoken;
}

static void take_callers(struct ledger_link *link)
{
    while (link->n_callers < link->callers_max) {
        int fd = accept(link->listener, NULL, NULL), one = 1;
        if (fd < 0)
            return;
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        link->caller[link->n_callers++] = (struct caller){.fd = fd, .rank = -1};
    }
}

static void take_report(struct ledger_link *link, struct caller *caller, int64_t now_ns)
{
    struct ledger_report report;
    memcpy(&report, caller->in, sizeof report);
    caller->n_bytes = 0;
    if (report.rank < 0 || report.rank >= link->size)
        return;
    struct ledger_far *far = &link->far[report.rank];
    caller->rank = report.rank;
    link->fd[report.rank] = caller->fd;
    far->is_known = 1;
    far->is_leaving = report.is_leaving;
    far->seen_ns = now_ns;
    far->last = report.last;
}

/* First the token, which is sent back, then reports.  0 when the other end is closed; one that the kernel has given
 * up is not. */
static int hear_caller(struct ledger_link *link, struct caller *caller, int64_t now_ns)
{
    const uint64_t token = link->desk[link->own_desk].token;
    for (;;) {
        size_t whole = caller->is_greeted ? sizeof caller->in : sizeof token;
        ssize_t n = recv(caller->fd, caller->in + caller->n_bytes, whole - caller->n_bytes, 0);
        if (n <= 0)
            return n < 0 && errno != ECONNRESET;
        caller->n_bytes += (size_t)n;
        if (caller->n_bytes < whole)
            continue;
        if (caller->is_greeted) {
            take_report(link, caller, now_ns);
            continue;
        }
        if (memcmp(caller->in, &token, sizeof token) != 0 ||
            send(caller->fd, &token, sizeof token, MSG_NOSIGNAL) != (ssize_t)sizeof token)
            return 0;
        caller->is_greeted = 1;
        caller->n_bytes = 0;
    }
}

static void drop_caller(struct ledger_link *link, int i)
{
    const struct caller *caller = &link->caller[i];
    if (caller->rank >= 0 && link->fd[caller->rank] == caller->fd) {
        link->fd[caller->rank] = -1;
        link->far[caller->rank].has_ended = 1;
    }
    close(caller->fd);
    link->caller[i] = link->caller[--link->n_callers];
}

/* Since when its kernel has said nothing to what we sent. */
static int64_t unanswered_ns(int fd)
{
    struct tcp_info info;
    socklen_t length = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0 || info.tcpi_unacked == 0)
        return 0;
    return (int64_t)info.tcpi_last_ack_recv * 1000000;
}

static void serve(struct ledger_link *link, int has_spoken, int64_t now_ns)
{
    const char beat = (char)has_spoken;
    take_callers(link);
    for (int i = link->n_callers - 1; i >= 0; i--) {
        struct caller *caller = &link->caller[i];
        if (!hear_caller(link, caller, now_ns)) {
            drop_caller(link, i);
            continue;
        }
        if (caller->rank < 0)
            continue;
        (void)send(caller->fd, &beat, 1, MSG_NOSIGNAL);
        link->far[caller->rank].unanswered_ns = unanswered_ns(caller->fd);
    }
}

int ledger_link_beat(struct ledger_link *link, const struct ledger_report *own, int has_spoken,
                     int64_t now_ns)
{
    if (link == NULL)
        return has_spoken;
    int was_told = 0;
    pthread_mutex_lock(&link->mutex);
    for (int i = 0; i < N_DESKS; i++)
        if (link->out[i] >= 0) {
            send_report(link, i, own);
            was_told |= hear_desk(link->out[i]);
        }
    pthread_mutex_unlock(&link->mutex);
    if (link->own_desk >= 0)
        serve(link, has_spoken, now_ns);
    return has_spoken || was_told;
}

void ledger_link_close(struct ledger_link *link)
{
    if (link == NULL)
        return;
    for (int i = 0; i < N_DESKS; i++)
        if (link->out[i] >= 0)
            close(link->out[i]);
    for (int i = 0; i < link->n_callers; i++)
        close(link->caller[i].fd);
    if (link->listener >= 0)
        close(link->listener);
    pthread_mutex_destroy(&link->mutex);
    free(link->caller);
    free(link->far);
    free(link->fd);
    free(link);
}
