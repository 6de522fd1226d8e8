/* bench_kernels.h - what the cases of `bench kernels` share.
 *
 * A case is one operation on one shape.  It lays its data out in two pools, `cold`
 * for what a real step finds in memory (weights, cached rows), rotated over so
 * many copies that no cache holds them, and `warm` for what the operation before
 * has just written.  Then it is called for some 50 ms, --repeat times; the median counts.
 *
 *   gb_s     bytes read and written once each / time
 *   gflop_s  2 for each multiplication and addition of two numbers, / time
 *   ratio    max(bytes / probe, operations / peak) / time: 1 is as fast as this machine can be
 *            (probe.h); none where all data is warm
 */
#ifndef LAUNCHER_BENCH_KERNELS_H
#define LAUNCHER_BENCH_KERNELS_H

#include "kernels/core/arena.h"
#include "kernels/ops.h"
#include "launcher/options.h"
#include "launcher/probe.h"
#include "runtime/model_config.h"

#include <jansson.h>

struct kernel_bench {
    const struct options *options;
    struct model_config config; /* shapes only */
    const struct ops *ops;
    struct prober *prober;
    struct probe before, probe; /* sampled after the last case; around the one being reported */
    struct arena cold, warm;    /* large; a case begins with both empty */
    int64_t working_set;        /* bytes that copies of cold data shall take together */
    size_t filled;              /* bytes of the cold pool that hold numbers of filled_dtype */
    enum dtype filled_dtype;
    json_t *rows; /* NULL: each row is printed as it comes */
    int n_rows;
};

/* The operation, for the `number`th time; copies are told apart by it. */
typedef enum status (*kernel_call)(void *context, int64_t number);

struct kernel_case {
    const char *op;
    char shape[64];
    enum dtype dtype;
    int64_t rows;
    double bytes, flop; /* of a call; flop 0: not counted */
    int is_warm;        /* all of its data */
    kernel_call call;
    void *context;
};

/* Times the case and reports it.  Errors: STATUS_IO, those of the operation. */
enum status kernel_run(struct kernel_bench *bench, const struct kernel_case *kernel);

/* 1 unless --op or --dtype leave it out. */
int kernel_wants(const struct kernel_bench *bench, enum option_kernel op, enum dtype dtype);

/* Empties both pools. */
void kernel_begin(struct kernel_bench *bench);

/* Copies of `bytes` of cold data, alignment included, that make the working set; at least 1. */
int kernel_copies(const struct kernel_bench *bench, size_t bytes);

/* Fills what has been taken of the cold pool with random numbers of this type, unless an earlier case
 * has done so. */
void kernel_fill_cold(struct kernel_bench *bench, enum dtype dtype);

/* A warm f32 tensor of random numbers; trailing dimensions may be 0.  Errors: STATUS_NO_MEMORY. */
enum status kernel_tensor(struct kernel_bench *bench, struct tensor *tensor, int64_t n0, int64_t n1,
                          int64_t n2);

/* w[copies] random matrices [n, k] of `count` each, scaled in groups where they are quantized.
 * Errors: STATUS_NO_MEMORY (the pool is too small for one). */
enum status kernel_matrices(struct kernel_bench *bench, struct matrix *w, int copies,
                            enum dtype dtype, int count, int64_t n, int64_t k);

/* Bytes of one of them. */
size_t kernel_matrix_bytes(enum dtype dtype, int count, int64_t n, int64_t k);

/* The cases, by file. */
enum status kernel_products(struct kernel_bench *bench);
enum status kernel_experts(struct kernel_bench *bench);
enum status kernel_attention(struct kernel_bench *bench);
enum status kernel_small(struct kernel_bench *bench);

#endif
