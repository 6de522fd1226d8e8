/* option_table.c - every option once, every command once, and the names that are known but not here. */
#include "launcher/option_table.h"

#include <string.h>

#define AT(field)    offsetof(struct options, field)
#define GENERATE     (1u << COMMAND_GENERATE)
#define EVAL         (1u << COMMAND_EVAL)
#define VERIFY       (1u << COMMAND_VERIFY)
#define INSPECT      (1u << COMMAND_INSPECT)
#define TOKENIZE     (1u << COMMAND_TOKENIZE)
#define DETOKENIZE   (1u << COMMAND_DETOKENIZE)
#define MAKE_MODEL   (1u << COMMAND_MAKE_MODEL)
#define LATENCY      (1u << COMMAND_BENCH_LATENCY)
#define KERNELS      (1u << COMMAND_BENCH_KERNELS)
#define LOAD         (1u << COMMAND_BENCH_LOAD)
#define COMM         (1u << COMMAND_BENCH_COMM)
#define ENGINE       (GENERATE | EVAL | LATENCY)
#define ALL_COMMANDS ((1u << COMMAND_COUNT) - 1)

static const char *const bos_choices[] = {"auto", "on", "off", NULL};
static const char *const cache_choices[] = {"auto", "f32", "bf16", "fp8_ds_mla", NULL};
static const char *const placement_choices[] = {"replicated", "node", "sharded", "auto", NULL};
static const char *const weight_choices[] = {"auto", "int8", NULL};
static const char *const activation_choices[] = {"auto", "f32", "bf16", NULL};
static const char *const deterministic_choices[] = {"off", "batch", "layout", NULL};
static const char *const mla_choices[] = {"auto", "absorb", "expand", NULL};
static const char *const load_choices[] = {"auto", "dummy", NULL};
static const char *const numa_choices[] = {"auto", "off", NULL};
static const char *const backend_choices[] = {"auto", "cpu", "cuda", NULL};
static const char *const comm_choices[] = {"auto", "mpi", "shm", "nccl", NULL};
static const char *const all2all_choices[] = {"allgather_reducescatter", "alltoall", NULL};
static const char *const dtype_choices[] = {"bf16", "f32", "f16", NULL};
static const char *const kernel_dtype_choices[] = {"all",     "bf16", "f16", "f32",
                                                   "f8_e4m3", "i8",   "i4",  NULL};
static const char *const op_choices[] = {
    "all",      "gemm",   "gemm_heads",   "experts", "latent_attention", "expanded_attention",
    "rms_norm", "router", "cache_append", NULL};

static const char *const comm_op_choices[] = {"all",        "all_reduce", "reduce_scatter",
                                              "all_gather", "all_to_all", "broadcast",
                                              "lowest",     "barrier",    NULL};

