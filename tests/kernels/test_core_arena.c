/* Rules of arenas, and of the memory of the CPU they take. */
#include "tests/kernels/kernel_test.h"

#include "kernels/core/arena.h"

/* The same code sizes and lays out. */
static enum status lay_out(struct arena *arena, struct tensor *a, struct tensor *b)
{
    TRY(arena_tensor(arena, a, DTYPE_BF16, 2, (const int64_t[]){3, 5}));
    return arena_tensor(arena, b, DTYPE_F32, 1, (const int64_t[]){7});
}

static void a_measuring_arena_counts_what_a_real_one_needs(void **state)
{
    (void)state;
    struct arena measure = {.name = "test"}, arena;
    struct tensor a, b;
    assert_ok(lay_out(&measure, &a, &b));
    assert_null(a.data);
    assert_int_equal(measure.used, 128); /* 30 and 28 bytes, a cache line each */
    assert_ok(arena_open(&arena, &cpu_device_ops, "test", measure.used));
    assert_ok(lay_out(&arena, &a, &b));
    assert_true(arena.used == measure.used && (uintptr_t)b.data % ARENA_ALIGNMENT == 0);
    assert_int_equal(arena_tensor(&arena, &a, DTYPE_U8, 1, (const int64_t[]){1}), STATUS_NO_MEMORY);
    assert_non_null(strstr(status_text(), "test"));
    arena_close(&arena);
}

static void memory_of_the_cpu_is_aligned_and_zero(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 100, 5 << 20};
    for (int i = 0; i < 3; i++) {
        void *data;
        assert_ok(cpu_device_ops.allocate(&data, sizes[i]));
        assert_true((uintptr_t)data % ARENA_ALIGNMENT == 0);
        for (size_t j = 0; j < sizes[i]; j++)
            assert_int_equal(((char *)data)[j], 0);
        cpu_device_ops.release(data, sizes[i]);
    }
    void *data;
    assert_int_equal(cpu_device_ops.allocate(&data, SIZE_MAX - 5), STATUS_NO_MEMORY);
}

static void copies_are_immediate_and_may_be_empty(void **state)
{
    (void)state;
    char from[4] = "abc", to[4] = "";
    assert_ok(cpu_device_ops.copy_in(to, from, 4, NULL));
    assert_string_equal(to, "abc");
    assert_ok(cpu_device_ops.copy_out(NULL, NULL, 0, NULL));
    assert_ok(cpu_device_ops.synchronize(NULL));
}

static void an_arena_of_nothing_is_legal(void **state)
{
    (void)state;
    struct arena arena;
    struct tensor t;
    assert_ok(arena_open(&arena, &cpu_device_ops, "empty", 0));
    assert_ok(arena_tensor(&arena, &t, DTYPE_F32, 2, (const int64_t[]){0, 5}));
    arena_close(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_measuring_arena_counts_what_a_real_one_needs),
        cmocka_unit_test(memory_of_the_cpu_is_aligned_and_zero),
        cmocka_unit_test(copies_are_immediate_and_may_be_empty),
        cmocka_unit_test(an_arena_of_nothing_is_legal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
