/* test_rope.cu - cuda_rope has the CPU's bits. */
// sources: kernels/core/*.c kernels/cpu/*.c kernels/cuda/rope.cu
#include "kernels/cuda/rope.h"

#include "tests/cuda_emulator/reference.h"

enum { MAX_POSITION = 40 };

/* Heads of y stand in wider rows, as the queries of absorbed attention do. */
static void check_rope(int64_t tokens, int64_t heads, int64_t d_r, enum dtype dtype, bool in_place)
{
    int64_t y_head = in_place ? d_r : d_r + 6, y_token = heads * y_head + (in_place ? 0 : 2);
    int64_t x_count = tokens * heads * d_r, y_count = tokens * y_token;
    float *x = random_floats(x_count, 1), *cos_sin = random_floats(MAX_POSITION * d_r, 2);
    float *y = host_new<float>(y_count);
    int32_t *position = host_new<int32_t>(tokens);
    for (int64_t t = 0; t < tokens; t++)
        position[t] = (int32_t)((t * 17 + 3) % MAX_POSITION);
    if (x_count > 9) {
        x[5] = NAN;
        x[8] = INFINITY;
    }
    float *device_x = device_copy(x, x_count);
    void *device_y = in_place ? (void *)device_x : (void *)device_new<float>(y_count);
    struct cuda_rope p = {device_y,
                          device_x,
                          device_copy(position, tokens),
                          device_copy(cos_sin, MAX_POSITION * d_r),
                          tokens,
                          heads,
                          d_r,
                          y_token,
                          y_head,
                          heads * d_r,
                          d_r,
                          dtype};
    CUDA((cudaError_t)cuda_rope(&p, 0));

    struct tensor tx = tensor_3d(x, DTYPE_F32, tokens, heads, d_r), ty = tx;
    ty.data = y;
    ty.stride[0] = y_token;
    ty.stride[1] = y_head;
    struct tensor tp = tensor_1d(position, DTYPE_I32, tokens);
    struct tensor tc = tensor_2d(cos_sin, DTYPE_F32, MAX_POSITION, d_r);
    expect_ok(reference()->rope(&ty, &tx, &tp, &tc, NULL));
    check_numbers(device_y, dtype, y, y_count, 0, "y");
}

static void rotations()
{
    static const int64_t shapes[][3] = {{3, 16, 64}, {1, 1, 2}, {5, 3, 18}, {0, 4, 64}, {4, 0, 64}};
    for (const int64_t(&s)[3] : shapes) {
        check_rope(s[0], s[1], s[2], DTYPE_F32, false);
        check_rope(s[0], s[1], s[2], DTYPE_F32, true);
        check_rope(s[0], s[1], s[2], DTYPE_BF16, false);
    }
}

int main()
{
    static const struct check_group groups[] = {{"rope", rotations}};
    return run_groups(groups, 1);
}