const struct command_row command_table[COMMAND_COUNT] = {
    [COMMAND_GENERATE] = {"generate", "completes prompts",
                          "Prompts are those of --prompt, then of --prompt-ids, then of "
                          "--prompt-file; completions come in that order.  Up to --max-num-seqs of "
                          "them run side by side, each as it would alone.  Text goes to stdout as "
                          "it comes when there is one prompt, else each completion ends with a "
                          "newline."},
    [COMMAND_EVAL] = {"eval", "perplexity of a text file",
                      "The text is cut into windows of --max-model-len tokens that do not overlap. "
                      "Each is scored with the BOS token as context only, so every token of the "
                      "text is scored.  Without BOS the first token of each window is context only "
                      "and not scored."},
    [COMMAND_VERIFY] = {"verify",
                        "the same prompts through a list of layouts, compared with one rank",
                        "Starts the jobs itself, so it runs without mpirun.  For each layout: the "
                        "largest difference "
                        "of a logit over the largest |logit| of its row, the tokens, and the bits. "
                        " A layout passes "
                        "when the tokens are the same (up to one whose two best logits nearly tie) "
                        "and no logit is "
                        "off by more than 2e-4, with --deterministic layout when all bits are the "
                        "same.  Prompts are "
                        "random ids, 1, 63, 64, 65 and 700 of them, unless --prompt-ids gives "
                        "others.  Exit code 1 "
                        "when a layout fails."},
    [COMMAND_INSPECT] = {"inspect", "parameters, bytes, cache bytes per token, shares of the ranks",
                         "Needs no ranks and no weights: --tp and --ep describe a hypothetical "
                         "world."},
    [COMMAND_TOKENIZE] =
        {"tokenize", "text to ids",
         "Reads --text or stdin, exactly as it is, and writes the ids on one line, "
         "separated by commas."},
    [COMMAND_DETOKENIZE] = {"detokenize", "ids to text",
                            "Reads ids separated by commas from --text or stdin and writes their "
                            "text exactly, with no newline added."},
    [COMMAND_MAKE_MODEL] =
        {"make-model", "writes a checkpoint with random weights for a config",
         "The checkpoint has the Hugging Face layout, so that other engines can "
         "load the very same model.  The same seed gives the same weights, "
         "those of --load-format dummy, and a tensor does not depend on --layers.  MTP layers "
         "are left out."},
    [COMMAND_BENCH_LATENCY] =
        {"bench latency", "time of a batch: prompts to their first token, then token by token",
         "Prompts are random ids, different for each sequence, and so are the tokens fed back: the "
         "experts touched vary as they do with text, and no end of sequence stops it.  Sampling is "
         "not timed.  One run warms up, --repeat runs are measured.  Speeds are shown beside what "
         "the machine gives these threads in the same job: a streaming read, and multiply-adds on "
         "registers."},
    [COMMAND_BENCH_KERNELS] =
        {"bench kernels", "time of each operation on the shapes of a model, without the model",
         "One rank.  Weights and cached rows are random, and so many that each call finds them in "
         "memory, not in a cache: 1 GiB, less where memory is short.  The ratio is the least time "
         "that the bytes or the arithmetic could take on this machine (a streaming read, "
         "multiply-adds on registers, measured in the same run), over the time it took."},
    [COMMAND_BENCH_LOAD] =
        {"bench load", "time to load a model, beside a plain read of the same bytes",
         "The weights are loaded from the page cache and dropped again, --repeat times, in turn "
         "with "
         "a plain copy of the same bytes into fresh memory.  With --cold also from disk, in turn "
         "with plain reads past the page cache: the model's files are then forgotten by the page "
         "cache before each run.  The ratio is the time of the plain read over that of loading."},
    [COMMAND_BENCH_COMM] =
        {"bench comm", "time of the collectives between the ranks, by size and backend",
         "All backends that these ranks can use, one after another in each of --repeat rounds, and "
         "the MPI library's own collectives (mpi-library).  The time is that of one call on the "
         "slowest rank, the median of the rounds.  algbw and busbw are those of nccl-tests.  Every "
         "result is compared with a serial one: #wrong counts the numbers that differ in any bit; "
         "of mpi-library, which adds in an order of its own, those beyond rounding."},
};

