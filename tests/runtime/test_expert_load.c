/* test_expert_load.c - counts of chosen experts: added up, written, read back; maps of all layers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/expert_load.h"

static struct model_config config_of(int n_layers, int n_experts)
{
    struct model_config c = {.n_layers = n_layers, .router = {.n_experts = n_experts}};
    for (int i = 1; i < n_layers; i++)
        c.is_moe[i] = i != 2;
    return c;
}

static void chosen_experts_are_counted_by_layer(void **state)
{
    (void)state;
    const struct model_config config = config_of(4, 5);
    struct expert_load load;
    int32_t ids[] = {0, 4, -9, 3, 4, -9, 4, 0, -9}; /* rows of 2 in a tensor of 3 columns */
    struct tensor all = tensor_2d(ids, DTYPE_I32, 3, 3);
    struct tensor chosen = tensor_columns(&all, 0, 2);
    assert_int_equal(expert_load_open(&load, &config), STATUS_OK);
    expert_load_add(&load, 3, &chosen);
    expert_load_add(&load, 1, &chosen);
    expert_load_add(&load, 3, &chosen);
    const int64_t once[] = {2, 0, 0, 1, 3}, twice[] = {4, 0, 0, 2, 6}, none[5] = {0};
    assert_memory_equal(expert_load_of(&load, 1), once, sizeof once);
    assert_memory_equal(expert_load_of(&load, 3), twice, sizeof twice);
    assert_memory_equal(expert_load_of(&load, 0), none, sizeof none);
    expert_load_close(&load);
}

static void a_model_without_routed_experts_has_no_loads(void **state)
{
    (void)state;
    const struct model_config config = {.n_layers = 3};
    struct expert_load load;
    assert_int_equal(expert_load_open(&load, &config), STATUS_USAGE);
}

static void what_is_written_is_read_back(void **state)
{
    char folder[] = "/tmp/latentrank_test_XXXXXX", path[64];
    const struct model_config config = config_of(5, 7), wider = config_of(5, 8);
    struct expert_load load, again;
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/load.json", folder);
    assert_int_equal(expert_load_open(&load, &config), STATUS_OK);
    for (int layer = 0; layer < 5; layer++)
        for (int e = 0; load.is_moe[layer] && e < 7; e++)
            expert_load_of(&load, layer)[e] = INT64_C(10000000000) * layer + e;
    assert_int_equal(expert_load_check_path(path), STATUS_OK);
    assert_int_equal(access(path, F_OK), -1);
    for (int i = 0; i < 2; i++) /* also over a file that is there */
        assert_int_equal(expert_load_write(&load, path), STATUS_OK);
    assert_int_equal(expert_load_read(&again, &config, path), STATUS_OK);
    assert_memory_equal(again.count, load.count, 5 * 7 * sizeof *load.count);
    assert_true(expert_load_hash(&again) == expert_load_hash(&load));
    expert_load_of(&again, 4)[6]++;
    assert_true(expert_load_hash(&again) != expert_load_hash(&load));
    expert_load_close(&again);
    assert_int_equal(expert_load_read(&again, &wider, path), STATUS_INVALID);
    assert_non_null(strstr(status_text(), "n_experts is 7, the model has 8"));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0777), 0); /* a folder takes the place before the end of a job */
    assert_int_equal(expert_load_write(&load, path), STATUS_IO);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(folder), 0); /* nothing else is left in it */
    assert_int_equal(expert_load_check_path(path), STATUS_IO);
    expert_load_close(&load);
}

static void each_layer_has_a_map_of_its_own(void **state)
{
    (void)state;
    const struct model_config config = config_of(4, 4);
    struct expert_load load;
    struct expert_map *maps;
    assert_int_equal(expert_load_open(&load, &config), STATUS_OK);
    expert_load_of(&load, 1)[2] = expert_load_of(&load, 3)[0] = 100;
    assert_int_equal(expert_maps_open(&maps, &load, 1, 2), STATUS_OK);
    assert_int_equal(expert_map_copies(&maps[1], 2), 2);
    assert_int_equal(expert_map_copies(&maps[3], 0), 2);
    assert_int_equal(maps[0].n_slots + maps[2].n_slots, 0);
    assert_int_equal(maps[1].n_slots, 5);
    expert_maps_close(maps, 4);
    assert_int_equal(expert_maps_open(&maps, &load, EXPERT_SLOTS_MAX - 3, 2), STATUS_USAGE);
    expert_load_close(&load);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chosen_experts_are_counted_by_layer),
        cmocka_unit_test(a_model_without_routed_experts_has_no_loads),
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(each_layer_has_a_map_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
