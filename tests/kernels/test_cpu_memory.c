/* Rules of what counts as free memory. */
#include "tests/kernels/kernel_test.h"

#include "kernels/cpu/cpu_memory.h"
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[64];

/* Writes `text` to `path` below the root, whose folders it makes. */
static void put(const char *path, const char *text)
{
    char file[512];
    snprintf(file, sizeof file, "%s%s", root, path);
    for (char *slash = file + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        mkdir(file, 0777);
        *slash = '/';
    }
    FILE *out = fopen(file, "w");
    assert_non_null(out);
    fputs(text, out);
    fclose(out);
}

static int64_t lowered(const char *groups)
{
    char file[128];
    int64_t free_bytes = 1000000;
    put("/groups", groups);
    snprintf(file, sizeof file, "%s/groups", root);
    cpu_memory_groups(&free_bytes, file, root);
    return free_bytes;
}

static void the_tightest_group_on_the_way_up_counts(void **state)
{
    (void)state;
    put("/sys/fs/cgroup/job/memory.max", "9000\n");
    put("/sys/fs/cgroup/job/memory.current", "2000\n");
    put("/sys/fs/cgroup/job/step/memory.max", "max\n");
    put("/sys/fs/cgroup/job/step/memory.current", "1500\n");
    assert_int_equal(lowered("0::/job/step\n"), 7000);
    assert_int_equal(lowered("0::/job\n"), 7000);
    assert_int_equal(lowered("0::/\n"), 1000000);
    assert_int_equal(lowered("0::/elsewhere\n"), 1000000);
    /* files it has cached can be given up */
    put("/sys/fs/cgroup/job/memory.stat", "anon 100\nfile 700\nfile_mapped 5\n");
    assert_int_equal(lowered("0::/job/step\n"), 7700);
    put("/sys/fs/cgroup/job/step/memory.max", "1600\n");
    assert_int_equal(lowered("0::/job/step\n"), 100);
}

static void groups_of_the_first_generation_count_too(void **state)
{
    (void)state;
    put("/sys/fs/cgroup/memory/slurm/memory.limit_in_bytes", "5000\n");
    put("/sys/fs/cgroup/memory/slurm/memory.usage_in_bytes", "4000\n");
    put("/sys/fs/cgroup/memory/slurm/memory.stat", "cache 1\ntotal_cache 300\n");
    assert_int_equal(lowered("5:cpuset:/\n4:memory:/slurm\n0::/\n"), 1300);
    put("/sys/fs/cgroup/memory/slurm/memory.usage_in_bytes", "9000\n");
    assert_int_equal(lowered("4:memory:/slurm/task\n"), 0);
}

static void this_machine_has_some(void **state)
{
    (void)state;
    struct free_memory memory = {0};
    cpu_device_ops.free_memory(&memory);
    assert_true(memory.own > 0 && memory.shared > 0);
}

/* Small from the heap, large from the system, both zeroed and aligned. */
static void memory_is_zeroed_and_aligned(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 4096, (2 << 20) - 1, 2 << 20, (5 << 20) + 3};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        void *data = NULL;
        assert_ok(cpu_device_ops.allocate(&data, sizes[i]));
        assert_int_equal((uintptr_t)data % 64, 0);
        assert_true(sizes[i] < 2 << 20 || (uintptr_t)data % (2 << 20) == 0);
        for (size_t j = 0; j < sizes[i]; j++)
            assert_int_equal(((char *)data)[j], 0);
        memset(data, 1, sizes[i]);
        cpu_device_ops.release(data, sizes[i]);
    }
    void *data = NULL;
    assert_int_equal(cpu_device_ops.allocate(&data, SIZE_MAX - 5), STATUS_NO_MEMORY);
    assert_int_equal(cpu_device_ops.allocate(&data, SIZE_MAX / 2), STATUS_NO_MEMORY);
}

static int make_root(void **state)
{
    (void)state;
    strcpy(root, "/tmp/latentrank-memory-XXXXXX");
    return mkdtemp(root) == NULL;
}

static int remove_root(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -r '%s'", root);
    return system(command) != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_tightest_group_on_the_way_up_counts, make_root,
                                        remove_root),
        cmocka_unit_test_setup_teardown(groups_of_the_first_generation_count_too, make_root,
                                        remove_root),
        cmocka_unit_test(this_machine_has_some),
        cmocka_unit_test(memory_is_zeroed_and_aligned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
