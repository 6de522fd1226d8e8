/* step_graph.h - decode steps kept as one sequence of device operations, one for each number of tokens.
 *
 * A decode step of n sequences is the same operations at the same addresses
 * whatever their lengths: those are read on the device.  The first step of n
 * tokens runs as usual, so that all scratch memory is there; the second is
 * kept; from then on it is repeated.  Steps between ranks are kept where their
 * collectives are operations of the stream (NCCL), not where they wait on the
 * host. */
#ifndef RUNTIME_STEP_GRAPH_H
#define RUNTIME_STEP_GRAPH_H

#include "kernels/backend.h"
#include "kernels/core/trace.h"
#include "parallel/ledger.h"
#include "runtime/step.h"

enum { STEP_GRAPH_MAX_TOKENS = 256 };

struct step_graphs {
    int is_off; /* the device keeps none */
    struct {
        int is_warm;
        void *graph;
        int64_t count[TRACE_COUNTERS]; /* what a repetition adds to the counters */
        struct ledger_record *record;  /* and enters into the ledger */
    } of[STEP_GRAPH_MAX_TOKENS + 1];
};

/* step_forward, kept and repeated where it can be.  Errors: those of step_forward and the device. */
enum status step_graph_forward(struct step_graphs *graphs, struct step *step);

void step_graph_close(struct step_graphs *graphs, const struct device_ops *device);

#endif