const struct option option_table[] = {
    {.name = "model",
     .value_name = "DIR",
     .type = OPTION_TEXT,
     .at = AT(model),
     .commands = ENGINE | VERIFY | INSPECT | TOKENIZE | DETOKENIZE | LOAD,
     .none = "required",
     .section = "Model",
     .help = "directory of the checkpoint, in Hugging Face layout"},
    {.name = "model-config",
     .value_name = "F",
     .type = OPTION_TEXT,
     .at = AT(model_config),
     .commands = INSPECT,
     .none = "that of --model",
     .section = "Model",
     .help = "a config.json alone, instead of --model"},
    {.name = "model-config",
     .value_name = "F",
     .type = OPTION_TEXT,
     .at = AT(model_config),
     .commands = KERNELS,
     .none = "the shapes of DeepSeek-V2-Lite",
     .section = "Model",
     .help = "the config.json whose shapes are measured"},
    {.name = "model-config",
     .value_name = "F",
     .type = OPTION_TEXT,
     .at = AT(model_config),
     .commands = MAKE_MODEL,
     .none = "required",
     .section = "Model",
     .help = "the config.json to write a model for"},
    {.name = "load-format",
     .value_name = "FORMAT",
     .type = OPTION_CHOICE,
     .at = AT(load_format),
     .commands = ENGINE | VERIFY,
     .initial = "auto",
     .choices = load_choices,
     .section = "Model",
     .help = "dummy: random weights, only config.json is read"},
    {.name = "weight-dtype",
     .value_name = "TYPE",
     .type = OPTION_CHOICE,
     .at = AT(weight_dtype),
     .commands = ENGINE | VERIFY | INSPECT,
     .initial = "auto",
     .choices = weight_choices,
     .section = "Model",
     .help = "numbers of the large matrices in memory; auto: as stored.  int8: rounded while they "
             "are loaded, with a scale for each row and 128 columns, and multiplied by inputs "
             "rounded alike (perplexity of the demo model: 47.4316, stored 47.4273); int4 stays"},
    {.name = "activation-dtype",
     .value_name = "TYPE",
     .type = OPTION_CHOICE,
     .at = AT(activation_dtype),
     .commands = ENGINE | VERIFY | KERNELS,
     .initial = "auto",
     .choices = activation_choices,
     .section = "Model",
     .help = "numbers that bf16 weights are multiplied by; auto: f32 on the CPU, bf16 on a GPU; "
             "bf16: rounded to it before each product but the router's, sums stay f32: twice as "
             "fast on CPUs with AVX512_BF16, the same "
             "bits on all (perplexity of the demo model: 47.4254, f32 47.4273)"},

    {.name = "prompt",
     .value_name = "TEXT",
     .type = OPTION_LIST,
     .at = AT(prompt),
     .commands = GENERATE,
     .none = "none",
     .section = "Prompts",
     .help = "text to complete; may repeat"},
    {.name = "prompt-ids",
     .value_name = "1,2,3",
     .type = OPTION_LIST,
     .at = AT(prompt_ids),
     .commands = GENERATE,
     .none = "none",
     .section = "Prompts",
     .help = "ids to complete, taken as they are; may repeat"},
    {.name = "prompt-ids",
     .value_name = "1,2,3",
     .type = OPTION_LIST,
     .at = AT(prompt_ids),
     .commands = VERIFY,
     .none = "random ids, 1, 63, 64, 65 and 700",
     .section = "Prompts",
     .help = "a prompt as ids; may repeat"},
    {.name = "prompt-file",
     .value_name = "F",
     .type = OPTION_TEXT,
     .at = AT(prompt_file),
     .commands = GENERATE,
     .none = "none",
     .section = "Prompts",
     .help = "the whole file is one prompt; with the ending .jsonl each line is one, "
             "{\"prompt\": TEXT} or {\"ids\": [1, 2, 3]}; - is stdin"},
    {.name = "text-file",
     .value_name = "F",
     .type = OPTION_TEXT,
     .at = AT(text_file),
     .commands = EVAL,
     .none = "required",
     .section = "Prompts",
     .help = "the text to score"},
    {.name = "text",
     .value_name = "TEXT",
     .type = OPTION_TEXT,
     .at = AT(text),
     .commands = TOKENIZE,
     .none = "stdin",
     .section = "Prompts",
     .help = "text to tokenize"},
    {.name = "text",
     .value_name = "1,2,3",
     .type = OPTION_TEXT,
     .at = AT(text),
     .commands = DETOKENIZE,
     .none = "stdin",
     .section = "Prompts",
     .help = "ids to turn into text"},
    {.name = "add-bos",
     .value_name = "WHEN",
     .type = OPTION_CHOICE,
     .at = AT(add_bos),
     .commands = GENERATE | EVAL,
     .initial = "auto",
     .choices = bos_choices,
     .section = "Prompts",
     .help = "put the BOS token in front of text (never of ids); auto: as the tokenizer says"},
    {.name = "add-bos",
     .value_name = "WHEN",
     .type = OPTION_CHOICE,
     .at = AT(add_bos),
     .commands = TOKENIZE,
     .initial = "off",
     .choices = bos_choices,
     .section = "Prompts",
     .help = "put the BOS token in front of the text; auto: as the tokenizer says"},

    {.name = "max-tokens",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(max_tokens),
     .commands = GENERATE,
     .initial = "128",
     .min = 0,
     .max = INT32_MAX,
     .section = "Generation",
     .help = "tokens to generate for a prompt; 0: only the prompt is run"},
    {.name = "max-tokens",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(max_tokens),
     .commands = VERIFY,
     .initial = "64",
     .min = 0,
     .max = INT32_MAX,
     .section = "Generation",
     .help = "tokens generated after each prompt, greedy"},
    {.name = "temperature",
     .value_name = "X",
     .type = OPTION_REAL,
     .at = AT(temperature),
     .commands = GENERATE,
     .initial = "0",
     .low = 0,
     .high = 100,
     .section = "Generation",
     .help = "0: the most likely token"},
    {.name = "top-p",
     .value_name = "X",
     .type = OPTION_REAL,
     .at = AT(top_p),
     .commands = GENERATE,
     .initial = "1",
     .low = 0,
     .high = 1,
     .low_is_open = 1,
     .section = "Generation",
     .help = "draw from the most likely tokens with this mass together; 1: off"},
    {.name = "top-k",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(top_k),
     .commands = GENERATE,
     .initial = "0",
     .min = 0,
     .max = INT32_MAX,
     .section = "Generation",
     .help = "draw from the N most likely tokens; 0: off"},
    {.name = "min-p",
     .value_name = "X",
     .type = OPTION_REAL,
     .at = AT(min_p),
     .commands = GENERATE,
     .initial = "0",
     .low = 0,
     .high = 1,
     .section = "Generation",
     .help = "leave out tokens less likely than X times the most likely one; 0: off"},
    {.name = "seed",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(seed),
     .commands = GENERATE | MAKE_MODEL,
     .initial = "0",
     .min = 0,
     .max = INT64_MAX,
     .section = "Generation",
     .help = "of everything random"},
    {.name = "stop",
     .value_name = "TEXT",
     .type = OPTION_LIST,
     .at = AT(stop),
     .commands = GENERATE,
     .none = "none",
     .section = "Generation",
     .help = "end where this text appears, leaving it out; may repeat"},
    {.name = "ignore-eos",
     .type = OPTION_FLAG,
     .at = AT(ignore_eos),
     .commands = GENERATE,
     .initial = "false",
     .section = "Generation",
     .help = "go on after an end-of-sequence token"},
    {.name = "logprobs",
     .value_name = "K",
     .type = OPTION_INT,
     .at = AT(logprobs),
     .commands = GENERATE,
     .none = "none",
     .min = 0,
     .max = INT32_MAX,
     .absent = -1,
     .section = "Generation",
     .help = "with --json: log probability of each token, and of the K most likely ones"},
    {.name = "dump-logits",
     .value_name = "F",
     .type = OPTION_TEXT,
     .at = AT(dump_logits),
     .commands = GENERATE,
     .none = "none",
     .section = "Generation",
     .help = "write tensors `logits` and `ids` of the prompt to this safetensors file; of several "
             "prompts to F-0, F-1, ..."},

    {.name = "tp",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(tp),
     .commands = ENGINE | LOAD,
     .none = "ranks / (dp x pp)",
     .min = 1,
     .max = 4096,
     .section = "Layout",
     .help = "ranks that share heads, dense columns and the vocabulary"},
    {.name = "tp",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(tp),
     .commands = INSPECT,
     .none = "--ep / --dp, else 1",
     .min = 1,
     .max = 4096,
     .section = "Layout",
     .help = "ranks that share heads; the hypothetical world has tp x dp x pp"},
    {.name = "ep",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(ep),
     .commands = ENGINE | INSPECT | LOAD,
     .none = "tp x dp when there are that many experts, else 1",
     .min = 1,
     .max = 4096,
     .section = "Layout",
     .help = "ranks over which whole experts are spread; each is cut over the tp x dp / ep others"},
    {.name = "dp",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(dp),
     .commands = ENGINE | INSPECT | LOAD,
     .initial = "1",
     .min = 1,
     .max = 4096,
     .section = "Layout",
     .help = "replicas of attention, each with sequences of its own; they share the experts"},
    {.name = "pp",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(pp),
     .commands = ENGINE | INSPECT | LOAD,
     .initial = "1",
     .min = 1,
     .max = 4096,
     .section = "Layout",
     .help = "stages, each with some of the layers; as many steps are on their way"},
    {.name = "all2all-backend",
     .value_name = "NAME",
     .type = OPTION_CHOICE,
     .at = AT(all2all_backend),
     .commands = ENGINE,
     .initial = "allgather_reducescatter",
     .choices = all2all_choices,
     .section = "Layout",
     .help = "with --dp, how tokens reach their experts: all go to all ranks, or each to those "
             "that have its experts"},
    {.name = "expert-map",
     .value_name = "F",
     .type = OPTION_TEXT,
     .at = AT(expert_map),
     .commands = ENGINE | INSPECT,
     .none = "experts in the order of their ids",
     .section = "Layout",
     .help =
         "a file of --expert-load-out: experts are placed over the ranks of ep so that each has "
         "about as much to do"},
    {.name = "redundant-experts",
     .value_name = "R",
     .type = OPTION_INT,
     .at = AT(redundant_experts),
     .commands = ENGINE | INSPECT,
     .initial = "0",
     .min = 0,
     .max = 4096,
     .section = "Layout",
     .help = "with --expert-map: copies of the most loaded experts of each layer, shared out with "
             "the others; tokens are divided between the copies of an expert"},
    {.name = "numa-bind",
     .value_name = "HOW",
     .type = OPTION_CHOICE,
     .at = AT(numa_bind),
     .commands = ENGINE | KERNELS | LOAD | COMM,
     .initial = "auto",
     .choices = numa_choices,
     .section = "Layout",
     .help = "bind each rank to its share of the cores given to the job"},
    {.name = "threads",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(threads),
     .commands = ENGINE | VERIFY | KERNELS | LOAD,
     .none = "the rank's share of the cores",
     .min = 1,
     .max = 1024,
     .section = "Layout",
     .help = "threads of each rank"},
    {.name = "backend",
     .value_name = "NAME",
     .type = OPTION_CHOICE,
     .at = AT(backend),
     .commands = ENGINE,
     .initial = "auto",
     .choices = backend_choices,
     .section = "Layout",
     .help = "device to compute on; auto takes a GPU where the CUDA backend and one are there"},
    {.name = "comm",
     .value_name = "NAME",
     .type = OPTION_CHOICE,
     .at = AT(comm),
     .commands = ENGINE,
     .initial = "auto",
     .choices = comm_choices,
     .section = "Layout",
     .help = "how ranks exchange sums: by MPI alone (mpi), or through shared memory inside a node "
             "(shm); auto: shm where the ranks are placed so that it can.  On GPUs by NCCL (nccl), "
             "or through host memory (mpi, shm); auto: NCCL where it is there and each rank has a "
             "GPU of its own"},
    {.name = "watchdog-timeout",
     .value_name = "S",
     .type = OPTION_INT,
     .at = AT(watchdog_timeout),
     .commands = ENGINE | VERIFY,
     .initial = "0",
     .min = 0,
     .max = 86400,
     .section = "Layout",
     .help = "seconds that a rank waits for the others inside a step, or that one shows no life: "
             "then the job ends and names the rank that is missing; 0: for ever"},
    {.name = "kv-cache-dtype",
     .value_name = "TYPE",
     .type = OPTION_CHOICE,
     .at = AT(kv_cache_dtype),
     .commands = ENGINE,
     .initial = "auto",
     .choices = cache_choices,
     .section = "Layout",
     .help = "numbers in the latent cache; auto is bf16"},
    {.name = "kv-cache-dtype",
     .value_name = "TYPE",
     .type = OPTION_CHOICE,
     .at = AT(kv_cache_dtype),
     .commands = VERIFY,
     .initial = "auto",
     .choices = cache_choices,
     .section = "Layout",
     .help =
         "numbers in the latent cache; auto is bf16 with --deterministic layout, else f32, since "
         "rounded rows would turn the last bits of a sum into more"},
    {.name = "layouts",
     .value_name = "LIST",
     .type = OPTION_TEXT,
     .at = AT(layouts),
     .commands = VERIFY,
     .none = "14 layouts of 2, 3, 4 and 8 ranks; 10 for --deterministic layout",
     .section = "Layout",
     .help = "layouts separated by ';', of keys separated by ',': tp=N, the ranks; ep=N; "
             "kv=replicated|sharded; comm=auto|mpi|shm"},
    {.name = "launch",
     .value_name = "TEMPLATE",
     .type = OPTION_TEXT,
     .at = AT(launch),
     .commands = VERIFY,
     .none = "mpirun -n {n}, with what several ranks on one machine need",
     .section = "Layout",
     .help = "words before the program that start a job of {n} ranks"},
    {.name = "kv-placement",
     .value_name = "WHERE",
     .type = OPTION_CHOICE,
     .at = AT(kv_placement),
     .commands = ENGINE,
     .initial = "replicated",
     .choices = placement_choices,
     .section = "Layout",
     .help =
         "cached rows on every rank (replicated), or pages of 64 rows shared out over the ranks "
         "of tp (sharded), or over those of them that are on a node (node): the memory of one "
         "cache for all of them, longer contexts, and messages in every layer; auto: the fastest "
         "that fits, from what reads and messages take here, with a line that says why"},
    {.name = "mla-mode",
     .value_name = "MODE",
     .type = OPTION_CHOICE,
     .at = AT(mla_mode),
     .commands = ENGINE | VERIFY,
     .initial = "auto",
     .choices = mla_choices,
     .section = "Layout",
     .help = "attention on latents (absorb) or on decompressed keys and values (expand); auto: "
             "what costs less in each step"},
    {.name = "deterministic",
     .value_name = "MODE",
     .type = OPTION_CHOICE,
     .at = AT(deterministic),
     .commands = ENGINE | VERIFY,
     .initial = "off",
     .choices = deterministic_choices,
     .section = "Layout",
     .help =
         "bits of the logits that stay; batch: for any other sequences in a step and any chunks "
         "of a prompt (it takes --mla-mode absorb); layout: also on 1, 2, 4 or 8 ranks and with "
         "each --kv-placement"},
    {.name = "max-model-len",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(max_model_len),
     .commands = GENERATE,
     .none = "max_position_embeddings",
     .min = 1,
     .max = INT32_MAX,
     .section = "Layout",
     .help = "tokens of a sequence, prompt and completion; the cache is sized for it"},
    {.name = "max-model-len",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(max_model_len),
     .commands = EVAL,
     .none = "max_position_embeddings, at most 4096",
     .min = 1,
     .max = INT32_MAX,
     .section = "Layout",
     .help = "tokens of a window"},
    {.name = "max-model-len",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(max_model_len),
     .commands = LATENCY,
     .none = "--input-len + --output-len",
     .min = 1,
     .max = INT32_MAX,
     .section = "Layout",
     .help = "tokens a sequence may reach"},
    {.name = "max-num-batched-tokens",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(max_num_batched_tokens),
     .commands = ENGINE | VERIFY,
     .initial = "512",
     .min = 1,
     .max = INT32_MAX,
     .section = "Layout",
     .help = "tokens of one step: longer prompts are run in chunks"},
    {.name = "max-num-seqs",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(max_num_seqs),
     .commands = GENERATE,
     .none = "the number of prompts, at most 16",
     .min = 1,
     .max = 65536,
     .section = "Layout",
     .help = "prompts completed side by side, a token of each in a step"},

    {.name = "batch-size",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(batch_size),
     .commands = LATENCY,
     .initial = "1",
     .min = 1,
     .max = 65536,
     .section = "Measurement",
     .help = "sequences, each with a token in every step"},
    {.name = "input-len",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(input_len),
     .commands = LATENCY,
     .initial = "32",
     .min = 1,
     .max = 1 << 24,
     .section = "Measurement",
     .help = "tokens of a prompt"},
    {.name = "output-len",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(output_len),
     .commands = LATENCY,
     .initial = "128",
     .min = 1,
     .max = 1 << 24,
     .section = "Measurement",
     .help = "tokens of a completion"},
    {.name = "op",
     .value_name = "NAME",
     .type = OPTION_CHOICE,
     .at = AT(op),
     .commands = KERNELS,
     .initial = "all",
     .choices = op_choices,
     .section = "Measurement",
     .help = "only this operation"},
    {.name = "dtype",
     .value_name = "TYPE",
     .type = OPTION_CHOICE,
     .at = AT(dtype),
     .commands = KERNELS,
     .initial = "all",
     .choices = kernel_dtype_choices,
     .section = "Measurement",
     .help = "only weights and cached rows of this type"},
    {.name = "op",
     .value_name = "NAME",
     .type = OPTION_CHOICE,
     .at = AT(op),
     .commands = COMM,
     .initial = "all",
     .choices = comm_op_choices,
     .section = "Measurement",
     .help = "only this operation"},
    {.name = "min-bytes",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(min_bytes),
     .commands = COMM,
     .initial = "1024",
     .min = 4,
     .max = 1 << 30,
     .section = "Measurement",
     .help = "smallest vector; the next ones are twice as long"},
    {.name = "max-bytes",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(max_bytes),
     .commands = COMM,
     .initial = "1048576",
     .min = 4,
     .max = 1 << 30,
     .section = "Measurement",
     .help = "largest vector"},
    {.name = "repeat",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(repeat),
     .commands = COMM,
     .initial = "20",
     .min = 1,
     .max = 10000,
     .section = "Measurement",
     .help = "rounds, each with all backends in turn"},
    {.name = "repeat",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(repeat),
     .commands = LATENCY | KERNELS | LOAD,
     .initial = "3",
     .min = 1,
     .max = 10000,
     .section = "Measurement",
     .help = "measured runs"},
    {.name = "cold",
     .type = OPTION_FLAG,
     .at = AT(cold),
     .commands = LOAD,
     .initial = "false",
     .section = "Measurement",
     .help = "also measure with none of the model in the page cache"},
    {.name = "seed",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(seed),
     .commands = LATENCY,
     .initial = "0",
     .min = 0,
     .max = INT64_MAX,
     .section = "Measurement",
     .help = "of the random ids"},

    {.name = "out",
     .value_name = "DIR",
     .type = OPTION_TEXT,
     .at = AT(out),
     .commands = MAKE_MODEL,
     .none = "required",
     .section = "Output",
     .help = "directory to write; must be empty or not exist"},
    {.name = "dtype",
     .value_name = "TYPE",
     .type = OPTION_CHOICE,
     .at = AT(dtype),
     .commands = MAKE_MODEL,
     .initial = "bf16",
     .choices = dtype_choices,
     .section = "Output",
     .help = "stored type of weights that quantization_config leaves alone"},
    {.name = "layers",
     .value_name = "N",
     .type = OPTION_INT,
     .at = AT(layers),
     .commands = MAKE_MODEL,
     .none = "num_hidden_layers of the config",
     .min = 1,
     .max = 256,
     .section = "Output",
     .help = "only this many layers"},
    {.name = "expert-load-out",
     .value_name = "F",
     .type = OPTION_TEXT,
     .at = AT(expert_load_out),
     .commands = ENGINE,
     .none = "none",
     .section = "Output",
     .help = "write how often each expert of each layer was chosen: the JSON file that "
             "--expert-map reads"},
    {.name = "json",
     .type = OPTION_FLAG,
     .at = AT(json),
     .commands = ALL_COMMANDS & ~MAKE_MODEL,
     .initial = "false",
     .section = "Output",
     .help = "results as one JSON object"},

    {.name = "config",
     .value_name = "F",
     .type = OPTION_TEXT,
     .at = AT(config),
     .commands = ALL_COMMANDS,
     .none = "none",
     .section = "Common",
     .help = "JSON object with option names as keys"},
    {.name = "print-config",
     .type = OPTION_FLAG,
     .at = AT(print_config),
     .commands = ALL_COMMANDS,
     .initial = "false",
     .command_line_only = 1,
     .section = "Common",
     .help = "print the effective options as --config takes them, and end"},
    {.name = "help",
     .type = OPTION_FLAG,
     .at = AT(help),
     .commands = ALL_COMMANDS,
     .initial = "false",
     .command_line_only = 1,
     .section = "Common",
     .help = "print this text, and end"},
    {.name = "version",
     .type = OPTION_FLAG,
     .at = AT(version),
     .commands = ALL_COMMANDS,
     .initial = "false",
     .command_line_only = 1,
     .section = "Common",
     .help = "print the versions of the program and its libraries, and end"},
};

