/* engine.h - a loaded model on all ranks, and steps through it.
 *
 * Rank 0 decides, all ranks execute: rank 0 calls engine_step with a plan, which
 * is broadcast; the others sit in engine_work.  Every rank then issues the
 * same collectives in the same order.
 */
#ifndef RUNTIME_ENGINE_H
#define RUNTIME_ENGINE_H

#include "kernels/backend.h"
#include "parallel/process.h"
#include "runtime/model_config.h"

enum mla_mode {
    MLA_AUTO,   /* per step, whichever form costs fewer operations */
    MLA_ABSORB, /* attention in the latent space */
    MLA_EXPAND  /* keys and values decompressed per head, every step */
};

enum kv_placement {
    KV_REPLICATED, /* every rank holds all cached rows */
    KV_NODE,       /* the ranks of tp on a node share their pages; every node holds all */
    KV_SHARDED,    /* the ranks of tp share their pages */
    KV_AUTO        /* one of these, from what the job measures (cache_choice.h) */
};

/* How far the bits of logits are promised. */
/* How replicas of dp share their experts. */
enum all2all_backend {
    ALL2ALL_ALLGATHER, /* all tokens to all ranks, sums scattered: no count depends on the router */
    ALL2ALL_ALLTOALL   /* each token to the ranks that have its experts, and back */
};

enum deterministic {
    DETERMINISTIC_OFF,
    DETERMINISTIC_BATCH, /* the same for any other sequences in a step, and any chunks of a prompt */
    DETERMINISTIC_LAYOUT /* also for every number of ranks and placement that is not refused */
};

struct expert_load;

struct engine_options {
    const char *model; /* directory of the checkpoint */
    enum backend_kind backend;
    int tp, ep, dp, pp;        /* 0: default (parallel/mesh.h) */
    enum dtype kv_cache_dtype; /* F32, BF16, or U8: fp8_ds_mla */
    enum kv_placement kv_placement;
    enum all2all_backend all2all;
    int has_i8_weights;     /* the large matrices rounded to 8 bits; else all as stored */
    int rounds_inputs;      /* of products with BF16 weights to BF16 (matrix.h); not the router's */
    int keeps_inputs;       /* a GPU does so unless this is set */
    enum mla_mode mla_mode; /* absorb alone keeps the bits of a prompt whatever its chunks */
    enum deterministic deterministic;
    int max_model_len;          /* rows a sequence may reach; 0: max_position_embeddings */
    int lowers_max_model_len;   /* to what the memory holds, with a warning; else that is refused */
    int n_threads;              /* of this rank */
    int max_num_seqs;           /* sequences of all replicas together */
    int max_num_batched_tokens; /* tokens in a step, of all replicas together */
    int64_t cache_pages;        /* for all sequences together; 0: max_model_len rows for each */
    int is_dummy;               /* random weights instead of the file's (--load-format dummy) */
    const char *expert_map;  /* file of expert loads to place experts by; NULL: in order of ids */
    int n_redundant_experts; /* then: slots of a layer that hold second copies */
    /* Opened by engine_open, then this rank's part of what is chosen is counted here (expert_load.h).  The caller
     * ends it, after a failure too; NULL: not counted. */
    struct expert_load *expert_load;
    /* Called while loading with bytes done and in total, on every rank; may be NULL. */
    void (*on_progress)(void *context, int64_t done, int64_t total);
    void *progress_context;
};

struct engine_options engine_defaults(void);

struct engine;

/* Collective over the world.  All phases end agreed: on failure every rank returns the same code with
 * the same text (that of the lowest failing rank).
 * Owner: caller; end with engine_close (collective too).
 * Errors: STATUS_USAGE (layout, lengths), STATUS_INVALID, STATUS_IO, STATUS_UNSUPPORTED,
 * STATUS_NO_MEMORY, STATUS_COMM. */
enum status engine_open(struct engine **engine, const struct engine_options *options,
                        const struct process *process);
void engine_close(struct engine *engine);

