#include "runtime/random_weights.h"

#include <math.h>
#include <xxhash.h>

#include <Random123/philox.h>

static float deviation(const struct weight_item *item)
{
    if (item->field == WEIGHT_ROUTER_BIAS)
        return 0.1f;
    if (item->ndim == 1)
        return 0.0f; /* gains, and biases of projections */
    if (item->field == WEIGHT_EMBEDDING)
        return 1.0f;
    return 1.0f / sqrtf((float)item->dim[1]);
}

static int is_gain(const struct weight_item *item)
{
    return item->ndim == 1 && item->field != WEIGHT_ROUTER_BIAS && item->field != WEIGHT_DQ_BIAS &&
           item->field != WEIGHT_DKV_BIAS && item->field != WEIGHT_O_BIAS;
}

/* Four normals of one Philox block, by Box and Muller. */
static void normals(float *y, uint64_t seed, uint64_t name, uint64_t block)
{
    philox4x32_ctr_t counter = {
        {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)name, (uint32_t)(name >> 32)}};
    philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    philox4x32_ctr_t bits = philox4x32(counter, key);
    for (int i = 0; i < 4; i += 2) {
        double u = ((double)bits.v[i] + 0.5) * 0x1p-32;
        double angle = (double)bits.v[i + 1] * (0x1p-32 * 6.283185307179586);
        double radius = sqrt(-2.0 * log(u));
        y[i] = (float)(radius * cos(angle));
        y[i + 1] = (float)(radius * sin(angle));
    }
}

void random_weights_fill(void *y, enum dtype dtype, const struct weight_item *item, uint64_t seed,
                         int64_t begin, int64_t count)
{
    uint64_t name = XXH3_64bits(item->name, strlen(item->name));
    float mean = is_gain(item) ? 1.0f : 0.0f, scale = deviation(item);
    char *out = y;
    for (int64_t i = begin; i < begin + count;) {
        float block[4];
        int64_t first = i % 4, length = 4 - first;
        if (length > begin + count - i)
            length = begin + count - i;
        normals(block, seed, name, (uint64_t)(i / 4));
        for (int64_t j = 0; j < length; j++)
            block[first + j] = mean + scale * block[first + j];
        dtype_from_f32(out, dtype, block + first, length);
        out += (size_t)length * dtype_bytes(dtype);
        i += length;
    }
}
