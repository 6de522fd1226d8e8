/* generation.h - completes prompts: prefill in chunks, draw, append, until a stop; several of them side
 * by side, in the sequences that the engine has.
 *
 * Runs on rank 0; the other ranks sit in engine_work. */
#ifndef RUNTIME_GENERATION_H
#define RUNTIME_GENERATION_H

#include "runtime/engine.h"
#include "runtime/sampler.h"
#include "runtime/tokenizer.h"

struct generation_request {
    const int32_t *prompt; /* ids, BOS included; at least one */
    int64_t n_prompt;
    int max_tokens; /* 0: only the prompt is run (logits of the prompt) */
    struct sampling_params sampling;
    int ignore_eos;
    int n_logprobs;          /* top tokens per generated token; -1: no logprobs */
    const char *const *stop; /* stop strings; not part of the text */
    int n_stop;
    /* Text as it becomes certain (never a part of a stop string); NULL: not wanted. */
    void (*on_text)(void *context, const char *text, size_t length);
    /* Every row of logits, prompt and generated positions, in order; NULL: not wanted. */
    enum status (*on_logits)(void *context, int64_t position, const float *logits);
    /* Prompt tokens done; NULL: not wanted. */
    void (*on_prefill)(void *context, int64_t done, int64_t total);
    void *context;
};

struct generation_result {
    struct token_list ids; /* generated ones, with the stop id */
    char *text;            /* NULL without tokenizer */
    size_t text_length;
    int stopped; /* 1: eos or stop string ("stop"); 0: max_tokens or the context ("length") */
    struct token_logprob *logprob;     /* [ids.count], NULL unless asked */
    struct token_logprob *top_logprob; /* [ids.count, n_logprobs] */
    /* From the first chunk of the prompt to the first token; from there to the last one, the prompts
     * of others that ran in between included. */
    int64_t prefill_ns, decode_ns;
};

/* Receives what request `index` came to, as soon as it has ended, in any order.  Owner of the result:
 * the sink; end with generation_result_free.  A failure ends the others. */
typedef enum status (*generation_sink)(void *context, int index,
                                       const struct generation_result *result);

/* Each request gets the tokens that it would get alone.  At most engine_max_num_seqs of them are on
 * their way; the next one begins when another ends.  `tokenizer` may be NULL (then no text, and stop
 * strings are refused).  All sequences of the engine are free at the end.
 * Errors: STATUS_USAGE before anything runs (empty prompt, id out of range: text names position and
 * id; prompt longer than the context). */
enum status generation_run_all(struct engine *engine, const struct tokenizer *tokenizer,
                               const struct generation_request *request, int n_requests,
                               generation_sink sink, void *context);

/* One request.  Owner of the result: caller. */
enum status generation_run(struct generation_result *result, struct engine *engine,
                           const struct tokenizer *tokenizer,
                           const struct generation_request *request);
void generation_result_free(struct generation_result *result);

#endif
