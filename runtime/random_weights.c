#include "runtime/random_weights.h"

#include <math.h>
#include <pthread.h>
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

/* quantile[i]: the normal that (i + 1/2) / N_QUANTILES of all are below. */
enum { N_QUANTILES = 1 << 16, IN_BLOCK = 8 };
static float quantile[N_QUANTILES];

/* Upper half by Newton's method on the normal distribution function; the lower half mirrors it. */
static void fill_quantiles(void)
{
    double x = 0.0;
    for (int i = N_QUANTILES / 2; i < N_QUANTILES; i++) {
        double above = 1.0 - (i + 0.5) / N_QUANTILES;
        for (int step = 0; step < 4; step++) { /* from the one before, so few are enough */
            double density = exp(-0.5 * x * x) * 0.3989422804014327;
            x += (0.5 * erfc(x * 0.7071067811865476) - above) / density;
        }
        quantile[i] = (float)x;
        quantile[N_QUANTILES - 1 - i] = -quantile[i];
    }
}

/* Eight normals of one Philox block, 16 bits each. */
static void normals(float *y, uint64_t seed, uint64_t name, uint64_t block)
{
    static pthread_once_t is_filled = PTHREAD_ONCE_INIT;
    philox4x32_ctr_t counter = {
        {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)name, (uint32_t)(name >> 32)}};
    philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    philox4x32_ctr_t bits = philox4x32(counter, key);
    pthread_once(&is_filled, fill_quantiles);
    for (int i = 0; i < IN_BLOCK / 2; i++) {
        y[2 * i] = quantile[bits.v[i] & (N_QUANTILES - 1)];
        y[2 * i + 1] = quantile[bits.v[i] >> 16];
    }
}

/* The largest number of the type stands for about four deviations, times 1, 1 1/8, ... 1 7/8. */
float random_weights_scale(const struct weight_source *source, const struct weight_item *item,
                           uint64_t seed, int64_t row, int64_t column)
{
    const int64_t place[] = {row, column};
    uint64_t name = XXH3_64bits_withSeed(item->name, strlen(item->name), seed);
    uint64_t eighths = XXH3_64bits_withSeed(place, sizeof place, name) % 8;
    float largest = source->dtype == DTYPE_I4 ? 7.0f : 448.0f;
    float scale = 4.0f * deviation(item) / largest * (1.0f + (float)eighths / 8.0f);
    return source->scale_dtype == DTYPE_BF16 ? bf16_to_f32(bf16_from_f32(scale)) : scale;
}

/* The number that stands for x under a scale. */
static uint8_t quantize(float x, enum dtype dtype, float scale)
{
    if (dtype == DTYPE_I4)
        return (uint8_t)(lrintf(fminf(fmaxf(x / scale, -8.0f), 7.0f)) + 8);
    return f8_e4m3_from_f32(x / scale);
}

/* The scale last asked for: neighbours share it. */
struct last_scale {
    int64_t row, column;
    float value;
};

/* Elements [i, i + count) of one block, in the source's type. */
static void store(void *y, const struct weight_source *source, const struct weight_item *item,
                  uint64_t seed, int64_t i, int64_t count, const float *x, struct last_scale *last)
{
    if (source->scale_rows == 0) {
        dtype_from_f32(y, source->dtype, x, count);
        return;
    }
    for (int64_t j = 0; j < count; j++) {
        int64_t row = (i + j) / item->dim[1] / source->scale_rows;
        int64_t column = (i + j) % item->dim[1] / source->scale_columns;
        if (row != last->row || column != last->column)
            *last = (struct last_scale){row, column,
                                        random_weights_scale(source, item, seed, row, column)};
        ((uint8_t *)y)[j] = quantize(x[j], source->dtype, last->value);
    }
}

void random_weights_fill(void *y, const struct weight_source *source,
                         const struct weight_item *item, uint64_t seed, int64_t begin,
                         int64_t count)
{
    uint64_t name = XXH3_64bits(item->name, strlen(item->name));
    float mean = is_gain(item) ? 1.0f : 0.0f, scale = deviation(item);
    size_t bytes = source->dtype == DTYPE_I4 ? 1 : dtype_bytes(source->dtype);
    struct last_scale last = {.row = -1};
    char *out = y;
    for (int64_t i = begin; i < begin + count;) {
        float block[IN_BLOCK];
        int64_t first = i % IN_BLOCK, length = IN_BLOCK - first;
        if (length > begin + count - i)
            length = begin + count - i;
        normals(block, seed, name, (uint64_t)(i / IN_BLOCK));
        for (int64_t j = 0; j < length; j++)
            block[first + j] = mean + scale * block[first + j];
        store(out, source, item, seed, i, length, block + first, &last);
        out += (size_t)length * bytes;
        i += length;
    }
}
