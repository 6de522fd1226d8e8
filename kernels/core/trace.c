#include "kernels/core/trace.h"

static int64_t counters[TRACE_COUNTERS];

void trace_add(enum trace_counter counter, int64_t count)
{
    counters[counter] += count;
}

int64_t trace_value(enum trace_counter counter)
{
    return counters[counter];
}

const char *trace_name(enum trace_counter counter)
{
    static const char *const name[TRACE_COUNTERS] = {
        [TRACE_ATTENTION_ABSORBED] = "attention_absorbed",
        [TRACE_ATTENTION_EXPANDED] = "attention_expanded",
        [TRACE_CACHE_EXCHANGES] = "cache_exchanges",
        [TRACE_CACHE_GATHERS] = "cache_gathers",
        [TRACE_MOE_LAYERS] = "moe_layers",
        [TRACE_DENSE_LAYERS] = "dense_layers",
        [TRACE_STEPS] = "steps",
        [TRACE_ALL_REDUCES] = "all_reduces",
        [TRACE_DECODE_STEPS] = "decode_steps",
        [TRACE_DECODE_EXPERTS] = "decode_experts",
        [TRACE_DECODE_EXPERT_BYTES] = "decode_expert_bytes",
    };
    return name[counter];
}