const int option_count = (int)(sizeof option_table / sizeof option_table[0]);
_Static_assert(sizeof option_table / sizeof option_table[0] <= OPTION_ROWS_MAX,
               "struct options has a source for each row");

static const char *const later_commands[] = {
    "chat", "serve", "bench throughput", "bench serve", "compare", "scale", "plan", "preflight"};

static const char *const later_options[] = {"kv-cache-form", "block-size",   "cluster",
                                            "num-prompts",   "request-rate", "max-concurrency"};

static const char *const elsewhere[][2] = {{"quantization", "weight-dtype"},
                                           {"tensor-parallel-size", "tp"},
                                           {"tp-size", "tp"},
                                           {"data-parallel-size", "dp"},
                                           {"dp-size", "dp"},
                                           {"pipeline-parallel-size", "pp"},
                                           {"pp-size", "pp"},
                                           {"expert-parallel-size", "ep"},
                                           {"ep-size", "ep"},
                                           {"model-path", "model"},
                                           {"max-new-tokens", "max-tokens"},
                                           {"n-predict", "max-tokens"},
                                           {"chunked-prefill-size", "max-num-batched-tokens"},
                                           {"context-length", "max-model-len"},
                                           {"max-num-tokens", "max-num-batched-tokens"}};

static int is_in(const char *const *list, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i], name) == 0)
            return 1;
    return 0;
}

int command_is_later(const char *name)
{
    return is_in(later_commands, sizeof later_commands / sizeof later_commands[0], name);
}

int option_is_later(const char *name)
{
    return is_in(later_options, sizeof later_options / sizeof later_options[0], name);
}

int option_value_is_later(const char *name, const char *value)
{
    /* a list of NUMA nodes */
    return strcmp(name, "numa-bind") == 0 && *value != '\0' &&
           strspn(value, "0123456789,-") == strlen(value);
}

const char *option_known_elsewhere(const char *name)
{
    for (size_t i = 0; i < sizeof elsewhere / sizeof elsewhere[0]; i++)
        if (strcmp(elsewhere[i][0], name) == 0)
            return elsewhere[i][1];
    return NULL;
}

const struct option *option_find(const char *name, enum command command)
{
    const struct option *found = NULL;
    for (int i = 0; i < option_count; i++) {
        const struct option *option = &option_table[i];
        if (strcmp(option->name, name) != 0)
            continue;
        if (found == NULL || option_applies(option, command))
            found = option;
        if (option_applies(found, command))
            break;
    }
    return found;
}

const char *command_name(enum command command)
{
    return command < COMMAND_COUNT ? command_table[command].name : "latentrank";
}
