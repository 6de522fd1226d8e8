/* Rules of the element types. */
#include "tests/kernels/kernel_test.h"

/* binary16 from its definition: (-1)^s 2^(e - 15) 1.f, subnormals 2^-14 0.f */
static double f16_in_double(uint16_t bits)
{
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (exponent == 31)
        return fraction == 0 ? sign * HUGE_VAL : (double)NAN;
    return sign * (exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25));
}

static void every_f16_widens_exactly_and_rounds_back(void **state)
{
    (void)state;
    for (uint32_t b = 0; b <= 0xffff; b++) {
        float x = f16_to_f32((uint16_t)b);
        double expected = f16_in_double((uint16_t)b);
        if (isnan(expected)) {
            assert_true(isnan(x) && isnan(f16_to_f32(f16_from_f32(x))));
            continue;
        }
        assert_true((double)x == expected && !signbit(x) == !(b & 0x8000));
        assert_int_equal(f16_from_f32(x), b);
    }
}

static void every_bf16_widens_exactly_and_rounds_back(void **state)
{
    (void)state;
    for (uint32_t b = 0; b <= 0xffff; b++) {
        float x = bf16_to_f32((uint16_t)b);
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        assert_int_equal(bits, b << 16);
        if (isnan(x))
            assert_true(isnan(bf16_to_f32(bf16_from_f32(x))));
        else
            assert_int_equal(bf16_from_f32(x), b);
    }
}

/* Between two neighbours: below the middle down, above it up, at it to the even one. */
static void assert_rounds_to_nearest_even(float (*widen)(uint16_t), uint16_t (*round)(float),
                                          uint16_t infinity)
{
    for (uint16_t b = 0; b + 1 < infinity; b++) {
        float low = widen(b), high = widen((uint16_t)(b + 1));
        float middle = low + (high - low) / 2; /* exact: f32 has more bits */
        assert_int_equal(round(middle), b % 2 == 0 ? b : b + 1);
        assert_int_equal(round(nextafterf(middle, 0.0f)), b);
        assert_int_equal(round(nextafterf(middle, INFINITY)), b + 1);
        assert_int_equal(round(-middle), 0x8000 | (b % 2 == 0 ? b : b + 1));
    }
}

static float widen_bf16(uint16_t bits)
{
    return bf16_to_f32(bits);
}

static uint16_t round_bf16(float x)
{
    return bf16_from_f32(x);
}

static void rounding_is_to_nearest_even(void **state)
{
    (void)state;
    assert_rounds_to_nearest_even(f16_to_f32, f16_from_f32, 0x7c00);
    assert_rounds_to_nearest_even(widen_bf16, round_bf16, 0x7f80);
    assert_int_equal(f16_from_f32(65504.0f), 0x7bff);
    assert_int_equal(f16_from_f32(65519.9f), 0x7bff);
    assert_int_equal(f16_from_f32(65520.0f), 0x7c00);
    assert_int_equal(bf16_from_f32(0x1.fffffep127f), 0x7f80);
}

static void arrays_convert_as_their_elements(void **state)
{
    (void)state;
    enum { N = 33 };
    float *x = random_floats(N, 1), y[N];
    uint16_t half[N];
    uint32_t single[N];
    dtype_from_f32(half, DTYPE_BF16, x, N);
    dtype_to_f32(y, half, DTYPE_BF16, N);
    for (int i = 0; i < N; i++)
        assert_true(half[i] == bf16_from_f32(x[i]) && y[i] == bf16_to_f32(half[i]));
    dtype_from_f32(half, DTYPE_F16, x, N);
    dtype_to_f32(y, half, DTYPE_F16, N);
    for (int i = 0; i < N; i++)
        assert_true(half[i] == f16_from_f32(x[i]) && y[i] == f16_to_f32(half[i]));
    dtype_from_f32(single, DTYPE_F32, x, N);
    dtype_to_f32(y, single, DTYPE_F32, N);
    assert_same_bits(y, x, N);
    free(x);
}

static void every_e4m3_widens_exactly_and_rounds_back(void **state)
{
    (void)state;
    for (unsigned b = 0; b <= 0xff; b++) {
        float x = f8_e4m3_to_f32((uint8_t)b);
        if ((b & 0x7f) == 0x7f) {
            assert_true(isnan(x));
            assert_int_equal(f8_e4m3_from_f32(x) & 0x7f, 0x7f);
            continue;
        }
        assert_true((double)x == f8_in_double(b) && !signbit(x) == !(b & 0x80));
        assert_int_equal(f8_e4m3_from_f32(x), b);
    }
    for (uint8_t b = 0; b < 0x7e; b++) {
        float low = f8_e4m3_to_f32(b), high = f8_e4m3_to_f32((uint8_t)(b + 1));
        float middle = low + (high - low) / 2;
        assert_int_equal(f8_e4m3_from_f32(middle), b % 2 == 0 ? b : b + 1);
        assert_int_equal(f8_e4m3_from_f32(nextafterf(middle, 0.0f)), b);
        assert_int_equal(f8_e4m3_from_f32(nextafterf(middle, INFINITY)), b + 1);
        assert_int_equal(f8_e4m3_from_f32(-middle), 0x80 | (b % 2 == 0 ? b : b + 1));
    }
    assert_int_equal(f8_e4m3_from_f32(1e30f), 0x7e); /* 448 */
    assert_int_equal(f8_e4m3_from_f32(-INFINITY), 0xfe);
}

static void e8m0_is_a_power_of_two(void **state)
{
    (void)state;
    for (int b = 0; b < 255; b++)
        assert_true((double)f8_e8m0_to_f32((uint8_t)b) == ldexp(1, b - 127));
    assert_true(isnan(f8_e8m0_to_f32(255)));
}

static void names_find_their_type(void **state)
{
    (void)state;
    enum dtype found;
    for (int d = 0; d < DTYPE_COUNT; d++) {
        assert_true(dtype_by_name(&found, dtype_name((enum dtype)d)));
        assert_int_equal(found, d);
    }
    assert_false(dtype_by_name(&found, "f64"));
    assert_int_equal(dtype_bytes(DTYPE_BF16), 2);
    assert_int_equal(dtype_bytes(DTYPE_I64), 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_f16_widens_exactly_and_rounds_back),
        cmocka_unit_test(every_bf16_widens_exactly_and_rounds_back),
        cmocka_unit_test(rounding_is_to_nearest_even),
        cmocka_unit_test(arrays_convert_as_their_elements),
        cmocka_unit_test(every_e4m3_widens_exactly_and_rounds_back),
        cmocka_unit_test(e8m0_is_a_power_of_two),
        cmocka_unit_test(names_find_their_type),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
