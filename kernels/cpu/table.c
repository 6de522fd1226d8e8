/* table.c - the operations of one instruction set, as a table. */
#include "kernels/cpu/tables.h"

const struct ops ISA(cpu_ops) = {
    .name = ISA_NAME,
    .gemm = ISA(gemm),
    .gemm_heads = ISA(gemm_heads),
    .embed = ISA(embed),
    .rms_norm = ISA(rms_norm),
    .add_rms_norm = ISA(add_rms_norm),
    .add = ISA(add),
    .copy = ISA(copy),
    .add_bias = ISA(add_bias),
    .rope = ISA(rope),
    .cache_append = ISA(cache_append),
    .cache_read = ISA(cache_read),
    .latent_attention = ISA(latent_attention),
    .expanded_attention = ISA(expanded_attention),
    .merge_partials = ISA(merge_partials),
    .attention_finish = ISA(attention_finish),
    .swiglu = ISA(swiglu),
    .router = ISA(router),
    .experts = ISA(experts),
    .experts_scratch_bytes = ISA(experts_scratch_bytes),
};
