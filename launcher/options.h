/* options.h - what the user asked for: one table gives the command line, the
 * configuration file, the environment, --help and --print-config.
 *
 * Precedence: defaults < --config FILE < environment (LATENTRANK_MAX_TOKENS) <
 * command line.  A repeatable option given in a stronger place replaces the
 * whole list of a weaker one.  Options of the file and of the environment that
 * the command does not take are checked and left aside, since one file serves
 * several commands; on the command line they are errors. */
#ifndef LAUNCHER_OPTIONS_H
#define LAUNCHER_OPTIONS_H

#include "kernels/core/status.h"
#include <stddef.h>
#include <stdint.h>

enum command {
    COMMAND_GENERATE,
    COMMAND_EVAL,
    COMMAND_VERIFY,
    COMMAND_INSPECT,
    COMMAND_TOKENIZE,
    COMMAND_DETOKENIZE,
    COMMAND_MAKE_MODEL,
    COMMAND_BENCH_LATENCY,
    COMMAND_BENCH_KERNELS,
    COMMAND_BENCH_LOAD,
    COMMAND_BENCH_COMM,
    COMMAND_COUNT,
    COMMAND_NONE = COMMAND_COUNT /* only --help and --version go without */
};

/* Values of the options that choose from a list, in the order of the list. */
enum option_bos { BOS_AUTO, BOS_ON, BOS_OFF };
enum option_cache { CACHE_AUTO, CACHE_F32, CACHE_BF16, CACHE_FP8_DS_MLA };
enum option_placement { PLACEMENT_REPLICATED, PLACEMENT_NODE, PLACEMENT_SHARDED, PLACEMENT_AUTO };
enum option_weight { WEIGHT_AUTO, WEIGHT_INT8 };
enum option_activation { ACTIVATION_AUTO, ACTIVATION_F32, ACTIVATION_BF16 };
enum option_deterministic {
    DETERMINISTIC_OPTION_OFF,
    DETERMINISTIC_OPTION_BATCH,
    DETERMINISTIC_OPTION_LAYOUT
};
enum option_mla { MLA_OPTION_AUTO, MLA_OPTION_ABSORB, MLA_OPTION_EXPAND };
enum option_load { LOAD_AUTO, LOAD_DUMMY };
enum option_numa { NUMA_AUTO, NUMA_OFF };
enum option_backend { BACKEND_OPTION_AUTO, BACKEND_OPTION_CPU, BACKEND_OPTION_CUDA };
enum option_all2all { ALL2ALL_OPTION_ALLGATHER, ALL2ALL_OPTION_ALLTOALL };
enum option_comm { COMM_OPTION_AUTO, COMM_OPTION_MPI, COMM_OPTION_SHM, COMM_OPTION_NCCL };
enum option_model_dtype { MODEL_BF16, MODEL_F32, MODEL_F16 };
enum option_kernel_dtype {
    KERNEL_ALL,
    KERNEL_BF16,
    KERNEL_F16,
    KERNEL_F32,
    KERNEL_F8_E4M3,
    KERNEL_I8,
    KERNEL_I4
};
enum option_kernel {
    KERNEL_OP_ALL,
    KERNEL_OP_GEMM,
    KERNEL_OP_GEMM_HEADS,
    KERNEL_OP_EXPERTS,
    KERNEL_OP_LATENT_ATTENTION,
    KERNEL_OP_EXPANDED_ATTENTION,
    KERNEL_OP_RMS_NORM,
    KERNEL_OP_ROUTER,
    KERNEL_OP_CACHE_APPEND
};
enum option_comm_op {
    COMM_OP_ALL,
    COMM_OP_ALL_REDUCE,
    COMM_OP_REDUCE_SCATTER,
    COMM_OP_ALL_GATHER,
    COMM_OP_ALL_TO_ALL,
    COMM_OP_BROADCAST,
    COMM_OP_LOWEST,
    COMM_OP_BARRIER
};

struct text_list {
    char **text;
    int count;
};

enum { OPTION_ROWS_MAX = 96 };

struct options {
    enum command command;
    int is_of_rank; /* a file or variables were read: other ranks may have seen other ones */
    int help, version, print_config, json;
    char *config;
    char *layouts, *launch; /* NULL: not given */

    char *model, *model_config;
    int64_t tp, ep; /* 0: not given */
    int64_t dp, pp;
    int all2all_backend;
    char *expert_map, *expert_load_out; /* NULL: not given */
    int64_t redundant_experts;
    int weight_dtype, activation_dtype, kv_cache_dtype, kv_placement, mla_mode, load_format;
    int deterministic;
    int numa_bind, backend, comm;
    int64_t max_model_len; /* 0: not given */
    int64_t max_num_batched_tokens, threads;
    int64_t max_num_seqs; /* 0: not given */
    int64_t watchdog_timeout;

    struct text_list prompt, prompt_ids, stop;
    char *prompt_file;
    int add_bos;
    int64_t max_tokens, top_k, seed;
    double temperature, top_p, min_p;
    int ignore_eos;
    int64_t logprobs; /* -1: not given */
    char *dump_logits;

    char *text_file; /* eval */
    char *text;      /* tokenize, detokenize */
    char *out;       /* make-model */
    int dtype;       /* make-model: option_model_dtype; bench kernels: option_kernel_dtype */
    int64_t layers;  /* 0: not given */

    int64_t batch_size, input_len, output_len, repeat; /* bench */
    int op;                                            /* bench kernels, bench comm */
    int64_t min_bytes, max_bytes;                      /* bench comm */
    int cold;                                          /* bench load */

    unsigned char source[OPTION_ROWS_MAX]; /* enum option_source of each row of the table */
};

/* Reads command line, environment (NULL-terminated, as `environ`) and configuration file, then checks
 * what one command demands of its options together.  With --help or --version nothing but the command
 * line is looked at.
 * Owner: caller; end with options_close, also after a failure.
 * Errors: STATUS_USAGE, always. */
enum status options_read(struct options *options, int argc, char *const *argv,
                         char *const *environment);
void options_close(struct options *options);

/* Effective values of the options that the command takes, as a JSON object that --config accepts.
 * Owner: caller; free(). */
char *options_json(const struct options *options);

/* Of the command and its effective values: equal on all ranks of a job. */
uint64_t options_hash(const struct options *options);

/* Text of --help; of the whole program for COMMAND_NONE.  Owner: caller; free(). */
char *options_help(enum command command);

const char *command_name(enum command command);

#endif
