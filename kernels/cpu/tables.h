/* tables.h - the operations as compiled for one instruction set.
 *
 * Each file of operations is compiled once for plain C, AVX2 + FMA and AVX-512;
 * ISA() puts the name of the set behind that of the function.  cpu_ops.c
 * chooses between the tables.
 */
#ifndef KERNELS_CPU_TABLES_H
#define KERNELS_CPU_TABLES_H

#include "kernels/cpu/lanes.h"
#include "kernels/ops.h"

extern const struct ops cpu_ops_plain;
extern const struct ops cpu_ops_avx2;
extern const struct ops cpu_ops_avx512;

/* The table for "plain", "avx2" or "avx512"; NULL when this CPU or this build lacks it. */
const struct ops *cpu_ops_for(const char *isa);

enum status ISA(gemm)(struct tensor *y, const struct tensor *x, const struct matrix *w,
                      struct stream *stream);
enum status ISA(gemm_heads)(struct tensor *y, const struct tensor *x, const struct matrix *w,
                            struct stream *stream);
enum status ISA(embed)(struct tensor *y, const struct tensor *ids, const struct tensor *table,
                       int64_t first, struct stream *stream);
enum status ISA(rms_norm)(struct tensor *y, const struct tensor *x, const struct tensor *gain,
                          float epsilon, struct stream *stream);
enum status ISA(add_rms_norm)(struct tensor *y, struct tensor *x, const struct tensor *u,
                              const struct tensor *gain, float epsilon, struct stream *stream);
enum status ISA(add)(struct tensor *x, const struct tensor *y, struct stream *stream);
enum status ISA(copy)(struct tensor *y, const struct tensor *x, struct stream *stream);
enum status ISA(add_bias)(struct tensor *x, const struct tensor *bias, struct stream *stream);
enum status ISA(rope)(struct tensor *y, const struct tensor *x, const struct tensor *position,
                      const struct tensor *cos_sin, struct stream *stream);
enum status ISA(cache_append)(const struct page_view *pages, struct tensor *c_kv,
                              struct tensor *k_r, const struct tensor *gain, float epsilon,
                              const struct tensor *cos_sin, struct stream *stream);
enum status ISA(cache_read)(struct tensor *y, const struct page_view *pages, int seq, int64_t begin,
                            int64_t end, struct stream *stream);
enum status ISA(latent_attention)(struct attention_state *state, const struct tensor *q,
                                  const struct page_view *pages, float scale,
                                  struct stream *stream);
enum status ISA(expanded_attention)(struct attention_state *state, const struct tensor *q,
                                    const struct tensor *k_c, const struct tensor *k_r,
                                    const struct tensor *v, const struct tensor *position,
                                    int64_t begin, float scale, struct stream *stream);
enum status ISA(merge_partials)(struct attention_state *a, const struct attention_state *b,
                                struct stream *stream);
enum status ISA(attention_finish)(struct tensor *o, const struct attention_state *state,
                                  struct stream *stream);
enum status ISA(swiglu)(struct tensor *y, const struct tensor *gate, const struct tensor *up,
                        struct stream *stream);
enum status ISA(router)(struct tensor *ids, struct tensor *weights, const struct tensor *logits,
                        const struct tensor *bias, const struct router_params *params,
                        struct stream *stream);
enum status ISA(experts)(struct tensor *u, const struct tensor *x, const struct tensor *ids,
                         const struct tensor *weights, const struct expert_weights *w,
                         void *scratch, struct stream *stream);
size_t ISA(experts_scratch_bytes)(int64_t max_tokens, const struct expert_weights *w, int n_chosen);

#endif