const struct model_config *engine_config(const struct engine *engine);
const struct backend *engine_backend(const struct engine *engine);
/* 1: products with BF16 weights round their inputs to BF16 (matrix.h), by option or as a GPU does. */
int engine_rounds_inputs(const struct engine *engine);
int engine_max_model_len(const struct engine *engine);
int engine_max_batched_tokens(const struct engine *engine);
int engine_max_num_seqs(const struct engine *engine);

/* Sequences with the same number mod engine_replicas are of one replica (--dp), which other replicas do not
 * help: steps are fast when each has about as much to do. */
int engine_replicas(const struct engine *engine);

/* How many of the sequences 0 .. n_sequences - 1 are of this rank's replica. */
int engine_own_sequences(const struct engine *engine, int n_sequences);

/* Steps that may be begun and not ended (--pp): as many keep all stages at work. */
int engine_depth(const struct engine *engine);

/* Why KV_AUTO became what engine_memory says, in one line; "" when it was not asked for. */
const char *engine_placement_reason(const struct engine *engine);

struct engine_memory {
    int64_t weight_bytes_read, weight_bytes; /* of this rank */
    int64_t dense_bytes;                     /* read by every decode step (decode_bytes.h) */
    int64_t cache_bytes, workspace_bytes;
    int64_t replicated_cache_bytes; /* what cache_bytes were if this rank held every row */
    int cache_members;              /* ranks that share the rows; 1: every rank holds all */
    enum kv_placement kv_placement; /* not KV_AUTO */
    int64_t cache_row_bytes;        /* one token, one layer */
    int64_t cache_token_bytes;      /* one token, all layers */
    int64_t stage_token_bytes;      /* one token, the layers of this rank */
    int64_t expanded_token_bytes;   /* per-head keys and values, 2 bytes a number, all layers */
};
void engine_memory(const struct engine *engine, struct engine_memory *memory);

/* One part of a step: tokens appended to one sequence. */
struct step_entry {
    int32_t sequence; /* slot, 0 .. max_num_seqs - 1 */
    int32_t n_tokens;
    int32_t
        first_logits; /* logits are wanted for tokens [first_logits, n_tokens); n_tokens: none */
};

/* A step as rank 0 plans it; plain data, broadcast. */
struct step_plan {
    int32_t n_entries, n_tokens;
    const struct step_entry *entry; /* [n_entries] */
    const int32_t *ids;             /* [n_tokens], entry after entry */
};

/* Receives the logits of one token: f32 [vocab_size], valid during the call. */
typedef enum status (*logits_sink)(void *context, int entry, int token, const float *logits);

/* Rank 0: begins a step on all ranks, when fewer than engine_depth are on their way; one that wants more than
 * engine_max_num_seqs rows of logits must be alone.  Positions follow from the lengths of the sequences, which
 * grow at once.
 * Errors: STATUS_USAGE for ids or lengths out of range (checked on rank 0 before anything is sent;
 * the engine stays usable); anything later ends the job (process_abort) on the rank that failed. */
enum status engine_begin_step(struct engine *engine, const struct step_plan *plan);

/* Rank 0: ends the step that was begun first, and hands out its logits, those of an entry in order.
 * Errors: those of `sink`. */
enum status engine_end_step(struct engine *engine, logits_sink sink, void *context);

/* Rank 0: begins a step and ends it; none is on its way before. */
enum status engine_step(struct engine *engine, const struct step_plan *plan, logits_sink sink,
                        void *context);

/* Rank 0: forgets the rows of a sequence and gives its pages back, on all ranks, before the next step.  No
 * step of it is on its way. */
void engine_release(struct engine *engine, int sequence);

/* Cached tokens of a sequence. */
int64_t engine_length(const struct engine *engine, int sequence);

/* Ranks other than 0: executes steps until rank 0 closes the engine or calls engine_rest. */
enum status engine_work(struct engine *engine);

/* Rank 0: the engine_work of the others returns; the engine stays open, and they call engine_work again
 * before the next step and before rank 0 closes.  Errors: STATUS_COMM. */
enum status engine_rest(struct engine *engine);

#endif
