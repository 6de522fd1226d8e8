#include "parallel/ledger_fault.h"

#include <stdio.h>

enum {
    /* Ranks of a node that is cut off fall silent within two beats of each other. */
    TOGETHER_NS = 250 * 1000000,
    /* One that has not been heard for longer may not run, and others may wait for it: nobody is called
     * absent yet. */
    DOUBT_NS = 500 * 1000000
};

static enum ledger_fault_kind kind_of(const struct ledger_sight *sight)
{
    if (sight->has_ended)
        return LEDGER_ENDED;
    return sight->unanswered_ns > sight->silent_ns / 2 ? LEDGER_UNREACHABLE : LEDGER_STOPPED;
}

static void find_silent(struct ledger_fault *fault, const struct ledger_sight *sight, int n,
                        int64_t patience_ns)
{
    int64_t longest = 0;
    for (int i = 0; i < n; i++)
        longest = sight[i].silent_ns > longest ? sight[i].silent_ns : longest;
    if (longest < patience_ns)
        return;
    int at = -1;
    for (int i = 0; i < n; i++)
        if (sight[i].silent_ns + TOGETHER_NS >= longest &&
            (at < 0 || sight[i].rank < sight[at].rank))
            at = i;
    fault->kind = kind_of(&sight[at]);
    fault->at = at;
    for (int i = 0; i < n; i++)
        fault->n_others += i != at && sight[i].silent_ns + TOGETHER_NS >= longest;
}

/* The one that is farthest behind, the lowest of several. */
static void find_absent(struct ledger_fault *fault, const struct ledger_sight *sight, int n,
                        const struct ledger_entry *waiting)
{
    int at = -1, n_absent = 0;
    for (int i = 0; i < n; i++) {
        const struct ledger_entry *last = &sight[i].last;
        if (sight[i].silent_ns >= DOUBT_NS)
            return;
        if (sight[i].is_at_work || !ledger_is_absent(sight[i].rank, last, waiting))
            continue;
        n_absent++;
        if (at < 0 || ledger_is_before(last, &sight[at].last) ||
            (!ledger_is_before(&sight[at].last, last) && sight[i].rank < sight[at].rank))
            at = i;
    }
    if (at >= 0)
        *fault = (struct ledger_fault){.kind = LEDGER_ABSENT, .at = at, .n_others = n_absent - 1};
}

void ledger_find_fault(struct ledger_fault *fault, const struct ledger_sight *sight, int n,
                       const struct ledger_entry *waiting, int64_t patience_ns)
{
    *fault = (struct ledger_fault){.kind = LEDGER_NO_FAULT};
    find_silent(fault, sight, n, patience_ns);
    if (fault->kind == LEDGER_NO_FAULT && waiting != NULL)
        find_absent(fault, sight, n, waiting);
}

/* "its process has not run for 2.1 s" */
static void tell_why(char *text, size_t size, const struct ledger_fault *fault,
                     const struct ledger_sight *sight)
{
    double seconds = (double)sight->silent_ns * 1e-9;
    if (fault->kind == LEDGER_ABSENT)
        snprintf(text, size, "its process runs");
    else if (fault->kind == LEDGER_ENDED)
        snprintf(text, size, "its process has ended");
    else if (fault->kind == LEDGER_UNREACHABLE)
        snprintf(text, size, "its node has not answered for %.1f s", seconds);
    else
        snprintf(text, size, "its process has not run for %.1f s", seconds);
}

void ledger_tell_fault(char *text, size_t size, const struct ledger_fault *fault,
                       const struct ledger_sight *sight, const char *host,
                       const struct ledger_entry *waiting, int own, double seconds)
{
    char name[96] = "", last[96] = "none", why[96], others[64] = "";
    sight += fault->at;
    tell_why(why, sizeof why, fault, sight);
    if (sight->last.step >= 0)
        ledger_name(last, sizeof last, &sight->last);
    if (fault->n_others > 0)
        snprintf(others, sizeof others, ", and %d more rank%s with it", fault->n_others,
                 fault->n_others == 1 ? "" : "s");
    if (waiting == NULL) {
        snprintf(text, size,
                 "rank %d (%s) is missing: %s%s, as rank %d sees it between two steps "
                 "(--watchdog-timeout); its last was %s",
                 sight->rank, host, why, others, own, last);
        return;
    }
    const char *verb = "never entered", *link = ": ";
    if (fault->kind != LEDGER_ABSENT && !sight->is_near)
        verb = "is missing in";
    else if (!ledger_is_absent(sight->rank, &sight->last, waiting)) {
        verb = "entered";
        link = ", but ";
    }
    ledger_name(name, sizeof name, waiting);
    snprintf(text, size,
             "rank %d (%s) %s %s%s%s%s; rank %d has waited for it for %.1f s "
             "(--watchdog-timeout); its last was %s",
             sight->rank, host, verb, name, link, why, others, own, seconds, last);
}
